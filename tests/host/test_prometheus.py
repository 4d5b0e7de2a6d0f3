"""A real Prometheus reads a real agent: what it says of the metrics, of the alert rules and of every query of
the dashboard."""

import http.client
import json
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest
from command_line import run_stockade

from stockade.lab.needs import find_program
from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent

pytestmark = pytest.mark.timeout(600)  # for machines that are slow and busy
CONTRIB = Path(__file__).parents[2] / "contrib"
ALPHA, BETA, NOBODY = "10.78.0.1", "10.78.0.2", "10.78.0.77"
SECONDS = 120.0
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filter filterlist=secured srcaddr=me dstaddr={nobody} protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="a secret thing"
set policy name=test assign=yes
"""
SETTINGS = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
scrape_configs:
  - job_name: stockade
    static_configs: [{targets: ['127.0.0.1:9495']}]
"""
ALWAYS = {
    "Rules that are up",
    "Rules that are configured",
    "Peers down",
    "Configured, and up",
    "SAs",
    "Bytes through SAs",
    "IKE counters",
    "Under way, and waiting",
    "Agent: processor",
    "Agent: memory",
    "Handshakes: median and slowest tenth",
}
"""Panels that have something to draw on a host that has one pair of SAs."""


@pytest.fixture(scope="module")
def promtool() -> str:
    found = find_program("promtool")
    if found is None or find_program("prometheus") is None:
        pytest.skip("Prometheus is not installed (Debian: prometheus)")
    return found


class Prometheus:
    """One, in a namespace, which reads the agent there."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def get(self, port: int, path: str) -> tuple[int, str]:
        def ask() -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            connection.close()
            return answer.status, body

        return self.namespace.call(ask)

    def query(self, expression: str) -> list[dict[str, Any]]:
        status, body = self.get(9090, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        answer = json.loads(body)
        assert (status, answer["status"]) == (200, "success"), (expression, body)
        return list(answer["data"]["result"])


def eventually(question: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            if question():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "Prometheus does not see it"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def prometheus(promtool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    base = tmp_path_factory.mktemp("prometheus")
    hosts = {"alpha": IPv4Interface(f"{ALPHA}/24"), "beta": IPv4Interface(f"{BETA}/24")}
    with Network(hosts) as network:
        agents = []
        for name, peer in (("alpha", BETA), ("beta", ALPHA)):
            home = base / name
            script = base / f"{name}.netsh"
            script.write_text(POLICY.format(peer=peer, nobody=NOBODY))
            done = run_stockade(network[name], home, "netsh", "-f", str(script))
            assert done.returncode == 0, done.stdout
            (home / "agent.toml").write_text('[metrics]\nlisten = "127.0.0.1:9495"\n[web]\nserve = false\n')
            agents.append(Agent(network[name], home))
            agents[-1].start()
        for agent in agents:
            agent.wait_until_ready()
        (base / "prometheus.yml").write_text(SETTINGS)
        program = find_program("prometheus")
        assert program is not None
        process = network["alpha"].popen(
            [
                program,
                f"--config.file={base / 'prometheus.yml'}",
                f"--storage.tsdb.path={base / 'data'}",
                "--web.listen-address=127.0.0.1:9090",
                "--log.level=error",
            ]
        )
        found = Prometheus(network["alpha"])
        eventually(lambda: found.query('up{job="stockade"} == 1'))
        ping = ["ping", "-q", "-i", "0.2", "-W", "10", "-c", "5", BETA]
        assert network["alpha"].run(ping, check=False, timeout=60).returncode == 0
        # a rate needs two looks, and the first must not have seen it all
        eventually(
            lambda: found.query("stockade_quick_modes > 0 and count_over_time(stockade_quick_modes[1m]) > 3")
        )
        yield found
        process.terminate()
        process.wait(SECONDS)
        for agent in agents:
            agent.terminate()


def test_promtool_finds_no_fault_in_the_metrics(promtool: str, prometheus: Prometheus) -> None:
    status, text = prometheus.get(9495, "/metrics")
    assert status == 200
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


def test_every_query_of_the_dashboard_is_answered(prometheus: Prometheus) -> None:
    panels = json.loads((CONTRIB / "grafana" / "stockade.json").read_text(encoding="utf-8"))["panels"]
    empty = set()
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            assert "$" not in expression
            if not prometheus.query(expression):
                empty.add(panel["title"])
    assert not empty & ALWAYS, f"nothing to draw: {sorted(empty & ALWAYS)}"
    assert {panel["title"] for panel in panels} >= ALWAYS


def test_alert_rules_fire_when_they_should(promtool: str) -> None:
    folder = CONTRIB / "prometheus"
    for command in (["check", "rules", "stockade.rules.yml"], ["test", "rules", "stockade.rules.test.yml"]):
        done = subprocess.run(
            [promtool, *command], cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout
