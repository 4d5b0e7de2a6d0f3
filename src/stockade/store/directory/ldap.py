"""LDAP to a domain controller, over `bonsai` (OpenLDAP's library). Never in clear: Kerberos with a sealed
connection (GSSAPI, at least 56 bits), LDAPS, or StartTLS with a certificate that is checked.

Every call is bounded in time and in what it returns. Referrals are not followed, so they cannot lead in
circles. An attribute with so many values that a controller gives them in parts (`name;range=0-1499`) is
read to its end ([MS-ADTS] §3.1.1.3.1.3.3)."""

import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Self, cast

from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret

if TYPE_CHECKING:
    import bonsai

TIMEOUT = 20.0
"""Seconds that a controller has for one answer."""
MAXIMUM_ENTRIES = 60_000
MAXIMUM_BYTES = 64 << 20
MINIMUM_STRENGTH = 56  # bits of a sealed connection, as SASL counts them
DACL_ONLY = 4
LDAPS_PORT = 636
_NO_CONNECTION = (-1, -11)  # LDAP_SERVER_DOWN, LDAP_CONNECT_ERROR of OpenLDAP's library
BINARY = frozenset({"ipsecdata", "ntsecuritydescriptor", "objectsid", "tokengroups", "objectguid"})
_RANGE = re.compile(r"(.+);range=([0-9]{1,9})-([0-9]{1,9}|\*)", re.IGNORECASE)


class Security(StrEnum):
    """How the connection is protected, and the client known."""

    GSSAPI = "gssapi"
    LDAPS = "ldaps"
    STARTTLS = "starttls"


class Scope(IntEnum):
    BASE = 0
    ONE = 1
    SUBTREE = 2


