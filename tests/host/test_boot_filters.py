"""Before an agent runs: the command that a service of the system's start calls, and the agent taking over."""

import configparser
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import run_stockade
from streams import connects

from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent
from stockade.model.traffic import ICMP, Flow

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="a key"
set policy name=test assign=yes
"""


def stockade(namespace: Namespace, home: Path, *words: str) -> str:
    result = run_stockade(namespace, home, *words)
    assert result.returncode == 0, (result.stdout, result.stderr)
    return result.stdout


def test_the_command_closes_as_the_boot_mode_says(wire: Network, tmp_path: Path) -> None:
    alpha, home = wire["alpha"], tmp_path / "alpha"
    config = ("netsh", "ipsec", "dynamic", "set", "config", "property=bootmode")
    stockade(alpha, home, *config, "value=block")
    exemptions = ("netsh", "ipsec", "dynamic", "set", "config", "property=bootexemptions")
    stockade(alpha, home, *exemptions, "value=tcp:0:22:inbound")
    assert connects(wire["alpha"], wire["beta"], "10.78.0.2", 80)
    shown = json.loads(stockade(alpha, home, "boot-filters", "install", "--format", "json"))
    assert (shown["mode"], shown["in_force"]) == ("block", True)
    assert not connects(wire["alpha"], wire["beta"], "10.78.0.2", 80, 1.5)
    assert not connects(wire["beta"], wire["alpha"], "10.78.0.1", 80, 1.5)
    assert connects(wire["beta"], wire["alpha"], "10.78.0.1", 22)  # with its answers
    stockade(alpha, home, "boot-filters", "remove")
    assert connects(wire["beta"], wire["alpha"], "10.78.0.1", 80)

    stockade(alpha, home, *config, "value=stateful")
    stockade(alpha, home, "boot-filters", "install")
    assert connects(wire["alpha"], wire["beta"], "10.78.0.2", 80)
    assert not connects(wire["beta"], wire["alpha"], "10.78.0.1", 80, 1.5)
    assert "stateful" in stockade(alpha, home, "boot-filters", "show")

    stockade(alpha, home, "boot-filters", "remove")
    stockade(alpha, home, *config, "value=permit")
    stockade(alpha, home, "boot-filters", "install")
    assert connects(wire["beta"], wire["alpha"], "10.78.0.1", 80)


def test_an_agent_takes_over_with_no_gap(wire: Network, tmp_path: Path) -> None:
    agents = []
    for name, peer in (("alpha", "10.78.0.2"), ("beta", "10.78.0.1")):
        home = tmp_path / name
        script = home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=peer))
        stockade(wire[name], home, "netsh", "-f", str(script), "--atomic")
        agents.append(Agent(wire[name], home))
    home = tmp_path / "alpha"
    stockade(
        wire["alpha"], home, "netsh", "ipsec", "dynamic", "set", "config", "property=bootmode", "value=block"
    )
    stockade(wire["alpha"], home, "boot-filters", "install")

    def is_ping(flow: Flow) -> bool:
        return flow.protocol == ICMP and str(flow.source) == "10.78.0.1"

    with Capture(wire.switch, wire.port("alpha"), WireWatch(is_ping)) as capture:
        ping = wire["alpha"].popen(["ping", "-q", "-i", "0.01", "10.78.0.2"])
        try:
            time.sleep(0.3)
            for agent in agents:
                agent.start()
            for agent in agents:
                agent.wait_until_ready()
            deadline = time.monotonic() + 60
            while capture.tally().esp < 20 and time.monotonic() < deadline:
                time.sleep(0.05)
            tally = capture.tally()
        finally:
            ping.kill()
            ping.wait(60)
    assert tally.esp >= 20
    assert tally.protected_clear == 0
    shown = json.loads(stockade(wire["alpha"], home, "boot-filters", "show", "--format", "json"))
    assert (shown["in_force"], shown["policy_in_force"]) == (False, True)
    # Called again (its service is restarted), it puts nothing beside the policy, also of an agent that died.
    agents[0].kill()
    shown = json.loads(stockade(wire["alpha"], home, "boot-filters", "install", "--format", "json"))
    assert (shown["in_force"], shown["policy_in_force"]) == (False, True)


def test_installing_loads_no_agent() -> None:
    program = "import sys, stockade.console.main, stockade.console.boot_filters_command; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    heavy = {"asyncio", "cryptography", "gmpy2", "starlette", "stockade.ike.engine", "stockade.agent.service"}
    assert not heavy & set(loaded.split())


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda path: path.name)
def test_the_units_are_what_systemd_takes(unit: Path, tmp_path: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)  # options may stand twice
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    words = parser["Service"]["ExecStart"].split()
    program = (
        "import sys; from stockade.console.parser import make_parser; make_parser().parse_args(sys.argv[1:])"
    )
    subprocess.run([sys.executable, "-c", program, *words[1:]], check=True)
    order, wanted = {
        "stockade-boot-filters.service": ("Before", "network-pre.target"),
        "stockade.service": ("After", "stockade-boot-filters.service"),
        "stockade-web.service": ("After", "stockade.service"),
    }[unit.name]
    assert wanted in parser["Unit"][order].split()
    if shutil.which("systemd-analyze"):
        text = unit.read_text().replace("/usr/bin/stockade", "/bin/true")
        copy = tmp_path / unit.name
        copy.write_text(text)
        result = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
        assert "Unknown" not in result.stderr, result.stderr
