"""`stockade init`: a sensible first policy, after three questions, or none with flags.

    with whom?      addresses or subnets whose traffic with this computer is to be secured
    who are they?   a pre-shared key (a new one is made), Kerberos, or certificates under a root
    how strictly?   require: what cannot be secured does not pass; request: it passes in clear

It writes policy in the words of netsh (`--show` prints them), in one change: all of it or nothing. SSH with
the peers stays open in clear, so that nobody locks himself out, unless `--no-ssh` says otherwise."""

import argparse
import base64
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.agent.paths import Paths
from stockade.console.output import give
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.netsh.words import quoted

if TYPE_CHECKING:
    from stockade.console.netsh_world import Console

POLICY = "First policy"
MAXIMUM_KEY_FILE = 1024
MINIMUM_KEY = 16
QUICK_MODE = (
    "ESP[AESGCM256,None]:100000k/3600s ESP[AESGCM128,None]:100000k/3600s ESP[AES128,SHA256]:100000k/3600s"
)
QUICK_MODE_OLD = "ESP[AES128,SHA1]:100000k/3600s ESP[3DES,SHA1]:100000k/3600s"
MAIN_MODE = "AES256-SHA256-ECP256 AES128-SHA256-3"
MAIN_MODE_OLD = "AES128-SHA1-3 3DES-SHA1-2"

Ask = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Answers:
    """What `init` needs to know. One of `key` (bytes), `kerberos`, `root_ca`."""

    peers: tuple[IPv4Network | IPv6Network, ...]
    require: bool
    key: bytes = b""
    kerberos: bool = False
    root_ca: str = ""
    ssh: bool = True
    old: bool = False

    def __repr__(self) -> str:
        return f"Answers({self.peers}, require={self.require})"


def run_init(options: argparse.Namespace) -> int:
    """Exit status of `stockade init`."""
    ask: Ask | None = input if sys.stdin is not None and sys.stdin.isatty() else None
    answers, key_file = questions(options, ask)
    if options.show:
        lines = commands(answers, key_text="(the key)")
        give({"commands": lines}, options.format, "\n".join(lines))
        return 0
    return write(Paths.of(options.home), answers, options.replace, options.format, key_file)


# ---- the three questions


def questions(options: argparse.Namespace, ask: Ask | None) -> tuple[Answers, Path | None]:
    """The answers that flags do not give are asked for; CallerError where nobody can be asked. The path is
    that of the key's file."""
    peers = (
        options.peer
        or _ask(
            ask, "--peer", "1. With which hosts or subnets shall traffic be secured (10.0.0.2, 10.1.0.0/16)? "
        )
        .replace(",", " ")
        .split()
    )
    found = tuple(_network(peer) for peer in peers)
    if not found:
        raise error_for(ReasonCode.SYNTAX, "nobody to secure traffic with: --peer ADDRESS")
    key, path = b"", None
    kerberos, root_ca, file = options.kerberos, options.rootca or "", options.psk_file or ""
    if not (kerberos or root_ca or file):
        answer = _ask(
            ask,
            "--psk-file, --kerberos or --rootca",
            "2. How do they prove who they are: the file of a pre-shared key (made if it is not there),"
            " “kerberos”, or the name of a root certificate (CN=…)? ",
        ).strip()
        kerberos = answer.lower() == "kerberos"
        root_ca = answer if "=" in answer else ""
        file = "" if kerberos or root_ca else answer
        if not answer:
            raise error_for(ReasonCode.SYNTAX, "no way to authenticate was given")
    if file:
        path = Path(file)
        key = b"" if options.show else read_or_make_key(path)
    require = options.require
    if not (require or options.request):
        answer = (
            _ask(
                ask,
                "--require or --request",
                "3. Traffic with them that cannot be secured: drop it (require) or let it pass (request)? ",
            )
            .strip()
            .lower()
        )
        if answer not in ("require", "request", "drop"):
            raise error_for(ReasonCode.SYNTAX, f"{answer[:40]!r}: expected require or request")
        require = answer != "request"
    return (
        Answers(found, require, key, kerberos, root_ca, not options.no_ssh, options.old),
        path,
    )


def _ask(ask: Ask | None, flag: str, question: str) -> str:
    if ask is None:
        raise error_for(ReasonCode.SYNTAX, f"{flag} is missing, and there is no terminal to ask at")
    try:
        return ask(question)
    except EOFError:
        raise error_for(ReasonCode.SYNTAX, f"{flag} is missing") from None


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise error_for(ReasonCode.SYNTAX, f"{text[:60]!r}: expected an address or a subnet") from None
    if network.prefixlen == 0 or network.is_multicast or network.is_loopback:
        raise error_for(
            ReasonCode.SYNTAX, f"{text}: everybody, multicast and loopback are not for a first policy"
        )
    return network


