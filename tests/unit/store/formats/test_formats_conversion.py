"""What objects mean: the predefined policies of Windows, what comes over changed or not at all, and the way
back."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.addresses import AddressRange
from stockade.model.distinguished_names import name_text
from stockade.model.filters import Action
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.policy.objects import (
    DEFAULT_RESPONSE_METHODS,
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
from stockade.store.formats.conversion.filters import read_filters, write_filters
from stockade.store.formats.conversion.main_mode import read_main_mode
from stockade.store.formats.conversion.names import Names
from stockade.store.formats.conversion.reading import policy_set_from_objects
from stockade.store.formats.conversion.rules import read_rule
from stockade.store.formats.conversion.writing import objects_from_policy_set
from stockade.store.formats.ipsec_data import FilterListData, IsakmpData, NegotiationData, NfaData, WideText
from stockade.store.formats.ipsec_data import filters as blob
from stockade.store.formats.ipsec_data.isakmp import GROUP_2048, SecurityMethod
from stockade.store.formats.ipsec_data.negotiation import AlgorithmOffer, SecurityOffer
from stockade.store.formats.ipsec_data.nfa import AuthenticationEntry
from stockade.store.formats.numbers import EspNumbers
from stockade.store.formats.objects import ACTION_NEGOTIATE, IpsecObject, ObjectClass, ObjectSet, Reference
from stockade.store.formats.problems import Problems, is_loss

ME, ANY = FilterAddress.me(), FilterAddress.any()


def losses(reasons: tuple[Reason, ...]) -> list[str]:
    return [str(reason) for reason in reasons if is_loss(reason)]


def changed(objects: ObjectSet, name: str, **changes: object) -> ObjectSet:
    """The set with one object, found by its name or class, changed; `remove=True` takes it out."""
    found = [entry for entry in objects.objects if name in (entry.name, str(entry.reference))]
    assert len(found) == 1, name
    kept = tuple(entry for entry in objects.objects if entry is not found[0])
    if changes.pop("remove", False):
        return replace(objects, objects=kept)
    return replace(objects, objects=(*kept, replace(found[0], **changes)))


# -- the predefined policies


def test_the_predefined_policies_are_read_as_windows_shows_them(samba_objects: ObjectSet) -> None:
    policy_set, problems = policy_set_from_objects(samba_objects)
    assert losses(problems) == []
    rules = {
        policy.name: [(rule.filter_list, rule.filter_action) for rule in policy.rules]
        for policy in policy_set.policies
    }
    response = ("<Dynamic>", "Default Response")
    assert rules == {
        "Client (Respond Only)": [response],
        "Server (Request Security)": [
            ("All ICMP Traffic", "Permit"),
            ("All IP Traffic", "Request Security (Optional)"),
            response,
        ],
        "Secure Server (Require Security)": [
            ("All ICMP Traffic", "Permit"),
            ("All IP Traffic", "Require Security"),
            response,
        ],
    }
    for policy in policy_set.policies:
        assert [str(method) for method in policy.main_mode_methods] == [
            "3DES-SHA1-2", "3DES-MD5-2", "DES-SHA1-1", "DES-MD5-1",
        ]  # fmt: skip
        assert (policy.main_mode_minutes, policy.quick_modes_per_main_mode, policy.master_pfs) == (
            480,
            0,
            False,
        )
        assert policy.polling_minutes == 180
        assert not policy.assigned
        for rule in policy.rules:
            assert rule.authentication == (Kerberos(),)
            assert (rule.tunnel_endpoint, rule.connection_type, rule.active) == (
                None,
                ConnectionType.ALL,
                True,
            )
            assert rule.response_methods == ()


def test_the_predefined_filters_and_actions_are_read_as_windows_shows_them(samba_objects: ObjectSet) -> None:
    policy_set, _ = policy_set_from_objects(samba_objects)
    lists = {entry.name: entry.filters for entry in policy_set.filter_lists}
    assert lists == {
        "All IP Traffic": (Filter(ME, ANY),),
        "All ICMP Traffic": (Filter(ME, ANY, 1, description="ICMP"),),
    }
    actions = {entry.name: entry for entry in policy_set.filter_actions}
    assert set(actions) == {"Permit", "Request Security (Optional)", "Require Security"}
    assert actions["Permit"].action is Action.PERMIT
    request, require = actions["Request Security (Optional)"], actions["Require Security"]
    assert (request.inpass, request.soft, request.session_pfs) == (True, True, False)
    assert (require.inpass, require.soft, require.session_pfs) == (True, False, False)
    assert [str(method) for method in request.methods] == [
        "ESP[3DES,SHA1]:100000k/900s", "ESP[DES,SHA1]:100000k/900s", "AH[SHA1]:100000k/300s",
        "AH[MD5]:100000k/300s",
    ]  # fmt: skip
    assert [str(method) for method in require.methods] == [
        "ESP[3DES,SHA1]:100000k/900s", "ESP[3DES,MD5]:100000k/900s", "ESP[DES,SHA1]:100000k/900s",
        "ESP[DES,MD5]:100000k/900s",
    ]  # fmt: skip


def test_the_doubtful_cipher_number_is_noted_and_can_be_read_the_other_way(samba_objects: ObjectSet) -> None:
    _, problems = policy_set_from_objects(samba_objects)
    noted = [reason for reason in problems if "ESP cipher 1" in str(reason)]
    assert len(noted) == 5
    other, _ = policy_set_from_objects(samba_objects, esp_numbers=EspNumbers.SPECIFICATION)
    request = other.filter_action("Request Security (Optional)")
    assert request is not None
    assert request.methods[1].esp == EspSuite(Encryption.NULL, Hash.SHA1)


def test_guids_and_times_come_over(samba_objects: ObjectSet) -> None:
    policy_set, _ = policy_set_from_objects(samba_objects)
    server = policy_set.policy("Server (Request Security)")
    assert server is not None
    assert server.guid == UUID("72385230-70fa-11d1-864c-14a300000000")
    assert server.modified.isoformat() == "2026-11-21T23:01:41+00:00"
    assert policy_set.filter_lists[1].guid == UUID("7238523a-70fa-11d1-864c-14a300000000")


# -- what is missing, and what hangs on it


def test_a_missing_filter_action_takes_its_rules_out_and_the_policy_is_not_left_assigned(
    samba_objects: ObjectSet,
) -> None:
    server = UUID("72385230-70fa-11d1-864c-14a300000000")
    objects = changed(replace(samba_objects, active=server), "Permit", remove=True)
    policy_set, problems = policy_set_from_objects(objects)
    policy = policy_set.policy("Server (Request Security)")
    assert policy is not None
    assert [rule.filter_list for rule in policy.rules] == ["All IP Traffic", "<Dynamic>"]
    assert not policy.assigned
    missing = [reason for reason in problems if reason.code is ReasonCode.MISSING_OBJECT]
    assert len(missing) == 2
    assert "ipsecNegotiationPolicy{7238523B-" in str(missing[0])
    assert any("it is not assigned here" in str(reason) for reason in problems)


def test_an_assigned_policy_that_came_over_whole_is_assigned(samba_objects: ObjectSet) -> None:
    server = UUID("72385230-70fa-11d1-864c-14a300000000")
    # the other policies lose their settings; that is no matter of this one
    objects = changed(
        replace(samba_objects, active=server),
        "Client (Respond Only)",
        isakmp_policy=None,
    )
    policy_set, problems = policy_set_from_objects(objects)
    assert policy_set.assigned is not None
    assert policy_set.assigned.guid == server
    assert policy_set.policy("Client (Respond Only)") is None
    assert losses(problems) != []


def test_a_damaged_shared_list_keeps_every_policy_that_uses_it_from_being_assigned(
    samba_objects: ObjectSet,
) -> None:
    bad = FilterListData(
        (
            blob.FilterSpec1(bytes(4), b"\xff" * 4, bytes(4), bytes(4)),
            blob.FilterSpec1(b"\x0a\0\0\0", b"\xff\0\xff\0", bytes(4), bytes(4)),
        )
    )
    server = UUID("72385230-70fa-11d1-864c-14a300000000")
    objects = changed(replace(samba_objects, active=server), "All IP Traffic", data=bad.encode())
    policy_set, problems = policy_set_from_objects(objects)
    assert len(policy_set.filter_list("All IP Traffic").filters) == 1  # type: ignore[union-attr]
    assert ["do not stand together" in text for text in losses(problems)] == [True]
    assert policy_set.assigned is None


def test_a_blob_that_cannot_be_read_is_a_problem_with_object_and_offset(samba_objects: ObjectSet) -> None:
    policy_set, problems = policy_set_from_objects(
        changed(samba_objects, "All IP Traffic", data=b"\xff" * 99)
    )
    assert policy_set.filter_list("All IP Traffic") is None
    first = next(reason for reason in problems if is_loss(reason))
    assert first.code is ReasonCode.INVALID_FILE
    facts = dict(first.facts)
    assert "All IP Traffic" in facts["where"]
    assert facts["offset"] == "0"


def test_an_assigned_policy_that_is_not_there_is_a_loss(samba_objects: ObjectSet) -> None:
    policy_set, problems = policy_set_from_objects(replace(samba_objects, active=UUID(int=1)))
    assert policy_set.assigned is None
    assert any("the assigned policy did not come over" in text for text in losses(problems))


def test_a_reference_to_the_wrong_class_is_refused(samba_objects: ObjectSet) -> None:
    policy = next(entry for entry in samba_objects.objects if entry.name == "Client (Respond Only)")
    wrong = Reference(ObjectClass.FILTER, UUID("7238523a-70fa-11d1-864c-14a300000000"))
    _, problems = policy_set_from_objects(changed(samba_objects, policy.name, isakmp_policy=wrong))
    assert any("where an ipsecISAKMPPolicy must stand" in text for text in losses(problems))


def test_a_circle_of_references_is_reported_and_ends(samba_objects: ObjectSet) -> None:
    policy = next(entry for entry in samba_objects.objects if entry.name == "Client (Respond Only)")
    nfa = str(policy.rules[0])
    objects = changed(samba_objects, nfa, filters=(policy.reference,))
    _, problems = policy_set_from_objects(objects)
    assert any("in a circle" in text for text in losses(problems))


def test_a_rule_that_no_policy_has_is_noted(samba_objects: ObjectSet) -> None:
    objects = changed(samba_objects, "Client (Respond Only)", rules=())
    policy_set, problems = policy_set_from_objects(objects)
    assert policy_set.policy("Client (Respond Only)").rules == ()  # type: ignore[union-attr]
    assert sum("no policy has it" in str(reason) for reason in problems) == 2  # rule and default response


def test_a_rule_with_two_filter_lists_becomes_two_rules(samba_objects: ObjectSet) -> None:
    both = tuple(entry.reference for entry in samba_objects.of_class(ObjectClass.FILTER))
    objects = changed(samba_objects, "Request Security (Optional) Rule", filters=both)
    policy_set, problems = policy_set_from_objects(objects)
    policy = policy_set.policy("Server (Request Security)")
    assert policy is not None
    names = [(rule.name, rule.filter_list) for rule in policy.rules]
    assert ("Request Security (Optional) Rule", "All ICMP Traffic") in names
    assert ("Request Security (Optional) Rule (2)", "All IP Traffic") in names
    assert len({rule.guid for rule in policy.rules}) == len(policy.rules)
    assert losses(problems) == []


def test_a_rule_that_two_policies_share_gets_a_guid_of_its_own(samba_objects: ObjectSet) -> None:
    server = next(entry for entry in samba_objects.objects if entry.name == "Server (Request Security)")
    objects = changed(samba_objects, "Client (Respond Only)", rules=server.rules)
    policy_set, problems = policy_set_from_objects(objects)
    guids = [rule.guid for policy in policy_set.policies for rule in policy.rules]
    assert len(guids) == len(set(guids)) == 9
    assert sum("two policies share it" in str(reason) for reason in problems) == 3


def test_names_of_one_kind_become_unique_and_usable() -> None:
    names, problems = Names(), Problems()
    taken = [
        names.claim(name, "spare", "x", problems) for name in ("A", "a", "A", "All", "", "b\nc", "y" * 999)
    ]
    assert taken == ["A", "a (2)", "A (3)", "All (2)", "spare", "b c", "y" * 255]
    assert len(problems.reasons()) == 6


# -- main mode


def test_extra_offers_come_first_and_the_shortest_lifetime_counts() -> None:
    data = IsakmpData(
        (SecurityMethod(3, 2, GROUP_2048, 7_200, 5), SecurityMethod(0, 0, 0, 90, random_function=1)),
        quick_mode_limit=9, lifetime_seconds=3_630, new_groups=(4, 2, 0, 3), options=3,
    )  # fmt: skip
    problems = Problems()
    found = read_main_mode(data, "x", problems)
    assert found is not None
    assert [str(method) for method in found.methods] == [
        "3DES-SHA1-3",
        "DES-SHA1-3",
        "3DES-SHA1-3",
        "DES-MD5-3",
    ]
    assert (found.minutes, found.quick_modes, found.map_certificates) == (60, 5, True)
    assert problems.losses == 0
    assert len(problems.reasons()) == 3  # lifetimes differ, seconds are cut, no certificate request


def test_master_pfs_of_one_method_counts_for_all_but_garbage_does_not() -> None:
    one = read_main_mode(IsakmpData((SecurityMethod(3, 2, 2, identity_pfs=1),)), "x", Problems())
    garbage = read_main_mode(
        IsakmpData((SecurityMethod(3, 2, 2, identity_pfs=0xCDCD_CDCD),)), "x", Problems()
    )
    assert one is not None
    assert garbage is not None
    assert (one.master_pfs, one.quick_modes) == (True, 1)
    assert garbage.master_pfs is False


def test_main_mode_without_a_known_method_is_a_loss() -> None:
    problems = Problems()
    assert (
        read_main_mode(IsakmpData((SecurityMethod(7, 2, 2),), new_groups=(9, 0, 0, 0)), "x", problems) is None
    )
    assert problems.losses == 3


# -- filter actions


def with_offers(objects: ObjectSet, *offers: SecurityOffer, **changes: object) -> tuple[PolicySet, list[str]]:
    found = changed(objects, "Require Security", data=NegotiationData(offers).encode(), **changes)
    policy_set, problems = policy_set_from_objects(found)
    return policy_set, losses(problems)


@pytest.fixture
def single(samba_objects: ObjectSet) -> ObjectSet:
    """The set without the rule that is called as its filter action."""
    return replace(
        samba_objects,
        objects=tuple(
            replace(entry, name="the rule") if entry.object_class is ObjectClass.NFA else entry
            for entry in samba_objects.objects
        ),
    )


ESP_3DES_SHA1 = AlgorithmOffer(3, 2, 2)
NONE = AlgorithmOffer()


@pytest.mark.parametrize(
    ("records", "count", "expected"),
    [
        ((ESP_3DES_SHA1, NONE, NONE), 1, "ESP[3DES,SHA1]"),
        ((AlgorithmOffer(0, 1, 2), NONE, NONE), 1, "ESP[None,MD5]"),
        ((AlgorithmOffer(2, 0, 1), AlgorithmOffer(3, 0, 2), NONE), 2, "AH[SHA1]+ESP[3DES,None]"),
        ((AlgorithmOffer(3, 1, 2), AlgorithmOffer(1, 0, 1), NONE), 2, "AH[MD5]+ESP[3DES,MD5]"),
    ],
)
def test_offers_are_read(
    single: ObjectSet,
    records: tuple[AlgorithmOffer, AlgorithmOffer, AlgorithmOffer],
    count: int,
    expected: str,
) -> None:
    policy_set, lost = with_offers(single, SecurityOffer(count=count, records=records))
    action = policy_set.filter_action("Require Security")
    assert lost == []
    assert action is not None
    assert [str(method) for method in action.methods] == [f"{expected}:100000k/3600s"]


@pytest.mark.parametrize(
    ("records", "count"),
    [
        ((AlgorithmOffer(3, 0, 2), NONE, NONE), 1),  # encryption without integrity
        ((AlgorithmOffer(0, 0, 2), NONE, NONE), 1),  # nothing at all
        ((AlgorithmOffer(9, 2, 2), NONE, NONE), 1),
        ((AlgorithmOffer(3, 9, 2), NONE, NONE), 1),
        ((AlgorithmOffer(9, 0, 1), NONE, NONE), 1),
        ((AlgorithmOffer(3, 2, 4), NONE, NONE), 1),
        ((ESP_3DES_SHA1, ESP_3DES_SHA1, NONE), 2),
        ((ESP_3DES_SHA1, NONE, NONE), 4),
    ],
)
def test_an_offer_that_cannot_be_is_left_out_and_named(
    single: ObjectSet, records: tuple[AlgorithmOffer, AlgorithmOffer, AlgorithmOffer], count: int
) -> None:
    good = SecurityOffer(count=1, records=(ESP_3DES_SHA1, NONE, NONE))
    policy_set, lost = with_offers(single, good, SecurityOffer(count=count, records=records))
    action = policy_set.filter_action("Require Security")
    assert action is not None
    assert len(action.methods) == 1
    assert ["quick-mode method 2" in text for text in lost] == [True]
    only, lost = with_offers(single, SecurityOffer(count=count, records=records))
    assert only.filter_action("Require Security") is None
    assert any("no method known here" in text for text in lost)


def test_pfs_of_one_offer_counts_for_all(single: ObjectSet) -> None:
    records = (ESP_3DES_SHA1, NONE, NONE)
    policy_set, lost = with_offers(
        single,
        SecurityOffer(count=1, records=records, perfect_forward_secrecy=1),
        SecurityOffer(count=1, records=records),
    )
    action = policy_set.filter_action("Require Security")
    assert action is not None
    assert action.session_pfs
    assert lost == []


def test_an_unknown_action_is_not_guessed(single: ObjectSet) -> None:
    for guid in (None, UUID(int=5)):
        policy_set, lost = with_offers(single, negotiation_action=guid)
        assert policy_set.filter_action("Require Security") is None
        assert len(lost) == 2  # the action, and the rule that needs it


def test_block_is_read_whatever_its_offers(single: ObjectSet) -> None:
    objects = changed(
        single, "Require Security", negotiation_action=UUID("3f91a819-7647-11d1-864d-d46a00000000")
    )
    action = policy_set_from_objects(objects)[0].filter_action("Require Security")
    assert action is not None
    assert (action.action, action.methods, action.soft) == (Action.BLOCK, (), False)


# -- rules


def test_certificates_are_read_as_text_or_der_and_from_the_alternate_list() -> None:
    der = x509.Name.from_rfc4514_string("CN=A Root,C=US").public_bytes()
    assert name_text(der) == "C=US, CN=A Root"
    data = NfaData(
        (
            AuthenticationEntry(3, WideText.of("CN=Text Root").raw),
            AuthenticationEntry(3, der),
            AuthenticationEntry(3, b"\0\0"),
            AuthenticationEntry(3, b""),
            AuthenticationEntry(9, b"x"),
        ),
        alternate_authentication=(
            AuthenticationEntry(3),
            AuthenticationEntry(3),
            AuthenticationEntry(3, der),
            AuthenticationEntry(3),
            AuthenticationEntry(9),
        ),
        flags=(1, 2, 3, 0, 0),
    )
    problems = Problems()
    found = read_rule(data, "x", problems)
    assert found.authentication == (
        Certificate("CN=Text Root", False, True),
        Certificate("C=US, CN=A Root", True, False),
        Certificate("C=US, CN=A Root", True, True),
    )
    assert [reason.code for reason in problems.reasons()] == [ReasonCode.NOT_EXPRESSIBLE] * 2


def der_name(value: bytes, tag: bytes = b"\x13", identifier: bytes = b"\x55\x04\x0a") -> bytes:
    """A name of one part, of encoded pieces (the usual libraries refuse to make odd ones)."""

    def element(tag: bytes, content: bytes) -> bytes:
        return tag + bytes([len(content)]) + content

    pair = element(b"\x30", element(b"\x06", identifier) + element(tag, value))
    return element(b"\x30", element(b"\x31", pair))


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\0",
        b"\x30\x80",
        b"\x31\0",
        "CN=x".encode("utf-16-le"),
        der_name(b"A Root\0.example"),
        der_name(b"\xff"),
        der_name(b"A", tag=b"\x02"),
        der_name(b"A", identifier=b""),
        der_name(b"A", identifier=b"\x55\x84"),
        der_name(b"A")[:-1],
        der_name(b"A") + b"x",
    ],
)
def test_what_is_no_der_name_is_none(der: bytes) -> None:
    assert name_text(der) is None


def test_a_damaged_der_name_is_not_read_as_text() -> None:
    problems = Problems()
    assert (
        read_rule(NfaData((AuthenticationEntry(3, der_name(b"A\0B")),)), "x", problems).authentication == ()
    )
    assert problems.losses == 1


def test_odd_der_names_are_shown_whole() -> None:
    assert name_text(der_name(b'A, "B"')) == 'O="A, ""B"""'
    assert name_text(der_name("Ä".encode("utf-16-be"), b"\x1e")) == "O=Ä"
    assert name_text(der_name(b"x", identifier=b"\x2a\x86\x48")) == "OID.1.2.840=x"


