"""An independent judge: scapy's dissector reads every message that two engines send each other, decrypted
where it was encrypted, and finds the payloads that should be there and nothing that is left over."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import test_access_and_alternatives
import test_certificates
import test_fragments
import test_nat_traversal
from exchange_harness import BETA, ESP, EXACT, Network, Packet, deliver, negotiation, two_hosts

from stockade.ike.contract import DeletePeer, ProbePeer
from stockade.ike.v1.protection import MessageProtection
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.message import HEADER_SIZE
from stockade.wire.udp_encapsulation import NON_ESP_MARKER

isakmp = pytest.importorskip("scapy.layers.isakmp")
packet_classes = pytest.importorskip("scapy.packet")

BOTH = QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, None), Hash.SHA1)
GCM = QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None))
IKE_PORT = 500


Reads = Callable[[], Network]
EVERYTHING_BUT = {
    PayloadType.NONE,
    PayloadType.PROPOSAL,  # in an SA payload
    PayloadType.TRANSFORM,  # in a proposal
    PayloadType.ATTRIBUTES,  # of mode config, which Windows does not speak
}


def preshared_key(*, pfs: bool = False, quick: tuple[QuickModeProposal, ...] = (BOTH, GCM, ESP)) -> Network:
    """All of a life: main and quick mode, a question whether the peer lives, deletes."""
    network, alpha, _ = two_hosts(negotiation(quick=quick, pfs=pfs))
    network.command(alpha, alpha.acquire(BETA))
    network.run(5)
    network.command(alpha, ProbePeer(alpha.address, BETA))
    network.run(1)
    network.command(alpha, DeletePeer(BETA, Reason.of(ReasonCode.SA_DELETED)))
    network.run(1)
    return network


def certificates() -> Network:
    network, alpha, _ = test_certificates.hosts()
    network.command(alpha, alpha.acquire(BETA))
    network.run(5)
    return network


def fragments() -> Network:
    network, alpha, _ = test_fragments.hosts(test_fragments.short_only)
    network.command(alpha, alpha.acquire(BETA))
    network.run(10)
    return network


def kerberos() -> Network:
    network, alpha, beta = test_access_and_alternatives.kerberos_hosts()
    network.command(alpha, alpha.acquire(BETA))
    test_access_and_alternatives.run(network, 5, alpha, beta)
    return network


def address_translation(*, version: int = 8, tunnel: bool = False) -> Network:
    config = replace(test_nat_traversal.NAT_T, microsoft_version=version)
    network, _, (inside,), outside = test_nat_traversal.world(config=config, tunnel=tunnel)
    network.command(inside, inside.acquire(outside.address))
    network.run(5)
    return network


def flood() -> Network:
    network, alpha, _ = two_hosts(config=replace(EXACT, cookie_threshold=0, cookie_end=0))
    network.command(alpha, alpha.acquire(BETA))
    network.run(5)
    return network


@pytest.fixture
def plain_of(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    """What was encrypted, by what came of it."""
    found: dict[bytes, bytes] = {}
    seal = MessageProtection.seal

    def remember(self: MessageProtection, body: bytes) -> bytes:
        sealed = seal(self, body)
        found[sealed] = body
        return sealed

    monkeypatch.setattr(MessageProtection, "seal", remember)
    return found


WAYS: dict[str, tuple[Reads, set[PayloadType]]] = {
    "preshared-key": (preshared_key, {PayloadType.HASH, PayloadType.DELETE, PayloadType.NOTIFICATION}),
    "forward-secrecy": (lambda: preshared_key(pfs=True), {PayloadType.KEY_EXCHANGE, PayloadType.NONCE}),
    "ah-alone": (
        lambda: preshared_key(quick=(QuickModeProposal(ah=Hash.SHA1),)),
        {PayloadType.SECURITY_ASSOCIATION, PayloadType.IDENTIFICATION, PayloadType.VENDOR_ID},
    ),
    "certificates": (
        certificates,
        {PayloadType.CERTIFICATE, PayloadType.CERTIFICATE_REQUEST, PayloadType.SIGNATURE},
    ),
    "fragments": (fragments, {PayloadType.FRAGMENT}),
    "kerberos": (kerberos, {PayloadType.GSS}),
    "nat": (address_translation, {PayloadType.NAT_DETECTION, PayloadType.NAT_ORIGINAL_ADDRESS}),
    "nat-in-a-tunnel": (lambda: address_translation(tunnel=True), {PayloadType.NAT_DETECTION}),
    "nat-by-the-draft": (
        lambda: address_translation(version=4),
        {PayloadType.NAT_DETECTION_DRAFT, PayloadType.NAT_ORIGINAL_ADDRESS_DRAFT},
    ),
    "flood": (flood, {PayloadType.NOTIFICATION}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_message_is_read_to_its_end(plain_of: dict[bytes, bytes], way: str) -> None:
    """scapy knows what is in the payloads of RFC 2408 but CERT and CERTREQ, and of those and the others how
    long they are."""
    run, expected = WAYS[way]
    network = run()
    assert any(node.sas or node.history for node in network.nodes), "no SA came up"
    seen = [payloads(packet, plain_of) for packet in network.sent if len(packet.send.datagram) > HEADER_SIZE]
    kinds = {kind for message in seen for kind, _ in message}
    assert expected <= kinds, kinds
    assert seen[0][0] == (PayloadType.SECURITY_ASSOCIATION, "ISAKMP SA")
    for kind, name in (entry for message in seen for entry in message):
        assert name == NAMES.get(kind, "ISAKMP payload")


def test_every_payload_that_we_send_is_among_them() -> None:
    assert set().union(*(kinds for _, kinds in WAYS.values())) == set(PayloadType) - EVERYTHING_BUT


NAMES = {
    PayloadType.SECURITY_ASSOCIATION: "ISAKMP SA",
    PayloadType.KEY_EXCHANGE: "ISAKMP Key Exchange",
    PayloadType.IDENTIFICATION: "ISAKMP Identification",
    PayloadType.HASH: "ISAKMP Hash",
    PayloadType.SIGNATURE: "ISAKMP Signature",
    PayloadType.NONCE: "ISAKMP Nonce",
    PayloadType.NOTIFICATION: "ISAKMP Notify (Notification)",
    PayloadType.DELETE: "ISAKMP Delete",
    PayloadType.VENDOR_ID: "ISAKMP Vendor ID",
}


def test_refusals_are_read_too(plain_of: dict[bytes, bytes]) -> None:
    for other in (negotiation(key=b"another"), negotiation(quick=(ESP,))):
        network, alpha, _ = two_hosts(negotiation(quick=(GCM,)), other)
        network.fate = deliver
        network.command(alpha, alpha.acquire(BETA))
        network.run(5)
        told = {kind for packet in network.sent for kind, _ in payloads(packet, plain_of)}
        assert PayloadType.NOTIFICATION in told


def payloads(packet: Packet, plain_of: dict[bytes, bytes]) -> list[tuple[int, str]]:
    """The payloads that scapy finds in a message, by number and scapy's name for them; fails where it finds
    bytes that it cannot place."""
    datagram = packet.send.datagram
    if packet.send.local.port != IKE_PORT:
        assert datagram[: len(NON_ESP_MARKER)] == NON_ESP_MARKER
        datagram = datagram[len(NON_ESP_MARKER) :]
    if packet.header.encrypted:
        plain = plain_of[datagram[HEADER_SIZE:]]
        header = bytearray(datagram[:HEADER_SIZE])
        header[19] &= 0xFE  # the encryption bit
        header[24:28] = (HEADER_SIZE + len(plain)).to_bytes(4, "big")
        datagram = bytes(header) + plain
    layer = isakmp.ISAKMP(datagram)
    assert layer.init_cookie == packet.header.initiator_cookie
    assert layer.exch_type == packet.header.exchange_type
    found = []
    kind, layer = layer.next_payload, layer.payload
    filling = (packet_classes.Padding, packet_classes.Raw) if packet.header.encrypted else ()
    while not isinstance(layer, packet_classes.NoPayload):
        if isinstance(layer, filling):  # up to the cipher's block
            assert set(bytes(layer)) == {0}
            assert len(bytes(layer)) < 16
            break
        assert not isinstance(layer, packet_classes.Raw | packet_classes.Padding), bytes(layer).hex()
        assert layer.length == len(layer) - len(layer.payload)
        found.append((kind, layer.name))
        kind, layer = layer.next_payload, layer.payload
    assert found
    return found


def test_the_judge_can_say_no() -> None:
    network, alpha, _ = two_hosts(fate=lambda packet: [])
    network.command(alpha, alpha.acquire(BETA))
    (packet,) = network.sent
    longer = bytearray(packet.send.datagram) + b"left over"
    longer[24:28] = len(longer).to_bytes(4, "big")
    packet.send = replace(packet.send, datagram=bytes(longer))
    with pytest.raises(AssertionError):
        payloads(packet, {})
