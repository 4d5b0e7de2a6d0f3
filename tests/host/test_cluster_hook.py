"""The hook of a cluster: what it is told, and that it cannot hold anything up."""

import threading
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from stockade.agent.cluster_hook import AGAIN_SECONDS, MAXIMUM_WAITING, ClusterHook
from stockade.model.reasons import Reason, ReasonCode

LOCAL, PEER = ip_address("10.0.0.100"), ip_address("10.1.0.1")


def script(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return (str(path), "an argument; rm -rf /nothing")


class Failures:
    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self.came = threading.Event()

    def __call__(self, reason: Reason) -> None:
        self.reasons.append(reason)
        self.came.set()


def test_it_is_told_who_came_and_gets_its_arguments_as_they_are(tmp_path: Path) -> None:
    command = script(
        tmp_path, f'(env; echo "FIRST=$1") > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/told'
    )
    failures = Failures()
    hook = ClusterHook(command, "two", failures)
    assert hook.peer_of_another_node(LOCAL, PEER, "one", 0.0)
    until((tmp_path / "told").exists)
    told = (tmp_path / "told").read_text().splitlines()
    assert {"STOCKADE_PEER=10.1.0.1", "STOCKADE_ADDRESS=10.0.0.100", "STOCKADE_OWNER=one"} <= set(told)
    assert "FIRST=an argument; rm -rf /nothing" in told
    # Once for a peer and owner, until some time has passed.
    assert not hook.peer_of_another_node(LOCAL, PEER, "one", AGAIN_SECONDS / 2)
    assert hook.peer_of_another_node(LOCAL, PEER, "one", AGAIN_SECONDS + 0.1)
    hook.stop()
    assert failures.reasons == []


def until(fits: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not fits():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def ended(stat: Path) -> bool:
    """Whether the process is no more, or only waits for its parent to hear of it."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_one_that_does_not_end_is_ended_with_its_children_and_the_caller_never_waits(tmp_path: Path) -> None:
    command = script(tmp_path, f"sleep 300 & echo $! > {tmp_path}/child; wait")
    for seconds in (0.5, 5.0, 30.0):  # until it lived long enough to have a child
        failures = Failures()
        hook = ClusterHook(command, "two", failures, seconds)
        for number in range(MAXIMUM_WAITING + 10):
            assert hook.peer_of_another_node(LOCAL, ip_address(number + 1), "one", 0.0)
        refused = [str(reason) for reason in failures.reasons]
        until(lambda told=failures.reasons: any("no end after" in str(reason) for reason in told))
        hook.stop()
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip():
            break
    # What was too much was refused at once, while the first one still slept.
    assert any("too many" in reason for reason in refused)
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    until(lambda: ended(child))
    assert {reason.code for reason in failures.reasons} == {ReasonCode.CLUSTER_HOOK_FAILED}


def test_one_that_fails_or_is_not_there_is_told(tmp_path: Path) -> None:
    for command, word in (
        (script(tmp_path, "exit 3"), "exit status 3"),
        ((str(tmp_path / "no"),), "No such"),
    ):
        failures = Failures()
        hook = ClusterHook(command, "two", failures)
        hook.peer_of_another_node(LOCAL, PEER, "one", 0.0)
        assert failures.came.wait(60)
        assert word in str(failures.reasons[0])
        hook.stop()


def test_without_a_command_it_only_says_whether_it_is_news() -> None:
    hook = ClusterHook((), "two", Failures())
    assert hook.peer_of_another_node(LOCAL, PEER, "one", 0.0)
    assert not hook.peer_of_another_node(LOCAL, PEER, "one", 1.0)
