"""Who may connect, once it has proved who it is: access lists, and accounts for certificates.

On Windows a computer that authenticated must also hold the right to *access this computer from the network*
(and not be denied it): of the computer account that Kerberos proved, or that its certificate is mapped to.
Here entries say so, for all traffic or for one rule:

    allow or deny   computer | group | ca | domain   NAME   [rule]

A denial outweighs all; where there are allowing entries, one must fit. A rule's own entries count beside
those for all traffic: the former narrow what the latter open.

Names are those that were *proved*: the principal (and its host), the account and names of the certificate; of
a pre-shared key nothing but the address that the peer speaks from, since everybody who has the key can call
himself anything. Groups are those of the ticket and those of a table of this host. `*` stands for anything.

Pure: the file is read and written by `access_file.py`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import CallerError, Reason, ReasonCode, error_for
from stockade.pki.names import parse_name, same_name

MAXIMUM_DEPTH = 8
"""Groups in groups."""


class AccessKind(StrEnum):
    """What an entry names."""

    COMPUTER = "computer"
    GROUP = "group"
    CA = "ca"
    DOMAIN = "domain"


@quickly_made
@dataclass(frozen=True, slots=True)
class Proof:
    """What a peer has proved. `authorities`: names of the certification authorities above its certificate.
    `subject` and `issuer` of the certificate; `must_map`: the rule wants it to belong to an account.
    `groups_unknown`: why its groups may be more than these."""

    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    authorities: tuple[str, ...] = ()
    subject: str = ""
    issuer: str = ""
    must_map: bool = False
    groups_unknown: str = ""


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """`rule`: the name of a rule (or store/policy/rule); empty for all traffic."""

    allow: bool
    kind: AccessKind
    name: str
    rule: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise error_for(ReasonCode.INVALID_SETTING, f"an access entry needs the name of a {self.kind}")
        if self.kind is AccessKind.CA:
            parse_name(self.name)

    def __str__(self) -> str:
        where = f" for rule “{self.rule}”" if self.rule else ""
        return f"{'allow' if self.allow else 'deny'} {self.kind} {self.name}{where}"


@dataclass(frozen=True, slots=True)
class AccountMapping:
    """A certificate belongs to an account: by its subject, and by its issuer if that is given."""

    account: str
    subject: str
    issuer: str = ""

    def __post_init__(self) -> None:
        if not self.account.strip():
            raise error_for(ReasonCode.INVALID_SETTING, "an account mapping needs an account")
        parse_name(self.subject)
        if self.issuer:
            parse_name(self.issuer)


@dataclass(frozen=True, slots=True)
class AccessList:
    """All of it. `closed`: why nobody may connect (the list cannot be read). Groups: name to members, which
    are computers or other groups."""

    entries: tuple[AccessEntry, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    accounts: tuple[AccountMapping, ...] = ()
    closed: str = ""

    def account_of(self, proof: Proof) -> str | None:
        """The account that a certificate is mapped to."""
        for mapping in self.accounts:
            if _same(mapping.subject, proof.subject) and (
                not mapping.issuer or _same(mapping.issuer, proof.issuer)
            ):
                return mapping.account
        return None

    def why_denied(self, proof: Proof, rule: str = "") -> Reason | None:
        """None where the peer may connect. `rule` empty: main mode, by the entries for all traffic; else a
        quick mode of this rule (its name as in the filter table: store/policy/rule)."""
        if self.closed:
            return Reason.of(ReasonCode.ACCESS_DENIED, self.closed)
        if not self.entries and not proof.must_map:
            return None
        account = self.account_of(proof) if proof.subject else None
        if proof.must_map and account is None:
            return Reason.of(
                ReasonCode.ACCESS_DENIED,
                "the rule wants certificates that are mapped to accounts, and this one is not",
                subject=proof.subject,
                issuer=proof.issuer,
            )
        names = proof.names if account is None else (*proof.names, account)
        groups = self._groups_of(names, proof.groups)
        scopes = [""] if not rule else ["", rule]
        for scope in scopes:
            entries = [entry for entry in self.entries if _in_scope(entry.rule, scope)]
            fitting = [entry for entry in entries if _fits(entry, names, groups, proof)]
            for entry in fitting:
                if not entry.allow:
                    return _denied(f"by “{entry}”", names, rule)
            if proof.groups_unknown and any(
                entry.kind is AccessKind.GROUP and not entry.allow for entry in entries
            ):
                return _denied(f"a group is denied, and {proof.groups_unknown}", names, rule)
            allowing = [entry for entry in entries if entry.allow]
            if allowing and not any(entry.allow for entry in fitting):
                what = "no entry allows it" + (" for this rule" if scope else "")
                there = ", ".join(f"“{entry}”" for entry in allowing[:4])
                why = f" ({proof.groups_unknown})" if proof.groups_unknown else ""
                return _denied(f"{what}; there are {there}{why}", names, rule)
        return None

    def _groups_of(self, names: Iterable[str], told: Iterable[str]) -> tuple[str, ...]:
        """The groups that a computer of these names is in, by the ticket and by our own table."""
        found = {name.casefold(): name for name in told}
        members = [*names, *found.values()]
        for _ in range(MAXIMUM_DEPTH):
            more = [
                group
                for group, inside in self.groups.items()
                if group.casefold() not in found and any(_is(each, members) for each in inside)
            ]
            if not more:
                break
            found.update((group.casefold(), group) for group in more)
            members += more
        return tuple(found.values())


EVERYBODY = AccessList()


def _denied(why: str, names: tuple[str, ...], rule: str) -> Reason:
    facts = {"peer": ", ".join(names[:4]), **({"rule": rule} if rule else {})}
    return Reason.of(ReasonCode.ACCESS_DENIED, why, **facts)


def _in_scope(entry: str, scope: str) -> bool:
    if not entry or not scope:
        return entry == scope
    return entry.casefold() in (scope.casefold(), scope.rpartition("/")[2].casefold())


def _fits(entry: AccessEntry, names: Iterable[str], groups: Iterable[str], proof: Proof) -> bool:
    match entry.kind:
        case AccessKind.COMPUTER:
            return _is(entry.name, names)
        case AccessKind.GROUP:
            return _is(entry.name, groups)
        case AccessKind.DOMAIN:
            return _is(entry.name, proof.domains)
        case AccessKind.CA:
            return any(_same(entry.name, authority) for authority in proof.authorities)


def _is(wanted: str, names: Iterable[str]) -> bool:
    pattern = wanted.strip().casefold().replace("[", "[[]")
    return any(fnmatchcase(name.casefold(), pattern) for name in names)


def _same(one: str, other: str) -> bool:
    try:
        return same_name(parse_name(one), parse_name(other))
    except CallerError:
        return False
