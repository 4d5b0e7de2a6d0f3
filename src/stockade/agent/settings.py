"""The agent's own settings: `agent.toml` in /etc/stockade, or in the home folder with `--home`.

    driver = "auto"               # or "kernel" or "userspace"
    no_offload = []               # by the names of `stockade doctor`

    [ike]
    microsoft_version = 8         # the Windows release that our vendor id names: 2 (2000) to 9 (8 and 2012)
    advertise_cluster = false     # send NLBS_PRESENT: peers give up idle quick modes after 60 s
    idle_seconds = 300            # quick modes unused for so long are removed (SAIdleTime: 300 to 3600)
    dead_peer_seconds = 20        # notice a dead peer within so long, 5 to 3600 (`set config deadpeertime`
                                  # outweighs it); unset: 20 where it can be asked, else as Windows does
    replay_window = 64            # packets, 32 to 4096
    nat_keepalive_seconds = 20    # behind a NAT, so often a word that keeps its mapping, 1 to 300
    nat_traversal = true          # RFC 3947: detect NATs, put ESP into UDP where there is one
    fetch_revocation_lists = true # from the http addresses that certificates name
    strong_crl_check = 1          # 0 not asked, 1 the revoked is refused, 2 also what cannot be checked

    [kerberos]
    keytab = "/etc/krb5.keytab"   # the host's keys
    principal = ""                # which of its principals peers use; empty: host/…, else COMPUTER$

    [directory]
    domain = ""                   # policies of this Active Directory domain; empty: none
    computer = ""                 # DN of this computer; empty: the account of the keytab
    controllers = []              # host names of domain controllers; empty: those that DNS names
    refresh_seconds = 5400        # how often group policy is looked at, 2 to 604800
    jitter_seconds = 1800         # and up to so much later, 0 to 86400

    [host]                        # in place of what resolv.conf, leases and routes say
    dns_servers = ["10.0.0.53"]   # also wins_servers, dhcp_servers, gateways
    name_refresh_seconds = 60     # DNS names in filters are looked up so often, 5 to 86400

    [soft]                        # rules with "soft": clear traffic with peers without IPsec
    when = "any-failure"          # or "no-answer": only where a peer says nothing at all
    idle_seconds = 300            # clear traffic ends when nothing passed for so long, 30 to 86400
    negotiation_discovery = false # in clear at once, until it is secured; never again in clear after that

    [metrics]
    listen = "127.0.0.1:9495"     # /metrics for Prometheus; without it only the local API has it

    [web]
    serve = true                  # the web console, where web.toml says: on loopback by default

    [events]                      # where events go beside the journal: see `output_settings.py`

    [cluster]                     # several nodes behind one address: see `cluster_settings.py`

What traffic is secured is policy and not here. A file that cannot be read, an unknown key or a value out of
range stops the start with the key and its range: an agent must not run with settings that nobody asked for.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.agent.domain_settings import DomainSettings
from stockade.agent.host_facts import HostSettings
from stockade.agent.names import REFRESH_SECONDS
from stockade.agent.soft import SoftSettings, SoftWhen
from stockade.ike.config import NOTICE_RANGE, EngineConfig
from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.pki.chain import ChainRules
from stockade.pki.revocation import RevocationCheck
from stockade.policy.objects import check_name

if TYPE_CHECKING:
    from stockade.agent.output_settings import OutputSettings
    from stockade.cluster.settings import ClusterSettings

DEFAULT_DRIVER = "auto"
DEFAULT_KEYTAB = Path("/etc/krb5.keytab")
_RANGES = {
    "microsoft_version": (2, 9),
    "idle_seconds": (300, 3600),
    "dead_peer_seconds": NOTICE_RANGE,
    "nat_keepalive_seconds": (1, 300),
    "replay_window": (32, 4096),
    "strong_crl_check": (0, 2),
}
_SWITCHES = frozenset({"nat_traversal", "advertise_cluster", "fetch_revocation_lists"})
_SERVERS = ("dns_servers", "wins_servers", "dhcp_servers", "gateways")
_HOST_RANGES = {"name_refresh_seconds": (5, 86_400)}
_DIRECTORY_RANGES = {"refresh_seconds": (2, 604_800), "jitter_seconds": (0, 86_400)}
_SOFT_RANGES = {"idle_seconds": (30, 86_400)}


@dataclass(frozen=True, slots=True)
class KerberosSettings:
    """Where this host's keys are; `principal` empty: the host's one in the keytab."""

    keytab: Path = DEFAULT_KEYTAB
    principal: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `agent.toml` says, or the defaults."""

    driver: str = DEFAULT_DRIVER
    ike: EngineConfig = field(default_factory=EngineConfig)
    chains: ChainRules = field(default_factory=ChainRules)
    kerberos: KerberosSettings = field(default_factory=KerberosSettings)
    directory: DomainSettings = field(default_factory=DomainSettings)
    host: HostSettings = field(default_factory=HostSettings)
    name_refresh_seconds: float = REFRESH_SECONDS
    soft: SoftSettings = field(default_factory=SoftSettings)
    fetch_revocation_lists: bool = True
    without: frozenset[str] = frozenset()
    cluster: "ClusterSettings | None" = None
    outputs: "OutputSettings | None" = None
    """None: events and figures are asked for and not sent."""
    serve_web: bool = True


