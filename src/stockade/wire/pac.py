"""The groups in a Kerberos ticket of Active Directory: KERB_VALIDATION_INFO of a PAC ([MS-PAC] §2.5), as NDR
([C706] chapter 14, [MS-RPCE] §2.2.6). Decoding only.

    type header:   01 10 0800 cccccccc | length 0 | pointer
    fixed part:    six times, six strings, counts | UserId | PrimaryGroupId | GroupCount | → GroupIds |
                   flags | session key | → server | → domain | → LogonDomainId | … |
                   SidCount | → ExtraSids | → ResourceGroupDomainSid | ResourceGroupCount | → its ids
    what the pointers mean, in their order; each aligned to 4

Who checked the signatures of the PAC (Kerberos' library, with the key of the keytab) is not our matter.
Little-endian. Left out: names, times, session key, claims."""

import struct
from dataclasses import dataclass

from stockade.model.reasons import ReasonCode
from stockade.wire.cursor import Cursor

MAXIMUM_GROUPS = 4096
MAXIMUM_STRING = 4096  # characters
MAXIMUM_AUTHORITIES = 15  # parts of a SID
_HEADER = bytes.fromhex("01100800cccccccc")


@dataclass(frozen=True, slots=True)
class LogonInfo:
    """`domain` the SID of the account's domain. `user` and `groups`: SIDs, `S-1-5-21-…-515`."""

    domain: str
    user: str
    groups: tuple[str, ...]


def sid_text(data: bytes) -> str:
    """`S-1-…` of a binary SID, which must be whole (`ValueError`)."""
    if len(data) < 8 or data[0] != 1 or data[1] > MAXIMUM_AUTHORITIES or len(data) != 8 + 4 * data[1]:
        raise ValueError("a damaged SID")
    parts = struct.unpack_from(f"<{data[1]}I", data, 8)
    return "-".join(["S", "1", str(int.from_bytes(data[2:8], "big")), *map(str, parts)])


def read_logon_info(data: bytes) -> LogonInfo:
    """All groups of the account: of its domain, of others, and those of the server's domain. PeerError
    KERBEROS_REFUSED where it is damaged."""
    return _Reader(data).logon_info()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._cursor = Cursor(data, "PAC", code=ReasonCode.KERBEROS_REFUSED)

    def _u16(self, what: str) -> int:
        return int.from_bytes(self._cursor.take(2, what), "little")

    def _u32(self, what: str) -> int:
        return int.from_bytes(self._cursor.take(4, what), "little")

    def logon_info(self) -> LogonInfo:
        cursor = self._cursor
        if cursor.take(8, "header") != _HEADER:
            raise cursor.error("an NDR header of version 1 in little-endian expected", offset=0)
        length = self._u32("length")
        self._u32("filler")
        if length > cursor.remaining:
            raise cursor.error(f"{length} bytes announced, {cursor.remaining} left")
        if not self._u32("pointer"):
            raise cursor.error("it holds nothing")
        cursor.take(6 * 8, "times")
        strings = [self._string_head() for _ in range(6)]
        cursor.take(4, "counts of logons")
        user, primary = self._u32("UserId"), self._u32("PrimaryGroupId")
        group_count, groups_there = self._u32("GroupCount"), self._u32("GroupIds")
        cursor.take(4 + 16, "flags and session key")
        later = [self._string_head() for _ in range(2)]
        domain_there = self._u32("LogonDomainId")
        cursor.take(8 + 4 + 4 + 8 + 8 + 4 + 4, "account control and reserved fields")
        sid_count, sids_there = self._u32("SidCount"), self._u32("ExtraSids")
        resource_domain_there = self._u32("ResourceGroupDomainSid")
        resource_count, resources_there = self._u32("ResourceGroupCount"), self._u32("ResourceGroupIds")
        for there in strings:
            self._skip_string(there)
        ids = self._ids(group_count, groups_there, "GroupIds")
        for there in later:
            self._skip_string(there)
        if not domain_there:
            raise cursor.error("LogonDomainId is missing")
        domain = self._sid()
        extra = self._sids(sid_count, sids_there)
        resource_domain = self._sid() if resource_domain_there else ""
        resources = self._ids(resource_count, resources_there, "ResourceGroupIds")
        if resources and not resource_domain:
            raise cursor.error("ResourceGroupIds without their domain")
        groups = [f"{domain}-{number}" for number in dict.fromkeys((primary, *ids))]
        groups += [*extra, *(f"{resource_domain}-{number}" for number in resources)]
        return LogonInfo(domain, f"{domain}-{user}", tuple(dict.fromkeys(groups)))

    def _string_head(self) -> bool:
        """Length, maximum, pointer: whether the string comes later."""
        self._cursor.take(4, "string")
        return bool(self._u32("string"))

    def _skip_string(self, there: bool) -> None:
        if not there:
            return
        self._u32("string: maximum")
        self._u32("string: offset")
        count = self._u32("string: characters")
        if count > MAXIMUM_STRING:
            raise self._cursor.error(f"a string of {count} characters; at most {MAXIMUM_STRING}")
        self._cursor.take(2 * count, "string")
        self._align()

    def _align(self) -> None:
        self._cursor.take(-self._cursor.position % 4, "alignment")

    def _array(self, count: int, what: str) -> int:
        if count > MAXIMUM_GROUPS:
            raise self._cursor.error(f"{what}: {count} entries; at most {MAXIMUM_GROUPS}")
        size = self._u32(what)
        if size != count:
            raise self._cursor.error(f"{what}: {count} entries announced, {size} there")
        return count

    def _ids(self, count: int, there: int, what: str) -> list[int]:
        if not there:
            if count:
                raise self._cursor.error(f"{what}: {count} entries announced, none there")
            return []
        found = []
        for _ in range(self._array(count, what)):
            found.append(self._u32(what))
            self._cursor.take(4, f"{what}: attributes")
        return found

    def _sids(self, count: int, there: int) -> list[str]:
        if not there:
            if count:
                raise self._cursor.error(f"ExtraSids: {count} entries announced, none there")
            return []
        pointers = 0
        for _ in range(self._array(count, "ExtraSids")):
            pointers += bool(self._u32("ExtraSids: pointer"))
            self._cursor.take(4, "ExtraSids: attributes")
        return [self._sid() for _ in range(pointers)]

    def _sid(self) -> str:
        parts = self._u32("SID: parts")
        if parts > MAXIMUM_AUTHORITIES:
            raise self._cursor.error(f"a SID of {parts} parts; at most {MAXIMUM_AUTHORITIES}")
        data = self._cursor.take(8 + 4 * parts, "SID")
        try:
            return sid_text(data)
        except ValueError as error:
            raise self._cursor.error(str(error)) from None
