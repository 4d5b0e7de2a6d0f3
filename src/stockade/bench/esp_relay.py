"""The floor of `bench esp`: packets through user space of both hosts with nothing done to them.

A program of C relays between a TUN device and a raw socket, one packet at a time, without cryptography. What
it costs beside the plain wire no data plane in user space can save, least of all in the time of a question
and its answer: four more times a process must be woken for them.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stockade.bench.esp_node import HOSTS, INNER, other
from stockade.driver.burst.build import compiler
from stockade.lab.netns import Namespace

SOURCE = Path(__file__).with_name("relay.c")
SECONDS = 30.0


@contextmanager
def relayed(alpha: Namespace, beta: Namespace) -> Iterator[str | None]:
    """Traffic between the addresses behind the hosts goes through the relays; or why there are none."""
    with tempfile.TemporaryDirectory(prefix="stockade-relay.") as folder:
        program = Path(folder) / "relay"
        refusal = _build(program)
        if refusal is not None:
            yield refusal
            return
        relays: list[subprocess.Popen[str]] = []
        hosts = {"alpha": alpha, "beta": beta}
        try:
            for name, namespace in hosts.items():
                words = [str(program), str(HOSTS[name]), str(HOSTS[other(name)])]
                relay = subprocess.Popen(
                    namespace.argv(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                relays.append(relay)
                assert relay.stdout is not None
                if relay.stdout.readline().strip() != "ready":
                    yield "the relay did not start"
                    return
            for name, namespace in hosts.items():
                namespace.ip(
                    "link set relay0 mtu 1480 up",
                    f"route replace {INNER[other(name)]}/32 dev relay0 src {INNER[name]}",
                )
            yield None
        finally:
            for relay in relays:
                relay.communicate(timeout=SECONDS)
            for name, namespace in hosts.items():
                peer = other(name)
                namespace.ip(f"route replace {INNER[peer]}/32 via {HOSTS[peer]} src {INNER[name]}")


def _build(program: Path) -> str | None:
    found = compiler()
    if found is None:
        return "no C compiler"
    done = subprocess.run(
        [found, "-O2", "-o", str(program), str(SOURCE)], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[0]
