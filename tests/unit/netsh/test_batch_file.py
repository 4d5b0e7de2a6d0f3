"""What belongs to the command shell, and what to netsh."""

import pytest

from stockade.model.reasons import CallerError
from stockade.netsh.batch_file import BatchReader, Join, Kind, refuse_control_flow, script_lines
from stockade.netsh.interpreter import run_script
from stockade.netsh.session import Session


def segments(text: str) -> list[tuple[Kind, str, Join]]:
    lines = script_lines(text)
    reader = BatchReader(lines)
    found = []
    for _, line in lines:
        for segment in reader.segments(line):
            if segment.kind is Kind.SET:
                reader.set(segment.text, segment.value)
            found.append((segment.kind, segment.text, segment.join))
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("netsh a > nul 2>&1", [(Kind.COMMAND, "netsh a"), (Kind.NOTE, "> nul"), (Kind.NOTE, "2>&1")]),
        ("netsh a>nul", [(Kind.COMMAND, "netsh a"), (Kind.NOTE, ">nul")]),
        ('netsh a "b > c & d"', [(Kind.COMMAND, 'netsh a "b > c & d"')]),
        ("netsh a ^& b", [(Kind.COMMAND, "netsh a & b")]),
        ("netsh a & netsh b", [(Kind.COMMAND, "netsh a"), (Kind.COMMAND, "netsh b")]),
        ("netsh a | find x", [(Kind.COMMAND, "netsh a"), (Kind.NOTE, "find x")]),
        ("echo y | netsh a", [(Kind.NOTE, "echo y"), (Kind.COMMAND, "netsh a")]),
        ("call netsh a", [(Kind.COMMAND, "netsh a")]),
        ("@netsh a", [(Kind.COMMAND, "netsh a")]),
        ('"C:\\Windows\\netsh.exe" a', [(Kind.COMMAND, '"C:\\Windows\\netsh.exe" a')]),
        ("netsh a 5>x", [(Kind.COMMAND, "netsh a"), (Kind.NOTE, "5>x")]),
        ("netsh a x5>x", [(Kind.COMMAND, "netsh a x5"), (Kind.NOTE, ">x")]),
        ("echo %UNKNOWN%", [(Kind.NOTE, "echo %UNKNOWN%")]),
        ("exit /b 3", [(Kind.EXIT, "exit /b 3")]),
        # netsh's own lines: the signs of the shell mean themselves
        ("add filterlist a&b>c", [(Kind.COMMAND, "add filterlist a&b>c")]),
        ("set policy name=P", [(Kind.COMMAND, "set policy name=P")]),
        ("set config ikelogging 1", [(Kind.COMMAND, "set config ikelogging 1")]),
        ("add filterlist 100%", [(Kind.COMMAND, "add filterlist 100%")]),
        ("add filterlist %%x", [(Kind.COMMAND, "add filterlist %%x")]),
        ("add filterlist %U+0025%x%", [(Kind.COMMAND, "add filterlist %x%")]),
        ("netsh a %%x", [(Kind.COMMAND, "netsh a %x")]),
        ("exit", [(Kind.COMMAND, "exit")]),
        ("rem netsh a & goto x", []),
    ],
)
def test_one_line(line: str, expected: list[tuple[Kind, str]]) -> None:
    assert [(kind, text.strip()) for kind, text, _ in segments(line)] == expected


def test_chains_run_as_the_shell_would(session: Session) -> None:
    session.context = ()
    add = "netsh ipsec static add filterlist"
    lines = (f"{add} A && {add} B", f"{add} A && {add} C", f"{add} A || {add} D", f"{add} E || {add} F")
    outcomes = run_script("\n".join(lines), session)
    assert [entry.name for entry in session.store.read().filter_lists] == ["A", "B", "D", "E"]
    assert [outcome.line for outcome in outcomes if outcome.failed] == [2, 3]


def test_exit_after_a_failure_ends_the_script(session: Session) -> None:
    session.context = ()
    static = "netsh ipsec static add filterlist"
    run_script(f"{static} A || exit /b 1\n{static} A || exit /b 1\n{static} B\n", session)
    assert [entry.name for entry in session.store.read().filter_lists] == ["A"]


