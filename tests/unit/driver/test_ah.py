"""AH, and AH over ESP: against scapy in both directions, and what the packet path makes of bundles."""

import logging
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.crypto.registry import hash_algorithm, integrity_algorithm
from stockade.driver.ah import Authenticator, Verifier
from stockade.driver.contract import SaExpired
from stockade.driver.datapath import Datapath
from stockade.driver.packets import locate
from stockade.model.addresses import Endpoint
from stockade.model.filters import Direction
from stockade.model.reasons import PeerError
from stockade.model.sa import Lifetime, SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Gmac, Hash
from stockade.wire.ah import AuthenticationHeader, decode_ah_header, immutable_header
from stockade.wire.ip import build_packet
from stockade.wire.transport import build_tcp, build_udp

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
scapy_ipsec = pytest.importorskip("scapy.layers.ipsec")
scapy_inet = pytest.importorskip("scapy.layers.inet")
scapy_inet6 = pytest.importorskip("scapy.layers.inet6")

NAMES = {
    Hash.MD5: "HMAC-MD5-96",
    Hash.SHA1: "HMAC-SHA1-96",
    Hash.SHA_256: "SHA2-256-128",
    Hash.SHA_384: "SHA2-384-192",
    Hash.SHA_512: "SHA2-512-256",
}
ROUTER_ALERT_AND_RECORD_ROUTE = b"\x94\x04\0\0" + b"\x07\x07\x04\x0a\0\0\x09\x01"


def packet_of(hosts: SimpleNamespace, version: int, size: int = 100, options: bytes = b"") -> bytes:
    alpha, beta = (hosts.ALPHA, hosts.BETA) if version == 4 else (hosts.ALPHA6, hosts.BETA6)
    at = 20 if version == 4 else 40
    body = build_udp(Endpoint(alpha, 4000), Endpoint(beta, 53), bytes(size))[at:]
    first = 17
    if version == 6 and options:
        first = 60
    return build_packet(alpha, beta, first, body, traffic_class=0xB8, hop_limit=9, options=options)


def parse(packet: bytes) -> object:
    return scapy_inet.IP(packet) if packet[0] >> 4 == 4 else scapy_inet6.IPv6(packet)


def key_of(integrity: Hash) -> Secret:
    return Secret(os.urandom(hash_algorithm(integrity).integrity_key_size))


CASES = [
    (4, b""),
    (4, ROUTER_ALERT_AND_RECORD_ROUTE),
    (6, b""),
    (6, b"\x11\x00\x3e\x04abcd"),  # destination options with one that may change on the way
]


@pytest.mark.parametrize(("version", "options"), CASES)
@pytest.mark.parametrize("integrity", list(Hash))
def test_scapy_accepts_what_we_protect(
    hosts: SimpleNamespace, integrity: Hash, version: int, options: bytes
) -> None:
    key = key_of(integrity)
    ours = Authenticator(0x1000, integrity, key)
    clear = packet_of(hosts, version, options=options)
    first, protected = ours.protect([clear, clear])
    assert first != protected
    assert len(protected) - len(clear) == ours.overhead(version)
    judge = scapy_ipsec.SecurityAssociation(
        scapy_ipsec.AH, spi=0x1000, auth_algo=NAMES[integrity], auth_key=key.reveal()
    )
    received = parse(protected)
    assert received[scapy_ipsec.AH].seq == 2
    place = locate(clear)
    assert place is not None
    assert bytes(judge.decrypt(received)).endswith(clear[place[0] :])
    changed = protected[:-1] + bytes((protected[-1] ^ 1,))
    with pytest.raises(scapy_ipsec.IPSecIntegrityError):
        judge.decrypt(parse(changed))


