"""The contract of every decoder of `stockade.wire`: any bytes give a value or a `PeerError`, in bounded time.

`fuzz_one(data)` is the one target, for hypothesis here and for a coverage-guided harness such as atheris:
the first two bytes choose the decoder, the rest is its input. It raises only where the contract is broken.
What an ISAKMP decoder accepts must also survive a second trip over the wire.
"""

import importlib
import inspect
import pkgutil
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import stockade.wire
from stockade.model.addresses import Endpoint
from stockade.model.reasons import HostError, PeerError
from stockade.model.secret import Secret
from stockade.wire.ah import AuthenticationHeader, decode_ah_header
from stockade.wire.cursor import Cursor
from stockade.wire.esp import EspHeader, decode_esp_header, remove_esp_trailer
from stockade.wire.ip import build_packet, flow_of, ipv4_checksum_is_right, parse_packet, replace_payload
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.message import (
    HEADER_SIZE,
    MAXIMUM_PAYLOADS,
    Header,
    decode_clear_payloads,
    decode_header,
    decode_payloads,
    encode_message,
    encode_payload_body,
    encode_payloads,
)
from stockade.wire.isakmp.payloads import (
    Attribute,
    CertificatePayload,
    CertificateRequestPayload,
    DeletePayload,
    FragmentPayload,
    GssPayload,
    HashPayload,
    IdentificationPayload,
    KeyExchangePayload,
    NatDetectionPayload,
    NatOriginalAddressPayload,
    NoncePayload,
    NotificationPayload,
    Payload,
    ProposalPayload,
    SecurityAssociationPayload,
    SignaturePayload,
    TransformPayload,
    UnknownPayload,
    VendorIdPayload,
    decode_body,
    microsoft_value,
)
from stockade.wire.netlink import (
    NetlinkMessage,
    decode_attributes,
    decode_messages,
    encode_attributes,
)
from stockade.wire.pac import read_logon_info
from stockade.wire.pcap import (
    LinkType,
    pcap_header,
    pcap_record,
    pcapng_header,
    pcapng_record,
    read_capture,
)
from stockade.wire.rtnetlink import (
    decode_address,
    decode_gateways,
    decode_link_mtu,
    decode_link_type,
    decode_route,
    decode_rule,
    default_route,
    mark_rule,
    set_link,
)
from stockade.wire.transport import (
    build_echo,
    build_tcp,
    build_udp,
    decode_icmp,
    decode_tcp,
    decode_udp,
)
from stockade.wire.udp_encapsulation import add_marker, classify, remove_marker
from stockade.wire.unreachable import read_unreachable
from stockade.wire.vendor_ids import microsoft_version, vendor_name
from stockade.wire.xfrm import (
    Algorithm,
    Encapsulation,
    Offload,
    OffloadFlag,
    Policy,
    PolicyAction,
    PolicyDirection,
    State,
    Template,
    XfrmMode,
    XfrmSelector,
)
from stockade.wire.xfrm_decode import (
    decode_acquire,
    decode_expire,
    decode_mapping,
    decode_policy,
    decode_policy_statistics,
    decode_sa_statistics,
    decode_state,
)

ICMP_UNREACHABLE = [
    bytes.fromhex(
        "45000038000100004001661f0a0000fe0a00000103010000000000004500003c00010000403266d70a0000010a000002"
        "1234567800000009"
    ),
    bytes.fromhex(
        "6000000000383a40fd0000000000000000000000000000fefd00000000000000000000000000000101030000000000006000"
        "000000083240fd000000000000000000000000000001fd0000000000000000000000000000021234567800000009"
    ),
]
# ---- the decoders
SELF_CONTAINED_TYPES = [
    *(kind for kind in PayloadType if kind not in (PayloadType.PROPOSAL, PayloadType.TRANSFORM)),
    200,
]


def payload_decoder(kind: int) -> Callable[[bytes], None]:
    def decode(data: bytes) -> None:
        payload = decode_body(kind, Cursor(data, "fuzz"))
        assert payload.payload_type == kind
        again = encode_payload_body(payload)
        assert len(again) == len(data)
        assert decode_body(kind, Cursor(again, "fuzz")) == payload
        assert str(payload)
        if isinstance(payload, IdentificationPayload):
            payload.addresses()
        elif isinstance(payload, NotificationPayload):
            microsoft_value(payload)
        elif isinstance(payload, VendorIdPayload):
            vendor_name(payload.data)
            microsoft_version(payload.data)
        elif isinstance(payload, SecurityAssociationPayload):
            for proposal in payload.proposals:
                for transform in proposal.transforms:
                    for attribute in transform.attributes:
                        assert attribute.number is None or attribute.number < 1 << 64

    return decode


