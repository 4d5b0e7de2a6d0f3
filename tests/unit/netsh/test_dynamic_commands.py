"""`netsh ipsec dynamic`: objects in the agent's memory, and what the agent says."""

import json

import pytest

from stockade.model.filters import Action
from stockade.model.negotiation import Kerberos, PresharedKey
from stockade.model.reasons import CallerError, ReasonCode
from stockade.netsh.interpreter import run_command
from stockade.netsh.session import Outcome, Session
from stockade.policy.dynamic import DynamicSet, PfsGroup
from stockade.policy.objects import ConnectionType

SETUP = (
    'add mmpolicy MM 2 60 30 "AES128-SHA1-3 3DES-SHA1-2"',
    'add qmpolicy QM yes GRP2 "ESP[AES128,SHA1]:5000k/900s"',
    "add rule me 10.0.0.2 MM QM TCP 0 445 no lan permit negotiate psk=TopSecret kerberos=yes",
)


@pytest.fixture
def at_dynamic(session: Session) -> Session:
    session.context = ("ipsec", "dynamic")
    return session


@pytest.fixture
def filled(at_dynamic: Session) -> Session:
    for line in SETUP:
        assert run_command(line, at_dynamic) == Outcome()
    return at_dynamic


def refused(session: Session, line: str) -> ReasonCode:
    before = session.dynamic.read()
    with pytest.raises(CallerError) as error:
        run_command(line, session)
    assert session.dynamic.read() == before
    return error.value.reason.code


def test_objects_are_made_as_written(filled: Session) -> None:
    objects = filled.dynamic.read()
    (main_mode,), (quick_mode,), (rule,) = (
        objects.main_mode_policies,
        objects.quick_mode_policies,
        objects.rules,
    )
    assert [str(method) for method in main_mode.methods] == ["AES128-SHA1-3", "3DES-SHA1-2"]
    assert (
        main_mode.quick_modes_per_main_mode,
        main_mode.main_mode_minutes,
        main_mode.soft_expiration_minutes,
    ) == (2, 60, 30)
    assert (quick_mode.soft, quick_mode.pfs_group) == (True, PfsGroup.GRP2)
    assert str(quick_mode.methods[0]) == "ESP[AES128,SHA1]:5000k/900s"
    assert (rule.filter.protocol, rule.filter.destination_port, rule.filter.mirrored) == (6, 445, False)
    assert (rule.connection_type, rule.action_inbound, rule.action_outbound) == (
        ConnectionType.LAN,
        Action.PERMIT,
        Action.NEGOTIATE,
    )
    assert [type(method) for method in rule.authentication] == [PresharedKey, Kerberos]


def test_defaults(at_dynamic: Session) -> None:
    for line in ("add mmpolicy MM", "add qmpolicy QM", "add rule me any mmpolicy=MM qmpolicy=QM"):
        run_command(line, at_dynamic)
    objects = at_dynamic.dynamic.read()
    assert objects.main_mode_policies[0].main_mode_minutes == 480
    assert objects.quick_mode_policies[0].pfs_group is PfsGroup.NOPFS
    (rule,) = objects.rules
    assert rule.filter.mirrored
    assert (rule.action_inbound, rule.action_outbound) == (Action.NEGOTIATE, Action.NEGOTIATE)
    assert rule.authentication == (Kerberos(),)


def test_a_tunnel_rule_is_not_mirrored_and_a_name_is_looked_up(filled: Session) -> None:
    run_command("add rule me any MM QM tunneldstaddress=gw.example.com", filled)
    rule = filled.dynamic.read().rules[1]
    assert str(rule.tunnel_endpoint) == "192.0.2.9"
    assert not rule.filter.mirrored
    run_command("delete rule me any tunneldstaddress=192.0.2.9", filled)
    assert len(filled.dynamic.read().rules) == 1


IDENTITY = "me 10.0.0.2 TCP 0 445 no lan"


