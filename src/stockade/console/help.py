"""`stockade --help` on one screen, grouped by what people want to do; an example for every command; errors of
the command line in the form of all others: what, where, and what to do."""

import argparse
import sys
from collections.abc import Iterator
from typing import NoReturn, TypeAlias

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_CODES = (
    (0, "done"),
    (1, "refused or failed, and why; or not as it was promised to be"),
    (2, "the command line itself is wrong; nothing was done"),
    (130, "interrupted (Ctrl-C)"),
)

GROUPS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "begin",
        (
            ("init", "write a first policy after three questions"),
            ("demo, doctor", "the whole story in a minute; what this host can do"),
        ),
    ),
    (
        "policy",
        (
            ("netsh, ipseccmd", "read and write policy in the words of Windows"),
            ("policy", "its history, and back again; the simple policy"),
            ("lint, rsop", "what is doubtful; which policy of the domain applies"),
            ("cert, access", "this machine's certificates; who may connect"),
        ),
    ),
    (
        "run",
        (
            ("agent, web", "the service; its web console"),
            ("boot-filters", "what protects this computer before an agent runs"),
            ("cluster", "several hosts behind one address"),
        ),
    ),
    (
        "look",
        (
            ("status, show", "how the agent is; filters, SAs, what no rule uses"),
            ("monitor, metrics", "all of it as it changes; figures for Prometheus"),
        ),
    ),
    (
        "find out",
        (
            ("explain", "what happens to a packet, and why"),
            ("events, log", "what happened; the story of every negotiation"),
            ("capture", "packets before and after IPsec, for Wireshark"),
            ("support-bundle", "what helps others to help you, without secrets"),
        ),
    ),
    ("act", (("sa", "delete or rekey SAs"),)),
    (
        "more",
        (
            ("bench, lab", "what things cost; failover on virtual time"),
            ("completion, man", "for your shell; the manual's pages"),
        ),
    ),
)

EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": ("stockade init",),
    "demo": ("stockade demo",),
    "doctor": ("stockade doctor",),
    "agent run": ("stockade agent run", "stockade --home /tmp/try agent run --driver userspace"),
    "agent end": ("stockade agent end",),
    "boot-filters install": ("stockade boot-filters install",),
    "boot-filters remove": ("stockade boot-filters remove",),
    "boot-filters show": ("stockade boot-filters show",),
    "netsh": (
        "stockade netsh",
        "stockade netsh -f policy.netsh --atomic",
        "stockade netsh ipsec static show policy all",
    ),
    "ipseccmd": ("stockade ipseccmd show all",),
    "policy history": ("stockade policy history",),
    "policy diff": ("stockade policy diff 11 12",),
    "policy rollback": ("stockade policy rollback 11",),
    "policy forget": ("stockade policy forget 5",),
    "policy simple": ("stockade policy simple --psk-file /root/psk --assign",),
    "log": ("stockade log --peer 10.0.0.2", "stockade log --follow"),
    "events": (
        "stockade events --since 10m --peer 10.0.0.2",
        "stockade events --id 547,4653 --format list",
        "stockade events --follow --format json",
    ),
    "metrics": ("stockade metrics",),
    "capture": ("stockade capture --peer 10.0.0.2 --seconds 30 --keys trace.pcapng",),
    "monitor": ("stockade monitor", "stockade monitor --once"),
    "sa delete": ("stockade sa delete 10.0.0.2",),
    "sa rekey": ("stockade sa rekey 0x1a2b3c4d",),
    "cluster show": ("stockade cluster show",),
    "cluster release": ("stockade cluster release 10.0.0.100",),
    "status": ("stockade status", "stockade status --format json"),
    "show filters": ("stockade show filters", "stockade show filters --policy-file branch.ipsec"),
    "show unused": ("stockade show unused",),
    "show sas": ("stockade show sas --format table",),
    "show journal": ("stockade show journal --last 50",),
    "explain": (
        "stockade explain me 10.0.0.2 tcp --port 80",
        "stockade explain 10.0.0.2 me icmp",
        "stockade explain peer 10.0.0.2",
    ),
    "lab failover": ("stockade lab failover --scenario restart --time-lines",),
    "lint": ("stockade lint", "stockade lint --policy-file policy.netsh"),
    "access list": ("stockade access list",),
    "access allow": ("stockade access allow group 'CORP\\Domain Computers'",),
    "access deny": ("stockade access deny computer lost.corp.example",),
    "access remove": ("stockade access remove 2",),
    "access group": ("stockade access group servers a.corp.example b.corp.example",),
    "access account": ("stockade access account CORP/a --subject 'CN=a'",),
    "cert import": ("stockade cert import machine.pfx --trust-roots",),
    "cert list": ("stockade cert list",),
    "rsop": ("stockade rsop", "stockade rsop --ou OU=servers,DC=corp,DC=example"),
    "web run": ("stockade web run",),
    "web link": ("stockade web link",),
    "web user list": ("stockade web user list",),
    "web user add": ("stockade web user add anna",),
    "web user remove": ("stockade web user remove anna",),
    "support-bundle": ("stockade support-bundle",),
    "bench": ("stockade bench policy",),
    "completion": ("stockade completion bash > /etc/bash_completion.d/stockade",),
    "man": ("stockade man /usr/local/share/man/man1",),
}


