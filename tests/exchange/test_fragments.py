"""Fragments: a long message 5 or 6 over a path that loses long packets.

alpha                                        beta
  HDR*, IDii, CERT…, SIG_I    ->  ✗                    lost: too long
  again after 1 s             ->  ✗
  FRAG 1, FRAG 2, FRAG 3, …   ->                       after 3 s
                              <-  FRAG 1, FRAG 2, …    at once, as alpha has shown that it needs them
"""

import itertools
import random
from dataclasses import replace

import pytest
from certificate_maker import NOW, root, root_name
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Fate,
    Network,
    Node,
    Packet,
    Policy,
    assert_matching,
    deliver,
    negotiation,
    pairs_up,
)

from stockade.ike.config import EngineConfig
from stockade.ike.contract import ReportKind
from stockade.ike.v1.fragments import Reassembly, room_for, split
from stockade.model.negotiation import Certificate
from stockade.model.reasons import PeerError
from stockade.pki.chain import Trust
from stockade.pki.credentials import Credentials
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.message import HEADER_SIZE, Header, decode_header, encode_message, encode_payloads
from stockade.wire.isakmp.payloads import FragmentPayload

ROOT = root("Root", "rsa2048")
ISSUING = ROOT.issue("Issuing", "rsa2048", authority=True)
LIMIT = 576 - 28


def hosts(fate: Fate, one: EngineConfig = EXACT, other: EngineConfig = EXACT) -> tuple[Network, Node, Node]:
    rule = replace(negotiation(), authentication=(Certificate(root_name()),))
    nodes = []
    for address, config in ((ALPHA, one), (BETA, other)):
        mine = ISSUING.issue(str(address), "rsa2048").own
        credentials = Credentials([mine], Trust((ROOT.read,), (ISSUING.read,)), moment=lambda: NOW)
        nodes.append(Node(address, Policy(rule), 0, config, credentials))
    return Network(nodes, fate), nodes[0], nodes[1]


def short_only(packet: Packet) -> list[tuple[float, bytes]]:
    return deliver(packet) if len(packet.send.datagram) <= LIMIT else []


def is_fragment(packet: Packet) -> bool:
    return packet.header.next_payload == PayloadType.FRAGMENT


def test_a_path_that_loses_long_packets_is_crossed_in_fragments() -> None:
    network, alpha, beta = hosts(short_only)
    start = network.now
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, pairs_up(alpha, beta)), alpha.reports + beta.reports
    assert_matching(alpha, beta)
    assert 3 < network.now - start < 3.5
    lost = [packet for packet in network.sent if len(packet.send.datagram) > LIMIT]
    assert [packet.send.local.address for packet in lost] == [ALPHA, ALPHA]  # beta sends fragments at once
    carriers = [packet for packet in network.sent if is_fragment(packet)]
    assert {packet.send.local.address for packet in carriers} == {ALPHA, BETA}
    assert not any(packet.header.encrypted for packet in carriers)
    assert not beta.reported(ReportKind.MESSAGE_REFUSED)


def test_on_a_good_path_nothing_is_fragmented() -> None:
    network, alpha, beta = hosts(deliver)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, pairs_up(alpha, beta))
    assert not any(is_fragment(packet) for packet in network.sent)


@pytest.mark.parametrize("without", [0, 1])
def test_towards_a_peer_that_does_not_announce_it_nothing_is_fragmented(without: int) -> None:
    silent = replace(EXACT, fragmentation=False)
    configs = (silent, EXACT) if without == 0 else (EXACT, silent)
    network, alpha, beta = hosts(short_only, *configs)
    network.command(alpha, alpha.acquire(BETA))
    network.run(100)
    assert not any(is_fragment(packet) for packet in network.sent)
    assert not alpha.sas
    assert not beta.sas


@pytest.mark.parametrize("seed", range(5))
def test_fragments_that_are_doubled_and_come_in_any_order(seed: int) -> None:
    generator = random.Random(seed)

    def fate(packet: Packet) -> list[tuple[float, bytes]]:
        copies = short_only(packet) * generator.choice((1, 2))
        return [(generator.random() / 10, data) for _, data in copies]

    network, alpha, beta = hosts(fate)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(20, pairs_up(alpha, beta)), alpha.reports + beta.reports