@pytest.mark.parametrize(("version", "options"), CASES[:3])
@pytest.mark.parametrize("integrity", list(Hash))
def test_we_accept_what_scapy_protects(
    hosts: SimpleNamespace, integrity: Hash, version: int, options: bytes
) -> None:
    key = key_of(integrity)
    judge = scapy_ipsec.SecurityAssociation(
        scapy_ipsec.AH, spi=0x1000, auth_algo=NAMES[integrity], auth_key=key.reveal()
    )
    clear = packet_of(hosts, version, options=options)
    at = locate(clear)[0]
    protected = bytes(judge.encrypt(parse(clear), seq_num=7))
    verifier = Verifier(0x1000, integrity, key)
    assert verifier.open([protected], at) == [(17, clear[at:])]


def gmac_of(integrity: Gmac, key: bytes, packet: bytes, at: int) -> bytes:
    """The IV and ICV that RFC 4543 asks for, by others: scapy says what of the packet may change on the way
    and is zero (RFC 4302 §3.3.3), GCM's other interface makes the ICV."""
    field = at + 12
    iv = packet[field : field + 8]
    cipher = Cipher(algorithms.AES(key[:-4]), modes.GCM(key[-4:] + iv)).encryptor()
    fixed = bytes(scapy_ipsec.zero_mutable_fields(parse(packet)))
    assert len(fixed) == len(packet)
    assert fixed[field : field + 24] == bytes(24)
    cipher.authenticate_additional_data(fixed)
    cipher.finalize()
    return iv + cipher.tag


@pytest.mark.parametrize(("version", "options"), CASES)
@pytest.mark.parametrize("integrity", list(Gmac))
def test_gmac_is_that_of_the_standard(
    hosts: SimpleNamespace, integrity: Gmac, version: int, options: bytes
) -> None:
    key = Secret(os.urandom(integrity_algorithm(integrity).integrity_key_size))
    ours = Authenticator(0x1000, integrity, key)
    clear = packet_of(hosts, version, options=options)
    at = locate(clear)[0]
    packets = ours.protect([clear, clear])
    assert packets[0][at + 12 : at + 20] != packets[1][at + 12 : at + 20]  # no IV twice
    for protected in packets:
        assert len(protected) - len(clear) == ours.overhead(version)
        assert protected[at + 12 : at + 36] == gmac_of(integrity, key.reveal(), protected, at)
        assert Verifier(0x1000, integrity, key).open([protected], at) == [(17, clear[at:])]
        for position in (*range(at + 4, at + 36), len(protected) - 1):
            changed = protected[:position] + bytes((protected[position] ^ 1,)) + protected[position + 1 :]
            assert Verifier(0x1000, integrity, key).open([changed], at) == [None]


def test_what_routers_change_does_not_matter_and_the_rest_does(hosts: SimpleNamespace) -> None:
    key = key_of(Hash.SHA_256)
    for version, mutable in ((4, {1, 6, 7, 8, 10, 11}), (6, {0, 1, 2, 3, 7})):
        (packet,) = Authenticator(0x1000, Hash.SHA_256, key).protect([packet_of(hosts, version)])
        at = locate(packet)[0]
        for position in range(len(packet)):
            changed = packet[:position] + bytes((packet[position] ^ 0x10,)) + packet[position + 1 :]
            if version == 4 and position == 0:
                continue  # another header length: not the same packet any more
            (opened,) = Verifier(0x1000, Hash.SHA_256, key).open([changed], at)
            assert (opened is not None) == (position in mutable), position


# ---- in the packet path


def ah_sa(hosts: SimpleNamespace, version: int = 4, **values: object) -> SecurityAssociation:
    sa = hosts.make_sa(hosts.GCM, version=version)
    return replace(
        sa, esp=None, ah=Hash.SHA1, encryption_key=Secret(b""), integrity_key=key_of(Hash.SHA1), **values
    )


def make_paths(hosts: SimpleNamespace, version: int) -> tuple[Datapath, Datapath]:
    paths = (Datapath(), Datapath())
    for path in paths:
        path.install_filters(hosts.make_filters(("negotiate", 0, 0), version=version), 0.0)
    return paths


