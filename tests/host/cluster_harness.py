"""Hosts of a cluster for tests: policy and `[cluster]` settings, as an administrator writes them."""

import json
import time
from collections.abc import Mapping
from ipaddress import IPv4Interface
from pathlib import Path

from command_line import run_stockade

from stockade.lab.netns import Namespace
from stockade.lab.real import Agent

CLIENT = "10.79.0.1"
VIRTUAL = IPv4Interface("10.79.0.100/24")
NODES = {"one": "10.79.0.11", "two": "10.79.0.12"}
PATIENCE = 60.0

POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol={icmp}
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=TCP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="a key of the cluster"
set policy name=test assign=yes
"""


class Host:
    """One namespace with an agent."""

    def __init__(self, namespace: Namespace, home: Path) -> None:
        self.namespace = namespace
        self.home = home
        self.agent = Agent(namespace, home)

    def stockade(self, *words: str) -> str:
        result = run_stockade(self.namespace, self.home, *words)
        assert result.returncode == 0, (result.stdout, result.stderr)
        return result.stdout

    def write_policy(self, peer: str) -> None:
        script = self.home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=peer, icmp="58" if ":" in peer else "ICMP"))
        self.stockade("netsh", "-f", str(script), "--atomic")

    def journal(self, kind: str) -> list[dict]:
        path = self.home / "journal" / "journal.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]

    def inbound_spis(self) -> set[str]:
        answer = json.loads(self.stockade("show", "sas", "--format", "json"))
        return {row["inbound_spi"] for row in answer["quick_modes"]}

    def cluster(self) -> dict:
        return json.loads(self.stockade("cluster", "show", "--format", "json"))

    def ping(self, target: str, count: int = 1, seconds: int = 30) -> bool:
        argv = ["ping", "-q", "-c", str(count), "-i", "0.2", "-W", str(seconds), target]
        return self.namespace.run(argv, check=False, timeout=count + seconds + 30).returncode == 0


def eventually(question, patience: float = PATIENCE):
    deadline = time.monotonic() + patience
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def write_cluster(
    host: Host,
    node: str,
    hook: Path | None = None,
    *,
    members: Mapping[str, str] = NODES,
    virtual: str = str(VIRTUAL.ip),
) -> None:
    secret = host.home.parent / "cluster.key"
    if not secret.exists():
        secret.write_text("the nodes' very own secret\n")
        secret.chmod(0o600)
    named = ", ".join(f'{name} = "{address}"' for name, address in members.items())
    lines = [
        "[cluster]",
        f'node = "{node}"',
        f'addresses = ["{virtual}"]',
        f"members = {{ {named} }}",
        f'secret_file = "{secret}"',
    ]
    if hook is not None:
        lines.append(f'hook = ["{hook}"]')
    (host.home / "agent.toml").write_text("\n".join(lines) + "\n")
