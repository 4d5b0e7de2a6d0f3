"""`stockade cluster show` and `stockade cluster release`."""

from typing import Any

from stockade.agent.client import AgentClient
from stockade.console.output import cleaned, give
from stockade.model.reasons import ReasonCode, error_for


def run_cluster(client: AgentClient, action: str, address: str | None, form: str) -> int:
    """One command; the exit status. Errors: as the agent refuses."""
    if action == "release":
        answer = client.post("/v1/cluster/release", {"address": address} if address else None)
        lines = [f"{one} may be moved now: its peers were told" for one in answer["addresses"]]
        give(answer, form, "\n".join(lines or ["no virtual address is here"]))
        return 0
    cluster = client.get("/v1/status")["cluster"]
    if cluster is None:
        raise error_for(ReasonCode.NOT_SET_UP, "it is no node of a cluster: agent.toml has no [cluster]")
    give(cluster, form, lambda: _print(cleaned(cluster)))
    return 0


def _print(cluster: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for column in ("node", "address", "state", "has", "can be taken over"):
        table.add_column(column)
    table.add_row(cluster["node"], "", "this one", ", ".join(cluster["holds"]) or "-", "")
    for member in cluster["members"]:
        state = "alive" if member["alive"] else "silent"
        number = str(member["quick_modes"])
        table.add_row(member["name"], member["address"], state, ", ".join(member["holds"]) or "-", number)
    Console(highlight=False).print(table)
