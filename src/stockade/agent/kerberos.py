"""This host's Kerberos, over MIT's library (the optional package `gssapi`): implements `GssSource`.

The keytab serves twice: with its key we get our own ticket (it is the *client keytab*), and with it we read
the tickets of peers. Our tickets are in memory only. Domain controllers are found as krb5.conf or DNS say.

The library is imported with the first use, in the thread that may block."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from stockade.agent import keytab
from stockade.agent.group_lookup import GroupLookup, Groups
from stockade.model.reasons import PeerError, Reason, ReasonCode, StockadeError, error_for, error_of
from stockade.wire.pac import read_logon_info

if TYPE_CHECKING:
    import gssapi

_LOGON_INFO = b"urn:mspac:logon-info"

# What went wrong, by the number of Kerberos' own error (RFC 4120 §7.5.9; above 127: MIT's library).
_BASE = -1765328384
_CODES = {
    ReasonCode.KERBEROS_CLOCK_SKEW: (33, 37, 148),
    ReasonCode.KERBEROS_NO_TICKET: (6, 7, 12, 24, 68, 154, 155),
    ReasonCode.KERBEROS_UNREACHABLE: (29, 156, 157),
    ReasonCode.KERBEROS_EXPIRED: (1, 2, 18, 19, 23, 32),
}
_CODE_OF = {_BASE + number: code for code, numbers in _CODES.items() for number in numbers}


class HostKerberos:
    """Implements `GssSource`. `principal` (empty: the host's one in the keytab) is what peers shall ask
    tickets for."""

    def __init__(self, path: Path, principal: str = "", groups: GroupLookup | None = None) -> None:
        self._path = path
        self._principal = principal
        self.groups = groups
        self._known: tuple[tuple[int, int] | None, tuple[str, ...] | Reason] | None = None

    # ---- GssSource
    def own_name(self) -> str | Reason:
        if importlib.util.find_spec("gssapi") is None:
            detail = "the Python package gssapi is not installed"
            return Reason.of(ReasonCode.KERBEROS_UNAVAILABLE, detail)
        principals = self._principals()
        if isinstance(principals, Reason):
            return principals
        name = self._principal or keytab.host_principal(principals)
        if name is None or name not in principals:
            wanted = self._principal or "host/… or COMPUTER$"
            detail = f"the keytab {self._path} has no key of {wanted}"
            return Reason.of(ReasonCode.KERBEROS_UNAVAILABLE, detail, principals=", ".join(principals[:8]))
        return name

    def initiate(self, peer: str) -> "InitiatorContext":
        gssapi = _library()
        try:
            client = keytab.client_principal(self._require_principals())
            name = gssapi.Name(client, gssapi.NameType.kerberos_principal)
            store = {"client_keytab": f"FILE:{self._path}", "ccache": self._cache}
            credentials = gssapi.Credentials(name=name, usage="initiate", store=store)
            target = gssapi.Name(peer, gssapi.NameType.kerberos_principal)
            context = gssapi.SecurityContext(
                name=target,
                creds=credentials,
                usage="initiate",
                mech=gssapi.MechType.kerberos,
                flags=_flags(),
            )
            token = context.step()
        except gssapi.exceptions.GSSError as error:
            raise self._no_ticket(error, peer) from None
        if token is None or context.complete:
            raise error_for(ReasonCode.KERBEROS_NO_TICKET, "the library offers no mutual authentication")
        # Its ticket is for its own host, and we never see it: what it is in says the directory.
        groups = Groups() if self.groups is None else self.groups.of_peer(peer)
        return InitiatorContext(context, token, peer, groups)

    def accept(self, token: bytes) -> "ResponderContext":
        gssapi = _library()
        try:
            credentials = gssapi.Credentials(usage="accept", store={"keytab": f"FILE:{self._path}"})
            context = gssapi.SecurityContext(creds=credentials, usage="accept")
            answer = context.step(token)
            complete = context.complete
        except gssapi.exceptions.GSSError as error:
            raise _refused(error, ReasonCode.KERBEROS_REFUSED) from None
        if not complete or not answer:
            raise error_for(ReasonCode.KERBEROS_REFUSED, "the peer's token asks for no mutual authentication")
        _require_flags(context)
        called = str(context.target_name)
        if not keytab.is_host(called):
            detail = f"the peer's ticket is for the service {called}, not for this computer"
            raise error_for(ReasonCode.KERBEROS_REFUSED, detail)
        name = context.initiator_name
        return ResponderContext(context, answer, str(name), self._groups_in(name))

    # ---- inside
    def _groups_in(self, name: "gssapi.Name") -> Groups:
        """Those of the ticket (its PAC, whose signature the library has checked); of a ticket without one,
        those that the directory says."""
        try:
            found = name.attributes[_LOGON_INFO]
            values = list(found.values) if found.authenticated else []
        except (KeyError, TypeError, _library().exceptions.GSSError):
            values = []
        if not values:
            return Groups() if self.groups is None else self.groups.of_peer(str(name))
        try:
            sids = read_logon_info(bytes(values[0])).groups
        except StockadeError as error:
            return Groups(unknown=f"the groups of the ticket cannot be read: {error.reason.detail}")
        return Groups(sids) if self.groups is None else self.groups.named(sids)

    def _no_ticket(self, error: "gssapi.exceptions.GSSError", peer: str) -> StockadeError:
        """A peer of another realm: either there is no trust, or only theirs in us or ours in them."""
        refused = _refused(error, ReasonCode.KERBEROS_NO_TICKET, peer=peer)
        names = self._principals()
        own = "" if isinstance(names, Reason) else names[0].rpartition("@")[2]
        realm = peer.rpartition("@")[2]
        if refused.reason.code is not ReasonCode.KERBEROS_NO_TICKET or not own or realm == own:
            return refused
        why = (
            f"{refused.reason.detail}; either {realm} does not trust {own}, or it has no such computer:"
            " Kerberos between two domains needs a trust in both directions"
        )
        return error_for(ReasonCode.KERBEROS_NO_TICKET, why, **dict(refused.reason.facts))

    @property
    def _cache(self) -> str:
        # Tickets of an earlier key of ours go with it.
        assert self._known is not None
        changed = self._known[0]
        return f"MEMORY:stockade-{changed[0] if changed else 0}"

    def _principals(self) -> tuple[str, ...] | Reason:
        """What is in the keytab now; it is read again when it changed."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = None
        if self._known is None or self._known[0] != stamp or stamp is None:
            self._known = (stamp, keytab.read_principals(self._path))
        return self._known[1]

    def _require_principals(self) -> tuple[str, ...]:
        principals = self._principals()
        if isinstance(principals, Reason):
            raise error_of(principals)
        return principals


class _Context:
    """What both sides share. Implements `GssContext`."""

    def __init__(self, context: "gssapi.SecurityContext", token: bytes, peer: str, groups: Groups) -> None:
        self._context = context
        self.token = token
        self.peer = peer
        self.groups = groups.names
        self.groups_unknown = groups.unknown

    def wrap(self, data: bytes) -> bytes:
        try:
            sealed = self._context.wrap(data, encrypt=True)
        except _library().exceptions.GSSError as error:
            raise _refused(error, ReasonCode.KERBEROS_REFUSED, peer=self.peer) from None
        return bytes(sealed.message)

    def unwrap(self, data: bytes) -> bytes:
        try:
            opened = self._context.unwrap(data)
        except _library().exceptions.GSSError as error:
            reason = _refused(error, ReasonCode.KERBEROS_REFUSED, peer=self.peer).reason
            # Whatever it is, the peer's bytes did it: another message may be the right one.
            raise PeerError(Reason(ReasonCode.KERBEROS_REFUSED, reason.detail, reason.facts)) from None
        if not opened.encrypted:
            raise error_for(ReasonCode.KERBEROS_REFUSED, "the peer's HASH is not sealed", peer=self.peer)
        return bytes(opened.message)


class ResponderContext(_Context):
    """The side that was asked; complete from the start."""

    def complete(self, token: bytes) -> None:
        raise error_for(ReasonCode.KERBEROS_REFUSED, "a second token for a complete context")


class InitiatorContext(_Context):
    """The side that asked for the ticket."""

    def complete(self, token: bytes) -> None:
        try:
            self._context.step(token)
        except _library().exceptions.GSSError as error:
            raise PeerError(_refused(error, ReasonCode.KERBEROS_REFUSED, peer=self.peer).reason) from None
        if not self._context.complete:
            raise error_for(ReasonCode.KERBEROS_REFUSED, "Kerberos wants more than one message each way")
        _require_flags(self._context)


def _library() -> ModuleType:
    import gssapi

    return cast(ModuleType, gssapi)


def _flags() -> int:
    flag = _library().RequirementFlag
    return int(flag.mutual_authentication | flag.confidentiality | flag.integrity | flag.replay_detection)


def _require_flags(context: "gssapi.SecurityContext") -> None:
    """Mutual authentication, integrity and secrecy, whatever the peer asked for."""
    flag = _library().RequirementFlag
    wanted = flag.mutual_authentication | flag.confidentiality | flag.integrity
    if int(context.actual_flags) & int(wanted) != int(wanted):
        raise error_for(ReasonCode.KERBEROS_REFUSED, "the context is not mutual and secret")


def _refused(error: "gssapi.exceptions.GSSError", otherwise: ReasonCode, **facts: object) -> StockadeError:
    """The library's error in our words. `facts` name the peer."""
    minor = error.min_code - 2**32 if error.min_code >= 2**31 else error.min_code
    texts = [*error.get_all_statuses(error.min_code, False)] if error.min_code else []
    texts = texts or [*error.get_all_statuses(error.maj_code, True)]
    detail = "; ".join(dict.fromkeys(_text(entry) for entry in texts))
    return error_for(_CODE_OF.get(minor, otherwise), detail, **facts)


def _text(status: object) -> str:
    text = status.decode("utf-8", "replace") if isinstance(status, bytes) else str(status)
    return "".join(char if char.isprintable() else "?" for char in text)[:300]