def test_set(filled: Session) -> None:
    run_command("set mmpolicy MM mmlifetime=5 softsa=7", filled)
    run_command("set qmpolicy QM soft=no pfsgroup=nopfs", filled)
    run_command(f"set rule {IDENTITY} actionin=block psk=Other", filled)
    objects = filled.dynamic.read()
    assert (
        objects.main_mode_policies[0].main_mode_minutes,
        objects.main_mode_policies[0].soft_expiration_minutes,
    ) == (5, 7)
    assert objects.main_mode_policies[0].quick_modes_per_main_mode == 2  # not named: stays
    assert (objects.quick_mode_policies[0].soft, objects.quick_mode_policies[0].pfs_group) == (
        False,
        PfsGroup.NOPFS,
    )
    (rule,) = objects.rules
    assert (rule.action_inbound, rule.action_outbound) == (Action.BLOCK, Action.NEGOTIATE)
    (method,) = rule.authentication
    assert isinstance(method, PresharedKey)
    assert method.key.reveal() == b"Other"


def test_delete(filled: Session) -> None:
    assert refused(filled, "delete mmpolicy MM") is ReasonCode.IN_USE
    assert refused(filled, "delete qmpolicy all") is ReasonCode.IN_USE
    assert refused(filled, "delete rule me 10.0.0.2") is ReasonCode.UNKNOWN_NAME
    run_command(f"delete rule {IDENTITY}", filled)
    run_command("delete mmpolicy all", filled)
    run_command("delete qmpolicy QM", filled)
    assert filled.dynamic.read() == DynamicSet()


def test_delete_all(filled: Session) -> None:
    run_command("delete all", filled)
    assert filled.dynamic.read() == DynamicSet()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("add mmpolicy mm", ReasonCode.NAME_EXISTS),
        ("add qmpolicy qm", ReasonCode.NAME_EXISTS),
        ("add rule me 10.0.0.2 MM QM TCP 0 445 no lan", ReasonCode.NAME_EXISTS),
        ("add rule me any MM", ReasonCode.INVALID_POLICY),  # negotiates without a quick-mode policy
        ("add rule me any Other QM", ReasonCode.UNKNOWN_NAME),
        ("add rule me any MM Other", ReasonCode.UNKNOWN_NAME),
        ("add rule me me MM QM", ReasonCode.INVALID_FILTER),
        ("set mmpolicy Other", ReasonCode.UNKNOWN_NAME),
        ("set rule me any mmpolicy=MM", ReasonCode.UNKNOWN_NAME),
        ("add qmpolicy X pfsgroup=GRP9", ReasonCode.SYNTAX),
        ("delete sa peer=me", ReasonCode.SYNTAX),
        ("delete sa peer=10.0.0.0/8", ReasonCode.SYNTAX),
    ],
)
def test_refusals(filled: Session, line: str, code: ReasonCode) -> None:
    assert refused(filled, line) is code


def test_a_rule_that_only_blocks_needs_no_quick_mode_policy(filled: Session) -> None:
    run_command("add rule any me MM protocol=TCP dstport=23 actioninbound=block actionoutbound=block", filled)
    assert filled.dynamic.read().rules[1].quick_mode_policy == ""


def show(session: Session, what: str) -> Outcome:
    outcome = run_command(f"show {what}", session)
    assert outcome.status == 0
    assert "TopSecret" not in outcome.text + json.dumps(outcome.data)
    return outcome


def rows(outcome: Outcome, key: str) -> list:
    assert isinstance(outcome.data, dict)
    found = outcome.data[key]
    assert isinstance(found, list)
    return found


def test_show_objects(filled: Session) -> None:
    assert rows(show(filled, "mmpolicy all"), "main_mode_policies")[0]["main_mode_minutes"] == 60
    assert "MM" in show(filled, "mmpolicy MM").text
    assert rows(show(filled, "qmpolicy QM"), "quick_mode_policies")[0]["pfs_group"] == "grp2"
    rule = rows(show(filled, "rule"), "rules")[0]
    assert (rule["action_inbound"], rule["authentication"][0]) == ("permit", {"method": "preshared-key"})
    assert refused(filled, "show mmpolicy Other") is ReasonCode.UNKNOWN_NAME
    assert len(rows(show(filled, "rule type=tunnel"), "rules")) == 0
    assert len(rows(show(filled, "rule type=transport srcaddr=me dstaddr=10.0.0.0 dstmask=8"), "rules")) == 1
    assert len(rows(show(filled, "rule dstaddr=10.1.0.0/16"), "rules")) == 0
    assert len(rows(show(filled, "rule actioninbound=block"), "rules")) == 0


