"""The table and the reading of parameters: tags, order, abbreviations, and errors that name the word."""

import pytest

from stockade.model.reasons import CallerError, ReasonCode
from stockade.netsh.commands import COMMANDS, CONTEXTS, GROUPS, TREE
from stockade.netsh.grammar import Command, Node, build_tree, find
from stockade.netsh.interpreter import run_command
from stockade.netsh.session import Outcome, Session


def facts(error: pytest.ExceptionInfo[CallerError]) -> dict[str, str]:
    return dict(error.value.reason.facts)


def refused(session: Session, command: str | list[str]) -> pytest.ExceptionInfo[CallerError]:
    before = session.store.version()
    with pytest.raises(CallerError) as error:
        run_command(command, session)
    assert session.store.version() == before, "a refused command changed the store"
    return error


@pytest.mark.parametrize(
    "line",
    [
        "netsh ipsec static add policy name=P",
        "NETSH.EXE IPSEC STATIC ADD POLICY NAME=P",
        "ipsec static add policy name=P",
        "add policy P",
        "a p P",
        "ip st a pol na=P",
        'add policy "P"',
        'add policy "name=P"',
        "add policy name = P",
        "add policy P description=x as=n",
        'add policy P "a description" no 0 480 yes 180 no "3DES-SHA1-2"',
    ],
)
def test_ways_to_write_one_command(session: Session, line: str) -> None:
    assert run_command(line, session) == Outcome()
    assert [policy.name for policy in session.store.read().policies] == ["P"]


def test_the_arguments_of_a_shell(session: Session) -> None:
    session.context = ()
    run_command(["ipsec", "static", "add", "policy", "name=My policy", "description=say hi"], session)
    (policy,) = session.store.read().policies
    assert (policy.name, policy.description) == ("My policy", "say hi")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("add plicy name=P", {"word": "plicy", "nearest": "policy", "position": "word 2, column 5"}),
        ("sohw all", {"word": "sohw", "nearest": "show"}),
        ("add filt x", {"word": "filt", "expected": "filter or filteraction or filterlist"}),
        ("add policy nmae=P", {"word": "nmae", "nearest": "name", "position": "word 3, column 12"}),
        ("add policy name=P mm=1", {"word": "mm=", "expected": "mmpfs= or mmlifetime= or mmsecmethods="}),
        ("add policy name=P assign=yse", {"word": "yse", "nearest": "yes", "expected": "yes or no"}),
        ("add policy name=P name=Q", {"word": "name=", "expected": "one of them"}),
        ("add policy", {"expected": "name=<name>", "position": "end of the command"}),
        ("add filter L me any protocol=tpc", {"word": "tpc", "nearest": "TCP"}),
        ("add filter L me nay", {"word": "nay", "nearest": "any"}),
        ("add filter L me any srcmask=255.0.255.0", {"word": "255.0.255.0"}),
        ("add filterlist L text more", {"word": "more", "expected": "the end of the command"}),
        ("add policy name=P assign=no text", {"word": "text", "position": "word 5, column 29"}),
        ("add policy name=P mmsecmethods=3DSE-SHA1-2", {"word": "3DSE-SHA1-2"}),
        ("set policy name=P guid={72385230-70FA-11D1-864C-14A300000000}", {"word": "guid="}),
        ("add name=P", {"word": "name"}),
        ("add policy all", {"word": "all"}),
        ("dynamic show frob", {"word": "frob", "position": "word 3, column 14"}),
    ],
)
def test_an_error_names_the_word_and_what_was_expected(
    session: Session, line: str, expected: dict[str, str]
) -> None:
    error = refused(session, line)
    assert error.value.reason.code is ReasonCode.SYNTAX
    found = facts(error)
    assert {key: found.get(key) for key in expected} == expected


def test_an_error_in_shell_arguments_counts_words(session: Session) -> None:
    assert facts(refused(session, ["add", "policy", "nmae=P"]))["position"] == "word 3"


