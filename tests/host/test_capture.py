"""`stockade capture` under real agents: tshark opens what it wrote, ESP and IKE decrypted."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run_stockade

from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent

STOCKADE = [sys.executable, "-m", "stockade.console.main"]
ALPHA, BETA = "10.78.0.1", "10.78.0.2"
SECRET_TEXT = "stockade-was-here"
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="{methods}"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="a secret thing"
set policy name=test assign=yes
"""

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


class Host:
    def __init__(self, namespace: Namespace, home: Path, peer: str, methods: str) -> None:
        self.namespace, self.home = namespace, home
        script = home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=peer, methods=methods))
        self.stockade("netsh", "-f", str(script), "--atomic")
        (home / "agent.toml").write_text('driver = "userspace"\n')  # the one that has a clear side
        self.agent = Agent(namespace, home)
        self.agent.start()

    def stockade(self, *words: str) -> str:
        result = run_stockade(self.namespace, self.home, *words)
        assert result.returncode == 0, (result.stdout, result.stderr)
        return result.stdout


def eventually(question: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def tshark(file: Path, *words: str, folder: Path | None) -> list[list[str]]:
    """Fields of the packets that the filter shows."""
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(folder or file.parent / "no-such-folder")}
    result = subprocess.run(
        ["tshark", "-r", str(file), *words], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    return [line.split("\t") for line in result.stdout.splitlines()]


@pytest.mark.parametrize("methods", ["ESP[AES128,SHA256]", "ESP[AESGCM128,None]"])
def test_wireshark_opens_esp_and_ike_with_the_keys_that_were_asked_for(
    wire: Network, tmp_path: Path, methods: str
) -> None:
    alpha = Host(wire["alpha"], tmp_path / "alpha", BETA, methods)
    beta = Host(wire["beta"], tmp_path / "beta", ALPHA, methods)
    for host in (alpha, beta):
        host.agent.wait_until_ready()
    file = tmp_path / "trace.pcapng"
    argv = [*STOCKADE, "--home", str(alpha.home), "capture", "--keys", "--peer", BETA, str(file)]
    output = tmp_path / "capture.out"
    with output.open("w") as stream:
        capture = alpha.namespace.popen(argv, stdout=stream.fileno())
    try:
        eventually(lambda: "capturing" in output.read_text())
        pattern = SECRET_TEXT.encode().hex()[:32]
        ping = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "20", "-p", pattern, BETA]
        assert alpha.namespace.run(ping, check=False, timeout=60).returncode == 0
        # once in each of the six clear packets, of which the last is written after all sealed ones
        eventually(lambda: file.read_bytes().count(bytes.fromhex(pattern) * 2) >= 6)
        capture.send_signal(signal.SIGINT)
        capture.wait(60)
    finally:
        if capture.poll() is None:
            capture.kill()
            capture.wait()
    folder = Path(f"{file}.wireshark")
    assert str(folder) in output.read_text()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (file, *folder.iterdir()))

    fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "icmp.type", "-e", "data.data"]
    inner = tshark(file, "-Y", "esp && icmp", *fields, folder=folder)
    assert [(row[0], row[1]) for row in inner] == [("wire", "8"), ("wire", "0")] * 3, "ESP was opened"
    assert all(pattern in row[2].replace(":", "") for row in inner)
    clear = tshark(file, "-Y", "icmp && !esp", *fields, folder=folder)
    assert [(row[0], row[1]) for row in clear] == [("clear", "8"), ("clear", "0")] * 3, (
        "and before, and after"
    )
    assert tshark(file, "-Y", "esp && icmp", folder=None) == [], "without keys nothing opens"

    # Messages 5 and 6 of main mode carry who each is, encrypted.
    ike = ["-Y", "isakmp.id.data.ipv4_addr", "-T", "fields", "-e", "ip.src", "-e", "isakmp.exchangetype"]
    opened = [row for row in tshark(file, *ike, folder=folder) if row[1] == "2"]
    assert [row[0] for row in opened] == [ALPHA, BETA]
    assert tshark(file, *ike, folder=None) == []

    events = json.loads(alpha.stockade("events", "--kind", "keys-exported", "--format", "json"))["entries"]
    assert events, "giving out keys is in the journal"
    journal = (alpha.home / "journal" / "journal.jsonl").read_text()
    for table in ("esp_sa", "ikev1_decryption_table"):
        for word in (folder / table).read_text().replace('"', "").replace("\n", ",").split(","):
            if len(word) >= 34:
                assert word not in journal
                assert word.removeprefix("0x") not in journal