def chain_decoder(padded: bool) -> Callable[[bytes], None]:
    def decode(data: bytes) -> None:
        """The first byte is the type of the first payload."""
        first, body = (data[0], data[1:]) if data else (0, b"")
        received = decode_payloads(first, body, padded=padded)
        assert len(received) <= MAXIMUM_PAYLOADS
        position = 0
        for each in received:
            assert each.start == position
            assert body[each.start + 4 : each.end] == each.body
            position = each.end
        assert len(body) - position <= (255 if padded else 0)
        again = encode_payloads([each.payload for each in received])
        assert again[0] == first
        assert [each.payload for each in decode_payloads(*again)] == [each.payload for each in received]

    return decode


def message(data: bytes) -> None:
    header = decode_header(data)
    assert encode_message(header, data[HEADER_SIZE:]) == data
    decode_payloads(header.next_payload, data[HEADER_SIZE:], padded=header.encrypted)


def encapsulated_message(data: bytes) -> None:
    classify(data)
    message(remove_marker(data))


def ip_packet(data: bytes) -> None:
    packet = parse_packet(data)
    assert 20 <= packet.header_length <= packet.payload_offset <= packet.total_length <= len(data)
    assert data[packet.protocol_offset] == packet.protocol
    payload = data[packet.payload_offset : packet.total_length]
    assert len(replace_payload(packet, data, packet.protocol, payload)) == packet.total_length
    if packet.version == 4:
        ipv4_checksum_is_right(data)
    flow = flow_of(data)
    assert (flow.source, flow.destination) == (packet.source, packet.destination)


def attribute(data: bytes) -> None:
    cursor = Cursor(data, "fuzz")
    decoded = Attribute.decode(cursor)
    assert decoded.encode() == data[: cursor.position]


