"""Splitting lines into words, abbreviations, the nearest word."""

import pytest

from stockade.model.reasons import CallerError, ReasonCode
from stockade.netsh.words import MAXIMUM_LINE, matches, nearest, printable, split_arguments, split_line


def pairs(line: str) -> list[tuple[str | None, str]]:
    return [(word.tag, word.text) for word in split_line(line)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("add  policy\tname=P", [(None, "add"), (None, "policy"), ("name", "P")]),
        ('name="My policy" x', [("name", "My policy"), (None, "x")]),
        ("name = P x", [("name", "P"), (None, "x")]),
        ("name =P x", [("name", "P"), (None, "x")]),
        ("name= P x", [("name", "P"), (None, "x")]),
        ('name = "a b" x', [("name", "a b"), (None, "x")]),
        ("description= name=P", [("description", ""), ("name", "P")]),
        ('psk="" x', [("psk", ""), (None, "x")]),
        ('psk="a=b c" x', [("psk", "a=b c"), (None, "x")]),
        ('"a=b"', [(None, "a=b")]),
        ('name="say ""hi"" now"', [("name", 'say "hi" now')]),
        ('My" "policy', [(None, "My policy")]),
        ("rootca=CN=Root", [("rootca", "CN=Root")]),
        ("", []),
        ("  \t ", []),
        ("name=", [("name", "")]),
    ],
)
def test_words_of_a_line(line: str, expected: list[tuple[str | None, str]]) -> None:
    assert pairs(line) == expected


def test_words_know_where_they_stand() -> None:
    words = split_line('add filter name = "a b" me')
    assert [(word.index, word.column) for word in words] == [(1, 1), (2, 5), (3, 12), (4, 25)]


def test_arguments_of_a_shell_are_taken_as_they_are() -> None:
    words = split_arguments(["add", "name=My policy", 'psk=a"b', "x", "=", "y"])
    assert [(word.tag, word.text) for word in words] == [
        (None, "add"),
        ("name", "My policy"),
        ("psk", 'a"b'),
        ("x", "y"),
    ]


@pytest.mark.parametrize("line", ['name="open', '"', 'a "b" "c', "x" * (MAXIMUM_LINE + 1)])
def test_a_line_that_cannot_be_split_is_the_callers_fault(line: str) -> None:
    with pytest.raises(CallerError) as error:
        split_line(line)
    assert error.value.reason.code is ReasonCode.SYNTAX


def test_an_open_quote_does_not_repeat_what_it_holds() -> None:
    with pytest.raises(CallerError) as error:
        split_line('psk="secret')
    assert "secret" not in str(error.value)
    assert dict(error.value.reason.facts)["position"] == "column 5"


def test_a_word_means_its_equal_before_what_begins_with_it() -> None:
    words = ("filter", "filterlist", "filteraction", "policy")
    assert matches("FILTER", words) == ["filter"]
    assert matches("filterl", words) == ["filterlist"]
    assert matches("filt", words) == ["filter", "filterlist", "filteraction"]
    assert matches("rule", words) == []
    assert matches("", words) == []


def test_the_nearest_word() -> None:
    assert nearest("plicy", ("policy", "rule")) == "policy"
    assert nearest("SRCADR", ("srcaddr", "dstaddr")) == "srcaddr"
    assert nearest("xyzzy", ("policy", "rule")) is None


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\u202ec") == "a\\x1b[31mb\\u202ec"
