"""The data plane outlives its agent: no packet is lost while the agent is killed and started, and what the
next agent cannot work with is ended, closed.

    alpha: agent killed, data plane goes on, agent started    ◀── pings, 20 a second ──▶    beta: left alone
"""

import os
import re
import shutil
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kill_harness import (
    ALPHA,
    BETA,
    POLICY,
    data_plane_of,
    end,
    is_protected,
    make_agent,
    ping,
    secured_pair,
)
from nat_world import OUTER_INTERFACE, OUTSIDE, PUBLIC, NatWorld
from stockade_node import StockadeNode

import stockade
from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Network
from stockade.lab.real import Agent

KILLS = 3
PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""


def wait_for(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def agents(wire: Network, tmp_path: Path) -> tuple[Agent, Agent]:
    return secured_pair(wire, tmp_path)


def kinds(agent: Agent) -> list[str]:
    entries = agent._client.get("/v1/journal?last=200")["entries"]
    return [str(entry["kind"]) for entry in entries]


def quick_modes(agent: Agent) -> list[dict[str, object]]:
    return agent._client.get("/v1/sas")["quick_modes"]


def test_no_ping_is_lost_when_the_agent_is_killed_and_started(wire, agents, tmp_path):
    alpha, _ = agents
    output = tmp_path / "ping.txt"
    first = data_plane_of(wire["alpha"])
    with Capture(wire.switch, wire.port("alpha"), WireWatch(is_protected)) as capture:
        with output.open("w") as file:
            # No `-c`: its end would come too early on a slow machine and too late on a fast one.
            pinging = wire["alpha"].popen(["ping", "-i", "0.05", BETA], stdout=file.fileno())
        for _ in range(KILLS):
            alpha.kill()
            time.sleep(0.3)  # nobody there
            alpha.start()
            alpha.wait_until_ready()
            wait_for("a new pair", lambda: "quick-mode-established" in kinds(alpha))
            assert "quick-mode-adopted" in kinds(alpha)
            assert "driver-failed" not in kinds(alpha)
        said = output.read_text().count("bytes from")
        wait_for("answers", lambda: output.read_text().count("bytes from") > said + 20)
        pinging.send_signal(signal.SIGINT)
        pinging.wait(PATIENCE)
        tally = capture.tally()
    text = output.read_text()
    answered = [int(number) for number in re.findall(r"icmp_seq=(\d+)", text)]
    missing = set(range(1, max(answered) + 1)) - set(answered)
    assert not missing, text[-500:]
    assert data_plane_of(wire["alpha"]) == first
    assert tally.protected_clear == 0
    assert tally.esp > 2 * len(answered) - 5


def test_an_orderly_stop_or_a_command_ends_the_data_plane_too(wire, agents):
    alpha, _ = agents
    command = [sys.executable, "-m", "stockade.console.main", "--home", str(alpha.home), "agent", "end"]
    said = wire["alpha"].run(command, check=False)
    assert said.returncode != 0, "an agent runs"
    assert data_plane_of(wire["alpha"]) is not None
    alpha.kill()
    assert data_plane_of(wire["alpha"]) is not None
    wire["alpha"].run(command)
    assert data_plane_of(wire["alpha"]) is None
    assert not ping(wire["alpha"], BETA, 1), "closed"
    alpha.start()
    alpha.wait_until_ready()
    assert ping(wire["alpha"], BETA)
    assert alpha.terminate() == 0
    assert data_plane_of(wire["alpha"]) is None
    assert wire["alpha"].run(["ip", "link", "show", "stockade0"], check=False).returncode != 0


def test_an_agent_that_fails_leaves_the_sas_to_the_next(wire, agents, tmp_path):
    """Killed, and the next one cannot start: a port is taken. The one after that goes on all the same."""
    alpha, _ = agents
    first = data_plane_of(wire["alpha"])
    output = tmp_path / "ping.txt"
    with output.open("w") as file:
        pinging = wire["alpha"].popen(["ping", "-i", "0.05", BETA], stdout=file.fileno())
    alpha.kill()

    def take_port() -> socket.socket:
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind(("", 500))
        return taken

    with wire["alpha"].call(take_port):
        alpha.start()
        process = alpha._process
        assert process is not None
        assert process.wait(PATIENCE) != 0
    assert data_plane_of(wire["alpha"]) == first
    alpha.start()
    alpha.wait_until_ready()
    assert data_plane_of(wire["alpha"]) == first
    assert "quick-mode-adopted" in kinds(alpha)
    said = output.read_text().count("bytes from")
    wait_for("answers", lambda: output.read_text().count("bytes from") > said + 20)
    pinging.send_signal(signal.SIGINT)
    pinging.wait(PATIENCE)
    answered = {int(number) for number in re.findall(r"icmp_seq=(\d+)", output.read_text())}
    assert answered == set(range(1, max(answered) + 1))


def test_a_data_plane_without_sas_ends_with_its_agent(wire, tmp_path):
    agent = make_agent(wire["alpha"], tmp_path / "alpha", BETA)
    agent.start()
    agent.wait_until_ready()
    agent.kill()
    wait_for("its end", lambda: data_plane_of(wire["alpha"]) is None)


def test_one_whose_folder_is_gone_ends_too(wire, agents):
    alpha, _ = agents
    alpha.kill()
    assert data_plane_of(wire["alpha"]) is not None
    shutil.rmtree(alpha.home)
    wait_for("its end", lambda: data_plane_of(wire["alpha"]) is None)


def test_after_an_upgrade_the_data_plane_is_replaced_and_nothing_is_clear(wire, agents, tmp_path):
    alpha, _ = agents
    old = data_plane_of(wire["alpha"])
    source = Path(stockade.__file__).resolve().parent
    newer = tmp_path / "newer" / "stockade"
    shutil.copytree(source, newer, ignore=shutil.ignore_patterns("__pycache__"))
    with (newer / "driver" / "esp.py").open("a") as file:
        file.write("\n# another generation\n")
    with Capture(wire.switch, wire.port("alpha"), WireWatch(is_protected)) as capture:
        pinging = wire["alpha"].popen(["ping", "-q", "-i", "0.02", BETA])
        alpha.kill()
        with (tmp_path / "newer.log").open("ab") as log:
            alpha._process = wire["alpha"].popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "stockade.console.main",
                    "--home",
                    str(alpha.home),
                    "agent",
                    "run",
                ],
                stdout=log.fileno(),
                environment={**os.environ, "PYTHONPATH": str(newer.parent)},
            )
        alpha.wait_until_ready()
        assert "quick-mode-adopted" not in kinds(alpha)
        wait_for("an SA", lambda: len(quick_modes(alpha)) > 0)
        assert ping(wire["alpha"], BETA)
        end(pinging)
        tally = capture.tally()
    assert data_plane_of(wire["alpha"]) not in (None, old)
    assert tally.protected_clear == 0
    assert tally.esp > 10


