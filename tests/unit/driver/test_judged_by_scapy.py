"""The packet path against scapy, in both directions: every suite of ESP and AH, both modes, both families,
bare and in UDP. Whole IP packets in, whole IP packets out; and what mutated packets come to."""

import logging
import os
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from stockade.crypto.registry import integrity_algorithm
from stockade.driver.datapath import Datapath
from stockade.driver.userspace import virtio
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.sa import SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Gmac, Hash, Integrity
from stockade.model.traffic import TrafficSelector
from stockade.wire.transport import build_udp

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
scapy_ipsec = pytest.importorskip("scapy.layers.ipsec")
scapy_inet = pytest.importorskip("scapy.layers.inet")
scapy_inet6 = pytest.importorskip("scapy.layers.inet6")

CIPHERS = {
    Encryption.NULL: "NULL",
    Encryption.DES_CBC: "DES",
    Encryption.TRIPLE_DES_CBC: "3DES",
    **{entry: "AES-CBC" for entry in Encryption if entry.startswith("aes-cbc")},
    **{entry: "AES-GCM" for entry in Encryption if entry.startswith("aes-gcm")},
    **{entry: "AES-CCM" for entry in Encryption if entry.startswith("aes-ccm")},
    **{entry: "AES-NULL-GMAC" for entry in Encryption if entry.startswith("aes-gmac")},
    Encryption.CHACHA20_POLY1305: "CHACHA20-POLY1305",
}
HASHES = {
    Hash.MD5: "HMAC-MD5-96",
    Hash.SHA1: "HMAC-SHA1-96",
    Hash.SHA_256: "SHA2-256-128",
    Hash.SHA_384: "SHA2-384-192",
    Hash.SHA_512: "SHA2-512-256",
}
ESP_SUITES: list[EspSuite | Integrity] = [
    *(EspSuite(entry, None) for entry in Encryption if entry.is_aead),
    *(EspSuite(entry, hashed) for entry in Encryption if not entry.is_aead for hashed in Hash),
]
MODES = [(mode, version) for mode in Mode for version in (4, 6)]
SECRET = b"nobody but the two ends may read this sentence"


def sa_of(hosts: SimpleNamespace, suite: EspSuite | Integrity, **values: object) -> SecurityAssociation:
    if isinstance(suite, EspSuite):
        return hosts.make_sa(suite, **values)
    key = Secret(os.urandom(integrity_algorithm(suite).integrity_key_size))
    sa = hosts.make_sa(hosts.GCM, **values)
    return replace(sa, esp=None, ah=suite, encryption_key=Secret(b""), integrity_key=key)


def judge_of(sa: SecurityAssociation) -> object:
    """The SA as scapy has it."""
    words: dict[str, object] = {}
    if sa.esp is not None:
        name = CIPHERS[sa.esp.encryption]
        if name not in scapy_ipsec.CRYPT_ALGOS:
            pytest.skip(f"this scapy has no {name}")
        words["crypt_algo"] = name
        if sa.esp.encryption is not Encryption.NULL:
            words["crypt_key"] = sa.encryption_key.reveal()
    hashed = sa.ah if sa.esp is None else sa.esp.integrity
    if hashed is not None:
        words |= {"auth_algo": HASHES[hashed], "auth_key": sa.integrity_key.reveal()}
    if sa.mode is Mode.TUNNEL:
        kind = scapy_inet.IP if sa.source.version == 4 else scapy_inet6.IPv6
        words["tunnel_header"] = kind(src=str(sa.source), dst=str(sa.destination))
    if sa.udp is not None:
        words["nat_t_header"] = scapy_inet.UDP(sport=sa.udp.source_port, dport=sa.udp.destination_port)
    protocol = scapy_ipsec.ESP if sa.esp is not None else scapy_ipsec.AH
    return scapy_ipsec.SecurityAssociation(protocol, spi=sa.spi, **words)


def parse(packet: bytes) -> object:
    return scapy_inet.IP(packet) if packet[0] >> 4 == 4 else scapy_inet6.IPv6(packet)


def host(hosts: SimpleNamespace, sa: SecurityAssociation) -> Datapath:
    path = Datapath()
    filters = hosts.make_filters(("negotiate", 0, 0), version=sa.selector.version)
    tunnels = {"rule": sa.peer} if sa.mode is Mode.TUNNEL else {}
    path.install_filters(filters, 0.0, tunnels)
    path.add_sa(sa, 0.0)
    return path


SIZES = (0, 1, 2, 3, 200, 1100)
FEW_SIZES = (1, 1100)
"""Where the padding, which goes by the size, has been looked at with the same suite."""


def clear_packets(hosts: SimpleNamespace, version: int, sizes: tuple[int, ...] = SIZES) -> list[bytes]:
    alpha, beta = (hosts.ALPHA, hosts.BETA) if version == 4 else (hosts.ALPHA6, hosts.BETA6)
    return [
        build_udp(Endpoint(alpha, 4000 + size), Endpoint(beta, 53), SECRET + bytes(size)) for size in sizes
    ]


