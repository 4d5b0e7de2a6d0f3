"""An independent judge: scapy's dissector reads every message that two engines send each other, decrypted
where it was encrypted, and finds the payloads that should be there and nothing that is left over."""

from dataclasses import replace

import pytest
from exchange_harness import BETA, ESP, Packet, deliver, negotiation, two_hosts

from stockade.ike.contract import DeletePeer, ProbePeer
from stockade.ike.v1.protection import MessageProtection
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.wire.isakmp.message import HEADER_SIZE

isakmp = pytest.importorskip("scapy.layers.isakmp")
packet_classes = pytest.importorskip("scapy.packet")

BOTH = QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, None), Hash.SHA1)
GCM = QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None))


@pytest.mark.parametrize("pfs", [False, True])
def test_every_message_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch, pfs: bool) -> None:
    plain_of: dict[bytes, bytes] = {}
    seal = MessageProtection.seal

    def remember(self: MessageProtection, body: bytes) -> bytes:
        sealed = seal(self, body)
        plain_of[sealed] = body
        return sealed

    monkeypatch.setattr(MessageProtection, "seal", remember)
    network, alpha, _ = two_hosts(negotiation(quick=(BOTH, GCM, ESP), pfs=pfs))
    network.command(alpha, alpha.acquire(BETA))
    network.run(5)
    network.command(alpha, ProbePeer(alpha.address, BETA))
    network.run(1)
    network.command(alpha, DeletePeer(BETA, Reason.of(ReasonCode.SA_DELETED)))
    network.run(1)
    seen = [names(packet, plain_of) for packet in network.sent]
    kinds = {name for message in seen for name in message}
    assert {"ISAKMP SA", "ISAKMP Key Exchange", "ISAKMP Nonce", "ISAKMP Identification"} <= kinds, kinds
    assert {"ISAKMP Hash", "ISAKMP Vendor ID", "ISAKMP Delete", "ISAKMP Notify (Notification)"} <= kinds, (
        kinds
    )
    assert len(seen) > 12
    assert seen[0][:1] == ["ISAKMP SA"]


def test_refusals_are_read_too() -> None:
    network, alpha, _ = two_hosts(negotiation(quick=(GCM,)), negotiation(key=b"another"))
    network.fate = deliver
    network.command(alpha, alpha.acquire(BETA))
    network.run(5)
    clear = [packet for packet in network.sent if not packet.header.encrypted]
    assert all(names(packet, {}) for packet in clear)


def names(packet: Packet, plain_of: dict[bytes, bytes]) -> list[str]:
    """The payloads that scapy finds in a message; fails where it finds bytes that it cannot place."""
    datagram = packet.send.datagram
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
    layer = layer.payload
    filling = (packet_classes.Padding, packet_classes.Raw) if packet.header.encrypted else ()
    while not isinstance(layer, packet_classes.NoPayload):
        if isinstance(layer, filling):  # up to the cipher's block
            assert set(bytes(layer)) == {0}
            assert len(bytes(layer)) < 16
            break
        assert not isinstance(layer, packet_classes.Raw | packet_classes.Padding), bytes(layer).hex()
        found.append(layer.name)
        layer = layer.payload
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
        names(packet, {})
