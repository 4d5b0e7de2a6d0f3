"""Every command there is: each form that its answer can have, and what it makes of nonsense."""

import json
import os
import re
import shlex
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType

import msgspec
import pytest
from certificate_maker import root

from stockade.agent.api import ROUTES
from stockade.agent.client import AgentClient
from stockade.console import handlers, output, whole_answers
from stockade.console.help import EXAMPLES, leaves
from stockade.console.main import main
from stockade.console.parser import make_parser
from stockade.model.reasons import ReasonCode, error_for
from stockade.policy.dynamic import DynamicSet
from stockade.store.dynamic import dynamic_form

PARSER = make_parser()
LEAVES = sorted(path for path, _ in leaves(PARSER))
EVIL = "nobody \x1b[2J\x9b2J [red]“me”[/] \u202e"
KNOWN = {
    "action": "negotiate", "time": "2026-11-22T07:00:00.000Z", "peer": "10.0.0.2", "remote": "10.0.0.2:500",
    "local": "10.0.0.1:500", "inbound_spi": "0x00001001", "outbound_spi": "0x00001002", "event": "sent",
    "began": "07:00", "addresses": ["10.0.0.1", "10.0.0.2"],
}  # fmt: skip
EVENT = {
    "number": 1, "time": KNOWN["time"], "kind": "main-mode-failed", "windows_events": [547, 4653],
    "text": EVIL, "reason": "psk-mismatch", "facts": {"why": EVIL}, "peer": "10.0.0.2",
}  # fmt: skip
STORY = {"number": 1, "phase": "main mode", "role": "initiator", "outcome": "failed", "lines": []} | KNOWN


def sample(of: object, name: str = "") -> object:
    """A value of this type, with what a peer might send in its texts."""
    origin, inner = typing.get_origin(of), typing.get_args(of)
    if name in KNOWN:
        return KNOWN[name]
    if name == "entries":
        return [EVENT]
    if name == "negotiations" and origin is list:
        return [STORY]
    if isinstance(of, type) and issubclass(of, msgspec.Struct):
        hints = typing.get_type_hints(of)
        return {
            field.encode_name: sample(hints[field.name], field.name) for field in msgspec.structs.fields(of)
        }
    if origin in (list, tuple):
        return [sample(inner[0])]
    if origin is dict:
        return {word: sample(inner[1]) for word in ("sent", "main_modes", "quick_modes")}
    if origin in (typing.Union, UnionType):
        return sample(next(one for one in inner if one is not type(None)))
    if origin is typing.Literal:
        return inner[0]
    return {str: EVIL, int: 3, float: 4.5, bool: True}.get(of, {"deep": EVIL})  # type: ignore[call-overload]


def answer_of(client: AgentClient, method: str, target: str, body: bytes | None = None) -> bytes:
    """As an agent answers, for every endpoint that there is."""
    path = target.partition("?")[0]
    if path == "/metrics":
        return b'# TYPE stockade_up gauge\nstockade_up{rule="a b"} 1.0\n'
    if path == "/v1/dynamic":
        return msgspec.json.encode({"version": 1, "objects": dynamic_form(DynamicSet(), with_keys=False)})
    (answer,) = (one.answer for one in ROUTES if (one.method, one.path) == (method, path))
    return msgspec.json.encode(sample(answer))


