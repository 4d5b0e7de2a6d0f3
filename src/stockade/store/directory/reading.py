"""A connection -> a snapshot: where the computer stands, what is linked there, and the IPsec objects."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Protocol
from uuid import UUID

from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.policy.group_policy import (
    Container,
    ContainerKind,
    GroupPolicyObject,
    normal_dn,
    parse_links,
    place_in_tree,
)
from stockade.store.directory.evaluation import CONTAINER
from stockade.store.directory.ldap import Entry, Scope
from stockade.store.directory.security_descriptor import (
    WELL_KNOWN,
    read_access_list,
    read_sid,
    why_not_applied,
)
from stockade.store.directory.snapshot import DirectoryObject, Snapshot, Value

EXTENSION = "{e437bc1c-aa7d-11d2-a382-00c04f991e27}"
"""The client-side extension that brings IPsec policies to a computer."""
POINTER = "CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine"
COMPUTERS = 515  # relative id of the group Domain Computers
BLOCK_INHERITANCE = 1
COMPUTER_DISABLED = 2
OBJECT_ATTRIBUTES = (
    "ipsecName", "ipsecID", "ipsecDataType", "ipsecData", "description", "ipsecOwnersReference",
    "ipsecISAKMPReference", "ipsecNFAReference", "ipsecNegotiationPolicyReference", "ipsecFilterReference",
    "iPSECNegotiationPolicyType", "iPSECNegotiationPolicyAction", "whenChanged", "uSNChanged", "objectClass",
)  # fmt: skip
_GPO_ATTRIBUTES = (
    "displayName", "flags", "gPCFunctionalityVersion", "gPCMachineExtensionNames", "gPCWQLFilter",
    "nTSecurityDescriptor", "objectClass",
)  # fmt: skip


class Directory(Protocol):
    """What is asked of a connection (`ldap.Connection`)."""

    controller: str

    def search(
        self, base: str, scope: Scope, attributes: Sequence[str], expression: str = ...
    ) -> list[Entry]: ...


def read_snapshot(
    directory: Directory,
    *,
    account: str = "",
    computer: str = "",
    unit: str = "",
    addresses: Iterable[Address] = (),
    known: str = "",
    clock: Callable[[], float] = time.time,
) -> Snapshot:
    """What concerns one computer: by its account name (`ALPHA$`), its DN, or any computer of an
    organizational unit. `addresses`: its own, for its site. `known`: the stamp of the objects that the caller
    has; they are not read again where it still holds. HostError DIRECTORY_UNREADABLE, and those of
    the connection."""
    root = _required(
        directory.search("", Scope.BASE, ["defaultNamingContext", "configurationNamingContext"]), "the root"
    )
    domain_dn, configuration = root.text("defaultNamingContext"), root.text("configurationNamingContext")
    if not domain_dn:
        raise error_for(ReasonCode.DIRECTORY_UNREADABLE, "it is no domain controller: it names no domain")
    target, sids = _who(directory, domain_dn, account, computer, unit)
    try:
        places = place_in_tree(f"CN=any,{unit}" if unit else target, domain_dn)
    except ValueError as error:
        raise error_for(ReasonCode.DIRECTORY_UNREADABLE, str(error)) from None
    site = _site(directory, configuration, tuple(addresses))
    containers = [*([_container(directory, site, ContainerKind.SITE)] if site else [])]
    for place, dn in enumerate(places):
        kind = ContainerKind.UNIT if place else ContainerKind.DOMAIN
        containers.append(_container(directory, dn, kind))
    linked: dict[str, str] = {}
    for container in containers:
        for link in container.links:
            linked.setdefault(normal_dn(link.gpo), link.gpo)
    gpos = tuple(_gpo(directory, dn, sids) for dn in linked.values())
    # Before the objects: what changes while they are read makes the next look find another stamp.
    stamp = read_stamp(directory, domain_dn)
    unchanged = bool(known) and stamp == known
    objects, hidden = ((), 0) if unchanged else read_ipsec_objects(directory, domain_dn)
    return Snapshot(
        clock(),
        domain_name(domain_dn),
        domain_dn,
        target,
        directory.controller,
        _first_value(site),
        tuple(containers),
        gpos,
        objects,
        hidden,
        stamp,
        unchanged,
    )


def read_stamp(directory: Directory, domain_dn: str) -> str:
    """Another one whenever an IPsec object came, went or was changed, by whenChanged and the controller's own
    count of updates (a time is the same for all changes of one second). Of this controller only."""
    rows = directory.search(f"{CONTAINER},{domain_dn}", Scope.ONE, ["whenChanged", "uSNChanged"])
    facts = sorted((normal_dn(row.dn), row.text("whenChanged"), row.text("uSNChanged")) for row in rows)
    return f"{directory.controller} {hashlib.sha256(repr(facts).encode()).hexdigest()}"


def domain_name(domain_dn: str) -> str:
    """`DC=lab,DC=test` → `lab.test`."""
    return ".".join(part.partition("=")[2] for part in domain_dn.split(","))


def read_ipsec_objects(directory: Directory, domain_dn: str) -> tuple[tuple[DirectoryObject, ...], int]:
    """All objects of the container, in the order of their names, and how many are listed but not shown."""
    found, hidden = [], 0
    base = f"{CONTAINER},{domain_dn}"
    for entry in directory.search(base, Scope.ONE, OBJECT_ATTRIBUTES):
        if "objectclass" not in entry.attributes:
            hidden += 1
            continue
        attributes = {
            name: tuple(map(_value(name), values))
            for name, values in entry.attributes.items()
            if name != "objectclass" and values
        }
        found.append(DirectoryObject(entry.dn, attributes))
    return tuple(sorted(found, key=lambda one: one.dn)), hidden


def _value(name: str) -> Callable[[bytes], Value]:
    return (lambda value: value) if name == "ipsecdata" else (lambda value: value.decode("utf-8", "replace"))


def _required(entries: list[Entry], what: str) -> Entry:
    if not entries:
        raise error_for(ReasonCode.DIRECTORY_UNREADABLE, f"{what} is not there, or not shown to us")
    return entries[0]


def _who(
    directory: Directory, domain_dn: str, account: str, computer: str, unit: str
) -> tuple[str, frozenset[str]]:
    """The DN, and the SIDs that access lists are asked about."""
    if unit:
        _required(directory.search(unit, Scope.BASE, ["objectClass"]), unit)
        domain = _required(directory.search(domain_dn, Scope.BASE, ["objectSid"]), domain_dn)
        sids = [read_sid(value) for value in domain.attributes.get("objectsid", ())]
        return unit, WELL_KNOWN | {f"{sid}-{COMPUTERS}" for sid in sids}
    if not computer:
        if not account.replace("-", "").replace("_", "").removesuffix("$").isalnum():
            raise error_for(ReasonCode.DIRECTORY_UNREADABLE, f"“{account[:80]}” is no name of an account")
        found = directory.search(
            domain_dn,
            Scope.SUBTREE,
            ["sAMAccountName"],
            f"(&(objectClass=computer)(sAMAccountName={account}))",
        )
        computer = _required(found, f"the account {account}").dn
    entry = _required(
        directory.search(computer, Scope.BASE, ["objectSid", "tokenGroups", "primaryGroupID"]), computer
    )
    sids = [
        read_sid(value) for name in ("objectsid", "tokengroups") for value in entry.attributes.get(name, ())
    ]
    own = next(iter(sids), "")
    group = entry.number("primaryGroupID")
    return entry.dn, WELL_KNOWN | {*sids, *([f"{own.rpartition('-')[0]}-{group}"] if own and group else [])}


def _container(directory: Directory, dn: str, kind: ContainerKind) -> Container:
    entry = _required(directory.search(dn, Scope.BASE, ["gPLink", "gPOptions"]), dn)
    try:
        links = parse_links(entry.text("gPLink"))
    except ValueError as error:
        raise error_for(ReasonCode.DIRECTORY_UNREADABLE, str(error), container=dn) from None
    return Container(dn, kind, links, bool(entry.number("gPOptions") & BLOCK_INHERITANCE))


def _gpo(directory: Directory, dn: str, sids: frozenset[str]) -> GroupPolicyObject:
    found = directory.search(dn, Scope.BASE, _GPO_ATTRIBUTES)
    guid = _guid(dn)
    if not found or "gpcfunctionalityversion" not in found[0].attributes:
        return GroupPolicyObject(dn, guid=guid, readable=False)
    entry = found[0]
    descriptor = entry.attributes.get("ntsecuritydescriptor", ())
    try:
        refusal = (
            why_not_applied(read_access_list(descriptor[0]), sids)
            if descriptor
            else "its access list is not shown to us"
        )
    except StockadeError as error:
        refusal = error.reason.detail
    pointers = directory.search(f"{POINTER},{dn}", Scope.BASE, ["ipsecOwnersReference", "ipsecName"])
    pointer = pointers[0] if pointers else None
    return GroupPolicyObject(
        dn,
        entry.text("displayName"),
        guid,
        computer_disabled=bool(entry.number("flags") & COMPUTER_DISABLED),
        supported=entry.number("gPCFunctionalityVersion") == 2,
        permitted=not refusal,
        why_not_permitted=refusal,
        wmi_filter=entry.text("gPCWQLFilter").strip(),
        has_extension=EXTENSION in entry.text("gPCMachineExtensionNames").casefold(),
        pointer=_pointed(pointer),
        pointer_name=pointer.text("ipsecName") if pointer else "",
    )


def _pointed(pointer: Entry | None) -> str:
    """The DN that it names; several are no policy, so that nobody guesses which one is meant."""
    owners = pointer.texts("ipsecOwnersReference") if pointer else ()
    return owners[0] if len(owners) == 1 else " and ".join(owners[:3])


def _guid(dn: str) -> UUID | None:
    try:
        return UUID(_first_value(dn))
    except ValueError:
        return None


def _first_value(dn: str) -> str:
    """`CN=name,…` → `name`."""
    return dn.partition(",")[0].partition("=")[2]


def _site(directory: Directory, configuration: str, addresses: tuple[Address, ...]) -> str:
    """DN of the site whose subnet is the narrowest around an address of ours; the only site where there is no
    more than one; else none."""
    sites = f"CN=Sites,{configuration}"
    best: tuple[int, str] = (-1, "")
    for entry in directory.search(f"CN=Subnets,{sites}", Scope.ONE, ["siteObject"], "(objectClass=subnet)"):
        try:
            network = ip_network(_first_value(entry.dn).replace("\\", ""))
        except ValueError:
            continue
        if any(one.version == network.version and ip_address(one) in network for one in addresses):
            best = max(best, (network.prefixlen, entry.text("siteObject")))
    if best[1]:
        return best[1]
    known = directory.search(sites, Scope.ONE, ["cn"], "(objectClass=site)")
    return known[0].dn if len(known) == 1 else ""
