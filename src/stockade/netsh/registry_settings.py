r"""The settings of fast failover as Windows has them (KB 980915): values of its registry.

    [HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\IPSec]
    "NlbsIdleTime"=dword:0000000a            Windows 2003; Vista and later have it in IKEEXT\Parameters

`importconfig file=F` takes them from a `.reg` file, and `set config property=` takes such a value by its
whole name. All of a file or nothing of it: one value out of its range refuses the rest too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stockade.model.reasons import ReasonCode, StockadeError, error_for

SERVICES = r"\system\currentcontrolset\services" "\\"
ROOTS = ("hkey_local_machine", "hklm")
KEYS = {
    "nlbsidle": (r"PolicyAgent\Oakley",),
    "nlbsidletime": ("IPSec", r"IKEEXT\Parameters"),
    "nlbsqmretransmitduration": (r"IKEEXT\Parameters", "IPSec"),
    "nlbsflags": (r"PolicyAgent\Oakley", r"IKEEXT\Parameters"),
}
"""The keys below `Services` under which each value counts."""


class RegistryNumber(NamedTuple):
    """One value of a registry: its key, its name, and its number; None where it is no number."""

    key: str
    name: str
    number: int | None


@dataclass(frozen=True, slots=True)
class FoundSettings:
    """`values`: property and number, the last one of each; `passed_over`: values that are none of ours."""

    values: dict[str, int]
    passed_over: tuple[str, ...]


def property_of(name: str) -> str | None:
    r"""The property that a whole name of the registry (`HKLM\SYSTEM\…\Services\IPSec\NlbsIdleTime`) stands
    for; None where it is none."""
    key, _, value = name.strip().rpartition("\\")
    return value.casefold() if _counts(key, value) else None


def find_settings(numbers: Sequence[RegistryNumber], file: str) -> FoundSettings:
    """CallerError INVALID_FILE where one of ours is no number, or a name of ours stands under a key where
    Windows would not look."""
    values: dict[str, int] = {}
    passed: list[str] = []
    for entry in numbers:
        whole = f"{entry.key}\\{entry.name}"
        name = entry.name.casefold()
        if name not in KEYS:
            passed.append(whole)
        elif not _counts(entry.key, name):
            places = " or ".join(KEYS[name])
            raise _invalid(f"{whole} acts nowhere: {entry.name} belongs under Services, in {places}", file)
        elif entry.number is None:
            raise _invalid(f"{whole} must be a dword", file)
        else:
            values[name] = entry.number
    return FoundSettings(values, tuple(passed))


def _counts(key: str, name: str) -> bool:
    root, found, below = key.casefold().partition(SERVICES)
    places = {place.casefold() for place in KEYS.get(name.casefold(), ())}
    return bool(found) and root in ROOTS and below in places


def _invalid(detail: str, file: str) -> StockadeError:
    return error_for(ReasonCode.INVALID_FILE, detail, file=file)
