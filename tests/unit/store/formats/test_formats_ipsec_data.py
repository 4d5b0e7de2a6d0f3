"""The five blobs, byte for byte: real ones of Windows 2000 (from Samba's provision), and the forms that the
reference describes for later versions."""

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.reasons import CallerError, ReasonCode
from stockade.model.secret import Secret
from stockade.store.formats.ipsec_data import (
    FilterListData,
    IpsecData,
    IsakmpData,
    NegotiationData,
    NfaData,
    PolicyData,
    WideText,
)
from stockade.store.formats.ipsec_data.filters import AddressSpec, FilterSpec1, FilterSpec2, SecondGeneration
from stockade.store.formats.ipsec_data.isakmp import SecurityMethod
from stockade.store.formats.ipsec_data.negotiation import AlgorithmOffer, SecurityOffer
from stockade.store.formats.ipsec_data.nfa import AuthenticationEntry
from stockade.store.formats.objects import ObjectClass, ObjectSet

KINDS = (PolicyData, IsakmpData, NegotiationData, NfaData, FilterListData)
KERBEROS = (AuthenticationEntry(5, b"\0\0"),)
KERBEROS_NFA = bytes.fromhex(
    "00acbb118d49d111863900a0248d3021 2a000000 01000000 05000000 02000000 0000 fdffffff 02000000 0000"
    " 00000000 00000000 01000000 02000000 0000 00"
)
VISTA_BLOCKS = bytes.fromhex("01" * 16 + "01000000 05000000 00000000" + "01" * 15 + "02 01000000 00000000")


def test_every_real_blob_comes_back_byte_for_byte(samba_objects: ObjectSet) -> None:
    kinds = []
    for entry in samba_objects.objects:
        data = entry.decoded()
        assert data.encode() == entry.data, entry.label
        # the rules for Data-Length and the last byte hold, so nothing had to be kept as an exception
        assert data.declared_length is None, entry.label
        assert data.trailer == b"\0", entry.label
        kinds.append(entry.object_class)
    assert {kind: kinds.count(kind) for kind in ObjectClass} == {
        ObjectClass.POLICY: 3,
        ObjectClass.ISAKMP_POLICY: 3,
        ObjectClass.NFA: 8,
        ObjectClass.NEGOTIATION_POLICY: 6,
        ObjectClass.FILTER: 2,
    }


@pytest.mark.parametrize(
    ("blob", "size"),
    [
        (PolicyData(), 25),
        (IsakmpData((SecurityMethod(3, 2, 2),)), 149),
        (IsakmpData((SecurityMethod(3, 2, 2),) * 4), 341),
        (NegotiationData(), 25),
        (NegotiationData((SecurityOffer(),) * 6), 505),
        (NfaData(KERBEROS), 63),
        (NfaData(KERBEROS, alternate_authentication=(AuthenticationEntry(5),), flags=(0,)), 115),
        (FilterListData((FilterSpec1(bytes(4), b"\xff" * 4, bytes(4), bytes(4)),)), 95),
        (FilterListData((FilterSpec1(bytes(4), b"\xff" * 4, bytes(4), bytes(4)),), trailer=b""), 94),
    ],
)  # fmt: skip
def test_sizes_are_those_of_real_data(blob: IpsecData, size: int) -> None:
    assert len(blob.encode()) == size
    assert type(blob).decode(blob.encode()).encode() == blob.encode()


def test_main_mode_methods_of_a_real_blob(samba_objects: ObjectSet) -> None:
    data = next(samba_objects.of_class(ObjectClass.ISAKMP_POLICY)).decoded()
    assert isinstance(data, IsakmpData)
    assert [(entry.algorithm, entry.hash, entry.group) for entry in data.methods] == [
        (3, 2, 2), (3, 1, 2), (1, 2, 1), (1, 1, 1),
    ]  # fmt: skip
    assert {entry.lifetime_seconds for entry in data.methods} == {28_800}
    first = data.methods[0]
    assert (first.algorithm_key_bits, first.algorithm_rounds, first.hash_key_bits) == (64, 8, 64)
    assert first.unused_2 == b"\xcd\xcd"
    assert first.identity_pfs == 0xCDCD_CDCD


def test_stray_text_in_unused_fields_is_kept(samba_objects: ObjectSet) -> None:
    request = next(entry for entry in samba_objects.objects if entry.name == "Request Security (Optional)")
    data = request.decoded()
    assert isinstance(data, NegotiationData)
    assert [offer.count for offer in data.offers] == [1, 1, 1, 1, 0]
    assert "Servi".encode("utf-16-le") in b"".join(record.encode() for record in data.offers[0].records)


def test_the_version_information_object_is_read(samba_objects: ObjectSet) -> None:
    marker = next(entry for entry in samba_objects.objects if entry.name == "Version Information Object")
    data = marker.decoded()
    assert isinstance(data, NfaData)
    assert data.version_information is not None
    assert data.version_information.version == 0x1_0000
    assert data.version_information.product.text == "Windows 2000"
    assert data.version_information.author.text == "Administrator"


def test_a_rule_of_vista_has_its_methods_twice_and_their_flags() -> None:
    blob = KERBEROS_NFA[:-1] + VISTA_BLOCKS + b"\0"
    assert len(blob) == 115
    data = NfaData.decode(blob)
    assert data.alternate_authentication == (AuthenticationEntry(5),)
    assert data.flags == (0,)
    assert data.declared_length is None  # 42: Data-Length stops before the blocks
    assert data.encode() == blob


