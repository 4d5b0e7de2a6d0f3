"""`stockade boot-filters`: what protects this computer before an agent runs.

A service of the system's start calls `install` before the network is up (`packaging/systemd`). It needs no
agent and loads little; the agent takes the filters over, and takes them away when the policy is in force."""

from stockade.agent.boot import boot_table, close_gate
from stockade.agent.paths import Paths
from stockade.agent.stores import Stores
from stockade.console.output import give
from stockade.driver import boot_filters
from stockade.model.filters import FilterTable
from stockade.model.reasons import StockadeError
from stockade.policy.boot import BootMode


def install(paths: Paths, form: str) -> int:
    """Put them in force as `set config bootmode` and `bootexemptions` say. Where filters of an agent are in
    force already nothing is put beside them. HostError where the system cannot."""
    paths.make_folders()
    gate = close_gate(Stores(paths))
    if gate.trouble is not None:
        raise StockadeError(gate.trouble)
    return _give(gate.table.mode, gate.table.table, form)


def remove(paths: Paths, form: str) -> int:
    """Take them away. The filters of a policy stay."""
    boot_filters.remove()
    return show(paths, form)


def show(paths: Paths, form: str) -> int:
    """What is in force, and what `install` would put there."""
    table = boot_table(Stores(paths)) if paths.policy.exists() else None
    return _give(
        table.mode if table is not None else BootMode.PERMIT,
        table.table if table is not None else FilterTable(),
        form,
    )


def _give(mode: BootMode, table: FilterTable, form: str) -> int:
    there = boot_filters.in_force()
    filters = [
        {"filter": str(entry), "why": entry.provenance.rule, "action": entry.action}
        for entry in table.filters
    ]
    answer = {"mode": mode, "in_force": there.boot, "policy_in_force": there.policy, "filters": filters}
    if there.boot:
        head = "The boot filters are in force, until an agent has put a policy in force."
    elif there.policy:
        head = "The filters of an agent are in force, and no boot filters."
    else:
        head = "No filters are in force."
    lines = [head, f"Boot mode: {mode}"]
    lines += [f"  {entry}    ({entry.provenance.rule})" for entry in table.filters]
    give(answer, form, "\n".join(lines))
    return 0