def test_a_preshared_key_comes_over_and_shows_nowhere() -> None:
    problems = Problems()
    found = read_rule(NfaData((AuthenticationEntry(1, Secret(WideText.of("hunter2-ß").raw)),)), "x", problems)
    assert found.authentication == (PresharedKey(Secret("hunter2-ß".encode())),)
    for raw in (b"", b"\0\0", b"h\0u\0n", b"\0\xd8\0\0"):
        lost = Problems()
        assert read_rule(NfaData((AuthenticationEntry(1, Secret(raw)),)), "x", lost).authentication == ()
        assert lost.losses == 1
        assert "h" not in str(lost.reasons()[0].facts)


def test_tunnels_connection_types_and_activity() -> None:
    cases = {
        NfaData(is_tunnel=1, tunnel_address=b"\xc0\0\2\1"): IPv4Address("192.0.2.1"),
        NfaData(is_tunnel=1, tunnel_address_ipv6=bytes(15) + b"\7"): IPv6Address("::7"),
        NfaData(is_tunnel=0, tunnel_address=b"\xc0\0\2\1"): None,
    }
    for data, endpoint in cases.items():
        problems = Problems()
        found = read_rule(data, "x", problems)
        assert (found.tunnel_endpoint, found.tunnel_lost, problems.losses) == (endpoint, False, 0)
    for data in (NfaData(is_tunnel=1), NfaData(is_tunnel=1, tunnel_name=WideText.of("gate.example.com"))):
        problems = Problems()
        assert read_rule(data, "x", problems).tunnel_lost
        assert problems.losses == 1
    problems = Problems()
    assert (
        read_rule(NfaData(interface_type=5, is_active=0), "x", problems).connection_type is ConnectionType.ALL
    )
    assert problems.losses == 1


