"""Files that policies come in: recognised by their content, read into a `PolicySet`.

    .ipsec   a registry hive, as Windows' export writes it            (`hive`)
    .reg     a policy key, as regedit writes it                       (`reg`; written as well)
    .ldif    objects of Active Directory, as LDAP tools print them    (`ldif`)

All three hold the same objects (`objects`), whose binary part is `ipsec_data`; what they mean is the matter
of `conversion`. Our own readable form, a script of the command language, is not read here."""

from dataclasses import dataclass
from enum import StrEnum

from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.objects import PolicySet
from stockade.store.formats.conversion.reading import policy_set_from_objects
from stockade.store.formats.conversion.writing import objects_from_policy_set
from stockade.store.formats.hive import SIGNATURE, read_hive
from stockade.store.formats.ldif import read_ldif
from stockade.store.formats.numbers import EspNumbers
from stockade.store.formats.objects import ObjectSet
from stockade.store.formats.problems import is_loss, shown, with_fact
from stockade.store.formats.reg import HEADER_4, HEADER_5, encode_reg, parse_reg, read_reg, write_reg
from stockade.store.formats.registry import REG_DWORD

MAXIMUM_FILE = 64 << 20  # bytes; a list of 100 000 filters needs some 10 MB, as .reg text six times that

__all__ = [
    "MAXIMUM_FILE",
    "EspNumbers",
    "FileKind",
    "ImportResult",
    "ObjectSet",
    "file_kind",
    "is_loss",
    "objects_from_policy_set",
    "policy_set_from_objects",
    "read_objects",
    "read_policy_file",
    "registry_numbers",
    "write_reg_file",
]


class FileKind(StrEnum):
    """What a file is."""

    HIVE = "hive"
    REG = "reg"
    LDIF = "ldif"


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What a file holds. `problems` name what did not come over (losses, `is_loss`) or came over in another
    form (notes). A policy with losses is never assigned in `policy_set`."""

    policy_set: PolicySet
    problems: tuple[Reason, ...]
    kind: FileKind

    @property
    def losses(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.problems if is_loss(reason))

    @property
    def complete(self) -> bool:
        """Whether nothing was lost."""
        return not self.losses


def file_kind(data: bytes) -> FileKind | None:
    """What the bytes are, judged by their beginning; None where they are none of these kinds (a script, for
    example)."""
    if data.startswith(SIGNATURE):
        return FileKind.HIVE
    for line in _decoded(data[:65_536]).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.strip() in (HEADER_4, HEADER_5):
            return FileKind.REG
        return FileKind.LDIF if line.casefold().startswith(("dn:", "version:")) else None
    return None


def _decoded(data: bytes) -> str:
    """Text of these files: UTF-16 or UTF-8 with a byte order mark, else UTF-8, else the code page of Western
    Windows. What fits none of them becomes U+FFFD."""
    for mark, encoding in (
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"\xef\xbb\xbf", "utf-8"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    if data[1:2] == b"\0":
        return data.decode("utf-16-le", errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def read_objects(data: bytes, name: str) -> tuple[ObjectSet, FileKind]:
    """The objects of a file. `name` stands in reasons only. CallerError INVALID_FILE where it is none of
    these kinds, damaged, or without IPsec objects."""
    try:
        if len(data) > MAXIMUM_FILE:
            raise error_for(ReasonCode.INVALID_FILE, f"{len(data)} bytes; at most {MAXIMUM_FILE} are read")
        kind = file_kind(data)
        if kind is FileKind.HIVE:
            return read_hive(data), kind
        if kind is FileKind.REG:
            return read_reg(_decoded(data)), kind
        if kind is FileKind.LDIF:
            return read_ldif(_decoded(data)), kind
        raise error_for(
            ReasonCode.INVALID_FILE,
            "an .ipsec file (registry hive), a .reg file or LDIF expected",
        )
    except StockadeError as error:
        raise with_fact(error, "file", shown(name)) from None


def registry_numbers(data: bytes, name: str) -> list[tuple[str, str, int | None]] | None:
    """Every value of a `.reg` file: key, name in small letters, number (None where it is no dword). None
    where it is no such file; CallerError INVALID_FILE where it is damaged."""
    if file_kind(data) is not FileKind.REG:
        return None
    try:
        if len(data) > MAXIMUM_FILE:
            raise error_for(ReasonCode.INVALID_FILE, f"{len(data)} bytes; at most {MAXIMUM_FILE} are read")
        keys = parse_reg(_decoded(data))
    except StockadeError as error:
        raise with_fact(error, "file", shown(name)) from None
    return [
        (
            key.path,
            value_name,
            int.from_bytes(value.data, "little")
            if value.type == REG_DWORD and len(value.data) == 4
            else None,
        )
        for key in keys
        for value_name, value in key.values.items()
    ]


def read_policy_file(
    data: bytes, name: str, *, store: str = "local", esp_numbers: EspNumbers = EspNumbers.WINDOWS
) -> ImportResult:
    """The policies of a file, for a store called `store`. CallerError INVALID_FILE as `read_objects`; what is
    wrong with single objects is in `problems`."""
    objects, kind = read_objects(data, name)
    try:
        policy_set, problems = policy_set_from_objects(
            objects, store=store, esp_numbers=esp_numbers, source=shown(name)
        )
    except StockadeError as error:
        raise with_fact(error, "file", shown(name)) from None
    named = tuple(
        Reason(entry.code, entry.detail, (*entry.facts, ("file", shown(name)))) for entry in problems
    )
    return ImportResult(policy_set, named, kind)


def write_reg_file(
    policy_set: PolicySet,
    *,
    with_secrets: bool,
    allow_losses: bool = False,
    esp_numbers: EspNumbers = EspNumbers.WINDOWS,
) -> tuple[bytes, tuple[Reason, ...]]:
    """A `.reg` file that regedit takes, and what it does not hold. Pre-shared keys stand in it in clear, and
    only `with_secrets`. The first loss is raised as CallerError unless `allow_losses`."""
    objects = objects_from_policy_set(policy_set, with_secrets=with_secrets, esp_numbers=esp_numbers)
    losses = [reason for reason in objects.problems if is_loss(reason)]
    if losses and not allow_losses:
        reason = losses[0]
        more = (("more", str(len(losses) - 1)),) if len(losses) > 1 else ()
        raise error_for(reason.code, reason.detail, **dict((*reason.facts, *more)))
    return encode_reg(write_reg(objects)), objects.problems
