"""`add`, `set` and `delete` of `netsh ipsec static` on a real store."""

from ipaddress import IPv4Address

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action
from stockade.model.negotiation import DEFAULT_MAIN_MODE_PROPOSALS, Certificate, Kerberos, PresharedKey
from stockade.model.reasons import CallerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Hash, QuickModeProposal
from stockade.netsh.interpreter import run_command
from stockade.netsh.session import Outcome, Session
from stockade.policy.objects import (
    DEFAULT_QUICK_MODE_PROPOSALS,
    ConnectionType,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
)

ME, ANY = FilterAddress.me(), FilterAddress.any()


def run(session: Session, *lines: str) -> None:
    for line in lines:
        assert run_command(line, session) == Outcome(), line


def refused(session: Session, line: str) -> CallerError:
    before = session.store.version()
    with pytest.raises(CallerError) as error:
        run_command(line, session)
    assert session.store.version() == before
    return error.value


def policy(session: Session, name: str = "P") -> Policy:
    found = session.store.read().policy(name)
    assert found is not None
    return found


def filter_list(session: Session, name: str = "L") -> FilterList:
    found = session.store.read().filter_list(name)
    assert found is not None
    return found


def filter_action(session: Session, name: str = "A") -> FilterAction:
    found = session.store.read().filter_action(name)
    assert found is not None
    return found


@pytest.fixture
def filled(session: Session) -> Session:
    run(
        session,
        "add filter L me any",
        "add filteraction A",
        "add policy P",
        "add rule R P L A psk=key",
    )
    return session


# -- add


def test_add_policy_has_the_defaults_of_windows(session: Session) -> None:
    run(session, "add policy P")
    added = policy(session)
    assert (added.assigned, added.main_mode_minutes, added.polling_minutes) == (False, 480, 180)
    assert (added.quick_modes_per_main_mode, added.master_pfs) == (0, False)
    assert added.main_mode_methods == DEFAULT_MAIN_MODE_PROPOSALS
    (default,) = added.rules
    assert default.is_default_response
    assert default.active
    assert default.authentication == (Kerberos(),)


def test_add_policy_with_everything(session: Session) -> None:
    run(
        session,
        "add policy name=P description=text mmpfs=yes qmpermm=7 mmlifetime=10 activatedefaultrule=no"
        ' pollinginterval=5 assign=yes mmsecmethods="AES256-SHA384-ECP384 3DES-MD5-1"',
    )
    added = policy(session)
    assert (added.description, added.assigned, added.master_pfs) == ("text", True, True)
    assert added.quick_modes_per_main_mode == 1  # mmpfs=yes forces it
    assert (added.main_mode_minutes, added.polling_minutes) == (10, 5)
    assert [str(method) for method in added.main_mode_methods] == ["AES256-SHA384-ECP384", "3DES-MD5-1"]
    assert [rule.active for rule in added.rules] == [False]


def test_assigning_a_policy_unassigns_the_other(session: Session) -> None:
    run(session, "add policy P assign=yes", "add policy Q assign=yes")
    assert [entry.assigned for entry in session.store.read().policies] == [False, True]
    run(session, "set policy P assign=yes")
    assert [entry.assigned for entry in session.store.read().policies] == [True, False]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("me any", Filter(ME, ANY)),
        ("any me protocol=TCP dstport=23", Filter(ANY, ME, 6, 0, 23)),
        (
            "me 10.0.0.1 text UDP no",
            Filter(ME, FilterAddress.of(IPv4Address("10.0.0.1")), 17, 0, 0, False, "text"),
        ),
        (
            "me 10.1.2.3 dstmask=255.255.0.0",
            Filter(ME, FilterAddress.of(AddressRange.network("10.1.0.0/16"))),
        ),
        ("me 10.1.2.3 dstmask=16", Filter(ME, FilterAddress.of(AddressRange.network("10.1.0.0/16")))),
        ("me 10.1.0.0/16", Filter(ME, FilterAddress.of(AddressRange.network("10.1.0.0/16")))),
        (
            "10.0.0.1-10.0.0.3 me protocol=ICMP",
            Filter(FilterAddress.of(AddressRange(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.3"))), ME, 1),
        ),
        ("me any srcmask=255.255.255.255 dstmask=0.0.0.0", Filter(ME, ANY)),
        ("2001:db8::5 me srcmask=32", Filter(FilterAddress.of(AddressRange.network("2001:db8::/32")), ME)),
    ],
)
def test_add_filter(session: Session, words: str, expected: Filter) -> None:
    run(session, f"add filter L {words}")
    assert filter_list(session).filters == (expected,)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("me any srcport=5", ReasonCode.INVALID_FILTER),
        ("me me", ReasonCode.INVALID_FILTER),
        ("10.0.0.1 ::1", ReasonCode.INVALID_FILTER),
        ("me 10.0.0.0/8 dstmask=8", ReasonCode.SYNTAX),
        ("me 10.0.0.1-10.0.0.9 dstmask=8", ReasonCode.SYNTAX),
        ("me 10.0.0.0 dstmask=64", ReasonCode.SYNTAX),
        ("me ::1 dstmask=255.0.0.0", ReasonCode.SYNTAX),
    ],
)
def test_add_filter_that_cannot_be(session: Session, words: str, code: ReasonCode) -> None:
    assert refused(session, f"add filter L {words}").reason.code is code
    assert session.store.read().filter_lists == ()  # not even the list was made


