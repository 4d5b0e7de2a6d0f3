"""Vendor ids: each is the hash of its string where that is known; versions may be cut or longer."""

import hashlib

import pytest

from stockade.wire import vendor_ids
from stockade.wire.vendor_ids import is_vendor, microsoft_vendor_id, microsoft_version, vendor_name


@pytest.mark.parametrize(
    ("text", "vendor_id"),
    [
        (b"MS NT5 ISAKMPOAKLEY", vendor_ids.MS_NT5_ISAKMPOAKLEY),
        (b"GSSAPI", vendor_ids.GSSAPI),
        (b"Vid-Initial-Contact", vendor_ids.VID_INITIAL_CONTACT),
        (b"NLBS_PRESENT", vendor_ids.NLBS_PRESENT),
        (b"FRAGMENTATION", vendor_ids.FRAGMENTATION),
        (b"draft-ietf-ipsec-nat-t-ike-00", vendor_ids.DRAFT_NATT_00),
        (b"draft-ietf-ipsec-nat-t-ike-02", vendor_ids.DRAFT_NATT_02),
        (b"draft-ietf-ipsec-nat-t-ike-02\n", vendor_ids.DRAFT_NATT_02_N),
        (b"draft-ietf-ipsec-nat-t-ike-03", vendor_ids.DRAFT_NATT_03),
        (b"RFC 3947", vendor_ids.RFC_3947),
        (b"MS-MamieExists", vendor_ids.MS_MAMIE_EXISTS),
        (b"IKE CGA version 1", vendor_ids.IKE_CGA_VERSION_1),
        (b"MS-Negotiation Discovery Capable", vendor_ids.MS_NEGOTIATION_DISCOVERY),
        (b"Microsoft Xbox One 2013", vendor_ids.XBOX_ONE_2013),
        (b"MSFT IPsec Security Realm Id", vendor_ids.SECURITY_REALM),
        (b"strongSwan", vendor_ids.STRONGSWAN),
    ],
)
def test_an_id_is_the_hash_of_its_string(text: bytes, vendor_id: bytes) -> None:
    assert hashlib.md5(text).digest() == vendor_id


def test_ids_of_other_vendors_begin_like_the_hash_of_their_string() -> None:
    assert hashlib.md5(b"CISCO-UNITY").digest()[:14] == vendor_ids.CISCO_UNITY
    assert hashlib.md5(b"draft-ietf-ipsra-isakmp-xauth-06.txt").digest()[:8] == vendor_ids.XAUTH


@pytest.mark.parametrize(
    ("tail", "version", "name"),
    [
        ("00000004", 4, "MS NT5 ISAKMPOAKLEY (Windows Server 2003)"),
        ("00000009", 9, "MS NT5 ISAKMPOAKLEY (Windows 8 or later)"),
        ("0000000512345678", 5, "MS NT5 ISAKMPOAKLEY (Windows Vista)"),
        ("000000ff", 255, "MS NT5 ISAKMPOAKLEY (version 255)"),
        ("", 0, "MS NT5 ISAKMPOAKLEY (version 0)"),
        ("0000", 0, "MS NT5 ISAKMPOAKLEY (version 0)"),
    ],
)
def test_microsofts_version(tail: str, version: int, name: str) -> None:
    data = vendor_ids.MS_NT5_ISAKMPOAKLEY + bytes.fromhex(tail)
    assert microsoft_version(data) == version
    assert vendor_name(data) == name
    assert is_vendor(data, vendor_ids.MS_NT5_ISAKMPOAKLEY)


def test_microsofts_own_id_is_read_back() -> None:
    assert microsoft_version(microsoft_vendor_id(4)) == 4


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("afcad71368a1f1c96b8696fc77570100", "RFC 3706 dead peer detection"),
        ("09002689dfd6b712", "XAUTH"),
        ("882fe56d6fd20dbc2251613b2ebe5beb", "strongSwan"),
        ("12f5f28c457168a9702d9fe274cc0100", "Cisco Unity"),
        ("4048b7d56ebce88525e7de7f00d6c2d380000000", "FRAGMENTATION"),
        ("4a131c81070358455c5728f20e95452f", "RFC 3947"),
        ("4a131c81070358455c5728f20e95452f00", None),
        ("", None),
        ("0011", None),
    ],
)
def test_names(data: str, name: str | None) -> None:
    assert vendor_name(bytes.fromhex(data)) == name


def test_an_id_without_version_matches_exactly_or_not_at_all() -> None:
    assert is_vendor(vendor_ids.RFC_3947, vendor_ids.RFC_3947)
    assert not is_vendor(vendor_ids.RFC_3947 + b"\0", vendor_ids.RFC_3947)
    assert not is_vendor(b"", vendor_ids.FRAGMENTATION)
    assert microsoft_version(vendor_ids.RFC_3947) is None
