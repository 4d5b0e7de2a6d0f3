"""The words of the `stockade` command: what `--help`, the manual's pages and the completion are made from."""

import argparse
from collections.abc import Callable

from stockade import __version__
from stockade.bench import BENCHMARKS
from stockade.console import handlers
from stockade.console.help import Parser, finish


def _revision_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument(
        "--home", metavar="DIR", help="one folder for store, socket and journal (or $STOCKADE_HOME)"
    )
    shared.add_argument(
        "--format",
        choices=("text", "table", "list", "json"),
        help="how to print (default: text); table and list have every field of the agent's answers",
    )

    parser: argparse.ArgumentParser = Parser(
        prog="stockade", description="The IPsec system of Windows for Linux.", parents=[shared]
    )
    parser.add_argument("--version", action="version", version=f"stockade {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[shared])
        command.set_defaults(command=run)
        return command

    agent = commands.add_parser("agent", help="the service", parents=[shared])
    agent_commands = agent.add_subparsers(metavar="COMMAND", required=True)
    run = agent_commands.add_parser("run", help="protect this host until told to stop", parents=[shared])
    run.add_argument(
        "--driver", help="the data plane (auto, kernel, userspace or memory); outweighs agent.toml"
    )
    run.add_argument(
        "--no-offload",
        metavar="NAME,…",
        help="offloads to do without (see doctor); outweighs agent.toml",
    )
    run.set_defaults(command=handlers.run_agent_run)
    text = "end the data plane that an agent left which was killed; filters stay, closed"
    end = agent_commands.add_parser("end", help=text, description=text, parents=[shared])
    end.set_defaults(command=handlers.run_agent_end)

    boot = commands.add_parser(
        "boot-filters", help="what protects this computer before an agent runs", parents=[shared]
    )
    boot_commands = boot.add_subparsers(metavar="COMMAND", required=True)
    for name, text in (
        ("install", "put them in force, as set config bootmode says; before the network is up"),
        ("remove", "take them away; the filters of a policy stay"),
        ("show", "what is in force, and what install would put there"),
    ):
        command = boot_commands.add_parser(name, help=text, description=text, parents=[shared])
        command.set_defaults(command=handlers.run_boot_filters, action=name)

    netsh = add("netsh", handlers.run_netsh, "read or write policy in the language of netsh ipsec")
    netsh.add_argument(
        "-f", dest="script", metavar="FILE", help="run the commands of a script (- for standard input)"
    )
    netsh.add_argument("-c", dest="context", metavar="CONTEXT", help='begin there, such as "ipsec static"')
    netsh.add_argument("-r", dest="computer", metavar="COMPUTER", help="this computer's name, and no other's")
    netsh.add_argument("--complete", metavar="LINE", help=argparse.SUPPRESS)  # for the shell's completion
    netsh.add_argument("--atomic", action="store_true", help="with -f: apply all of the script or nothing")
    netsh.add_argument(
        "words", nargs=argparse.REMAINDER, help="the command, such as ipsec static show policy all"
    )

    ipseccmd = add(
        "ipseccmd", handlers.run_ipseccmd, "write policy in the one-liners of Windows XP's ipseccmd"
    )
    ipseccmd.add_argument("words", nargs=argparse.REMAINDER, help="such as show all")

    policy = commands.add_parser(
        "policy", help="the history of the policy store; the simple policy", parents=[shared]
    )
    policy_commands = policy.add_subparsers(metavar="COMMAND", required=True)
    for name, text, numbers in (
        ("history", "who changed what, and when", ()),
        ("diff", "what changed between two revisions", (("first", None), ("second", "?"))),
        ("rollback", "make the store as it was after a revision", (("number", None),)),
        ("forget", "drop old revisions, and the keys in them", (("keep", None),)),
    ):
        command = policy_commands.add_parser(name, help=text, description=text, parents=[shared])
        command.add_argument("--store", choices=("local", "persistent"), default="local")
        for argument, count in numbers:
            command.add_argument(argument, type=_revision_number, nargs=count, metavar="N")
        command.set_defaults(command=handlers.run_policy, action=name)

    simple = policy_commands.add_parser(
        "simple",
        help="write the two-rule policy: ask for security everywhere, fall back quickly",
        description="Write the policy of the Simple Policy Update: ask for security everywhere, and go on in"
        " clear after 500 ms with whoever has none. Without --psk-file and --rootca peers authenticate by"
        " Kerberos.",
        parents=[shared],
    )
    simple.add_argument("--store", choices=("local", "persistent"), default="local")
    simple.add_argument("--name", metavar="NAME", help="name of the policy (default: Simple policy)")
    simple.add_argument("--assign", action="store_true", help="put it in force")
    simple.add_argument("--replace", action="store_true", help="in the place of a policy of this name")
    simple.add_argument("--psk-file", metavar="FILE", help="authenticate by the pre-shared key in FILE")
    simple.add_argument("--rootca", metavar="NAME", help="authenticate by certificates under this root")
    simple.set_defaults(command=handlers.run_policy, action="simple")

    log = add("log", handlers.run_log, "the story of every negotiation (the Oakley log)")
    log.add_argument("--last", type=int, default=20, metavar="N", help="how many (default 20, 0 for all)")
    log.add_argument("--peer", metavar="ADDRESS", help="only those with this peer")
    log.add_argument("--saved", action="store_true", help="the log before this one (oakley.log.sav)")
    log.add_argument("--follow", action="store_true", help="go on with lines as they come")

    events = add("events", handlers.run_events, "what happened, and why: searchable, also over restarts")
    for name, metavar, text in (
        ("last", "N", "how many at most, the newest ones (default 50)"),
        ("since", "TIME", "10m, 2h, 3d, today, 2026-11-22 or 2026-11-22T07:00"),
        ("until", "TIME", "the same"),
        ("id", "ID,…", "Windows event ids, such as 4653 or 547"),
        ("kind", "KIND,…", "kinds, such as main-mode-failed"),
        ("reason", "REASON,…", "reasons, such as psk-mismatch (docs/reasons.md)"),
        ("peer", "ADDRESS", "events with this computer"),
    ):
        events.add_argument(f"--{name}", metavar=metavar, default="50" if name == "last" else "", help=text)
    events.add_argument("--follow", action="store_true", help="go on with events as they come")

    add("metrics", handlers.run_metrics, "the agent's figures, in the text form of Prometheus")

    capture = add(
        "capture", handlers.run_capture, "packets before and after IPsec, into a file for Wireshark"
    )
    capture.add_argument("file", metavar="FILE", help="a new pcapng file")
    capture.add_argument("--seconds", type=float, metavar="N", help="end after so long (default: Ctrl-C)")
    capture.add_argument("--count", type=int, metavar="N", help="end after so many packets")
    capture.add_argument("--peer", metavar="ADDRESS", help="only packets from and to this computer")
    capture.add_argument(
        "--keys",
        action="store_true",
        help="write FILE.wireshark with the keys of all SAs, to decrypt them; the journal tells of it",
    )

    monitor = add(
        "monitor", handlers.run_monitor, "filters, SAs, negotiations, peers and events, as they change"
    )
    monitor.add_argument("--once", action="store_true", help="print the same once, as text")

    sa = commands.add_parser("sa", help="delete or rekey SAs", parents=[shared])
    sa_commands = sa.add_subparsers(metavar="COMMAND", required=True)
    for name, text in (
        ("delete", "delete all SAs with a computer, or one quick mode; the peer is told"),
        ("rekey", "make quick modes anew; the old ones go on until then"),
    ):
        command = sa_commands.add_parser(name, help=text, description=text, parents=[shared])
        command.add_argument("which", help="a peer's address, or an inbound SPI (0x…) of show sas")
        command.set_defaults(command=handlers.run_sa, action=name)

    cluster = commands.add_parser("cluster", help="the cluster that this node is of", parents=[shared])
    cluster_commands = cluster.add_subparsers(metavar="COMMAND", required=True)
    for name, text in (
        ("show", "the nodes, who has which virtual address, what could be taken over"),
        ("release", "say good-bye to all peers on a virtual address, before it is moved"),
    ):
        command = cluster_commands.add_parser(name, help=text, description=text, parents=[shared])
        if name == "release":
            command.add_argument(
                "address", nargs="?", help="the virtual address (default: all that are here)"
            )
        command.set_defaults(command=handlers.run_cluster, action=name)

    add("status", handlers.run_status, "how the agent is and what is in force")
    show = commands.add_parser("show", help="what is in force", parents=[shared])
    show_commands = show.add_subparsers(metavar="WHAT", required=True)
    for name, function, text in (
        ("filters", handlers.run_show_filters, "the filter table, heaviest first"),
        ("unused", handlers.run_show_unused, "filter lists and filter actions that no rule uses"),
        ("sas", handlers.run_show_sas, "main-mode and quick-mode SAs"),
        ("journal", handlers.run_show_journal, "the newest journal entries"),
    ):
        command = show_commands.add_parser(name, help=text, description=text, parents=[shared])
        command.set_defaults(command=function)
        if name in ("filters", "unused"):
            _add_policy_file(command)
        if name == "journal":
            command.add_argument("--last", type=int, default=20, metavar="N", help="how many (default 20)")
            command.add_argument("--follow", action="store_true", help="go on with entries as they come")

    explain = add("explain", handlers.run_explain, "what happens to a packet, and why")
    for place, text in (
        (
            "source",
            "source address, or me for outbound packets; or peer: when it counts as dead",
        ),
        ("destination", "destination address, or me for inbound packets"),
        ("protocol", "tcp, udp, icmp, any or a number (default: any)"),
    ):
        explain.add_argument(place, nargs="?", help=text)
    explain.add_argument("--src", dest="source_option", metavar="ADDRESS", help="the same as the first word")
    explain.add_argument("--dst", dest="destination_option", metavar="ADDRESS", help="… as the second")
    explain.add_argument("--protocol", dest="protocol_option", metavar="PROTOCOL", help="… as the third")
    explain.add_argument("--source-port", "--sport", default="0", metavar="PORT")
    explain.add_argument("--destination-port", "--dport", "--port", default="0", metavar="PORT")
    explain.add_argument("--direction", choices=("inbound", "outbound", "in", "out"))
    _add_policy_file(explain)

    lab = commands.add_parser("lab", help="laboratories on virtual time", parents=[shared])
    lab_commands = lab.add_subparsers(metavar="COMMAND", required=True)
    text = "who is back how soon, when a cluster node fails or a server restarts"
    failover = lab_commands.add_parser("failover", help=text, description=text, parents=[shared])
    failover.add_argument("--scenario", metavar="WORD", help="those with this word in their name")
    failover.add_argument("--client", metavar="WORD", help="… clients")
    failover.add_argument("--seed", type=int, default=1, metavar="N", help="another story (default 1)")
    failover.add_argument("--picture", metavar="FILE", help="a picture too: .svg, or .png (needs Pillow)")
    failover.add_argument("--time-lines", action="store_true", help="each client's story under the table")
    failover.set_defaults(command=handlers.run_lab_failover)

    _add_policy_file(
        add("lint", handlers.run_lint, "what in the policy is doubtful, and what to do about it")
    )

    from stockade.console.access_command import add_access_parser

    add_access_parser(commands, shared)
    certificate = commands.add_parser("cert", help="the machine's certificates", parents=[shared])
    certificate_commands = certificate.add_subparsers(metavar="COMMAND", required=True)
    take = certificate_commands.add_parser(
        "import", help="take over certificates, keys and revocation lists", parents=[shared]
    )
    take.add_argument("file", help="PEM, DER or PKCS #12 (.pfx)")
    take.add_argument("--trust-roots", action="store_true", help="trust the roots in the file")
    take.add_argument(
        "--password-file", metavar="FILE", help="holds the file's password (default: it is asked for)"
    )
    take.set_defaults(command=handlers.run_certificate_import)
    listing = certificate_commands.add_parser("list", help="what is in the machine store", parents=[shared])
    listing.set_defaults(command=handlers.run_certificate_list)

    rsop = add(
        "rsop",
        handlers.run_rsop,
        "which policy of the domain applies, and why: the whole chain of group policy",
    )
    which = rsop.add_mutually_exclusive_group()
    which.add_argument("--computer", metavar="DN", default="", help="of this computer (default: this one)")
    which.add_argument("--ou", metavar="DN", default="", help="of any computer in this organizational unit")
    rsop.add_argument("--domain", default="", help="in place of that of agent.toml")

    from stockade.console.setup_commands import add_init_parser, add_support_parser
    from stockade.console.web_command import add_web_parser

    add_init_parser(commands, shared)
    add_web_parser(commands, shared)
    add_support_parser(commands, shared)
    add("doctor", handlers.run_doctor, "what this host can do, which data plane an agent would use, and why")
    bench = add("bench", handlers.run_bench, "what things cost on this machine, beside what they may cost")
    bench.add_argument("benchmark", choices=tuple(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    bench.add_argument("words", nargs=argparse.REMAINDER, help="its options (NAME --help lists them)")
    add("demo", handlers.run_demo, "two hosts, one policy, real packets: the whole story in a minute")
    shell = add(
        "completion", handlers.run_completion, "a script that lets your shell complete this command's words"
    )
    shell.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    pages = add("man", handlers.run_man, "write the manual's pages (stockade.1 and one for each command)")
    pages.add_argument("folder", metavar="FOLDER", help="where to, such as /usr/local/share/man/man1")
    return finish(parser)


def _add_policy_file(command: argparse.ArgumentParser) -> None:
    """The options of answers that need no agent."""
    command.add_argument(
        "--policy-file", metavar="FILE", help="ask about a script, an .ipsec, .reg or LDIF file, or a store"
    )
    command.add_argument("--policy", metavar="NAME", help="with several policies: this one")
    command.add_argument(
        "--local", default="", metavar="ADDRESS,…", help="the computer's addresses (default: this one's)"
    )
    command.add_argument(
        "--driver",
        choices=("auto", "kernel", "userspace", "memory"),
        help="the computer's data plane: what it lacks is refused (default: this computer's; with --local one"
        " that can do everything)",
    )
