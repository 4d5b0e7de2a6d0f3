"""The door of a data-plane process that outlives its agent: who gets in, what is handed over, what is ended.

The process is a child that has a `Door` and nothing else: whoever cannot work with it kills it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stockade.driver.userspace import messages, survival

CHILD = """
import os, socket, sys
from stockade.driver.userspace import survival
door = survival.Door(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[4]), sys.argv[2])
kind = sys.argv[3]
print("ready", door.can_be_found, flush=True)
while True:
    connection = door.accept()
    if connection is None:
        import select
        select.select([door], [], [])
        continue
    if kind == "busy":
        door.send_away(connection)
    elif kind == "mute":
        import time
        time.sleep(3600)
    elif kind == "old":
        connection.recv(4096)
        connection.sendall(b"\\0\\0\\0\\1\\x00")
    elif (events := door.greet(connection, {"device": 1, "send4": 2})) is not None:
        events.sendall(b"hello")
        connection.setblocking(True)
        print("attached", connection.recv(4096), door.can_be_found, flush=True)
        break
    else:
        print("refused", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / ("a folder whose name is long " * 5)
    folder.mkdir()
    return folder / "dataplane.sock"


@pytest.fixture
def start(path: Path) -> Iterator[object]:
    children: list[subprocess.Popen[str]] = []

    def starter(kind: str, options: str = "") -> "subprocess.Popen[str]":
        door, file = survival.make_door(path)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(door.fileno()), options, kind, str(file)],
            pass_fds=[door.fileno(), file], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        door.close()
        os.close(file)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready True\n"
        return child

    yield starter
    for child in children:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@contextmanager
def make_door(path: Path) -> Iterator[survival.Door]:
    listening, file = survival.make_door(path)
    with listening:
        yield survival.Door(listening, file, "")
    os.close(file)


def test_the_next_agent_gets_in_and_is_handed_the_descriptors(start, path, monkeypatch):
    monkeypatch.setattr(survival, "ANSWER_SECONDS", 60.0)  # a busy machine takes its time for a good answer
    child = start("process", "gro")
    found = survival.find(path, "gro")
    assert found is not None
    assert found.process.pid == child.pid
    assert set(found.descriptors) == {"device", "send4"}
    assert not any(os.get_inheritable(number) for number in found.descriptors.values())
    found.events.settimeout(60)
    assert found.events.recv(5) == b"hello"
    found.control.sendall(b"a word")
    assert child.stdout.readline() == "attached b'a word' True\n"
    assert found.process.wait(60)
    assert found.process.poll() == -1
    for number in found.descriptors.values():
        os.close(number)
    found.control.close()
    found.process.close()


def test_one_that_was_started_otherwise_is_ended(start, path):
    child = start("process", "gro")
    assert survival.find(path, "") is None
    assert child.wait(60) == -9


def test_one_of_another_generation_is_ended(start, path, monkeypatch):
    child = start("process")
    monkeypatch.setattr(survival, "generation", lambda: "of tomorrow")
    assert survival.find(path) is None
    assert child.wait(60) == -9


@pytest.mark.parametrize("kind", ["mute", "old"])
def test_one_that_does_not_speak_our_language_is_ended(start, path, kind, monkeypatch):
    monkeypatch.setattr(survival, "ANSWER_SECONDS", 1.0)
    child = start(kind)
    assert survival.find(path) is None
    assert child.wait(60) == -9


def test_one_that_has_an_agent_is_left_alone(start, path):
    child = start("busy")
    assert survival.find(path) is None
    survival.end_orphan(path)
    assert child.poll() is None


def test_nobody_is_found_where_nobody_is(path):
    assert survival.find(path) is None
    listening, file = survival.make_door(path)
    assert survival.find(path) is None  # bound, and nobody listens
    listening.close()
    os.close(file)
    assert survival.find(path) is None
    with make_door(path):  # in the place of the one that was left
        assert path.exists()


def test_the_socket_is_for_its_owner_only(path):
    with make_door(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_process_whose_socket_is_gone_knows_that_nobody_can_find_it(path):
    with make_door(path) as door:
        assert door.can_be_found
        path.unlink()
        assert not door.can_be_found


def test_strangers_words_hand_out_nothing(path):
    with make_door(path) as door:
        for words in (b"", b"\0\0\0\1\xc0", b"\xff" * 64, messages.encode(messages.AskSas())):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
                folder = os.open(path.parent, os.O_PATH)
                stranger.connect(f"/proc/self/fd/{folder}/{path.name}")
                os.close(folder)
                stranger.sendall(words)
                stranger.shutdown(socket.SHUT_WR)
                connection = door.accept()
                assert connection is not None
                assert door.greet(connection, {"device": 1}) is None
                connection.close()
                data, descriptors, _, _ = socket.recv_fds(stranger, 4096, 8)
                assert (data, descriptors) == (b"", [])


def test_other_users_are_not_spoken_with(path, monkeypatch):
    with make_door(path) as door:
        monkeypatch.setattr(survival, "peer_of", lambda connection: (1, 12345))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            folder = os.open(path.parent, os.O_PATH)
            stranger.connect(f"/proc/self/fd/{folder}/{path.name}")
            os.close(folder)
            assert door.accept() is None


def test_a_held_sa_is_told_without_its_keys():
    from stockade.model.filters import Direction
    from stockade.model.suites import Encryption, EspSuite

    held = messages.Sas(
        [(messages.sa_message(_sa(Direction.INBOUND, EspSuite(Encryption.AES_GCM_128, None)), 0), 1.0)]
    )
    assert b"K" * 20 in messages.encode(held)  # so it would be seen
    told = messages.Sas(
        [messages.held_message(_sa(Direction.INBOUND, EspSuite(Encryption.AES_GCM_128, None)), 1.0)]
    )
    assert b"KKKK" not in messages.encode(told)


def _sa(direction: object, suite: object) -> object:
    from ipaddress import ip_address

    from stockade.model.addresses import AddressRange
    from stockade.model.negotiation import Mode
    from stockade.model.sa import SecurityAssociation
    from stockade.model.secret import Secret
    from stockade.model.traffic import TrafficSelector

    ends = [ip_address("10.0.0.1"), ip_address("10.0.0.2")]
    return SecurityAssociation(
        spi=0x1000, direction=direction, source=ends[0], destination=ends[1],
        selector=TrafficSelector(AddressRange.host(ends[0]), AddressRange.host(ends[1])),
        mode=Mode.TRANSPORT, esp=suite, ah=None, encryption_key=Secret(b"K" * 20),
        integrity_key=Secret(b""), pair=0x2000, negotiation="rule", filter_id="f", main_mode="m",
    )  # fmt: skip