def install(alpha: Datapath, beta: Datapath, *sas: SecurityAssociation, mtu: int = 1500) -> None:
    for sa in sas:
        beta.add_sa(replace(sa, direction=Direction.INBOUND), 0.0)
    for sa in sas:
        alpha.add_sa(sa, 0.0, mtu)


def bundle(hosts: SimpleNamespace, version: int = 4, **values: object) -> list[SecurityAssociation]:
    """AH over ESP without integrity of its own; the two SPIs are the same, as a peer may choose."""
    esp = hosts.make_sa(EspSuite(Encryption.TRIPLE_DES_CBC, None), version=version, bundle=0x1000, **values)
    return [esp, ah_sa(hosts, version, bundle=0x1000, **values)]


def tcp(hosts: SimpleNamespace, version: int, size: int) -> bytes:
    alpha, beta = (hosts.ALPHA, hosts.BETA) if version == 4 else (hosts.ALPHA6, hosts.BETA6)
    return build_tcp(Endpoint(alpha, 1), Endpoint(beta, 2), bytes(range(256)) * (size // 256))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("with_esp", [False, True])
def test_packets_arrive_as_they_were(hosts: SimpleNamespace, version: int, with_esp: bool) -> None:
    alpha, beta = make_paths(hosts, version)
    install(alpha, beta, *(bundle(hosts, version) if with_esp else [ah_sa(hosts, version)]))
    clear = [packet_of(hosts, version), packet_of(hosts, version, 1)]
    wire = alpha.outbound(clear, 1.0).wire
    assert {locate(packet)[1] for packet in wire} == {51}
    got = beta.inbound(wire, 1.0)
    at = 20 if version == 4 else 40
    assert [packet[at:] for packet in got] == [packet[at:] for packet in clear]
    assert [packet[-at + 8 : at] for packet in got] == [packet[-at + 8 : at] for packet in clear]
    large = alpha.outbound([tcp(hosts, version, 51_200)], 1.0).wire
    assert 1480 < max(map(len, large)) <= 1500
    assert b"".join(packet[at + 20 :] for packet in beta.inbound(large, 1.0)) == bytes(range(256)) * 200
    assert beta.inbound(wire, 1.0) == []
    assert dict(beta.statistics(1.0).refused) == {"replayed": 2}


@pytest.mark.parametrize("version", [4, 6])
def test_scapy_opens_a_bundle(hosts: SimpleNamespace, version: int) -> None:
    alpha, beta = make_paths(hosts, version)
    esp = hosts.make_sa(EspSuite(Encryption.AES_CBC_128, None), version=version, bundle=0x1000)
    ah = ah_sa(hosts, version, bundle=0x1000)
    install(alpha, beta, esp, ah)
    clear = packet_of(hosts, version)
    (wire,) = alpha.outbound([clear], 1.0).wire
    outer = scapy_ipsec.SecurityAssociation(
        scapy_ipsec.AH, spi=0x1000, auth_algo="HMAC-SHA1-96", auth_key=ah.integrity_key.reveal()
    )
    inner = scapy_ipsec.SecurityAssociation(
        scapy_ipsec.ESP, spi=0x1000, crypt_algo="AES-CBC", crypt_key=esp.encryption_key.reveal()
    )
    stripped = outer.decrypt(parse(wire))
    opened = inner.decrypt(parse(bytes(stripped)))
    assert bytes(opened).endswith(clear[20 if version == 4 else 40 :])


def test_half_a_bundle_carries_nothing(hosts: SimpleNamespace) -> None:
    for half in (0, 1):
        alpha, beta = make_paths(hosts, 4)
        sas = bundle(hosts)
        alpha.add_sa(sas[half], 0.0)
        assert alpha.outbound([hosts.udp()], 0.1).wire == []
        (wire,) = alpha.add_sa(sas[1 - half], 0.2).wire  # what waited
        beta.add_sa(replace(sas[half], direction=Direction.INBOUND), 0.0)
        assert beta.inbound([wire], 0.3) == []
        beta.add_sa(replace(sas[1 - half], direction=Direction.INBOUND), 0.0)
        (wire,) = alpha.outbound([hosts.udp()], 0.4).wire
        (got,) = beta.inbound([wire], 0.4)
        assert got[20:] == hosts.udp()[20:]
    alpha.remove_sa(0x1000, Direction.OUTBOUND, hosts.BETA)
    assert alpha.outbound([hosts.udp()], 0.5).wire == []


def test_the_inner_esp_is_not_taken_bare_nor_the_outer_ah_with_anything_else(hosts: SimpleNamespace) -> None:
    alpha, beta = make_paths(hosts, 4)
    esp, ah = bundle(hosts)
    install(alpha, beta, esp, ah)
    lonely = replace(esp, bundle=None)
    other, _ = make_paths(hosts, 4)
    other.add_sa(lonely, 0.0)
    assert beta.inbound(other.outbound([hosts.udp()], 0.1).wire, 0.1) == []
    assert dict(beta.statistics(0.2).refused) == {"selector-mismatch": 1}
    plain_ah, _ = make_paths(hosts, 4)
    plain_ah.add_sa(replace(ah, bundle=None), 0.0)
    assert beta.inbound(plain_ah.outbound([hosts.udp()], 0.1).wire, 0.1) == []


def test_a_bundle_dies_whole(hosts: SimpleNamespace) -> None:
    alpha, _ = make_paths(hosts, 4)
    esp, ah = bundle(hosts)
    alpha.add_sa(replace(esp, spi=0x2000, bundle=0x1000, lifetime=Lifetime(hard_seconds=5)), 0.0)
    alpha.add_sa(replace(ah, bundle=0x2000), 0.0)
    alpha.tick(6.0)
    expired = [event for event in alpha.events() if isinstance(event, SaExpired)]
    assert {event.spi for event in expired} == {0x1000, 0x2000}
    assert alpha.statistics(6.0).sas == ()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2000), st.integers(1, 255), st.integers(0, 30), st.sampled_from([4, 6]))
