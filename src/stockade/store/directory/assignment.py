"""Which group policy object assigns which IPsec policy, and changing that ([MS-GPIPSEC] §2.2.2, §3.1;
[MS-GPOL] §2.2.4, §3.3).

    CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,CN={GPO},CN=Policies,CN=System,…   objectClass ipsecPolicy
        ipsecOwnersReference   DN of the policy      ipsecName, description   of the policy
    gPCMachineExtensionNames   [{client-side extension}{tool}]…, in ascending order
    versionNumber              low 16 bits: of the computer's half, one more with every change

The version stands in GPT.INI of the SYSVOL share as well; that file is not reached by LDAP (`publish` of
`domain_store`)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from stockade.model.reasons import ReasonCode, error_for
from stockade.policy.group_policy import normal_dn
from stockade.store.directory.ldap import Entry, Scope
from stockade.store.directory.reading import EXTENSION, POINTER
from stockade.store.formats.problems import shown

TOOL_EXTENSION = "{DEA8AFA0-CC85-11D0-9CE2-0080C7221EBD}"
_GUID = re.compile(r"\{?([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\}?")
_GROUP = re.compile(r"\[((?:\{[0-9a-fA-F-]{36}\})+)\]")
_GPO_ATTRIBUTES = ("displayName", "versionNumber", "gPCMachineExtensionNames", "flags")


class Directory(Protocol):
    """What is asked of a connection (`ldap.Connection`)."""

    controller: str

    def search(
        self, base: str, scope: Scope, attributes: Sequence[str], expression: str = ...
    ) -> list[Entry]: ...

    def add(self, dn: str, attributes: Mapping[str, Sequence[str | bytes]]) -> None: ...

    def modify(
        self,
        dn: str,
        replace: Mapping[str, Sequence[str | bytes]],
        add: Mapping[str, Sequence[str]] | None = None,
        remove: Mapping[str, Sequence[str]] | None = None,
    ) -> None: ...

    def delete(self, dn: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """`gpo`: the name of the group policy object; `policy`: what its pointer calls the policy."""

    gpo: str
    gpo_dn: str
    policy_dn: str
    policy: str


def find_gpo(directory: Directory, domain_dn: str, name: str) -> Entry:
    """By its display name or its GUID. CallerError UNKNOWN_NAME, also where several have the name."""
    base = f"CN=Policies,CN=System,{domain_dn}"
    rows = directory.search(base, Scope.ONE, _GPO_ATTRIBUTES, "(objectClass=groupPolicyContainer)")
    match = _GUID.fullmatch(name.strip())
    if match is not None:
        found = [row for row in rows if _guid_of(row.dn) == UUID(match[1])]
    else:
        found = [row for row in rows if row.text("displayName").casefold() == name.casefold()]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(f"“{shown(row.text('displayName'))}”" for row in rows)[:10])
    if found:
        guids = ", ".join(str(row.dn).partition(",")[0][3:] for row in found[:5])
        raise error_for(
            ReasonCode.UNKNOWN_NAME,
            f"{len(found)} group policy objects are called “{shown(name)}”",
            expected=f"the GUID of one of them: {guids}",
        )
    raise error_for(
        ReasonCode.UNKNOWN_NAME,
        f"there is no group policy object “{shown(name)}”",
        expected=f"one of {known}" if known else "an account that may see them",
    )


def assign(
    directory: Directory, domain_dn: str, gpo: str, policy_dn: str, name: str, description: str
) -> tuple[str, int]:
    """Have the group policy object assign the policy; its GUID in braces, and its new version. Nothing
    changes, and the version stays, where it assigns it already."""
    entry = find_gpo(directory, domain_dn, gpo)
    pointer = f"{POINTER},{entry.dn}"
    values: dict[str, Sequence[str | bytes]] = {
        "ipsecOwnersReference": (policy_dn,),
        "ipsecName": (name,),
        "description": (description,) if description else (),
    }
    there = directory.search(pointer, Scope.BASE, list(values))
    extensions = entry.text("gPCMachineExtensionNames")
    wanted = with_extension(extensions)
    if there:
        same = (
            [normal_dn(one) for one in there[0].texts("ipsecOwnersReference")] == [normal_dn(policy_dn)]
            and there[0].text("ipsecName") == name
            and there[0].text("description") == description
        )
        if same and wanted == extensions:
            return _guid_text(entry.dn), entry.number("versionNumber")
        directory.modify(pointer, values)
    else:
        _make_folders(directory, entry.dn)
        kept = {attribute: value for attribute, value in values.items() if value}
        directory.add(
            pointer, {"objectClass": ("top", "ipsecBase", "ipsecPolicy"), "ipsecDataType": ("256",), **kept}
        )
    return _guid_text(entry.dn), _new_version(directory, entry, wanted)


def unassign(directory: Directory, domain_dn: str, gpo: str, policy_dn: str) -> tuple[str, int]:
    """Take its pointer away. CallerError UNKNOWN_NAME where it does not assign this policy."""
    entry = find_gpo(directory, domain_dn, gpo)
    pointer = f"{POINTER},{entry.dn}"
    there = directory.search(pointer, Scope.BASE, ["ipsecOwnersReference", "ipsecName"])
    owners = [normal_dn(one) for one in there[0].texts("ipsecOwnersReference")] if there else []
    if normal_dn(policy_dn) not in owners:
        other = f"; it assigns “{shown(there[0].text('ipsecName'))}”" if there else ""
        raise error_for(
            ReasonCode.UNKNOWN_NAME, f"the group policy object “{shown(gpo)}” does not assign it{other}"
        )
    directory.delete(pointer)
    wanted = without_extension(entry.text("gPCMachineExtensionNames"))
    return _guid_text(entry.dn), _new_version(directory, entry, wanted)


def assignments(directory: Directory, domain_dn: str) -> tuple[Assignment, ...]:
    """All that there are, in the order of their names; those that may not be read are not among them."""
    base = f"CN=Policies,CN=System,{domain_dn}"
    found = []
    for row in directory.search(base, Scope.ONE, _GPO_ATTRIBUTES, "(objectClass=groupPolicyContainer)"):
        there = directory.search(f"{POINTER},{row.dn}", Scope.BASE, ["ipsecOwnersReference", "ipsecName"])
        if there:
            name = row.text("displayName") or _guid_text(row.dn)
            owner = there[0].text("ipsecOwnersReference")
            found.append(Assignment(name, row.dn, owner, there[0].text("ipsecName")))
    return tuple(sorted(found, key=lambda one: one.gpo.casefold()))


def with_extension(names: str) -> str:
    """The list with the IPsec extension and its tool, in ascending order; as it is where it has them."""
    groups = _groups(names)
    key = EXTENSION.casefold()
    tools = groups.get(key, (EXTENSION.upper(), ()))[1]
    if any(tool.casefold() == TOOL_EXTENSION.casefold() for tool in tools):
        return names
    groups[key] = (EXTENSION.upper(), tuple(sorted((*tools, TOOL_EXTENSION), key=str.casefold)))
    return _list(groups)


def without_extension(names: str) -> str:
    """The list without the IPsec extension."""
    groups = _groups(names)
    if groups.pop(EXTENSION.casefold(), None) is None:
        return names
    return _list(groups)


def _groups(names: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By the extension in small letters: as it is written, and its tools."""
    if "".join(match[0] for match in _GROUP.finditer(names)) != names.strip():
        raise error_for(
            ReasonCode.DIRECTORY_UNREADABLE, "gPCMachineExtensionNames of the group policy object is damaged"
        )
    found = {}
    for match in _GROUP.finditer(names):
        parts = re.findall(r"\{[^}]*\}", match[1])
        found[parts[0].casefold()] = (parts[0], tuple(parts[1:]))
    return found


