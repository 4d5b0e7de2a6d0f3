"""Says what a run of the tests has left on the machine: processes, network namespaces, tables of nftables,
rules of routing, interfaces, folders.

    scripts/left_overs.py before FILE    what is there now, into FILE
    scripts/left_overs.py after FILE     what has come since; exit status 1 where it is anything

Processes are told by the environment variable STOCKADE_TEST_RUN, which the run gives to all that it starts.
Other runs may be under way on the same machine: what belongs to a living process of theirs is left out."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

MARK = "STOCKADE_TEST_RUN"
FOLDERS = (
    ("/tmp", "stockade*"),  # noqa: S108
    ("/var/tmp", "stockade*"),  # noqa: S108
    ("/etc/netns", "*"),
    ("/run/netns", "*"),
)
QUESTIONS = {
    "table": ["nft", "list", "tables"],
    "routing rule": ["ip", "rule"],
    "routing rule (IPv6)": ["ip", "-6", "rule"],
    "interface": ["ip", "-brief", "link"],
}
GRACE_SECONDS = 30.0
"""What is on its way out may need so long on a busy machine."""


def state() -> set[str]:
    """What is there, each in a line of words."""
    found = {f"{folder}/{path.name}" for folder, names in FOLDERS for path in Path(folder).glob(names)}
    for kind, command in QUESTIONS.items():
        try:
            asked = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:  # not installed: then the tests have made none
            continue
        lines = asked.stdout.splitlines()
        found |= {
            f"{kind}: {line.split('@')[0].split()[0] if kind == 'interface' else line}" for line in lines
        }
    return found


def processes(mark: str) -> dict[int, str]:
    """The living processes with this mark and their command lines, but for this one and those above it."""
    above, process = set(), os.getpid()
    while process > 1:
        above.add(process)
        process = int(_status(process).get("PPid", "0"))
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in above:
            continue
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if words and not _status(int(entry.name)).get("State", "Z").startswith(("Z", "X")):
                    found[int(entry.name)] = words
        except OSError:
            continue
    return found


def in_use(path: str) -> bool:
    """Whether it belongs to a living process: by its name (stockade-lab.PROCESS.START…), or as a process has
    it in its command line."""
    parts = Path(path).name.split(".")
    if len(parts) > 3 and parts[1].isdecimal() and parts[2].isdecimal():
        try:
            return Path(f"/proc/{parts[1]}/stat").read_text().rpartition(")")[2].split()[19] == parts[2]
        except OSError:
            return False
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if path.encode() in (entry / "cmdline").read_bytes():
                    return True
            except OSError:
                continue
    return False


def left(before: set[str], mark: str) -> list[str]:
    """What has come since, in words."""
    new = sorted(state() - before)
    told = [name for name in new if not (name.startswith("/") and in_use(name))]
    return told + [f"process {number}: {words[:200]}" for number, words in processes(mark).items()]


def _status(process: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{process}/status").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def main(when: str, file: str) -> int:
    if when == "before":
        Path(file).write_text(json.dumps(sorted(state())), encoding="utf-8")
        return 0
    before = set(json.loads(Path(file).read_text(encoding="utf-8")))
    deadline = time.monotonic() + GRACE_SECONDS
    while (told := left(before, os.environ.get(MARK, ""))) and time.monotonic() < deadline:
        time.sleep(0.5)
    for line in told:
        print(f"left by the tests: {line}", file=sys.stderr)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