def test_show_policies_and_rules_of_every_store_that_are_in_force(filled: Session) -> None:
    for line in (
        "add filter L me 10.9.0.0/16",
        "add filteraction N inpass=yes soft=yes qmpfs=yes",
        "add filteraction unused",
        "add policy P assign=yes mmlifetime=7",
        "add policy other",
        "add rule R P L N",
        "add rule off P L N activate=no",
    ):
        run_command(f"ipsec static {line}", filled)
    main_modes = rows(show(filled, "mmpolicy all"), "main_mode_policies")
    assert [(row["name"], row["store"], row["main_mode_minutes"]) for row in main_modes] == [
        ("MM", "dynamic", 60),
        ("P", "local", 7),
    ]
    quick_modes = rows(show(filled, "qmpolicy all"), "quick_mode_policies")
    assert [(row["name"], row["store"], row["pfs_group"]) for row in quick_modes] == [
        ("QM", "dynamic", "grp2"),
        ("N", "local", "grpmm"),
        ("Default Response", "local", "nopfs"),
    ]
    run_command("ipsec static set defaultrule policy=P activate=no", filled)
    assert "Default Response" not in show(filled, "qmpolicy all").text
    assert [row["name"] for row in rows(show(filled, "qmpolicy n"), "quick_mode_policies")] == ["N"]
    (rule,) = rows(show(filled, "rule dstaddr=10.9.0.0/16"), "rules")
    assert (rule["name"], rule["store"], rule["action_inbound"], rule["action_outbound"]) == (
        "R",
        "local",
        "permit",
        "negotiate",
    )
    everything = show(filled, "all").text
    assert "Local" in everything
    assert len(rows(show(filled, "rule"), "rules")) == 2


def test_show_generic_filters_of_dynamic_and_assigned_policies(filled: Session) -> None:
    for line in (
        "add filter L me 10.9.0.0/16 protocol=UDP",
        "add filteraction B action=block",
        "add policy P assign=yes",
        "add rule R P L B",
    ):
        run_command(f"ipsec static {line}", filled)
    found = rows(show(filled, "qmfilter all"), "filters")
    assert [(row["destination"], row["action_inbound"]) for row in found] == [
        ("10.0.0.2", "permit"),
        ("10.9.0.0/16", "block"),
    ]
    assert [row["rule"] for row in rows(show(filled, "qmfilter R"), "filters")] == ["R"]
    assert len(rows(show(filled, "mmfilter all"), "filters")) == 1  # only what negotiates
    assert "10.9.0.0/16" in show(filled, "qmfilter all format=table").text


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("qmfilter all type=specific", 3),
        ("qmfilter all type=specific srcaddr=10.0.0.2", 2),
        ("qmfilter all type=specific srcaddr=10.0.0.2 dstaddr=192.0.2.1 actioninbound=permit", 1),
        ("qmfilter all type=specific protocol=TCP", 1),
        ("qmfilter all type=specific dstport=23", 1),
        ("qmfilter R type=specific", 3),
        ("qmfilter X type=specific", 0),
        ("mmfilter all type=specific", 1),
    ],
)
def test_show_specific_filters(filled: Session, what: str, count: int) -> None:
    outcome = show(filled, what)
    assert len(rows(outcome, "filters")) == count
    assert f": {count}" in outcome.text


def test_show_associations(filled: Session) -> None:
    for form in ("list", "table"):
        outcome = show(filled, f"mmsas format={form}")
        assert "0123456789abcdef:fedcba9876543210" in outcome.text
        assert rows(outcome, "main_modes")[0]["suite"] == "3DES-SHA1-2"
    assert len(rows(show(filled, "mmsas dstaddr=10.0.0.2"), "main_modes")) == 1
    assert len(rows(show(filled, "mmsas dstaddr=10.0.0.3"), "main_modes")) == 0
    assert len(rows(show(filled, "qmsas all"), "quick_modes")) == 1
    assert len(rows(show(filled, "qmsas protocol=UDP"), "quick_modes")) == 0
    assert "two.example.com" in show(filled, "qmsas resolvedns=yes").text
    assert "two.example.com" not in show(filled, "qmsas").text