def test_a_tunnel_rule_without_its_end_is_left_out(samba_objects: ObjectSet) -> None:
    data = NfaData((AuthenticationEntry(5, b"\0\0"),), is_tunnel=1)
    objects = changed(samba_objects, "Request Security (Optional) Rule", data=data.encode())
    policy_set, problems = policy_set_from_objects(objects)
    policy = policy_set.policy("Server (Request Security)")
    assert policy is not None
    assert len(policy.rules) == 2
    assert len(losses(problems)) == 1


# -- filter lists


def first(source: bytes, mask: bytes, **more: object) -> blob.FilterSpec1:
    return blob.FilterSpec1(source, mask, bytes(4), b"\xff" * 4, **more)  # type: ignore[arg-type]


def read(data: FilterListData) -> tuple[tuple[Filter, ...], list[str]]:
    problems = Problems()
    return read_filters(data, "x", problems), losses(problems.reasons())


def test_first_generation_ends_are_read() -> None:
    specs = (
        first(bytes(4), bytes(4)),
        first(b"\x0a\1\2\3", b"\xff" * 4),
        first(b"\x0a\1\2\3", b"\xff\xff\0\0"),
        first(b"\xff" * 4, b"\xff" * 4, source_name=WideText.of("www.example.com")),
        first(bytes(4), bytes(4), special=2),
        blob.FilterSpec1(bytes(4), b"\xff" * 4, bytes(4), bytes(4), special=0x83),
    )
    found, lost = read(FilterListData(specs))
    assert lost == []
    assert [(entry.source, entry.destination) for entry in found] == [
        (ANY, ME),
        (FilterAddress.of(IPv4Address("10.1.2.3")), ME),
        (FilterAddress.of(AddressRange.network("10.1.0.0/16")), ME),
        (FilterAddress.named("www.example.com"), ME),
        (FilterAddress.server(AddressKind.WINS), ME),
        (ME, FilterAddress.server(AddressKind.DHCP)),
    ]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (first(b"\x0a\0\0\0", b"\xff\0\xff\0"), "do not stand together"),
        (first(bytes(4), b"\xff" * 4), "both this computer"),
        (first(bytes(4), bytes(4), source_port=80), "a port needs"),
        (first(bytes(4), bytes(4), protocol=300), "protocol 300"),
        (first(bytes(4), bytes(4), special=9), "server kind 9"),
        (first(bytes(4), bytes(4), source_name=WideText.of("no name!")), "not a DNS name"),
    ],
)
def test_a_filter_that_cannot_be_is_named_with_its_number(spec: blob.FilterSpec1, text: str) -> None:
    found, lost = read(FilterListData((first(bytes(4), bytes(4)), spec)))
    assert len(found) == 1
    assert len(lost) == 1
    assert "filter 2" in lost[0]
    assert text in lost[0]


