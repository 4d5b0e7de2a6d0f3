"""`ipsecData` of an ipsecISAKMPPolicy: the main-mode settings ([MS-GPIPSEC] §2.2.1.2).

    {80DC20B8-2EC8-11D1-A89E-00A0248D3021} | Data-Length | instance GUID 16 | Zero1 | Master-PFS-Required |
    ISAKMP-Options | New-DH-1..4 (one byte each) | QM-Limit | MM-Lifetime | Zero2 20 |
    Security-Method-Count n | n × 64 bytes | 0 (one byte)

The inner fields of a method between the algorithm and the group follow what real blobs hold: three numbers
(algorithm, key length, rounds) and two (hash, key length). Bytes that nobody used hold 0xCD in old blobs; all
are kept."""

import struct
from dataclasses import dataclass
from typing import ClassVar, cast
from uuid import UUID

from stockade.store.formats.ipsec_data.cursor import BlobCursor
from stockade.store.formats.ipsec_data.text import NO_GUID

_METHOD = struct.Struct("<BB2sIIIIII8sB7sIIIII")
_HEAD = struct.Struct("<III4BII20s")

GROUP_2048 = 0x1000_0001  # as Oakley-Group has it
OPTION_MAP_CERTIFICATE = 1
OPTION_SEND_NO_CERTIFICATE_REQUEST = 2


@dataclass(frozen=True, slots=True)
class SecurityMethod:
    """One main-mode security method, all 64 bytes of it. `algorithm` 0 none, 1 DES, 2 and 3 3DES; `hash`
    0 none, 1 MD5, 2 SHA1; `group` 0 unused, 1, 2, `GROUP_2048`; `random_function` nonzero takes algorithm,
    hash and group from the New-DH table."""

    algorithm: int
    hash: int
    group: int
    lifetime_seconds: int = 28_800
    quick_mode_limit: int = 0
    lifetime_kilobytes: int = 0
    identity_pfs: int = 0
    random_function: int = 0
    major: int = 0
    minor: int = 0
    unused_2: bytes = bytes(2)  # the number is the offset inside the method
    algorithm_key_bits: int = 0
    algorithm_rounds: int = 0
    hash_key_bits: int = 0
    unused_24: int = 0
    unused_28: bytes = bytes(8)
    unused_37: bytes = bytes(7)

    @classmethod
    def decode_from(cls, cursor: BlobCursor) -> "SecurityMethod":
        fields = cursor.unpack(_METHOD, "security method")
        (major, minor, unused_2, algorithm, key_bits, rounds, hash_, hash_bits, unused_24, unused_28,
         random_function, unused_37, group, limit, kilobytes, seconds, pfs) = fields  # fmt: skip
        return cls(
            cast(int, algorithm),
            cast(int, hash_),
            cast(int, group),
            cast(int, seconds),
            cast(int, limit),
            cast(int, kilobytes),
            cast(int, pfs),
            cast(int, random_function),
            cast(int, major),
            cast(int, minor),
            cast(bytes, unused_2),
            cast(int, key_bits),
            cast(int, rounds),
            cast(int, hash_bits),
            cast(int, unused_24),
            cast(bytes, unused_28),
            cast(bytes, unused_37),
        )

    def encode(self) -> bytes:
        return _METHOD.pack(
            self.major, self.minor, self.unused_2, self.algorithm, self.algorithm_key_bits,
            self.algorithm_rounds, self.hash, self.hash_key_bits, self.unused_24, self.unused_28,
            self.random_function, self.unused_37, self.group, self.quick_mode_limit,
            self.lifetime_kilobytes, self.lifetime_seconds, self.identity_pfs,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class IsakmpData:
    """Main-mode settings. Times in seconds, 0 = the default (28 800); `quick_mode_limit` 0 = none.
    `new_groups`: up to four extra offers with group 14, tried first (0 ends the list; 1 DES/MD5, 2 DES/SHA1,
    3 3DES/MD5, 4 3DES/SHA1). `instance` tells nothing: real blobs hold other GUIDs than their object's."""

    methods: tuple[SecurityMethod, ...]
    master_pfs: int = 0
    quick_mode_limit: int = 0
    lifetime_seconds: int = 0
    options: int = 0
    new_groups: tuple[int, int, int, int] = (0, 0, 0, 0)
    instance: UUID = NO_GUID
    unused_1: int = 0
    unused_2: bytes = bytes(20)
    declared_length: int | None = None
    trailer: bytes = b"\0"

    MARK: ClassVar[UUID] = UUID("80dc20b8-2ec8-11d1-a89e-00a0248d3021")

    @classmethod
    def decode(cls, data: bytes, where: str = "ipsecISAKMPPolicy") -> "IsakmpData":
        """CallerError INVALID_FILE where the bytes are no such blob."""
        cursor = BlobCursor(data, where)
        cursor.expect(cls.MARK, "ISAKMP policy blob")
        length = cursor.u32("Data-Length")
        instance = cursor.guid("instance GUID")
        head = cursor.unpack(_HEAD, "main-mode settings")
        unused_1, master_pfs, options, first, second, third, fourth, limit, lifetime = cast(
            tuple[int, ...], head[:9]
        )
        count = cursor.count("Security-Method-Count", _METHOD.size)
        return cls(
            tuple(SecurityMethod.decode_from(cursor) for _ in range(count)),
            master_pfs,
            limit,
            lifetime,
            options,
            (first, second, third, fourth),
            instance,
            unused_1,
            cast(bytes, head[9]),
            None if length == cls._length(count) else length,
            cursor.rest(),
        )

    @staticmethod
    def _length(count: int) -> int:
        return 16 + _HEAD.size + 4 + _METHOD.size * count

    def encode(self) -> bytes:
        count = len(self.methods)
        length = self._length(count) if self.declared_length is None else self.declared_length
        return b"".join(
            (
                self.MARK.bytes_le,
                length.to_bytes(4, "little"),
                self.instance.bytes_le,
                _HEAD.pack(
                    self.unused_1, self.master_pfs, self.options, *self.new_groups, self.quick_mode_limit,
                    self.lifetime_seconds, self.unused_2,
                ),
                count.to_bytes(4, "little"),
                *(method.encode() for method in self.methods),
                self.trailer,
            )
        )  # fmt: skip