def test_show_statistics_and_all(filled: Session) -> None:
    both = show(filled, "stats")
    assert "Invalid Cookies" in both.text
    labels = [line.partition(" : ")[0].strip() for line in both.text.splitlines() if " : " in line]
    assert len(labels) == len({label.casefold() for label in labels})  # nothing is told twice
    assert "Bytes Sent" in both.text
    assert isinstance(both.data, dict)
    assert both.data["ipsec"]["Bytes Sent"] == 20
    assert "ipsec" not in show(filled, "stats type=ike").data
    assert "IKE Statistics" not in show(filled, "stats type=ipsec").text
    everything = show(filled, "all")
    assert isinstance(everything.data, dict)
    assert everything.data.keys() >= {"config", "rules", "filters", "main_modes", "quick_modes", "ike"}
    for word in ("IPSecexempt", "QM Negotiation Policy", "Cookie Pair", "Offer Used"):
        assert word in everything.text


def test_delete_sa(filled: Session, agent) -> None:
    outcome = run_command("delete sa peer=10.0.0.2", filled)
    assert str(agent.deleted) == "10.0.0.2"
    assert "1 main-mode and 2 quick-mode" in outcome.text


# -- settings


@pytest.mark.parametrize(
    ("line", "key", "kept"),
    [
        ("set config property=ipsecexempt value=0", "ipsecexempt", "0"),
        ("set config ikelogging 1", "ikelogging", "1"),
        ("set config ipsecdiagnostics 7", "ipsecdiagnostics", "7"),
        ("set config strongcrlcheck 2", "strongcrlcheck", "2"),
        ("set config ipsecloginterval 60", "ipsecloginterval", "60"),
        ("set config bootmode BLOCK", "bootmode", "block"),
        ('set config bootexemptions "TCP:0:3389:Inbound, udp:68:67:outbound"', "bootexemptions",
         "tcp:0:3389:inbound udp:68:67:outbound"),
        ("set config bootexemptions none", "bootexemptions", "none"),
        ("set config nlbsidletime 5", "nlbsidletime", "5"),
        ("set config property=NlbsIdle value=1", "nlbsidle", "1"),
        ("set config NLBSFlags 1", "nlbsflags", "1"),
        ("set config NlbsQMRetransmitDuration 60", "nlbsqmretransmitduration", "60"),
        ("set config deadpeertime 10", "deadpeertime", "10"),
    ],
)  # fmt: skip
def test_settings_are_kept(at_dynamic: Session, line: str, key: str, kept: str) -> None:
    assert run_command(line, at_dynamic) == Outcome()
    assert at_dynamic.settings.get_setting(key) == kept
    outcome = show(at_dynamic, "config")
    assert isinstance(outcome.data, dict)
    shown = outcome.data["config"][key]
    assert shown == ([] if kept == "none" else kept.split() if key == "bootexemptions" else kept)


@pytest.mark.parametrize(
    "line",
    [
        "set config ipsecexempt 4",
        "set config ipsecexempt -1",
        "set config ipsecloginterval 59",
        "set config ipsecloginterval 86401",
        "set config ipsecdiagnostics 8",
        "set config bootmode open",
        "set config bootexemptions tcp:3389:inbound",
        "set config bootexemptions icmp:0:80:inbound",
        "set config ipsecexemt 3",
        "set config nlbsidletime 4",
        "set config nlbsidletime 61",
        "set config nlbsqmretransmitduration 2",
        "set config nlbsqmretransmitduration 61",
        "set config nlbsflags 2",
        "set config deadpeertime 4",
        "set config strongcrlcheck yes",
        "set config",
    ],
)
def test_settings_have_ranges(at_dynamic: Session, line: str) -> None:
    before = at_dynamic.store.version()
    with pytest.raises(CallerError) as error:
        run_command(line, at_dynamic)
    assert error.value.reason.code is ReasonCode.SYNTAX
    assert dict(error.value.reason.facts).get("expected")
    assert at_dynamic.store.version() == before


def test_show_config_has_defaults_and_a_table(at_dynamic: Session) -> None:
    text = show(at_dynamic, "config").text
    assert "IPSecexempt              : 3" in text
    assert "StrongCRLCheck           : 1" in text
    run_command("set config bootexemptions tcp:0:3389:inbound", at_dynamic)
    assert [line.split() for line in show(at_dynamic, "config").text.splitlines()][-1] == [
        "TCP",
        "0",
        "3389",
        "Inbound",
    ]
