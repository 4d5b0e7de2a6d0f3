"""When an agent looks at the directory, and what it keeps of it."""

import asyncio
import json
import os
import signal
import time
from contextlib import suppress

import pytest

from stockade.agent import domain_fetch
from stockade.agent.domain import DomainPolicy, next_retry, read_in_process
from stockade.agent.domain_settings import DomainSettings, Request
from stockade.agent.journal import Entry
from stockade.model.reasons import HostError, Reason, ReasonCode
from stockade.store.directory.ldap import Login
from stockade.store.directory.snapshot import Snapshot, encode_snapshot


def keeper(cache, told: list[Entry], changes: list[int], domain: str = "lab.test") -> DomainPolicy:
    return DomainPolicy(
        DomainSettings(domain, refresh=5400.0, jitter=1800.0),
        cache.with_name("none.keytab"),
        cache,
        told.append,
        lambda: changes.append(1),
        tuple,
    )


def snapshot(read: float = 1_000.0, **facts) -> Snapshot:
    return Snapshot(read, "lab.test", "DC=lab,DC=test", "CN=alpha,DC=lab,DC=test", "dc1.lab.test", **facts)


def test_the_schedule_after_failures_is_that_of_the_protocol():
    minutes, seen = 0, []
    for _ in range(6):
        minutes = next_retry(minutes)
        seen.append(minutes)
    assert seen == [1, 4, 25, 166, 166, 166]


def test_a_failure_is_told_once_and_waits_longer_each_time(tmp_path):
    told: list[Entry] = []
    one = keeper(tmp_path / "domain.json", told, [])
    reason = Reason.of(ReasonCode.DIRECTORY_UNREACHABLE, "nobody answers")
    assert [one._failed(reason) for _ in range(4)] == [60.0, 240.0, 1500.0, 9960.0]
    assert len(told) == 1
    assert one.refusal == reason
    assert 5400.0 <= one._accept(snapshot()) <= 7200.0
    assert one.refusal is None
    assert one._failed(reason) == 60.0


def test_only_what_differs_is_put_in_force(tmp_path):
    changes: list[int] = []
    one = keeper(tmp_path / "domain.json", [], changes)
    one._accept(snapshot())
    one._accept(snapshot(2_000.0))
    assert len(changes) == 1
    one._accept(snapshot(3_000.0, site="Other"))
    assert len(changes) == 2


def test_the_last_good_policy_is_kept_for_its_owner_only_and_taken_at_the_next_start(tmp_path):
    cache = tmp_path / "domain.json"
    first = keeper(cache, [], [])
    first._accept(snapshot())
    assert not cache.exists(), "kept is what is in force, and nobody said so yet"
    first.keep()
    assert cache.stat().st_mode & 0o777 == 0o600
    second = keeper(cache, [], [])
    second.start()
    assert second.snapshot == snapshot()
    assert second.from_cache
    other = keeper(cache, [], [], "elsewhere.test")
    other.start()
    assert other.snapshot is None


def test_a_damaged_copy_is_told_and_nothing_is_taken_from_it(tmp_path):
    cache = tmp_path / "domain.json"
    cache.write_bytes(encode_snapshot(snapshot())[:-5])
    told: list[Entry] = []
    one = keeper(cache, told, [])
    one.start()
    assert one.snapshot is None
    assert [entry.kind for entry in told] == ["domain-copy-not-read"]


def test_the_request_survives_its_way_to_the_process():
    one = Request("lab.test", "Home", ("dc1", "dc2"), "/etc/krb5.keytab", "CN=x", "", ("10.0.0.1",))
    assert Request.decode(one.encode()) == one


def test_the_process_says_what_is_missing(tmp_path):
    request = Request("lab.test", controllers=("dc1.lab.test",), keytab=str(tmp_path / "none.keytab"))
    with pytest.raises(HostError) as caught:
        asyncio.run(read_in_process(request))
    assert caught.value.reason.code is ReasonCode.KERBEROS_UNAVAILABLE
    assert "none.keytab" in str(caught.value)


def test_a_controller_whose_answer_kills_or_stops_the_reader_is_left_for_the_next(monkeypatch):
    def tried(controller, login, read):
        if controller == "falls":
            os.kill(os.getpid(), signal.SIGKILL)
        if controller == "hangs":
            time.sleep(600)
        if controller == "refuses":
            reason = Reason.of(ReasonCode.DIRECTORY_REFUSED, "no", controller=controller)
            return b"refused\n" + domain_fetch.refusal_form(reason)
        return b"answer\n" + controller.encode()

    monkeypatch.setattr(domain_fetch, "_tried", tried)

    def ask(*controllers: str) -> bytes:
        return domain_fetch._from_any(Request("lab.test", controllers=controllers), Login(), lambda one: b"")

    assert ask("falls", "refuses", "good", "better") == b"good"
    for seconds in (1.0, 8.0, 60.0):  # a busy machine takes its time for a good answer too
        monkeypatch.setattr(domain_fetch, "CONTROLLER_SECONDS", seconds)
        with suppress(HostError):
            assert ask("hangs", "good", "better") == b"good"
            break
    else:
        raise AssertionError("the one that hangs was never left")
    for controller, code in (
        ("falls", ReasonCode.DIRECTORY_UNREACHABLE),
        ("hangs", ReasonCode.DIRECTORY_UNREACHABLE),
        ("refuses", ReasonCode.DIRECTORY_REFUSED),
    ):
        monkeypatch.setattr(domain_fetch, "CONTROLLER_SECONDS", 1.0 if controller == "hangs" else 60.0)
        with pytest.raises(HostError) as caught:
            ask(controller)
        assert caught.value.reason.code is code
        assert controller in str(caught.value.reason)


def test_a_process_that_hangs_is_ended_and_one_that_dies_is_no_answer(monkeypatch, tmp_path):
    started = tmp_path / "pid"
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho $$ > {started}\nexec sleep 600\n")
    program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(program))
    for seconds in (0.5, 5.0, 60.0):  # until the shell had begun
        monkeypatch.setattr("stockade.agent.domain.FETCH_SECONDS", seconds)
        with pytest.raises(HostError, match="does not finish its answer"):
            asyncio.run(read_in_process(Request("lab.test")))
        if started.exists() and started.read_text().strip():
            break
    with pytest.raises(ProcessLookupError):
        os.kill(json.loads(started.read_text()), 0)
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(HostError, match="without an answer"):
        asyncio.run(read_in_process(Request("lab.test")))


@pytest.mark.parametrize("turns", range(4))
def test_it_ends_also_when_it_is_cancelled_at_the_moment_that_it_is_woken(tmp_path, monkeypatch, turns):
    looks = []

    async def fetch(_self) -> Snapshot:
        looks.append(1)
        return snapshot(float(len(looks)))

    monkeypatch.setattr(DomainPolicy, "_fetch", fetch)

    async def story() -> set:
        one = keeper(tmp_path / "domain.json", [], [])
        task = asyncio.create_task(one.run())
        while not looks:
            await asyncio.sleep(0)
        for _ in range(3):  # to where it waits
            await asyncio.sleep(0)
        one.refresh()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        ended, waiting = await asyncio.wait({task}, timeout=30)
        for left in waiting:
            left.cancel()
        return ended

    assert asyncio.run(story())
