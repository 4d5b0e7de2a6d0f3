"""Scripts as administrators write them (tests/data/scripts): what is done, passed over, refused."""

from pathlib import Path

import pytest

from stockade.model.filters import Action
from stockade.model.negotiation import PresharedKey
from stockade.netsh.interpreter import decode_script, run_script
from stockade.netsh.session import Outcome, Session
from stockade.policy.objects import AddressKind

SCRIPTS = Path(__file__).parents[2] / "data" / "scripts"
REFUSED = {"control-flow.cmd"}
WITH_FAILURES = {"mistakes.netsh", "block-ports.cmd", "cleanup.cmd"}


def run(name: str, session: Session, *, atomic: bool = False) -> list[Outcome]:
    session.context = ()
    return run_script(decode_script((SCRIPTS / name).read_bytes()), session, source=name, atomic=atomic)


@pytest.mark.parametrize("path", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_only_those_that_should_fail_do(session: Session, path: Path) -> None:
    failed = [outcome.text for outcome in run(path.name, session) if outcome.failed]
    assert bool(failed) == (path.name in REFUSED | WITH_FAILURES), failed
    assert session.context == ()
    assert session.store.name == "local"


@pytest.mark.parametrize("path", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_atomic_gives_the_same_or_nothing(session: Session, path: Path) -> None:
    failed = any(outcome.failed for outcome in run(path.name, session, atomic=True))
    objects = session.store.read()
    assert failed == (path.name in REFUSED | WITH_FAILURES)
    if failed:
        assert not objects.policies
        assert not objects.filter_lists
    elif path.name != "dynamic.cmd":
        session.store.rollback(1)  # type: ignore[attr-defined]
        run(path.name, session)
        again = session.store.read()
        assert [one.name for one in again.filter_lists] == [one.name for one in objects.filter_lists]
        assert [one.filters for one in again.filter_lists] == [one.filters for one in objects.filter_lists]


def test_a_batch_file_with_redirections_and_chains(session: Session) -> None:
    outcomes = run("block-ports.cmd", session)
    assert [outcome.line for outcome in outcomes if outcome.failed] == [5]  # nothing to delete yet
    passed = [outcome.text for outcome in outcomes if outcome.note]
    assert any("> nul" in text for text in passed)
    assert any("2>&1" in text for text in passed)
    assert any("echo RPC list made" in text for text in passed)
    assert any("pause" in text for text in passed)
    assert all(outcome.status == 0 for outcome in outcomes if outcome.note)
    objects = session.store.read()
    assert objects.assigned is not None
    assert objects.assigned.name == "Packet Filters"
    assert [rule.name for rule in objects.assigned.rules] == ["No Slammer", "No RPC", ""]
    rpc = objects.filter_list("RPC")
    assert rpc is not None
    assert [entry.destination_port for entry in rpc.filters] == [135, 139, 445]


def test_variables_are_filled_in(session: Session) -> None:
    outcomes = run("variables.bat", session)
    assert not [outcome.text for outcome in outcomes if outcome.failed]
    objects = session.store.read()
    policy = objects.assigned
    assert policy is not None
    assert policy.name == "Domain isolation"
    (method,) = policy.rules[0].authentication
    assert isinstance(method, PresharedKey)
    assert method.key.reveal() == b"a long key & more"
    (filter_list,) = objects.filter_lists
    assert [entry.description for entry in filter_list.filters] == ["100% of them", ""]
    assert [str(entry.destination) for entry in filter_list.filters] == ["10.1.0.0/16", "10.2.0.0/16"]
    assert filter_list.filters[1].protocol == 6  # from the continued line
    assert [entry.action for entry in objects.filter_actions] == [Action.NEGOTIATE, Action.BLOCK]
    assert not any("long key" in outcome.text for outcome in outcomes)


def test_a_unicode_file_of_notepad(session: Session) -> None:
    run("notepad-unicode.cmd", session)
    (policy,) = session.store.read().policies
    assert (policy.name, policy.description) == ("Größe & Ménage", "политика 政策")
    assert policy.rules[0].filter_action == "許可"


def test_servers_and_names(session: Session) -> None:
    run("servers-and-names.netsh", session)
    (filter_list,) = session.store.read().filter_lists
    kinds = [entry.destination.kind for entry in filter_list.filters]
    assert kinds[:5] == [
        AddressKind.DNS,
        AddressKind.DHCP,
        AddressKind.WINS,
        AddressKind.GATEWAY,
        AddressKind.NAME,
    ]


def test_control_flow_is_refused_before_anything_runs(session: Session) -> None:
    (outcome,) = run("control-flow.cmd", session)
    assert outcome.failed
    assert outcome.line == 3
    assert "“" not in outcome.text.partition("line 3")[0]
    assert "Nothing was applied" in outcome.text
    assert session.store.read().policies == ()


def test_mistakes_are_named_with_their_lines_and_the_rest_is_applied(session: Session) -> None:
    outcomes = run("mistakes.netsh", session)
    assert [outcome.line for outcome in outcomes if outcome.failed] == [3, 4, 5]
    assert "%NAME%" in next(outcome.text for outcome in outcomes if outcome.line == 5)
    objects = session.store.read()
    assert [entry.name for entry in objects.policies] == ["Good"]
    assert [entry.name for entry in objects.filter_lists] == ["Kept"]


def test_dynamic_commands_and_settings(session: Session) -> None:
    run("dynamic.cmd", session)
    assert session.settings.get_setting("bootexemptions") == "tcp:0:3389:inbound udp:0:68:inbound"
    assert len(session.dynamic.read().rules) == 2
