"""`ipsecData` of an ipsecNFA: a rule without its references ([MS-GPIPSEC] §2.2.1.4).

    {11BBAC00-498D-11D1-8639-00A0248D3021} | Data-Length | Auth-Method-Count n |
    n × (type | length | data) | Interface-Type | length + Interface-Name | Tunnel-Address 4 |
    Is-Tunnel | Is-Active | length + Tunnel-End-Point-Name |
    since Vista, each of them optional and beyond Data-Length:
      01×16       | count | count × (type | length | data)     the methods again, CA names in DER
      01×15 02    | count | count × flags                      per method
      01×15 03    | IPv6 tunnel end point 16                   supersedes Tunnel-Address
    0 (one byte)

One object of a directory is no rule: the *version information* object has a block of its own in front,
{6A1F5C6F-72B7-11D2-ACF0-0060B0ECCA17} | Data-Length | version | Unix time | three strings. It is kept too."""

import struct
from dataclasses import dataclass, field
from typing import ClassVar, cast
from uuid import UUID

from stockade.model.secret import Secret
from stockade.store.formats.ipsec_data.cursor import BlobCursor
from stockade.store.formats.ipsec_data.text import EMPTY, WideText

AUTHENTICATION_PRESHARED_KEY = 1
AUTHENTICATION_CERTIFICATE = 3
AUTHENTICATION_KERBEROS = 5

INTERFACE_ALL = 0xFFFF_FFFD
INTERFACE_LAN = 0xFFFF_FFFE
INTERFACE_DIALUP = 0xFFFF_FFFF

FLAG_MAP_TO_ACCOUNT = 1
FLAG_EXCLUDE_CA_NAME = 2

_ALTERNATE_METHODS = bytes([1] * 16)
_METHOD_FLAGS = bytes([1] * 15 + [2])
_TUNNEL_IPV6 = bytes([1] * 15 + [3])
_TAIL = struct.Struct("<4sII")


@dataclass(frozen=True, slots=True)
class AuthenticationEntry:
    """One way to authenticate. `data` of type 1 is the key itself (UTF-16LE with NUL), so it is a `Secret`
    for every type that we cannot vouch for."""

    type: int
    data: bytes | Secret = b""

    @property
    def raw(self) -> bytes:
        """The bytes as in the blob. Never print them."""
        return self.data.reveal() if isinstance(self.data, Secret) else self.data

    @classmethod
    def decode_from(cls, cursor: BlobCursor) -> "AuthenticationEntry":
        type_ = cursor.u32("authentication type")
        data = cursor.take(cursor.u32("authentication length"), "authentication data")
        public = type_ in (AUTHENTICATION_CERTIFICATE, AUTHENTICATION_KERBEROS)
        return cls(type_, data if public else Secret(data))

    def encode(self) -> bytes:
        raw = self.raw
        return self.type.to_bytes(4, "little") + len(raw).to_bytes(4, "little") + raw


@dataclass(frozen=True, slots=True)
class VersionInformation:
    """What the version information object says of the directory's policies: `version` (0x00010000),
    `written` (Unix time), product, author, comment."""

    version: int
    written: int
    product: WideText
    author: WideText
    comment: WideText
    declared_length: int | None = None

    MARK: ClassVar[UUID] = UUID("6a1f5c6f-72b7-11d2-acf0-0060b0ecca17")

    @classmethod
    def decode_from(cls, cursor: BlobCursor) -> "VersionInformation":
        cursor.expect(cls.MARK, "version information")
        length = cursor.u32("Data-Length")
        found = cls(
            cursor.u32("version"),
            cursor.u32("time"),
            cursor.text("product"),
            cursor.text("author"),
            cursor.text("comment"),
            length,
        )
        if length == len(found.encode()) - 20:
            return cls(found.version, found.written, found.product, found.author, found.comment)
        return found

    def encode(self) -> bytes:
        body = b"".join(
            (
                self.version.to_bytes(4, "little"),
                self.written.to_bytes(4, "little"),
                self.product.encoded(),
                self.author.encoded(),
                self.comment.encoded(),
            )
        )
        length = len(body) if self.declared_length is None else self.declared_length
        return self.MARK.bytes_le + length.to_bytes(4, "little") + body