class Parser(argparse.ArgumentParser):
    """As argparse, with errors in our form. `commands`: words that a misspelt one may have meant."""

    def error(self, message: str) -> NoReturn:
        what = message.partition(" (choose from")[0]
        print(f"stockade: the command cannot be read: {what}", file=sys.stderr)
        meant = self._meant(message)
        if meant:
            print(f"did you mean: {meant}", file=sys.stderr)
        print(f"what to do: {self.prog} --help", file=sys.stderr)
        sys.exit(2)

    def _meant(self, message: str) -> str:
        word = message.partition("invalid choice: '")[2].partition("'")[0]
        known = [name for action in _subparsers(self) for name in action.choices or ()]
        if not word:
            return ""
        import difflib  # late: only who misspells waits for it

        return ", ".join(difflib.get_close_matches(word, known, 3))


def finish(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give every command its example, and the whole its one screen."""
    _describe(parser)
    for path, command in leaves(parser):
        examples = EXAMPLES.get(path, ())
        if examples and not command.epilog:
            head = "examples:" if len(examples) > 1 else "example:"
            command.epilog = "\n".join([head, *_indented(examples)])
        command.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.format_help = lambda: one_screen(parser)  # type: ignore[method-assign]
    return parser


def _describe(parser: argparse.ArgumentParser) -> None:
    """A command without a description of its own has what the list of commands says of it."""
    for action in _subparsers(parser):
        for listed in action._choices_actions:
            child = action.choices[listed.dest]
            child.description = child.description or listed.help
            _describe(child)


def _indented(lines: tuple[str, ...]) -> list[str]:
    return [f"  {line}" for line in lines]


def one_screen(parser: argparse.ArgumentParser) -> str:
    """At most 80 columns; commands that no group has are named at the end, so none is hidden."""
    lines = ["stockade COMMAND … : the IPsec system of Windows for Linux", ""]
    named: set[str] = set()
    for group, rows in GROUPS:
        for place, (commands, text) in enumerate(rows):
            named |= set(commands.split(", "))
            lines.append(f"{group if not place else '':<9} {commands:<16} {text}")
    rest = [name for name in names(parser) if name not in named]
    if rest:
        lines.append(f"{'others':<9} {', '.join(rest)}")
    lines += [
        "",
        "--home DIR: another place for everything. --format text, table, list or json.",
        "stockade COMMAND --help has options and an example.  Exit: 0 done, 1 refused,",
        "2 wrong command line, 130 interrupted.  --version",
    ]
    return "\n".join(lines) + "\n"


def names(parser: argparse.ArgumentParser) -> list[str]:
    """The commands."""
    return [name for action in _subparsers(parser) for name in action.choices or ()]


def leaves(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, with the words that lead to it."""
    found = False
    for action in _subparsers(parser):
        for name, child in (action.choices or {}).items():
            found = True
            yield from leaves(child, f"{path} {name}".strip())
    if not found:
        yield path, parser


def _subparsers(parser: argparse.ArgumentParser) -> list[_Commands]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