RUNS: dict[str, Sequence[str]] = {
    "netsh": ("netsh", "ipsec", "static", "show", "policy", "all"),
    "explain": ("explain", "10.0.0.1", "10.0.0.2", "tcp", "--port", "80"),
    "policy diff": ("policy", "diff", "1"),
    "policy rollback": ("policy", "rollback", "1"),
    "policy forget": ("policy", "forget", "50"),
    "policy simple": ("policy", "simple", "--psk-file", "key", "--replace"),
    "cert import": ("cert", "import", "root.pem", "--trust-roots"),
    "events": ("events", "--last", "5"),
    "log": ("log", "--last", "5"),
    "init": ("init", "--peer", "10.0.0.2", "--kerberos", "--require", "--show"),
    "man": ("man", "pages"),
    "lab failover": ("lab", "failover", "--scenario", "restart", "--client", "hotfix"),
    "access account": ("access", "account", "A", "--subject", "CN=a"),
    "access group": ("access", "group", "servers", "a.example"),
    "access remove": ("access", "remove", "1"),
    "support-bundle": ("support-bundle", "bundle-{form}.tar.gz"),
    "web user add": ("web", "user", "add", "{form}", "--password-file", "key"),
    "web user remove": ("web", "user", "remove", "{form}"),
    "access allow": ("access", "allow", "computer", "{form}"),
    "access deny": ("access", "deny", "computer", "{form}"),
}
"""How to run the commands whose example does not fit a folder in a test."""

ELSEWHERE = {
    "agent run": "a service: tests/host starts it in every test",
    "agent end": "tests/host/test_outliving.py",
    "boot-filters install": "tests/host/test_boot_filters.py, in a namespace",
    "boot-filters remove": "tests/host/test_boot_filters.py, in a namespace",
    "bench": "tests/unit/bench",
    "capture": "tests/host/test_capture.py",
    "demo": "tests/unit/lab/test_virtual_demo.py",
    "rsop": "tests/directory",
    "web run": "a service: tests/host/test_web_console.py",
}
SILENT = {
    "access allow", "access deny", "access remove", "access group", "access account", "web user add",
    "web user remove",
}  # fmt: skip
"""They do what they were told, and say nothing."""


