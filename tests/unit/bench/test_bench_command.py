"""`stockade bench`: every benchmark of the list runs from the command line, with text and with JSON."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stockade.bench import BENCHMARKS, ike_shards
from stockade.console.main import main

ROOT = Path(__file__).parents[3]
FEW = ("--flows", "200")


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_is_a_module_with_its_two_functions_and_a_script(name: str) -> None:
    module = importlib.import_module(f"stockade.bench.{name}")
    assert callable(module.add_arguments)
    assert callable(module.run)
    assert (ROOT / "benchmarks" / f"{name}.py").exists()


def test_policy_figures_as_json_name_their_limits() -> None:
    # In a process of its own: it looks for garbage again and again, which takes long among all the tests.
    words = [sys.executable, "-m", "stockade.console.main", "bench", "policy", "--format", "json"]
    words += ["--sizes", "20,40", "--changed", "20", *FEW]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    figures = {one["name"]: one for one in document["figures"]}
    assert figures["known flow at 40 filters"]["reference"] == 1.0
    assert figures["known flow at 40 filters"]["ratio"] == figures["known flow at 40 filters"]["value"]
    assert "known flow: growth from 20 to 40 filters" in figures
    assert "one filter replaced: median" in figures


def test_policy_figures_as_text_come_with_the_difference_that_a_change_makes() -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / "policy.py"), "--sizes", "20", "--changed", "30", *FEW]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    replaced = next(
        line for line in done.stdout.splitlines() if line.startswith("one filter replaced ")
    ).split()
    # One mirrored filter is one specific filter in each direction.
    assert replaced[-3:-1] == ["2", "2"]


def test_an_unknown_benchmark_and_a_wrong_option_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as unknown:
        main(["bench", "nothing"])
    with pytest.raises(SystemExit) as wrong:
        main(["bench", "policy", "--sizes", "0"])
    assert (unknown.value.code, wrong.value.code) == (2, 2)
    assert "stockade bench policy" in capsys.readouterr().err


def test_every_sa_of_many_peers_is_rekeyed_on_the_clock_of_one_core(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["bench", "ike", "--format", "json", "--sections", "rekey", "--rekeys", "20"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    figures = {one["name"]: one for one in document["figures"]}
    assert figures["rekeys"]["value"] == 20
    assert figures["least left of a hard lifetime"]["value"] > 0
    assert figures["worst lateness of a timer"]["reference"] == 1000.0


def test_shards_of_the_engine_make_all_handshakes_between_them() -> None:
    done = ike_shards.measure("curve-25519", None, 5, 2)  # AssertionError where one did not come up
    assert min(done.rate, done.processors, done.responder, done.capacity) > 0