def test_a_range_counts_once_though_it_stands_in_both_parts() -> None:
    listed = FilterList(
        "x",
        (
            Filter(ME, FilterAddress.of(IPv4Address("192.0.2.1"))),
            Filter(ME, FilterAddress.of(AddressRange(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.6")))),
        ),
    )
    data = write_filters(listed, Problems())
    assert data.second is not None
    assert (len(data.filters), data.second.first_count, len(data.second.filters)) == (5, 1, 1)
    assert data.second.filters[0].flags == blob.FLAG_RANGE_IS_HERE
    assert read(data) == (listed.filters, [])
    # without the count, and with other GUIDs, the expansion is still known
    anonymous = replace(
        data,
        filters=tuple(replace(spec, guid=UUID(int=0)) for spec in data.filters),
        second=replace(data.second, first_count=0),
    )
    assert read(anonymous) == (listed.filters, [])


def test_a_list_that_the_first_generation_can_say_is_written_for_every_version() -> None:
    data = write_filters(FilterList("x", (Filter(ME, ANY, 6, 0, 80),)), Problems())
    assert data.second is None
    assert data.trailer == b"\0"
    assert data.filters[0].source_mask == b"\xff" * 4


def test_older_readers_find_no_me_where_a_name_or_server_stands() -> None:
    data = write_filters(
        FilterList(
            "x",
            (Filter(ME, FilterAddress.named("a.example")), Filter(FilterAddress.server(AddressKind.DNS), ME)),
        ),
        Problems(),
    )
    assert data.filters[0].destination == data.filters[1].source == b"\xff" * 4
    assert data.filters[0].destination_name.text == "a.example"
    assert data.filters[1].special == 1


@pytest.mark.parametrize(
    "spec",
    [
        blob.AddressSpec(
            blob.ADDRESS_RANGE, 1, b"\x0a\0\0\x09".ljust(16, b"\0"), b"\x0a\0\0\x01".ljust(16, b"\0")
        ),
        blob.AddressSpec(blob.ADDRESS_SUBNET, 2, bytes(16), b"\xff" * 16),
        blob.AddressSpec(blob.ADDRESS_SINGLE, 3),
        blob.AddressSpec(blob.ADDRESS_SINGLE, 7),
        blob.AddressSpec(0x55, 1),
    ],
)
def test_second_generation_ends_that_cannot_be_are_losses(spec: blob.AddressSpec) -> None:
    entry = blob.FilterSpec2(blob.AddressSpec(blob.ADDRESS_ME, 3), spec)
    found, lost = read(FilterListData((), blob.SecondGeneration((entry,))))
    assert found == ()
    assert ["second-generation filter 1" in text for text in lost] == [True]


def test_ranges_of_ports_are_losses_unless_they_are_one_or_all() -> None:
    end = blob.AddressSpec(blob.ADDRESS_ME, 3)
    other = blob.AddressSpec(blob.ADDRESS_ANY, 1)
    ports = [
        blob.PortSpec(2, 80, 80),
        blob.PortSpec(2, 0, 65_535),
        blob.PortSpec(2, 80, 90),
        blob.PortSpec(7),
    ]
    second = blob.SecondGeneration(
        tuple(blob.FilterSpec2(end, other, destination_port=port, protocol=6) for port in ports)
    )
    found, lost = read(FilterListData((), second))
    assert [entry.destination_port for entry in found] == [80, 0]
    assert len(lost) == 2


# -- the way back


def test_everything_that_the_form_can_say_comes_back(office: PolicySet) -> None:
    objects = objects_from_policy_set(office, with_secrets=True)
    assert objects.problems == ()
    again, problems = policy_set_from_objects(objects)
    assert losses(problems) == []
    assert again == office


def test_an_export_of_the_same_policies_is_the_same(office: PolicySet) -> None:
    assert objects_from_policy_set(office, with_secrets=True) == objects_from_policy_set(
        office, with_secrets=True
    )


def test_owners_point_back(office: PolicySet) -> None:
    objects = {entry.reference: entry for entry in objects_from_policy_set(office, with_secrets=True).objects}
    for entry in objects.values():
        for reference in entry.forward:
            assert entry.reference in objects[reference].owners


def test_keys_leave_only_when_asked_for(office: PolicySet) -> None:
    objects = objects_from_policy_set(office, with_secrets=False)
    assert [reason.code for reason in objects.problems] == [ReasonCode.NOT_EXPRESSIBLE]
    key = "geheim-ß".encode("utf-16-le")
    assert all(key not in entry.data for entry in objects.objects)
    assert any(key in entry.data for entry in objects_from_policy_set(office, with_secrets=True).objects)


def test_what_windows_never_had_is_named_not_weakened() -> None:
    action = FilterAction(
        "Modern",
        methods=(
            QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),
            QuickModeProposal(ah=Hash.SHA_256),
            QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1)),
            QuickModeProposal(ah=Hash.SHA1, extended_sequence=True),
        ),
    )
    policy = Policy(
        "P",
        (Rule("R", "L", "Modern", (PresharedKey(Secret(b"\xff\xfe")),)), Rule("S", "nowhere", "Modern")),
        main_mode_methods=(MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_256, Group.ECP_256),),
    )
    objects = objects_from_policy_set(PolicySet((policy,), (FilterList("L"),), (action,)), with_secrets=True)
    texts = losses(objects.problems)
    assert len(texts) == 6
    for part in (
        "ESN",
        "AES256-SHA256-ECP256",
        "that is no text",
        "“nowhere”",
        "AESGCM128",
        "AH[SHA256]",
    ):
        assert any(part in text for text in texts), part


