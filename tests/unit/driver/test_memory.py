"""The memory driver: classification in both directions, and the protocol's promises."""

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import pytest

from stockade.driver.contract import Acquire, Driver, PacketRefused
from stockade.driver.limits import check_table, software_capabilities
from stockade.driver.memory import MemoryDriver
from stockade.model.filters import Direction, FilterTable
from stockade.model.negotiation import Mode
from stockade.model.reasons import CallerError, HostError, Reason, ReasonCode
from stockade.model.sa import UdpEncapsulation
from stockade.model.suites import Encryption, EspSuite, Gmac, Hash, QuickModeProposal


class Host:
    def __init__(self) -> None:
        self.wire: list[bytes] = []
        self.stack: list[bytes] = []
        self.driver = MemoryDriver(self.wire.append, self.stack.append)
        self.driver.start()


@pytest.fixture
def host() -> Host:
    return Host()


def test_it_is_a_driver(host: Host) -> None:
    driver: Driver = host.driver
    assert driver.capabilities.name == "memory"
    assert driver.fileno() == -1


def test_the_empty_table_permits_everything(host: Host, hosts: SimpleNamespace) -> None:
    host.driver.outbound(hosts.tcp(), 0.0)
    host.driver.inbound(hosts.udp(), 0.0)
    assert (host.wire, host.stack) == ([hosts.tcp()], [hosts.udp()])


def test_the_first_filter_decides_in_both_directions(host: Host, hosts: SimpleNamespace) -> None:
    host.driver.install_filters(hosts.make_table(("block", 6, 23), ("permit", 6, 22), ("negotiate", 6, 0)))
    for port in (23, 22, 80):
        host.driver.outbound(hosts.tcp(port=port), 0.0)
        host.driver.inbound(hosts.tcp(port=port), 0.0)
    assert host.wire == [hosts.tcp(port=22)]
    assert host.stack == [hosts.tcp(port=22)]
    acquire, refused = host.driver.events()
    assert isinstance(acquire, Acquire)
    assert acquire.flow.destination_port == 80
    assert isinstance(refused, PacketRefused)
    assert refused.reason.code is ReasonCode.CLEAR_DROPPED
    counted = {entry.filter_id[:8]: 0 for entry in host.driver.statistics().filters}
    for entry in host.driver.statistics().filters:
        counted[entry.filter_id[:8]] += entry.packets
    assert counted == {"00000000": 2, "00000001": 2, "00000002": 2}


def test_clear_comes_in_where_the_rule_accepts_it(host: Host, hosts: SimpleNamespace) -> None:
    host.driver.install_filters(hosts.make_table(("negotiate", 0, 0), accept_clear=True))
    host.driver.inbound(hosts.tcp(), 0.0)
    host.driver.outbound(hosts.tcp(), 0.0)
    assert host.stack == [hosts.tcp()]
    assert host.wire == []


def test_two_drivers_talk(hosts: SimpleNamespace) -> None:
    one, other = Host(), Host()
    sa = hosts.make_sa()
    for side in (one, other):
        side.driver.install_filters(hosts.make_table(("negotiate", 0, 0)))
    one.driver.outbound(hosts.ping(), 0.0)
    other.driver.add_sa(hosts.mirror(sa))
    one.driver.add_sa(sa)
    (sealed,) = one.wire
    other.driver.inbound(sealed, 0.1)
    other.driver.inbound(sealed, 0.2)
    assert other.stack == [hosts.ping()]
    assert [event.reason.code for event in other.driver.events()] == [ReasonCode.REPLAYED]


def test_spis_are_random_free_and_not_reserved(hosts: SimpleNamespace) -> None:
    numbers = iter([7, 255, 256, 256, 256, 0x5000, 0x5000, 0x6000])
    driver = MemoryDriver(print, print, random=lambda size: next(numbers).to_bytes(size, "big"))
    driver.start()
    assert driver.get_spi(hosts.ALPHA, hosts.BETA) == 256
    driver.add_sa(hosts.mirror(hosts.make_sa(spi=256)))
    assert driver.get_spi(hosts.ALPHA, hosts.BETA) == 0x5000
    assert driver.get_spi(hosts.ALPHA, hosts.BETA) == 0x6000


def test_no_spi_is_an_error_and_no_endless_loop(hosts: SimpleNamespace) -> None:
    driver = MemoryDriver(print, print, random=bytes)
    with pytest.raises(HostError) as caught:
        driver.get_spi(hosts.ALPHA, hosts.BETA)
    assert caught.value.reason.code is ReasonCode.NO_SPI


def test_stop_opens_or_keeps_closed_as_asked(host: Host, hosts: SimpleNamespace) -> None:
    host.driver.install_filters(hosts.make_table(("block", 6, 23), ("negotiate", 6, 0)))
    host.driver.stop(keep_filters=True)
    for port in (23, 80):
        host.driver.outbound(hosts.tcp(port=port), 0.0)
        host.driver.inbound(hosts.tcp(port=port), 0.0)
    assert (host.wire, host.stack) == ([], [])
    host.driver.stop()
    host.driver.outbound(hosts.tcp(port=23), 0.0)
    assert host.wire == [hosts.tcp(port=23)]


