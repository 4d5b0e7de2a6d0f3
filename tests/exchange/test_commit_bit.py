"""The commit bit (RFC 2408 §3.1): the initiator of a quick mode waits for the responder's CONNECTED.

   initiator                                        responder
1  HDR*, HASH(1), SA, Ni                     ->
2                              <-  HDR*[commit], HASH(2), SA, Nr        in
   in
3  HDR*, HASH(3)   (repeated until 4 comes)  ->                         out
4                              <-  HDR*, HASH(4), N(CONNECTED)
   out
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
    assert_matching,
    chaos,
    deliver,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import ReportKind
from stockade.ike.v1.exchange import Conversation
from stockade.model.filters import Direction
from stockade.model.reasons import ReasonCode
from stockade.wire.isakmp.constants import ExchangeType, NotifyType
from stockade.wire.isakmp.payloads import NotificationPayload, Payload


def quick_mode_packets(network: Network) -> list[Packet]:
    return [packet for packet in network.sent if packet.header.exchange_type == ExchangeType.QUICK_MODE]


def test_four_messages_and_the_bit_in_the_second() -> None:
    network, alpha, beta = two_hosts()
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta))
    packets = quick_mode_packets(network)
    assert [packet.send.local.address for packet in packets] == [ALPHA, BETA, ALPHA, BETA]
    assert [packet.header.commit for packet in packets] == [False, True, False, False]
    assert len({packet.header.message_id for packet in packets}) == 1
    assert_matching(alpha, beta)


@pytest.mark.parametrize("lost", [3, 4])
def test_initiator_does_not_send_before_the_responder_is_ready(lost: int) -> None:
    """Message 3 or 4 is lost: message 3 is repeated, and only then the outbound SA is there."""
    network, alpha, beta = two_hosts()

    def fate(packet: Packet) -> list[tuple[float, bytes]]:
        packets = quick_mode_packets(network)
        return [] if len(packets) == lost and packets[-1] is packet else deliver(packet)

    network.fate = fate
    network.command(alpha, alpha.acquire(BETA))
    network.run(0.9)
    assert len(alpha.of(Direction.INBOUND)) == 1
    assert not alpha.of(Direction.OUTBOUND)
    assert network.run(3, pairs_up(alpha, beta))
    assert_matching(alpha, beta)


def is_fourth(packet: Packet) -> bool:
    return (
        packet.header.exchange_type == ExchangeType.QUICK_MODE
        and packet.send.local.address == BETA
        and not packet.header.commit
    )


def test_responder_that_never_confirms_leaves_no_half_pair() -> None:
    """At neither end, and it does not cost the minute that a silent peer costs."""
    network, alpha, beta = two_hosts()
    network.fate = lambda packet: [] if is_fourth(packet) else deliver(packet)
    network.command(alpha, alpha.acquire(BETA))
    network.run(1)
    assert pairs_up(beta)()  # it believes that all is well
    assert network.run(15, lambda: not alpha.sas)
    assert network.run(1, lambda: not beta.sas)
    # The peer may have forgotten all: once more, under a new main mode.
    network.run(20)
    assert not alpha.sas
    assert not beta.sas
    (failed,) = alpha.reported(ReportKind.QUICK_MODE_FAILED)
    assert failed.reason.code is ReasonCode.NEGOTIATION_TIMED_OUT
    assert "message 4" in str(failed.reason)


@pytest.mark.parametrize("is_fresh", [True, False])
def test_connected_in_an_informational_exchange_is_taken(
    is_fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 2408 §3.1 has it there, with the quick mode's message id; the IV may go on or begin anew."""
    encode = Conversation.encode

    def as_informational(
        self: Conversation,
        payloads: tuple[Payload, ...],
        protected: bool,
        *,
        commit: bool = False,
        tail: bytes = b"",
    ) -> bytes:
        is_connected = any(
            isinstance(entry, NotificationPayload) and entry.type == NotifyType.CONNECTED
            for entry in payloads
        )
        if is_connected:
            if is_fresh:
                (mode,) = beta.engine._table.main_modes()
                self.protection = mode.phase_2(ExchangeType.INFORMATIONAL, self.message_id).protection
            self.exchange_type = ExchangeType.INFORMATIONAL
        return encode(self, payloads, protected, commit=commit, tail=tail)

    monkeypatch.setattr(Conversation, "encode", as_informational)
    network, alpha, beta = two_hosts()
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(0.5, pairs_up(alpha, beta)), alpha.reports
    assert_matching(alpha, beta)
    assert network.sent[-1].header.exchange_type == ExchangeType.INFORMATIONAL
    assert network.sent[-1].header.message_id == quick_mode_packets(network)[0].header.message_id


def test_forged_confirmation_is_refused() -> None:
    network, alpha, beta = two_hosts()

    def spoil(packet: Packet) -> list[tuple[float, bytes]]:
        packets = quick_mode_packets(network)
        if (
            packets
            and packets[-1] is packet
            and packet.send.local.address == BETA
            and not packet.header.commit
        ):
            datagram = bytearray(packet.send.datagram)
            datagram[40] ^= 0x80
            return [(0.01, bytes(datagram))]
        return deliver(packet)

    network.fate = spoil
    network.command(alpha, alpha.acquire(BETA))
    network.run(2)
    assert not alpha.of(Direction.OUTBOUND)
    assert alpha.codes(ReportKind.MESSAGE_REFUSED)
    network.fate = deliver
    assert network.run(10, pairs_up(alpha, beta))


@pytest.mark.parametrize("config", [replace(EXACT, commit_bit=False), replace(EXACT, microsoft_version=0)])
def test_both_forms_work_with_each_other(config: object) -> None:
    rule = negotiation()
    for configs in ((EXACT, config), (config, EXACT), (config, config)):
        alpha = Node(ALPHA, Policy(rule), config=configs[0])  # type: ignore[arg-type]
        beta = Node(BETA, Policy(rule), config=configs[1])  # type: ignore[arg-type]
        network = Network([alpha, beta])
        network.command(alpha, alpha.acquire(BETA))
        assert network.run(5, pairs_up(alpha, beta))
        assert_matching(alpha, beta)


@pytest.mark.parametrize("seed", range(8))
def test_confirmed_quick_modes_in_a_bad_network(seed: int) -> None:
    network, alpha, beta = two_hosts(fate=chaos(seed), seed=seed)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(120, pairs_up(alpha, beta)), f"seed {seed}: {alpha.reports + beta.reports}"
    assert_matching(alpha, beta)
