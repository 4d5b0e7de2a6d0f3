"""The agent's three stores on real hosts: dynamic rules act at once and go with the agent, the persistent
policy is there first, settings are taken over."""

import json
import subprocess
from pathlib import Path

import pytest
from command_line import run_stockade

from stockade.lab.netns import Network
from stockade.lab.real import Agent

BETA = "10.78.0.2"


class Host:
    """alpha with an agent."""

    def __init__(self, wire: Network, home: Path) -> None:
        self.namespace, self.home = wire["alpha"], home
        self.agent = Agent(wire["alpha"], home)

    def netsh(self, *words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        result = run_stockade(self.namespace, self.home, "netsh", *words)
        assert (result.returncode == 0) == ok, (result.stdout, result.stderr)
        return result

    def ping(self, seconds: int = 30) -> bool:
        argv = ["ping", "-q", "-c1", f"-W{seconds}", BETA]
        return self.namespace.run(argv, check=False, timeout=seconds + 30).returncode == 0


@pytest.fixture
def host(wire: Network, tmp_path: Path) -> Host:
    return Host(wire, tmp_path / "alpha")


def test_dynamic_rules_act_at_once_and_end_with_the_agent(host: Host) -> None:
    host.netsh("ipsec", "static", "add", "policy", "Empty", "assign=yes")
    host.agent.start()
    host.agent.wait_until_ready()
    assert host.ping()
    dynamic = ("ipsec", "dynamic")
    host.netsh(*dynamic, "add", "mmpolicy", "MM")
    host.netsh(*dynamic, "add", "rule", "me", BETA, "MM", "actioninbound=block", "actionoutbound=block")
    assert not host.ping(1)
    shown = json.loads(host.netsh(*dynamic, "show", "rule", "--format", "json").stdout)
    assert [rule["destination"] for rule in shown["data"]["rules"]] == [BETA]
    filters = json.loads(
        host.netsh(*dynamic, "show", "qmfilter", "all", "type=specific", "--format", "json").stdout
    )
    assert any("dynamic" in row["provenance"] for row in filters["data"]["filters"])
    findings = json.loads(run_stockade(host.namespace, host.home, "lint", "--format", "json").stdout)
    assert any(finding["store"] == "dynamic" for finding in findings)
    refused = host.netsh(*dynamic, "add", "rule", "me", "224.0.0.1", "MM", "QM", ok=False)
    assert "QM" in refused.stderr
    host.netsh(*dynamic, "add", "qmpolicy", "QM")
    # What cannot be enforced is refused, and what was there stays.
    refused = host.netsh(*dynamic, "add", "rule", "me", "224.0.0.1", "MM", "QM", ok=False)
    assert "multicast" in refused.stderr
    assert not host.ping(1)
    host.netsh(*dynamic, "delete", "rule", "me", BETA)
    assert host.ping()
    host.netsh(*dynamic, "add", "rule", "me", BETA, "MM", "actioninbound=block", "actionoutbound=block")
    assert host.agent.terminate() == 0
    host.agent.start()
    host.agent.wait_until_ready()
    assert host.ping()


def test_the_persistent_policy_is_added_to_the_local_one(host: Host) -> None:
    script = host.home.with_suffix(".netsh")
    script.write_text(
        "ipsec static\nset store persistent\nadd filter L me 10.78.0.0/24 protocol=ICMP\n"
        "add filteraction B action=block\nadd policy Always\nadd rule R Always L B\n"
        "set policy Always assign=yes\n"
    )
    host.netsh("-f", str(script), "--atomic")
    host.agent.start()
    host.agent.wait_until_ready()
    assert not host.ping(1)
    # The local policy is added; its narrower filter decides.
    script.write_text(
        f"ipsec static\nadd filter L me {BETA} protocol=ICMP\nadd filteraction P action=permit\n"
        "add policy Usual\nadd rule R Usual L P\nset policy Usual assign=yes\n"
    )
    host.netsh("-f", str(script), "--atomic")
    assert host.ping()


def test_the_exemption_level_is_taken_over(host: Host) -> None:
    host.netsh("ipsec", "static", "add", "filter", "L", "me", "10.99.0.0/16")
    host.netsh("ipsec", "static", "add", "filteraction", "B", "action=block")
    host.netsh("ipsec", "static", "add", "policy", "P", "assign=yes")
    host.netsh("ipsec", "static", "add", "rule", "R", "P", "L", "B")
    host.agent.start()
    host.agent.wait_until_ready()

    def exempt() -> bool:
        answer = json.loads(host.netsh("ipsec", "dynamic", "show", "all", "--format", "json").stdout)
        return any("Kerberos" in row["provenance"] for row in answer["data"]["filters"])

    assert not exempt()
    host.netsh("ipsec", "dynamic", "set", "config", "ipsecexempt", "0")
    assert exempt()
    host.netsh("ipsec", "dynamic", "set", "config", "property=ipsecexempt", "value=3")
    assert not exempt()