def nested(decode: Callable[[Cursor], ProposalPayload | TransformPayload]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        try:
            decoded = decode(Cursor(data, "fuzz"))
        except ValueError as fault:
            raise AssertionError("decoders never raise ValueError themselves") from fault
        assert decode(Cursor(decoded.encode_body(), "fuzz")) == decoded

    return run


def capture(data: bytes) -> None:
    cut = 0
    for packet in read_capture(data, allow_cut=True):
        assert len(packet.data) <= len(data)
        cut += 1
    assert cut <= len(data) // 16
    assert len(list(read_capture(data))) == cut


LOGON_INFO = Path(__file__).parents[1] / "data" / "kerberos" / "samba-logon-info.bin"


def clear_chain(data: bytes) -> None:
    for _ in range(2 if data else 0):  # the second time from memory
        assert decode_clear_payloads(data[0], data[1:]) == decode_payloads(data[0], data[1:])


def esp_trailer(data: bytes) -> None:
    size, _ = remove_esp_trailer(data)
    assert 0 <= size <= len(data) - 2


def netlink(decode: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Netlink comes from the kernel, so what is wrong with it is the host's error."""

    def run(data: bytes) -> None:
        with suppress(HostError):
            decode(data)

    return run


DECODERS: dict[str, Callable[[bytes], object]] = {
    **{f"payload {int(kind)}": payload_decoder(kind) for kind in SELF_CONTAINED_TYPES},
    "attribute": attribute,
    "proposal": nested(ProposalPayload.decode),
    "transform": nested(TransformPayload.decode),
    "chain": chain_decoder(False),
    "padded chain": chain_decoder(True),
    "clear chain": clear_chain,
    "message": message,
    "encapsulated message": encapsulated_message,
    "IP packet": ip_packet,
    "UDP": decode_udp,
    "TCP": decode_tcp,
    "ICMP": decode_icmp,
    "ESP header": decode_esp_header,
    "AH": decode_ah_header,
    "ESP trailer": esp_trailer,
    "capture": capture,
    "netlink messages": netlink(lambda data: [message.error for message in decode_messages(data)]),
    "netlink attributes": netlink(decode_attributes),
    "address message": netlink(decode_address),
    "link message": netlink(decode_link_mtu),
    "link type message": netlink(decode_link_type),
    "gateways of a route": netlink(lambda body: decode_gateways(body, 254)),
    "route message": netlink(decode_route),
    "rule message": netlink(decode_rule),
    "XFRM state": netlink(decode_state),
    "XFRM policy": netlink(decode_policy),
    "XFRM acquire": netlink(decode_acquire),
    "XFRM expire": netlink(decode_expire),
    "XFRM SA statistics": netlink(decode_sa_statistics),
    "XFRM policy statistics": netlink(decode_policy_statistics),
    "XFRM mapping": netlink(decode_mapping),
    "ICMP unreachable": read_unreachable,
    "PAC": read_logon_info,
}
NAMES = list(DECODERS)
CODES = {name: crc32(name.encode()) >> 16 for name in NAMES}
"""By its name, so that the kept corpus means the same whatever decoders come and go."""
_NUMBERED = sorted((code, name) for name, code in CODES.items())


def check_error(error: PeerError) -> None:
    """An error says what was expected, and no peer can make it long."""
    assert error.reason.detail
    assert len(str(error)) < 500


def fuzz_one(data: bytes) -> None:
    """One input, as a coverage-guided fuzzer gives it."""
    if len(data) >= 2:
        try:
            DECODERS[chosen(data)](data[2:])
        except PeerError as error:
            check_error(error)


def chosen(data: bytes) -> str:
    """The decoder of that code, or the next one, so that no input is for nobody."""
    return _NUMBERED[bisect_left(_NUMBERED, (int.from_bytes(data[:2]), "")) % len(_NUMBERED)][1]


def inputs_to_start_from() -> list[bytes]:
    """The valid inputs of every decoder, as `fuzz_one` takes them."""
    return [CODES[name].to_bytes(2) + seed for name, seeds in SEEDS.items() for seed in seeds]


# ---- valid inputs to start from
def seeds() -> dict[str, list[bytes]]:
    transform = TransformPayload(1, 1, (Attribute(1, 7), Attribute(14, 256), Attribute(12, b"\0\0\x70\x80")))
    proposal = ProposalPayload(1, 3, b"\1\2\3\4", (transform, TransformPayload(2, 12, ())))
    payloads: list[Payload] = [
        SecurityAssociationPayload(1, 1, (proposal, ProposalPayload(2, 2, b"\1\2\3\4", (transform,)))),
        KeyExchangePayload(bytes(32)),
        IdentificationPayload(4, 6, 80, bytes.fromhex("0a000000ff000000")),
        CertificatePayload(4, b"certificate"),
        CertificateRequestPayload(4, b"authority"),
        HashPayload(bytes(20)),
        SignaturePayload(b"signature"),
        NoncePayload(bytes(16)),
        NotificationPayload(1, 3, bytes(8), 40003, bytes(8)),
        DeletePayload(1, 3, 4, (b"spi1", b"spi2")),
        VendorIdPayload(bytes.fromhex("1e2b516905991c7d7c96fcbfb587e46100000004")),
        NatDetectionPayload(20, bytes(20)),
        NatDetectionPayload(130, bytes(20)),
        NatOriginalAddressPayload(21, IPv4Address("10.0.0.1")),
        NatOriginalAddressPayload(131, IPv6Address("fd00::1")),
        GssPayload(b"token"),
        UnknownPayload(14, b"attributes"),
        UnknownPayload(200, b"unknown"),
    ]
    fragment = FragmentPayload(1, 2, 1, b"part")
    table = {f"payload {payload.payload_type:d}": [encode_payload_body(payload)] for payload in payloads}
    table["payload 132"] = [encode_payload_body(fragment)]
    table["payload 0"] = [b""]
    table["attribute"] = [Attribute(1, 7).encode(), Attribute(12, b"\0\0\x70\x80").encode()]
    table["proposal"] = [proposal.encode_body()]
    table["transform"] = [transform.encode_body()]
    chains = [encode_payloads(payloads), encode_payloads([fragment]), encode_payloads(payloads[5:9])]
    table["chain"] = table["padded chain"] = table["clear chain"] = [
        bytes((first,)) + body for first, body in chains
    ]
    table["message"] = [
        encode_message(Header(b"initiate", b"respond.", first, 0x10, 32, 0, 1), body)
        for first, body in chains
    ]
    table["encapsulated message"] = [add_marker(datagram) for datagram in table["message"]]
    four = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    six = IPv6Address("fd00::1"), IPv6Address("fd00::2")
    extensions = bytes.fromhex("2b00050200000100" + "2c00030000000000" + "0600000112345678")
    table["IP packet"] = [
        build_tcp(Endpoint(four[0], 1), Endpoint(four[1], 2), b"data"),
        build_udp(Endpoint(six[0], 1), Endpoint(six[1], 2), b"data"),
        build_echo(*four, identifier=1, sequence=2),
        build_packet(*four, 6, bytes(20), options=bytes.fromhex("0194040000000000"), fragment_offset=8),
        build_packet(*six, 0, bytes(20), options=extensions),
    ]
    table["UDP"] = [table["IP packet"][1][40:]]
    table["TCP"] = [table["IP packet"][0][20:]]
    table["ICMP"] = [table["IP packet"][2][20:]]
    table["ICMP unreachable"] = ICMP_UNREACHABLE
    table["PAC"] = [LOGON_INFO.read_bytes()]
    longest = AuthenticationHeader(6, 256, 1, bytes(1016)).encode()
    table["AH"] = [AuthenticationHeader(6, 256, 1, bytes(12)).encode(), longest]
    table["ESP header"] = [EspHeader(256, 1).encode()]
    table["ESP trailer"] = [b"data\1\2\2\6"]
    table["capture"] = [
        head(LinkType.RAW) + record(1, b"one") + record(2, b"second")
        for head, record in ((pcap_header, pcap_record), (pcapng_header, pcapng_record))
    ]
    rule = mark_rule(4, 100, 200, 1, 2)
    route = default_route(4, 100, interface=2, metric=7)
    table["netlink messages"] = [NetlinkMessage(20, 0, 1, b"body").encode() * 2]
    table["netlink attributes"] = [encode_attributes({1: b"\1\2\3", 4: bytes(4)})]
    table["address message"] = [
        bytes((2, 24, 0, 0)) + (2).to_bytes(4, "little") + encode_attributes({2: four[0].packed})
    ]
    table["link message"] = [set_link(2, mtu=1500, queue=100)]
    table["link type message"] = [set_link(2, mtu=1500, queue=100)]
    table["route message"] = [route]
    hop = (8).to_bytes(2, "little") + bytes(6) + encode_attributes({5: four[0].packed})
    hops = len(hop).to_bytes(2, "little") + hop[2:]
    main_route = bytes((2, 0, 0, 0, 254, 3, 0, 1)) + bytes(4)
    table["gateways of a route"] = [
        main_route + encode_attributes({5: four[0].packed}),
        main_route + encode_attributes({9: hops + hops}),
    ]
    table["rule message"] = [rule]
    return table | xfrm_seeds()


def xfrm_seeds() -> dict[str, list[bytes]]:
    """One message of each kind that the kernel sends."""
    ends = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    selector = XfrmSelector(IPv4Network("10.0.0.1/32"), IPv4Network("10.0.0.0/24"), 6, 0, 443)
    template = Template(50, XfrmMode.TRANSPORT, 7, 4, destination=ends[1])
    policy = Policy(selector, PolicyDirection.OUT, PolicyAction.ALLOW, 9, (template,), mark=(1, 2))
    state = State(
        selector,
        *ends,
        0x1234,
        50,
        7,
        XfrmMode.TRANSPORT,
        window=1024,
        encryption=Algorithm("rfc4106(gcm(aes))", Secret(bytes(20)), 128, is_aead=True),
        integrity=Algorithm("hmac(sha1)", Secret(bytes(20)), 96),
        encapsulation=Encapsulation(4500, 4500),
        offload=Offload(2, OffloadFlag.INBOUND),
    )
    identity = ends[1].packed + bytes(12) + bytes(4) + bytes((50, 0, 0, 0))
    acquire = identity + ends[0].packed + bytes(12) + selector.encode() + policy.encode_fixed() + bytes(16)
    changed = ends[1].packed + bytes(16) + (2).to_bytes(2, sys.byteorder) + bytes((50, 0)) + bytes(4)
    changed += 2 * (ends[0].packed + bytes(12)) + bytes(4)
    return {
        "XFRM mapping": [changed],
        "XFRM state": [state.encode()],
        "XFRM policy": [policy.encode()],
        "XFRM acquire": [acquire + encode_attributes({5: template.encode()})],
        "XFRM expire": [state.encode()[:224] + b"\1" + bytes(7)],
        "XFRM SA statistics": [bytes(4) + encode_attributes({1: bytes(4), 2: bytes(8)})],
        "XFRM policy statistics": [bytes(4) + encode_attributes({1: bytes(24)})],
    }


SEEDS = seeds()


def mutate(data: bytes, changes: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Each change: at a position (modulo the length), remove so many bytes and put others there."""
    result = bytearray(data)
    for position, removed, added in changes:
        start = position % (len(result) + 1)
        result[start : start + removed] = added
    return bytes(result)


interesting = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"\0", b"\xff", b"\0\0", b"\xff\xff", b"\0\4", b"\x80\0", bytes(16)]),
)
changes = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 8), interesting), min_size=1, max_size=4)


# ---- the tests
def test_every_decoder_has_a_code_of_its_own_and_every_code_a_decoder() -> None:
    assert len(set(CODES.values())) == len(NAMES)
    for name, code in CODES.items():
        assert chosen(code.to_bytes(2)) == name
    assert chosen(b"\0\0") == _NUMBERED[0][1] == chosen(b"\xff\xff")


def test_the_kept_corpus_has_something_valid_for_every_decoder() -> None:
    """Otherwise a guided run would stay at the door: `guided.py wire --grow` adds what is missing."""
    valid = set()
    for path in (Path(__file__).parent / "corpus" / "wire").iterdir():
        data = path.read_bytes()
        with suppress(PeerError):
            if len(data) >= 2:
                DECODERS[chosen(data)](data[2:])
                valid.add(chosen(data))
    assert set(NAMES) - valid <= {"payload 0"}


@pytest.mark.parametrize("name", NAMES)
def test_the_seeds_are_valid_or_the_fuzzing_would_stay_at_the_door(name: str) -> None:
    for seed in SEEDS[name]:
        if name == "payload 0" or (name == "IP packet" and seed == SEEDS[name][3]):
            with pytest.raises(PeerError):
                DECODERS[name](seed)
        else:
            DECODERS[name](seed)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100)
@given(garbage=st.binary(max_size=300))
def test_garbage_gives_a_value_or_the_peers_error(name: str, garbage: bytes) -> None:
    fuzz_one(CODES[name].to_bytes(2) + garbage)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100)
@given(data=st.data(), mutations=changes)
def test_mutated_valid_input_gives_a_value_or_the_peers_error(
    name: str, data: st.DataObject, mutations: list[tuple[int, int, bytes]]
) -> None:
    seed = data.draw(st.sampled_from(SEEDS[name]))
    fuzz_one(CODES[name].to_bytes(2) + mutate(seed, mutations))


@settings(max_examples=100)
@given(garbage=st.binary(max_size=100))
@example(b"")
@example(bytes.fromhex("1e2b516905991c7d7c96fcbfb587e461"))
def test_vendor_ids_and_datagram_kinds_take_anything(garbage: bytes) -> None:
    vendor_name(garbage)
    microsoft_version(garbage)
    with suppress(PeerError):
        classify(garbage)


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_inputs_take_bounded_time(name: str) -> None:
    """Patterns that make the most parts: 64 KiB of them must not take more than a moment (processor time)."""
    size = 65535 - HEADER_SIZE
    patterns = [b"\0", b"\xff", b"\0\0\0\4", b"\x0d\0\0\4", b"\2\0\0\10\1\1\0\1", b"\x80\1\0\1", b"\0\1\0\0"]
    patterns += [seed for seed in SEEDS[name] if seed]
    for pattern in patterns:
        for start in (b"", *SEEDS[name]):
            data = (start + pattern * (size // len(pattern)))[:size]
            before = time.process_time()
            fuzz_one(CODES[name].to_bytes(2) + data)
            assert time.process_time() - before < 2.0


def test_every_decoder_of_the_room_is_fuzzed() -> None:
    """Whoever adds a decoder adds it here."""
    known = {
        "decode_body",
        "decode_header",
        "decode_payloads",
        "decode_clear_payloads",
        "decode_esp_header",
        "remove_esp_trailer",
        "decode_udp",
        "decode_tcp",
        "decode_icmp",
        "read_unreachable",
        "read_logon_info",
        "parse_packet",
        "flow_of",
        "flow_of_packet",
        "read_capture",
        "decode_messages",
        "decode_attributes",
        "decode_number",
        "decode_ah_header",
        "decode_address",
        "decode_gateways",
        "decode_link_mtu",
        "decode_link_type",
        "decode_route",
        "decode_rule",
        "decode_state",
        "decode_policy",
        "decode_acquire",
        "decode_expire",
        "decode_mapping",
        "decode_sa_statistics",
        "decode_policy_statistics",
        "remove_marker",
        "classify",
    }
    found = set()
    for module_info in pkgutil.walk_packages(stockade.wire.__path__, "stockade.wire."):
        module = importlib.import_module(module_info.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and name.startswith(
                ("decode", "parse", "read", "remove", "flow_of", "classify")
            ):
                found.add(name)
    assert found == known
    decodable = {f"payload {int(kind)}" for kind in PayloadType} - {"payload 2", "payload 3"}
    assert decodable <= set(NAMES)
