"""`lint`, `show unused`, and `explain` and `show filters` with `--policy-file`: answers about policies
without an agent.

`policy_files` says what a policy file may be. Without one the stores of `--home` are read, and the dynamic
objects of an agent that runs, which also tells what it knows of names. Nothing is written, and nothing is
resolved: other DNS names stay unknown.
"""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from stockade.agent.paths import Paths
from stockade.agent.settings import read_settings
from stockade.analyze.offline import Offline
from stockade.console.output import give
from stockade.console.policy_files import Written, read_file, read_stores
from stockade.driver.probe import capabilities_of
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import Flow
from stockade.policy.facts import HostFacts
from stockade.policy.objects import PolicySet

_DIRECTIONS = {"in": Direction.INBOUND, "inbound": Direction.INBOUND}
_DIRECTIONS |= {"out": Direction.OUTBOUND, "outbound": Direction.OUTBOUND}


def load(
    paths: Paths,
    policy_file: str | None,
    policy: str | None,
    local: Sequence[str],
    driver: str | None = None,
) -> Offline:
    """What would be in force on a computer with the addresses `local`, of whose servers nothing is known; on
    this one if there are none. `driver`: its data plane; None: that of this computer, or with `local` one
    that can do everything."""
    what = written(paths, policy_file)
    has_rules = what.dynamic is not None and what.dynamic.rules
    if policy_file is not None and not has_rules and not any(one.policies for one in what.policy_sets):
        raise error_for(
            ReasonCode.INVALID_FILE, "there is no policy in it", file=policy_file, expected="add policy …"
        )
    if local:
        facts = HostFacts.of([_address(word, "--local") for word in local])
    else:
        facts = replace(_own_facts(), names=what.names)
    if driver is None and not local:
        driver = read_settings(paths.settings).driver
    capabilities = None if driver is None else capabilities_of(driver)
    return Offline.of(
        what.policy_sets,
        facts,
        exempt_level=what.exempt_level,
        dynamic=what.dynamic,
        policy=policy,
        capabilities=capabilities,
    )


def explain(offline: Offline, flow: Flow, direction: str | None, form: str) -> int:
    explanation = offline.explain(flow, _DIRECTIONS[direction] if direction else None)
    give(explanation.as_dict(), form, "\n".join(explanation.lines()))
    return 0


def show_filters(offline: Offline, form: str) -> int:
    answer = {
        "policy": offline.table.policy_name,
        "assumed": list(offline.assumed),
        "filters": list(offline.filters()),
        "warnings": list(offline.warnings()),
    }
    give(answer, form, lambda: _print_filters(offline))
    return 0


def _print_filters(offline: Offline) -> None:
    print(f"Policy: {offline.table.policy_name or 'none'}")
    for entry in offline.table.filters:
        print(f"{entry.weight:>11x}  {entry}  ({entry.provenance})")
    for warning in offline.warnings():
        print(f"Note: {warning}")


def lint(offline: Offline, form: str) -> int:
    """Exit status 1 where a finding is an error."""
    findings = offline.lint()
    lines = [f"{finding.severity}: {finding}\n    what to do: {finding.remedy}" for finding in findings]
    text = "\n".join(lines or ["Nothing doubtful was found."])
    give([finding.as_dict() for finding in findings], form, text)
    return int(any(finding.severity == "error" for finding in findings))


def show_unused(sets: Sequence[PolicySet], form: str) -> int:
    from stockade.analyze.unused import find_unused

    unused = find_unused(sets)
    lines = [f"{entry}\n    to delete it: {entry.remedy}" for entry in unused]
    text = "\n".join(lines or ["Every filter list and filter action is used by a rule."])
    give([entry.as_dict() for entry in unused], form, text)
    return 0


def flow_of_words(
    source: str, destination: str, protocol: str, source_port: str, destination_port: str
) -> Flow:
    """The flow that words of the command line mean. CallerError SYNTAX names the word."""
    words = {"any": 0, "icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
    number = words.get(protocol.lower(), int(protocol) if protocol.isdecimal() else -1)
    if not 0 <= number <= 255:
        raise error_for(
            ReasonCode.SYNTAX, f"protocol {protocol!r}: expected tcp, udp, icmp or a number 0–255"
        )
    ports = []
    for name, word in (("source port", source_port), ("destination port", destination_port)):
        if not word.isdecimal() or int(word) > 65_535:
            raise error_for(ReasonCode.SYNTAX, f"{name} {word!r}: expected a number 0–65535")
        ports.append(int(word))
    ends = (_address(source, "source"), _address(destination, "destination"))
    return Flow(*ends, number, ports[0], ports[1])


def policy_sets(paths: Paths, policy_file: str | None) -> tuple[PolicySet, ...]:
    return written(paths, policy_file).policy_sets


def written(paths: Paths, policy_file: str | None) -> Written:
    return read_stores(paths) if policy_file is None else read_file(Path(policy_file))


def _own_facts() -> HostFacts:
    from stockade.agent.host_facts import HostSettings, SystemFiles, read_host_facts

    return read_host_facts(SystemFiles(), HostSettings())


def _address(word: str, what: str) -> Address:
    try:
        return ip_address(word)
    except ValueError:
        raise error_for(ReasonCode.SYNTAX, f"{what} {word!r}: expected an IP address") from None
