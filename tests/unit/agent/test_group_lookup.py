"""Groups of the directory for the access list: asked where an entry needs them, and unknown is not none."""

from pathlib import Path

import pytest

from stockade.agent.domain_settings import DomainSettings, Request
from stockade.agent.group_lookup import NOT_ASKED, GroupLookup
from stockade.model.reasons import ReasonCode, error_for
from stockade.pki.access import AccessEntry, AccessKind, AccessList, Proof

SERVERS = "S-1-5-21-1-2-3-1105"
PEER = "host/beta.lab.test@LAB.TEST"


class Directory(GroupLookup):
    """Answers in place of the reading program; `rows` None: it does not."""

    def __init__(self, domain: str = "lab.test") -> None:
        super().__init__(DomainSettings(domain), Path("/none"))
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.rows: list[list[str]] | None = [[SERVERS, "Servers", "lab.test\\Servers"]]

    def _ask(self, *, peer: str = "", sids: tuple[str, ...] = ()) -> list[list[str]]:
        self.asked.append((peer, sids))
        if self.rows is None:
            raise error_for(ReasonCode.DIRECTORY_UNREACHABLE, "no answer in time")
        return self.rows


def access(*entries: str, groups: dict[str, tuple[str, ...]] | None = None) -> AccessList:
    made = [
        AccessEntry(action == "allow", AccessKind.GROUP, name)
        for action, _, name in (entry.partition(" ") for entry in entries)
    ]
    return AccessList(tuple(made), groups or {})


def test_nobody_is_asked_where_no_entry_needs_it():
    directory = Directory()
    directory.follow(AccessList())
    assert directory.of_peer(PEER).unknown == NOT_ASKED
    assert directory.named((SERVERS,)).names == (SERVERS,)
    directory.follow(access("allow mine", groups={"mine": ("beta.lab.test",)}))
    assert directory.named((SERVERS,)).names == (SERVERS,)
    assert directory.asked == []
    outside = Directory("")
    outside.follow(access("allow Servers"))
    assert outside.of_peer(PEER).unknown == ""
    assert outside.asked == []


def test_numbers_get_their_names_and_answers_are_kept():
    directory = Directory()
    directory.follow(access("allow Servers"))
    for _ in range(2):
        assert directory.named((SERVERS, "S-1-18-1")).names == (SERVERS, "S-1-18-1", "Servers")
        assert "lab.test\\Servers" in directory.of_peer(PEER).names
    assert directory.asked == [("", (SERVERS, "S-1-18-1")), (PEER, ())]


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_a_directory_that_does_not_answer_lets_nobody_in_by_a_group_and_past_a_denied_one(action):
    directory = Directory()
    directory.rows = None
    entries = access(f"{action} Servers")
    directory.follow(entries)
    for groups in (directory.of_peer(PEER), directory.named((SERVERS,))):
        proof = Proof(names=(PEER,), groups=groups.names, groups_unknown=groups.unknown)
        denied = entries.why_denied(proof)
        assert denied is not None
        assert "cannot be looked up" in str(denied)


def test_entries_by_number_need_no_names():
    directory = Directory()
    directory.rows = None
    entries = access(f"deny {SERVERS}")
    directory.follow(entries)
    other = directory.named(("S-1-5-21-1-2-3-515",))
    assert entries.why_denied(Proof(groups=other.names, groups_unknown=other.unknown)) is None
    same = directory.named((SERVERS,))
    assert entries.why_denied(Proof(groups=same.names, groups_unknown=same.unknown)) is not None


def test_a_request_survives_its_way_to_the_reading_program():
    request = Request("lab.test", keytab="/k", peer=PEER, sids=(SERVERS,), security="ldaps", authority="/ca")
    assert Request.decode(request.encode()) == request
