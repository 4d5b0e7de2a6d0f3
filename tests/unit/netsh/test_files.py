"""exportpolicy, importpolicy, restorepolicyexamples, exec."""

from dataclasses import replace
from pathlib import Path

import pytest

from stockade.model.reasons import CallerError, ReasonCode
from stockade.netsh.interpreter import run_command
from stockade.netsh.session import Session
from stockade.policy.objects import PolicySet
from stockade.policy.predefined import CLIENT, REQUIRE_SECURITY, predefined_set

SAMBA = Path(__file__).parents[2] / "data" / "samba-ipsec-objects.ldif"
SETUP = (
    "add filter L me 10.0.0.0/8",
    "add filteraction A",
    "add filteraction B action=block",
    "add policy P assign=yes",
    "add rule R P L A psk=secret",
)


def run(session: Session, *lines: str) -> str:
    return "\n".join(run_command(line, session).text for line in lines)


def refused(session: Session, line: str) -> CallerError:
    before = session.store.read()
    with pytest.raises(CallerError) as error:
        run_command(line, session)
    assert session.store.read() == before
    return error.value


def unassigned(objects: PolicySet) -> PolicySet:
    return replace(objects, policies=tuple(replace(one, assigned=False) for one in objects.policies))


def test_out_and_in_again(session: Session, files) -> None:
    run(session, *SETUP)
    before = session.store.read()
    run(session, "exportpolicy file=mine", "delete all")
    assert list(files.content) == ["mine.ipsec"]
    assert files.content["mine.ipsec"].startswith(b"# stockade policy script 1\n")
    assert b"secret" in files.content["mine.ipsec"]
    text = run(session, "importpolicy file=mine")
    assert session.store.read() == unassigned(before)
    assert "set policy name=P assign=yes" in text


def test_without_keys_it_does_not_come_in(session: Session, files) -> None:
    run(session, *SETUP, "exportpolicy file=mine secrets=no")
    assert b"secret" not in files.content["mine.ipsec"]
    assert "PSK_1" in str(refused(session, "importpolicy file=mine"))


def test_the_same_again_changes_nothing(session: Session) -> None:
    run(session, *SETUP, "exportpolicy mine")
    before = session.store.read()
    outcome = run_command("importpolicy mine", session)
    assert session.store.read() == before  # also: P stays in force
    assert isinstance(outcome.data, dict)
    assert len(outcome.data["unchanged"]) == 4
    assert outcome.data["added"] == outcome.data["replaced"] == []


def test_an_import_replaces_what_has_its_guid(session: Session) -> None:
    run(session, *SETUP, "exportpolicy mine", "set filteraction A soft=yes", "set policy P newname=Q")
    outcome = run_command("importpolicy mine", session)
    objects = session.store.read()
    assert [one.name for one in objects.policies] == ["P"]
    assert objects.policies[0].assigned
    assert not objects.filter_actions[0].soft
    assert isinstance(outcome.data, dict)
    assert outcome.data["replaced"] == ["filter action “A”", "policy “P”"]


def test_another_object_of_the_name_is_a_conflict(session: Session) -> None:
    run(
        session,
        *SETUP,
        "exportpolicy mine",
        "delete all",
        "add filteraction A soft=yes",
        "add filter M me any",
    )
    run(session, "add policy Own", "add rule Own Own M A")
    error = refused(session, "importpolicy mine")
    assert error.reason.code is ReasonCode.NAME_EXISTS
    assert "filter action “A”" in str(error)
    guid = session.store.read().filter_actions[0].guid
    run(session, "importpolicy mine replace=yes")
    objects = session.store.read()
    assert not objects.filter_actions[0].soft
    assert objects.filter_actions[0].guid == guid  # so rules of the store keep using it
    assert [policy.name for policy in objects.policies] == ["Own", "P"]


def test_an_equal_object_of_the_name_is_used(session: Session) -> None:
    run(session, *SETUP, "exportpolicy mine", "delete all", "add filteraction b action=block")
    run(session, "importpolicy mine")
    assert {one.name.casefold() for one in session.store.read().filter_actions} == {"a", "b"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"ipsec static\nadd policy P\n", ReasonCode.INVALID_FILE),  # a script, but not of exportpolicy
        (b"# stockade policy script 1\nipsec static\nadd plicy P\n", ReasonCode.INVALID_FILE),
        (b"# stockade policy script 1\nexec other\n", ReasonCode.INVALID_FILE),
        (b"# stockade policy script 1\nipsec static\nexportpolicy x\n", ReasonCode.INVALID_FILE),
        (b"# stockade policy script 1\nipsec dynamic\nset config ikelogging 1\n", ReasonCode.INVALID_FILE),
        (b"\xff\xfe\x00", ReasonCode.SYNTAX),
        (b"", ReasonCode.INVALID_FILE),
        (b"regf" + bytes(100), ReasonCode.INVALID_FILE),
        (b"dn: CN=x\n\n", ReasonCode.INVALID_FILE),
    ],
)
def test_bad_files_change_nothing(session: Session, files, content: bytes, code: ReasonCode) -> None:
    run(session, *SETUP)
    files.content["bad"] = content
    assert refused(session, "importpolicy bad").reason.code is code


