"""The `stockade` command. Imports happen inside the commands, so that `stockade status` need not load the
world.

Exit status: 0 done, 1 refused or not as promised, 2 the command line itself is wrong, 130 interrupted.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NoReturn

from stockade import __version__
from stockade.agent.paths import Paths
from stockade.bench import BENCHMARKS
from stockade.console.help import Parser, finish
from stockade.model.reasons import ReasonCode, StockadeError, error_for

if TYPE_CHECKING:
    from stockade.agent.client import AgentClient
    from stockade.analyze.offline import Offline

_COMMANDS_OF_WORDS = ("ipseccmd", "netsh")

EXIT_REFUSED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    # The options before and after the command word share their actions, so a default there would undo what
    # stands before it.
    words = _guarded(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words, argparse.Namespace(home=None, format="text"))
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except StockadeError as error:
        _print_refusal(error, options.format)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; leave quietly, also at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_REFUSED


def _guarded(arguments: Sequence[str]) -> list[str]:
    """The words after `ipseccmd` begin with dashes and are not argparse's: a `--` in front of them says
    so."""
    words = list(arguments)
    place = next((place for place, word in enumerate(words) if word in _COMMANDS_OF_WORDS), None)
    if place is not None and words[place] == "ipseccmd":
        words.insert(place + 1, "--")
    return words


def entry() -> NoReturn:
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
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
    run.add_argument("--driver", help="the data plane (auto, kernel or userspace); outweighs agent.toml")
    run.add_argument(
        "--no-offload",
        metavar="NAME,…",
        help="offloads of the user-space data plane to do without (see doctor); outweighs agent.toml",
    )
    run.set_defaults(command=_agent_run)
    text = "end the data plane that an agent left which was killed; filters stay, closed"
    end = agent_commands.add_parser("end", help=text, description=text, parents=[shared])
    end.set_defaults(command=_agent_end)

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
        command.set_defaults(command=_boot_filters, action=name)

    netsh = add("netsh", _netsh, "read or write policy in the language of netsh ipsec")
    netsh.add_argument(
        "-f", dest="script", metavar="FILE", help="run the commands of a script (- for standard input)"
    )
    netsh.add_argument("-c", dest="context", metavar="CONTEXT", help='begin there, such as "ipsec static"')
    netsh.add_argument("--atomic", action="store_true", help="with -f: apply all of the script or nothing")
    netsh.add_argument(
        "words", nargs=argparse.REMAINDER, help="the command, such as ipsec static show policy all"
    )

    ipseccmd = add("ipseccmd", _ipseccmd, "write policy in the one-liners of Windows XP's ipseccmd")
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
            command.add_argument(argument, type=int, nargs=count, metavar="N")
        command.set_defaults(command=_policy, action=name)

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
    simple.set_defaults(command=_policy, action="simple")

    log = add("log", _log, "the story of every negotiation (the Oakley log)")
    log.add_argument("--last", type=int, default=20, metavar="N", help="how many (default 20, 0 for all)")
    log.add_argument("--peer", metavar="ADDRESS", help="only those with this peer")
    log.add_argument("--saved", action="store_true", help="the log before this one (oakley.log.sav)")
    log.add_argument("--follow", action="store_true", help="go on with lines as they come")

    events = add("events", _events, "what happened, and why: searchable, also over restarts")
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

    add("metrics", _metrics, "the agent's figures, in the text form of Prometheus")

    capture = add("capture", _capture, "packets before and after IPsec, into a file for Wireshark")
    capture.add_argument("file", metavar="FILE", help="a new pcapng file")
    capture.add_argument("--seconds", type=float, metavar="N", help="end after so long (default: Ctrl-C)")
    capture.add_argument("--count", type=int, metavar="N", help="end after so many packets")
    capture.add_argument("--peer", metavar="ADDRESS", help="only packets from and to this computer")
    capture.add_argument(
        "--keys",
        action="store_true",
        help="write FILE.wireshark with the keys of all SAs, to decrypt them; the journal tells of it",
    )

    monitor = add("monitor", _monitor, "filters, SAs, negotiations, peers and events, as they change")
    monitor.add_argument("--once", action="store_true", help="print the same once, as text")

    sa = commands.add_parser("sa", help="delete or rekey SAs", parents=[shared])
    sa_commands = sa.add_subparsers(metavar="COMMAND", required=True)
    for name, text in (
        ("delete", "delete all SAs with a computer, or one quick mode; the peer is told"),
        ("rekey", "make quick modes anew; the old ones go on until then"),
    ):
        command = sa_commands.add_parser(name, help=text, description=text, parents=[shared])
        command.add_argument("which", help="a peer's address, or an inbound SPI (0x…) of show sas")
        command.set_defaults(command=_sa, action=name)

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
        command.set_defaults(command=_cluster, action=name)

    add("status", _status, "how the agent is and what is in force")
    show = commands.add_parser("show", help="what is in force", parents=[shared])
    show_commands = show.add_subparsers(metavar="WHAT", required=True)
    for name, function, text in (
        ("filters", _show_filters, "the filter table, heaviest first"),
        ("unused", _show_unused, "filter lists and filter actions that no rule uses"),
        ("sas", _show_sas, "main-mode and quick-mode SAs"),
        ("journal", _show_journal, "the newest journal entries"),
    ):
        command = show_commands.add_parser(name, help=text, description=text, parents=[shared])
        command.set_defaults(command=function)
        if name in ("filters", "unused"):
            _add_policy_file(command)
        if name == "journal":
            command.add_argument("--last", type=int, default=20, metavar="N", help="how many (default 20)")
            command.add_argument("--follow", action="store_true", help="go on with entries as they come")

    explain = add("explain", _explain, "what happens to a packet, and why")
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
    failover.set_defaults(command=_lab_failover)

    _add_policy_file(add("lint", _lint, "what in the policy is doubtful, and what to do about it"))

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
    take.set_defaults(command=_certificate_import)
    listing = certificate_commands.add_parser("list", help="what is in the machine store", parents=[shared])
    listing.set_defaults(command=_certificate_list)

    rsop = add("rsop", _rsop, "which policy of the domain applies, and why: the whole chain of group policy")
    which = rsop.add_mutually_exclusive_group()
    which.add_argument("--computer", metavar="DN", default="", help="of this computer (default: this one)")
    which.add_argument("--ou", metavar="DN", default="", help="of any computer in this organizational unit")
    rsop.add_argument("--domain", default="", help="in place of that of agent.toml")

    from stockade.console.setup_commands import add_init_parser, add_support_parser
    from stockade.console.web_command import add_web_parser

    add_init_parser(commands, shared)
    add_web_parser(commands, shared)
    add_support_parser(commands, shared)
    add("doctor", _doctor, "what this host can do, which data plane an agent would use, and why")
    bench = add("bench", _bench, "what things cost on this machine, beside what they may cost")
    bench.add_argument("benchmark", choices=tuple(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    bench.add_argument("words", nargs=argparse.REMAINDER, help="its options (NAME --help lists them)")
    add("demo", _demo, "two hosts, one policy, real packets: the whole story in a minute")
    shell = add("completion", _completion, "a script that lets your shell complete this command's words")
    shell.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    pages = add("man", _man, "write the manual's pages (stockade.1 and one for each command)")
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


# ---- the service


def _agent_run(options: argparse.Namespace) -> int:
    from stockade.agent.launch import run_agent
    from stockade.driver.userspace.offloads import read_offloads

    def ready() -> None:
        if options.format == "json":
            print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
        else:
            print("stockade: the policy is in force", flush=True)

    without = None if options.no_offload is None else read_offloads(options.no_offload.split(","))
    run_agent(Paths.of(options.home), options.driver, ready, without)
    return 0


def _agent_end(options: argparse.Namespace) -> int:
    from stockade.agent.launch import end_left

    end_left(Paths.of(options.home))
    return 0


def _boot_filters(options: argparse.Namespace) -> int:
    from stockade.console import boot_filters_command

    paths = Paths.of(options.home)
    if options.action == "install":
        return boot_filters_command.install(paths, options.format)
    if options.action == "remove":
        return boot_filters_command.remove(paths, options.format)
    return boot_filters_command.show(paths, options.format)


# ---- policy


def _netsh(options: argparse.Namespace) -> int:
    from stockade.console.netsh_command import run_netsh

    return run_netsh(
        Paths.of(options.home),
        options.words,
        script=options.script,
        atomic=options.atomic,
        form=options.format,
        context=options.context,
    )


def _ipseccmd(options: argparse.Namespace) -> int:
    from stockade.console.ipseccmd_command import run

    return run(Paths.of(options.home), options.words, options.format)


def _policy(options: argparse.Namespace) -> int:
    from stockade.console import policy_command

    paths, store, form = Paths.of(options.home), options.store, options.format
    if options.action == "simple":
        return policy_command.simple(
            paths,
            store,
            form,
            name=options.name,
            assign=options.assign,
            replace=options.replace,
            psk_file=options.psk_file,
            rootca=options.rootca,
        )
    if options.action == "history":
        return policy_command.history(paths, store, form)
    if options.action == "diff":
        return policy_command.diff(paths, store, options.first, options.second, form)
    if options.action == "rollback":
        return policy_command.rollback(paths, store, options.number, form)
    return policy_command.forget(paths, store, options.keep, form)


def _certificate_import(options: argparse.Namespace) -> int:
    from stockade.console.certificate_command import import_certificates

    return import_certificates(
        Paths.of(options.home),
        options.file,
        password_file=options.password_file,
        trust_roots=options.trust_roots,
        form=options.format,
    )


def _certificate_list(options: argparse.Namespace) -> int:
    from stockade.console.certificate_command import list_certificates

    return list_certificates(Paths.of(options.home), options.format)


# ---- what is in force


def _status(options: argparse.Namespace) -> int:
    from stockade.console import printing

    answer = _client(options).get("/v1/status")
    return _print(options, answer, printing.status)


def _cluster(options: argparse.Namespace) -> int:
    from stockade.console.cluster_command import run_cluster

    return run_cluster(_client(options), options.action, getattr(options, "address", None), options.format)


def _show_filters(options: argparse.Namespace) -> int:
    if options.policy_file is not None:
        from stockade.console import offline_command

        return offline_command.show_filters(_offline(options), options.format)
    from stockade.console import printing

    answer = _client(options).get("/v1/filters")
    return _print(options, answer, printing.filters)


def _show_unused(options: argparse.Namespace) -> int:
    from stockade.console import offline_command

    sets = offline_command.policy_sets(Paths.of(options.home), options.policy_file)
    return offline_command.show_unused(sets, options.format)


def _lint(options: argparse.Namespace) -> int:
    from stockade.console import offline_command

    return offline_command.lint(_offline(options), options.format)


def _offline(options: argparse.Namespace) -> "Offline":
    from stockade.console import offline_command

    local = [word for word in options.local.split(",") if word]
    return offline_command.load(Paths.of(options.home), options.policy_file, options.policy, local)


def _show_sas(options: argparse.Namespace) -> int:
    from stockade.console import printing

    answer = _client(options).get("/v1/sas")
    return _print(options, answer, printing.sas)


def _show_journal(options: argparse.Namespace) -> int:
    from stockade.console import printing

    client = _client(options)
    # Ask for the stream first: nothing between the two answers is missed, at worst seen twice.
    stream = client.events() if options.follow else iter(())
    entries = client.get("/v1/journal", {"last": str(options.last)})
    if not options.follow:
        return _print(options, entries, printing.journal)
    for record in chain(entries["entries"], stream):
        print(json.dumps(record) if options.format == "json" else printing.journal_line(record), flush=True)
    return 0


def _events(options: argparse.Namespace) -> int:
    from stockade.console.events_command import run_events

    names = ("last", "since", "until", "id", "kind", "reason", "peer")
    words = {name: getattr(options, name) for name in names}
    return run_events(Paths.of(options.home), words, follow=options.follow, form=options.format)


def _metrics(options: argparse.Namespace) -> int:
    print(_client(options).text("/metrics"), end="")
    return 0


def _capture(options: argparse.Namespace) -> int:
    from ipaddress import ip_address
    from pathlib import Path

    from stockade.console.capture_command import run_capture

    try:
        peer = ip_address(options.peer) if options.peer else None
    except ValueError:
        raise error_for(ReasonCode.SYNTAX, f"--peer {options.peer!r}: expected an address") from None
    return run_capture(
        Paths.of(options.home),
        Path(options.file),
        seconds=options.seconds,
        count=options.count,
        peer=peer,
        keys=options.keys,
    )


def _monitor(options: argparse.Namespace) -> int:
    if options.once or options.format == "json":
        from stockade.console import monitor_data

        snapshot = monitor_data.fetch(_client(options))
        print(monitor_data.as_json(snapshot) if options.format == "json" else monitor_data.plain(snapshot))
        return 0
    if not sys.stdout.isatty():
        raise error_for(ReasonCode.SYNTAX, "the monitor needs a terminal; --once prints the same as text")
    try:
        from stockade.console.monitor import run_monitor
    except ModuleNotFoundError as error:
        detail = f"the monitor needs {error.name}: pip install 'stockade[monitor]'; --once does without"
        raise error_for(ReasonCode.MISSING_PROGRAM, detail) from None
    return run_monitor(_client(options))


def _sa(options: argparse.Namespace) -> int:
    from stockade.console.sa_command import run_sa

    return run_sa(_client(options), options.action, options.which, options.format)


def _log(options: argparse.Namespace) -> int:
    from stockade.console.log_command import run_log

    return run_log(
        Paths.of(options.home),
        last=max(0, options.last),
        peer=options.peer,
        saved=options.saved,
        follow=options.follow,
        form=options.format,
    )


def _explain(options: argparse.Namespace) -> int:
    if options.source == "peer" and options.destination is not None:
        answer = _client(options).get("/v1/explain/peer", {"peer": options.destination})
        return _print(options, answer, _print_lines)
    source = options.source_option or options.source
    destination = options.destination_option or options.destination
    protocol = options.protocol_option or options.protocol or "any"
    if source is None or destination is None:
        raise error_for(ReasonCode.SYNTAX, "explain needs a source and a destination address")
    ports = (options.source_port, options.destination_port)
    if options.policy_file is not None:
        from stockade.console import offline_command

        offline = _offline(options)
        own = [str(address) for address in offline.facts.local]
        ends = {"source": source, "destination": destination}
        flow = offline_command.flow_of_words(
            _own_address(source, ends, own), _own_address(destination, ends, own), protocol, *ports
        )
        return offline_command.explain(offline, flow, options.direction, options.format)
    return _explain_running(options, source, destination, protocol)


def _print_lines(answer: dict[str, object]) -> None:
    lines = answer["lines"]
    assert isinstance(lines, list)
    print("\n".join(map(str, lines)))


def _explain_running(options: argparse.Namespace, source: str, destination: str, protocol: str) -> int:
    client = _client(options)
    ends = {"source": source, "destination": destination}
    if "me" in ends.values():
        addresses = client.get("/v1/status")["addresses"]
        ends = {name: _own_address(value, ends, addresses) for name, value in ends.items()}
    parameters = {
        **ends,
        "protocol": protocol,
        "source_port": options.source_port,
        "destination_port": options.destination_port,
    }
    if options.direction:
        parameters["direction"] = {"in": "inbound", "out": "outbound"}.get(
            options.direction, options.direction
        )
    answer = client.get("/v1/explain", parameters)
    if options.format == "json":
        print(json.dumps(answer["explanation"], indent=2))
    else:
        print("\n".join(answer["lines"]))
    return 0


def _own_address(value: str, ends: dict[str, str], addresses: Sequence[str]) -> str:
    """`me` as an address of this host, of the family that the other end has."""
    if value != "me":
        return value
    wants_ipv6 = any(":" in other for other in ends.values())
    return next((address for address in addresses if (":" in address) == wants_ipv6), "me")


def _rsop(options: argparse.Namespace) -> int:
    from stockade.console.rsop_command import rsop

    paths, form = Paths.of(options.home), options.format
    return rsop(paths, form, domain=options.domain, computer=options.computer, unit=options.ou)


def _doctor(options: argparse.Namespace) -> int:
    from stockade.console.doctor import run_doctor

    return run_doctor(options.format)


def _bench(options: argparse.Namespace) -> int:
    from stockade.bench.command import run_benchmark

    return run_benchmark(options.benchmark, options.words, options.format)


def _lab_failover(options: argparse.Namespace) -> int:
    from stockade.console.lab_command import run_failover

    return run_failover(options)


def _demo(options: argparse.Namespace) -> int:
    from stockade.lab.demo import run_demo

    return run_demo(options.format)


# ---- printing


def _client(options: argparse.Namespace) -> "AgentClient":
    from stockade.agent.client import AgentClient

    return AgentClient(Paths.of(options.home).socket)


def _completion(options: argparse.Namespace) -> int:
    from stockade.console.manual import completion

    print(completion(_parser(), options.shell))
    return 0


def _man(options: argparse.Namespace) -> int:
    from pathlib import Path

    from stockade.console.manual import write_pages

    written = write_pages(_parser(), Path(options.folder))
    print(f"{len(written)} pages in {options.folder}")
    return 0


def _print(
    options: argparse.Namespace, answer: dict[str, object], text: Callable[[dict[str, object]], None]
) -> int:
    if options.format == "json":
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    elif options.format in ("table", "list"):
        from stockade.console import whole_answers

        whole_answers.show(answer, options.format)
    else:
        text(answer)
    return 0


def _print_refusal(error: StockadeError, form: str) -> None:
    if form == "json":
        print(json.dumps(error.reason.as_dict(), ensure_ascii=False), file=sys.stderr)
        return
    print(f"stockade: {error.reason}", file=sys.stderr)
    if error.reason.code.remedy != "none":
        print(f"what to do: {error.reason.code.remedy}", file=sys.stderr)


if __name__ == "__main__":
    entry()
