"""The fuzz target of the IKE engine: any bytes, at any moment of a negotiation, in clear and under real keys.

    byte 0   how many messages of an honest negotiation have been delivered (0–9)
    byte 1   to whom: bit 0 the initiator; how: bits 1–2 (see `Form`)
    byte 2…  four fields of the header, each chosen by one byte from what is likely, then the body

`Form` RAW takes the rest as the whole datagram. CLEAR puts our header before it. SEALED encrypts it as the
peer could, AUTHENTIC also puts the right HASH(1) before it: what an honest peer that went mad could send.

The contract: nothing is raised, effects and state are bounded, and as long as the bytes were not authentic
the negotiation (or at the latest the next one) comes up on both ends, and nothing is left at the end.
"""

from enum import IntEnum

from exchange_harness import (
    ALPHA,
    BETA,
    Network,
    Node,
    Packet,
    Policy,
    deliver,
    negotiation,
)

from stockade.crypto.ikev1_keys import quick_mode_hash_1
from stockade.ike.contract import Shutdown
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Encryption, Group, Hash, MainModeProposal
from stockade.wire.isakmp.message import HEADER_SIZE, Header, encode_message, encode_payload
from stockade.wire.isakmp.payloads import HashPayload

STAGES = 10
FAST = MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.CURVE_25519)
EXCHANGES = (2, 5, 32, 4, 6, 33, 0, 255)
PAYLOADS = (8, 1, 4, 5, 6, 7, 9, 10, 11, 12, 13, 20, 21, 129, 130, 131, 132, 0, 2, 3, 14, 200)
MAXIMUM_EFFECTS = 64
MAXIMUM_TIMERS = 64


class Form(IntEnum):
    RAW = 0
    CLEAR = 1
    SEALED = 2
    AUTHENTIC = 3


def stage(number: int) -> tuple[Network, Node, Node]:
    """Two hosts with `number` messages delivered and the next one lost for the time being."""

    def fate(packet: Packet) -> list[tuple[float, bytes]]:
        return deliver(packet) if packet.number <= number else []

    rule = negotiation(main=(FAST,))
    alpha, beta = Node(ALPHA, Policy(rule)), Node(BETA, Policy(rule))
    network = Network([alpha, beta], fate)
    network.command(alpha, alpha.acquire(BETA))
    network.run(0.5)
    return network, alpha, beta


def fuzz_engine(data: bytes) -> None:
    """One input. Raises only where the contract is broken."""
    if len(data) < 6:
        data += bytes(6 - len(data))
    network, alpha, beta = stage(data[0] % STAGES)
    to_initiator = bool(data[1] & 1)
    form = Form(data[1] >> 1 & 3)
    target, peer = (alpha, beta) if to_initiator else (beta, alpha)
    datagram, authentic = _forge(network, peer, form, data)
    _receive(network, target, peer, datagram)
    _receive(network, target, peer, datagram)  # and doubled on the way
    if not authentic:
        network.fate = deliver
        network.run(70)
        if not alpha.sas:
            # Messages 1 to 4 of main mode are in clear: who sees them can spoil one attempt, and no more.
            network.run(100)
            network.command(alpha, alpha.acquire(BETA))
            network.run(70)
        assert alpha.sas, "the negotiation did not come up"
        assert {spi for spi, _ in alpha.sas} == {spi for spi, _ in beta.sas}, "the ends do not agree"
    for node in (alpha, beta):
        node.engine.command(Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)), network.now)
    network.run(200)
    for node in (alpha, beta):
        statistics = node.engine.statistics
        assert not node.engine.main_modes(network.now), "main modes were left behind"
        assert not statistics["active_quick_modes"], "pairs were left behind"
        assert not node.sas, "the driver was left with SAs"


def _receive(network: Network, target: Node, peer: Node, datagram: bytes) -> None:
    target.engine.receive(datagram, target.endpoint, peer.endpoint, network.now)
    assert len(target.engine._context.effects) <= MAXIMUM_EFFECTS, "too many effects"
    assert len(target.engine._context.timers) <= MAXIMUM_TIMERS, "too many timers"
    network.pump()


def _forge(network: Network, peer: Node, form: Form, data: bytes) -> tuple[bytes, bool]:
    """The datagram, and whether it is authentic."""
    if form is Form.RAW:
        return data[2:], False
    exchange, kind, flags, message_id = data[2], data[3], data[4], data[5]
    body = data[6:]
    last = network.sent[-1].header
    identity = (0, last.message_id, 1, 0xFFFF_FFFF)[message_id & 3]
    cookie = bytes(8) if message_id & 4 else b"\x77" * 8 if message_id & 8 else last.responder_cookie
    first = PAYLOADS[kind % len(PAYLOADS)]
    modes = [view for view in peer.engine._table.main_modes() if view.established is not None]
    authentic = False
    if form >= Form.SEALED and modes:
        mode = modes[0]
        identity = identity or 0x1234_5678
        conversation = mode.phase_2(EXCHANGES[exchange % len(EXCHANGES)], identity)
        assert mode.outcome is not None
        assert conversation.protection is not None
        if form is Form.AUTHENTIC:
            skeyid_a = mode.outcome.keys.skeyid_a
            proof = quick_mode_hash_1(FAST.hash, skeyid_a, identity.to_bytes(4, "big"), body)
            body = encode_payload(HashPayload(proof), first) + body
            first = 8
            authentic = True
        body = conversation.protection.seal(body or bytes(1))
        flags |= 1
        cookie = mode.conversation.responder_cookie
    kind_of = EXCHANGES[exchange % len(EXCHANGES)]
    header = Header(last.initiator_cookie, cookie, first, 0x10, kind_of, flags & 0x87, identity)
    if len(body) + HEADER_SIZE > 60_000:
        body = body[:60_000]
    return encode_message(header, body), authentic
