"""The demo without root: the same story and the same keys, on a good network and on a bad one."""

import json
import random

import pytest

from stockade.lab import needs
from stockade.lab.demo import run_demo, show
from stockade.lab.virtual_world import VirtualWorld


def test_the_demo_keeps_every_promise_without_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(needs, "real_network", lambda: "not root")
    status = run_demo("json")
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    seen = json.loads(captured.out)
    assert seen["esp_packets"] > 1000
    assert seen["clear_packets"] == 0
    assert seen["ping_loss"] == 0.0
    assert seen["file_intact"] is True
    assert (seen["blocked"], seen["permitted"], seen["outsider_refused"]) == (True, True, True)
    assert 0.5 < seen["reconnect_s"] < 2.0
    assert seen["throughput_mbit_s"] > 0


def test_the_demo_says_that_it_is_virtual_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(needs, "real_network", lambda: "not root")
    monkeypatch.setattr("stockade.lab.virtual_world.FILE_BYTES", 10_000)
    assert run_demo("text") == 0
    output = capsys.readouterr().out
    assert output.startswith(
        "no packets on this machine: virtual hosts in one process, virtual time (not root)"
    )
    assert "memory" in output
    assert "virtual seconds" in output


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_becomes_bad_breaks_neither_the_file_nor_the_secrecy(
    seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    class WorseningWorld(VirtualWorld):
        def start_agents(self) -> None:
            super().start_agents()
            self.network.loss, self.network.duplication, self.network.jitter = 0.1, 0.05, 0.005

    world = WorseningWorld(seed=seed, random=random.Random(seed).randbytes, file_bytes=100_000)
    show(world, "json")
    seen = json.loads(capsys.readouterr().out)
    assert seen["esp_packets"] > 100
    assert seen["clear_packets"] == 0
    assert seen["file_intact"] is True
    assert (seen["blocked"], seen["outsider_refused"]) == (True, True)
    assert seen["reconnect_s"] is not None
    assert world.network.statistics.lost > 10