@pytest.mark.parametrize(
    "script",
    [
        "goto x",
        "@goto x",
        "if exist x netsh a",
        "for %%i in (1 2) do netsh a",
        "call :sub",
        "call other.cmd",
        "netsh a || goto x",
        "netsh a && (netsh b)",
        "(\nnetsh a\n)",
        "set /p X=?",
        "goto a\n:a",
        "@if 1==1 netsh a",
    ],
)
def test_control_flow_is_refused_with_its_line(session: Session, script: str) -> None:
    with pytest.raises(CallerError) as error:
        refuse_control_flow(script_lines(f"echo first\n{script}"))
    assert dict(error.value.reason.facts)["line"] == "2"
    session.context = ()
    (outcome,) = run_script(f"netsh ipsec static add policy P\n{script}", session)
    assert outcome.failed
    assert session.store.read().policies == ()


@pytest.mark.parametrize(
    "script", ["goto :eof", ":only a label\nnetsh a", "rem if and goto", "netsh a || exit /b"]
)
def test_what_only_looks_like_it(script: str) -> None:
    refuse_control_flow(script_lines(script))


def test_an_unknown_program_stops_its_line_before_anything_of_it_runs(session: Session) -> None:
    session.context = ()
    outcomes = run_script("netsh ipsec static add policy P && format.com c:\n", session)
    assert [outcome.failed for outcome in outcomes] == [True]
    assert "format.com" in outcomes[0].text
    assert session.store.read().policies == ()


@pytest.mark.parametrize(
    "line",
    [
        "add rule r p f a psk=abc%def%ghi",
        'netsh ipsec static add rule r p f a psk="abc%def%ghi"',
        "netsh ipsec static add rule r p f a psk=abc%1def",
    ],
)
def test_a_key_that_looks_like_a_variable_is_not_repeated(session: Session, line: str) -> None:
    (outcome,) = run_script(line, session)
    assert outcome.failed
    assert "def" not in outcome.text


@pytest.mark.parametrize(
    "line",
    [
        "netsh ipsec static add rule r p f a psk=%PSK% && echo %PSK%",
        "netsh ipsec static add rule r p f a psk=%PSK%",  # without quotes the & in the key parts the line
        "echo %PSK%",
    ],
)
def test_a_key_in_a_variable_is_not_told(session: Session, line: str) -> None:
    outcomes = run_script(f'set "PSK=open&sesame"\n{line}\n', session)
    assert outcomes
    assert not any("sesame" in outcome.text + str(outcome.data) for outcome in outcomes)


def test_a_part_of_a_variable_is_refused(session: Session) -> None:
    (outcome,) = run_script("set X=abc\nadd filterlist %X:~0,2%\n", session)
    assert outcome.failed
    assert outcome.line == 2


def test_variables_that_grow_without_end_are_stopped(session: Session) -> None:
    lines = ["set A=" + "x" * 1000, *["set A=%A%%A%"] * 20, "add filterlist %A%"]
    outcomes = run_script("\n".join(lines), session)
    assert outcomes[-1].failed
    assert session.store.read().filter_lists == ()


@pytest.mark.parametrize(
    "tail",
    [r">> %TEMP%\setup.log 2>&1", r'> "%TEMP%\a b.log"', "2>%ERRORS:~0,3%", "> nul 2> %LOG% && echo done"],
)
@pytest.mark.parametrize("start", ["netsh ipsec static", "%NETSH%"])
def test_where_the_shell_would_write_to_need_not_be_known(session: Session, start: str, tail: str) -> None:
    script = f"set NETSH=netsh ipsec static\n{start} add filterlist L {tail}\n"
    outcomes = run_script(script, session)
    assert not any(outcome.failed for outcome in outcomes)
    assert [entry.name for entry in session.store.read().filter_lists] == ["L"]
    assert any("passed over: " in outcome.text and "%" in outcome.text for outcome in outcomes)


@pytest.mark.parametrize(
    "line",
    [
        'netsh ipsec static add filterlist "a > %TEMP%" > nul',  # between quotes it is no redirection
        "netsh ipsec static add filterlist %TEMP% > nul",
        "add filterlist a>%TEMP%",  # no line of the shell
        "%CONTEXT% add filterlist a > %TEMP%",
    ],
)
def test_an_unknown_variable_anywhere_else_is_an_error(session: Session, line: str) -> None:
    outcomes = run_script(f"set CONTEXT=ipsec static\n{line}\n", session)
    (failed,) = [outcome for outcome in outcomes if outcome.failed]
    assert (failed.line, "%TEMP%" in failed.text) == (2, True)
    assert session.store.read().filter_lists == ()
