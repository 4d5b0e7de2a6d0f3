"""Access lists: who is meant by an entry, what outweighs what, and the file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.reasons import ReasonCode, StockadeError
from stockade.pki.access import AccessEntry, AccessKind, AccessList, AccountMapping, Proof
from stockade.pki.access_file import access_text, closed_access, read_access, write_access

KERBEROS = Proof(names=("host/web.lab@LAB", "web.lab"), groups=("S-1-5-21-1-2-3-515",), domains=("LAB",))
CERTIFICATE = Proof(
    names=("CN=web, O=Lab", "web.lab"),
    domains=("lab",),
    authorities=("O=Lab, CN=Root", "O=Lab, CN=Issuing"),
    subject="CN=web, O=Lab",
    issuer="O=Lab, CN=Issuing",
)


def entry(text: str) -> AccessEntry:
    """`allow computer NAME` or `deny group NAME for RULE`."""
    action, kind, rest = text.split(" ", 2)
    name, _, rule = rest.partition(" for ")
    return AccessEntry(action == "allow", AccessKind(kind), name, rule)


@pytest.mark.parametrize(
    ("entries", "proof", "denied"),
    [
        ([], KERBEROS, False),
        (["allow computer WEB.LAB"], KERBEROS, False),
        (["allow computer host/*@lab"], KERBEROS, False),
        (["allow computer host/web.lab@OTHER"], KERBEROS, True),
        (["allow domain lab"], KERBEROS, False),
        (["allow domain other"], KERBEROS, True),
        (["allow group S-1-5-21-1-2-3-515"], KERBEROS, False),
        (["allow ca CN=Root, O=Lab"], KERBEROS, True),
        (["allow ca CN=Root, O=Lab"], CERTIFICATE, False),
        (["allow ca O=Lab, CN=Issuing"], CERTIFICATE, False),
        (["deny ca O=Lab, CN=Issuing", "allow ca CN=Root, O=Lab"], CERTIFICATE, True),
        (["allow computer other", "allow domain lab"], CERTIFICATE, False),
        (["deny computer web.lab"], CERTIFICATE, True),
        (["deny computer other"], CERTIFICATE, False),
        (["allow computer w[eb].lab"], KERBEROS, True),
    ],
)
def test_who_is_denied(entries: list[str], proof: Proof, denied: bool) -> None:
    reason = AccessList(tuple(map(entry, entries))).why_denied(proof)
    assert (reason is not None) is denied, str(reason)
    assert reason is None or reason.code is ReasonCode.ACCESS_DENIED


def test_a_rules_entries_narrow_and_do_not_open() -> None:
    access = AccessList((entry("allow domain lab"), entry("allow computer db.lab for Web")))
    assert access.why_denied(KERBEROS) is None
    assert access.why_denied(KERBEROS, "local/policy/web") is not None
    assert access.why_denied(KERBEROS, "local/policy/mail") is None
    outside = Proof(names=("db.lab",), domains=("elsewhere",))
    assert access.why_denied(outside, "local/policy/web") is not None


def test_groups_of_this_host_hold_computers_accounts_and_groups() -> None:
    groups = {"all": ("servers",), "servers": ("*.lab",), "loop": ("loop", "all")}
    access = AccessList((entry("allow group loop"),), groups)
    assert access.why_denied(KERBEROS) is None
    assert access.why_denied(Proof(names=("a.else",))) is not None


def test_a_certificate_stands_for_its_account() -> None:
    accounts = (AccountMapping("WEB$@LAB", "O=Lab, CN=web", "CN=Issuing, O=Lab"),)
    access = AccessList((entry("allow computer web$@lab"),), accounts=accounts)
    assert access.why_denied(CERTIFICATE) is None
    other = AccessList((entry("allow computer web$@lab"),), accounts=(AccountMapping("WEB$@LAB", "CN=x"),))
    assert other.why_denied(CERTIFICATE) is not None


def test_the_file_is_read_back_and_a_damaged_one_closes(tmp_path) -> None:
    path = tmp_path / "access.toml"
    assert read_access(path).why_denied(KERBEROS) is None
    access = AccessList(
        (entry('allow computer a"b\\c for r'), entry("deny domain lab")),
        {"se rvers": ("a", "ü")},
        (AccountMapping("A$", "CN=a"),),
    )
    write_access(path, access)
    assert read_access(path) == access
    assert path.stat().st_mode & 0o077 == 0
    for damage in (
        "x = 1",
        "[[entry]]\naction = 'allow'",
        "[[entry]]\naction='may'\nca='CN=a'",
        "[",
        "groups=3",
    ):
        path.write_text(damage)
        with pytest.raises(StockadeError) as caught:
            read_access(path)
        assert str(path) in str(caught.value)
        assert closed_access(caught.value.reason).why_denied(KERBEROS) is not None


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1), st.lists(st.text()))
def test_any_group_survives_the_file(tmp_path_factory, name, members) -> None:
    path = tmp_path_factory.mktemp("access") / "access.toml"
    groups = {
        name.encode(errors="replace").decode(): tuple(m.encode(errors="replace").decode() for m in members)
    }
    path.write_text(access_text(AccessList(groups=groups)), encoding="utf-8")
    assert read_access(path).groups == groups