def test_the_same_filter_is_not_added_twice(session: Session) -> None:
    run(session, "add filter L me any")
    assert refused(session, "add filter l me any description=other").reason.code is ReasonCode.NAME_EXISTS
    run(session, "add filter L me any mirrored=no")
    assert len(filter_list(session).filters) == 2


def test_add_filter_list_and_a_taken_name(session: Session) -> None:
    run(session, 'add filterlist "My list" "with a description"')
    assert filter_list(session, "my LIST").description == "with a description"
    assert refused(session, 'add filterlist "MY LIST"').reason.code is ReasonCode.NAME_EXISTS


def test_add_filter_action(session: Session) -> None:
    run(
        session,
        "add filteraction A",
        "add filteraction B action=block",
        'add filteraction C text yes y no negotiate "ESP[AESGCM128,None]:5k/60s AH[SHA1]"',
    )
    assert filter_action(session).methods == DEFAULT_QUICK_MODE_PROPOSALS
    assert (filter_action(session, "B").action, filter_action(session, "B").methods) == (Action.BLOCK, ())
    third = filter_action(session, "C")
    assert (third.session_pfs, third.inpass, third.soft, third.description) == (True, True, False, "text")
    assert [str(method) for method in third.methods] == [
        "ESP[AESGCM128,None]:5k/60s",
        "AH[SHA1]:100000k/3600s",
    ]


def test_add_rule_keeps_the_order_of_authentication(session: Session) -> None:
    run(
        session,
        "add filterlist L",
        "add filteraction A action=permit",
        "add policy P",
        "add rule first P L A",
        'add rule name=second policy=P filterlist=l filteraction=a rootca="CN=One certmap:yes" psk="a key"'
        " kerberos=yes rootca=CN=Two tunnel=192.0.2.1 conntype=lan activate=no description=text",
    )
    rules = policy(session).rules
    assert [rule.name for rule in rules] == ["first", "second", ""]  # the default response rule stays last
    assert rules[0].authentication == (Kerberos(),)
    second = rules[1]
    assert second.authentication == (
        Certificate("CN=One", map_to_account=True),
        PresharedKey(Secret(b"a key")),
        Kerberos(),
        Certificate("CN=Two"),
    )
    assert (second.filter_list, second.filter_action) == ("L", "A")
    assert (second.tunnel_endpoint, second.connection_type) == (IPv4Address("192.0.2.1"), ConnectionType.LAN)
    assert (second.active, second.description) == (False, "text")


@pytest.mark.parametrize(
    ("line", "code", "nearest"),
    [
        ("add rule R2 Q L A", ReasonCode.UNKNOWN_NAME, None),
        ("add rule R2 P LL A", ReasonCode.UNKNOWN_NAME, "L"),
        ("add rule R2 P L AA", ReasonCode.UNKNOWN_NAME, "A"),
        ("add rule r P L A", ReasonCode.NAME_EXISTS, None),
        ("add rule R2 P L A kerberos=no", ReasonCode.SYNTAX, None),
    ],
)
def test_add_rule_that_cannot_be(filled: Session, line: str, code: ReasonCode, nearest: str | None) -> None:
    error = refused(filled, line)
    assert error.reason.code is code
    if nearest is not None:
        assert dict(error.reason.facts)["nearest"] == nearest


