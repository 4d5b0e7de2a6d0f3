"""The sockets that a service manager keeps while no agent runs: both protocols of systemd, with a manager
of our own."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stockade.agent import descriptors
from stockade.agent.descriptors import DescriptorStore, open_ike_sockets
from stockade.agent.launch import make_driver
from stockade.agent.paths import Paths
from stockade.driver.kernel.driver import KernelDriver

AS_AGENT = """
import json, os, sys
from stockade.agent.descriptors import DescriptorStore
os.environ["LISTEN_PID"] = str(os.getpid() if sys.argv[1] == "mine" else 1)
found = DescriptorStore().take()
print(json.dumps({name: [sock.getsockname()[1], sock.get_inheritable()] for name, sock in found.items()}))
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


@pytest.fixture
def manager() -> Iterator[tuple[socket.socket, str]]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            sock.settimeout(30)
            yield sock, path


def test_a_socket_is_given_to_the_manager_with_its_name(manager):
    notify, path = manager
    store = DescriptorStore({"NOTIFY_SOCKET": path})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        store.keep("esp-in-udp-4", sock)
        text, rights, _, _ = socket.recv_fds(notify, 4096, 4)
        assert set(text.decode().splitlines()) == {"FDSTORE=1", "FDNAME=esp-in-udp-4", "FDPOLL=0"}
        (kept,) = rights
        with socket.socket(fileno=kept) as same:
            assert same.getsockname() == sock.getsockname()
    store.forget("esp-in-udp-4")
    assert notify.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=esp-in-udp-4"


@pytest.mark.parametrize("address", ["", "nonsense", "/no/such/folder/notify"])
def test_without_a_manager_nothing_is_kept_and_nothing_fails(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        DescriptorStore({"NOTIFY_SOCKET": address}).keep("x", sock)


@pytest.mark.parametrize("whose", ["mine", "another"])
def test_what_was_kept_comes_to_the_process_that_it_is_for(whose):
    """Descriptors from 3 on: two sockets and one that is none."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
        Path(os.devnull).open("rb") as none,
    ):
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        given = [one.fileno(), none.fileno(), two.fileno()]
        for number in given:
            os.set_inheritable(number, True)
        # moved to 3, 4, 5 in the child, from numbers that are free there
        moves = "; ".join(f"exec {index + 60}<&{number}" for index, number in enumerate(given))
        moves += "; exec 3<&60; exec 4<&61; exec 5<&62; exec 60<&- 61<&- 62<&-"
        answer = subprocess.run(
            ["bash", "-c", moves + '; exec "$@"', "bash", sys.executable, "-c", AS_AGENT, whose],
            env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "esp-in-udp-4:other:esp-in-udp-6"},
            close_fds=False,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        ports = [sock.getsockname()[1] for sock in (one, two)]
    found, left = answer.stdout.splitlines()
    expected = f'{{"esp-in-udp-4": [{ports[0]}, false], "esp-in-udp-6": [{ports[1]}, false]}}'
    assert found == (expected if whose == "mine" else "{}")
    assert left == "[]", "a child of the agent must not believe that they are for it"


class Store:
    """What an earlier agent left."""

    def __init__(self, **left: socket.socket) -> None:
        self.left = left
        self.kept: dict[str, socket.socket] = {}
        self.forgotten: list[str] = []

    def take(self) -> dict[str, socket.socket]:
        return self.left

    def keep(self, name: str, sock: socket.socket) -> None:
        self.kept[name] = sock

    def forget(self, name: str) -> None:
        self.forgotten.append(name)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, socket.socket]]:
    """Instead of ports that only root may open: what `UdpSockets` is given."""
    given: list[dict[int, socket.socket]] = []

    def udp_sockets(mark, prepare, cookies, kept, join):
        given.append(kept)
        return SimpleNamespace(nat_doors=lambda: iter(kept.items()))

    monkeypatch.setattr(descriptors, "UdpSockets", udp_sockets)
    return given


def bound(port: int, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM) -> SimpleNamespace:
    """A socket as far as it is looked at."""
    closed: list[bool] = []
    return SimpleNamespace(
        family=family,
        type=kind,
        getsockname=lambda: ("0.0.0.0", port),
        close=lambda: closed.append(True),
        closed=closed,
    )


def test_the_kernels_data_plane_goes_on_with_the_sockets_that_were_left(opened):
    driver = KernelDriver()
    good, wrong, unknown = bound(4500), bound(500, socket.AF_INET6), bound(4500)
    store = Store(**{"esp-in-udp-4": good, "esp-in-udp-6": wrong, "something": unknown})
    open_ike_sockets(driver, None, None, store)
    assert opened == [{4: good}]
    assert store.kept == {"esp-in-udp-4": good}
    assert (good.closed, wrong.closed, unknown.closed) == ([], [True], [True])
    assert set(store.forgotten) == {"esp-in-udp-6", "something"}


@pytest.mark.parametrize("data_plane", ["userspace", "memory"])
def test_another_data_plane_lets_go_of_them(opened, data_plane, tmp_path):
    """Beside the sockets of the one in user space they would take what is for it while no agent runs."""
    left = bound(4500)
    store = Store(**{"esp-in-udp-4": left})
    open_ike_sockets(make_driver(data_plane, Paths.of(tmp_path)), None, None, store)
    assert opened == [{}]
    assert (left.closed, store.kept, store.forgotten) == ([True], {}, ["esp-in-udp-4"])
