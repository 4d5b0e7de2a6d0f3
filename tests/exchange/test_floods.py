"""First messages above the threshold of half-open main modes: proof of the sender's address, and no state."""

from dataclasses import replace
from ipaddress import ip_address

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
    deliver,
    established,
    negotiation,
    two_hosts,
)

from stockade.ike.contract import ReportKind, Send
from stockade.ike.flood import SECRET_SECONDS, SLOT_SECONDS
from stockade.model.addresses import Endpoint
from stockade.model.reasons import ReasonCode
from stockade.wire.isakmp.constants import ExchangeType, NotifyType, PayloadType
from stockade.wire.isakmp.message import HEADER_SIZE, decode_header, decode_payloads
from stockade.wire.isakmp.payloads import NotificationPayload
from stockade.wire.vendor_ids import MS_NT5_ISAKMPOAKLEY

ALWAYS = replace(EXACT, cookie_threshold=0, cookie_end=0)
FORGED = [Endpoint(ip_address(f"198.51.{index >> 8}.{index & 255}"), 500) for index in range(3000)]


def first_message(*, microsoft: bool = True) -> bytes:
    network, alpha, _ = two_hosts(fate=lambda packet: [])
    network.command(alpha, alpha.acquire(BETA))
    datagram = network.sent[0].send.datagram
    return datagram if microsoft else datagram.replace(MS_NT5_ISAKMPOAKLEY, bytes(16))


def with_cookie(template: bytes, number: int) -> bytes:
    return (number + 1).to_bytes(8, "big") + template[8:]


def first_only(packet: Packet) -> list[tuple[float, bytes]]:
    return deliver(packet) if packet.number == 1 else []


def answers(node: Node) -> list[Send]:
    return [effect for effect in node.engine.effects() if isinstance(effect, Send)]


def flooded(number: int = 600, *, microsoft: bool = True) -> tuple[Node, bytes]:
    """Beta after `number` first messages from as many forged senders, at 100 s."""
    beta, template = Node(BETA, Policy(negotiation())), first_message(microsoft=microsoft)
    for index in range(number):
        beta.engine.receive(with_cookie(template, index), beta.endpoint, FORGED[index], 100.0)
    beta.engine.effects()
    return beta, template


# 1  A -> B  HDR(CKY-I, 0), SA, VID           B has more than 500 half open
# 2  B -> A  HDR(CKY-I, 0), N(DOS-COOKIE)
# 3  A -> B  HDR(CKY-I, cookie), SA, VID      from here on as always
def test_both_ends_get_through_with_a_cookie_and_the_cookie_is_the_responders() -> None:
    network, alpha, beta = two_hosts(config=ALWAYS)
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    one, two, three, four = (packet for packet in network.sent[:4])
    assert one.header.responder_cookie == two.header.responder_cookie == bytes(8)
    assert two.header.exchange_type == ExchangeType.INFORMATIONAL
    payload = decode_payloads(two.header.next_payload, two.send.datagram[HEADER_SIZE:])[0].payload
    assert isinstance(payload, NotificationPayload)
    assert (payload.type, payload.spi, len(payload.data)) == (NotifyType.MICROSOFT_DOS_COOKIE, b"", 8)
    assert len(two.send.datagram) < len(one.send.datagram)
    assert three.header.responder_cookie == payload.data == four.header.responder_cookie
    assert three.send.datagram[16:] == one.send.datagram[16:]
    assert beta.engine.statistics["cookies_proven"] == 1


def test_a_lost_first_message_and_a_lost_challenge_only_cost_a_retransmission() -> None:
    network, alpha, beta = two_hosts(
        config=ALWAYS, fate=lambda packet: [] if packet.number in (1, 3, 5) else deliver(packet)
    )
    network.command(alpha, alpha.acquire(BETA))
    network.run(20.0)
    assert_matching(alpha, beta)


