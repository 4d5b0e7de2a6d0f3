"""Vendor ids of IKEv1: what a peer is and what it can do beyond the RFCs ([MS-IKEE] §1.7 and §3, RFC 3706,
3947).

The ids of Microsoft with a version behind them are recognised by their first 16 bytes; a shorter or longer
tail does not matter. Ids of other vendors are here for display only.
"""

MS_NT5_ISAKMPOAKLEY = bytes.fromhex("1e2b516905991c7d7c96fcbfb587e461")
"""Microsoft's implementation; a 32-bit version follows on the wire (see `microsoft_vendor_id`)."""
GSSAPI = bytes.fromhex("621b04bb09882ac1e15935fefa24aeee")
VID_INITIAL_CONTACT = bytes.fromhex("26244d38eddb61b3172a36e3d0cfb819")
NLBS_PRESENT = bytes.fromhex("72872b95fcda2eb708efe322119b4971")
FRAGMENTATION = bytes.fromhex("4048b7d56ebce88525e7de7f00d6c2d3")
DRAFT_NATT_00 = bytes.fromhex("4485152d18b6bbcd0be8a8469579ddcc")
DRAFT_NATT_02 = bytes.fromhex("cd60464335df21f87cfdb2fc68b6a448")
DRAFT_NATT_02_N = bytes.fromhex("90cb80913ebb696e086381b5ec427b1f")
"""The hash of the draft's name with a newline behind it: what Windows sends."""
DRAFT_NATT_03 = bytes.fromhex("7d9419a65310ca6f2c179d9215529d56")
RFC_3947 = bytes.fromhex("4a131c81070358455c5728f20e95452f")
MS_MAMIE_EXISTS = bytes.fromhex("214ca4faffa7f32d6748e5303395ae83")
"""AuthIP capable. A Windows peer that sees it prefers AuthIP: never send it."""
IKE_CGA_VERSION_1 = bytes.fromhex("e3a5966a76379fe707228231e5ce8652")
MS_NEGOTIATION_DISCOVERY = bytes.fromhex("fb1de3cdf341b7ea16b7e5be0855f120")
KEY_MODULES = bytes.fromhex("01528bbbc00696121849ab9a1c5b2a51")
AUTHIP_INITIATOR_GROUP = bytes.fromhex("7bb93867d76c8d80df0f40fae8fc3b19")
XBOX_ONE_2013 = bytes.fromhex("8aa394cf8a5577dc3110c113b027a4f2")
XBOX_IKEV2 = bytes.fromhex("660822b3a73a244149578d62e0eb46a0")
SECURITY_REALM = bytes.fromhex("686a8cbdfe634b405146fb2baf33e9e8")
DEAD_PEER_DETECTION = bytes.fromhex("afcad71368a1f1c96b8696fc77570100")
STOCKADE_PROOFS = bytes.fromhex("2006c92da81a9da3c0cbe467b6006915")
"""Ours: MD5 of `Stockade proofs of lost state 1`."""
XAUTH = bytes.fromhex("09002689dfd6b712")
STRONGSWAN = bytes.fromhex("882fe56d6fd20dbc2251613b2ebe5beb")
CISCO_UNITY = bytes.fromhex("12f5f28c457168a9702d9fe274cc")
"""Two bytes of version follow."""

_KNOWN = {
    MS_NT5_ISAKMPOAKLEY: "MS NT5 ISAKMPOAKLEY",
    GSSAPI: "GSSAPI",
    VID_INITIAL_CONTACT: "Vid-Initial-Contact",
    NLBS_PRESENT: "NLBS_PRESENT",
    FRAGMENTATION: "FRAGMENTATION",
    DRAFT_NATT_00: "draft-ietf-ipsec-nat-t-ike-00",
    DRAFT_NATT_02: "draft-ietf-ipsec-nat-t-ike-02",
    DRAFT_NATT_02_N: "draft-ietf-ipsec-nat-t-ike-02\\n",
    DRAFT_NATT_03: "draft-ietf-ipsec-nat-t-ike-03",
    RFC_3947: "RFC 3947",
    MS_MAMIE_EXISTS: "MS-MamieExists",
    IKE_CGA_VERSION_1: "IKE CGA version 1",
    MS_NEGOTIATION_DISCOVERY: "MS-Negotiation Discovery Capable",
    KEY_MODULES: "KEY_MODS",
    AUTHIP_INITIATOR_GROUP: "AUTHIP_INIT_KE_DH_GROUP",
    XBOX_ONE_2013: "Microsoft Xbox One 2013",
    XBOX_IKEV2: "Xbox IKEv2 Negotiation",
    SECURITY_REALM: "MSFT IPsec Security Realm Id",
    DEAD_PEER_DETECTION: "RFC 3706 dead peer detection",
    STOCKADE_PROOFS: "Stockade proofs of lost state",
    XAUTH: "XAUTH",
    STRONGSWAN: "strongSwan",
    CISCO_UNITY: "Cisco Unity",
}
_WITH_TAIL = (
    MS_NT5_ISAKMPOAKLEY,
    FRAGMENTATION,  # Cisco appends flags
    KEY_MODULES,
    AUTHIP_INITIATOR_GROUP,
    SECURITY_REALM,
    CISCO_UNITY,
)

_WINDOWS_RELEASES = {
    2: "Windows 2000",
    3: "Windows XP",
    4: "Windows Server 2003",
    5: "Windows Vista",
    6: "Windows Server 2008",
    7: "Windows 7",
    8: "Windows Server 2008 R2",
    9: "Windows 8 or later",
}


def is_vendor(data: bytes, known: bytes) -> bool:
    """Whether a received id is `known`; ids with a version behind them match whatever the version."""
    return data.startswith(known) if known in _WITH_TAIL else data == known


def microsoft_vendor_id(version: int) -> bytes:
    """Microsoft's implementation id for `version`: 2 Windows 2000 … 4 Server 2003 … 9 Windows 8 and later."""
    return MS_NT5_ISAKMPOAKLEY + version.to_bytes(4, "big")


def microsoft_version(data: bytes) -> int | None:
    """The version behind Microsoft's implementation id (0 where it is missing or cut short); None for every
    other id."""
    if not data.startswith(MS_NT5_ISAKMPOAKLEY):
        return None
    tail = data[len(MS_NT5_ISAKMPOAKLEY) :]
    return int.from_bytes(tail[:4], "big") if len(tail) >= 4 else 0


def vendor_name(data: bytes) -> str | None:
    """The name that people know the id by, with the Windows release where it tells one; None if unknown."""
    version = microsoft_version(data)
    if version is not None:
        release = _WINDOWS_RELEASES.get(version, f"version {version}")
        return f"{_KNOWN[MS_NT5_ISAKMPOAKLEY]} ({release})"
    name = _KNOWN.get(data)
    if name is not None:
        return name
    for prefix in _WITH_TAIL:
        if data.startswith(prefix):
            return _KNOWN[prefix]
    return None
