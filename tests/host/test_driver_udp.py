"""ESP in UDP by the user-space driver with real packets, beside an IKE socket on the same port."""

import sys
import time
from pathlib import Path

import pytest

from stockade.agent.udp import UdpSockets
from stockade.driver.userspace.system import OWN_MARK
from stockade.model.addresses import Endpoint

sys.path.insert(0, str(Path(__file__).parent))
from ipaddress import ip_address

from driver_net import add_pair, address_of, two_hosts
from wire_watch import is_ipv4, watch_wire

VERSIONS = [4, 6] if Path("/proc/sys/net/ipv6/conf/all").exists() else [4]


@pytest.mark.parametrize("version", VERSIONS)
def test_esp_and_ike_share_the_port_and_do_not_see_each_other(tmp_path: Path, version: int) -> None:
    with two_hosts(tmp_path, ipv6=version == 6) as (network, alpha, beta):
        sides = (alpha, beta)
        ike = [side.namespace.call(lambda: UdpSockets(OWN_MARK)) for side in sides]
        ports = {"action": "permit", "protocol": 17, "port": 4500, "version": version}
        for side in sides:
            side.call("start")
            side.call("install", rules=[ports, {"action": "negotiate", "version": version}])
        add_pair(alpha, beta, version=version, udp=True)
        wire = watch_wire(network)
        addresses = [ip_address(address_of(side, version)) for side in sides]
        for size in ("56", "3000"):
            dont = ["-M", "dont"] if version == 4 else []
            pings = network["alpha"].run(
                ["ping", "-c", "3", "-i", "0.1", "-W", "20", "-s", size, *dont, str(addresses[1])],
                check=False,
            )
            assert f"{int(size) + 8} bytes from" in pings.stdout
        message = bytes(4) + b"a message of IKE, long enough to be one"
        ike[0].send(message, Endpoint(addresses[0], 4500), Endpoint(addresses[1], 4500))
        deadline, received = time.monotonic() + 60, []
        while not received and time.monotonic() < deadline:
            time.sleep(0.05)
            received = [item for _, read in ike[1].descriptors() for item in read()]
        assert [item[0] for item in received] == [message]
        assert alpha.call("statistics")["refused"] == beta.call("statistics")["refused"] == {}
        assert beta.call("statistics")["sas"]["inbound"] >= 4
        seen = set()
        while True:
            try:
                frame = wire.recv(65535)
            except TimeoutError:
                break
            if version == 4 and is_ipv4(frame):
                seen.add(frame[23])
        assert version == 6 or seen == {17}
        wire.close()
        for sockets in ike:
            sockets.close()