@dataclass(frozen=True, slots=True)
class Login:
    """`keytab` and `principal`: the machine's, for Kerberos; without them the tickets of who runs this are
    used. `user` and `password`: a bind with them in place of Kerberos, inside TLS only. `authority`: file
    with the certificates to trust there; None: the system's."""

    security: Security = Security.GSSAPI
    keytab: Path | None = None
    principal: str = ""
    realm: str = ""
    user: str = ""
    password: Secret | None = field(default=None, repr=False)
    authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """`attributes`: names in small letters."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]] = field(repr=False)

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(value.decode("utf-8", "replace") for value in self.attributes.get(name.casefold(), ()))

    def text(self, name: str) -> str:
        return next(iter(self.texts(name)), "")

    def number(self, name: str, default: int = 0) -> int:
        text = self.text(name).strip()
        return int(text) if re.fullmatch(r"-?[0-9]{1,10}", text) else default


def _library() -> ModuleType:
    # Names of controllers come from DNS as they are; looking their addresses up backwards would let whoever
    # answers that choose the principal that we trust.
    os.environ.setdefault("LDAPSASL_NOCANON", "on")
    os.environ.setdefault("LDAPREFERRALS", "off")
    try:
        import bonsai
        import bonsai.errors
    except ImportError:
        detail = "the Python package bonsai is not installed (pip install 'stockade[directory]')"
        raise error_for(ReasonCode.DIRECTORY_REFUSED, detail) from None
    return cast(ModuleType, bonsai)


class Connection:
    """A bound, protected connection to one controller; a context manager."""

    def __init__(self, controller: str, login: Login, timeout: float = TIMEOUT) -> None:
        self.controller = controller
        self._timeout = timeout
        self._bytes = 0
        library = _library()
        scheme = "ldaps" if login.security is Security.LDAPS else "ldap"
        try:
            client = library.LDAPClient(f"{scheme}://{controller}", login.security is Security.STARTTLS)
            client.set_ignore_referrals(True)
            client.set_server_chase_referrals(False)
            client.set_sd_flags(DACL_ONLY)
            client.set_raw_attributes(list(ATTRIBUTES))
            _authenticate(client, login)
            self._connection: bonsai.LDAPConnection = client.connect(timeout=timeout)
            _bound_reads(self._connection.fileno())
        except library.LDAPError as error:
            raise _certificate_refused(error, controller, login) or _refused(
                library, error, controller
            ) from None
        except (OSError, ValueError) as error:
            raise error_for(
                ReasonCode.DIRECTORY_UNREACHABLE, _clean(str(error)), controller=controller
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def search(
        self, base: str, scope: Scope, attributes: Sequence[str], expression: str = "(objectClass=*)"
    ) -> list[Entry]:
        """What is found. A base that is not there, or not shown to us, gives nothing. HostError
        DIRECTORY_UNREACHABLE, DIRECTORY_REFUSED."""
        library = _library()
        found: list[Entry] = []
        try:
            try:
                rows = self._connection.search(base, int(scope), expression, list(attributes), self._timeout)
                found += (self._entry(row) for row in rows)
            except library.errors.SizeLimitError:  # more than a controller gives at once (1000)
                newest = self.search("", Scope.BASE, ["highestCommittedUSN"])
                last = newest[0].number("highestCommittedUSN") if newest else 0
                for row in self._in_parts(base, scope, attributes, expression, 0, last):
                    found.append(self._entry(row))
                    if len(found) > MAXIMUM_ENTRIES:
                        raise self._too_much(f"more than {MAXIMUM_ENTRIES} entries in {base}") from None
        except library.errors.NoSuchObjectError:
            return []
        except library.LDAPError as error:
            raise _refused(library, error, self.controller) from None
        return found

    def _in_parts(
        self, base: str, scope: Scope, attributes: Sequence[str], expression: str, first: int, last: int
    ) -> "Iterator[bonsai.LDAPEntry]":
        """Those that were made with an update number from `first` to `last` (each object has one), half by
        half where they are too many. Not in pages: the library falls with a memory fault where a controller
        stops in the middle of one."""
        part = f"(&{expression}(uSNCreated>={first})(uSNCreated<={last}))"
        try:
            yield from self._connection.search(base, int(scope), part, list(attributes), self._timeout)
            return
        except _library().errors.SizeLimitError:
            if first >= last:
                raise self._too_much(f"more entries in {base} than the controller gives at once") from None
        middle = (first + last) // 2
        yield from self._in_parts(base, scope, attributes, expression, first, middle)
        yield from self._in_parts(base, scope, attributes, expression, middle + 1, last)

    def _entry(self, row: "bonsai.LDAPEntry") -> Entry:
        attributes: dict[str, tuple[bytes, ...]] = {}
        dn = str(row.dn)
        for name, values in row.items():
            if name == "dn":
                continue
            kept = tuple(_octets(value) for value in values)
            self._bytes += sum(map(len, kept))
            if self._bytes > MAXIMUM_BYTES:
                raise self._too_much(f"more than {MAXIMUM_BYTES} bytes")
            match = _RANGE.fullmatch(name)
            if match is None:
                attributes.setdefault(name.casefold(), kept)
            else:
                attributes[match[1].casefold()] = self._whole(dn, match[1], kept, match[3])
        return Entry(dn, attributes)

    def _whole(self, dn: str, name: str, values: tuple[bytes, ...], last: str) -> tuple[bytes, ...]:
        """All values of an attribute that came in part."""
        found = list(values)
        while last != "*":
            start = int(last) + 1
            rows = self._connection.search(
                dn, 0, "(objectClass=*)", [f"{name};range={start}-*"], self._timeout
            )
            part = next(
                (
                    (match, row[key])
                    for row in rows
                    for key in row
                    if (match := _RANGE.fullmatch(key)) and int(match[2]) == start
                ),
                None,
            )
            if part is None or not part[1] or len(found) > MAXIMUM_ENTRIES:
                raise self._too_much(f"{name} of {dn} cannot be read to its end")
            found += (_octets(value) for value in part[1])
            last = part[0][3]
        return tuple(found)

    # ---- changes
    def add(self, dn: str, attributes: Mapping[str, Sequence[str | bytes]]) -> None:
        """HostError DIRECTORY_REFUSED names the entry."""
        library = _library()
        entry = library.LDAPEntry(dn)
        for name, values in attributes.items():
            entry[name] = list(values)
        self._change(lambda: self._connection.add(entry, timeout=self._timeout), dn)

    def modify(
        self,
        dn: str,
        replace: Mapping[str, Sequence[str | bytes]],
        add: Mapping[str, Sequence[str]] | None = None,
        remove: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`replace` with nothing takes the attribute away."""
        library = _library()
        modes = library.LDAPModOp
        entry = library.LDAPEntry(dn)
        for name, values in replace.items():
            entry.change_attribute(name, modes.REPLACE, *values)
        for name, values in (add or {}).items():
            entry.change_attribute(name, modes.ADD, *values)
        for name, values in (remove or {}).items():
            entry.change_attribute(name, modes.DELETE, *values)
        entry.connection = self._connection
        self._change(lambda: entry.modify(timeout=self._timeout), dn)

    def delete(self, dn: str) -> None:
        self._change(lambda: self._connection.delete(dn, timeout=self._timeout), dn)

    def _change(self, work: Callable[[], object], dn: str) -> None:
        library = _library()
        try:
            work()
        except library.LDAPError as error:
            failure = _refused(library, error, self.controller)
            raise error_for(
                failure.reason.code, failure.reason.detail, **dict(failure.reason.facts), entry=dn
            ) from None

    def _too_much(self, detail: str) -> StockadeError:
        return error_for(ReasonCode.DIRECTORY_UNREADABLE, detail, controller=self.controller)


