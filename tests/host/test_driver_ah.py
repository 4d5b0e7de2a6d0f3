"""AH and AH over ESP by the user-space driver with real packets, over both IP versions."""

import os
import sys
import time
from pathlib import Path

import pytest

from stockade.model.suites import Encryption, Hash

sys.path.insert(0, str(Path(__file__).parent))
from driver_net import add_pair, two_hosts
from streams import transfer
from wire_watch import watch_wire

AH = 51
VERSIONS = [4, 6] if Path("/proc/sys/net/ipv6/conf/all").exists() else [4]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bundled", [False, True], ids=["ah", "ah-over-esp"])
def test_a_file_and_large_pings_pass_authenticated(tmp_path: Path, version: int, bundled: bool) -> None:
    address = "10.9.0.2" if version == 4 else "2001:db8:9::2"
    with two_hosts(tmp_path, ipv6=version == 6) as (network, alpha, beta):
        for side in (alpha, beta):
            side.call("start")
            side.call("install", rules=[{"action": "negotiate", "version": version}])
        other = 0x2000 if bundled else None
        add_pair(alpha, beta, ah=Hash.SHA1, version=version, base=0x1000, bundle=other)
        if bundled:
            add_pair(
                alpha, beta, encryption=Encryption.TRIPLE_DES_CBC, version=version, base=0x2000, bundle=0x1000
            )
        wire = watch_wire(network)
        data = os.urandom(1 << 20)
        assert transfer(network["alpha"], network["beta"], address, data)
        for size in ("56", "4000"):
            dont = ["-M", "dont"] if version == 4 else []
            pings = network["alpha"].run(
                ["ping", "-c", "2", "-W", "20", "-s", size, *dont, address], check=False
            )
            assert f"{int(size) + 8} bytes from" in pings.stdout
        assert alpha.call("statistics")["refused"] == beta.call("statistics")["refused"] == {}
        seen = 0
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                frame = wire.recv(65535)
            except TimeoutError:
                break
            packet = frame[14:]
            if frame[12:14] == b"\x08\x00" and version == 4 and packet[9] != 2:
                assert packet[9] == AH
                assert data[:64] not in packet or not bundled
                seen += 1
            elif frame[12:14] == b"\x86\xdd" and packet[24] != 0xFF and packet[6] != 58:
                assert packet[6] in (AH, 44)
                seen += 1
        wire.close()
        assert seen > 50
