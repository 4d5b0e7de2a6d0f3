"""What `netsh ipsec dynamic set config` says, as the agent acts on it.

| property | acts on | when |
| --- | --- | --- |
| ipsecexempt | the exemptions of the filter table | at once |
| strongcrlcheck | certificates of peers; outweighs `agent.toml` | the next negotiation |
| ikelogging | the log of the key exchange | at once |
| ipsecdiagnostics | which refused packets the journal names one by one | at once |
| ipsecloginterval | how often it sums up the others | at once |
| bootmode, bootexemptions | the boot filters | the next start |
| nlbsidle, nlbsidletime, nlbsqmretransmitduration | quick modes with a cluster | the next negotiation |
| nlbsflags | what this host says of itself | the next negotiation |
| deadpeertime | when a silent peer is asked, and given up; outweighs `agent.toml` | the next negotiation |
| assumeudpencapsulationcontextonsendrule | which ends may be behind a NAT | the next negotiation |
| simplepolicyupdate | the fall-back time of rules with `soft`: 500 ms | the next negotiation |

All of them are kept in the local store. A value that does not fit is STORE_UNREADABLE with the setting's
name: a damaged setting never turns into a default.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from stockade.ike.config import EngineConfig, NatScope
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.policy.boot import BootExemption, BootMode, parse_exemptions
from stockade.policy.exemptions import DEFAULT_EXEMPT_LEVEL
from stockade.store.local import LocalStore

DIAGNOSTICS_ALL = 7
DEFAULT_LOG_INTERVAL = 3600
FIRST_WITH_ONE_SWITCH = 5  # Windows Vista
SIMPLE_POLICY_FALLBACK = 0.5
"""Seconds (KB 914841)."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """Times in seconds; None: not set. `ever_assigned`: whether a policy is assigned, which is what the
    default of the boot mode asks for."""

    exempt_level: int = DEFAULT_EXEMPT_LEVEL
    strong_crl_check: int | None = None
    ike_logging: bool = False
    diagnostics: int = DIAGNOSTICS_ALL
    log_interval: int = DEFAULT_LOG_INTERVAL
    boot_mode: BootMode | None = None
    boot_exemptions: tuple[BootExemption, ...] = ()
    cluster_idle: bool = False
    cluster_node: bool = False
    dead_peer_seconds: int | None = None
    cluster_idle_seconds: int | None = None
    cluster_quick_mode_seconds: int | None = None
    simple_policy: bool = False
    nat_scope: NatScope = NatScope.INITIATOR
    ever_assigned: bool = False


Value = TypeVar("Value")


def read_service_settings(store: LocalStore, *, ever_assigned: bool) -> ServiceSettings:
    """HostError STORE_UNREADABLE."""

    def get(name: str, read: Callable[[str], Value], default: Value) -> Value:
        text = store.get_setting(name)
        if text is None:
            return default
        try:
            return read(text)
        except (ValueError, StockadeError):
            raise error_for(
                ReasonCode.STORE_UNREADABLE, f"setting {name} does not fit", setting=name
            ) from None

    return ServiceSettings(
        exempt_level=get("ipsecexempt", _within(0, 3), DEFAULT_EXEMPT_LEVEL),
        strong_crl_check=get("strongcrlcheck", _within_or_none(0, 2), None),
        ike_logging=bool(get("ikelogging", _within(0, 1), 0)),
        diagnostics=get("ipsecdiagnostics", _within(0, 7), DIAGNOSTICS_ALL),
        log_interval=get("ipsecloginterval", _within(60, 86_400), DEFAULT_LOG_INTERVAL),
        boot_mode=get("bootmode", _boot_mode, None),
        boot_exemptions=get("bootexemptions", parse_exemptions, ()),
        cluster_idle=bool(get("nlbsidle", _within(0, 1), 0)),
        cluster_node=bool(get("nlbsflags", _within(0, 1), 0)),
        dead_peer_seconds=get("deadpeertime", _zero_or(5, 3600), 0) or None,
        cluster_idle_seconds=get("nlbsidletime", _zero_or(5, 60), 0) or None,
        cluster_quick_mode_seconds=get("nlbsqmretransmitduration", _within_or_none(3, 60), None),
        nat_scope=NatScope(get("assumeudpencapsulationcontextonsendrule", _within(0, 2), 0)),
        simple_policy=bool(get("simplepolicyupdate", _within(0, 1), 0)),
        ever_assigned=ever_assigned,
    )


def with_asked(config: EngineConfig, asked: ServiceSettings) -> EngineConfig:
    """The engine's settings with what was asked for. Windows 2003 (and what says it is: the version in the
    vendor id) has two switches for the hotfix of KB 980915, Vista and later have one."""
    on = asked.cluster_idle or config.microsoft_version >= FIRST_WITH_ONE_SWITCH
    changes: dict[str, float] = {}
    if asked.cluster_idle_seconds is not None and on:
        changes["failover_idle_seconds"] = float(asked.cluster_idle_seconds)
    if asked.cluster_quick_mode_seconds is not None:
        changes["failover_quick_seconds"] = float(asked.cluster_quick_mode_seconds)
    if asked.dead_peer_seconds is not None:
        changes["notice_seconds"] = float(asked.dead_peer_seconds)
    if asked.cluster_node:
        config = replace(config, advertise_cluster=True)
    if config.nat_scope is not asked.nat_scope:
        config = replace(config, nat_scope=asked.nat_scope)
    return replace(config, **changes)  # type: ignore[arg-type]  # all of them are numbers


def _zero_or(least: int, most: int) -> Callable[[str], int]:
    within = _within(least, most)
    return lambda text: 0 if text == "0" else within(text)


def _within(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError(text)
        return number

    return read


def _within_or_none(least: int, most: int) -> Callable[[str], int | None]:
    return _within(least, most)


def _boot_mode(text: str) -> BootMode | None:
    return BootMode(text)
