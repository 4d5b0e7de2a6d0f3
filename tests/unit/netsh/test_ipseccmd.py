"""One-liners of Windows XP: what they make in the store and in the agent, and what they refuse."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stockade.model.filters import Action
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.reasons import CallerError, ReasonCode
from stockade.netsh.interpreter import run_command
from stockade.netsh.ipseccmd import run_ipseccmd
from stockade.netsh.ipseccmd_words import DEFAULT_METHODS
from stockade.netsh.session import Outcome, Session
from stockade.policy.dynamic import DynamicSet, PfsGroup
from stockade.policy.objects import ConnectionType


def run(session: Session, line: str) -> Outcome:
    return run_ipseccmd(shlex.split(line), session)


def refused(session: Session, line: str) -> CallerError:
    before = (session.store.read(), session.dynamic.read())
    with pytest.raises(CallerError) as error:
        run(session, line)
    assert (session.store.read(), session.dynamic.read()) == before
    return error.value


def test_a_dynamic_rule(session: Session) -> None:
    run(
        session,
        "ipseccmd -f 0+10.0.0.2::TCP -n ESP[3DES,SHA]:5000k/900sPFS2 AH[MD5]"
        " -a PRESHARE:\"my key\" K 'CERT:CN=Root' -1s 3DES-SHA-2 DES-MD5-1 -1k 10q/3600s -1e 90 -soft -lan",
    )
    objects = session.dynamic.read()
    (main_mode,), (quick_mode,), (rule,) = (
        objects.main_mode_policies,
        objects.quick_mode_policies,
        objects.rules,
    )
    assert (str(rule.filter.source), str(rule.filter.destination)) == ("me", "10.0.0.2")
    assert (rule.filter.protocol, rule.filter.mirrored) == (6, True)
    assert [str(method) for method in quick_mode.methods] == [
        "ESP[3DES,SHA1]:5000k/900s",
        "AH[MD5]:100000k/3600s",
    ]
    assert (quick_mode.soft, quick_mode.pfs_group) == (True, PfsGroup.GRP2)
    assert [str(method) for method in main_mode.methods] == ["3DES-SHA1-2", "DES-MD5-1"]
    assert (main_mode.quick_modes_per_main_mode, main_mode.main_mode_minutes) == (10, 60)
    assert main_mode.soft_expiration_minutes == 2  # 90 s, rounded up to whole minutes
    assert rule.connection_type is ConnectionType.LAN
    psk, kerberos, certificate = rule.authentication
    assert isinstance(psk, PresharedKey)
    assert psk.key.reveal() == b"my key"
    assert (kerberos, certificate) == (Kerberos(), Certificate("CN=Root"))


def test_defaults_and_a_second_rule(session: Session) -> None:
    run(session, "-f 0=*")
    run(session, "-f 0=10.0.0.1")
    objects = session.dynamic.read()
    assert objects.quick_mode_policies[0].methods == DEFAULT_METHODS
    assert str(objects.main_mode_policies[0].methods[0]) == "3DES-SHA1-2"
    assert [rule.main_mode_policy for rule in objects.rules] == ["ipseccmd 1", "ipseccmd 2"]
    assert not objects.rules[0].filter.mirrored
    assert refused(session, "-f 0=*").reason.code is ReasonCode.NAME_EXISTS
    run(session, "-u")
    assert session.dynamic.read() == DynamicSet()


@pytest.mark.parametrize(
    ("text", "source", "destination", "protocol", "ports"),
    [
        ("0+*", "me", "any", 0, (0, 0)),
        ("*:80=0::TCP", "any", "me", 6, None),
        ("0:80=*:0:TCP", "me", "any", 6, (80, 0)),
        ("*=0:80:TCP", "any", "me", 6, (0, 80)),
        ("10.0.0.0/255.0.0.0=0", "10.0.0.0/8", "me", 0, (0, 0)),
        ("10.0.0.0/8=0::ICMP", "10.0.0.0/8", "me", 1, (0, 0)),
        ("144.92.*.*+0::UDP", "144.92.0.0/16", "me", 17, (0, 0)),
        ("host.example.com+0", "host.example.com", "me", 0, (0, 0)),
        ("0+10.0.0.1::47", "me", "10.0.0.1", 47, (0, 0)),
        ("0=10.0.0.1:RAW", "me", "10.0.0.1", 255, (0, 0)),
    ],
)
def test_filters(
    session: Session, text: str, source: str, destination: str, protocol: int, ports: tuple[int, int] | None
) -> None:
    run_ipseccmd(["-f", text, "-n", "BLOCK"], session)
    made = session.dynamic.read().rules[0].filter
    assert (str(made.source), str(made.destination), made.protocol) == (source, destination, protocol)
    assert (made.source_port, made.destination_port) == (ports or (80, 0))


def test_brackets_say_what_happens(session: Session) -> None:
    run_ipseccmd(["-f", "(0+*::ICMP)", "[*=0:23:TCP]", "0+10.0.0.1", "-n", "INPASS"], session)
    rules = session.dynamic.read().rules
    assert [(rule.action_inbound, rule.action_outbound) for rule in rules] == [
        (Action.PERMIT, Action.PERMIT),
        (Action.BLOCK, Action.BLOCK),
        (Action.PERMIT, Action.NEGOTIATE),
    ]


def test_a_static_policy(session: Session) -> None:
    run(session, "-w REG -p Servers:30 -r Web -f *+0:80:TCP -n BLOCK -x")
    run(session, '-w reg -p Servers -r Mail -f *+0:25:TCP [*+0:23:TCP] -a CERT:"CN=My Root" -1p')
    objects = session.store.read()
    (policy,) = objects.policies
    assert policy.assigned
    assert (policy.polling_minutes, policy.master_pfs) == (30, True)
    assert [rule.name for rule in policy.rules] == ["Web", "Mail", "Mail (block)", ""]
    assert policy.rules[1].authentication == (Certificate("CN=My Root"),)
    web = objects.filter_action("Web filter action")
    assert web is not None
    assert web.action is Action.BLOCK
    # The same rule again replaces it, with its filters.
    run(session, "-w REG -p Servers -r Web -f *+0:443:TCP -n PASS")
    objects = session.store.read()
    filter_list = objects.filter_list("Web filter list")
    assert filter_list is not None
    assert [entry.destination_port for entry in filter_list.filters] == [443]
    assert len(objects.policies[0].rules) == 4
    run(session, "-w REG -p Servers -y")
    assert session.store.read().assigned is None
    run(session, "-w REG -p Servers -o")
    assert session.store.read().policies == ()


def test_the_default_response_rule_and_the_persistent_store(session: Session) -> None:
    run(session, '-w PERS -p Always -r D -f DEFAULT -n AH[SHA] -a PRESHARE:"x"')
    assert session.store.name == "local"
    (policy,) = session.world.open_store("persistent").read().policies  # type: ignore[misc]
    (rule,) = policy.rules
    assert rule.active
    assert [str(method) for method in rule.response_methods] == ["AH[SHA1]:100000k/3600s"]


def test_queries_and_settings(session: Session) -> None:
    for word in ("filters", "policies", "auth", "stats", "sas", "all"):
        assert run(session, f"show {word}").status == 0
    run(session, "set logike")
    assert session.settings.get_setting("ikelogging") == "1"
    run(session, "set dontlogike")
    assert session.settings.get_setting("ikelogging") == "0"
    run(session, "-w REG -p P")
    run(session, "export REG out")
    run(session, "-w REG -p P -o")
    run(session, "import REG out")
    assert session.store.read().policy("P") is not None
    assert "-f" in run(session, "ipseccmd.exe /?").text


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("-f", ReasonCode.SYNTAX),
        ("-f 10.0.0.1", ReasonCode.SYNTAX),
        ("-f 0=300.1.1.1", ReasonCode.SYNTAX),
        ("-f 0=1.2.3.4:99999:TCP", ReasonCode.SYNTAX),
        ("-f 0:80=*", ReasonCode.SYNTAX),  # a port without TCP or UDP
        ("-f 0=0", ReasonCode.SYNTAX),
        ("-f 0=* -n NOSUCH", ReasonCode.SYNTAX),
        ("-f 0=* -n ESP[None,None]", ReasonCode.SYNTAX),
        ("-f 0=* -n BLOCK PASS", ReasonCode.SYNTAX),
        ("-f 0=* -a NTLM", ReasonCode.SYNTAX),
        ("-f 0=* -a PRESHARE:", ReasonCode.SYNTAX),
        ("-f 0=* -1s 3DES-SHA", ReasonCode.SYNTAX),
        ("-f 0=* -1k 10", ReasonCode.SYNTAX),
        ("-f 0=* -t nowhere.example", ReasonCode.UNKNOWN_NAME),
        ("-f 0=* -lan -dialup", ReasonCode.SYNTAX),
        ("-f 0=* -f 0=*", ReasonCode.SYNTAX),
        ("-f 0=* -q", ReasonCode.SYNTAX),
        ("-f 0=* -p P", ReasonCode.SYNTAX),
        ("-w REG -r R -f 0=*", ReasonCode.SYNTAX),
        ("-w REG -p P -f 0=*", ReasonCode.SYNTAX),
        ("-w REG -p P -x -y", ReasonCode.SYNTAX),
        ("-w DS:example.com -p P", ReasonCode.NOT_AVAILABLE),
        ("-w REG -p all -x", ReasonCode.SYNTAX),
        ("-1f 0=*", ReasonCode.NOT_AVAILABLE),
        ("show nothing", ReasonCode.SYNTAX),
        ("set", ReasonCode.SYNTAX),
        ("-x", ReasonCode.SYNTAX),
    ],
)
def test_refusals(session: Session, line: str, code: ReasonCode) -> None:
    assert refused(session, line).reason.code is code


def test_other_computers_are_not_reached(session: Session) -> None:
    with pytest.raises(CallerError) as error:
        run_ipseccmd(["\\\\server", "show", "all"], session)
    assert error.value.reason.code is ReasonCode.NOT_AVAILABLE


@pytest.mark.parametrize(
    "arguments",
    [
        ["-f", "0=*", "-a", "PRESHARE:sesame", "open"],
        ["-f", "0=*", "-a", "PRESHARED:sesame"],
        ["-f", "0=*", "-a", "PRESHARE:" + "sesame" * 300],
        ["-f", "0=*", "-1p", "-a", "PRESHARE:x", "-soft", "sesame"],
    ],
)
def test_no_error_repeats_a_key(session: Session, arguments: list[str]) -> None:
    with pytest.raises(CallerError) as error:
        run_ipseccmd(arguments, session)
    assert "sesame" not in str(error.value)
    assert "sesame" not in str(error.value.reason.as_dict())


FLAGS = ["-f", "-n", "-t", "-a", "-1s", "-1k", "-1e", "-w", "-p", "-r", "-x", "-y", "-o", "-u", "-soft"]
VALUES = ["0+*", "REG", "PERS", "P:5", "ESP[3DES,SHA]", "BLOCK", "10q/5s", "PRESHARE:k", "show", "all"]
WORDS = [*FLAGS, *VALUES, "\\\\x"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=8))
def test_any_words(session: Session, arguments: list[str]) -> None:
    try:
        run_ipseccmd(arguments, session)
    except CallerError as error:
        str(error).encode()


@pytest.mark.parametrize(
    "name", ["\\\\filer", "\\\\FILER.example.com", "\\\\.", "\\\\localhost", "\\\\127.0.0.1"]
)
def test_this_computer_by_its_name(session: Session, name: str) -> None:
    """As the FAQ prints it: `ipseccmd \\\\computer show all`."""
    told, plain = (run_ipseccmd([*words, "show", "filters"], session) for words in ([name], []))
    assert told.text == plain.text != ""
    assert run_command(f"netsh -r {name} ipsec static show store", session).status == 0


@pytest.mark.parametrize("name", ["\\\\", "\\\\file", "\\\\filer.example.org", "\\\\10.0.0.1"])
def test_no_other_name_is_this_computer(session: Session, name: str) -> None:
    if name == "\\\\":
        session.world = replace(session.world, host_name="")
        name = "\\\\filer"
    with pytest.raises(CallerError, match="other computers"):
        run_ipseccmd([name, "show", "all"], session)
