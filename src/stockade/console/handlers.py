"""What the commands of `stockade` do. Imports happen inside them, so that `stockade status` need not load the
world."""

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.agent.paths import Paths
from stockade.console.output import cleaned, give, give_findings, give_record
from stockade.model.reasons import ReasonCode, error_for

if TYPE_CHECKING:
    from stockade.agent.client import AgentClient
    from stockade.analyze.offline import Offline

EXIT_REFUSED, EXIT_USAGE = 1, 2


# ---- the service


def run_agent_run(options: argparse.Namespace) -> int:
    from stockade.agent.launch import run_agent
    from stockade.driver.userspace.offloads import read_offloads

    def ready() -> None:
        record = {"ready": True, "pid": os.getpid()}
        give_record(record, options.format, "stockade: the policy is in force")

    without = None if options.no_offload is None else read_offloads(options.no_offload.split(","))
    run_agent(Paths.of(options.home), options.driver, ready, without)
    return 0


def run_agent_end(options: argparse.Namespace) -> int:
    from stockade.agent.launch import end_left

    end_left(Paths.of(options.home))
    return 0


def run_boot_filters(options: argparse.Namespace) -> int:
    from stockade.console import boot_filters_command

    paths = Paths.of(options.home)
    if options.action == "install":
        return boot_filters_command.install(paths, options.format)
    if options.action == "remove":
        return boot_filters_command.remove(paths, options.format)
    return boot_filters_command.show(paths, options.format)


# ---- policy


def run_netsh(options: argparse.Namespace) -> int:
    if options.complete is not None:
        from stockade.console.shell_completion import complete_line

        return complete_line(options.complete)
    from stockade.console.netsh_command import run_netsh

    return run_netsh(
        Paths.of(options.home),
        options.words if options.computer is None else ["netsh", "-r", options.computer, *options.words],
        script=options.script,
        atomic=options.atomic,
        form=options.format,
        context=options.context,
    )


def run_ipseccmd(options: argparse.Namespace) -> int:
    from stockade.console.ipseccmd_command import run

    return run(Paths.of(options.home), options.words, options.format)


def run_policy(options: argparse.Namespace) -> int:
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


def run_certificate_import(options: argparse.Namespace) -> int:
    from stockade.console.certificate_command import import_certificates

    return import_certificates(
        Paths.of(options.home),
        options.file,
        password_file=options.password_file,
        trust_roots=options.trust_roots,
        form=options.format,
    )


def run_certificate_list(options: argparse.Namespace) -> int:
    from stockade.console.certificate_command import list_certificates

    return list_certificates(Paths.of(options.home), options.format)


# ---- what is in force


def run_status(options: argparse.Namespace) -> int:
    from stockade.console import printing

    answer = _client(options).get("/v1/status")
    give(answer, options.format, lambda: printing.status(cleaned(answer)))
    return 0


def run_cluster(options: argparse.Namespace) -> int:
    from stockade.console.cluster_command import run_cluster

    return run_cluster(_client(options), options.action, getattr(options, "address", None), options.format)


def run_show_filters(options: argparse.Namespace) -> int:
    if options.policy_file is not None:
        from stockade.console import offline_command

        return offline_command.show_filters(_offline(options), options.format)
    from stockade.console import printing

    answer = _client(options).get("/v1/filters")
    give(answer, options.format, lambda: printing.filters(cleaned(answer)))
    return 0


def run_show_unused(options: argparse.Namespace) -> int:
    from stockade.console import offline_command

    what = offline_command.written(Paths.of(options.home), options.policy_file)
    return offline_command.show_unused(what.policy_sets, options.format)


def run_lint(options: argparse.Namespace) -> int:
    from stockade.console import offline_command

    return offline_command.lint(_offline(options), options.format)


def _offline(options: argparse.Namespace) -> "Offline":
    from stockade.console import offline_command

    local = [word for word in options.local.split(",") if word]
    return offline_command.load(
        Paths.of(options.home), options.policy_file, options.policy, local, options.driver
    )


def run_show_sas(options: argparse.Namespace) -> int:
    from stockade.console import printing

    answer = _client(options).get("/v1/sas")
    give(answer, options.format, lambda: printing.sas(cleaned(answer)))
    return 0


def run_show_journal(options: argparse.Namespace) -> int:
    from stockade.console import printing
    from stockade.console.events_command import EVENT_COLUMNS

    client = _client(options)
    # Ask for the stream first: nothing between the two answers is missed, at worst seen twice.
    stream = client.events() if options.follow else iter(())
    entries = client.get("/v1/journal", {"last": str(options.last)})
    if not options.follow:
        give(entries, options.format, lambda: printing.journal(cleaned(entries)), EVENT_COLUMNS)
        return 0
    for record in chain(entries["entries"], stream):
        give_record(record, options.format, printing.journal_line(record))
    return 0