def prefix(bits: int, length: int) -> FilterAddress:
    return FilterAddress.of(
        AddressRange.network(f"{IPv4Address(bits >> 32 - length << 32 - length)}/{length}")
    )


SERVERS = [
    FilterAddress(kind, version=version) for kind in AddressKind if kind.is_server for version in (None, 4, 6)
]
NAMED = [FilterAddress.named("a.example"), FilterAddress(AddressKind.NAME, None, "b.example", 6)]
IPV4, IPV6 = st.integers(1, 2**32 - 1), st.integers(0, 2**128 - 1)
ENDS = st.one_of(
    st.just(ANY),
    st.sampled_from(NAMED + SERVERS),
    st.tuples(IPV4, IPV4).map(
        lambda pair: FilterAddress.of(AddressRange(IPv4Address(min(pair)), IPv4Address(max(pair))))
    ),
    st.tuples(IPV6, IPV6).map(
        lambda pair: FilterAddress.of(AddressRange(IPv6Address(min(pair)), IPv6Address(max(pair))))
    ),
    st.builds(prefix, st.integers(2**31, 2**32 - 1), st.integers(1, 32)),
)
FILTERS = st.builds(
    lambda end, swapped, protocol, port, mirrored, text: Filter(
        end if swapped else ME,
        ME if swapped else end,
        protocol,
        port if protocol == 6 else 0,
        0,
        mirrored,
        text,
    ),
    ENDS,
    st.booleans(),
    st.sampled_from([0, 1, 6, 255]),
    st.integers(0, 65_535),
    st.booleans(),
    st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8),
)


@given(st.lists(FILTERS, max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_filters_come_back(entries: list[Filter]) -> None:
    data = write_filters(FilterList("x", tuple(entries)), Problems())
    found, lost = read(FilterListData.decode(data.encode()))
    assert lost == []
    assert set(found) == set(entries)  # the second generation stands behind the first
    assert len(found) == len(entries)


def test_the_usual_default_response_stays_the_usual_one(samba_objects: ObjectSet) -> None:
    policy_set, _ = policy_set_from_objects(samba_objects)
    objects = objects_from_policy_set(policy_set, with_secrets=True)
    again, _ = policy_set_from_objects(objects)
    assert again == policy_set
    response = next(entry for entry in objects.objects if entry.negotiation_action == ACTION_NEGOTIATE)
    assert len(NegotiationData.decode(response.data).offers) == len(DEFAULT_RESPONSE_METHODS)


def test_an_object_of_a_class_without_its_blob_is_refused() -> None:
    entry = IpsecObject(ObjectClass.FILTER, UUID(int=3), "empty")
    policy_set, problems = policy_set_from_objects(ObjectSet((entry,)))
    assert policy_set.filter_lists == ()
    assert len(losses(problems)) == 1
