"""Two hosts with a `UserspaceDriver` each, on one wire, for the driver's tests with real packets."""

import json
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

from command_line import Running

from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.lab.netns import Namespace, Network
from stockade.model.suites import Encryption, Hash

SECONDS = 60.0


class AgentSide:
    """A running `driver_agent.py`. `call` raises `AssertionError` with the reason on an error or a
    silence."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace = namespace
        (given, giving), (reading, said) = os.pipe(), os.pipe()
        self._stdin, self._stdout = os.fdopen(giving, "wb"), os.fdopen(reading, "rb")
        self._process = Running(namespace, "driver_agent", [str(directory)], (given, said, 2))
        os.close(given)
        os.close(said)

    def call(self, name: str, **values: object) -> object:
        reply = self.try_call(name, **values)
        assert "ok" in reply, f"{name}: {reply.get('error')}: {reply.get('text')}"
        return reply["ok"]

    def try_call(self, name: str, **values: object) -> dict[str, object]:
        self._stdin.write(json.dumps({"call": name, **values}).encode() + b"\n")
        self._stdin.flush()
        ready, _, _ = select.select([self._stdout], [], [], SECONDS)
        assert ready, f"no answer to {name} in {SECONDS} s"
        reply = json.loads(self._stdout.readline())
        assert isinstance(reply, dict)
        return reply

    def wait_for(self, kind: str, seconds: float = SECONDS) -> dict[str, object]:
        """The next event of a kind."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for event in self.call("events"):
                if event["event"] == kind:
                    return event
            time.sleep(0.02)
        raise AssertionError(f"no event {kind!r} in {seconds} s")

    def wait_for_another_process(self, before: object) -> None:
        """Until the data plane is no more the process `before`, which has died."""
        deadline = time.monotonic() + SECONDS
        while self.call("pid") in (before, -1) and time.monotonic() < deadline:
            time.sleep(0.1)
            self.call("events")

    def kill(self) -> None:
        """As a crash would."""
        self._process.kill()
        self._process.wait(SECONDS)

    def close(self) -> None:
        self.kill()
        for stream in (self._stdin, self._stdout):
            stream.close()


def add_pair(
    one: AgentSide,
    other: AgentSide,
    *,
    encryption: Encryption = Encryption.AES_GCM_128,
    integrity: Hash | None = None,
    base: int = 0x1000,
    version: int = 4,
    ah: Hash | None = None,
    bundle: int | None = None,
    networks: tuple[str, str] | None = None,
    udp: bool = False,
) -> None:
    """An SA in each direction between two hosts, installed as IKE would: inbound before outbound. With `ah`
    it is AH; `bundle` is the `base` of the other half of AH over ESP. With `networks`
    (behind `one`, behind `other`) it is a tunnel."""
    addresses = [address_of(side, version) for side in (one, other)]
    sides = [one, other]
    calls = []
    for number in (0, 1):
        values = {
            "source": addresses[number],
            "destination": addresses[1 - number],
            "spi": base + number,
            "pair": base + 1 - number,
            "udp": udp,
            "ah": ah.value if ah else None,
            "bundle": None if bundle is None else bundle + number,
            "encryption": encryption.value,
            "integrity": integrity.value if integrity else None,
            "encryption_key": os.urandom(0 if ah else encryption_algorithm(encryption).keymat_size).hex(),
            "integrity_key": os.urandom(
                hash_algorithm(hashed).integrity_key_size if (hashed := ah or integrity) else 0
            ).hex(),
        }
        if networks is not None:
            values["networks"] = [networks[number], networks[1 - number]]
        calls.append((sides[1 - number], {**values, "direction": "inbound"}))
        calls.append((sides[number], {**values, "direction": "outbound"}))
    for side, values in sorted(calls, key=lambda item: str(item[1]["direction"])):
        side.call("add", **values)


def address_of(side: AgentSide, version: int) -> str:
    return address_in(side.namespace, version)


def address_in(namespace: Namespace, version: int) -> str:
    """`two_hosts` gives the IPv6 address the same last number as the IPv4 one."""
    address = str(namespace.addresses[0])
    return address if version == 4 else f"2001:db8:9::{address.rsplit('.', 1)[1]}"


@contextmanager
def two_hosts(
    directory: Path, *, mtu: int = 1500, ipv6: bool = False
) -> Iterator[tuple[Network, AgentSide, AgentSide]]:
    hosts = {"alpha": IPv4Interface("10.9.0.1/24"), "beta": IPv4Interface("10.9.0.2/24")}
    with Network(hosts, mtu=mtu) as network:
        sides = [AgentSide(network[name], directory / name) for name in hosts]
        try:
            if ipv6:
                for side in sides:
                    add_ipv6(side)
            yield network, sides[0], sides[1]
        finally:
            for side in sides:
                side.close()


def add_ipv6(side: AgentSide) -> None:
    """An address without the wait for its duplicates; the interface comes up again with IPv6 on."""
    device = side.namespace.run(
        ["/bin/sh", "-c", "ip -o -4 addr show scope global | awk '{print $2; exit}'"]
    ).stdout.strip()
    side.namespace.run(["sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=0"])
    side.namespace.ip(f"addr add {address_of(side, 6)}/64 dev {device} nodad")
