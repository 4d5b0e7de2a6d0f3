"""Security descriptors, as far as security filtering of group policy asks ([MS-DTYP] §2.4.2 to §2.4.6).

    revision  0  control  owner  group  SACL  DACL          self-relative: offsets from the beginning
    DACL: revision 0 size count 0 | ACE: type flags size mask [object flags, type, inherited type] SID

A group policy object applies to who may read it and has the extended right Apply Group Policy. An access
list that is absent lets everybody; entries are asked in their order. Left out: owners, audit lists,
conditional entries (they grant nothing here)."""

import struct
from dataclasses import dataclass
from uuid import UUID

from stockade.model.reasons import ReasonCode, StockadeError, error_for

APPLY_GROUP_POLICY = UUID("edacfd8f-ffb3-11d1-b41d-00a0c968f939")
READ_PROPERTY, CONTROL_ACCESS = 0x10, 0x100
GENERIC_ALL, GENERIC_READ = 0x1000_0000, 0x8000_0000
DACL_PRESENT = 0x0004
INHERIT_ONLY = 0x08
ALLOWED, DENIED, ALLOWED_OBJECT, DENIED_OBJECT = 0, 1, 5, 6
MAXIMUM_ENTRIES = 4096

EVERYONE, AUTHENTICATED_USERS, THIS_ORGANIZATION = "S-1-1-0", "S-1-5-11", "S-1-5-15"
WELL_KNOWN = frozenset({EVERYONE, AUTHENTICATED_USERS, THIS_ORGANIZATION})
"""Groups that every computer of the domain is in, whatever the directory lists."""


@dataclass(frozen=True, slots=True)
class AccessControlEntry:
    allow: bool
    mask: int
    sid: str
    object_type: UUID | None = None

    def grants(self, bit: int, right: UUID | None) -> bool:
        """Whether it speaks of `bit`, for the extended right `right` where that is given."""
        generic = GENERIC_ALL | (GENERIC_READ if bit == READ_PROPERTY else 0)
        if not self.mask & (bit | generic):
            return False
        return self.object_type is None or (right is not None and self.object_type == right)


def _damaged(detail: str) -> StockadeError:
    return error_for(ReasonCode.INVALID_FILE, f"security descriptor: {detail}")


def read_sid(data: bytes) -> str:
    """`S-1-5-21-…`. CallerError INVALID_FILE."""
    if len(data) < 8 or data[0] != 1 or data[1] > 15 or len(data) < 8 + 4 * data[1]:
        raise _damaged("a damaged SID")
    parts = struct.unpack_from(f"<{data[1]}I", data, 8)
    return "-".join(["S", "1", str(int.from_bytes(data[2:8], "big")), *map(str, parts)])


def read_access_list(data: bytes) -> tuple[AccessControlEntry, ...] | None:
    """The entries of the DACL, in their order; None where there is none. Entries of unknown types are left
    out. CallerError INVALID_FILE."""
    if len(data) < 20 or data[0] != 1:
        raise _damaged("too short, or of an unknown revision")
    (control,) = struct.unpack_from("<H", data, 2)
    (offset,) = struct.unpack_from("<I", data, 16)
    if not control & DACL_PRESENT or not offset:
        return None
    if offset + 8 > len(data):
        raise _damaged("its access list lies outside")
    size, count = struct.unpack_from("<HH", data, offset + 2)
    end = offset + size
    if end > len(data) or count > MAXIMUM_ENTRIES:
        raise _damaged("its access list is cut off")
    entries = []
    position = offset + 8
    for _ in range(count):
        if position + 8 > end:
            raise _damaged("an entry is cut off")
        kind, flags, length = struct.unpack_from("<BBH", data, position)
        if length < 8 or position + length > end:
            raise _damaged("an entry is cut off")
        body = data[position + 4 : position + length]
        position += length
        if kind not in (ALLOWED, DENIED, ALLOWED_OBJECT, DENIED_OBJECT) or flags & INHERIT_ONLY:
            continue
        entries.append(_entry(kind, body))
    return tuple(entries)


def _entry(kind: int, body: bytes) -> AccessControlEntry:
    (mask,) = struct.unpack_from("<I", body)
    rest, object_type = body[4:], None
    if kind in (ALLOWED_OBJECT, DENIED_OBJECT):
        if len(rest) < 4:
            raise _damaged("an object entry is cut off")
        (which,) = struct.unpack_from("<I", rest)
        rest = rest[4:]
        for bit in (1, 2):
            if which & bit:
                if len(rest) < 16:
                    raise _damaged("an object entry is cut off")
                if bit == 1:
                    object_type = UUID(bytes_le=rest[:16])
                rest = rest[16:]
    return AccessControlEntry(kind in (ALLOWED, ALLOWED_OBJECT), mask, read_sid(rest), object_type)


def why_not_applied(
    entries: tuple[AccessControlEntry, ...] | None, sids: frozenset[str], names: dict[str, str] | None = None
) -> str:
    """Empty where who has these SIDs may read and apply the object; else why not, in words."""
    if entries is None:
        return ""
    for bit, right, what in (
        (READ_PROPERTY, None, "read"),
        (CONTROL_ACCESS, APPLY_GROUP_POLICY, "apply"),
    ):
        decided = next((one for one in entries if one.sid in sids and one.grants(bit, right)), None)
        if decided is None:
            return f"its access list lets neither the computer nor a group of it {what} the object"
        if not decided.allow:
            who = (names or {}).get(decided.sid, decided.sid)
            return f"its access list denies {who} to {what} the object"
    return ""
