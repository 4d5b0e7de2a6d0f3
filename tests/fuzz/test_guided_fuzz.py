"""The kept corpus through every target, hypothesis on the engine's, and a short coverage-guided run."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_target import STAGES, Form, fuzz_engine
from guided import HERE, TARGETS, inputs, load
from hypothesis import given, settings
from hypothesis import strategies as st

SECONDS = 4


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_kept_corpus_breaks_no_contract(name: str) -> None:
    target, paths = load(name), inputs(name)
    assert len(paths) > 10
    for path in paths:
        try:
            target(path.read_bytes())
        except BaseException as error:
            error.add_note(f"input {path}")
            raise


@settings(max_examples=100, deadline=None)
@given(
    number=st.integers(0, STAGES - 1),
    to_initiator=st.booleans(),
    form=st.sampled_from(Form),
    fields=st.binary(min_size=4, max_size=4),
    body=st.binary(max_size=120),
)
def test_any_bytes_at_any_moment_leave_the_engine_sound(
    number: int, to_initiator: bool, form: Form, fields: bytes, body: bytes
) -> None:
    fuzz_engine(bytes((number, form << 1 | to_initiator)) + fields + body)


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_short_guided_run_finds_nothing(name: str, tmp_path: Path) -> None:
    words = [sys.executable, str(HERE / "guided.py"), name, "--seconds", str(SECONDS)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "stat::number_of_executed_units" in done.stderr