def test_an_ipv6_tunnel_block_and_a_zero_count_of_flags_are_read() -> None:
    blocks = (
        VISTA_BLOCKS[28:44] + bytes.fromhex("00000000 03000000") + b"\x01" * 15 + b"\x03" + bytes(range(16))
    )
    data = NfaData.decode(KERBEROS_NFA[:-1] + blocks + b"\0")
    assert data.flags == (3,)
    assert data.flag_count == 0
    assert data.tunnel_address_ipv6 == bytes(range(16))
    assert data.encode() == KERBEROS_NFA[:-1] + blocks + b"\0"


def test_blocks_out_of_order_are_kept_as_unknown_bytes() -> None:
    blob = KERBEROS_NFA[:-1] + VISTA_BLOCKS[28:] + VISTA_BLOCKS[:28] + b"\0"
    data = NfaData.decode(blob)
    assert data.alternate_authentication is None
    assert data.trailer == VISTA_BLOCKS[:28] + b"\0"
    assert data.encode() == blob


def test_a_filter_list_of_vista_counts_its_filters_only_and_has_no_last_byte() -> None:
    legacy = FilterListData((FilterSpec1(bytes(4), b"\xff" * 4, bytes(4), bytes(4)),)).encode()
    assert int.from_bytes(legacy[16:20], "little") == len(legacy) - 20 - 1 == 74
    vista = FilterListData((FilterSpec1(bytes(4), b"\xff" * 4, bytes(4), bytes(4)),), trailer=b"").encode()
    assert int.from_bytes(vista[16:20], "little") == 70
    assert len(vista) - 20 == 74
    assert FilterListData.decode(vista).declared_length is None


def test_both_generations_of_a_filter_list_come_back(samba_objects: ObjectSet) -> None:
    spec = FilterSpec2(
        AddressSpec(8, 3), AddressSpec(2, 2, bytes(15) + b"\1", bytes(15) + b"\x99"), flags=8,
        description=WideText.of("β"), guid=UUID(int=77),
    )  # fmt: skip
    first = next(samba_objects.of_class(ObjectClass.FILTER)).decoded()
    assert isinstance(first, FilterListData)
    for trailer in (b"", b"\0"):
        for separator in (b"", b"\0"):
            blob = FilterListData(first.filters, SecondGeneration((spec,), 1), None, separator, trailer)
            assert FilterListData.decode(blob.encode()) == blob


def test_a_wrong_data_length_is_kept() -> None:
    blob = bytearray(PolicyData(900).encode())
    blob[16] = 99
    data = PolicyData.decode(bytes(blob))
    assert (data.polling_seconds, data.declared_length) == (900, 99)
    assert data.encode() == bytes(blob)


@pytest.mark.parametrize("kind", KINDS)
def test_no_blob_and_a_short_blob_are_refused_with_place(kind: type[IpsecData]) -> None:
    for data in (b"", b"\xff" * 40, kind.MARK.bytes_le, kind.MARK.bytes_le + b"\1\0\0\0\1"):
        with pytest.raises(CallerError) as caught:
            kind.decode(data, "the object")
        assert caught.value.reason.code is ReasonCode.INVALID_FILE
        facts = dict(caught.value.reason.facts)
        assert facts["where"] == "the object"
        assert 0 <= int(facts["offset"]) <= len(data)


def test_a_count_that_cannot_be_true_is_refused_before_anything_is_made() -> None:
    blob = bytearray(NegotiationData().encode())
    blob[20:24] = b"\xff" * 4
    with pytest.raises(CallerError, match="4294967295 entries need"):
        NegotiationData.decode(bytes(blob))


def test_a_key_shows_in_no_repr_and_no_error() -> None:
    key = "hunter2".encode("utf-16-le") + b"\0\0"
    data = NfaData.decode(NfaData((AuthenticationEntry(1, Secret(key)),)).encode())
    assert data.authentication[0].raw == key
    assert "hunter2" not in repr(data)
    assert "h\\x00u" not in repr(data)
    # a key in a block that stands in the wrong place is among the unknown bytes
    odd = NfaData.decode(NfaData(trailer=b"\0" + key).encode())
    assert "h\\x00u" not in repr(odd)


def test_strings_without_and_beyond_their_end_keep_their_bytes() -> None:
    for raw, text in (
        (b"", ""),
        (b"a\0", "a"),
        (b"a\0\0\0b\0\0\0", "a"),
        (b"\0\xd8", "\ufffd"),
        (b"a", "\ufffd"),
    ):
        assert WideText(raw).text == text
        assert WideText(raw).encoded() == len(raw).to_bytes(4, "little") + raw


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_decodes_encodes_to_the_same_bytes(samba_objects: ObjectSet, data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(samba_objects.objects))
    blob = bytearray(entry.data)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(blob) - 1))
        if data.draw(st.booleans()):
            blob[where] = data.draw(st.integers(0, 255))
        else:
            blob[where:where] = data.draw(st.binary(max_size=8))
    kind = type(entry.decoded())
    try:
        decoded = kind.decode(bytes(blob))
    except CallerError:
        return
    assert decoded.encode() == bytes(blob)


NUMBERS = st.integers(0, 2**32 - 1)
RECORDS = st.builds(AlgorithmOffer, NUMBERS, NUMBERS, NUMBERS, st.binary(min_size=8, max_size=8))


@given(st.lists(st.builds(SecurityOffer, *[NUMBERS] * 5, st.tuples(RECORDS, RECORDS, RECORDS)), max_size=3))
@settings(max_examples=50, deadline=None)
def test_any_offers_come_back(offers: list[SecurityOffer]) -> None:
    assert NegotiationData.decode(NegotiationData(tuple(offers)).encode()).offers == tuple(offers)
