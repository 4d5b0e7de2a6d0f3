"""The Oakley log: `oakley.log`, the story of every negotiation, as text for people and for `stockade log`.

    2026-11-22T03:11:57.123Z #4/3 quick mode initiator 10.0.0.1:500 > 10.0.0.2:500 +0.012 chosen: the peer …
        offer 1 ESP[AES128,SHA1]:100000k/3600s: chosen

`#4/3` is negotiation 4 under main mode 3, `+0.012` seconds since that negotiation began. The indented lines
are facts. A line that refuses something ends with the reason's word, the remedy and Windows' error code.

Rotation as Windows does it: the log of the last run is `oakley.log.sav`, and a log that is full (50 000
lines) becomes that, too; so the two never take more than 100 000 lines. Off by default: `netsh ipsec dynamic
set config property=ikelogging value=1` turns it on, at once and for good."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stockade.ike.contract import StoryLine

NAME = "oakley.log"
SAVED = "oakley.log.sav"
MAXIMUM_LINES = 50_000
MAXIMUM_TEXT = 2_000

_HEAD = re.compile(
    r"(?P<time>\S+) #(?P<number>\d+)(?:/(?P<under>\d+))? (?P<phase>main mode|quick mode|message) "
    r"(?P<role>initiator|responder) (?P<local>\S+) > (?P<remote>\S+) \+(?P<elapsed>\d+\.\d+) "
    r"(?P<event>[a-z-]+): (?P<text>.*)"
)
_REASON_FACTS = ("reason", "remedy", "Windows error")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line as it was read back. `elapsed` in seconds; `facts` in order."""

    time: str
    number: int
    under: int
    phase: str
    role: str
    local: str
    remote: str
    elapsed: float
    event: str
    text: str
    facts: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, object]:
        facts = [{"name": name, "value": value} for name, value in self.facts if name not in _REASON_FACTS]
        record: dict[str, object] = {
            "time": self.time,
            "elapsed": self.elapsed,
            "event": self.event,
            "text": self.text,
            "facts": facts,
        }
        told = dict(self.facts)
        if "reason" in told:
            record |= {"reason": told["reason"], "remedy": told.get("remedy", "")}
            code = told.get("Windows error")
            record["windows_code"] = int(code) if code is not None and code.isdigit() else None
        return record


@dataclass(slots=True)
class Negotiation:
    """All lines of one negotiation."""

    first: LogLine
    lines: list[LogLine] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """How it stands: the last line that settles something."""
        settled = [line.event for line in self.lines if line.event in ("established", "failed", "deleted")]
        return settled[-1] if settled else "under way"

    @property
    def seconds(self) -> float | None:
        """How long it took to come up or to fail; None while neither has happened."""
        ends = [line.elapsed for line in self.lines if line.event in ("established", "failed")]
        return ends[0] if ends else None

    def as_dict(self) -> dict[str, object]:
        first = self.first
        return {
            "number": first.number,
            "under": first.under or None,
            "phase": first.phase,
            "role": first.role,
            "local": first.local,
            "remote": first.remote,
            "began": first.time,
            "outcome": self.outcome,
            "seconds": self.seconds,
            "lines": [line.as_dict() for line in self.lines],
        }


class OakleyLog:
    """Writes the log into `folder`. Never raises: a full disk must not stop the key exchange."""

    def __init__(self, folder: Path, wall_clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._wall_clock = wall_clock
        self._file: int | None = None
        self._lines = 0
        self._fresh = True

    def write(self, line: StoryLine) -> None:
        text = render(line, self._wall_clock())
        try:
            if self._file is None or self._lines >= MAXIMUM_LINES:
                self._open(save=self._fresh or self._lines >= MAXIMUM_LINES)
            assert self._file is not None
            os.write(self._file, text.encode())
            self._lines += text.count("\n")
        except OSError:
            self.close()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self, *, save: bool) -> None:
        self.close()
        path = self._folder / NAME
        if save and path.exists():
            path.replace(self._folder / SAVED)
        if save:
            self._lines = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)
        self._fresh = False


# ---- text
def render(line: StoryLine, wall: float) -> str:
    """One line of the story as lines of the log, each with its end."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall * 1000) % 1000:03d}Z"
    number = f"#{line.number}/{line.under}" if line.under else f"#{line.number}"
    role = "initiator" if line.initiator else "responder"
    head = (
        f"{stamp} {number} {line.phase or 'message'} {role} {line.local} > {line.remote} "
        f"+{line.elapsed:.3f} {line.event}: {_clean(line.text)}\n"
    )
    facts = list(line.facts)
    if line.reason is not None:
        code = line.reason.code
        facts.append(("reason", f"{code.word}: {code.meaning}"))
        facts.append(("remedy", code.remedy))
        if code.windows_code is not None:
            facts.append(("Windows error", str(code.windows_code)))
    return head + "".join(f"    {_name(name)}: {_clean(value)}\n" for name, value in facts)


def _clean(text: str) -> str:
    """What a peer calls itself must not break or forge lines."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text[:MAXIMUM_TEXT]
    )


def _name(name: str) -> str:
    return _clean(name.rstrip(":")).replace(": ", " ")


def parse(lines: Iterable[str]) -> Iterator[LogLine]:
    """The log read back. Lines of no known form (the torn last line of a killed agent) are left out."""
    head: dict[str, str] | None = None
    facts: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith("    ") and head is not None:
            name, _, value = line.strip().partition(": ")
            facts.append((name, value))
            continue
        if head is not None:
            yield _line(head, facts)
        match = _HEAD.fullmatch(line.rstrip("\n"))
        head = None if match is None else match.groupdict()
        facts = []
    if head is not None:
        yield _line(head, facts)


def _line(head: dict[str, str], facts: list[tuple[str, str]]) -> LogLine:
    return LogLine(
        head["time"],
        int(head["number"]),
        int(head["under"] or 0),
        head["phase"],
        head["role"],
        head["local"],
        head["remote"],
        float(head["elapsed"]),
        head["event"],
        head["text"],
        tuple(facts),
    )


def negotiations(lines: Iterable[LogLine]) -> list[Negotiation]:
    """The lines sorted into stories, in the order in which these began. A message that belongs to none is a
    story of its own."""
    found: dict[int, Negotiation] = {}
    stories: list[Negotiation] = []
    for line in lines:
        story = found.get(line.number) if line.number else None
        if story is None:
            story = Negotiation(line)
            stories.append(story)
            if line.number:
                found[line.number] = story
        story.lines.append(line)
    return stories


def story_text(story: Negotiation) -> list[str]:
    """One negotiation as people read it."""
    first = story.first
    if not first.number:
        title = f"message from {first.remote}, part of no negotiation"
    else:
        who = "we began" if first.role == "initiator" else "the peer began"
        under = f" under #{first.under}" if first.under else ""
        took = "" if story.seconds is None else f" after {story.seconds:.3f} s"
        title = f"#{first.number} {first.phase} with {first.remote}{under}: {who}; {story.outcome}{took}"
    text = [f"{first.time}  {title}"]
    last = first.elapsed
    for line in story.lines:
        step = f"(+{line.elapsed - last:.3f})" if line.elapsed > last else ""
        last = line.elapsed
        text.append(f"  {line.elapsed:9.3f} s {step:>10}  {line.event:<12} {line.text}")
        text += [f"{'':37}{name}: {value}" for name, value in line.facts]
    return text
