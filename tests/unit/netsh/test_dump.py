"""A dump rebuilds exactly what it was made from, does not run without its keys, and refuses what it cannot
say."""

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.reasons import CallerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.netsh.contract import World
from stockade.netsh.dump import dump_policies
from stockade.netsh.interpreter import run_command, run_script
from stockade.netsh.session import Session
from stockade.policy.dynamic import DynamicSet
from stockade.policy.memory_store import MemoryStore
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DYNAMIC_FILTER_LIST,
    AddressKind,
    ConnectionType,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)
from stockade.policy.predefined import predefined_set

# Control characters other than line signs cannot be written in the language.
texts = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), include_characters="\t\n\r"), max_size=20
)
names = (
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=12)
    .filter(lambda name: name.strip() and name.casefold() != "all")
)  # fmt: skip
moments = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
guids = st.uuids()
addresses = st.one_of(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address))


@st.composite
def ranges(draw: st.DrawFn) -> AddressRange:
    first = draw(addresses)
    if draw(st.booleans()):
        length = draw(st.integers(0, first.max_prefixlen))
        mask = (1 << (first.max_prefixlen - length)) - 1
        kind = type(first)
        return AddressRange(kind(int(first) & ~mask), kind(int(first) | mask))
    last = draw(st.integers(int(first), min(int(first) + 2**20, 2**first.max_prefixlen - 1)))
    return AddressRange(first, type(first)(last))


ends = st.one_of(
    ranges().map(FilterAddress.of),
    st.builds(
        FilterAddress,
        st.sampled_from([AddressKind.ME, AddressKind.ANY]),
        version=st.sampled_from([None, 4, 6]),
    ),
    st.sampled_from(["www.example.com", "server1", "größe.example"]).map(FilterAddress.named),
    st.builds(
        FilterAddress, st.just(AddressKind.NAME), name=st.just("h.example"), version=st.sampled_from([4, 6])
    ),
    st.sampled_from([kind for kind in AddressKind if kind.is_server]).map(FilterAddress.server),
)  # fmt: skip


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    protocol = draw(st.integers(0, 255))
    ports = st.integers(0, 65535) if protocol in (6, 17) else st.just(0)
    source, destination = draw(ends), draw(ends)
    if source.kind.is_server:
        destination = FilterAddress.me()
    elif destination.kind.is_server:
        source = FilterAddress.me()
    if source.kind is destination.kind is AddressKind.ME:
        source = FilterAddress.any()
    if {source.family, destination.family} == {4, 6}:
        destination = FilterAddress.any()
    return Filter(source, destination, protocol, draw(ports), draw(ports), draw(st.booleans()), draw(texts))