def read_or_make_key(path: Path) -> bytes:
    """The key in `path`; where there is no such file, a new one of 32 random bytes in base64, for its owner
    only. CallerError FILE_UNUSABLE, or INVALID_FILE where it holds no key."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        key = base64.b64encode(secrets.token_bytes(32))
        with os.fdopen(descriptor, "wb") as file:
            file.write(key + b"\n")
        return key
    except FileExistsError:
        pass
    except OSError as error:
        raise error_for(ReasonCode.FILE_UNUSABLE, f"cannot make {path}: {error.strerror}") from error
    try:
        with path.open("rb") as file:
            key = file.read(MAXIMUM_KEY_FILE + 1).rstrip(b"\r\n")
    except OSError as error:
        raise error_for(ReasonCode.FILE_UNUSABLE, f"cannot read {path}: {error.strerror}") from error
    if not MINIMUM_KEY <= len(key) <= MAXIMUM_KEY_FILE:
        raise error_for(
            ReasonCode.INVALID_FILE,
            f"{path}: a pre-shared key has {MINIMUM_KEY} to {MAXIMUM_KEY_FILE} bytes",
            file=path,
        )
    return key


# ---- the policy


def commands(answers: Answers, *, key_text: str = "") -> list[str]:
    """The policy as commands of netsh. `key_text` stands in the place of the key, for people."""
    peers, action = quoted(f"{POLICY}: peers"), quoted(f"{POLICY}: {_strictness(answers)}")
    permit, ssh = quoted(f"{POLICY}: permit"), quoted(f"{POLICY}: SSH")
    lines = ["ipsec static"]
    lines.append(f'add filterlist name={peers} description="Traffic that stockade init was asked to secure"')
    for peer in answers.peers:
        lines.append(
            f"add filter filterlist={peers} srcaddr=me {_ends('dst', peer)} protocol=any mirrored=yes"
        )
    methods = f"{QUICK_MODE} {QUICK_MODE_OLD}" if answers.old else QUICK_MODE
    clear = "inpass=no soft=no" if answers.require else "inpass=yes soft=yes"
    lines.append(f'add filteraction name={action} action=negotiate {clear} qmpfs=no qmsecmethods="{methods}"')
    main = f"{MAIN_MODE} {MAIN_MODE_OLD}" if answers.old else MAIN_MODE
    lines.append(f'add policy name={quoted(POLICY)} activatedefaultrule=no mmsecmethods="{main}"')
    lines.append(
        f"add rule name={quoted('Secure the peers')} policy={quoted(POLICY)} filterlist={peers} "
        f"filteraction={action} {_authentication(answers, key_text)}"
    )
    if answers.ssh:
        lines.append(f'add filterlist name={ssh} description="The way in when all else fails"')
        for peer in answers.peers:
            for place, other in (("dst", "srcaddr=me"), ("src", "dstaddr=me")):
                lines.append(
                    f"add filter filterlist={ssh} {other} {_ends(place, peer)} protocol=TCP dstport=22"
                    " mirrored=yes"
                )
        lines.append(f"add filteraction name={permit} action=permit")
        lines.append(
            f"add rule name={quoted('SSH in clear')} policy={quoted(POLICY)} filterlist={ssh} "
            f"filteraction={permit}"
        )
    lines.append(f"set policy name={quoted(POLICY)} assign=yes")
    return lines


def _strictness(answers: Answers) -> str:
    return "require security" if answers.require else "request security"


def _ends(place: str, peer: IPv4Network | IPv6Network) -> str:
    text = f"{place}addr={peer.network_address}"
    return text if peer.num_addresses == 1 else f"{text} {place}mask={peer.prefixlen}"


def _authentication(answers: Answers, key_text: str) -> str:
    if answers.kerberos:
        return "kerberos=yes"
    if answers.root_ca:
        return f"rootca={quoted(answers.root_ca)}"
    return f"psk={quoted(key_text)}" if key_text else f"pskhex={answers.key.hex()}"


def write(paths: Paths, answers: Answers, replace: bool, form: str, key_file: Path | None) -> int:
    """Write the policy in one change, tell a running agent, and say what comes next."""
    from stockade.console.netsh_world import Console

    with Console(paths) as console:
        return _write(console, answers, replace, form, key_file)


def _write(console: "Console", answers: Answers, replace: bool, form: str, key_file: Path | None) -> int:
    from stockade.netsh.interpreter import run_script

    present = console.store("local").read()
    mine = any(policy.name == POLICY for policy in present.policies)
    other = present.assigned if present.assigned is not None and present.assigned.name != POLICY else None
    if not replace and (mine or other):
        what = f"policy “{other.name}” is assigned" if other else f"there is a policy “{POLICY}”"
        raise error_for(
            ReasonCode.NAME_EXISTS, f"{what}: --replace puts the first policy in its place", store="local"
        )
    lines = commands(answers)
    if mine:
        names = [f"delete policy name={quoted(POLICY)}"]
        names += [
            f"delete filterlist name={quoted(one.name)}"
            for one in present.filter_lists
            if one.name.startswith(f"{POLICY}: ")
        ]
        names += [
            f"delete filteraction name={quoted(one.name)}"
            for one in present.filter_actions
            if one.name.startswith(f"{POLICY}: ")
        ]
        lines[1:1] = names
    outcomes = run_script("\n".join(lines), console.session, source="stockade init", atomic=True)
    failed = next((outcome for outcome in outcomes if outcome.failed), None)
    if failed is not None:
        raise (
            StockadeError(failed.reason)
            if failed.reason
            else error_for(ReasonCode.INTERNAL, "the first policy was not written")
        )
    told = console.tell_agent()
    peers = [str(peer) for peer in answers.peers]
    answer = {"policy": POLICY, "peers": peers, "require": answers.require, "agent_told": told}
    give(answer, form, _what_next(answers, key_file))
    return 0 if told else 1


def _what_next(answers: Answers, key_file: Path | None) -> str:
    peers = ", ".join(
        str(peer.network_address if peer.num_addresses == 1 else peer) for peer in answers.peers
    )
    lines = [
        f"The policy “{POLICY}” is assigned: traffic with {peers} is secured"
        + (
            ", or does not pass."
            if answers.require
            else " where the other side can, and passes in clear else."
        )
    ]
    if answers.ssh:
        lines.append("SSH with them stays as it is, in clear (--no-ssh ends that).")
    if key_file is not None:
        lines.append(f"The other side needs the same key: copy {key_file} there by a safe way, then")
        lines.append(f"    stockade init --peer THIS-HOST --psk-file {key_file.name}")
    lines.append(
        "It is in force while the agent runs: stockade agent run, or systemctl enable --now stockade"
    )
    return "\n".join(lines)
