"""What a run of the tests leaves on the machine is told, and what belongs to others is not."""

import importlib.util
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "left_overs.py"
SLEEP = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]


@pytest.fixture
def script() -> ModuleType:
    made = importlib.util.spec_from_file_location("left_overs", SCRIPT)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path("/tmp") / f"stockade-left-{uuid.uuid4()}"
    made.mkdir()
    yield made
    if made.exists():
        made.rmdir()


def sleeper(*words: str, **environment: str) -> "subprocess.Popen[bytes]":
    """A process that has begun."""
    process = subprocess.Popen([*SLEEP, *words], stdout=subprocess.PIPE, env={**os.environ, **environment})
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def test_processes_and_folders_that_are_left_are_told(script: ModuleType, folder: Path) -> None:
    mark = str(uuid.uuid4())
    before = script.state() - {str(folder)}
    with sleeper(**{script.MARK: mark}) as process:
        told = script.left(before, mark)
        assert str(folder) in told
        assert any(line.startswith(f"process {process.pid}: ") for line in told)
        process.kill()
    folder.rmdir()
    told = script.left(before, mark)
    assert str(folder) not in told
    assert not any(line.startswith("process") for line in told)


def test_what_belongs_to_somebody_who_lives_is_not_told(script: ModuleType, folder: Path) -> None:
    before = script.state() - {str(folder)}
    with sleeper(str(folder)) as process:  # in its command line
        assert str(folder) not in script.left(before, str(uuid.uuid4()))
        process.kill()
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    assert script.in_use(f"/run/netns/stockade-lab.{os.getpid()}.{started}.1.alpha")
    assert not script.in_use(f"/run/netns/stockade-lab.{os.getpid()}.1{started}.1.alpha")


def test_the_run_is_told_by_its_exit_status(script: ModuleType, folder: Path, tmp_path: Path) -> None:
    script.GRACE_SECONDS = 0.0
    os.rmdir(folder)
    assert script.main("before", str(tmp_path / "before")) == 0
    folder.mkdir()
    assert script.main("after", str(tmp_path / "before")) == 1