def test_a_file_that_is_not_there(session: Session) -> None:
    assert refused(session, "importpolicy nothing").reason.code is ReasonCode.INVALID_FILE


def test_the_objects_of_active_directory_come_in(session: Session, files) -> None:
    files.content["ad.ldif"] = SAMBA.read_bytes()
    outcome = run_command("importpolicy ad.ldif", session)
    assert outcome.status == 0
    objects = session.store.read()
    assert CLIENT in [policy.name for policy in objects.policies]
    assert not any(policy.assigned for policy in objects.policies)


def test_a_reg_file_goes_out_and_comes_in(session: Session, files) -> None:
    run(session, "restorepolicyexamples", "exportpolicy examples.reg")
    assert files.content["examples.reg"].startswith(b"\xff\xfe")
    run(session, "delete all", "importpolicy examples.reg")
    assert {policy.name for policy in session.store.read().policies} == {
        one.name for one in predefined_set().policies
    }


def test_what_windows_cannot_take_is_not_written(session: Session, files) -> None:
    run(session, "add filteraction A qmsecmethods=ESP[AESGCM128,None]")
    assert refused(session, "exportpolicy mine.reg").reason.code is ReasonCode.NOT_EXPRESSIBLE
    assert not files.content
    outcome = run_command("exportpolicy mine.reg losses=yes", session)
    assert outcome.status == 0
    assert isinstance(outcome.data, dict)
    assert outcome.data["notes"]


def test_the_examples_come_back(session: Session) -> None:
    run(session, "restorepolicyexamples release=win2k")
    wanted = predefined_set()
    assert {one.name for one in session.store.read().policies} == {one.name for one in wanted.policies}
    run(session, f'set filteraction "{REQUIRE_SECURITY}" soft=yes', f'delete policy "{CLIENT}"')
    run(session, "restorepolicyexamples")
    objects = session.store.read()
    action = objects.filter_action(REQUIRE_SECURITY)
    assert action is not None
    assert not action.soft
    assert objects.policy(CLIENT) is not None


def test_the_examples_do_not_touch_objects_of_yours(session: Session) -> None:
    run(session, f'add filteraction "{REQUIRE_SECURITY}"')
    assert refused(session, "restorepolicyexamples").reason.code is ReasonCode.NAME_EXISTS
    run(session, "set store persistent")
    assert refused(session, "restorepolicyexamples").reason.code is ReasonCode.NOT_AVAILABLE


def test_scripts_call_scripts(session: Session, files) -> None:
    files.content["one"] = b"ipsec static\nadd filterlist A\nexec two\nadd filterlist C\nadd nothing\n"
    files.content["two"] = b"netsh ipsec static add filterlist B\n"
    outcome = run_command("exec one", session)
    assert outcome.failed
    assert "one, line 5" in outcome.text
    assert [one.name for one in session.store.read().filter_lists] == ["A", "B", "C"]
    files.content["loop"] = b"exec loop\n"
    assert run_command("netsh -f loop", session).failed


def test_the_policy_that_a_group_policy_object_assigned_is_shown(
    session: Session, agent, monkeypatch
) -> None:
    assert "takes no policies from a domain" in run(session, "show gpoassignedpolicy")
    domain = {"domain": "lab.test", "controller": "dc1.lab.test", "gpo": "", "policy": ""}
    said = {**agent.status(), "domain": domain}
    monkeypatch.setattr(agent, "status", lambda: said)
    assert "No group policy object of lab.test" in run(session, "show gpoassignedpolicy")
    domain |= {"gpo": "Servers", "policy": "Secured"}
    for line in ("show gpoassignedpolicy", "show gpoassignedpolicy name=servers"):
        text = run(session, line)
        assert "Servers" in text
        assert "Secured" in text
        assert "dc1.lab.test" in text
    with pytest.raises(CallerError) as caught:
        run_command("ipsec static show gpoassignedpolicy name=Others", session)
    assert caught.value.reason.code is ReasonCode.UNKNOWN_NAME
