"""Settings, accounts, sessions, tries and pictures of the web console."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from stockade.agent.web_settings import read_web_settings
from stockade.console.web.accounts import make_account, read_accounts, verify, write_accounts
from stockade.console.web.pictures import THIS_HOST, ladder, marks_of, time_line, verdict
from stockade.console.web.sessions import FREE_TRIES, MAXIMUM_SESSIONS, MAXIMUM_TRACKED, Sessions, Tries
from stockade.model.reasons import CallerError, HostError, ReasonCode, StockadeError

EVIL = "<script>alert(1)</script>\"'&"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# ---- settings


def settings_of(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "web.toml"
    path.write_text(text)
    return read_web_settings(path)


def test_without_a_file_it_is_on_loopback(tmp_path: Path) -> None:
    settings = read_web_settings(tmp_path / "none.toml")
    assert settings.address.is_loopback
    assert settings.hosts == {"localhost", "127.0.0.1", "[::1]"}
    assert settings.url == "http://127.0.0.1:8500"


@pytest.mark.parametrize(
    "text",
    [
        "listen = '0.0.0.0:8500'",  # in clear over the network
        "listen = '10.0.0.1:8500'\ncertificate = 'a.pem'",
        "listen = '0.0.0.0:8500'\ncertificate = 'a.pem'\nkey = 'a.key'",  # known by no name
        "listen = 'localhost:8500'",
        "listen = '127.0.0.1'",
        "listen = '127.0.0.1:70000'",
        "lisen = '127.0.0.1:8500'",
        "session_minutes = 0",
        "session_minutes = true",
        "names = ['two words']",
        "names = 'one'",
        "listen = 5",
        "this is no TOML",
    ],
)
def test_doubtful_settings_stop_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(StockadeError) as caught:
        settings_of(tmp_path, text)
    assert caught.value.reason.code is ReasonCode.INVALID_SETTING


def test_names_and_tls_open_it_further(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path, "listen = '[2001:db8::1]:443'\ncertificate = 'a'\nkey = 'b'\nnames = ['Gate.example']"
    )
    assert settings.secure
    assert settings.hosts == {"[2001:db8::1]", "gate.example"}


# ---- accounts


def test_accounts_survive_and_open_with_their_password_only(tmp_path: Path) -> None:
    account = make_account("ann", "operator", "a long password")
    folder = tmp_path / "web" / "accounts"
    write_accounts(folder, {"ann": account})
    assert (folder.parent.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o700, 0o711)
    known = read_accounts(folder)
    assert known == {"ann": account}
    assert verify(known, "ann", "a long password") == account
    assert verify(known, "ann", "a long passwore") is None
    assert verify(known, "bob", "a long password") is None
    assert verify(known, "", "") is None
    assert "password" not in (folder / "accounts.json").read_text()
    assert account.digest.hex() not in repr(account)


@pytest.mark.parametrize(
    ("name", "role", "password"),
    [
        ("", "viewer", "long enough"),
        ("a b", "viewer", "long enough"),
        ("a", "root", "long enough"),
        ("a", "viewer", "short"),
    ],
)
def test_doubtful_accounts_are_refused(name: str, role: str, password: str) -> None:
    with pytest.raises(CallerError):
        make_account(name, role, password)


@pytest.mark.parametrize("content", ["", "[]", '{"accounts": [{"name": "a"}]}', '{"accounts": 5}'])
def test_accounts_that_cannot_be_read_let_nobody_in(tmp_path: Path, content: str) -> None:
    (tmp_path / "accounts.json").write_text(content)
    with pytest.raises(HostError):
        read_accounts(tmp_path)


# ---- sessions


def test_sessions_end_when_unused_and_after_half_a_day() -> None:
    clock = Clock()
    sessions = Sessions(600, clock)
    cookie = sessions.begin("ann", "viewer")
    clock.now = 599
    assert sessions.find(cookie, touch=False) is not None
    clock.now = 601
    assert sessions.find(cookie) is None, "what a page asks by itself must not keep a session"
    cookie = sessions.begin("ann", "viewer")
    for _ in range(12 * 10 + 1):
        assert sessions.find(cookie) is not None or clock.now > 12 * 3600
        clock.now += 360
    clock.now += 3600
    assert sessions.find(cookie) is None
    assert sessions.find("made up") is None
    assert sessions.find(None) is None


def test_sessions_are_bounded_and_tokens_their_own() -> None:
    sessions = Sessions(600, Clock())
    cookies = [sessions.begin(f"user{number}", "viewer") for number in range(MAXIMUM_SESSIONS + 10)]
    assert len(sessions) == MAXIMUM_SESSIONS
    assert sessions.find(cookies[0]) is None
    one, other = sessions.find(cookies[-1]), sessions.find(cookies[-2])
    assert one is not None
    assert other is not None
    assert one.accepts(one.token)
    assert not one.accepts(other.token)
    assert not one.accepts("")
    assert one.token not in repr(one)
    sessions.end_all_of(lambda session: session.name == "user100")
    assert len(sessions) == 1


def test_guessing_has_to_wait_longer_and_longer() -> None:
    clock = Clock()
    tries = Tries(clock)
    waits = []
    for _ in range(FREE_TRIES + 8):
        waits.append(tries.wait("10.0.0.1", "ann"))
        clock.now += waits[-1]
        tries.failed("10.0.0.1", "ann")
    assert waits[: FREE_TRIES - 1] == [0.0] * (FREE_TRIES - 1)
    assert waits[FREE_TRIES:] == sorted(waits[FREE_TRIES:])
    assert waits[-1] == 900
    assert tries.wait("10.0.0.2", "bob") == 0


def test_an_account_is_guarded_against_many_addresses_and_a_network_counts_once() -> None:
    tries = Tries(Clock())
    for number in range(4 * FREE_TRIES):
        tries.failed(f"10.1.{number}.1", "ann")
    assert tries.wait("10.9.9.9", "ann") > 0
    assert tries.wait("10.9.9.9", "bob") == 0
    for number in range(FREE_TRIES):
        tries.failed(f"2001:db8::{number:x}", "")
    assert tries.wait("2001:db8::ffff", "") > 0
    assert tries.wait("2001:db8:0:1::1", "") == 0
    for number in range(MAXIMUM_TRACKED + 100):
        tries.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "")
    assert len(tries) <= MAXIMUM_TRACKED


# ---- pictures


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(str(picture))


def test_a_ladder_has_an_arrow_for_every_message_and_escapes_what_peers_say() -> None:
    events = ["begun", "sent", "received", "refused", "sent-again", "failed"]
    story = {
        "phase": "main mode",
        "local": "10.0.0.1:500",
        "remote": EVIL,
        "outcome": "failed",
        "lines": [{"event": event, "text": EVIL, "elapsed": 0.5 * n} for n, event in enumerate(events)],
    }
    picture = ladder(story)
    root = parsed(picture)
    kinds = [element.get("class") for element in root if element.tag.endswith("path")]
    assert kinds == ["arrow out", "arrow in", "arrow again"]
    assert "<script" not in str(picture)
    many = {**story, "lines": story["lines"] * 100}  # type: ignore[operator]
    assert len(str(ladder(many))) < 60_000


@pytest.mark.parametrize(
    ("word", "outbound", "tone", "blocked"),
    [("secure", "secure", "lock", False), ("block", "drop", "bad", True), ("permit", "send", "good", False)],
)
def test_a_verdict_is_a_shield_and_a_way(word: str, outbound: str, tone: str, blocked: bool) -> None:
    picture = verdict(
        {
            "flow": f"tcp 10.0.0.1 -> {EVIL}",
            "direction": "outbound",
            "verdict": word,
            "outbound": outbound,
            "inbound_clear": "drop",
            "return_path": {"verdict": word},
            "rule": EVIL,
        }
    )
    parsed(picture)
    assert f'class="shield {tone}"' in picture
    assert ('class="cross"' in picture) is blocked
    assert "<script" not in picture


def test_a_time_line_has_a_lane_for_each_peer() -> None:
    entries = [
        {"time": "2026-01-02T03:04:05.000Z", "kind": "agent-started", "text": "on"},
        {
            "time": "2026-01-02T03:04:06.000Z",
            "kind": "main-mode-established",
            "peer": "10.0.0.2:500",
            "text": EVIL,
        },
        {
            "time": "2026-01-02T03:04:09.000Z",
            "kind": "quick-mode-failed",
            "peer": "[2001:db8::2]:500",
            "text": "",
        },
        {"time": "nonsense", "kind": "quick-mode-failed", "peer": "10.0.0.3:500"},
        {"time": "2026-01-02T03:04:09.000Z", "kind": "something-else", "peer": "10.0.0.4:500"},
    ]
    marks = marks_of(entries)
    assert [mark.lane for mark in marks] == [THIS_HOST, "10.0.0.2", "2001:db8::2"]
    root = parsed(time_line(marks))
    assert len([element for element in root if element.tag.endswith("circle")]) == 3
    assert time_line([]) == ""
