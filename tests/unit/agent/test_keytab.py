"""Which principals a keytab has."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.agent.keytab import client_principal, host_principal, is_host, read_principals
from stockade.model.reasons import Reason, ReasonCode


def entry(principal: str, *, hole: bool = False) -> bytes:
    """One entry, after the description in the module's head."""

    def counted(text: str) -> bytes:
        return len(text.encode()).to_bytes(2, "big") + text.encode()

    name, _, realm = principal.rpartition("@")
    parts = name.split("/")
    body = len(parts).to_bytes(2, "big") + counted(realm) + b"".join(counted(part) for part in parts)
    body += bytes(4) + bytes(4) + b"\x01" + b"\x00\x12" + b"\x00\x10" + b"k" * 16
    size = -len(body) if hole else len(body)
    return size.to_bytes(4, "big", signed=True) + body


def write(folder: Path, *entries: bytes) -> Path:
    path = folder / "keytab"
    path.write_bytes(b"\x05\x02" + b"".join(entries))
    return path


def test_each_principal_once_and_no_holes(tmp_path):
    path = write(
        tmp_path,
        entry("gone@R", hole=True),
        entry("HTTP/a.example@R"),
        entry("host/a.example@R"),
        entry("host/a.example@R"),
        entry("A$@R"),
    )
    found = read_principals(path)
    assert found == ("HTTP/a.example@R", "host/a.example@R", "A$@R")
    assert host_principal(found) == "host/a.example@R"
    assert client_principal(found) == "A$@R"


def test_services_and_users_are_no_hosts():
    assert [is_host(name) for name in ("host/a@R", "A$@R", "HTTP/a@R", "user@R", "a/x$@R")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert host_principal(("HTTP/a@R", "user@R")) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x05\x01", "no keytab"),
        (b"", "no keytab"),
        (b"\x05\x02", "is empty"),
        (b"\x05\x02\x00\x00\x00\x09\x00\x01", "damaged"),
        (b"\x05\x02\x00\x00\x00\x02\x00\x09", "damaged"),
    ],
)
def test_what_is_no_keytab_is_named(tmp_path, content, why):
    path = tmp_path / "keytab"
    path.write_bytes(content)
    found = read_principals(path)
    assert isinstance(found, Reason)
    assert found.code is ReasonCode.KERBEROS_UNAVAILABLE
    assert why in found.detail
    assert str(path) in found.detail


def test_a_missing_keytab_is_named(tmp_path):
    found = read_principals(tmp_path / "none")
    assert isinstance(found, Reason)
    assert "does not exist" in found.detail


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_names_or_a_reason(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("keytab") / "keytab"
    path.write_bytes(b"\x05\x02" + content)
    found = read_principals(path)
    assert isinstance(found, Reason) or all("@" in name for name in found)
