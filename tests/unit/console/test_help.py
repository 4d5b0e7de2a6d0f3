"""The command line: help on one screen, an example for everything, completion and manual pages."""

import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from stockade.console import whole_answers
from stockade.console.help import EXAMPLES, EXIT_CODES, GROUPS, leaves, names, one_screen
from stockade.console.main import _guarded, main
from stockade.console.manual import completion, pages
from stockade.console.parser import make_parser
from stockade.model.reasons import ReasonCode, StockadeError, error_for

LEAVES = sorted(path for path, _ in leaves(make_parser()))


def test_help_fits_one_screen_and_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    grouped = [name for _, rows in GROUPS for commands, _ in rows for name in commands.split(", ")]
    assert sorted(grouped) == sorted(names(make_parser())), "each in exactly one group"


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_has_an_example_that_can_be_read(path, capsys):
    command = dict(leaves(make_parser()))[path]
    assert (command.epilog or "").startswith("example"), f"give `{path}` an example in help.py"
    assert "example" in command.format_help()
    for line in EXAMPLES.get(path, ()):
        words = shlex.split(line.partition(" > ")[0])
        assert words[0] == "stockade"
        make_parser().parse_args(_guarded(words[1:]))


def test_examples_are_of_commands_that_there_are():
    assert EXAMPLES.keys() <= set(LEAVES)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["explian"], "did you mean: explain"),
        (["show", "sass"], "did you mean: sas"),
        (["events", "--idd", "4"], "unrecognized"),
        (["capture"], "FILE"),
        (["sa", "rekey", "0x1", "--format", "xml"], "xml"),
    ],
)
def test_a_wrong_command_line_is_told_as_all_errors_are(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("stockade: the command cannot be read")
    assert told in error
    assert re.search(r"what to do: stockade.* --help", error)
    assert "Traceback" not in error


def test_exit_codes_are_documented():
    text = one_screen(make_parser()) + pages(make_parser())["stockade.1"]
    for code, _ in EXIT_CODES:
        assert re.search(rf"\b{code}\b", text)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_and_options(tmp_path):
    script = tmp_path / "stockade.bash"
    script.write_text(completion(make_parser(), "bash"))
    function = re.search(r"complete .*-F (\w+) stockade", script.read_text())
    assert function

    def complete(*words):
        program = (
            f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
            f"{function[1]}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        result = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        return set(result.stdout.split())

    assert complete("stockade", "ev") == {"events"}
    assert complete("stockade", "sa", "re") == {"rekey"}
    assert "--follow" in complete("stockade", "events", "--fo")


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_manual_pages_are_roff_without_a_fault(tmp_path, capsys):
    assert main(["man", str(tmp_path)]) == 0
    files = sorted(tmp_path.glob("*.1"))
    assert len(files) == len(LEAVES) + 1
    for path in files:
        result = subprocess.run(
            ["groff", "-k", "-man", "-ww", "-Tutf8", str(path)], capture_output=True, text=True, check=True
        )
        assert result.stderr == "", path.name
        text = re.sub("\x1b\\[[0-9;]*m|.\b", "", result.stdout)
        for part in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS"):
            assert part in text, path.name


def test_table_and_list_have_every_field(capsys):
    answer = {
        "policy": "p", "nothing": None, "ok": True, "deep": {"inner": 5}, "names": ["a", "b"],
        "rows": [{"peer": "10.0.0.1", "facts": {"x": "\x1b[2J[red]"}}, {"peer": "10.0.0.2"}],
    }  # fmt: skip
    for form in ("table", "list"):
        whole_answers.show(answer, form)
        printed = capsys.readouterr().out
        for word in ("policy", "deep.inner", "5", "a, b", "yes", "10.0.0.1", "10.0.0.2", "facts.x", "[red]"):
            assert word in printed, form
        assert "\x1b" not in printed


REFUSING = """
import sys
import time
from stockade.console import handlers, main as m
from stockade.console import printing
answer = {"policy": "p", "warnings": [], "filters": []}
handlers._client = lambda options: type("C", (), {"get": lambda self, *w: answer})()
sys.exit(m.main(["show", "filters"]))
"""


def test_colours_only_on_a_terminal():
    command = [sys.executable, "-c", REFUSING]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in piped.stdout
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdout=theirs, stdin=subprocess.DEVNULL, env=environment) as child:
        os.close(theirs)
        data = b""
        while True:
            try:
                more = os.read(ours, 65536)
            except OSError:
                break
            if not more:
                break
            data += more
        assert child.wait() == 0
    os.close(ours)
    assert not re.search(rb"\x1b\[(3|4|9)\d", data), "NO_COLOR is honoured on a terminal too"


def test_a_refusal_says_what_and_what_to_do_in_json_too(monkeypatch, capsys):
    def refuse(options):
        raise error_for(ReasonCode.AGENT_NOT_RUNNING, "nothing listens at /x")

    monkeypatch.setattr("stockade.console.handlers._client", refuse)
    assert main(["status"]) == 1
    text = capsys.readouterr().err
    assert "nothing listens at /x" in text
    assert "what to do: start it" in text
    assert main(["status", "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().err)
    assert told["reason"] == "agent-not-running"
    assert told["remedy"]
    assert StockadeError


class Shell:
    """An interactive bash at a terminal, with our completion loaded."""

    def __init__(self, folder, home):
        (folder / "stockade").write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m stockade.console.main "$@"\n'
        )
        (folder / "stockade").chmod(0o755)
        script = folder / "completion"
        script.write_text(completion(make_parser(), "bash"))
        environment = {
            **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "STOCKADE_HOME": str(home),
            "PS1": "", "TERM": "dumb", "INPUTRC": "/dev/null", "HISTFILE": "/dev/null",
        }  # fmt: skip
        self.ours, theirs = pty.openpty()
        self.child = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.type("bind 'set enable-bracketed-paste off'; bind 'set bell-style none'\r")
        self.type(f"source {script}; echo READ''Y\r")
        self.until("READY")

    def type(self, text):
        os.write(self.ours, text.encode())

    def until(self, wanted):
        """What came, up to `wanted`."""
        came, deadline = "", time.monotonic() + 60
        while wanted not in came:
            assert time.monotonic() < deadline, came
            if select.select([self.ours], [], [], 0.2)[0]:
                came += os.read(self.ours, 65536).decode(errors="replace")
        return came

    def close(self):
        self.child.kill()
        self.child.wait()
        os.close(self.ours)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_real_bash_completes_words_tags_and_names(tmp_path):
    home, folder = tmp_path / "home", tmp_path / "bin"
    folder.mkdir()
    main(["--home", str(home), "netsh", "ipsec", "static", "add", "policy", "name=branch office"])
    shell = Shell(folder, home)
    try:
        for typed, completed in (
            ("stockade supp\t", "stockade support-bundle "),
            ("\x15stockade netsh ipsec sta\t", "stockade netsh ipsec static "),
            ("\x15stockade netsh ipsec static set policy na\t", "set policy name="),
            ("\x15stockade netsh ipsec static set policy name=\t", 'set policy name="branch office"'),
        ):
            shell.type(typed)
            shell.until(completed)
    finally:
        shell.close()
