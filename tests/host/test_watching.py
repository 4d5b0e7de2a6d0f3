"""Events, metrics and the monitor of real agents, before and after a kill -9."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from command_line import run_stockade
from prometheus_client.parser import text_string_to_metric_families

from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent

ALPHA, BETA = "10.78.0.1", "10.78.0.2"
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="a secret thing"
set policy name=test assign=yes
"""
GET = """
import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:9495/metrics", timeout=60).read().decode())
"""


class Host:
    def __init__(self, namespace: Namespace, home: Path, peer: str, settings: str = "") -> None:
        self.namespace, self.home = namespace, home
        script = home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=peer))
        self.stockade("netsh", "-f", str(script), "--atomic")
        (home / "agent.toml").write_text(settings)
        self.agent = Agent(namespace, home)
        self.agent.start()

    def stockade(self, *words: str) -> str:
        result = run_stockade(self.namespace, self.home, *words)
        assert result.returncode == 0, (result.stdout, result.stderr)
        return result.stdout

    def events(self, *words: str) -> list[dict]:
        return json.loads(self.stockade("events", *words, "--format", "json"))["entries"]

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """From the TCP port, as Prometheus reads them."""
        text = self.namespace.run([sys.executable, "-c", GET], check=True).stdout
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def value(figures: dict, name: str, **labels: str) -> float:
    (found,) = [
        figure for (one, has), figure in figures.items() if one == name and set(labels.items()) <= set(has)
    ]
    return found


def eventually(question: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def test_what_happened_is_told_after_a_kill_and_figures_stay_honest(wire: Network, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    program = tmp_path / "tell"
    program.write_text(f'#!/bin/sh\ncat > "{told}.new" && mv "{told}.new" "{told}"\n')
    program.chmod(0o700)
    settings = (
        'driver = "userspace"\n[metrics]\nlisten = "127.0.0.1:9495"\n'
        f'[[events.notify]]\ncommand = ["{program}"]\nkinds = ["quick-mode-established"]\n'
    )
    alpha = Host(wire["alpha"], tmp_path / "alpha", BETA, settings)
    beta = Host(wire["beta"], tmp_path / "beta", ALPHA)
    for host in (alpha, beta):
        host.agent.wait_until_ready()
    before = alpha.metrics()
    rule = {"rule": "secure", "peer": BETA}
    assert value(before, "stockade_rule_configured", **rule) == 1
    assert value(before, "stockade_rule_up", **rule) == 0, "configured, and not up: it is told all the same"

    ping = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "20", BETA]
    assert alpha.namespace.run(ping, check=False, timeout=60).returncode == 0
    figures = alpha.metrics()
    assert value(figures, "stockade_rule_up", **rule) == 1
    assert value(figures, "stockade_peer_up", peer=BETA) == 1
    assert value(figures, "stockade_handshake_seconds_count", phase="main mode", role="initiator") == 1
    assert value(figures, "stockade_sa_packets_total", direction="outbound") == 3
    assert any(name == "stockade_offload" for name, _ in figures)
    eventually(told.exists)
    assert json.loads(told.read_text())["windows_events"] == [541, 5451]

    shown = alpha.stockade("monitor", "--once")
    assert "in  ←" in shown
    assert "out →" in shown
    assert "local store, policy “test”, rule “secure”" in shown
    (main_mode_filter,) = [
        one for one in shown.splitlines() if one.split()[:4] == ["specific", "outbound", ALPHA, BETA]
    ]
    assert "preshared-key" in main_mode_filter
    policy = alpha.stockade("netsh", "ipsec", "static", "show", "policy", "name=test")
    (guid,) = [one.split()[-1] for one in policy.splitlines() if one.startswith("GUID")]
    assert any(guid in one and "local  yes" in one for one in shown.splitlines())
    stats = alpha.stockade("netsh", "ipsec", "dynamic", "show", "stats")
    assert "Confidential Bytes Sent" in stats

    (quick,) = json.loads(alpha.stockade("show", "sas", "--format", "json"))["quick_modes"]
    alpha.stockade("sa", "rekey", quick["inbound_spi"])
    eventually(lambda: len(alpha.events("--id", "5451")) == 2)

    established = alpha.events("--id", "541")
    assert len(established) == 3, "a main mode and two quick modes"
    numbers = [event["number"] for event in alpha.events()]
    alpha.agent.kill()
    assert [event["number"] for event in alpha.events()][: len(numbers)] == numbers, "without an agent, too"

    alpha.agent.start()
    alpha.agent.wait_until_ready()
    eventually(lambda: ("stockade_reconnect_seconds_count", (("cause", "agent-start"),)) in alpha.metrics())
    after = alpha.events()
    assert [event["number"] for event in after][: len(numbers)] == numbers
    assert [event["number"] for event in after] == list(range(1, len(after) + 1)), "none is missing or twice"
    assert len(alpha.events("--id", "5478")) == 2
    assert value(alpha.metrics(), "stockade_peer_up", peer=BETA) >= 1

    def carried() -> float:
        return value(alpha.metrics(), "stockade_sa_packets_total", direction="outbound")

    before_ping = carried()
    assert alpha.namespace.run(ping, check=False, timeout=60).returncode == 0
    alpha.stockade("sa", "delete", BETA)
    assert carried() == before_ping + 3, "also what passed between the last look and the end of the SA"

    alpha.stockade("netsh", "ipsec", "static", "set", "policy", "name=test", "description=new")
    alpha.agent.terminate()
    assert alpha.events("--id", "5465")
    assert len(alpha.events("--id", "5479")) == 1, "a kill leaves none"
