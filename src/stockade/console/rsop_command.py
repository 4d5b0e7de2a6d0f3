"""`stockade rsop`: which policy of the domain applies to a computer, and why; the whole chain of group
policy.

Read anew from a domain controller; for this computer, where none answers, from the agent's last good copy."""

import os
from datetime import UTC, datetime

from stockade.agent.domain_fetch import fetch
from stockade.agent.domain_settings import Request
from stockade.agent.host_facts import HostSettings, SystemFiles, read_host_facts
from stockade.agent.paths import Paths
from stockade.agent.settings import read_settings
from stockade.analyze.explain import filter_as_dict
from stockade.console.output import give
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.compiler import compile_table
from stockade.policy.group_policy import Considered
from stockade.store.directory.evaluation import Evaluation, evaluate
from stockade.store.directory.snapshot import Snapshot, decode_snapshot


def rsop(paths: Paths, form: str, *, domain: str = "", computer: str = "", unit: str = "") -> int:
    """Exit status 0 where the answer is certain, also where no policy applies."""
    snapshot, trouble = read(paths, domain=domain, computer=computer, unit=unit)
    found = evaluate(snapshot)
    filters = _filters(found)
    answer = _as_dict(snapshot, found, filters, trouble)
    give(answer, form, lambda: _print(snapshot, found, filters, trouble))
    return 0


def _print(
    snapshot: Snapshot, found: Evaluation, filters: list[dict[str, object]], trouble: Reason | None
) -> None:
    read_at = datetime.fromtimestamp(snapshot.read, UTC)
    print(f"For:       {snapshot.target}")
    print(f"Domain:    {snapshot.domain}{f', site {snapshot.site}' if snapshot.site else ''}")
    print(f"Read:      {read_at:%Y-%m-%d %H:%M:%S} UTC from {snapshot.controller}")
    if trouble is not None:
        print(f"           the last good copy, because {trouble}")
    print("Group policy objects, strongest first:")
    for one in found.resultant.considered:
        mark = f"{one.precedence}." if one.precedence else "-"
        print(f"{mark:>4} {one.gpo.name or one.gpo.dn}: {one.standing}")
        enforced = ", enforced" if one.enforced else ""
        print(f"     linked to the {one.container.kind} {one.container.dn}, order {one.order}{enforced}")
        print(f"     {one.why}")
    if not found.resultant.considered:
        print("   none is linked")
    policy = found.policy
    if policy is None:
        print("No policy of the domain applies: the local one does.")
    else:
        print(f"Policy: {policy.name} {{{policy.guid}}}")
        for line in filters:
            print(f"  {line['text']}")
    for problem in found.problems:
        print(f"Note: {problem}")


def read(
    paths: Paths, *, domain: str = "", computer: str = "", unit: str = ""
) -> tuple[Snapshot, Reason | None]:
    """What the directory says now; or the copy, and why. Errors: those of `fetch`, CallerError
    NOT_SET_UP where no domain is named."""
    settings = read_settings(paths.settings)
    directory = settings.directory
    name = domain or directory.domain
    if not name:
        raise error_for(
            ReasonCode.NOT_SET_UP,
            "no domain is set: domain under [directory], or --domain",
            file=paths.settings,
        )
    facts = read_host_facts(SystemFiles(), HostSettings())
    ticket = os.environ.get("KRB5CCNAME", "")
    keytab = "" if ticket else str(settings.kerberos.keytab)
    other = bool(computer or unit)
    request = Request(
        name,
        controllers=directory.controllers if name == directory.domain else (),
        keytab=keytab,
        computer=computer or ("" if unit else directory.computer),
        unit=unit,
        addresses=() if other else tuple(map(str, facts.local)),
        security=directory.security,
        authority=directory.authority,
        user=directory.user,
        password_file=directory.password_file,
    )
    try:
        return fetch(request), None
    except StockadeError as error:
        if other or error.reason.code is ReasonCode.DIRECTORY_UNREADABLE:
            raise
        try:
            copy = decode_snapshot(paths.domain.read_bytes())
        except (OSError, StockadeError):
            raise error from None
        if copy.domain.casefold() != name.casefold():
            raise
        return copy, error.reason


def _filters(found: Evaluation) -> list[dict[str, object]]:
    """What the policy becomes on a computer with this one's addresses."""
    if found.policy is None:
        return []
    facts = read_host_facts(SystemFiles(), HostSettings())
    table = compile_table([found.policy_set], facts)
    return [{**filter_as_dict(entry), "text": f"{entry}  ({entry.provenance})"} for entry in table.filters]


def _as_dict(
    snapshot: Snapshot, found: Evaluation, filters: list[dict[str, object]], trouble: Reason | None
) -> dict[str, object]:
    winner = found.resultant.winner
    return {
        "domain": snapshot.domain,
        "for": snapshot.target,
        "site": snapshot.site,
        "controller": snapshot.controller,
        "read": snapshot.read,
        "copy_because": trouble.as_dict() if trouble else None,
        "considered": [_considered(one) for one in found.resultant.considered],
        "gpo": winner.gpo.name if winner else None,
        "policy": found.policy.name if found.policy else None,
        "filters": filters,
        "problems": [problem.as_dict() for problem in found.problems],
    }


def _considered(one: Considered) -> dict[str, object]:
    return {
        "gpo": one.gpo.name,
        "dn": one.gpo.dn,
        "container": one.container.dn,
        "kind": one.container.kind.value,
        "order": one.order,
        "enforced": one.enforced,
        "standing": one.standing.value,
        "why": one.why,
        "precedence": one.precedence,
    }
