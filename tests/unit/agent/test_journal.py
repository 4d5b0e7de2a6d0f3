"""The journal: kept over kill -9, bounded on disk, limited for what strangers can cause."""

import json
import os
import signal
import subprocess
import sys
import textwrap

from stockade.agent import journal as journal_module
from stockade.agent.journal import FILES, LIMIT_PER_SECOND, Entry, Journal
from stockade.model.reasons import Reason, ReasonCode


def _lines(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def test_every_entry_is_one_json_line_with_reason_and_remedy(tmp_path):
    journal = Journal(tmp_path, wall_clock=lambda: 1_700_000_000.5)
    journal.write(
        Entry(
            "main-mode-failed", Reason.of(ReasonCode.PSK_MISMATCH, peer="10.0.0.2"), (("peer", "10.0.0.2"),)
        )
    )
    (line,) = _lines(tmp_path)
    assert line["kind"] == "main-mode-failed"
    assert line["reason"] == "psk-mismatch"
    assert line["windows_code"] == 13801
    assert line["remedy"]
    assert line["time"] == "2023-11-14T22:13:20.500Z"


def test_a_killed_writer_loses_no_entry_that_it_had_written(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from stockade.agent.journal import Entry, Journal
        from stockade.model.reasons import Reason, ReasonCode
        journal = Journal(Path(sys.argv[1]))
        number = 0
        while True:
            journal.write(Entry("test", Reason.of(ReasonCode.INTERNAL), (("count", str(number)),)))
            print(number, flush=True)
            number += 1
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    said = -1
    while said < 200:
        said = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read().split()
    child.wait()
    last = int(rest[-1]) if rest else said
    kept = [int(line["count"]) for line in _lines(tmp_path)]
    assert kept[: last + 1] == list(range(last + 1))


def test_entries_that_strangers_cause_are_limited_and_counted(tmp_path):
    now = [1_700_000_000.0]
    journal = Journal(tmp_path, wall_clock=lambda: now[0])
    for _ in range(LIMIT_PER_SECOND + 50):
        journal.write(Entry("message-refused", Reason.of(ReasonCode.MALFORMED_HEADER)))
    assert len(_lines(tmp_path)) == LIMIT_PER_SECOND
    now[0] += 1
    journal.write(Entry("message-refused", Reason.of(ReasonCode.MALFORMED_HEADER)))
    assert _lines(tmp_path)[-1]["suppressed_before"] == 50


def test_the_disk_use_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "FILE_BYTES", 2_000)
    journal = Journal(tmp_path)
    for _ in range(400):
        journal.write(Entry("test", Reason.of(ReasonCode.INTERNAL)))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == FILES
    assert all(path.stat().st_size <= 2_000 for path in tmp_path.iterdir())


def test_a_disk_that_refuses_does_not_stop_the_agent(tmp_path, monkeypatch):
    journal = Journal(tmp_path)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal_module.os, "write", refuse)
    journal.write(Entry("test", Reason.of(ReasonCode.INTERNAL)))
    assert len(journal.recent) == 1


def test_whoever_keeps_entries_gets_the_very_line_of_the_file(tmp_path):
    journal, kept = Journal(tmp_path), []
    journal.kept = lambda record, line: kept.append((record, line))
    journal.write(Entry("test", Reason.of(ReasonCode.INTERNAL, "Größe", peer="10.0.0.2")))
    assert [line for _, line in kept] == (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line) for _, line in kept] == [record for record, _ in kept]


def test_text_that_is_no_unicode_is_kept_all_the_same(tmp_path):
    journal = Journal(tmp_path)
    journal.write(Entry("test", Reason.of(ReasonCode.INTERNAL, "the file caf\udce9")))
    (line,) = _lines(tmp_path)
    assert "caf" in line["text"]