def read_settings(path: Path) -> Settings:
    """The settings in `path`; the defaults if there is no such file. Errors: INVALID_SETTING."""
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise _invalid(path, str(error)) from error
    driver = content.pop("driver", DEFAULT_DRIVER)
    without = _offloads(path, content.pop("no_offload", []))
    ike = _table(path, content, "ike", {*_RANGES, *_SWITCHES})
    host = _table(path, content, "host", {*_SERVERS, *_HOST_RANGES})
    soft = _table(path, content, "soft", {"when", "negotiation_discovery", *_SOFT_RANGES})
    directory = _directory(path, content)
    kerberos = _kerberos(path, content.pop("kerberos", {}))
    cluster = _cluster(path, content.pop("cluster", None))
    outputs = _outputs(path, content.pop("events", None), content.pop("metrics", None))
    web = _table(path, content, "web", {"serve"})
    if content:
        known = "driver, no_offload, [ike], [kerberos], [directory], [host], [soft], [metrics], [web], "
        known += "[events] and [cluster]"
        raise _invalid(path, f"unknown key {next(iter(content))!r}; known are {known}")
    if not isinstance(driver, str):
        raise _invalid(path, "driver must be text")
    default = EngineConfig()
    return Settings(
        driver,
        replace(
            default,
            microsoft_version=_number(path, ike, "microsoft_version", default.microsoft_version),
            advertise_cluster=_switch(path, ike, "advertise_cluster", cluster is not None),
            nat_traversal=_switch(path, ike, "nat_traversal", default.nat_traversal),
            keepalive_seconds=float(
                _number(path, ike, "nat_keepalive_seconds", int(default.keepalive_seconds))
            ),
            idle_seconds=float(_number(path, ike, "idle_seconds", int(default.idle_seconds))),
            notice_seconds=(
                float(_number(path, ike, "dead_peer_seconds", 0)) if "dead_peer_seconds" in ike else None
            ),
            replay_window=_number(path, ike, "replay_window", default.replay_window),
        ),
        ChainRules(RevocationCheck(_number(path, ike, "strong_crl_check", RevocationCheck.REVOKED_ONLY))),
        kerberos,
        directory,
        HostSettings(*(_servers(path, host, key) for key in _SERVERS)),
        float(_number(path, host, "name_refresh_seconds", int(REFRESH_SECONDS), "host", _HOST_RANGES)),
        SoftSettings(
            idle_seconds=float(
                _number(path, soft, "idle_seconds", int(SoftSettings().idle_seconds), "soft", _SOFT_RANGES)
            ),
            when=_soft_when(path, soft),
            discovery=_switch(path, soft, "negotiation_discovery", False, "soft"),
        ),
        fetch_revocation_lists=_switch(path, ike, "fetch_revocation_lists", True),
        without=without,
        cluster=cluster,
        outputs=outputs,
        serve_web=_switch(path, web, "serve", True, "web"),
    )


def _cluster(path: Path, table: object) -> "ClusterSettings | None":
    if table is None:
        return None
    from stockade.agent.cluster_settings import read_cluster  # only nodes of a cluster need it

    return read_cluster(path, table)


def _outputs(path: Path, events: object, metrics: object) -> "OutputSettings | None":
    if events is None and metrics is None:
        return None
    from stockade.agent.output_settings import read_outputs

    return read_outputs(path, events, metrics)


