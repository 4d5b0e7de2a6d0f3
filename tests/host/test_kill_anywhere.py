"""Killed at any moment, a host is closed and not open: the agent, or its data plane, dies by SIGKILL some
times under traffic, and a capture on the wire sees no clear packet of protected traffic. `stockade bench
kills` does it a hundred times.

    alpha: agent, killed and started    ◀── pings both ways, as fast as they go ──▶    beta: agent, left alone
                                  └── capture on the wire between them ──┘
"""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kill_harness import ALPHA, BETA, data_plane_of, end, is_protected, ping, secured_pair

from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Network
from stockade.lab.real import Agent

KILLS = 12
PATIENCE = 60.0


@contextmanager
def traffic(wire: Network) -> Iterator[Capture]:
    """Both hosts talk all the time, secured as far as they can; what the wire sees is watched."""
    with ExitStack() as stack:
        capture = stack.enter_context(Capture(wire.switch, wire.port("alpha"), WireWatch(is_protected)))
        for name, peer in (("alpha", BETA), ("beta", ALPHA)):
            process = wire[name].popen(["ping", "-q", "-i", "0.01", "-W", "1", peer])
            stack.callback(end, process)
            # New flows too: each connection begins anew, and none is ever answered but by a reset.
            script = f"while :; do timeout 0.3 bash -c '</dev/tcp/{peer}/9' 2>/dev/null; sleep 0.02; done"
            process = wire[name].popen(["bash", "-c", script])
            stack.callback(end, process)
        yield capture


def chance() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture
def agents(wire: Network, tmp_path: Path) -> tuple[Agent, Agent]:
    with traffic(wire) as capture:
        time.sleep(0.3)
        assert capture.tally().protected_clear > 0  # so it would be seen
    return secured_pair(wire, tmp_path)


def test_an_agent_killed_at_any_moment_leaves_no_clear_packet(wire, agents):
    alpha, _ = agents
    random_moment = chance()
    with traffic(wire) as capture:
        time.sleep(0.5)
        began = time.monotonic()
        alpha.kill()
        alpha.start()
        alpha.wait_until_ready()
        startup = time.monotonic() - began
        for _ in range(KILLS):
            time.sleep(random_moment.uniform(0, min(1.5 * startup, 1.2)))
            alpha.kill()
            alpha.start()
        alpha.wait_until_ready()
        assert ping(wire["alpha"], BETA)
        tally = capture.tally()
    print(tally)
    assert tally.protected_clear == 0
    assert tally.missed == 0
    assert tally.esp > 100


def test_a_data_plane_killed_at_any_moment_leaves_no_clear_packet(wire, agents):
    random_moment = chance()
    with traffic(wire) as capture:
        for _ in range(KILLS):
            deadline = time.monotonic() + PATIENCE
            while (process := data_plane_of(wire["alpha"])) is None:
                assert time.monotonic() < deadline, "it is not started anew"
                time.sleep(0.02)
            time.sleep(random_moment.uniform(0, 0.6))
            with suppress(ProcessLookupError):  # it may end by itself: the agent does what it likes
                os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while not (works := ping(wire["alpha"], BETA)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert works
        tally = capture.tally()
    print(tally)
    assert tally.protected_clear == 0
    assert tally.missed == 0
    assert tally.esp > 100