suites = st.one_of(
    st.builds(
        EspSuite, st.sampled_from([one for one in Encryption if not one.is_aead]), st.sampled_from(list(Hash))
    ),
    st.builds(EspSuite, st.sampled_from([one for one in Encryption if one.is_aead]), st.none()),
)
quick_methods = st.one_of(
    st.builds(QuickModeProposal, suites, st.none(), st.integers(1, 172_799), st.integers(1, 2**31 - 1)),
    st.builds(QuickModeProposal, st.none() | suites, st.sampled_from(list(Hash))),
)
main_methods = st.builds(
    MainModeProposal,
    st.sampled_from([one for one in Encryption if not one.is_aead and one is not Encryption.NULL]),
    st.sampled_from(list(Hash)),
    st.sampled_from(list(Group)),
)
keys = st.binary(min_size=1, max_size=20) | names.map(lambda text: text.encode())
certificates = st.builds(
    Certificate,
    st.text(st.sampled_from("CN=Root,é \"'"), min_size=1, max_size=12).map(lambda text: f"C{text}A"),
    st.booleans(),
    st.booleans(),
)
authentications = st.lists(
    st.one_of(st.just(Kerberos()), keys.map(lambda key: PresharedKey(Secret(key))), certificates),
    min_size=1,
    max_size=3,
).filter(lambda methods: sum(isinstance(one, Kerberos) for one in methods) < 2).map(tuple)  # fmt: skip
filter_actions = st.builds(
    FilterAction,
    names,
    st.sampled_from(list(Action)),
    st.lists(quick_methods, min_size=1, max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    texts,
    guids,
    moments,
)
filter_lists = st.builds(FilterList, names, st.lists(filters(), max_size=3).map(tuple), texts, guids, moments)


def unique(entries: list, key=lambda entry: entry.name.casefold()) -> tuple:
    return tuple({key(entry): entry for entry in entries}.values())


@st.composite
def policy_sets(draw: st.DrawFn) -> PolicySet:
    lists = unique(draw(st.lists(filter_lists, max_size=3)))
    actions = unique(draw(st.lists(filter_actions, max_size=3)))
    policies = []
    for policy_name in unique(draw(st.lists(names, max_size=3)), str.casefold):
        rules = []
        if lists and actions:
            for rule_name in unique(draw(st.lists(names | st.just(""), max_size=3)), str.casefold):
                tunnel = draw(st.none() | addresses.filter(int))
                rules.append(
                    Rule(
                        rule_name,
                        draw(st.sampled_from(lists)).name,
                        draw(st.sampled_from(actions)).name,
                        draw(authentications),
                        tunnel,
                        draw(st.sampled_from(list(ConnectionType))),
                        draw(st.booleans()),
                        draw(texts),
                        draw(guids),
                        draw(moments),
                    )
                )
        if draw(st.booleans()):
            rules.append(
                Rule(
                    "",
                    DYNAMIC_FILTER_LIST,
                    DEFAULT_RESPONSE_ACTION,
                    draw(authentications),
                    active=draw(st.booleans()),
                    guid=draw(guids),
                    modified=draw(moments),
                    is_default_response=True,
                    response_methods=tuple(draw(st.lists(quick_methods, max_size=2))),
                    response_session_pfs=draw(st.booleans()),
                )
            )
        master_pfs = draw(st.booleans())
        policies.append(
            Policy(
                policy_name,
                tuple(rules),
                False,
                tuple(draw(st.lists(main_methods, min_size=1, max_size=3))),
                draw(st.integers(1, 100_000)),
                1 if master_pfs else draw(st.integers(0, 2**31 - 1)),
                master_pfs,
                draw(st.integers(0, 100_000)),
                draw(texts),
                draw(guids),
                draw(moments),
            )
        )
    if policies and draw(st.booleans()):
        policies[-1] = replace(policies[-1], assigned=True)
    return PolicySet(tuple(policies), lists, actions)


def rebuilt(script: str) -> tuple[PolicySet, list[str]]:
    store = MemoryStore(PolicySet())
    outcomes = run_script(script, Session(store, world=World(open_store=lambda name: store)))
    return store.read(), [outcome.text for outcome in outcomes if outcome.failed]


@settings(max_examples=120, deadline=None)
@given(objects=policy_sets())
def test_a_dump_rebuilds_the_store_exactly(objects: PolicySet) -> None:
    again, failures = rebuilt(dump_policies(objects, with_secrets=True))
    assert failures == []
    assert again == objects


@settings(max_examples=40, deadline=None)
@given(objects=policy_sets())
def test_a_dump_without_keys_holds_none_and_runs_only_without_any(objects: PolicySet) -> None:
    script = dump_policies(objects, with_secrets=False)
    held = [
        method.key.reveal()
        for policy in objects.policies
        for rule in policy.rules
        for method in rule.authentication
        if isinstance(method, PresharedKey)
    ]
    again, failures = rebuilt(script)
    assert "pskhex=" not in script or 'pskhex="%' in script
    if held:
        assert len(failures) == 1
        assert "PSK_1" in failures[0]
        assert again == PolicySet()
    else:
        assert failures == []
        assert again == objects


def one_rule(key: bytes) -> PolicySet:
    filter_list, action = FilterList("L"), FilterAction("A")
    rule = Rule("R", "L", "A", (PresharedKey(Secret(key)), PresharedKey(Secret(b"\x00"))))
    return PolicySet((Policy("P", (rule,)),), (filter_list,), (action,))


def test_filled_in_keys_make_it_run() -> None:
    objects = one_rule(b"first")
    script = dump_policies(objects, with_secrets=False)
    assert "first" not in script
    script = script.replace("# set PSK_1=", "set PSK_1=first")
    again, failures = rebuilt(script)
    assert "PSK_2" in failures[0]  # one of two is not enough
    assert again == PolicySet()
    again, failures = rebuilt(script.replace("# set PSK_2=", "set PSK_2=00"))
    assert failures == []
    assert again == objects


def test_the_predefined_policies_can_be_said() -> None:
    objects = predefined_set()
    assert rebuilt(dump_policies(objects, with_secrets=False)) == (objects, [])


@pytest.mark.parametrize(
    "objects",
    [
        PolicySet(filter_lists=(FilterList("a\x00b"),)),
        PolicySet(filter_lists=(FilterList("all"),)),
        PolicySet(filter_lists=(FilterList(""),)),
        PolicySet(filter_lists=(FilterList("x" * 300),)),
        PolicySet(policies=(Policy("P", description="\x1b[31m"),)),
        PolicySet((Policy("P", (Rule("R", "L", "A", ()),)),), (FilterList("L"),), (FilterAction("A"),)),
        PolicySet(
            (Policy("P", (Rule("R", "L", "A", (Certificate("CN=x certmap:yes"),)),)),),
            (FilterList("L"),),
            (FilterAction("A"),),
        ),
        PolicySet(filter_actions=(FilterAction("A", methods=(QuickModeProposal(ah=Hash.MD5),) * 65),)),
    ],
)
def test_what_the_language_cannot_say_is_refused_and_named(objects: PolicySet) -> None:
    with pytest.raises(CallerError) as error:
        dump_policies(objects, with_secrets=True)
    assert error.value.reason.code is ReasonCode.NOT_EXPRESSIBLE
    assert dict(error.value.reason.facts)["object"]


def test_dump_of_everything(session: Session) -> None:
    for line in (
        "add filter L me 10.0.0.0/8",
        "add filteraction A",
        "add policy P assign=yes",
        'add rule R P L A psk="50%off% ""x"""',
        "set store persistent",
        "add policy Always assign=yes",
        "set store local",
        "ipsec dynamic set config ipsecexempt 1",
        'ipsec dynamic add mmpolicy "MM 50%x%"',
        "ipsec dynamic add qmpolicy QM soft=yes pfsgroup=GRP2",
        'ipsec dynamic add rule me 10.0.0.2 "MM 50%x%" QM psk=another actioninbound=permit tunnel=192.0.2.1',
    ):
        run_command(line, session)
    before = (session.store.read(), session.world.open_store("persistent").read(), session.dynamic.read())
    outcome = run_command("netsh ipsec dump --with-secrets", session)
    hidden = run_command("netsh ipsec dump", session)
    assert "another" not in hidden.text
    assert "off" not in hidden.text
    assert isinstance(outcome.data, dict)
    script = outcome.data["script"]
    assert isinstance(script, str)
    assert outcome.text == script.rstrip("\n")
    run_command("delete all", session)
    run_command("ipsec dynamic delete all", session)
    run_command("ipsec dynamic set config ipsecexempt 3", session)
    run_command("set store persistent", session)
    run_command("delete all", session)
    run_command("set store local", session)
    session.context = ()
    failures = [one.text for one in run_script(script, session, atomic=True) if one.failed]
    assert failures == []
    assert session.store.read() == before[0]
    assert session.world.open_store("persistent").read() == before[1]
    assert session.settings.get_setting("ipsecexempt") == "1"
    assert _like(session.dynamic.read()) == _like(before[2])


def _like(objects: DynamicSet) -> DynamicSet:
    """Without GUIDs and times: dynamic objects get new ones."""
    no_guid, no_time = UUID(int=0), datetime(2000, 1, 1, tzinfo=UTC)
    return DynamicSet(
        tuple(replace(one, guid=no_guid, modified=no_time) for one in objects.main_mode_policies),
        tuple(replace(one, guid=no_guid, modified=no_time) for one in objects.quick_mode_policies),
        tuple(replace(one, guid=no_guid, modified=no_time) for one in objects.rules),
    )
