"""Agents with the kernel's data plane, as a user has them: for the scenarios of kernel_scenarios.py."""

import io
import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from kernel_world import ALPHA, BETA, BLOCKED_PORT, PERMITTED_PORT, World, xfrm

from stockade.console.main import main as stockade
from stockade.lab.examples import STOCKADE
from stockade.lab.netns import Namespace
from stockade.lab.real import Agent

_NUMBERS = itertools.count(1)
"""Each agent has a home of its own."""

POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=TCP
add filterlist name=open
add filter filterlist=open srcaddr={peer} dstaddr=me protocol=TCP dstport={permitted}
add filter filterlist=open srcaddr=me dstaddr={peer} protocol=TCP dstport={permitted}
add filterlist name=shut
add filter filterlist=shut srcaddr={peer} dstaddr=me protocol=TCP dstport={blocked}
add filter filterlist=shut srcaddr=me dstaddr={peer} protocol=TCP dstport={blocked}
add filteraction name=require inpass=no soft=no qmsecmethods="{methods}"
add filteraction name=permit action=permit
add filteraction name=block action=block
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="{psk}"
add rule name=open policy=test filterlist=open filteraction=permit
add rule name=shut policy=test filterlist=shut filteraction=block
set policy name=test assign=yes
"""


class Host:
    """One agent with the kernel's data plane, as a user has it."""

    def __init__(self, world: World, namespace: Namespace, peer: str) -> None:
        self.namespace, self.peer = namespace, peer
        self.home = world.folder / f"{namespace.name}-{next(_NUMBERS)}"
        self.agent = Agent(namespace, self.home)

    def stockade(self, *words: str) -> str:
        """By the command line's own entry point in this process, which the network is nothing to: it speaks
        with the agent through a file. In an emulated kernel another interpreter takes seconds to start."""
        printed, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(printed), redirect_stderr(errors):
            status = stockade(["--home", str(self.home), *words])
        assert status == 0, (words, printed.getvalue(), errors.getvalue())
        return printed.getvalue()

    def ask(self, *words: str) -> dict:
        return json.loads(self.stockade(*words, "--format", "json"))

    def apply(self, methods: str = "ESP[AES128,SHA256]") -> None:
        self.apply_script(
            POLICY.format(
                peer=self.peer, methods=methods, permitted=PERMITTED_PORT, blocked=BLOCKED_PORT, psk="a key"
            )
        )

    def apply_script(self, text: str) -> None:
        script = self.home.with_suffix(".netsh")
        script.write_text(text)
        self.stockade("netsh", "-f", str(script), "--atomic")


@contextmanager
def two_agents(
    world: World, methods: str = "ESP[AES128,SHA256]", policies: tuple[str, str] | None = None
) -> Iterator[tuple[Host, Host]]:
    """`policies`: netsh scripts in the place of POLICY."""
    hosts = Host(world, world.alpha, BETA), Host(world, world.beta, ALPHA)
    try:
        for number, host in enumerate(hosts):
            if policies is None:
                host.apply(methods)
            else:
                host.apply_script(policies[number])
            host.agent.start()
        for host in hosts:
            assert host.agent.wait_until_ready()["driver"] == "kernel"
        yield hosts
    except Exception:
        for host in hosts:
            journal = host.home / "journal" / "journal.jsonl"
            print(host.namespace.name, host.agent.last_words(), sep="\n")
            if journal.exists():
                print("\n".join(journal.read_text().splitlines()[-8:]))
            print(*xfrm(host.namespace, "state"), *xfrm(host.namespace, "policy"), sep="\n")
        raise
    finally:
        for host in hosts:
            with suppress(Exception):
                host.agent.terminate()


class KeptAgent(Agent):
    """An agent under a service manager that keeps its sockets, as systemd does: what it stores is given to
    the next one."""

    def __init__(self, namespace: Namespace, home: Path) -> None:
        super().__init__(namespace, home)
        self.kept: dict[str, int] = {}
        self._path = str(home.with_suffix(f".notify-{next(_NUMBERS)}"))
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(self._path)
        self._notify.setblocking(False)

    def start(self) -> None:
        moves = "; ".join(f"exec {60 + n}<&{fd}" for n, fd in enumerate(self.kept.values()))
        moves += "".join(f"; exec {3 + n}<&{60 + n} {60 + n}<&-" for n in range(len(self.kept)))
        script = f'{moves or ":"}; export LISTEN_PID=$$; exec "$@"'
        words = ["bash", "-c", script, "bash", *STOCKADE, "--home", str(self.home), "agent", "run"]
        manager = {
            "NOTIFY_SOCKET": self._path,
            "LISTEN_FDS": str(len(self.kept)),
            "LISTEN_FDNAMES": ":".join(self.kept),
        }
        for descriptor in self.kept.values():
            os.set_inheritable(descriptor, True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._namespace.argv(words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                close_fds=False,
                env={**os.environ, **manager},
            )

    def listen(self) -> None:
        """What was sent to us since the last time."""
        with suppress(BlockingIOError):
            while True:
                text, rights, _, _ = socket.recv_fds(self._notify, 4096, 4)
                values = dict(line.split("=", 1) for line in text.decode().splitlines())
                for descriptor in rights:
                    if values["FDNAME"] in self.kept:
                        os.close(self.kept[values["FDNAME"]])
                    self.kept[values["FDNAME"]] = descriptor

    def close(self) -> None:
        self._notify.close()
        for descriptor in self.kept.values():
            os.close(descriptor)
