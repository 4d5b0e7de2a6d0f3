"""`stockade web run | link | user`: the web console and who may use it."""

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.agent.paths import Paths
from stockade.console.output import give, give_record
from stockade.model.reasons import ReasonCode, error_for

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

MAXIMUM_PASSWORD_FILE = 4096


def add_web_parser(commands: "_Subparsers", shared: argparse.ArgumentParser) -> None:
    """`web` with its commands."""
    web = commands.add_parser(
        "web", help="the web console, on loopback unless web.toml says otherwise", parents=[shared]
    )
    actions = web.add_subparsers(metavar="COMMAND", required=True)
    run = actions.add_parser("run", help="serve it until told to stop", parents=[shared])
    run.add_argument("--listen", metavar="ADDRESS:PORT", help="outweighs web.toml")
    # for the agent, which starts it with a socket of its own (PROCESS:DESCRIPTOR)
    run.add_argument("--agent", type=_process_and_descriptor, help=argparse.SUPPRESS)
    link = actions.add_parser("link", help="a link that signs in once, within two minutes", parents=[shared])
    link.add_argument(
        "--role", choices=("viewer", "operator"), default="operator", help="(default: operator)"
    )
    user = actions.add_parser("user", help="accounts", parents=[shared])
    user_actions = user.add_subparsers(metavar="COMMAND", required=True)
    user_actions.add_parser("list", help="who may sign in", parents=[shared]).set_defaults(action="list")
    add = user_actions.add_parser("add", help="a new account, or a new password for one", parents=[shared])
    add.add_argument("name")
    add.add_argument("--role", choices=("viewer", "operator"), default="viewer", help="(default: viewer)")
    add.add_argument(
        "--password-file", metavar="FILE", help="(- for standard input; default: it is asked for)"
    )
    add.set_defaults(action="add")
    remove = user_actions.add_parser("remove", help="an account, and end its sessions", parents=[shared])
    remove.add_argument("name")
    remove.set_defaults(action="remove")
    run.set_defaults(command=_run)
    link.set_defaults(command=_link)
    user.set_defaults(command=_user)


def _run(options: argparse.Namespace) -> int:
    try:
        from stockade.console.web.server import run_web
    except ModuleNotFoundError as error:
        raise error_for(ReasonCode.MISSING_PROGRAM, f"the Python package {error.name} is missing") from error
    from dataclasses import replace

    from stockade.agent.web_settings import read_listen, read_web_settings

    paths = Paths.of(options.home)
    settings = read_web_settings(paths.web_settings)
    if options.listen:
        address, port = read_listen(options.listen, paths.web_settings)
        if not address.is_loopback and not settings.secure:
            raise error_for(
                ReasonCode.INVALID_SETTING,
                "an address that is not loopback needs certificate and key",
                file=paths.web_settings,
            )
        settings = replace(settings, address=address, port=port)

    def ready(url: str) -> None:
        told = f"stockade: the web console is at {url}; sign in with: stockade web link"
        give_record({"ready": True, "pid": os.getpid(), "url": url}, options.format, told)

    run_web(paths, settings, ready, options.agent)
    return 0


def _process_and_descriptor(text: str) -> tuple[int, int]:
    process, _, descriptor = text.partition(":")
    return int(process), int(descriptor)


def _link(options: argparse.Namespace) -> int:
    from stockade.agent.client import AgentClient
    from stockade.agent.web_settings import read_web_settings

    paths = Paths.of(options.home)
    ticket = AgentClient(paths.socket).post("/v1/web/ticket", {"role": options.role})
    link = f"{read_web_settings(paths.web_settings).url}/link?ticket={ticket['ticket']}"
    give({"link": link, "role": ticket["role"], "seconds": ticket["seconds"]}, options.format, link)
    if options.format == "text":
        print(f"good once, for {ticket['seconds']:.0f} seconds, as {ticket['role']}", file=sys.stderr)
    return 0


def _user(options: argparse.Namespace) -> int:
    from stockade.console.web.accounts import make_account, read_accounts, write_accounts

    folder = Paths.of(options.home).web_accounts
    accounts = read_accounts(folder)
    if options.action == "list":
        rows = [{"name": one.name, "role": one.role} for one in accounts.values()]
        text = "\n".join(f"{one.name:<30} {one.role}" for one in accounts.values()) or "No accounts."
        give(rows, options.format, text)
        return 0
    if options.action == "remove":
        if accounts.pop(options.name, None) is None:
            raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no account {options.name!r}")
        write_accounts(folder, accounts)
        return 0
    accounts[options.name] = make_account(options.name, options.role, _password(options.password_file))
    write_accounts(folder, accounts)
    return 0


def _password(file: str | None) -> str:
    if file is None:
        import getpass

        nobody = "no password was given, and there is no terminal to ask at: --password-file FILE"
        if not sys.stdin.isatty():
            raise error_for(ReasonCode.SYNTAX, nobody)
        try:
            first, second = getpass.getpass("Password: "), getpass.getpass("Once more: ")
        except EOFError:
            raise error_for(ReasonCode.SYNTAX, nobody) from None
        if first != second:
            raise error_for(ReasonCode.SYNTAX, "the two passwords differ")
        return first
    try:
        with nullcontext(sys.stdin) if file == "-" else Path(file).open(encoding="utf-8") as stream:
            text = stream.read(MAXIMUM_PASSWORD_FILE)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise error_for(ReasonCode.FILE_UNUSABLE, f"cannot read {file}: {what}") from None
    return text.rstrip("\r\n")