def _offloads(path: Path, value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise _invalid(path, f"no_offload must be a list of names, not {value!r}")
    if not value:
        return frozenset()
    from stockade.driver.userspace.offloads import read_offloads  # loads what only that data plane needs

    try:
        return read_offloads(map(str, value))
    except StockadeError as error:
        raise _invalid(path, f"no_offload: {error.reason.detail}") from None


def _table(path: Path, content: dict[str, object], name: str, known: set[str]) -> Mapping[str, object]:
    """Take a table out of the file's content; INVALID_SETTING for what it must not hold."""
    table = content.pop(name, {})
    if not isinstance(table, dict):
        raise _invalid(path, f"{name} must be a table, written [{name}]")
    if not known >= table.keys():
        named = ", ".join(sorted(known))
        raise _invalid(path, f"unknown key {name}.{next(iter(table.keys() - known))}; known are {named}")
    return table


def _servers(path: Path, table: Mapping[str, object], key: str) -> tuple[Address, ...] | None:
    if key not in table:
        return None
    value = table[key]
    problem = _invalid(path, f"host.{key} must be a list of addresses, not {value!r}")
    if not isinstance(value, list):
        raise problem
    try:
        return tuple(ip_address(str(entry)) for entry in value)
    except ValueError:
        raise problem from None


def _soft_when(path: Path, table: Mapping[str, object]) -> SoftWhen:
    value = table.get("when", SoftWhen.ANY_FAILURE.value)
    try:
        return SoftWhen(str(value))
    except ValueError:
        words = " or ".join(SoftWhen)
        raise _invalid(path, f"soft.when must be {words}, not {value!r}") from None


def _directory(path: Path, content: dict[str, object]) -> DomainSettings:
    texts = ("domain", "computer", "security", "authority", "user", "password_file")
    known = {*texts, "controllers", *_DIRECTORY_RANGES}
    table = _table(path, content, "directory", known)
    default = DomainSettings()
    given = {name: table.get(name, getattr(default, name)) for name in texts}
    controllers = table.get("controllers", [])
    if not all(isinstance(one, str) for one in given.values()):
        raise _invalid(path, f"directory.{', directory.'.join(texts)} must be text")
    said = {name: str(value) for name, value in given.items()}
    domain = said["domain"]
    if said["security"] not in ("gssapi", "ldaps", "starttls"):
        raise _invalid(path, "directory.security must be gssapi, ldaps or starttls")
    if bool(said["user"]) != bool(said["password_file"]):
        raise _invalid(path, "directory.user and directory.password_file go together")
    if said["user"] and said["security"] == "gssapi":
        raise _invalid(path, "directory.user binds with a password, which goes over ldaps or starttls only")
    if not isinstance(controllers, list) or not all(isinstance(one, str) for one in controllers):
        raise _invalid(path, "directory.controllers must be a list of host names")
    try:
        for name in [*([domain] if domain else []), *controllers]:
            check_name(name)
    except ValueError as error:
        raise _invalid(path, f"directory: {error}") from None
    refresh, jitter = (
        float(_number(path, table, key, int(value), "directory", _DIRECTORY_RANGES))
        for key, value in (("refresh_seconds", default.refresh), ("jitter_seconds", default.jitter))
    )
    # A shorter refresh shortens the schedule after failures as well.
    first_retry = min(default.first_retry, refresh)
    return DomainSettings(
        controllers=tuple(controllers), refresh=refresh, jitter=jitter, first_retry=first_retry, **said
    )


def _kerberos(path: Path, table: object) -> KerberosSettings:
    if not isinstance(table, dict):
        raise _invalid(path, "kerberos must be a table, written [kerberos]")
    unknown = table.keys() - {"keytab", "principal"}
    if unknown:
        raise _invalid(path, f"unknown key kerberos.{next(iter(unknown))}; known are keytab, principal")
    keytab, principal = table.get("keytab", str(DEFAULT_KEYTAB)), table.get("principal", "")
    if not isinstance(keytab, str) or not isinstance(principal, str):
        raise _invalid(path, "kerberos.keytab and kerberos.principal must be text")
    if not Path(keytab).is_absolute():
        raise _invalid(path, "kerberos.keytab must be an absolute path")
    return KerberosSettings(Path(keytab), principal)


def _number(
    path: Path,
    table: Mapping[str, object],
    key: str,
    default: int,
    name: str = "ike",
    ranges: Mapping[str, tuple[int, int]] = _RANGES,
) -> int:
    value = table.get(key, default)
    low, high = ranges[key]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _invalid(path, f"{name}.{key} must be a number from {low} to {high}, not {value!r}")
    return value


def _switch(path: Path, table: Mapping[str, object], key: str, default: bool, name: str = "ike") -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise _invalid(path, f"{name}.{key} must be true or false, not {value!r}")
    return value


def _invalid(path: Path, detail: str) -> StockadeError:
    return error_for(ReasonCode.INVALID_SETTING, detail, file=path)
