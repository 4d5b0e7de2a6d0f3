"""Who may sign in: `accounts.json`, names with a role and a password's hash (scrypt, RFC 7914).

The file stands in a folder that only root reaches by its path; the console, which is nobody when somebody
signs in, reads it through the folder that it took hold of as root. So an account that was removed is gone
at once."""

import base64
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stockade.model.reasons import ReasonCode, StockadeError, error_for

ROLES = ("viewer", "operator")
NAME = "accounts.json"
MINIMUM_PASSWORD = 10
MAXIMUM_PASSWORD = 1024
MAXIMUM_ACCOUNTS = 200
MAXIMUM_FILE = 1 << 20

_COST, _BLOCK, _PARALLEL = 1 << 15, 8, 1
"""32 MiB and about a tenth of a second for one try."""


@dataclass(frozen=True, slots=True)
class Account:
    """`salt` and `digest` are of the password."""

    name: str
    role: str
    salt: bytes
    digest: bytes

    def __repr__(self) -> str:
        return f"Account({self.name!r}, {self.role!r})"


_NOBODY = Account("", "viewer", bytes(16), bytes(32))
"""Compared with where a name is unknown: both answers take the same time."""


def make_account(name: str, role: str, password: str) -> Account:
    """A new account. CallerError where name, role or password will not do."""
    if not 0 < len(name) <= 64 or not all(letter.isalnum() or letter in "-_.@" for letter in name):
        raise error_for(
            ReasonCode.SYNTAX, f"account {name[:64]!r}: 1 to 64 letters, digits and - _ . @ are allowed"
        )
    if role not in ROLES:
        raise error_for(ReasonCode.SYNTAX, f"role {role!r}: expected {' or '.join(ROLES)}")
    if not MINIMUM_PASSWORD <= len(password) <= MAXIMUM_PASSWORD:
        raise error_for(
            ReasonCode.SYNTAX, f"a password has {MINIMUM_PASSWORD} to {MAXIMUM_PASSWORD} characters"
        )
    salt = secrets.token_bytes(16)
    return Account(name, role, salt, _digest(password, salt))


def verify(accounts: dict[str, Account], name: str, password: str) -> Account | None:
    """The account that name and password open. Takes as long for a name that there is not."""
    account = accounts.get(name, _NOBODY)
    right = hmac.compare_digest(_digest(password[:MAXIMUM_PASSWORD], account.salt), account.digest)
    return account if right and account is not _NOBODY else None


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=1 << 26
    )


def read_accounts(folder: Path) -> dict[str, Account]:
    """The accounts by name; none where there is no file. HostError STATE_UNUSABLE where it cannot be read:
    then nobody gets in."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAXIMUM_FILE))
        return {
            row["name"]: Account(
                row["name"], row["role"], base64.b64decode(row["salt"]), base64.b64decode(row["digest"])
            )
            for row in content["accounts"]
            if row["role"] in ROLES
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(path, error) from error


def write_accounts(folder: Path, accounts: dict[str, Account]) -> None:
    """Put `accounts` in the place of those that there are, all or nothing. HostError."""
    if len(accounts) > MAXIMUM_ACCOUNTS:
        raise error_for(ReasonCode.SYNTAX, f"more than {MAXIMUM_ACCOUNTS} accounts")
    rows = [
        {
            "name": one.name,
            "role": one.role,
            "salt": base64.b64encode(one.salt).decode(),
            "digest": base64.b64encode(one.digest).decode(),
        }
        for one in accounts.values()
    ]
    make_accounts_folder(folder)
    try:
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"accounts": rows}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)  # who may come is said by the folder
        Path(name).replace(folder / NAME)
    except OSError as error:
        raise _unusable(folder, error) from error


def make_accounts_folder(folder: Path) -> None:
    """A folder that only its owner reaches, and whoever holds it can pass through. HostError."""
    try:
        for path, mode in ((folder.parent, 0o700), (folder, 0o711)):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                raise PermissionError(1, "belongs to somebody else")
            path.chmod(mode)
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(path: Path, error: Exception) -> StockadeError:
    why = error.strerror if isinstance(error, OSError) else type(error).__name__
    return error_for(ReasonCode.STATE_UNUSABLE, f"{path}: {why}", file=path)