def test_a_data_plane_that_dies_without_an_agent_leaves_the_host_closed(wire, agents):
    alpha, beta = agents
    with Capture(wire.switch, wire.port("alpha"), WireWatch(is_protected)) as capture:
        pinging = [wire[name].popen(["ping", "-q", "-i", "0.02", peer])
                   for name, peer in (("alpha", BETA), ("beta", ALPHA))]  # fmt: skip
        alpha.kill()
        process = data_plane_of(wire["alpha"])
        assert process is not None
        os.kill(process, signal.SIGKILL)
        wait_for("its end", lambda: data_plane_of(wire["alpha"]) is None)
        time.sleep(0.5)
        alpha.start()
        alpha.wait_until_ready()
        wait_for("an SA", lambda: len(quick_modes(alpha)) > 0)
        wait_for("a ping", lambda: ping(wire["alpha"], BETA))
        for one in pinging:
            end(one)
        tally = capture.tally()
    assert "quick-mode-adopted" not in kinds(alpha)
    assert tally.protected_clear == 0
    assert kinds(beta)


def test_hardly_a_packet_is_lost_through_a_nat(tmp_path):
    """ESP in UDP: the sockets of port 4500 belong to the agent, and one to the data plane, which is exchanged
    when the next agent comes."""
    with ExitStack() as stack:
        world = stack.enter_context(NatWorld())
        nodes = []
        for name, namespace, peer in (("client", world.one, OUTSIDE), ("server", world.outside, PUBLIC)):
            (tmp_path / name).mkdir()
            node = StockadeNode(namespace, tmp_path / name)
            node.apply("ipsec static delete all\n" + POLICY.format(peer=peer))
            nodes.append(stack.enter_context(node))
        client, server = nodes
        wait_for("a ping", lambda: ping(world.one, OUTSIDE))
        output = tmp_path / "ping.txt"
        wire = stack.enter_context(Capture(world.nat, OUTER_INTERFACE, WireWatch(is_protected)))
        with output.open("w") as file:
            pinging = world.one.popen(["ping", "-i", "0.05", OUTSIDE], stdout=file.fileno())
        for node in (client, server):
            before = {row["inbound_spi"] for row in node.quick_modes()}
            node.kill()
            node.start()
            rows = {row["inbound_spi"] for row in node.quick_modes()}
            assert before & rows, "adopted"
            said = output.read_text().count("bytes from")
            wait_for("answers", lambda said=said: output.read_text().count("bytes from") > said + 20)
        pinging.send_signal(signal.SIGINT)
        pinging.wait(PATIENCE)
        assert wire.tally().protected_clear == 0
    answered = {int(number) for number in re.findall(r"icmp_seq=(\d+)", output.read_text())}
    assert len(answered) >= 0.8 * max(answered)