def test_mutated_packets_are_counted_and_dropped(at: int, flip: int, cut: int, version: int) -> None:
    hosts = _hosts()
    alpha, beta = make_paths(hosts, version)
    install(alpha, beta, *bundle(hosts, version))
    (wire,) = alpha.outbound([packet_of(hosts, version)], 1.0).wire
    at %= len(wire)
    mutated = wire[:at] + bytes((wire[at] ^ flip,)) + wire[at + 1 : len(wire) - cut]
    result = beta.inbound([mutated], 1.0)
    mutable = {1, 6, 7, 8, 10, 11} if version == 4 else {0, 1, 2, 3, 7}
    assert bool(result) == (at in mutable and not cut and bool(result))
    beta.tick(60.0)  # another SPI might have been ahead of its SA
    assert bool(result) != bool(beta.statistics(60.0).refused)
    if not cut and at not in mutable:
        assert result == []


def _hosts() -> SimpleNamespace:
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("hosts", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return SimpleNamespace(**vars(module))


# ---- the codec


@given(st.integers(0, 255), st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=64))
def test_the_header_survives_the_wire(next_header: int, spi: int, sequence: int, icv: bytes) -> None:
    header = AuthenticationHeader(next_header, spi, sequence, icv[: len(icv) // 4 * 4])
    assert decode_ah_header(b"xx" + header.encode() + b"rest", 2) == header


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_give_a_header_or_the_peers_error(data: bytes) -> None:
    for start in (b"", b"\x46" + bytes(19), b"\x60" + bytes(39), b"\x60" + bytes(5) + b"\x3c" + bytes(33)):
        for function in (decode_ah_header, immutable_header):
            try:
                function(start + data) if start or function is decode_ah_header else None
            except PeerError:
                continue