def test_microsofts_form_without_the_inner_header_is_understood() -> None:
    """The same fragments with what follows the header only."""

    def fate(packet: Packet) -> list[tuple[float, bytes]]:
        if not is_fragment(packet):
            return short_only(packet)
        data = packet.send.datagram
        number = data[HEADER_SIZE + 6]
        if number == 1:
            inner = data[HEADER_SIZE + 8 + HEADER_SIZE :]
            body = data[HEADER_SIZE : HEADER_SIZE + 2] + (8 + len(inner)).to_bytes(2, "big")
            data = encode_message(packet.header, body + data[HEADER_SIZE + 4 : HEADER_SIZE + 8] + inner)
        return [(0.01, data)]

    network, alpha, beta = hosts(fate)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, pairs_up(alpha, beta)), alpha.reports + beta.reports


def test_fragments_before_there_are_keys_are_refused() -> None:
    network, alpha, beta = hosts(lambda packet: deliver(packet) if packet.number < 3 else [])
    network.command(alpha, alpha.acquire(BETA))
    network.run(0.5)
    (header,) = {packet.header for packet in network.sent if packet.number == 3}
    kind, body = encode_payloads((FragmentPayload(1, 1, 0, b"x" * 400),))
    network.inject(encode_message(replace(header, next_payload=kind), body), alpha.endpoint, beta)
    assert "a fragment before there are keys" in str(beta.reported(ReportKind.MESSAGE_REFUSED)[-1].reason)


# ---- one set of fragments
HEADER = Header(b"i" * 8, b"r" * 8, 5, 0x10, 2, 1, 0)
WHOLE = encode_message(HEADER, bytes(range(256)) * 8)


def parts(identifier: int = 7) -> list[bytes]:
    return split(WHOLE, identifier, room_for(4, 0))


def test_every_fragment_fits_a_packet_of_576_bytes() -> None:
    assert [len(part) for part in parts()[:-1]] == [LIMIT] * (len(parts()) - 1)
    assert len(parts()[-1]) <= LIMIT


def test_every_order_gives_the_message_once() -> None:
    for order in itertools.permutations(parts()[:2] + parts()[-3:]):
        assert len(order) == 5
        reassembly = Reassembly()
        found = [reassembly.add(decode_header(part), part, 0.0) for part in order]
        assert [entry for entry in found if entry is not None] == [(decode_header(WHOLE), WHOLE)]
        assert found[-1] is not None


def one(number: int, last: bool, data: bytes = b"x" * 100, identifier: int = 1) -> bytes:
    kind, body = encode_payloads((FragmentPayload(identifier, number, int(last), data),))
    return encode_message(replace(HEADER, next_payload=kind, flags=0), body)


@pytest.mark.parametrize(
    "contradiction",
    [[one(2, True), one(3, True)], [one(2, True), one(3, False)], [one(4, False), one(3, True)]],
)
def test_a_set_that_contradicts_itself_is_forgotten(contradiction: list[bytes]) -> None:
    reassembly = Reassembly()
    first, second = contradiction
    assert reassembly.add(decode_header(first), first, 0.0) is None
    with pytest.raises(PeerError):
        reassembly.add(decode_header(second), second, 0.0)
    for part in parts(1):  # the same identifier begins anew
        found = reassembly.add(decode_header(part), part, 0.0)
    assert found is not None


def test_a_flood_of_fragments_costs_a_bounded_memory() -> None:
    reassembly = Reassembly()
    for identifier in range(1000):
        for number in (2, 3, 4):
            part = one(number, False, bytes(500), identifier)
            reassembly.add(decode_header(part), part, 0.0)
    assert len(reassembly._sets) == 4


def test_fragments_that_are_too_old_do_not_complete() -> None:
    reassembly = Reassembly()
    *early, last = parts()
    for part in early:
        reassembly.add(decode_header(part), part, 0.0)
    assert reassembly.add(decode_header(last), last, 71.0) is None
