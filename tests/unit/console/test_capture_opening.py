"""What the kernel seals, opened for a capture: real packets of our own data path, every kind of SA."""

import os
from dataclasses import replace
from ipaddress import ip_address

import msgspec
import pytest

from stockade.agent.capture_keys import keys_message
from stockade.console.capture_opening import WAITING_SECONDS, PacketOpener
from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.driver.datapath import Datapath
from stockade.driver.packets import fragment
from stockade.ike.contract import ExportedKeys
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Action, Direction, Provenance, SpecificFilter
from stockade.model.negotiation import Mode
from stockade.model.sa import SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.model.traffic import TrafficSelector
from stockade.wire.checksum import internet_checksum
from stockade.wire.transport import build_udp

ENDS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("2001:db8::1", "2001:db8::2")}
SUITES = {
    "cbc": EspSuite(Encryption.AES_CBC_256, Hash.SHA_256),
    "3des": EspSuite(Encryption.TRIPLE_DES_CBC, Hash.MD5),
    "gcm": EspSuite(Encryption.AES_GCM_128, None),
    "ccm": EspSuite(Encryption.AES_CCM_128, None),
    "chacha": EspSuite(Encryption.CHACHA20_POLY1305, None),
    "gmac": EspSuite(Encryption.AES_GMAC_128, None),
    "null": EspSuite(Encryption.NULL, Hash.SHA1),
}


class Wire:
    """The data path of one host with one outbound SA, and what a capture knows of it."""

    def __init__(self, suite: EspSuite | None, version: int = 4, **values: object) -> None:
        self.ends = source, destination = tuple(map(ip_address, ENDS[version]))
        everyone = AddressRange.everything(version)
        encryption = 0 if suite is None else encryption_algorithm(suite.encryption).keymat_size
        integrity = Hash.SHA1 if suite is None else suite.integrity
        size = hash_algorithm(integrity).integrity_key_size if integrity else 0
        self.sa = SecurityAssociation(
            0x1000, Direction.OUTBOUND, source, destination, TrafficSelector(everyone, everyone),
            Mode.TRANSPORT, suite, None if suite else Hash.SHA1, Secret(os.urandom(encryption)),
            Secret(os.urandom(size)), 0x1001, "rule", "0" * 16, "",
        )  # fmt: skip
        self.sa = replace(self.sa, **values)
        entry = SpecificFilter(
            "0" * 16, self.sa.selector, Direction.OUTBOUND, Action.NEGOTIATE, 1,
            Provenance("local", "p", "r"), negotiation="rule",
        )  # fmt: skip
        self.path = Datapath()
        self.path.install_filters((entry,), 0.0)
        self.path.add_sa(self.sa, 0.0)
        self.rows = rows_of(self.sa)

    def clear(self, size: int = 60) -> bytes:
        return build_udp(Endpoint(self.ends[0], 4000), Endpoint(self.ends[1], 53), os.urandom(size))

    def seal(self, packet: bytes) -> list[bytes]:
        out = self.path.outbound([packet], 1.0)
        assert out.wire
        return out.wire


def rows_of(*sas: SecurityAssociation) -> list[dict]:
    """As the agent tells them."""
    return msgspec.to_builtins(keys_message(ExportedKeys((), sas)))["sas"]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", [*SUITES, "ah"])
@pytest.mark.parametrize("mode", list(Mode))
def test_what_was_sealed_is_seen_as_it_was(name: str, version: int, mode: Mode) -> None:
    wire = Wire(SUITES.get(name), version, mode=mode)
    opener = PacketOpener()
    opener.learn(wire.rows)
    packet = wire.clear()
    (sealed,) = wire.seal(packet)
    assert packet[-20:] not in sealed or name in ("null", "gmac", "ah")
    inside = opener.open(sealed, 1, True)
    assert inside is not None
    if version == 4:  # the data path numbers the packets that it seals
        packet, inside = (one[:4] + one[6:10] + one[12:] for one in (packet, inside))
    assert inside == packet
    assert opener.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), 1, True) is None, "forged"


def test_esp_in_udp_is_opened_and_ike_is_not() -> None:
    wire = Wire(SUITES["gcm"], udp=UdpEncapsulation(4500, 4500))
    opener = PacketOpener()
    opener.learn(wire.rows)
    packet = wire.clear()
    (sealed,) = wire.seal(packet)
    inside = opener.open(sealed, 1, True)
    assert inside is not None
    assert inside[20:] == packet[20:]
    ends = [Endpoint(end, 4500) for end in wire.ends]
    assert opener.open(build_udp(*ends, bytes(4) + b"x" * 60), 1, True) is None
    assert opener.open(build_udp(*ends, b"\xff"), 1, True) is None, "a keepalive"
    assert opener.learn([]) == []


def test_fragments_are_put_together() -> None:
    wire = Wire(SUITES["cbc"])
    opener = PacketOpener()
    opener.learn(wire.rows)
    packet = wire.clear(1300)
    pieces = [piece for sealed in wire.seal(packet) for piece in fragment(_may_be_cut(sealed), 700)]
    assert len(pieces) > 1
    found = [opener.open(piece, number, True) for number, piece in enumerate(pieces)]
    assert found[:-1] == [None] * (len(pieces) - 1)
    assert found[-1] is not None
    assert found[-1][20:] == packet[20:]


def _may_be_cut(packet: bytes) -> bytes:
    """Without “don't fragment”."""
    header = packet[:6] + bytes(2) + packet[8:10] + bytes(2) + packet[12:20]
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:] + packet[20:]


def test_packets_wait_for_keys_a_moment_and_keep_their_time() -> None:
    now = [0.0]
    wire = Wire(SUITES["gcm"])
    opener = PacketOpener(lambda: now[0])
    (first,), (second,) = wire.seal(wire.clear()), wire.seal(wire.clear())
    assert opener.open(first, 11, True) is None
    assert opener.open(second, 12, False) is None
    assert opener.learn([]) == []
    assert [(one.stamp, one.outbound) for one, _ in opener.learn(wire.rows)] == [(11, True), (12, False)]
    assert opener.learn(wire.rows) == []

    opener = PacketOpener(lambda: now[0])
    opener.open(first, 11, True)
    now[0] += WAITING_SECONDS + 1
    assert opener.learn([]) == []
    assert opener.unknown == 1
    assert opener.learn(wire.rows) == []


def test_what_waits_is_bounded_and_rubbish_is_no_packet() -> None:
    wire = Wire(SUITES["gcm"])
    (sealed,) = wire.seal(wire.clear())
    opener = PacketOpener()
    for number in range(5000):
        opener.open(sealed, number, True)
    assert opener.unknown == 5000 - 4096
    opener = PacketOpener()
    opener.learn([{**wire.rows[0], "encryption": "rot13"}])
    for rubbish in (b"", b"\x45", sealed[:24], sealed[:40], os.urandom(60), b"\x60" + os.urandom(80)):
        opener.open(rubbish, 1, True)
