"""What the two ends tell each other of a main mode that fails ([MS-IKEE] §2.2.6 and §3.1.5, note 12).

   initiator                               responder
1  HDR, SA, VID…                    ->
                                    <-     HDR, N(NO-PROPOSAL-CHOSEN), N(STATUS)        in clear
   …
5  HDR*, IDii, HASH_I               ->
                                    <-     HDR*, HASH(1), N(AUTHENTICATION-FAILED), N(STATUS)
"""

from dataclasses import replace

import pytest
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Network,
    Node,
    Packet,
    Policy,
    deliver,
    negotiation,
    two_hosts,
)

from stockade.ike.contract import ReportKind
from stockade.model.reasons import ReasonCode
from stockade.model.suites import Encryption, Group, Hash, MainModeProposal
from stockade.pki.access import AccessEntry, AccessKind, AccessList
from stockade.wire.isakmp.constants import ExchangeType, NotifyType
from stockade.wire.isakmp.message import HEADER_SIZE, decode_payloads
from stockade.wire.isakmp.payloads import NotificationPayload, microsoft_value
from stockade.wire.vendor_ids import MS_NT5_ISAKMPOAKLEY

NOBODY = AccessList((AccessEntry(True, AccessKind.COMPUTER, "10.9.0.77", ""),))
DES = MainModeProposal(Encryption.DES_CBC, Hash.MD5, Group.MODP_768)


def complaints(network: Network) -> list[Packet]:
    return [entry for entry in network.sent if entry.header.exchange_type == ExchangeType.INFORMATIONAL]


def notifications(packet: Packet) -> list[NotificationPayload]:
    payloads = decode_payloads(packet.header.next_payload, packet.send.datagram[HEADER_SIZE:])
    return [entry.payload for entry in payloads if isinstance(entry.payload, NotificationPayload)]


def not_microsoft(packet: Packet) -> list[tuple[float, bytes]]:
    other = bytes(16)
    return [(0.01, packet.send.datagram.replace(MS_NT5_ISAKMPOAKLEY, other))]


def test_no_common_method_is_told_in_windows_words_too() -> None:
    network, alpha, _ = two_hosts(negotiation(), negotiation(main=(DES,)))
    network.command(alpha, alpha.acquire(BETA))
    network.run(10)
    told = complaints(network)[0]
    assert not told.header.encrypted
    first, status = notifications(told)
    assert first.type == NotifyType.NO_PROPOSAL_CHOSEN
    value = microsoft_value(status)
    assert value is not None
    assert (value.value, value.message_id, status.spi) == (13868, None, b"")
    (failed,) = alpha.reported(ReportKind.MAIN_MODE_FAILED)
    assert failed.reason.code is ReasonCode.NO_PROPOSAL_CHOSEN
    assert ("windows_error", "13868") in failed.reason.facts


def test_a_host_without_a_rule_for_the_peer_says_so() -> None:
    network, alpha, beta = two_hosts()
    beta.policy.rule = None
    network.command(alpha, alpha.acquire(BETA))
    network.run(10)
    first, status = notifications(complaints(network)[0])
    assert first.type == NotifyType.NO_PROPOSAL_CHOSEN
    value = microsoft_value(status)
    assert value is not None
    assert value.value == ReasonCode.NO_POLICY.windows_code == 13825


def test_other_makers_get_the_notification_of_the_rfc_alone() -> None:
    network, alpha, _ = two_hosts(negotiation(), negotiation(main=(DES,)), fate=not_microsoft)
    network.command(alpha, alpha.acquire(BETA))
    network.run(10)
    (only,) = notifications(complaints(network)[0])
    assert only.type == NotifyType.NO_PROPOSAL_CHOSEN


VERSIONS = [8, 5, 3]