def test_untagged_values_are_not_read_after_a_gap(session: Session) -> None:
    error = refused(session, "add filter filterlist=L srcaddr=me dstaddr=any srcport=0 TCP")
    assert "leave open" in str(error.value)
    # Tags in the order of the table leave no gap.
    run_command("add filter filterlist=L srcaddr=me any", session)


@pytest.mark.parametrize(
    "line",
    [
        "add rule name=r policy=p filterlist=f filteraction=a psk=open sesame",
        "add rule name=r policy=p filterlist=f filteraction=a psk=open sesame=x",
        "add rule r p f a 0.0.0.0 all yes desc no open sesame",
        "add rule name=r policy=p filterlist=f filteraction=a pks=sesame",
        'add rule name=r policy=p filterlist=f filteraction=a psk="sesame',
        "add rule name=r policy=p filterlist=f filteraction=a psk=" + "sesame" * 300,
        "add rule name=r policy=p psk=sesame",
        "add rule name=r policy=p filterlist=f filteraction=a psk:sesame x y z a psk:sesame",
    ],
)
def test_no_error_repeats_a_key(session: Session, line: str) -> None:
    assert "sesame" not in str(refused(session, line).value)
    assert "sesame" not in str(refused(session, line).value.reason.as_dict())


def test_a_command_that_is_not_here_says_so(session: Session) -> None:
    outcome = run_command("netsh advfirewall consec add rule", session)
    assert outcome.status == 1
    assert "not available in this version" in outcome.text
    assert outcome.reason is not None
    assert outcome.reason.code is ReasonCode.NOT_AVAILABLE
    for line in (
        "set store location=domain",
        "netsh -r host ipsec static show all",
    ):
        assert refused(session, line).value.reason.code is ReasonCode.NOT_AVAILABLE


@pytest.mark.parametrize(
    "line",
    [
        "netsh ipsec dynamic show mmsas",
        "netsh ipsec dynamic show mmpolicy all",
        "netsh ipsec dynamic set config property=ikelogging value=1",
        "exportpolicy file=x",
        "exec x",
        "show filterlist all resolvedns=yes",
        "set store persistent",
        "add rule R P L A tunnel=gw.example.com",
    ],
)
def test_what_the_world_does_not_give_is_said(session: Session, line: str) -> None:
    assert (
        refused(Session(session.store, session.context), line).value.reason.code is ReasonCode.NOT_AVAILABLE
    )


def test_abbreviations_mean_windows_own_words_first(session: Session) -> None:
    # `modified=` and `guid=` of ours would make these ambiguous
    run_command("add filter L me any mi=no", session)
    run_command("add policy P mmp=yes", session)
    run_command("add filteraction A action=permit gui={72385230-70FA-11D1-864C-14A300000000}", session)
    objects = session.store.read()
    assert not objects.filter_lists[0].filters[0].mirrored
    assert objects.policies[0].master_pfs
    assert str(objects.filter_actions[0].guid) == "72385230-70fa-11d1-864c-14a300000000"
    assert (
        refused(session, "add filterlist M desc more").value.reason.code is ReasonCode.SYNTAX
    )  # ours has no place


@pytest.mark.parametrize(
    "line",
    [
        'netsh -c "ipsec static" add filterlist L',
        "C:\\Windows\\system32\\netsh.exe ipsec static add filterlist L",
        "/usr/bin/netsh ipsec static add filterlist L",
    ],
)
def test_the_programs_own_options_and_folder(session: Session, line: str) -> None:
    session.context = ()
    assert run_command(line, session) == Outcome()
    assert session.store.read().filter_list("L") is not None
    assert session.context == ()