@dataclass(frozen=True, slots=True)
class NfaData:
    """A rule's own settings. The Vista blocks are None where they are absent; `flag_count` is the number in
    front of the flags (the specification calls it zero, real blobs hold the count)."""

    authentication: tuple[AuthenticationEntry, ...] = ()
    interface_type: int = INTERFACE_ALL
    interface_name: WideText = EMPTY
    tunnel_address: bytes = bytes(4)
    is_tunnel: int = 0
    is_active: int = 1
    tunnel_name: WideText = EMPTY
    alternate_authentication: tuple[AuthenticationEntry, ...] | None = None
    flags: tuple[int, ...] | None = None
    flag_count: int | None = None
    tunnel_address_ipv6: bytes | None = None
    version_information: VersionInformation | None = None
    declared_length: int | None = None
    trailer: bytes = field(default=b"\0", repr=False)  # a block out of order would show its keys

    MARK: ClassVar[UUID] = UUID("11bbac00-498d-11d1-8639-00a0248d3021")

    @classmethod
    def decode(cls, data: bytes, where: str = "ipsecNFA") -> "NfaData":
        """CallerError INVALID_FILE where the bytes are no such blob."""
        cursor = BlobCursor(data, where)
        version = (
            VersionInformation.decode_from(cursor) if cursor.at(VersionInformation.MARK.bytes_le) else None
        )
        cursor.expect(cls.MARK, "rule (NFA) blob")
        length = cursor.u32("Data-Length")
        start = cursor.offset
        authentication = _entries(cursor, "Auth-Method-Count")
        interface_type = cursor.u32("Interface-Type")
        interface_name = cursor.text("Interface-Name")
        tunnel_address, is_tunnel, is_active = cast(
            tuple[bytes, int, int], cursor.unpack(_TAIL, "tunnel and activity")
        )
        tunnel_name = cursor.text("Tunnel-End-Point-Name")
        usual_length = cursor.offset - start
        alternate: tuple[AuthenticationEntry, ...] | None = None
        flags: tuple[int, ...] | None = None
        flag_count: int | None = None
        tunnel_ipv6: bytes | None = None
        if cursor.at(_ALTERNATE_METHODS):
            cursor.take(16, "mark of the alternate methods")
            alternate = _entries(cursor, "count of alternate methods")
        if cursor.at(_METHOD_FLAGS):
            cursor.take(16, "mark of the method flags")
            flag_count = cursor.count("count of method flags", 4)
            # 0 is what the specification prints; the methods' number is then the only one that fits
            flags = tuple(cursor.u32("method flags") for _ in range(flag_count or len(authentication)))
        if cursor.at(_TUNNEL_IPV6):
            cursor.take(16, "mark of the IPv6 tunnel end point")
            tunnel_ipv6 = cursor.take(16, "IPv6 tunnel end point")
        return cls(
            authentication, interface_type, interface_name, tunnel_address, is_tunnel, is_active,
            tunnel_name, alternate, flags, flag_count, tunnel_ipv6, version,
            None if length == usual_length else length, cursor.rest(),
        )  # fmt: skip

    def encode(self) -> bytes:
        body = b"".join(
            (
                _encoded_entries(self.authentication),
                self.interface_type.to_bytes(4, "little"),
                self.interface_name.encoded(),
                _TAIL.pack(self.tunnel_address, self.is_tunnel, self.is_active),
                self.tunnel_name.encoded(),
            )
        )
        length = len(body) if self.declared_length is None else self.declared_length
        parts = [] if self.version_information is None else [self.version_information.encode()]
        parts += [self.MARK.bytes_le, length.to_bytes(4, "little"), body]
        if self.alternate_authentication is not None:
            parts += [_ALTERNATE_METHODS, _encoded_entries(self.alternate_authentication)]
        if self.flags is not None:
            count = len(self.flags) if self.flag_count is None else self.flag_count
            parts += [_METHOD_FLAGS, count.to_bytes(4, "little")]
            parts += [flag.to_bytes(4, "little") for flag in self.flags]
        if self.tunnel_address_ipv6 is not None:
            parts += [_TUNNEL_IPV6, self.tunnel_address_ipv6]
        return b"".join((*parts, self.trailer))


def _entries(cursor: BlobCursor, what: str) -> tuple[AuthenticationEntry, ...]:
    return tuple(AuthenticationEntry.decode_from(cursor) for _ in range(cursor.count(what, 8)))


def _encoded_entries(entries: tuple[AuthenticationEntry, ...]) -> bytes:
    return len(entries).to_bytes(4, "little") + b"".join(entry.encode() for entry in entries)
