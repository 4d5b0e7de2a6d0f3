"""`stockade boot-filters`: what protects this computer before an agent runs.

A service of the system's start calls `install` before the network is up (`packaging/systemd`). It needs no
agent and loads little; the agent takes the filters over, and takes them away when the policy is in force."""

import json

from stockade.agent.boot import boot_table, close_gate
from stockade.agent.paths import Paths
from stockade.agent.stores import Stores
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
    return _print(gate.table.mode, gate.table.table, form)


def remove(paths: Paths, form: str) -> int:
    """Take them away. The filters of a policy stay."""
    boot_filters.remove()
    return show(paths, form)


def show(paths: Paths, form: str) -> int:
    """What is in force, and what `install` would put there."""
    table = boot_table(Stores(paths)) if paths.policy.exists() else None
    return _print(
        table.mode if table is not None else BootMode.PERMIT,
        table.table if table is not None else FilterTable(),
        form,
    )


def _print(mode: BootMode, table: FilterTable, form: str) -> int:
    there = boot_filters.in_force()
    if form == "json":
        filters = [
            {"filter": str(entry), "why": entry.provenance.rule, "action": entry.action}
            for entry in table.filters
        ]
        answer = {"mode": mode, "in_force": there.boot, "policy_in_force": there.policy, "filters": filters}
        print(json.dumps(answer))
        return 0
    if there.boot:
        print("The boot filters are in force, until an agent has put a policy in force.")
    elif there.policy:
        print("The filters of an agent are in force, and no boot filters.")
    else:
        print("No filters are in force.")
    print(f"Boot mode: {mode}")
    for entry in table.filters:
        print(f"  {entry}    ({entry.provenance.rule})")
    return 0