@pytest.fixture(autouse=True)
def one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once: it takes longer than most commands, of which there are thousands here."""
    monkeypatch.setattr("stockade.console.main.make_parser", lambda: PARSER)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with a policy, a key, a log and events; and an agent that answers everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKADE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "key").write_bytes(b"a-pre-shared-key-for-tests")
    (tmp_path / "root.pem").write_bytes(root().pem)
    assert main(["policy", "simple", "--psk-file", "key"]) == 0
    (tmp_path / "home" / "journal" / "oakley.log").write_text("")
    monkeypatch.setattr(AgentClient, "_exchange", answer_of)
    return tmp_path


def test_every_command_is_run_here_or_somewhere_else():
    assert ELSEWHERE.keys() <= set(LEAVES)
    assert RUNS.keys() <= set(LEAVES)


def words_of(path: str, form: str) -> list[str]:
    words = RUNS.get(path) or shlex.split(EXAMPLES[path][0].partition(" > ")[0])[1:]
    return [word.replace("{form}", form) for word in words if word != "--follow"]


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in ELSEWHERE])
def test_every_command_has_every_form(path, home, capsys):
    printed = {}
    for form in output.FORMS:
        if path in ("web user remove", "access remove"):  # something to remove
            add = "web user add" if path.startswith("web") else "access allow"
            assert main(words_of(add, form)) == 0
        capsys.readouterr()
        words = words_of(path, form)
        status = (
            main([*words, "--format", form])
            if path != "monitor"
            else main(["monitor", "--format", form, "--once"])
        )
        out, err = capsys.readouterr()
        assert status in (0, 1 if path in ("doctor", "lint") else 0), err
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out), (
            f"{form}: a peer steers the terminal"
        )
        printed[form] = out
    if path in SILENT:
        assert set(printed.values()) == {""}
        return
    answer = json.loads(printed["json"])
    assert printed["table"].strip()
    shown = re.sub(r"\s+", "", printed["list"])
    for value in scalars(answer["data"] if path in ("netsh", "ipseccmd", "policy simple") else answer):
        told = whole_answers._text(value)
        assert re.sub(r"\s+", "", told) in shown, f"{value!r} is missing in the list"


def scalars(answer: object) -> Iterator[object]:
    """The values of an answer that stay the same from one run to the next."""
    if isinstance(answer, dict):
        for name, value in answer.items():
            if name not in ("file", "modified", "number", "revision", "pages", "detail", "guid", "members"):
                yield from scalars(value)
    elif isinstance(answer, list):
        for value in answer:
            yield from scalars(value)
    elif not (isinstance(answer, str) and "\n" in answer):
        yield answer


def test_nobody_else_writes_json_or_asks_for_the_form():
    """One place does it. What is no output of a command may use json: a form of its own, or a file."""
    folder = Path(handlers.__file__).parent
    own = {
        "output.py": 1,
        "support_command.py": 4,
    }  # the members of the archive, and what is taken out of them
    found = {path.name: path.read_text().count("json.dumps") for path in folder.glob("*.py")}
    assert {name: number for name, number in found.items() if number} == own
    deciding = {
        path.name for path in folder.glob("*.py") if re.search(r"form(at)? == \"json\"", path.read_text())
    }
    assert deciding == {"output.py", "netsh_command.py"}, "netsh: JSON has the status of each command, too"


# ---- nonsense

NONSENSE = (
    "", "-1", "x" * 3000, "9" * 30, "/nonexistent/x/y", "/dev", "a=b", "10.0.0.2.3", "%s", "0xzz", "../..",
    "\x00", "\udcff", "\u2028", "--format=xml", "--nosuch", "[", "*", "me",
)  # fmt: skip
NOT_TO_BE_RUN = {
    "agent run", "agent end", "boot-filters install", "boot-filters remove", "demo", "bench", "web run",
}  # fmt: skip


def refusals(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> int:
    """The exit status; what was said has the form that all refusals have."""
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    out, err = capsys.readouterr()
    assert status in (0, 1, 2), (words, status)
    assert "a fault of Stockade itself" not in err, (words, err)
    assert "Traceback" not in out + err, (words, err)
    if status == 2:
        assert err.startswith("stockade: the command cannot be read"), (words, err)
    if status:
        assert "what to do" in err or "remedy" in err or not err, (words, err)
    return status


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in NOT_TO_BE_RUN])
def test_nonsense_is_refused_in_words(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKADE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STOCKADE_DEBUG", "1")  # a fault of ours fails here, with its traceback
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    depth = len(path.split())
    words = words_of(path, "x")
    assert refusals([*words[:depth], "--nosuch-option", "x"], capsys) == (
        1 if path == "ipseccmd" else 2  # its words begin with dashes too
    )
    if path == "lab failover":  # some nonsense is part of every scenario's name, and those take their time
        return
    for place in range(depth, len(words)):
        for word in NONSENSE:
            refusals([*words[:place], word, *words[place + 1 :]], capsys)


@pytest.mark.parametrize("place", ["a-file", "/proc/nowhere", "a-file/below"])
def test_a_home_that_cannot_be_is_refused_in_words(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKADE_DEBUG", "1")
    (tmp_path / "a-file").write_text("")
    (tmp_path / "key").write_text("a-pre-shared-key-for-tests")
    for path in (
        "status",
        "lint",
        "access allow",
        "policy simple",
        "cert list",
        "events",
        "log",
        "web user list",
    ):
        refusals(["--home", place, *words_of(path, "x")], capsys)


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (
            PermissionError(13, "Permission denied", "/root/x"),
            ReasonCode.NOT_PRIVILEGED,
            "/root/x: Permission denied",
        ),
        (OSError(28, "No space left on device"), ReasonCode.SYSTEM_REFUSED, "No space left on device"),
        (ValueError("the key is abracadabra"), ReasonCode.INTERNAL, "ValueError at console/main.py:"),
    ],
)
def test_what_nobody_foresaw_is_told_without_a_traceback(error, code, word, monkeypatch, capsys):
    def fail(options: object) -> int:
        raise error

    monkeypatch.delenv("STOCKADE_DEBUG", raising=False)
    monkeypatch.setattr(handlers, "run_status", fail)
    monkeypatch.setattr("stockade.console.main.make_parser", make_parser)  # anew, with that one
    assert main(["status"]) == 1
    err = capsys.readouterr().err
    assert str(error_for(code, "").reason).split(":")[0] in err
    assert word in err
    assert "abracadabra" not in err
    assert main(["status", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().err)["reason"] == code.word