def test_a_rule_may_have_many_keys_in_their_order(filled: Session) -> None:
    run(filled, "add rule R2 P L A psk=one pskhex=74776f psk=three rootca=CN=Root psk=four")
    methods = policy(filled).rules[1].authentication
    keys = [way.key.reveal() for way in methods if isinstance(way, PresharedKey)]
    assert keys == [b"one", b"two", b"three", b"four"]
    assert not isinstance(methods[3], PresharedKey)


# -- set


def test_set_changes_only_what_it_names(filled: Session) -> None:
    before = policy(filled), filter_list(filled), filter_action(filled)
    run(
        filled,
        "set policy P description=new",
        "set filterlist L description=new",
        "set filteraction A soft=yes",
    )
    assert policy(filled).description == "new"
    assert policy(filled).rules == before[0].rules
    assert (policy(filled).guid, policy(filled).main_mode_methods) == (
        before[0].guid,
        before[0].main_mode_methods,
    )
    assert (filter_list(filled).description, filter_list(filled).filters) == ("new", before[1].filters)
    assert (filter_action(filled).soft, filter_action(filled).methods) == (True, before[2].methods)


def test_new_names_reach_the_rules(filled: Session) -> None:
    guid = filter_action(filled).guid
    run(filled, "set filterlist L newname=List", f"set filteraction guid={{{guid}}} newname=Action")
    rule = policy(filled).rules[0]
    assert (rule.filter_list, rule.filter_action) == ("List", "Action")
    run(filled, f"set policy guid={policy(filled).guid} newname=Q")
    assert filled.store.read().policy("P") is None
    run(filled, "add filterlist Other")
    assert refused(filled, "set filterlist Other newname=list").reason.code is ReasonCode.NAME_EXISTS


def test_set_filter_action_between_actions(filled: Session) -> None:
    run(filled, "set filteraction A action=block")
    assert (filter_action(filled).action, filter_action(filled).methods) == (Action.BLOCK, ())
    run(filled, "set filteraction A action=negotiate")
    assert filter_action(filled).methods == DEFAULT_QUICK_MODE_PROPOSALS
    run(filled, "set filteraction A qmsecmethods=AH[MD5]")
    assert filter_action(filled).methods == (QuickModeProposal(ah=Hash.MD5),)


def test_set_policy_master_pfs(filled: Session) -> None:
    run(filled, "set policy P mmpfs=yes")
    assert policy(filled).quick_modes_per_main_mode == 1
    run(filled, "set policy P mmpfs=no")
    assert (policy(filled).master_pfs, policy(filled).quick_modes_per_main_mode) == (False, 0)
    run(filled, "set policy P qmpermm=9 activatedefaultrule=no")
    assert policy(filled).quick_modes_per_main_mode == 9
    assert [rule.active for rule in policy(filled).rules] == [True, False]


def test_set_rule(filled: Session) -> None:
    run(filled, "add filterlist L2", "add filteraction A2 action=block")
    run(filled, "set rule R P activate=no tunnel=192.0.2.9")
    rule = policy(filled).rules[0]
    assert (rule.active, rule.tunnel_endpoint) == (False, IPv4Address("192.0.2.9"))
    assert rule.authentication == (PresharedKey(Secret(b"key")),)
    run(
        filled,
        "set rule id=1 policy=P newname=S filterlist=l2 filteraction=a2 tunnel=0.0.0.0 conntype=dialup"
        " kerberos=y",
    )
    rule = policy(filled).rules[0]
    assert (rule.name, rule.filter_list, rule.filter_action) == ("S", "L2", "A2")
    assert (rule.tunnel_endpoint, rule.connection_type) == (None, ConnectionType.DIALUP)
    assert rule.authentication == (Kerberos(),)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("set rule X P activate=no", ReasonCode.UNKNOWN_NAME),
        ("set rule id=3 policy=P activate=no", ReasonCode.UNKNOWN_NAME),
        ("set rule id=0 policy=P activate=no", ReasonCode.SYNTAX),
        ("set rule id=2 policy=P activate=no", ReasonCode.INVALID_POLICY),
        ("set rule R P filterlist=none", ReasonCode.UNKNOWN_NAME),
        ("set policy X assign=yes", ReasonCode.UNKNOWN_NAME),
        ("set policy guid=72385230-70FA-11D1-864C-14A300000000 assign=yes", ReasonCode.UNKNOWN_NAME),
        ("set filteraction", ReasonCode.SYNTAX),
        ("set store location=local domain=x", ReasonCode.SYNTAX),
        ("set defaultrule policy=X activate=no", ReasonCode.UNKNOWN_NAME),
    ],
)
def test_set_that_cannot_be(filled: Session, line: str, code: ReasonCode) -> None:
    assert refused(filled, line).reason.code is code


