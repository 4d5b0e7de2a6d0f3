"""Events that go out: to journald's socket, to a webhook, to a program; bounded, and never in the way."""

import http.server
import json
import os
import socket
import stat
import threading
import time

import pytest

from stockade.agent.event_outputs import (
    FAILED,
    QUEUE,
    JournaldSender,
    Outputs,
    Sender,
    journald_datagram,
    run_program,
)
from stockade.agent.journal import Entry, Journal
from stockade.agent.output_settings import Notifier, OutputSettings
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.secret import Secret

DEAD = Entry("quick-mode-deleted", Reason.of(ReasonCode.PEER_DEAD), (("peer", "10.0.0.2:500"),))


def record_of(entry=DEAD):
    journal = Journal(None)
    journal.write(entry)
    return journal.recent[-1]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers.get("Authorization"), json.loads(body)))
        status = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.server.got.append((self.path, None, None))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words):
        pass


@pytest.fixture
def hook():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.got, server.answers = [], []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def url_of(server, path="/hook?key=1"):
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def test_a_webhook_gets_the_event_with_its_token_and_nothing_else(hook):
    told = []
    notifier = Notifier(url_of(hook), token=Secret(b"tok"), reasons=frozenset({"peer-dead"}))
    outputs = Outputs(OutputSettings(notifiers=(notifier,)), told.append)
    outputs.start()
    outputs.add(record_of(Entry("agent-started", Reason.of(ReasonCode.AGENT_STARTED))))
    outputs.add(record_of())
    wait_for(lambda: hook.got)
    outputs.close()
    ((path, authorization, event),) = hook.got
    assert (path, authorization) == ("/hook?key=1", "Bearer tok")
    assert event["reason"] == "peer-dead"
    assert event["windows_events"] == [542, 5452]
    assert told == []


def test_a_webhook_that_fails_is_asked_again_and_a_redirect_is_not_followed(hook):
    hook.answers = [500, 302, 200]
    told = []
    sender = Sender(
        Notifier(url_of(hook), reasons=frozenset({"peer-dead"})), told.append, pauses=(0.01, 0.01)
    )
    sender.start()
    sender.add(record_of())
    wait_for(lambda: sender.sent)
    sender.close()
    assert [path for path, _, _ in hook.got] == ["/hook?key=1"] * 3
    assert told == []


def test_one_that_never_answers_is_told_once_without_its_address_and_keeps_nobody_waiting():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        told = []
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/very-secret"
        notifier = Notifier(url, reasons=frozenset({"peer-dead"}), per_minute=600)
        sender = Sender(notifier, told.append, pauses=(), timeout=0.2)
        sender.start()
        for _ in range(QUEUE * 5):
            sender.add(record_of())
        assert sender.dropped >= QUEUE * 3, "the queue has an end"
        wait_for(lambda: told)
        sender.close()
    assert len(told) == 1
    assert told[0].kind == FAILED
    assert told[0].reason.code is ReasonCode.SEND_FAILED
    assert "secret" not in str(told[0])
    sender.add(record_of(told[0]))
    assert not sender._notifier.wants(record_of(told[0])) or not sender._queue, "never told of itself"


def test_no_more_than_so_many_a_minute(hook):
    sender = Sender(
        Notifier(url_of(hook), reasons=frozenset({"peer-dead"}), per_minute=3), lambda entry: None
    )
    for _ in range(50):
        sender.add(record_of())
    assert len(sender._queue) == 3
    assert sender.dropped == 47


def test_a_program_gets_the_event_on_its_standard_input_and_no_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("STOCKADE_SECRET", "x")
    program, out = tmp_path / "program", tmp_path / "out"
    program.write_text(f'#!/bin/sh\ncat > "{out}.new"; env > "{out}.env"; echo "$@" >> "{out}.env"\n'
                       f'mv "{out}.new" "{out}"\n')  # fmt: skip
    program.chmod(stat.S_IRWXU)
    sender = Sender(
        Notifier(command=(str(program), "a b", "$(id)"), ids=frozenset({5452})), lambda entry: None
    )
    sender.start()
    sender.add(record_of())
    wait_for(lambda: sender.sent)
    sender.close()
    assert json.loads(out.read_text())["reason"] == "peer-dead"
    environment = (tmp_path / "out.env").read_text()
    assert "STOCKADE_SECRET" not in environment
    assert "a b $(id)" in environment


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path):
    program, pid = tmp_path / "program", tmp_path / "pid"
    program.write_text(f'#!/bin/sh\nsleep 1000 & echo $! > "{pid}"; wait\n')
    program.chmod(stat.S_IRWXU)
    for seconds in (1.0, 4.0, 16.0, 60.0):  # until it lived long enough to have a child
        assert "did not end" in run_program((str(program),), b"{}", seconds)
        if pid.exists() and pid.read_text().strip():
            break

    def gone():
        try:
            state = open(f"/proc/{pid.read_text().strip()}/stat").read()  # noqa: SIM115
        except OSError:
            return True
        return state.rpartition(")")[2].split()[0] == "Z"

    wait_for(gone)
    assert "status 3" in run_program(("/bin/sh", "-c", "exit 3"), b"{}", 30.0)
    assert "cannot be run" in run_program(("/nowhere",), b"{}", 30.0)


def parse_journald(data):
    """The native protocol, read as its specification says."""
    fields = []
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
            data = rest
        else:
            name, size = line, int.from_bytes(rest[:8], "little")
            value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
        fields.append((name.decode(), value.decode()))
    return fields


def test_journald_gets_fields_and_a_peers_text_cannot_make_one(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(path)
        sender = JournaldSender(path)
        evil = "x\nPRIORITY=0\nMESSAGE=all is well"
        entry = Entry("main-mode-failed", Reason.of(ReasonCode.PSK_MISMATCH, evil), (("peer", evil),))
        sender.send(record_of(entry))
        fields = parse_journald(journald.recv(65536))
        sender.close()
    names = [name for name, _ in fields]
    assert names.count("PRIORITY") == names.count("MESSAGE") == 1
    assert dict(fields)["STOCKADE_PEER"] == evil
    assert dict(fields)["STOCKADE_REASON"] == "psk-mismatch"
    assert [value for name, value in fields if name == "STOCKADE_WINDOWS_EVENT"] == ["545", "4653"]
    assert dict(fields)["PRIORITY"] == "4"


def test_a_journald_that_is_away_or_full_costs_nothing(tmp_path):
    sender = JournaldSender(str(tmp_path / "nowhere"))
    sender.send(record_of())
    assert sender.dropped == 1
    sender.close()
    assert journald_datagram({"kind": "x", "a b": "1", "ü": "2"}).count(b"STOCKADE_") == 1
    assert os.path.exists(tmp_path)