def run_events(options: argparse.Namespace) -> int:
    from stockade.console.events_command import run_events

    names = ("last", "since", "until", "id", "kind", "reason", "peer")
    words = {name: getattr(options, name) for name in names}
    return run_events(Paths.of(options.home), words, follow=options.follow, form=options.format)


def run_metrics(options: argparse.Namespace) -> int:
    from stockade.console.metrics_command import run_metrics

    return run_metrics(_client(options), options.format)


def run_capture(options: argparse.Namespace) -> int:
    from ipaddress import ip_address

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
        form=options.format,
    )


def run_monitor(options: argparse.Namespace) -> int:
    if options.once or options.format != "text":
        from stockade.console import monitor_data

        snapshot = monitor_data.fetch(_client(options))
        give(monitor_data.answers(snapshot), options.format, lambda: print(monitor_data.plain(snapshot)))
        return 0
    if not sys.stdout.isatty():
        raise error_for(ReasonCode.SYNTAX, "the monitor needs a terminal; --once prints the same as text")
    try:
        from stockade.console.monitor import run_monitor
    except ModuleNotFoundError as error:
        detail = f"the monitor needs {error.name}: pip install 'stockade[monitor]'; --once does without"
        raise error_for(ReasonCode.MISSING_PROGRAM, detail) from None
    return run_monitor(_client(options))


def run_sa(options: argparse.Namespace) -> int:
    from stockade.console.sa_command import run_sa

    return run_sa(_client(options), options.action, options.which, options.format)


def run_log(options: argparse.Namespace) -> int:
    from stockade.console.log_command import run_log

    return run_log(
        Paths.of(options.home),
        last=max(0, options.last),
        peer=options.peer,
        saved=options.saved,
        follow=options.follow,
        form=options.format,
    )


def run_explain(options: argparse.Namespace) -> int:
    if options.source == "peer" and options.destination is not None:
        answer = _client(options).get("/v1/explain/peer", {"peer": options.destination})
        give(answer, options.format, lambda: _print_lines(cleaned(answer)))
        return 0
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
    give(answer["explanation"], options.format, "\n".join(answer["lines"]))
    return 0


def _own_address(value: str, ends: dict[str, str], addresses: Sequence[str]) -> str:
    """`me` as an address of this host, of the family that the other end has."""
    if value != "me":
        return value
    wants_ipv6 = any(":" in other for other in ends.values())
    own = next((address for address in addresses if (":" in address) == wants_ipv6), None)
    if own is None:
        family = "IPv6" if wants_ipv6 else "IPv4"
        detail = f"me: this computer has no {family} address now; write the address that is meant"
        raise error_for(ReasonCode.SYNTAX, detail)
    return own


def run_rsop(options: argparse.Namespace) -> int:
    from stockade.console.rsop_command import rsop

    paths, form = Paths.of(options.home), options.format
    return rsop(paths, form, domain=options.domain, computer=options.computer, unit=options.ou)


def run_doctor(options: argparse.Namespace) -> int:
    from stockade.console.doctor import run_doctor

    return run_doctor(options.format, Paths.of(options.home))


def run_bench(options: argparse.Namespace) -> int:
    from stockade.bench.command import run_benchmark

    return run_benchmark(options.benchmark, options.words, options.format, give_findings)


def run_lab_failover(options: argparse.Namespace) -> int:
    from stockade.console.lab_command import run_failover

    return run_failover(options)


def run_demo(options: argparse.Namespace) -> int:
    from stockade.lab.demo import run_demo

    return run_demo(options.format, give=give_findings)


# ---- printing


def _client(options: argparse.Namespace) -> "AgentClient":
    from stockade.agent.client import AgentClient

    return AgentClient(Paths.of(options.home).socket)


def run_completion(options: argparse.Namespace) -> int:
    from stockade.console.manual import completion
    from stockade.console.parser import make_parser

    script = completion(make_parser(), options.shell)
    give({"shell": options.shell, "script": script}, options.format, script)
    return 0


def run_man(options: argparse.Namespace) -> int:

    from stockade.console.manual import write_pages
    from stockade.console.parser import make_parser

    written = write_pages(make_parser(), Path(options.folder))
    answer = {"folder": options.folder, "pages": [path.name for path in written]}
    give(answer, options.format, f"{len(written)} pages in {options.folder}")
    return 0