def test_set_default_rule(filled: Session) -> None:
    run(filled, "set defaultrule policy=P qmpfs=yes activate=no qmsecmethods=AH[SHA1] psk=other")
    default = policy(filled).rules[-1]
    assert default.is_default_response
    assert (default.active, default.response_session_pfs) == (False, True)
    assert default.response_methods == (QuickModeProposal(ah=Hash.SHA1),)
    assert default.authentication == (PresharedKey(Secret(b"other")),)


def test_set_store_local(session: Session) -> None:
    run(session, "set store location=local", "set store LOCAL")


# -- delete


def test_delete_what_is_in_use_names_the_rule(filled: Session) -> None:
    for line in ("delete filterlist L", "delete filteraction all", "delete filterlist name=all"):
        error = refused(filled, line)
        assert error.reason.code is ReasonCode.IN_USE
        assert dict(error.reason.facts)["rule"] == "R"


def test_delete_filter_needs_the_same_filter(filled: Session) -> None:
    run(filled, "add filter L me 10.0.0.0 text TCP dstmask=8 dstport=80")
    for line in ("me 10.0.0.0", "me 10.0.0.0/8 protocol=TCP", "me 10.0.0.0/8 TCP no dstport=80"):
        assert refused(filled, f"delete filter L {line}").reason.code is ReasonCode.UNKNOWN_NAME
    run(filled, "delete filter L me 10.0.0.0/8 TCP dstport=80")
    assert filter_list(filled).filters == (Filter(ME, ANY),)


def test_delete_rules(filled: Session) -> None:
    run(filled, "add rule R2 P L A", "delete rule R P")
    assert [rule.name for rule in policy(filled).rules] == ["R2", ""]
    assert refused(filled, "delete rule id=2 policy=P").reason.code is ReasonCode.INVALID_POLICY
    run(filled, "delete rule id=1 policy=P", "add rule R3 P L A", "delete rule all P")
    assert [rule.is_default_response for rule in policy(filled).rules] == [True]


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (("delete policy P",), (0, 1, 1)),
        (("delete policy all", "delete filterlist all", "delete filteraction A"), (0, 0, 0)),
        (("add policy Q", "delete policy q"), (1, 1, 1)),
        (("delete all",), (0, 0, 0)),
    ],
)
def test_delete(filled: Session, lines: tuple[str, ...], left: tuple[int, int, int]) -> None:
    run(filled, *lines)
    objects = filled.store.read()
    assert (len(objects.policies), len(objects.filter_lists), len(objects.filter_actions)) == left


@pytest.mark.parametrize("kind", ["policy", "filterlist", "filteraction"])
def test_delete_what_is_not_there(filled: Session, kind: str) -> None:
    assert refused(filled, f"delete {kind} nothing").reason.code is ReasonCode.UNKNOWN_NAME


MULTICAST = (
    "add policy P",
    "add filter routers me 224.0.0.5 protocol=89 mirrored=no",
    "add filter wide me any",
    "add filteraction secure",
    "add filteraction block action=block",
)


@pytest.mark.parametrize(
    "lines",
    [
        ("add rule r P routers secure",),
        ("add rule r P routers block", "set rule r P filteraction=secure"),
        ("add rule r P wide secure", "set rule r P filterlist=routers"),
        ("add rule r P routers block", "set filteraction block action=negotiate"),
        ("add rule r P wide secure", "add filter wide me 255.255.255.255"),
        ("add rule r P wide secure", "add filter WIDE ff02::/16 me"),
    ],
)
def test_a_rule_that_asks_for_secured_multicast_is_refused_at_once(
    session: Session, lines: tuple[str, ...]
) -> None:
    for line in (*MULTICAST, *lines[:-1]):
        run_command(line, session)
    before = session.store.read()
    with pytest.raises(CallerError) as error:
        run_command(lines[-1], session)
    assert error.value.reason.code is ReasonCode.NOT_SECURABLE
    assert {"rule", "policy"} <= dict(error.value.reason.facts).keys()
    assert session.store.read() == before


def test_multicast_is_permitted_and_blocked_and_may_be_a_part_of_what_is_secured(session: Session) -> None:
    for line in (
        *MULTICAST,
        "add rule a P routers block",
        "add rule b P wide secure",
        "add filter routers me 224.0.0.6",
    ):
        assert run_command(line, session).status == 0
