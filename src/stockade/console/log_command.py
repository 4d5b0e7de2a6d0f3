"""`stockade log`: the Oakley log, negotiation by negotiation. It is read from the file, so it can be read
when the agent is down, too."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from stockade.agent.oakley import (
    NAME,
    SAVED,
    LogLine,
    Negotiation,
    negotiations,
    parse,
    story_text,
)
from stockade.agent.paths import Paths
from stockade.console.output import give, give_record, visible
from stockade.model.reasons import ReasonCode, error_for

FOLLOW_SECONDS = 0.25
HOW_TO = "netsh ipsec dynamic set config property=ikelogging value=1"


def run_log(paths: Paths, *, last: int, peer: str | None, saved: bool, follow: bool, form: str) -> int:
    """CallerError NOT_RECORDED where there is no log, NOT_PRIVILEGED or FILE_UNUSABLE where it cannot be
    read."""
    path = paths.journal / (SAVED if saved else NAME)
    if follow:
        _follow(path, peer, form)
        return 0
    stories = [story for story in negotiations(_read(path)) if peer is None or _is_with(story.first, peer)]
    stories = stories[-last:] if last else stories
    answer = {"negotiations": [story.as_dict() for story in stories]}
    give(answer, form, lambda: _print(stories))
    if not stories:
        print("the log has no negotiation" + (f" with {peer}" if peer else ""), file=sys.stderr)
    return 0


def _print(stories: Sequence[Negotiation]) -> None:
    for place, story in enumerate(stories):
        print(visible("\n".join(([""] if place else []) + story_text(story))))


def _read(path: Path) -> list[LogLine]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return list(parse(file))
    except FileNotFoundError:
        detail = f"there is no {path.name} in {path.parent}; turn it on with: {HOW_TO}"
        raise error_for(ReasonCode.NOT_RECORDED, detail) from None
    except PermissionError as error:
        raise error_for(ReasonCode.NOT_PRIVILEGED, f"{path}: {error.strerror}") from None
    except OSError as error:
        raise error_for(ReasonCode.FILE_UNUSABLE, f"cannot read {path}: {error.strerror}") from None


def _is_with(line: LogLine, peer: str) -> bool:
    """Addresses are written `a.b.c.d:port` and `[a::b]:port`."""
    return line.remote.rpartition(":")[0].strip("[]") == peer


def _follow(path: Path, peer: str | None, form: str) -> None:
    """What is there, and then line by line as it comes, through rotations, until Ctrl-C."""
    for line in parse_stream(_tail(path)):
        if peer is not None and not _is_with(line, peer):
            continue
        ends = {"number": line.number, "phase": line.phase, "local": line.local, "remote": line.remote}
        told = "\n".join(story_text(Negotiation(line, [line]))[1:])
        give_record({**ends, **line.as_dict()}, form, told)


def parse_stream(lines: Iterator[str | None]) -> Iterator[LogLine]:
    """As `parse`, for a file that grows: None means that nothing more is there for now, so what came is a
    whole line."""
    waiting: list[str] = []
    for line in lines:
        if line is None or (waiting and not line.startswith("    ")):
            yield from parse(waiting)
            waiting = []
        if line is not None:
            waiting.append(line)


def _tail(path: Path) -> Iterator[str | None]:
    while not path.exists():
        print(f"waiting for {path}; turn it on with: {HOW_TO}", file=sys.stderr)
        while not path.exists():
            time.sleep(FOLLOW_SECONDS)
    file = path.open(encoding="utf-8", errors="replace")
    try:
        while True:
            line = file.readline()
            if line:
                yield line
                continue
            yield None
            time.sleep(FOLLOW_SECONDS)
            if path.exists() and path.stat().st_ino != _inode(file.fileno()):
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
    finally:
        file.close()


def _inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino
