"""What `agent.toml` says about the domain, and what is asked of the program that reads the directory."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.model.reasons import ReasonCode, error_for
from stockade.model.secret import Secret

if TYPE_CHECKING:
    from stockade.store.directory.ldap import Login

LIFETIME = 90
"""Seconds for everything that one look at the directory does, all controllers included."""


@dataclass(frozen=True, slots=True)
class DomainSettings:
    """`domain` empty: no policy of a domain. Times in seconds: group policy is refreshed after `refresh`
    and up to `jitter` more; `first_retry` scales the schedule after failures (a minute). `security`:
    `gssapi`, `ldaps` or `starttls`; with TLS `authority` is the file with the certificates to trust, and
    `user` with the password in `password_file` who binds, where that is not the computer with Kerberos."""

    domain: str = ""
    controllers: tuple[str, ...] = ()
    computer: str = ""
    refresh: float = 90 * 60.0
    jitter: float = 30 * 60.0
    first_retry: float = 60.0
    security: str = "gssapi"
    authority: str = ""
    user: str = ""
    password_file: str = ""

    def login(self, keytab: Path | None, principal: str = "") -> "Login":
        """How a connection is made. CallerError INVALID_SETTING where the password cannot be read."""
        from stockade.store.directory.ldap import Login, Security

        return Login(
            Security(self.security),
            keytab=keytab,
            principal=principal,
            realm=self.domain.upper(),
            user=self.user,
            password=_password(self.password_file) if self.password_file else None,
            authority=Path(self.authority) if self.authority else None,
        )


def _password(name: str) -> Secret:
    """The first line of a file that only its owner reads. CallerError INVALID_SETTING."""
    try:
        with Path(name).open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise error_for(
                    ReasonCode.INVALID_SETTING, "others may read the file with the password", file=name
                )
            line = file.readline(1024).rstrip(b"\r\n")
    except OSError as error:
        raise error_for(
            ReasonCode.INVALID_SETTING, f"the file with the password: {error.strerror}", file=name
        ) from None
    if not line:
        raise error_for(ReasonCode.INVALID_SETTING, "the file with the password is empty", file=name)
    return Secret(line)


@dataclass(frozen=True, slots=True)
class Request:
    """`keytab` empty: the tickets of who runs this. `computer` empty: the keytab's account. `controllers`
    empty: those that DNS names. `security` to `password_file`: as in `DomainSettings`. `peer` or `sids`: not
    policies are asked for but the groups of this principal, or the names of these groups. `known`: the stamp
    of the objects that need not be sent again."""

    domain: str
    site: str = ""
    controllers: tuple[str, ...] = ()
    keytab: str = ""
    computer: str = ""
    unit: str = ""
    addresses: tuple[str, ...] = ()
    security: str = "gssapi"
    authority: str = ""
    user: str = ""
    password_file: str = ""
    peer: str = ""
    sids: tuple[str, ...] = ()
    known: str = ""

    @classmethod
    def of(cls, settings: DomainSettings, keytab: str) -> "Request":
        """What the settings say."""
        return cls(
            settings.domain,
            controllers=settings.controllers,
            keytab=keytab,
            computer=settings.computer,
            security=settings.security,
            authority=settings.authority,
            user=settings.user,
            password_file=settings.password_file,
        )

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Request":
        """What `encode` wrote."""
        form = json.loads(data)
        return cls(
            form["domain"],
            form["site"],
            tuple(form["controllers"]),
            form["keytab"],
            form["computer"],
            form["unit"],
            tuple(form["addresses"]),
            form["security"],
            form["authority"],
            form["user"],
            form["password_file"],
            form["peer"],
            tuple(form["sids"]),
            form["known"],
        )
