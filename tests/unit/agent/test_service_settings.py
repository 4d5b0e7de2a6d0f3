"""`set config`, from the store to what acts."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.agent.diagnostics import ERRORS, INBOUND, PacketLog
from stockade.agent.service_settings import ServiceSettings, read_service_settings, with_asked
from stockade.driver.contract import PacketRefused
from stockade.ike.config import EngineConfig, NatScope
from stockade.model.reasons import HostError, Reason, ReasonCode
from stockade.netsh.config import PROPERTIES
from stockade.policy.boot import BootMode
from stockade.store.local import LocalStore


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "policy.db")


def test_defaults_and_every_property(store):
    assert read_service_settings(store, ever_assigned=False) == ServiceSettings()
    values = {
        "ipsecdiagnostics": "3",
        "ikelogging": "1",
        "strongcrlcheck": "2",
        "ipsecloginterval": "60",
        "ipsecexempt": "0",
        "bootmode": "block",
        "bootexemptions": "tcp:0:3389:inbound",
        "nlbsidle": "1",
        "nlbsflags": "1",
        "deadpeertime": "10",
        "nlbsidletime": "30",
        "nlbsqmretransmitduration": "5",
        "simplepolicyupdate": "1",
        "assumeudpencapsulationcontextonsendrule": "2",
    }
    assert values.keys() <= {entry.name for entry in PROPERTIES}
    for name, value in values.items():
        store.put_setting(name, value)
    read = read_service_settings(LocalStore(store.path), ever_assigned=True)  # as after a restart
    assert (read.diagnostics, read.ike_logging, read.strong_crl_check, read.log_interval) == (3, True, 2, 60)
    assert (read.exempt_level, read.boot_mode, read.simple_policy) == (0, BootMode.BLOCK, True)
    assert [str(one) for one in read.boot_exemptions] == ["tcp:0:3389:inbound"]
    assert (read.cluster_idle_seconds, read.cluster_quick_mode_seconds) == (30, 5)
    vista = with_asked(EngineConfig(), read)
    assert (vista.failover_idle_seconds, vista.failover_quick_seconds) == (30, 5)
    assert (vista.notice_seconds, vista.advertise_cluster) == (10, True)
    assert vista.nat_scope is NatScope.BOTH
    assert with_asked(vista, ServiceSettings()).nat_scope is NatScope.INITIATOR


def test_windows_2003_needs_both_switches_for_the_hotfix():
    server_2003 = EngineConfig(microsoft_version=4)
    one = ServiceSettings(cluster_idle_seconds=5)
    assert with_asked(server_2003, one).failover_idle_seconds is None
    assert with_asked(server_2003, replace(one, cluster_idle=True)).failover_idle_seconds == 5
    assert with_asked(EngineConfig(), one).failover_idle_seconds == 5
    assert with_asked(EngineConfig(), ServiceSettings(cluster_idle=True)).failover_idle_seconds is None


def test_every_property_of_netsh_has_its_default_here(store):
    """What `show config` prints where nothing is set is what the agent does."""
    unset = read_service_settings(store, ever_assigned=True)
    for entry in PROPERTIES:
        if entry.name not in ("strongcrlcheck", "bootmode", "nlbsqmretransmitduration"):  # None: elsewhere
            store.put_setting(entry.name, entry.default)
    assert read_service_settings(store, ever_assigned=True) == unset


@pytest.mark.parametrize(("name", "value"), [("ipsecexempt", "4"), ("ipsecdiagnostics", "x"),
                                             ("bootmode", "open"), ("bootexemptions", "tcp:1")])  # fmt: skip
def test_a_damaged_value_never_turns_into_a_default(store, name, value):
    store.put_setting(name, value)
    with pytest.raises(HostError) as refusal:
        read_service_settings(store, ever_assigned=False)
    assert name in str(refusal.value)


def refused(code, count=1):
    return PacketRefused(Reason.of(code), ip_address("10.0.0.2"), ip_address("10.0.0.1"), 0, count)


def test_the_mask_says_what_is_told_at_once_and_the_rest_is_summed_up():
    log = PacketLog()
    assert log.is_told(refused(ReasonCode.CLEAR_DROPPED), 0.0)
    assert log.next_due() is None
    log.set(ERRORS, 60.0, 0.0)
    assert log.is_told(refused(ReasonCode.UNKNOWN_SPI), 1.0)
    assert not log.is_told(refused(ReasonCode.CLEAR_DROPPED, 3), 1.0)
    assert not log.is_told(refused(ReasonCode.CLEAR_DROPPED, 4), 2.0)
    assert not log.is_told(refused(ReasonCode.QUEUE_FULL), 2.0)
    assert log.take_due(60.0) == []
    entries = {entry.reason.code: dict(entry.fields)["count"] for entry in log.take_due(61.0)}
    assert entries == {ReasonCode.CLEAR_DROPPED: "7", ReasonCode.QUEUE_FULL: "1"}
    assert log.take_due(1000.0) == []
    log.set(INBOUND, 60.0, 0.0)
    assert log.is_told(refused(ReasonCode.SELECTOR_MISMATCH), 5.0)
    assert not log.is_told(refused(ReasonCode.REPLAYED), 5.0)