def hosts_of_version(one: int, other: int) -> tuple[Network, Node, Node]:
    rule = negotiation()
    alpha = Node(ALPHA, Policy(rule), config=replace(EXACT, microsoft_version=one))
    beta = Node(BETA, Policy(rule), config=replace(EXACT, microsoft_version=other))
    return Network([alpha, beta]), alpha, beta


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_message_5_is_told_under_the_keys_and_ends_the_wait(version: int) -> None:
    """Whatever version the responder takes us for, and so whichever block its IV is made of."""
    network, alpha, beta = hosts_of_version(version, 8)
    beta.engine.set_access(NOBODY, network.now)
    started = network.now
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, lambda: bool(alpha.reported(ReportKind.MAIN_MODE_FAILED)))
    assert network.now - started < 0.5
    (told,) = complaints(network)
    assert told.header.encrypted
    assert told.send.local.address == BETA
    (failed,) = alpha.reported(ReportKind.MAIN_MODE_FAILED)
    assert failed.reason.code is ReasonCode.AUTHENTICATION_FAILED
    assert any(name == "windows_error" for name, _ in failed.reason.facts)
    assert "the peer says" in failed.reason.detail


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_message_6_leaves_no_main_mode_at_the_responder(version: int) -> None:
    network, alpha, beta = hosts_of_version(8, version)
    alpha.engine.set_access(NOBODY, network.now)
    network.command(alpha, alpha.acquire(BETA))
    network.run(2)
    assert alpha.reported(ReportKind.MAIN_MODE_FAILED)
    assert beta.reported(ReportKind.MAIN_MODE_ESTABLISHED)
    assert complaints(network)[0].header.encrypted
    assert not beta.engine.main_modes(network.now)


def test_a_responder_of_another_maker_hears_of_a_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notification may mean nothing to it: the delete in the same message ends its main mode."""
    network, alpha, beta = two_hosts()
    alpha.engine.set_access(NOBODY, network.now)
    monkeypatch.setattr("stockade.ike.v1.informational.DISOWNS", ())
    network.command(alpha, alpha.acquire(BETA))
    network.run(2)
    assert beta.codes(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.SA_DELETED]
    assert not beta.engine.main_modes(network.now)


def test_to_other_makers_the_reason_and_the_delete_are_messages_of_their_own() -> None:
    """strongSwan reads no further than to an error notification, and would keep its main mode."""
    sizes = {}
    for fate in (deliver, not_microsoft):
        network, alpha, beta = two_hosts(fate=fate)
        alpha.engine.set_access(NOBODY, network.now)
        network.command(alpha, alpha.acquire(BETA))
        network.run(10)
        sizes[fate] = [len(packet.send.datagram) for packet in complaints(network)]
        assert not beta.engine.main_modes(network.now)
    together, (reason, *deletes) = sizes[deliver], sizes[not_microsoft]
    assert len(together) == len(deletes) == 3
    assert max(reason, *deletes) < min(together)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_delete_is_told_again(lost: int) -> None:
    network, alpha, beta = two_hosts()
    alpha.engine.set_access(NOBODY, network.now)

    def lose(packet: Packet) -> list[tuple[float, bytes]]:
        return [] if packet in complaints(network)[:lost] else deliver(packet)

    network.fate = lose
    network.command(alpha, alpha.acquire(BETA))
    network.run(0.5)
    assert beta.engine.main_modes(network.now), "it cannot know yet"
    network.run(5)
    assert not beta.engine.main_modes(network.now)
    network.run(60)
    assert len(complaints(network)) == 3


def test_another_pre_shared_key_is_told_in_clear() -> None:
    """Under its own keys the other end could not read it."""
    network, alpha, _ = two_hosts(negotiation(), negotiation(key=b"another"))
    network.command(alpha, alpha.acquire(BETA))
    network.run(40)
    assert complaints(network)
    assert not any(packet.header.encrypted for packet in complaints(network))
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH]


def test_a_forged_complaint_under_other_keys_fails_nothing_at_once() -> None:
    network, alpha, beta = two_hosts()

    def spoil(packet: Packet) -> list[tuple[float, bytes]]:
        if packet.header.exchange_type != ExchangeType.INFORMATIONAL:
            return deliver(packet)
        datagram = bytearray(packet.send.datagram)
        datagram[HEADER_SIZE + 20] ^= 1
        return [(0.01, bytes(datagram))]

    beta.engine.set_access(NOBODY, network.now)
    network.fate = spoil
    network.command(alpha, alpha.acquire(BETA))
    network.run(1)
    assert not alpha.reported(ReportKind.MAIN_MODE_FAILED)
    assert network.run(3, lambda: bool(alpha.reported(ReportKind.MAIN_MODE_FAILED)))
