"""What the shell offers after a beginning, and which lines it must not remember."""

import pytest

from stockade.netsh.completion import complete, may_hold_key
from stockade.netsh.interpreter import run_command
from stockade.netsh.session import Session


def texts(line: str, session: Session) -> list[str]:
    return [found.text for found in complete(line, session)]


@pytest.mark.parametrize(
    ("context", "line", "expected"),
    [
        ((), "", ["advfirewall", "exec", "ipsec"]),
        ((), "ip", ["ipsec"]),
        ((), "netsh ip", ["ipsec"]),
        ((), "ipsec ", ["dump", "dynamic", "static"]),
        ((), "ipsec static a", ["add"]),
        (("ipsec", "static"), "add fi", ["filter", "filteraction", "filterlist"]),
        (("ipsec", "static"), "a po", ["policy"]),
        (("ipsec", "static"), "add policy mm", ["mmpfs=", "mmlifetime=", "mmsecmethods="]),
        (("ipsec", "static"), "add policy name=P assign=", ["yes", "no"]),
        (("ipsec", "static"), "add filteraction A action=n", ["negotiate"]),
        (("ipsec", "static"), "set rule policy=", ['"My policy"']),
        (("ipsec", "static"), "add rule filterlist=W", ["Web"]),
        (("ipsec", "static"), 'set policy name="My', ['"My policy"']),
        (("ipsec", "static"), "add rule r psk=", []),
        (("ipsec", "static"), "frob ", []),
        (("ipsec", "static"), "add name=x po", []),
        (("ipsec", "dynamic"), "set config property=ipsece", ["ipsecexempt"]),
    ],
)
def test_what_is_offered(session: Session, context: tuple[str, ...], line: str, expected: list[str]) -> None:
    for setup in ('add policy "My policy"', "add filterlist Web"):
        run_command(setup, session)
    session.context = context
    assert texts(line, session) == expected


def test_the_end_of_the_line_is_replaced(session: Session) -> None:
    (found,) = complete("add pol", session)
    assert (found.text, found.replaces, bool(found.about)) == ("policy", 3, True)


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        ("add rule name=r policy=p psk=x", True),
        ("add rule r p f a 0.0.0.0 all yes text no secret", True),
        ("a r r p f a 0.0.0.0 all yes text no secret", True),
        ("ipsec dynamic add rule me any m q", True),
        ('add rule "open', True),
        ("show rule all P", False),
        ("add policy P", False),
        ("", False),
    ],
)
def test_lines_with_keys_are_known(session: Session, line: str, holds: bool) -> None:
    assert may_hold_key(line, session) == holds
