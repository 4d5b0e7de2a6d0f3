"""The principals in a keytab, without their keys: which name this host has in its realm.

    file:   05 02, entries
    entry:  | length (4, negative: a hole) | components (2) | realm | component … | name type (4) |
            | time (4) | version (1) | key type (2) | key | [version (4)] |
    realm, component and key: | length (2) | bytes |

The format is MIT Kerberos' own (keytab file format, version 0x0502, in its documentation). The library does
not tell what is in a keytab when it cannot use it; this does, so that an error can name it."""

from pathlib import Path

from stockade.model.reasons import Reason, ReasonCode, StockadeError
from stockade.wire.cursor import Cursor

_VERSION = b"\x05\x02"
MAXIMUM_SIZE = 1024 * 1024


def read_principals(path: Path) -> tuple[str, ...] | Reason:
    """The principals in the order of the file, each once. KERBEROS_UNAVAILABLE where there is no keytab, it
    cannot be read or is none."""
    try:
        if path.stat().st_size > MAXIMUM_SIZE:
            return _refusal(path, "is too long for a keytab")
        content = path.read_bytes()
    except FileNotFoundError:
        return _refusal(path, "does not exist")
    except OSError as error:
        return _refusal(path, f"cannot be read: {error.strerror}")
    if content[:2] != _VERSION:
        return _refusal(path, "is no keytab of format 0x0502")
    found: list[str] = []
    position = 2
    while position + 4 <= len(content):
        size = int.from_bytes(content[position : position + 4], "big", signed=True)
        position += 4
        if size > 0:
            entry = content[position : position + size]
            name = _principal(entry) if len(entry) == size else None
            if name is None:
                return _refusal(path, f"is damaged at byte {position}")
            found.append(name)
        elif size == 0:
            break
        position += abs(size)
    return tuple(dict.fromkeys(found)) or _refusal(path, "is empty")


def host_principal(principals: tuple[str, ...]) -> str | None:
    """Under what name peers ask for tickets to us: host/…, else the computer account NAME$."""
    services = (name for name in principals if name.startswith("host/"))
    return next(services, None) or next((name for name in principals if _is_computer(name)), None)


def client_principal(principals: tuple[str, ...]) -> str | None:
    """As whom we ask for tickets: Active Directory gives them to the computer account NAME$ only."""
    return next((name for name in principals if _is_computer(name)), None) or host_principal(principals)


def is_host(principal: str) -> bool:
    """Whether a principal is a computer's and not that of one of its services."""
    return principal.startswith("host/") or _is_computer(principal)


def _is_computer(principal: str) -> bool:
    return "/" not in principal and principal.partition("@")[0].endswith("$")


def _principal(entry: bytes) -> str | None:
    cursor = Cursor(entry, "keytab entry")
    try:
        count = cursor.u16("components")
        realm = cursor.take(cursor.u16("length"), "realm").decode()
        parts = [cursor.take(cursor.u16("length"), "component").decode() for _ in range(count)]
    except (StockadeError, UnicodeDecodeError):
        return None
    return f"{'/'.join(parts)}@{realm}"


def _refusal(path: Path, detail: str) -> Reason:
    return Reason.of(ReasonCode.KERBEROS_UNAVAILABLE, f"the keytab {path} {detail}")
