"""The laboratory's tools on the real system: namespaces, captures, cleaning up after runs that died."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stockade.lab import netns
from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import NETNS_FOLDER, Network, sweep
from stockade.model.reasons import HostError
from stockade.model.traffic import ICMP
from stockade.wire.pcap import read_capture

TRANSFER = (sys.executable, "-m", "stockade.lab.transfer")

LEAVE_A_MESS = """
import subprocess, sys, time
from ipaddress import IPv4Interface
from stockade.lab.netns import Network, make_folder
network = Network({"alpha": IPv4Interface("10.78.1.1/24")}).__enter__()
process = network["alpha"].popen(["sleep", "600"])
while not network["alpha"].processes():
    time.sleep(0.01)
print(network["alpha"].full_name, make_folder(), process.pid, flush=True)
time.sleep(600)
"""


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_hosts_reach_each_other_and_are_gone_afterwards() -> None:
    from ipaddress import IPv4Interface

    hosts = {"one": IPv4Interface("10.78.2.1/24"), "two": IPv4Interface("10.78.2.2/24")}
    with Network(hosts) as network:
        names = [network["one"].full_name, network["two"].full_name, network.switch.full_name]
        result = network["one"].run([*TRANSFER, "ping", "10.78.2.2", "--count", "3", "--interval", "0.01"])
        assert json.loads(result.stdout)["received"] == 3
        assert all((NETNS_FOLDER / name).exists() for name in names)
    assert not any((NETNS_FOLDER / name).exists() for name in names)


def test_what_runs_in_a_namespace_is_killed_when_it_is_removed(wire: Network) -> None:
    process = wire["alpha"].popen(["sleep", "600"])
    while not wire["alpha"].processes():
        time.sleep(0.01)
    wire["alpha"].remove()
    assert process.wait(60) == -signal.SIGKILL
    assert not wire["alpha"].exists


def test_a_failing_program_is_named_with_its_last_words(wire: Network) -> None:
    with pytest.raises(HostError, match=r"ip link show nowhere failed: .*nowhere"):
        wire["alpha"].run(["ip", "link", "show", "nowhere"])
    with pytest.raises(HostError, match="no end after"):
        wire["alpha"].run(["sleep", "60"], timeout=0.2)


def test_a_run_that_was_killed_is_swept_and_a_living_one_is_not() -> None:
    mess = subprocess.Popen([sys.executable, "-c", LEAVE_A_MESS], stdout=subprocess.PIPE, text=True)
    try:
        assert mess.stdout is not None
        name, folder, sleeper = mess.stdout.readline().split()
        sweep()
        assert (NETNS_FOLDER / name).exists()
        assert Path(folder).is_dir()
        assert is_running(int(sleeper))
    finally:
        mess.kill()
        mess.wait()
    sweep()
    # Another run may sweep at the same moment: what it has begun it ends.
    deadline = time.monotonic() + 30
    while (NETNS_FOLDER / name).exists() or Path(folder).exists() or is_running(int(sleeper)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sweep_leaves_alone_what_only_looks_like_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "stockade-lab.1.2.link").symlink_to(precious)
    for name in (
        "stockade-lab",
        "stockade-lab.x.y.z",
        f"stockade-lab.{os.getpid()}.{netns._started(os.getpid())}.a",
    ):
        (tmp_path / name).mkdir()
    foreign = tmp_path / "stockade-lab.999999999.1.foreign"
    foreign.mkdir()
    os.chown(foreign, 12345, 12345)
    mine = tmp_path / "stockade-lab.999999999.1.mine"
    mine.mkdir()
    before = {entry.name for entry in tmp_path.iterdir()}
    sweep()
    assert before - {entry.name for entry in tmp_path.iterdir()} == {mine.name}


def test_a_capture_sees_every_packet_once_and_writes_it_down(wire: Network, tmp_path: Path) -> None:
    watch = WireWatch(lambda flow: flow.protocol == ICMP)
    file = tmp_path / "wire.pcap"
    with Capture(wire.switch, wire.port("beta"), watch, file) as capture:
        wire["alpha"].run([*TRANSFER, "ping", "10.78.0.2", "--count", "5", "--interval", "0.01"])
        tally = capture.tally()
    assert (tally.protected_clear, tally.missed) == (10, 0)
    assert tally.example == "icmp 10.78.0.1 -> 10.78.0.2"
    written = [packet.data for packet in read_capture(file.read_bytes())]
    assert len([data for data in written if data[0] == 0x45 and data[9] == ICMP]) == 10


def test_probe_tells_open_from_refused_from_unanswered(wire: Network) -> None:
    server = wire["beta"].popen([*TRANSFER, "serve", "10.78.0.2", "--greet", "80"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    wire["beta"].run(["nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }"])
    wire["beta"].run(["nft", "add rule ip t c tcp dport 23 drop"])

    def probe(port: int) -> str:
        result = wire["alpha"].run([*TRANSFER, "probe", "10.78.0.2", str(port), "--timeout", "0.5"])
        return json.loads(result.stdout)["result"]

    assert [probe(80), probe(81), probe(23)] == ["open", "refused", "unanswered"]
    server.kill()
    server.wait()
    server.stdout.close()
