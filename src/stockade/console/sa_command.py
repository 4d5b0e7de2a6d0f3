"""`stockade sa delete` and `stockade sa rekey`."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from stockade.agent.client import AgentClient
from stockade.console.output import give
from stockade.model.reasons import ReasonCode, error_for


def run_sa(client: AgentClient, action: str, which: str, form: str) -> int:
    """`which`: a peer's address or an inbound SPI. Errors: SYNTAX, UNKNOWN_NAME, AGENT_NOT_RUNNING."""
    if which.lower().startswith("0x"):
        answers = [client.post(f"/v1/sas/quick/{action}", {"spi": which})]
    else:
        try:
            peer = str(ip_address(which))
        except ValueError:
            detail = f"{which!r}: expected a peer's address, or an inbound SPI such as 0x1a2b3c4d"
            raise error_for(ReasonCode.SYNTAX, detail) from None
        answers = _of_peer(client, action, peer)
    give({"done": answers}, form, "\n".join(_told(action, answer) for answer in answers))
    return 0


def _told(action: str, answer: Mapping[str, Any]) -> str:
    if action == "rekey":
        return f"rekey of {answer['inbound_spi']} with {answer['peer']} begun"
    numbers = f"{answer['main_modes']} main modes, {answer['quick_modes']} quick modes"
    return f"deleted with {answer['peer']}: {numbers}"


def _of_peer(client: AgentClient, action: str, peer: str) -> list[dict[str, Any]]:
    if action == "delete":
        return [client.post("/v1/sas/delete", {"peer": peer})]
    rows = [row for row in client.get("/v1/sas")["quick_modes"] if row["peer"] == peer]
    if not rows:
        raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no quick mode with {peer}")
    return [client.post("/v1/sas/quick/rekey", {"spi": row["inbound_spi"]}) for row in rows]
