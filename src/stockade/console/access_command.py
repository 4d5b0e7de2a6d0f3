"""`stockade access …`: who may connect once it has proved who it is. Written directly; a running agent obeys
at once, and cuts off whom the new list denies."""

import argparse
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from stockade.agent.paths import Paths
from stockade.console.output import give
from stockade.model.reasons import ReasonCode, StockadeError, error_for

if TYPE_CHECKING:
    from stockade.pki.access import AccessList

KINDS = ("computer", "group", "ca", "domain")


def add_access_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", shared: argparse.ArgumentParser
) -> None:
    """The words after `stockade access`."""
    access = commands.add_parser("access", help="who may connect after authentication", parents=[shared])
    words = access.add_subparsers(metavar="COMMAND", required=True)
    words.add_parser("list", help="the list as it is", parents=[shared]).set_defaults(command=_list)
    for action in ("allow", "deny"):
        entry = words.add_parser(action, help=f"{action} a computer, group, …", parents=[shared])
        entry.add_argument("kind", choices=KINDS)
        entry.add_argument("name", help="as proved: principal, host, certificate name; * for anything")
        entry.add_argument("--rule", default="", help="for this rule only (default: all traffic)")
        entry.set_defaults(command=_add, allow=action == "allow")
    remove = words.add_parser("remove", help="take an entry out", parents=[shared])
    remove.add_argument("number", type=int, help="as `stockade access list` counts")
    remove.set_defaults(command=_remove)
    group = words.add_parser("group", help="say who is in a group (nobody: remove it)", parents=[shared])
    group.add_argument("name")
    group.add_argument("members", nargs="*", metavar="MEMBER")
    group.set_defaults(command=_group)
    account = words.add_parser("account", help="map a certificate to an account", parents=[shared])
    account.add_argument("account")
    account.add_argument("--subject", default="", help="of the certificate; left out: remove the mapping")
    account.add_argument("--issuer", default="")
    account.set_defaults(command=_account)


def _read(options: argparse.Namespace) -> "tuple[Paths, AccessList]":
    from stockade.pki.access_file import read_access

    paths = Paths.of(options.home)
    return paths, read_access(paths.access)


def _write(paths: Paths, access: "AccessList") -> int:
    from stockade.agent.client import AgentClient
    from stockade.pki.access_file import write_access

    paths.make_folders()
    write_access(paths.access, access)
    if paths.socket.exists():
        with suppress(StockadeError):  # none runs; the next one reads the list when it starts
            AgentClient(paths.socket).post("/v1/policy/reload")
    return 0


def _list(options: argparse.Namespace) -> int:
    _, access = _read(options)
    shown = {
        "entries": [
            {
                "number": number,
                "action": "allow" if entry.allow else "deny",
                "kind": entry.kind.value,
                "name": entry.name,
                "rule": entry.rule,
            }
            for number, entry in enumerate(access.entries, 1)
        ],
        "groups": {name: list(members) for name, members in access.groups.items()},
        "accounts": [
            {"account": entry.account, "subject": entry.subject, "issuer": entry.issuer}
            for entry in access.accounts
        ],
    }
    give(shown, options.format, lambda: _print(access))
    return 0


def _print(access: "AccessList") -> None:
    for number, entry in enumerate(access.entries, 1):
        print(f"{number:>3}  {entry}")
    if not any(entry.allow for entry in access.entries):
        print("everybody may connect who can authenticate" + (", but for these" if access.entries else ""))
    for name, members in access.groups.items():
        print(f"group {name}: {', '.join(members)}")
    for mapping in access.accounts:
        issuer = f" of {mapping.issuer}" if mapping.issuer else ""
        print(f"account {mapping.account}: certificate {mapping.subject}{issuer}")


def _add(options: argparse.Namespace) -> int:
    from stockade.pki.access import AccessEntry, AccessKind

    paths, access = _read(options)
    entry = AccessEntry(options.allow, AccessKind(options.kind), options.name, options.rule)
    if entry in access.entries:
        raise error_for(ReasonCode.NAME_EXISTS, f"“{entry}” stands there already")
    return _write(paths, replace(access, entries=(*access.entries, entry)))


def _remove(options: argparse.Namespace) -> int:
    paths, access = _read(options)
    if not 1 <= options.number <= len(access.entries):
        raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no entry {options.number}: stockade access list")
    kept = [entry for number, entry in enumerate(access.entries, 1) if number != options.number]
    return _write(paths, replace(access, entries=tuple(kept)))


def _group(options: argparse.Namespace) -> int:
    paths, access = _read(options)
    groups = {name: members for name, members in access.groups.items() if name != options.name}
    if options.members:
        groups[options.name] = tuple(options.members)
    elif options.name not in access.groups:
        raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no group {options.name!r}")
    return _write(paths, replace(access, groups=groups))


def _account(options: argparse.Namespace) -> int:
    from stockade.pki.access import AccountMapping

    paths, access = _read(options)
    kept = [mapping for mapping in access.accounts if mapping.account != options.account]
    if options.subject:
        kept.append(AccountMapping(options.account, options.subject, options.issuer))
    elif len(kept) == len(access.accounts):
        raise error_for(ReasonCode.UNKNOWN_NAME, f"no certificate is mapped to {options.account!r}")
    return _write(paths, replace(access, accounts=tuple(kept)))