def test_every_level_has_help(session: Session) -> None:
    def levels(node: Node | Command) -> list[Node | Command]:
        below = list(node.children.values()) if isinstance(node, Node) else []
        return [node, *(entry for child in below for entry in levels(child))]

    session.context = ()
    everything = levels(TREE)
    assert len(everything) > 50
    for entry in everything:
        path = " ".join(entry.path)
        for line in (f"{path} ?", f"{path} help", f"help {path}", f"netsh {path} /?"):
            outcome = run_command(line, session)
            assert outcome.status == 0
            words = [p.tag for p in entry.parameters] if isinstance(entry, Command) else list(entry.children)
            if isinstance(entry, Command) and entry.run is None:
                words = ["Not available"]
            assert all(word in outcome.text for word in words), line
    assert session.context == ()
    assert session.store.read().policies == ()


STATIC_SETUP = (
    'add policy name="Servers"',
    'add filterlist name="Web"',
    'add filter filterlist="Telnet" srcaddr=any dstaddr=me protocol=TCP dstport=23',
    'add filteraction name="Secure"',
    'add filteraction name="Other"',
    'add rule name="Web" policy="Servers" filterlist="Web" filteraction="Other"',
)
DYNAMIC_SETUP = (
    'add mmpolicy name="MM"',
    'add qmpolicy name="QM"',
    'add mmpolicy name="Used"',
    'add qmpolicy name="Used"',
    "add rule srcaddr=me dstaddr=10.0.0.2 mmpolicy=Used qmpolicy=Used",
)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.example], ids=lambda command: " ".join(command.path)
)
def test_every_example_of_the_help_is_a_command(session: Session, command: Command) -> None:
    session.context = command.context
    if command.words == ("importpolicy",):
        run_command("exportpolicy file=policies.ipsec", session)
    elif command.words == ("importconfig",):
        key = r"[HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\IPSec]"
        content = f'REGEDIT4\r\n{key}\r\n"NlbsIdleTime"=dword:0000000a\r\n'
        session.files.write("hotfix.reg", content.encode())
    else:
        for line in DYNAMIC_SETUP if "dynamic" in command.context else STATIC_SETUP:
            # What the example adds itself, and the rule that would need it, are left out.
            needs_it = (
                command.words[0] == "add" and line.startswith("add rule") and "static" in command.context
            )
            itself = line.startswith(f"{command.title} ") and 'name="Used' not in line
            if not itself and not needs_it:
                run_command(line, session)
    assert run_command(command.example, session).status == 0


def test_contexts_are_entered_and_left(session: Session) -> None:
    session.context = ()
    run_command("ipsec", session)
    run_command("static", session)
    assert session.context == ("ipsec", "static")
    run_command("..", session)
    assert session.context == ("ipsec",)
    run_command("netsh ipsec dynamic", session)
    assert session.context == ("ipsec", "dynamic")
    run_command("ipsec static add filterlist L", session)
    assert session.context == ("ipsec", "dynamic")
    run_command("netsh", session)
    assert session.context == ()
    run_command("bye", session)
    assert session.ended


def test_an_unfinished_command_shows_help_and_fails(session: Session) -> None:
    outcome = run_command("add", session)
    assert outcome.status == 1
    assert "filterlist" in outcome.text


def test_the_table_is_sound() -> None:
    for command in COMMANDS:
        assert find(TREE, command.path) is command
        tags = [parameter.tag for parameter in command.parameters]
        assert len(tags) == len(set(tags))
        assert all(parameter.help for parameter in command.parameters)
    twice = (COMMANDS[0], COMMANDS[0])
    with pytest.raises(ValueError, match="twice"):
        build_tree(CONTEXTS, GROUPS, twice)
    with pytest.raises(ValueError, match="no context"):
        build_tree(CONTEXTS, GROUPS, (Command(("nowhere",), ("add",), "help"),))
    with pytest.raises(ValueError, match="a command and a group"):
        build_tree(CONTEXTS, GROUPS, (Command((), ("x",), "help"), Command((), ("x", "y"), "help")))