def _list(groups: Mapping[str, tuple[str, tuple[str, ...]]]) -> str:
    return "".join(f"[{groups[key][0]}{''.join(groups[key][1])}]" for key in sorted(groups))


def _make_folders(directory: Directory, gpo_dn: str) -> None:
    """The containers above the pointer (POINTER), from the top."""
    parent = gpo_dn
    for part in reversed(POINTER.split(",")[1:]):
        parent = f"{part},{parent}"
        if not directory.search(parent, Scope.BASE, ["cn"]):
            directory.add(parent, {"objectClass": ("top", "container")})


def _new_version(directory: Directory, entry: Entry, extensions: str) -> int:
    """Write the extensions, and the next version of the computer's half; the number."""
    version = entry.number("versionNumber")
    half = (version & 0xFFFF) + 1
    version = (version & ~0xFFFF) | (1 if half > 0xFFFF else half)
    directory.modify(
        entry.dn,
        {
            "gPCMachineExtensionNames": (extensions,) if extensions else (),
            "versionNumber": (str(version),),
        },
    )
    return version


def _guid_text(dn: str) -> str:
    return dn.partition(",")[0].partition("=")[2]


def _guid_of(dn: str) -> UUID | None:
    match = _GUID.fullmatch(_guid_text(dn))
    return UUID(match[1]) if match else None
