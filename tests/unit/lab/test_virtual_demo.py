"""The demo without root: the same story and the same keys, on a good network and on a bad one."""

import json
import random

import pytest

from stockade.lab import demo, needs
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


def test_on_a_lossy_network_the_file_arrives_and_lost_pings_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = VirtualWorld(
        loss=0.1, duplication=0.05, seed=3, random=random.Random(3).randbytes, file_bytes=100_000
    )
    assert show(world, "json") == demo.EXIT_BROKEN
    captured = capsys.readouterr()
    seen = json.loads(captured.out)
    assert seen["clear_packets"] == 0
    if seen["esp_packets"]:  # loss may already spoil the pings that prove that all is well before the policy
        assert seen["file_intact"] is True
        assert seen["ping_loss"] > 0