def test_after_a_stop_the_sas_are_gone(host: Host, hosts: SimpleNamespace) -> None:
    host.driver.install_filters(hosts.make_table(("negotiate", 0, 0)))
    host.driver.add_sa(hosts.make_sa())
    host.driver.stop(keep_filters=True)
    host.driver.start()
    host.driver.outbound(hosts.tcp(), 0.0)
    assert host.wire == []
    assert host.driver.statistics().sas == ()


def test_release_is_for_one_filter_and_peer(host: Host, hosts: SimpleNamespace) -> None:
    host.driver.install_filters(hosts.make_table(("negotiate", 0, 0)))
    host.driver.outbound(hosts.tcp(), 0.0)
    (event,) = host.driver.events()
    assert isinstance(event, Acquire)
    reason = Reason.of(ReasonCode.NEGOTIATION_TIMED_OUT)
    host.driver.release(event.filter_id, hosts.ALPHA, reason)
    assert host.driver.statistics().held_packets == 1
    host.driver.release(event.filter_id, hosts.BETA, reason)
    assert host.driver.statistics().held_packets == 0


def with_proposals(table: FilterTable, *proposals: QuickModeProposal, **values: object) -> FilterTable:
    negotiation = table.negotiations["rule"]
    quick_mode = replace(negotiation.quick_mode, proposals=proposals, **values)
    return replace(
        table, negotiations=MappingProxyType({"rule": replace(negotiation, quick_mode=quick_mode)})
    )


def test_what_the_driver_lacks_is_refused_whole_with_the_rules_name(
    host: Host, hosts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = hosts.make_table(("negotiate", 0, 0))
    host.driver.install_filters(hosts.make_table(("block", 0, 0)))
    bad = hosts.make_table(("negotiate", 0, 0), version=6)
    monkeypatch.setattr(
        MemoryDriver, "capabilities", software_capabilities("memory", ip_versions=frozenset({4}))
    )
    over_ipv6 = {"mode": Mode.TUNNEL, "tunnel_endpoint": hosts.BETA6}
    tunnel = with_proposals(good, QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)), **over_ipv6)
    with pytest.raises(CallerError, match="rule 0"):
        host.driver.install_filters(tunnel)
    with pytest.raises(CallerError, match="rule 0") as caught:
        host.driver.install_filters(bad)
    assert caught.value.reason.code is ReasonCode.DRIVER_LACKS
    host.driver.outbound(hosts.tcp(), 0.0)
    assert host.wire == []


@pytest.mark.parametrize(
    "method",
    [
        *(QuickModeProposal(EspSuite(entry, None)) for entry in Encryption if entry.is_aead),
        *(QuickModeProposal(ah=entry) for entry in (*Hash, *Gmac)),
    ],
    ids=str,
)
def test_a_suite_that_a_data_plane_lacks_is_refused_with_its_name_and_the_rules(
    hosts: SimpleNamespace, method: QuickModeProposal
) -> None:
    table = with_proposals(hosts.make_table(("negotiate", 0, 0)), method)
    has = software_capabilities("software")
    check_table(table, has)
    wanted = method.ah if method.esp is None else method.esp.encryption
    lacks = replace(has, encryptions=has.encryptions - {wanted}, integrities=has.integrities - {wanted})
    with pytest.raises(CallerError, match=f"no .*{wanted}.*rule 0"):
        check_table(table, lacks)


def test_extended_sequence_numbers_that_a_data_plane_lacks_are_refused_with_the_rules_name(
    hosts: SimpleNamespace,
) -> None:
    method = QuickModeProposal(ah=Hash.SHA1, extended_sequence=True)
    table = with_proposals(hosts.make_table(("negotiate", 0, 0)), method)
    has = software_capabilities("software")
    check_table(table, has)
    with pytest.raises(CallerError, match=r"no extended sequence numbers.*rule 0"):
        check_table(table, replace(has, extended_sequence=False))


def test_a_data_plane_without_a_choice_of_protocols_gets_the_methods_of_the_first_one(
    hosts: SimpleNamespace,
) -> None:
    """Windows' predefined policies leave it open whether ESP or AH secures their traffic."""
    esp = QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1))
    short = replace(esp, lifetime_seconds=60)
    ah = QuickModeProposal(ah=Hash.SHA1)
    both = QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, None), ah=Hash.SHA1)
    table = with_proposals(hosts.make_table(("negotiate", 0, 0)), esp, ah, short, both)
    (negotiation,) = table.negotiations.values()
    has = software_capabilities("software")
    assert has.narrow(negotiation) == (negotiation, "")
    lacks = replace(has, name="other", protocol_choice=False)
    narrow, text = lacks.narrow(negotiation)
    assert narrow.quick_mode.proposals == (esp, short)
    assert text.endswith("the other data plane cannot: only methods with ESP are used")
    assert lacks.narrow(narrow) == (narrow, "")


def test_an_sa_beyond_the_capabilities_is_refused(host: Host, hosts: SimpleNamespace) -> None:
    for values in (
        {"udp": UdpEncapsulation(4501, 4500)},
        {"esp": None, "ah": Hash.SHA1},  # with a key of another size
        {"esp": EspSuite(Encryption.AES_CBC_128, None)},
    ):
        with pytest.raises(CallerError):
            host.driver.add_sa(hosts.make_sa(**values))
    assert host.driver.statistics().sas == ()


def test_removing_an_unknown_sa_is_no_error(host: Host, hosts: SimpleNamespace) -> None:
    host.driver.remove_sa(0x1234, Direction.INBOUND, hosts.BETA)
