"""Every payload of ISAKMP: round trips of whatever can be said, exact bytes of examples, refusals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.addresses import AddressRange
from stockade.model.reasons import PeerError, ReasonCode
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import (
    AuthenticationAlgorithm,
    EspTransform,
    GroupNumber,
    IkeAttribute,
    IkeEncryption,
    NotifyType,
    PayloadType,
    ProtocolId,
    name_of,
)
from stockade.wire.isakmp.message import (
    HEADER_SIZE,
    Header,
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
    MicrosoftValue,
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
    microsoft_notification,
    microsoft_value,
)

# ---- strategies: everything that the constructors accept
octet = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)
some_bytes = st.binary(min_size=1, max_size=80)
any_bytes = st.binary(max_size=80)

attributes = st.builds(Attribute, st.integers(0, 0x7FFF), st.one_of(u16, any_bytes))
transforms = st.builds(TransformPayload, octet, octet, st.lists(attributes, max_size=5).map(tuple))
proposals = st.builds(
    ProposalPayload,
    octet,
    octet,
    st.binary(max_size=20),
    st.lists(transforms, min_size=1, max_size=4).map(tuple),
)
security_associations = st.builds(
    SecurityAssociationPayload,
    st.one_of(st.just(1), st.integers(2, 0xFFFF_FFFF), st.just(0)),
    st.just(1),
    st.lists(proposals, min_size=1, max_size=4).map(tuple),
)
ADDRESS_SIZES = {1: 4, 4: 8, 5: 16, 6: 32, 7: 8, 8: 32}
identifications = octet.flatmap(
    lambda kind: st.builds(
        IdentificationPayload,
        st.just(kind),
        octet,
        u16,
        st.binary(min_size=ADDRESS_SIZES.get(kind, 0), max_size=ADDRESS_SIZES.get(kind, 80)),
    )
)
deletes = st.integers(1, 255).flatmap(
    lambda size: st.builds(
        DeletePayload,
        u32,
        octet,
        st.just(size),
        st.lists(st.binary(min_size=size, max_size=size), min_size=1, max_size=4).map(tuple),
    )
)
known_types = {int(member) for member in PayloadType}
lone_payloads: dict[str, st.SearchStrategy[Payload]] = {
    "security association": security_associations,
    "key exchange": st.builds(KeyExchangePayload, some_bytes),
    "identification": identifications,
    "certificate": st.builds(CertificatePayload, octet, some_bytes),
    "certificate request": st.builds(CertificateRequestPayload, octet, any_bytes),
    "hash": st.builds(HashPayload, some_bytes),
    "signature": st.builds(SignaturePayload, some_bytes),
    "nonce": st.builds(NoncePayload, st.binary(min_size=8, max_size=256)),
    "notification": st.builds(NotificationPayload, u32, octet, st.binary(max_size=255), u16, any_bytes),
    "delete": deletes,
    "vendor id": st.builds(VendorIdPayload, any_bytes),
    "NAT detection": st.builds(NatDetectionPayload, st.sampled_from((20, 130)), some_bytes),
    "NAT original address": st.builds(
        NatOriginalAddressPayload, st.sampled_from((21, 131)), st.ip_addresses()
    ),
    "GSS": st.builds(GssPayload, some_bytes),
    "unknown": st.builds(
        UnknownPayload,
        st.integers(1, 255).filter(lambda kind: kind not in known_types or kind == 14),
        any_bytes,
    ),
}
fragments = st.builds(FragmentPayload, u16, st.integers(1, 255), octet, some_bytes)
all_payloads = {**lone_payloads, "fragment": fragments}
chains = st.lists(st.one_of(*lone_payloads.values()), max_size=8)


# ---- round trips
@pytest.mark.parametrize("family", all_payloads)
@settings(max_examples=60)
@given(data=st.data())
def test_a_payload_survives_the_wire(family: str, data: st.DataObject) -> None:
    payload = data.draw(all_payloads[family])
    body = encode_payload_body(payload)
    assert decode_body(payload.payload_type, Cursor(body, family)) == payload


@settings(max_examples=100)
@given(payloads=chains)
def test_a_chain_survives_the_wire_and_offsets_cut_it_where_it_was_joined(payloads: list[Payload]) -> None:
    first, body = encode_payloads(payloads)
    received = decode_payloads(first, body)
    assert [each.payload for each in received] == payloads
    assert [each.type for each in received] == [payload.payload_type for payload in payloads]
    assert all(each.body == encode_payload_body(each.payload) for each in received)
    assert all(body[each.start + 4 : each.end] == each.body for each in received)
    assert [0, *(each.end for each in received)] == [*(each.start for each in received), len(body)]


@settings(max_examples=60)
@given(
    payloads=chains,
    cookies=st.tuples(st.binary(min_size=8, max_size=8).filter(any), st.binary(min_size=8, max_size=8)),
    version=octet,
    exchange=octet,
    flags=octet,
    message_id=u32,
)
def test_a_whole_message_survives_the_wire(
    payloads: list[Payload],
    cookies: tuple[bytes, bytes],
    version: int,
    exchange: int,
    flags: int,
    message_id: int,
) -> None:
    first, body = encode_payloads(payloads)
    header = Header(*cookies, first, version, exchange, flags, message_id)
    datagram = encode_message(header, body)
    decoded = decode_header(datagram)
    assert decoded.length == len(datagram)
    assert encode_message(decoded, body) == datagram
    assert (decoded.initiator_cookie, decoded.responder_cookie) == cookies
    assert (decoded.version, decoded.exchange_type, decoded.flags) == (version, exchange, flags)
    assert decoded.message_id == message_id
    received = decode_payloads(decoded.next_payload, datagram[HEADER_SIZE:])
    assert [each.payload for each in received] == payloads


# ---- examples, byte by byte
def test_security_association_as_windows_2003_sends_it() -> None:
    payload = SecurityAssociationPayload(
        1,
        1,
        (
            ProposalPayload(
                1,
                ProtocolId.ISAKMP,
                b"",
                (
                    TransformPayload(
                        1,
                        1,
                        (
                            Attribute(IkeAttribute.ENCRYPTION_ALGORITHM, IkeEncryption.TRIPLE_DES_CBC),
                            Attribute(IkeAttribute.HASH_ALGORITHM, 2),
                            Attribute(IkeAttribute.GROUP_DESCRIPTION, 2),
                            Attribute(IkeAttribute.AUTHENTICATION_METHOD, 1),
                            Attribute(IkeAttribute.LIFE_TYPE, 1),
                            Attribute(IkeAttribute.LIFE_DURATION, (28800).to_bytes(4, "big")),
                        ),
                    ),
                ),
            ),
        ),
    )
    expected = (
        "00000001 00000001"  # DOI, situation
        "0000002c 01010001"  # proposal 1, ISAKMP, no SPI, one transform
        "00000024 01010000"  # transform 1, KEY_IKE
        "80010005 80020002 80040002 80030001 800b0001 000c0004 00007080"
    )
    assert encode_payload_body(payload) == bytes.fromhex(expected)


def test_the_form_of_an_attribute_is_kept() -> None:
    tv, tlv = bytes.fromhex("800b7080"), bytes.fromhex("000b00027080")
    short, long = (Attribute.decode(Cursor(data, "attribute")) for data in (tv, tlv))
    assert short != long
    assert short.number == long.number == 28800
    assert (short.encode(), long.encode()) == (tv, tlv)


@pytest.mark.parametrize(
    ("number", "value"),
    [(0, 0), (65535, 65535), (65536, b"\0\1\0\0"), (1 << 32, b"\0\0\0\1\0\0\0\0")],
)
def test_a_number_takes_the_shortest_form(number: int, value: int | bytes) -> None:
    attribute = Attribute.of_number(IkeAttribute.LIFE_DURATION, number)
    assert attribute.value == value
    assert attribute.number == number


@pytest.mark.parametrize("value", [b"", bytes(9)])
def test_an_attribute_that_is_no_number_says_so(value: bytes) -> None:
    assert Attribute(1, value).number is None


def test_numbers_of_algorithms_are_ianas() -> None:
    assert (GroupNumber.MODP_2048, GroupNumber.ECP_256, GroupNumber.ECP_384) == (14, 19, 20)
    assert (EspTransform.TRIPLE_DES, EspTransform.AES_CBC, EspTransform.AES_GCM_16) == (3, 12, 20)
    assert AuthenticationAlgorithm.HMAC_SHA2_256 == 5
    assert AuthenticationAlgorithm.HMAC_SHA2_384 == 6
    assert AuthenticationAlgorithm.HMAC_SHA2_512 == 7
    assert (NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.MICROSOFT_STATUS) == (14, 0x9C43)


def test_names_of_numbers() -> None:
    assert name_of(NotifyType, 14) == "NO-PROPOSAL-CHOSEN"
    assert name_of(NotifyType, 40010) == "40010"


# ---- identities
@pytest.mark.parametrize(
    ("text", "id_type", "data"),
    [
        ("10.0.0.1/32", 1, "0a000001"),
        ("10.0.0.0/8", 4, "0a000000ff000000"),
        ("0.0.0.0/0", 4, "0000000000000000"),
        ("fd00::1/128", 5, "fd000000000000000000000000000001"),
        ("fd00::/16", 6, "fd00" + "00" * 14 + "ffff" + "00" * 14),
    ],
)
def test_an_identity_names_addresses(text: str, id_type: int, data: str) -> None:
    addresses = AddressRange.network(text)
    payload = IdentificationPayload.of_addresses(addresses, 6, 80)
    assert (payload.id_type, payload.data.hex()) == (id_type, data)
    assert (payload.protocol_id, payload.port) == (6, 80)
    assert payload.addresses() == addresses


@settings(max_examples=100)
@given(st.one_of(*(st.lists(st.ip_addresses(v=v), min_size=2, max_size=2) for v in (4, 6))))
def test_a_range_of_addresses_survives(pair: list[object]) -> None:
    first, last = sorted(pair)  # type: ignore[type-var]
    addresses = AddressRange(first, last)  # type: ignore[arg-type]
    assert IdentificationPayload.of_addresses(addresses).addresses() == addresses


def test_host_bits_of_a_subnet_are_ignored() -> None:
    payload = IdentificationPayload(4, 0, 0, bytes.fromhex("0a010203ffff0000"))
    assert payload.addresses() == AddressRange.network("10.1.0.0/16")


@pytest.mark.parametrize(
    ("id_type", "data"),
    [
        (4, "0a010203ff00ff00"),  # a mask with holes
        (7, "0a0000020a000001"),  # ends before it begins
        (2, "686f7374"),  # a name
    ],
)
def test_an_identity_that_names_no_addresses_says_so(id_type: int, data: str) -> None:
    assert IdentificationPayload(id_type, 0, 0, bytes.fromhex(data)).addresses() is None


# ---- notifications
def test_errors_and_status_are_told_apart() -> None:
    assert NotificationPayload(1, 1, b"", 14).is_error
    assert not NotificationPayload(1, 1, b"", 24578).is_error
    assert not NotificationPayload(1, 1, b"", 0).is_error


def test_microsofts_message_id_stands_in_front_of_the_data() -> None:
    payload = microsoft_notification(
        NotifyType.MICROSOFT_STATUS, 13868, protocol_id=3, spi=b"\xaa\xbb\xcc\xdd", message_id=0x01020304
    )
    assert encode_payload_body(payload).hex() == "00000001" + "0308" + "9c43" + (
        "aabbccdd00000000" + "01020304" + "0000362c"
    )
    assert microsoft_value(payload) == MicrosoftValue(13868, 0x01020304)


@pytest.mark.parametrize(
    "blob", ["0102030400000002", "aabbccdd0102030400000002", "00" * 8 + "0102030400000002"]
)
def test_microsofts_message_id_is_found_in_every_reading_of_the_specification(blob: str) -> None:
    body = bytes.fromhex("00000001" + "0308" + "9c45" + blob)
    payload = decode_body(PayloadType.NOTIFICATION, Cursor(body, "notification"))
    assert isinstance(payload, NotificationPayload)
    assert microsoft_value(payload) == MicrosoftValue(2, 0x01020304)


def test_microsofts_value_without_message_id() -> None:
    plain = microsoft_notification(NotifyType.MICROSOFT_STATUS, 13801, protocol_id=1)
    assert plain.spi == b""
    assert microsoft_value(plain) == MicrosoftValue(13801, None)
    assert microsoft_value(NotificationPayload(1, 1, b"", NotifyType.MICROSOFT_STATUS, b"\0\0")) is None
    assert microsoft_value(NotificationPayload(1, 1, b"", NotifyType.CONNECTED, bytes(8))) is None


def test_a_gss_token_does_not_show_in_repr() -> None:
    assert "ticket" not in repr(GssPayload(b"ticket"))


def test_the_last_fragment_says_so() -> None:
    body = bytes.fromhex("0001 03 01 aabb")
    payload = decode_body(PayloadType.FRAGMENT, Cursor(body, "fragment"))
    assert payload == FragmentPayload(1, 3, 1, b"\xaa\xbb")
    assert isinstance(payload, FragmentPayload)
    assert payload.is_last
    assert not FragmentPayload(1, 3, 0, b"x").is_last


# ---- refusals
PROPOSAL = "00000010 01010001"
TRANSFORM = "00000008 01010000"


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (1, "00000001 00000001", "next payload of proposal 1"),
        (1, "00000001 00000003" + PROPOSAL + TRANSFORM, "situation 3 carries labels"),
        (1, "00000001 00000001" + "00000008 01010000", "next payload of transform 1"),
        (1, "00000001 00000001" + "00000010 01010002" + TRANSFORM, "2 transforms announced, 1 found"),
        (1, "00000001 00000001" + "05000010 01010001" + TRANSFORM, "next payload of proposal 1 is 5"),
        (1, "00000001 00000001" + "00000004", "length of proposal 1 is 4"),
        (1, "00000001 00000001" + "00000011 01010001" + TRANSFORM, "proposal 1: 13 bytes expected, 12 left"),
        (1, "00000001 00000001" + PROPOSAL + TRANSFORM + "ff", "1 bytes left over"),
        (1, "00000001 00000001" + "00000010 01010101" + TRANSFORM, "2045 bytes expected, 3 left"),
        (1, "00000001 00000001" + PROPOSAL + "02000008 01010000", "next payload of transform 1 is 2"),
        (1, "00000001 00000001" + "00000012 01010001 0000000a 01010000 8001", "value of attribute 1"),
        (4, "", "the public value is empty"),
        (5, "0100", "port: 2 bytes expected"),
        (5, "01000000 0a0000", "ID type 1 with 3 bytes, 4 expected"),
        (5, "06000000" + "00" * 31, "ID type 6 with 31 bytes, 32 expected"),
        (6, "04", "the certificate is empty"),
        (7, "", "certificate type: 1 bytes expected"),
        (8, "", "the hash is empty"),
        (9, "", "the signature is empty"),
        (10, "00" * 7, "a nonce of 7 bytes"),
        (10, "00" * 257, "a nonce of 257 bytes"),
        (11, "00000001 03040e", "notify message type"),
        (11, "00000001 0304000e 112233", "SPI: 4 bytes expected, 3 left"),
        (12, "00000001 03040002 11223344", "2 SPIs of 4 bytes announced, 4 bytes found"),
        (12, "00000001 0300ffff", "65535 SPIs of 0 bytes"),
        (12, "00000001 03040000", "0 SPIs"),
        (12, "00000001 03010401" + "00" * 1025, "1025 SPIs"),
        (20, "", "the NAT-D hash is empty"),
        (131, "02000000 0a000001", "ID type 2, 1 (IPv4) or 5 (IPv6) expected"),
        (21, "01000000 0a000001 00", "1 bytes left over"),
        (21, "05000000 0a000001", "IPv6 address: 16 bytes expected, 4 left"),
        (129, "", "the GSS token is empty"),
        (132, "0001 0001 aa", "fragment number 0"),
        (132, "0001 0101", "the fragment is empty"),
        (0, "", "cannot stand here"),
        (2, PROPOSAL, "cannot stand here"),
        (3, TRANSFORM, "cannot stand here"),
    ],
)
def test_a_malformed_payload_is_refused_with_what_was_expected(kind: int, body: str, text: str) -> None:
    with pytest.raises(PeerError) as caught:
        decode_body(kind, Cursor(bytes.fromhex(body), "payload", offset=32))
    reason = caught.value.reason
    assert reason.code is ReasonCode.MALFORMED_PAYLOAD
    assert text in reason.detail
    facts = dict(reason.facts)
    assert facts["where"].startswith("payload")
    assert 32 <= int(facts["offset"]) <= 32 + len(bytes.fromhex(body))


def test_an_error_inside_an_sa_says_where() -> None:
    body = bytes.fromhex("00000001 00000001" + "00000012 01010001 0000000a 01010000 8001")
    with pytest.raises(PeerError) as caught:
        decode_body(1, Cursor(body, "security association", offset=32))
    assert dict(caught.value.reason.facts) == {
        "where": "security association > proposal 1 > transform 1",
        "offset": str(32 + 8 + 8 + 8 + 2),
    }


def test_garbage_in_reserved_fields_is_tolerated() -> None:
    clean = bytes.fromhex("00000001 00000001" + PROPOSAL + TRANSFORM)
    dirty = bytes.fromhex("00000001 00000001" + "00ff0010 01010001" + "00aa0008 0101beef")
    assert decode_body(1, Cursor(dirty, "SA")) == decode_body(1, Cursor(clean, "SA"))
    dirty = bytes.fromhex("01abcdef 0a000001")
    assert decode_body(21, Cursor(dirty, "NAT-OA")) == NatOriginalAddressPayload(
        21, AddressRange.network("10.0.0.1/32").first
    )


@pytest.mark.parametrize(("count", "fits"), [(64, True), (65, False)])
@pytest.mark.parametrize("what", ["proposals", "transforms", "attributes"])
def test_counts_are_bounded(what: str, count: int, fits: bool) -> None:
    counts = {"proposals": 1, "transforms": 1, "attributes": 1, what: count}

    def chain(kind: int, parts: int, inner: bytes) -> bytes:
        size = (len(inner) + 4).to_bytes(2, "big")
        return b"".join(bytes((kind if i + 1 < parts else 0, 0)) + size + inner for i in range(parts))

    transform = bytes((1, 1, 0, 0)) + bytes.fromhex("80010005") * counts["attributes"]
    proposal = bytes((1, 1, 0, counts["transforms"])) + chain(3, counts["transforms"], transform)
    body = bytes.fromhex("00000001 00000001") + chain(2, counts["proposals"], proposal)
    if fits:
        payload = decode_body(1, Cursor(body, "SA"))
        assert encode_payload_body(payload) == body
    else:
        with pytest.raises(PeerError, match=f"more than 64 {what}"):
            decode_body(1, Cursor(body, "SA"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Attribute(0x8000, 1),
        lambda: Attribute(1, 65536),
        lambda: Attribute(1, bytes(65536)),
        lambda: TransformPayload(256, 1),
        lambda: TransformPayload(1, 1, (Attribute(1, 1),) * 65),
        lambda: ProposalPayload(1, 1, b"", ()),
        lambda: ProposalPayload(1, 1, bytes(256), (TransformPayload(1, 1),)),
        lambda: SecurityAssociationPayload(1, 1, ()),
        lambda: SecurityAssociationPayload(1, 2, (ProposalPayload(1, 1, b"", (TransformPayload(1, 1),)),)),
        lambda: IdentificationPayload(1, 0, 65536, bytes(4)),
        lambda: NotificationPayload(1, 1, b"", 65536),
        lambda: DeletePayload(1, 3, 4, (b"123",)),
        lambda: NatDetectionPayload(21, b"x"),
        lambda: FragmentPayload(65536, 1, 0, b"x"),
        lambda: UnknownPayload(0, b""),
    ],
)
def test_what_the_wire_cannot_say_cannot_be_made(make: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()  # type: ignore[operator]
