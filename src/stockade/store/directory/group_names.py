"""Groups of a directory: those that an account is in (`tokenGroups`, which has groups in groups), and the
names of SIDs."""

import re
from collections.abc import Iterable

from stockade.model.reasons import ReasonCode, error_for
from stockade.store.directory.ldap import Scope
from stockade.store.directory.reading import Directory, domain_name
from stockade.store.directory.security_descriptor import read_sid

AT_ONCE = 40  # SIDs in one question
_SID = re.compile(r"S-1-[0-9]{1,15}(?:-[0-9]{1,10}){1,15}")
_PRINCIPAL = re.compile(r"[A-Za-z0-9._\-]{1,255}(?:/[A-Za-z0-9._\-]{1,255})?\$?")

Row = tuple[str, ...]
"""A SID, its name, and its name with the domain before it; the SID alone where the domain has no name."""


def domain_of(directory: Directory) -> str:
    """The DN of its domain. HostError DIRECTORY_UNREADABLE."""
    root = directory.search("", Scope.BASE, ["defaultNamingContext"])
    found = root[0].text("defaultNamingContext") if root else ""
    if not found:
        raise error_for(ReasonCode.DIRECTORY_UNREADABLE, "it is no domain controller: it names no domain")
    return found


def groups_of(directory: Directory, principal: str) -> list[Row]:
    """The groups of `host/NAME@REALM` or `NAME$@REALM`. HostError DIRECTORY_UNREADABLE where the domain has
    no such account."""
    domain_dn = domain_of(directory)
    name, _, realm = principal.rpartition("@")
    if realm.casefold() != domain_name(domain_dn).casefold():
        raise error_for(
            ReasonCode.DIRECTORY_UNREADABLE,
            f"{principal} is an account of another domain",
            domain=domain_name(domain_dn),
        )
    if not _PRINCIPAL.fullmatch(name):
        raise error_for(ReasonCode.DIRECTORY_UNREADABLE, f"“{principal[:80]}” is no name of an account")
    attribute = "servicePrincipalName" if "/" in name else "sAMAccountName"
    rows = directory.search(domain_dn, Scope.SUBTREE, ["objectSid"], f"({attribute}={name})")
    if len(rows) != 1:
        raise error_for(
            ReasonCode.DIRECTORY_UNREADABLE, f"{len(rows)} accounts are called {principal}; one expected"
        )
    entry = directory.search(rows[0].dn, Scope.BASE, ["objectSid", "tokenGroups", "primaryGroupID"])[0]
    sids = [read_sid(value) for value in entry.attributes.get("tokengroups", ())]
    own = [read_sid(value) for value in entry.attributes.get("objectsid", ())]
    if own and entry.number("primaryGroupID"):
        sids.append(f"{own[0].rpartition('-')[0]}-{entry.number('primaryGroupID')}")
    return names_of(directory, dict.fromkeys(sids), domain_dn)


def names_of(directory: Directory, sids: Iterable[str], domain_dn: str = "") -> list[Row]:
    """One row for each."""
    base = domain_dn or domain_of(directory)
    wanted = [sid for sid in sids if _SID.fullmatch(sid)]
    known: dict[str, str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        terms = "".join(f"(objectSid={sid})" for sid in wanted[start : start + AT_ONCE])
        for row in directory.search(base, Scope.SUBTREE, ["objectSid", "sAMAccountName"], f"(|{terms})"):
            for value in row.attributes.get("objectsid", ()):
                known[read_sid(value)] = row.text("sAMAccountName")
    domain = domain_name(base)
    return [(sid, known[sid], f"{domain}\\{known[sid]}") if known.get(sid) else (sid,) for sid in wanted]