def test_above_the_threshold_no_state_is_kept_of_forged_senders() -> None:
    beta, template = flooded(600)
    assert beta.engine.floods
    modes, timers = len(beta.engine.main_modes(100.0)), len(beta.engine._context.timers)
    assert modes == 501
    for index in range(600, 3000):
        beta.engine.receive(with_cookie(template, index), beta.endpoint, FORGED[index], 101.0)
        (answer,) = answers(beta)
        assert answer.remote == FORGED[index]
        assert len(answer.datagram) == 48
    assert len(beta.engine.main_modes(101.0)) == modes
    assert len(beta.engine._context.timers) == timers
    assert beta.engine.statistics["cookies_sent"] == 2499


def test_it_ends_when_few_are_half_open() -> None:
    beta, template = flooded(600)
    beta.engine.timeout(170.0)
    answers(beta)
    beta.engine.receive(with_cookie(template, 1), beta.endpoint, FORGED[1], 171.0)
    assert not beta.engine.floods
    (answer,) = answers(beta)
    assert decode_header(answer.datagram).exchange_type == ExchangeType.IDENTITY_PROTECTION


def test_an_established_peer_goes_on_and_a_new_one_gets_in_during_a_flood() -> None:
    rule = negotiation()
    gamma = ip_address("10.9.0.3")
    alpha, beta, new = Node(ALPHA, Policy(rule)), Node(BETA, Policy(rule)), Node(gamma, Policy(rule))
    network = Network([alpha, beta, new])
    established(network, alpha, beta)
    template = first_message()
    for index in range(3000):
        beta.engine.receive(with_cookie(template, index), beta.endpoint, FORGED[index], network.now)
    beta.engine.effects()
    assert beta.engine.floods
    network.command(new, new.acquire(BETA))
    network.run(5.0)
    assert len(new.of(next(iter(new.sas))[1])) == 1
    assert len(beta.engine.quick_modes(network.now)) == 2


def challenge_for(beta: Node, template: bytes, number: int, remote: Endpoint, now: float) -> bytes:
    beta.engine.receive(with_cookie(template, number), beta.endpoint, remote, now)
    (answer,) = answers(beta)
    return answer.datagram[-8:]


def repeat(beta: Node, template: bytes, number: int, remote: Endpoint, cookie: bytes, now: float) -> bool:
    """Whether message 1 with this cookie is answered as a main mode."""
    before = beta.engine.statistics["cookies_proven"]
    datagram = with_cookie(template, number)
    beta.engine.receive(datagram[:8] + cookie + datagram[16:], beta.endpoint, remote, now)
    beta.engine.effects()
    return beta.engine.statistics["cookies_proven"] == before + 1


def test_a_cookie_is_good_for_its_sender_for_two_secrets_and_for_nobody_else() -> None:
    beta, template = flooded()
    remote, elsewhere = FORGED[2000], FORGED[2001]
    cookie = challenge_for(beta, template, 9000, remote, 101.0)
    assert not repeat(beta, template, 9000, elsewhere, cookie, 101.0)
    assert not repeat(beta, template, 9000, Endpoint(remote.address, 501), cookie, 101.0)
    assert not repeat(beta, template, 9001, remote, cookie, 101.0)
    assert not repeat(beta, template, 9000, remote, bytes(7) + b"\1", 101.0)
    modes = len(beta.engine.main_modes(101.0))
    assert repeat(beta, template, 9000, remote, cookie, 102.0 + SECRET_SECONDS)
    assert len(beta.engine.main_modes(101.0)) == modes + 1
    late = challenge_for(beta, template, 9100, remote, 103.0 + SECRET_SECONDS)
    assert not repeat(beta, template, 9100, remote, late, 103.0 + 3 * SECRET_SECONDS)


def test_a_repeated_proof_finds_its_main_mode_and_makes_no_other() -> None:
    beta, template = flooded()
    remote = FORGED[2000]
    cookie = challenge_for(beta, template, 9000, remote, 101.0)
    datagram = with_cookie(template, 9000)
    modes = len(beta.engine.main_modes(101.0))
    for _ in range(3):
        beta.engine.receive(datagram[:8] + cookie + datagram[16:], beta.endpoint, remote, 102.0)
        (answer,) = answers(beta)
        assert decode_header(answer.datagram).responder_cookie == cookie
    assert len(beta.engine.main_modes(102.0)) == modes + 1


def test_a_peer_that_knows_no_cookies_gets_in_when_it_repeats_itself() -> None:
    beta, template = flooded(microsoft=False)
    remote, datagram = FORGED[2000], with_cookie(template, 9000)
    beta.engine.receive(datagram, beta.endpoint, remote, 101.0)
    beta.engine.receive(datagram, beta.endpoint, remote, 101.0)  # doubled on the way: no proof
    assert not answers(beta)
    assert beta.engine.statistics["first_messages_dropped"] == 99 + 2
    beta.engine.receive(with_cookie(template, 9001), beta.endpoint, remote, 101.0 + SLOT_SECONDS)
    beta.engine.receive(datagram, beta.endpoint, FORGED[2001], 101.0 + SLOT_SECONDS)
    assert not answers(beta)
    beta.engine.receive(datagram, beta.endpoint, remote, 101.0 + 2 * SLOT_SECONDS)
    (answer,) = answers(beta)
    assert decode_header(answer.datagram).exchange_type == ExchangeType.IDENTITY_PROTECTION


def test_repeated_forged_messages_are_let_in_at_a_bounded_rate_only() -> None:
    beta, template = flooded(microsoft=False)
    modes = len(beta.engine.main_modes(100.0))
    for now in (101.0, 101.0 + 2 * SLOT_SECONDS):
        for index in range(1000, 3000):
            beta.engine.receive(with_cookie(template, index), beta.endpoint, FORGED[index], now)
    assert len(beta.engine.main_modes(100.0)) <= modes + EXACT.unproven_per_second + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-8] + bytes(8),  # no cookie
        lambda data: data[:-1],  # too short by its own length
        lambda data: data[:24] + (49).to_bytes(4, "big") + data[28:30] + b"\0\x15" + data[32:] + b"\1",
    ],
)
def test_an_initiator_takes_no_challenge_that_is_not_one(change) -> None:
    network, alpha, _ = two_hosts(config=ALWAYS, fate=first_only)
    network.command(alpha, alpha.acquire(BETA))
    network.run(0.2)
    challenge = network.sent[1].send.datagram
    alpha.engine.receive(change(challenge), alpha.endpoint, Endpoint(BETA, 500), 0.3)
    assert not any(any(decode_header(send.datagram).responder_cookie) for send in answers(alpha))


def test_forged_challenges_make_an_initiator_repeat_itself_some_times_only() -> None:
    network, alpha, _ = two_hosts(config=ALWAYS, fate=first_only)
    network.command(alpha, alpha.acquire(BETA))
    network.run(0.2)
    challenge = network.sent[1].send.datagram
    sent = 0
    for number in range(1, 20):
        forged = challenge[:-8] + bytes([number] * 8)
        alpha.engine.receive(forged, alpha.endpoint, Endpoint(BETA, 500), 0.3)
        sent += len(answers(alpha))
    assert sent == 3


def test_a_challenge_in_the_exchange_that_it_is_about_is_understood_too() -> None:
    network, alpha, _ = two_hosts(config=ALWAYS, fate=first_only)
    network.command(alpha, alpha.acquire(BETA))
    network.run(0.2)
    challenge = bytearray(network.sent[1].send.datagram)
    assert challenge[16] == PayloadType.NOTIFICATION
    challenge[18] = ExchangeType.IDENTITY_PROTECTION
    alpha.engine.receive(bytes(challenge), alpha.endpoint, Endpoint(BETA, 500), 0.3)
    (again,) = answers(alpha)
    assert decode_header(again.datagram).responder_cookie == challenge[-8:]