def check_both_ways(
    hosts: SimpleNamespace,
    sa: SecurityAssociation,
    version: int | None = None,
    sizes: tuple[int, ...] = SIZES,
) -> None:
    """`version`: of the packets, where a tunnel has another one."""
    version = sa.source.version if version is None else version
    at = 20 if version == 4 else 40
    clear = clear_packets(hosts, version, sizes)
    sealed = host(hosts, sa).outbound(clear, 0.0).wire
    assert len(sealed) == len(clear)
    judge = judge_of(sa)
    for packet, original in zip(sealed, clear, strict=True):
        hides = sa.esp is not None and sa.esp.encryption.is_confidential
        assert (SECRET in packet) is not hides
        opened = bytes(judge.decrypt(parse(packet)))
        # scapy gives the payload; headers it makes anew
        assert opened[at:] == original[at:]
    receiver = host(hosts, replace(sa, direction=Direction.INBOUND))
    made = [bytes(judge.encrypt(parse(packet), seq_num=number)) for number, packet in enumerate(clear, 1)]
    take = receiver.inbound if sa.udp is None else receiver.inbound_udp
    given = take(made, 1.0)
    assert [packet[at:] for packet in given] == [packet[at:] for packet in clear]
    assert not receiver.statistics(1.0).refused


@pytest.mark.parametrize(("mode", "version"), MODES)
@pytest.mark.parametrize("suite", ESP_SUITES, ids=str)
def test_esp(hosts: SimpleNamespace, suite: EspSuite, mode: Mode, version: int) -> None:
    check_both_ways(hosts, sa_of(hosts, suite, mode=mode, version=version))


@pytest.mark.parametrize(("mode", "version"), MODES)
@pytest.mark.parametrize("suite", ESP_SUITES, ids=str)
def test_esp_in_udp(hosts: SimpleNamespace, suite: EspSuite, mode: Mode, version: int) -> None:
    ends = (hosts.ALPHA, hosts.BETA) if version == 4 else (hosts.ALPHA6, hosts.BETA6)
    original = ends if mode is Mode.TRANSPORT else None
    udp = UdpEncapsulation(4500, 4500)
    sa = sa_of(hosts, suite, mode=mode, version=version, udp=udp, original=original)
    check_both_ways(hosts, sa, sizes=FEW_SIZES)


@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("suite", [*ESP_SUITES, *Hash], ids=str)
def test_a_tunnel_of_the_other_family(
    hosts: SimpleNamespace, suite: EspSuite | Integrity, inner: int
) -> None:
    """IPv4 in IPv6 and IPv6 in IPv4."""
    ends = (hosts.ALPHA, hosts.BETA) if inner == 4 else (hosts.ALPHA6, hosts.BETA6)
    selector = TrafficSelector(*map(AddressRange.host, ends))
    sa = sa_of(hosts, suite, mode=Mode.TUNNEL, version=10 - inner, selector=selector)
    check_both_ways(hosts, sa, inner, FEW_SIZES)


@pytest.mark.parametrize(("mode", "version"), MODES)
@pytest.mark.parametrize("integrity", list(Hash), ids=str)
def test_ah(hosts: SimpleNamespace, integrity: Hash, mode: Mode, version: int) -> None:
    check_both_ways(hosts, sa_of(hosts, integrity, mode=mode, version=version))


MUTATED: list[EspSuite | Integrity] = [
    EspSuite(Encryption.AES_GCM_128, None),
    EspSuite(Encryption.AES_CCM_256, None),
    EspSuite(Encryption.CHACHA20_POLY1305, None),
    EspSuite(Encryption.AES_GMAC_192, None),
    EspSuite(Encryption.AES_CBC_256, Hash.SHA_512),
    EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1),
    EspSuite(Encryption.NULL, Hash.MD5),
    Hash.SHA_256,
    Gmac.AES_GMAC_128,
]


