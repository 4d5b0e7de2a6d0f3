"""The demo with real packets: two hosts, one policy, in namespaces, by the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stockade.lab.failover import strongswan_missing
from stockade.lab.netns import NETNS_FOLDER, PREFIX

DEMO = (sys.executable, "-m", "stockade.console.main", "demo")
SECONDS = 240


def left_behind(process: int) -> list[str]:
    """Namespaces and folders of a demo that had this process id."""
    names = [entry.name for entry in NETNS_FOLDER.glob(f"{PREFIX}.{process}.*")]
    return names + [str(entry) for entry in Path("/tmp").glob(f"{PREFIX}.{process}.*")]


@pytest.mark.timeout(SECONDS + 20)
def test_the_demo_keeps_every_promise_with_real_packets() -> None:
    demo = subprocess.Popen(
        [*DEMO, "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, errors = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 0, errors
    seen = json.loads(output)
    assert seen["esp_packets"] > 10_000  # 16 MiB in segments that fit an Ethernet frame
    assert seen["clear_packets"] == 0
    assert seen["ping_loss"] == 0.0
    assert seen["file_intact"] is True
    assert seen["blocked"] is True
    assert seen["permitted"] is True
    assert seen["outsider_refused"] is True
    assert 0.0 < seen["reconnect_s"] < 30.0
    assert 0.0 < seen["failover_s"] < 20.0
    if strongswan_missing() is None:
        assert seen["failover_strongswan_s"] > seen["failover_s"]
    assert seen["throughput_mbit_s"] > 1.0
    assert left_behind(demo.pid) == []


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "start the agents" in line:
            break
    else:
        pytest.fail("the demo ended before it could be interrupted")
    assert left_behind(demo.pid)
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert "interrupted" in errors
    assert left_behind(demo.pid) == []


@pytest.mark.timeout(SECONDS)
def test_what_a_killed_demo_left_is_removed_by_the_next_namespace_user() -> None:
    from stockade.lab.netns import sweep

    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "start the agents" in line:
            break
    demo.kill()
    demo.communicate(timeout=60)
    assert left_behind(demo.pid)
    agents = processes_with(f"{PREFIX}.{demo.pid}.")
    assert agents
    sweep()
    assert left_behind(demo.pid) == []
    deadline = time.monotonic() + 60
    while left := processes_with(f"{PREFIX}.{demo.pid}."):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def processes_with(word: str) -> list[int]:
    """Living processes whose command line holds `word`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if word in (entry / "cmdline").read_text(errors="replace"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
