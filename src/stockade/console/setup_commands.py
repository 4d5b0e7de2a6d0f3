"""The words of `stockade init` and `stockade support-bundle`; what they do is loaded when it is done."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_init_parser(commands: "_Subparsers", shared: argparse.ArgumentParser) -> None:
    init = commands.add_parser(
        "init",
        help="write a first policy: three questions, or flags",
        description="Writes a first policy: secure the traffic with the given peers. Asks what no flag says.",
        epilog="example: stockade init --peer 10.0.0.2 --psk-file /root/stockade.key --require",
        parents=[shared],
    )
    init.add_argument(
        "--peer", action="append", default=[], metavar="ADDRESS", help="address or subnet; may be repeated"
    )
    who = init.add_mutually_exclusive_group()
    who.add_argument("--psk-file", metavar="FILE", help="a pre-shared key; made where there is no such file")
    who.add_argument("--kerberos", action="store_true", help="the computers' accounts in the domain")
    who.add_argument("--rootca", metavar="NAME", help="certificates under this root, such as CN=Example CA")
    strict = init.add_mutually_exclusive_group()
    strict.add_argument("--require", action="store_true", help="what cannot be secured does not pass")
    strict.add_argument("--request", action="store_true", help="… passes in clear")
    init.add_argument("--no-ssh", action="store_true", help="no exception for SSH with the peers")
    init.add_argument("--old", action="store_true", help="also what Windows before Vista has: SHA1, 3DES")
    init.add_argument("--replace", action="store_true", help="in the place of an earlier first policy")
    init.add_argument("--show", action="store_true", help="print the commands and write nothing")
    init.set_defaults(command=_init)


def add_support_parser(commands: "_Subparsers", shared: argparse.ArgumentParser) -> None:
    bundle = commands.add_parser(
        "support-bundle",
        help="all that is needed to help, in one file, without secrets",
        epilog="example: stockade support-bundle /root/for-support.tar.gz",
        parents=[shared],
    )
    bundle.add_argument("file", nargs="?", help="where to (default: stockade-support-TIME.tar.gz, here)")
    bundle.set_defaults(command=_bundle)


def _init(options: argparse.Namespace) -> int:
    from stockade.console.init_command import run_init

    return run_init(options)


def _bundle(options: argparse.Namespace) -> int:
    from stockade.console.support_command import run_bundle

    return run_bundle(options)