@pytest.mark.parametrize(("mode", "version"), MODES)
@pytest.mark.parametrize("suite", MUTATED, ids=str)
def test_a_mutated_packet_is_counted_and_dropped(
    hosts: SimpleNamespace, suite: EspSuite | Integrity, mode: Mode, version: int
) -> None:
    """Never an exception, never a packet that nobody sent: what comes out is exactly what went in."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    sa = sa_of(hosts, suite, mode=mode, version=version)
    clear = clear_packets(hosts, version)
    at = 20 if version == 4 else 40
    sealed = host(hosts, sa).outbound(clear, 0.0).wire
    receiver = host(hosts, replace(sa, direction=Direction.INBOUND))
    for _ in range(200):
        packet = bytearray(chance.choice(sealed))
        for _ in range(chance.randrange(1, 4)):
            match chance.randrange(4):
                case 0 if len(packet) > 1:
                    del packet[chance.randrange(1, len(packet)) :]
                case 1:
                    packet += chance.randbytes(chance.randrange(1, 40))
                case _:
                    packet[chance.randrange(len(packet))] ^= 1 << chance.randrange(8)
        before = sum(count for _, count in receiver.statistics(1.0).refused)
        given = receiver.inbound([bytes(packet)], 1.0)
        receiver.tick(10.0)  # what waits for an SA of its SPI is given up, and counted
        after = sum(count for _, count in receiver.statistics(1.0).refused)
        assert len(given) + after - before == 1
        for found in given:  # a change where routers may make one, which ESP does not cover
            assert found[at:] in [original[at:] for original in clear]
    for event in receiver.events():
        assert SECRET.decode() not in repr(event)
        for key in (sa.encryption_key.reveal(), sa.integrity_key.reveal()):
            assert not key or key.hex() not in repr(event)


BEFORE_THE_WRAP = (3 << 32) - 3
"""Of six packets after this number the first two have the upper half 2, the others 3, and one the lower half
0."""


@pytest.mark.parametrize(("mode", "version"), MODES)
@pytest.mark.parametrize("suite", [*ESP_SUITES, *Hash], ids=str)
def test_extended_sequence_numbers(
    hosts: SimpleNamespace, suite: EspSuite | Integrity, mode: Mode, version: int
) -> None:
    """Across the end of 32 bits, in both directions, with loss and out of order."""
    sa = sa_of(hosts, suite, mode=mode, version=version, extended_sequence=True)
    clear = clear_packets(hosts, version)
    numbers = [BEFORE_THE_WRAP + n for n in range(1, len(clear) + 1)]
    at = 20 if version == 4 else 40
    judge = judge_of(sa)
    sender = host(hosts, sa)
    (entry,) = sender._sad
    (entry.sealer or entry.authenticator).sequence = BEFORE_THE_WRAP
    sealed = sender.outbound(clear, 0.0).wire
    assert entry.sequence == numbers[-1]
    for packet, original, number in zip(sealed, clear, numbers, strict=True):
        parsed = parse(packet)
        assert parsed[judge.proto].seq == number & 0xFFFF_FFFF
        opened = bytes(judge.decrypt(parsed.copy(), esn_en=True, esn=number >> 32))
        assert opened[at:] == original[at:]
        with pytest.raises(scapy_ipsec.IPSecIntegrityError):
            judge.decrypt(parsed.copy(), esn_en=True, esn=(number >> 32) - 1)
    judge.seq_num = 0  # scapy takes this where it is given 0
    made = [
        bytes(judge.encrypt(parse(packet), seq_num=number & 0xFFFF_FFFF, esn_en=True, esn=number >> 32))
        for packet, number in zip(clear, numbers, strict=True)
    ]
    for order in ((0, 1, 2, 3, 4, 5), (0, 2, 1, 5, 4, 3), (5, 0, 1, 2, 3, 4), (1, 3), (4,)):
        for batch in (1, 6):
            receiver = host(hosts, replace(sa, direction=Direction.INBOUND))
            (entry,) = receiver._sad
            assert entry.window.accept(BEFORE_THE_WRAP)
            wanted = [made[n] for n in order]
            given = []
            for start in range(0, len(wanted), batch):
                given += receiver.inbound(wanted[start : start + batch], 1.0)
            assert [packet[at:] for packet in given] == [clear[n][at:] for n in order]
            assert not receiver.statistics(1.0).refused
            assert receiver.inbound(wanted, 1.0) == []
            assert dict(receiver.statistics(1.0).refused) == {"replayed": len(order)}


@pytest.mark.parametrize("version", [4, 6])
def test_a_burst_of_datagrams_is_cut_at_the_programs_borders(hosts: SimpleNamespace, version: int) -> None:
    """Judged by scapy: whole datagrams, right checksums, identifications that run on."""
    one, other = (hosts.ALPHA, hosts.BETA) if version == 4 else (hosts.ALPHA6, hosts.BETA6)
    data = bytes(range(256)) * 10
    packet = build_udp(Endpoint(one, 4000), Endpoint(other, 53), data)
    at = 20 if version == 4 else 40
    header = virtio._HEADER.pack(1, 5, at + 8, 700, at, 6)
    cut = virtio.take_all(header + packet)
    assert [len(each) - at - 8 for each in cut] == [700, 700, 700, 460]
    assert b"".join(each[at + 8 :] for each in cut) == data
    kind = scapy_inet.IP if version == 4 else scapy_inet6.IPv6
    for number, each in enumerate(cut):
        judged = kind(each)
        wanted = judged.copy()
        del wanted[scapy_inet.UDP].chksum, wanted[scapy_inet.UDP].len
        if version == 4:
            del wanted.chksum, wanted.len
            assert judged.id == (int.from_bytes(packet[4:6], "big") + number) & 0xFFFF
        else:
            del wanted.plen
        assert bytes(wanted) == each
    # What makes no sense as one stays one packet, whatever it is.
    for size, start in ((0, at), (700, 0), (700, len(packet))):
        broken = virtio._HEADER.pack(0, 5, at + 8, size, start, 6)
        assert virtio.take_all(broken + packet) == [packet]
    assert virtio.take_all(bytes(10)) == [b""]
