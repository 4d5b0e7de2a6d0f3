"""Scripts: comments, contexts, encodings, errors with their line, all or nothing."""

import pytest

from stockade.model.reasons import CallerError, HostError, ReasonCode, error_for
from stockade.netsh.interpreter import decode_script, run_script
from stockade.netsh.session import Session
from stockade.policy.contract import PolicyTransaction
from stockade.policy.objects import PolicySet

SCRIPT = """\
rem A comment
:: another, and a blank line

# a third
REM

ipsec static
add filterlist L
  add filter L me any   \t
netsh ipsec static add filteraction A action=permit
Netsh.exe ipsec static add policy P
add rule R P L A
"""


@pytest.fixture
def at_root(session: Session) -> Session:
    session.context = ()
    return session


def test_a_script_is_run_line_by_line(at_root: Session) -> None:
    outcomes = run_script(SCRIPT, at_root, source="s.netsh")
    assert [(outcome.line, outcome.status, outcome.text) for outcome in outcomes] == [
        (line, 0, "") for line in (7, 8, 9, 10, 11, 12)
    ]
    assert at_root.context == ()
    objects = at_root.store.read()
    assert [rule.name for rule in objects.policies[0].rules] == ["R", ""]
    assert len(objects.filter_lists[0].filters) == 1


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_and_line_ends(at_root: Session, encoding: str, newline: str) -> None:
    text = "ipsec static\nadd filterlist Größe\n".replace("\n", newline)
    outcomes = run_script(decode_script(text.encode(encoding)), at_root)
    assert [outcome.status for outcome in outcomes] == [0, 0]
    assert [entry.name for entry in at_root.store.read().filter_lists] == ["Größe"]


@pytest.mark.parametrize("content", [b"add \xff", b"\xff\xfea", b"x" * (4 * 1024 * 1024 + 1)])
def test_what_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(CallerError) as error:
        decode_script(content)
    assert error.value.reason.code is ReasonCode.SYNTAX


def test_an_error_does_not_stop_a_script_and_says_its_line(at_root: Session) -> None:
    outcomes = run_script("ipsec static\nadd plicy P\nadd policy P\nnothing\n", at_root, source="s.netsh")
    assert [outcome.status for outcome in outcomes] == [0, 1, 0, 1]
    assert outcomes[1].text.startswith("s.netsh, line 2: ")
    assert outcomes[1].reason is not None
    assert dict(outcomes[1].reason.facts)["nearest"] == "policy"
    assert isinstance(outcomes[1].data, dict)
    assert outcomes[1].data["reason"] == "syntax"
    assert at_root.store.read().policy("P") is not None


def test_an_atomic_script_is_all(at_root: Session) -> None:
    before = at_root.store.version()
    outcomes = run_script(SCRIPT + "show all\n", at_root, atomic=True)
    assert not any(outcome.failed for outcome in outcomes)
    assert "Rule Name                : R" in outcomes[-1].text
    assert at_root.store.version() == before + 1
    assert at_root.store.read().policy("P") is not None


@pytest.mark.parametrize("bad", ["add plicy P", "delete filterlist L", "advfirewall", "add rule R P L A"])
def test_or_nothing(at_root: Session, bad: str) -> None:
    before = at_root.store.version()
    outcomes = run_script(f"{SCRIPT}{bad}\nadd policy Later\n", at_root, atomic=True)
    assert [outcome.status for outcome in outcomes] == [0] * 6 + [1]
    assert outcomes[-1].line == 13
    assert "Nothing of the script was applied" in outcomes[-1].text
    assert at_root.store.read() == PolicySet(store="local")
    assert at_root.store.version() == before


def test_exit_ends_a_script(at_root: Session) -> None:
    outcomes = run_script("ipsec static\nexit\nadd policy P\n", at_root)
    assert len(outcomes) == 2
    assert at_root.store.read().policies == ()
    assert not at_root.ended


def test_a_store_that_fails_ends_a_script() -> None:
    class Broken:
        name = "local"

        def read(self) -> PolicySet:
            raise error_for(ReasonCode.STORE_BUSY, "always")

        def transaction(self) -> PolicyTransaction:
            raise error_for(ReasonCode.STORE_BUSY, "always")

        def version(self) -> int:
            return 0

    session = Session(Broken(), ("ipsec", "static"))  # type: ignore[arg-type]
    outcomes = run_script("show all\nadd policy P\n", session)
    assert [outcome.reason.code for outcome in outcomes if outcome.reason] == [ReasonCode.STORE_BUSY]
    with pytest.raises(HostError):
        run_script("show all\n", session, atomic=True)
