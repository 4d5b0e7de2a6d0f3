"""The Oakley log as a file: written, read back, rotated as Windows does it."""

import stat
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.agent import oakley
from stockade.agent.oakley import NAME, SAVED, OakleyLog, negotiations, parse, render, story_text
from stockade.ike.contract import StoryLine
from stockade.model.addresses import Endpoint
from stockade.model.reasons import Reason, ReasonCode

WALL = 1_790_000_000.5


def line(number: int = 3, text: str = "we choose AES", event: str = "chosen", **more: object) -> StoryLine:
    local, remote = Endpoint(ip_address("10.0.0.1"), 500), Endpoint(ip_address("10.0.0.2"), 4500)
    settings = {"elapsed": 0.25, "step": 0.1, **more}
    return StoryLine(number, 0, "main mode", True, local, remote, event, text, **settings)  # type: ignore[arg-type]


def read(path: Path) -> list[oakley.LogLine]:
    with path.open() as file:
        return list(parse(file))


def test_line_survives_the_file(tmp_path: Path) -> None:
    log = OakleyLog(tmp_path, lambda: WALL)
    log.write(line(facts=(("offer 1 AES-SHA1:", "encryption, we have 3DES"), ("offer 2", "chosen"))))
    refusal = Reason.of(ReasonCode.PSK_MISMATCH)
    log.write(line(event="failed", text="no answer", reason=refusal))
    log.close()
    first, second = read(tmp_path / NAME)
    assert (first.number, first.phase, first.role, first.elapsed) == (3, "main mode", "initiator", 0.25)
    assert first.facts == (("offer 1 AES-SHA1", "encryption, we have 3DES"), ("offer 2", "chosen"))
    assert first.remote == "10.0.0.2:4500"
    told = second.as_dict()
    assert str(told["reason"]).startswith("psk-mismatch")
    assert told["remedy"] == refusal.code.remedy
    assert told["windows_code"] == refusal.code.windows_code
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


@given(st.text(max_size=60), st.text(max_size=30), st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_nothing_that_a_peer_says_forges_a_line(text: str, name: str, value: str) -> None:
    written = render(line(text=text, facts=((name, value),)), WALL)
    lines = written.splitlines(keepends=True)
    assert len(lines) == 2
    (back,) = parse(lines)
    assert len(back.facts) == 1
    assert back.event == "chosen"


def test_stories_are_put_together_and_told(tmp_path: Path) -> None:
    log = OakleyLog(tmp_path, lambda: WALL)
    for number, event in ((1, "begun"), (2, "begun"), (1, "established"), (2, "failed"), (0, "refused")):
        log.write(line(number, f"text {number}", event))
    stories = negotiations(read(tmp_path / NAME))
    assert [(story.first.number, len(story.lines), story.outcome) for story in stories] == [
        (1, 2, "established"),
        (2, 2, "failed"),
        (0, 1, "under way"),
    ]
    text = "\n".join(story_text(stories[0]))
    assert "#1 main mode with 10.0.0.2:4500: we began; established after 0.250 s" in text
    assert stories[1].as_dict()["outcome"] == "failed"


def test_log_of_the_last_run_is_saved_at_the_first_line_of_the_next(tmp_path: Path) -> None:
    for run in ("one", "two", "three"):
        log = OakleyLog(tmp_path, lambda: WALL)
        log.write(line(text=run))
        log.close()
    assert [entry.text for entry in read(tmp_path / NAME)] == ["three"]
    assert [entry.text for entry in read(tmp_path / SAVED)] == ["two"]


def test_full_log_becomes_the_saved_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oakley, "MAXIMUM_LINES", 10)
    log = OakleyLog(tmp_path, lambda: WALL)
    for number in range(25):
        log.write(line(text=str(number)))
    log.close()
    assert [entry.text for entry in read(tmp_path / NAME)] == ["20", "21", "22", "23", "24"]
    assert [entry.text for entry in read(tmp_path / SAVED)] == [str(number) for number in range(10, 20)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, SAVED]


def test_logging_that_is_turned_off_and_on_goes_on_in_the_same_log(tmp_path: Path) -> None:
    log = OakleyLog(tmp_path, lambda: WALL)
    log.write(line(text="before"))
    log.close()
    log.write(line(text="after"))
    assert [entry.text for entry in read(tmp_path / NAME)] == ["before", "after"]


def test_folder_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    log = OakleyLog(folder, lambda: WALL)
    log.write(line())
    folder.mkdir()
    log.write(line(text="there again"))
    assert [entry.text for entry in read(folder / NAME)] == ["there again"]


def test_torn_last_line_is_left_out() -> None:
    whole = render(line(), WALL)
    lines = [whole, whole[: len(whole) // 3]]
    assert len(list(parse(lines))) == 1