def test_with_a_main_mode_the_limit_of_5_is_per_port() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    template = first_message()
    for index in range(40):
        beta.engine.receive(
            with_cookie(template, index), beta.endpoint, Endpoint(ALPHA, 500 + index % 4), network.now
        )
    assert len(beta.engine.main_modes(network.now)) == 1 + 4 * 5
    reports = [effect for effect in beta.engine.effects() if getattr(effect, "kind", None)]
    assert ReasonCode.TOO_MANY_NEGOTIATIONS in {
        report.reason.code for report in reports if report.kind is ReportKind.MESSAGE_REFUSED
    }


def proven(beta: Node, template: bytes, number: int, remote: Endpoint, now: float) -> bytes:
    """Message 1 with the cookie that this sender was given for it."""
    cookie = challenge_for(beta, template, number, remote, now)
    datagram = with_cookie(template, number)
    return datagram[:8] + cookie + datagram[16:]


def test_a_proven_address_gets_no_more_main_modes_than_any_other_and_all_together_a_bounded_number() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    template = first_message()
    for index in range(600):
        beta.engine.receive(with_cookie(template, index), beta.endpoint, FORGED[index], network.now)
    beta.engine.effects()
    before, now = len(beta.engine.main_modes(network.now)), network.now + 1
    remote = FORGED[2000]
    first = [proven(beta, template, 5000 + index, remote, now) for index in range(100)]
    for datagram in first:
        beta.engine.receive(datagram, beta.endpoint, remote, now)
    sent = answers(beta)
    assert beta.engine.statistics["cookies_proven"] == 100
    assert len(beta.engine.main_modes(now)) - before == len(sent) == EXACT.half_open_per_peer
    # thirty more such senders: the oldest that are half open make room, what is established stays
    for sender in FORGED[2001:2031]:
        datagrams = [proven(beta, template, 9000 + index, sender, now) for index in range(35)]
        for datagram in datagrams:
            beta.engine.receive(datagram, beta.endpoint, sender, now)
        beta.engine.effects()
    assert len(beta.engine.main_modes(now)) == EXACT.half_open_total + 1
    assert len(beta.engine._context.timers) < 4 * EXACT.half_open_total
    assert [mode.remote.address for mode in beta.engine.main_modes(now) if mode.established] == [ALPHA]
    assert len(beta.engine.quick_modes(now)) == 1


@pytest.mark.parametrize("next_payload", [PayloadType.SECURITY_ASSOCIATION, PayloadType.KEY_EXCHANGE])
def test_a_captured_cookie_of_ours_gives_forged_senders_no_state_and_few_answers(next_payload: int) -> None:
    """It bears our mark, so the kernel's filter sends all of these to the door of those that we know."""
    beta, template = flooded()
    captured = bytearray(proven(beta, template, 9000, FORGED[2000], 101.0))
    beta.engine.receive(bytes(captured), beta.endpoint, FORGED[2000], 101.0)
    captured[16] = next_payload
    answers(beta)
    modes, timers = len(beta.engine.main_modes(101.0)), len(beta.engine._context.timers)
    for index in range(2001, 3000):
        beta.engine.receive(bytes(captured), beta.endpoint, FORGED[index], 101.0)
    assert len(beta.engine.main_modes(101.0)) == modes
    assert len(beta.engine._context.timers) == timers
    effects = beta.engine.effects()
    assert not [effect for effect in effects if isinstance(effect, Send)]
    assert len(effects) <= EXACT.reports_per_second


def test_a_sender_that_repeats_itself_under_a_half_open_main_mode_gets_few_answers() -> None:
    beta, template = flooded()
    remote = FORGED[2000]
    datagram = proven(beta, template, 9000, remote, 101.0)
    for _ in range(1000):
        beta.engine.receive(datagram, beta.endpoint, remote, 101.0)
    assert len(answers(beta)) == 1 + EXACT.repeats_per_reply