ATTRIBUTES = (
    "objectClass", "name", "cn", "description", "displayName", "ipsecName", "ipsecID", "ipsecDataType",
    "ipsecData", "ipsecOwnersReference", "ipsecISAKMPReference", "ipsecNFAReference",
    "ipsecNegotiationPolicyReference", "ipsecFilterReference", "iPSECNegotiationPolicyType",
    "iPSECNegotiationPolicyAction", "whenChanged", "uSNChanged", "gPLink", "gPOptions", "flags",
    "gPCFunctionalityVersion", "gPCMachineExtensionNames", "gPCWQLFilter", "nTSecurityDescriptor",
    "objectSid", "tokenGroups", "primaryGroupID", "sAMAccountName", "siteObject", "defaultNamingContext",
    "configurationNamingContext", "dnsHostName", "serverName", "versionNumber",
)  # fmt: skip
"""All attributes that we read: their values come as they are."""


def _bound_reads(descriptor: int) -> None:
    """The library waits for the beginning of an answer as long as it was told, and for the rest of one that
    has begun for ever. With a limit of the socket it comes back, and looks at its clock."""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        limit = struct.pack("@ll", 1, 0)  # struct timeval: one second
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def _octets(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _authenticate(client: "bonsai.LDAPClient", login: Login) -> None:
    tls = login.security is not Security.GSSAPI
    if tls:
        client.set_cert_policy("demand")
        if login.authority is not None:
            client.set_ca_cert(str(login.authority))
    if login.user:
        if not tls or login.password is None:
            detail = "a user with a password binds inside TLS only, and needs both"
            raise error_for(ReasonCode.DIRECTORY_REFUSED, detail)
        client.set_credentials("SIMPLE", user=login.user, password=login.password.reveal().decode())
        return
    if tls:  # a controller takes no second protection inside TLS
        client.set_sasl_security_properties(min_ssf=0, max_ssf=0)
    else:
        client.set_sasl_security_properties(min_ssf=MINIMUM_STRENGTH, max_ssf=256)
    if login.keytab is None:
        client.set_credentials("GSSAPI")
        return
    name, _, realm = login.principal.partition("@")
    client.set_credentials("GSSAPI", user=name, realm=realm or login.realm, keytab=str(login.keytab))


def _refused(library: ModuleType, error: Exception, controller: str) -> StockadeError:
    """The library's error in our words."""
    errors = library.errors
    silent = (errors.ConnectionError, errors.TimeoutError)
    code = ReasonCode.DIRECTORY_UNREACHABLE if isinstance(error, silent) else ReasonCode.DIRECTORY_REFUSED
    return error_for(code, _clean(str(error)), controller=controller)


def _certificate_refused(error: Exception, controller: str, login: Login) -> StockadeError | None:
    """The library says only that there is no connection, also where there is one and TLS fails on it."""
    if login.security is Security.GSSAPI or getattr(error, "code", 0) not in _NO_CONNECTION:
        return None
    if login.security is Security.LDAPS:
        try:
            socket.create_connection((controller, LDAPS_PORT), 3.0).close()
        except OSError:
            return None
    return error_for(
        ReasonCode.DIRECTORY_REFUSED,
        "TLS cannot be established: its certificate is not for this name, or of no authority that is trusted",
        controller=controller,
        authority=login.authority or "those of the system",
    )


def _clean(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)[:300]
