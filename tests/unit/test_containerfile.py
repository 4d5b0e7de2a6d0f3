"""The image file says what a reader of it relies on: the capabilities of the unit, commands without a shell,
and folders that outlive a container."""

import json
import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
TEXT = (CHECKOUT / "packaging" / "oci" / "Containerfile").read_text(encoding="utf-8")
UNIT = (CHECKOUT / "packaging" / "systemd" / "stockade.service").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines]


def test_it_is_told_to_run_with_the_capabilities_of_the_unit() -> None:
    (asked,) = re.findall(r"--cap-add ([A-Z_,]+)", TEXT)
    (bounded,) = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT, re.MULTILINE)
    assert {f"CAP_{name}" for name in asked.split(",")} == set(bounded.split())
    assert "--cap-drop all" in TEXT
    assert "no-new-privileges" in TEXT


def test_it_runs_the_agent_without_a_shell_and_stops_it_in_order() -> None:
    last = dict(instructions())
    assert json.loads(last["ENTRYPOINT"]) == ["/usr/bin/stockade"]
    assert json.loads(last["CMD"]) == ["agent", "run"]
    assert last["STOPSIGNAL"] == "SIGTERM"


def test_policy_and_journal_outlive_a_container() -> None:
    assert set(json.loads(dict(instructions())["VOLUME"])) == {"/var/lib/stockade", "/var/log/stockade"}


def test_what_builds_the_package_does_not_stay_in_the_image() -> None:
    stages = [words for name, words in instructions() if name == "FROM"]
    assert len(stages) == 2
    assert all(":bookworm-slim" in stage for stage in stages), "the release that the package is made for"
    last = TEXT[TEXT.rindex("\nFROM ") :]
    assert "gcc" not in last
    assert "COPY" not in last
    assert "ADD " not in TEXT
