"""Objects of attributes: names, references, what does not fit, twins and circles."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from stockade.model.reasons import CallerError, ReasonCode
from stockade.store.formats.ipsec_data import PolicyData
from stockade.store.formats.objects import (
    IpsecObject,
    ObjectClass,
    RawObject,
    Reference,
    build_object,
    build_objects,
    cycles,
    guid_text,
)
from stockade.store.formats.problems import MAXIMUM_PROBLEMS, Problems, shown

GUID = UUID("72385230-70fa-11d1-864c-14a300000000")
NAME = "ipsecPolicy{72385230-70FA-11D1-864C-14A300000000}"


def raw(name: str = NAME, **attributes: tuple[object, ...]) -> RawObject:
    found = {"ipsecdata": (PolicyData().encode(),)}
    found |= {key.casefold(): value for key, value in attributes.items()}
    return RawObject(name, found, "line 7")


@pytest.mark.parametrize(
    "text",
    [
        NAME,
        NAME.upper(),
        f"CN={NAME},CN=IP Security,CN=System,DC=lab,DC=test",
        f"cn={NAME.lower()} ,CN=IP Security",
        rf"SOFTWARE\Policies\Microsoft\Windows\IPSEC\Policy\Local\{NAME}",
    ],
)
def test_references_are_read_from_dns_and_registry_paths(text: str) -> None:
    assert Reference.parse(text) == Reference(ObjectClass.POLICY, GUID)


@pytest.mark.parametrize(
    "text",
    ["", "CN=IP Security", "ipsecPolicy", NAME[:-1], NAME.replace("ipsecPolicy", "ipsecThing"), NAME + "x"],
)
def test_what_names_no_object_is_no_reference(text: str) -> None:
    assert Reference.parse(text) is None


def test_a_reference_is_written_as_windows_writes_it() -> None:
    assert str(Reference(ObjectClass.POLICY, GUID)) == NAME
    assert guid_text(GUID) == NAME[11:]


def test_attributes_become_an_object() -> None:
    problems = Problems()
    found = build_object(
        raw(
            ipsecName=("Office",),
            ipsecDataType=("598",),
            whenChanged=("20040229120001.0Z",),
            ipsecNFAReference=(NAME.replace("Policy", "NFA"), NAME.replace("Policy", "NFA")),
            ipsecOwnersReference=("CN=something else",),
        ),
        problems,
    )
    assert found.name == "Office"
    assert found.data_type == 598
    assert found.changed == datetime(2004, 2, 29, 12, 0, 1, tzinfo=UTC)
    assert found.rules == (Reference(ObjectClass.NFA, GUID),)
    assert found.owners == ()
    assert problems.reasons() == ()


@pytest.mark.parametrize(
    ("attributes", "attribute"),
    [
        ({"ipsecData": ()}, "ipsecData"),
        ({"ipsecData": ("text",)}, "ipsecData"),
        ({"ipsecName": ("a", "b")}, "ipsecName"),
        ({"ipsecName": (b"\xff",)}, "ipsecName"),
        ({"ipsecDataType": ("many",)}, "ipsecDataType"),
        ({"ipsecNFAReference": ("CN=nobody",)}, "ipsecNFAReference"),
        ({"ipsecISAKMPReference": (NAME, NAME.replace("0}", "1}"))}, "ipsecISAKMPReference"),
        ({"ipsecNegotiationPolicyAction": ("negotiate",)}, "ipsecNegotiationPolicyAction"),
        ({"ipsecID": ("{72385230}",)}, "ipsecID"),
    ],
)
def test_an_attribute_that_does_not_fit_is_named(
    attributes: dict[str, tuple[object, ...]], attribute: str
) -> None:
    with pytest.raises(CallerError) as caught:
        build_object(raw(**attributes), Problems())
    facts = dict(caught.value.reason.facts)
    assert facts["attribute"] == attribute
    assert "line 7" in facts["object"]


def test_an_id_that_is_not_the_name_s_is_a_note() -> None:
    problems = Problems()
    found = build_object(raw(ipsecID=("{00000000-0000-0000-0000-000000000001}",)), problems)
    assert found.guid == GUID
    assert [reason.code for reason in problems.reasons()] == [ReasonCode.TAKEN_OVER]


def test_of_two_objects_with_one_name_neither_is_believed() -> None:
    problems = Problems()
    other = raw(NAME.replace("ipsecPolicy{7", "ipsecPolicy{8"))
    found = build_objects([raw(), raw(NAME.upper()), other], problems)
    assert [str(entry.reference) for entry in found] == [other.name]
    assert problems.losses == 1


def test_an_object_that_cannot_be_read_leaves_the_others() -> None:
    problems = Problems()
    found = build_objects([raw("CN=odd"), raw()], problems)
    assert len(found) == 1
    assert "CN=odd" in str(problems.reasons()[0])


def test_circles_are_found_and_named_in_their_order() -> None:
    references = [Reference(ObjectClass.NFA, UUID(int=number)) for number in range(6)]
    edges = {0: (1,), 1: (2,), 2: (0,), 3: (3,), 4: (5, 0), 5: ()}
    objects = [
        IpsecObject(ObjectClass.NFA, UUID(int=number), filters=tuple(references[other] for other in others))
        for number, others in edges.items()
    ]
    assert cycles(objects) == [
        (references[0], references[1], references[2], references[0]),
        (references[3], references[3]),
    ]


def test_a_long_chain_is_no_circle_and_no_recursion() -> None:
    objects = [
        IpsecObject(
            ObjectClass.NFA, UUID(int=number), filters=(Reference(ObjectClass.NFA, UUID(int=number + 1)),)
        )
        for number in range(20_000)
    ]
    assert cycles(objects) == []


def test_problems_are_bounded_but_counted() -> None:
    problems = Problems()
    for number in range(MAXIMUM_PROBLEMS + 5):
        problems.loss(ReasonCode.MISSING_OBJECT, str(number), "x")
    reasons = problems.reasons()
    assert len(reasons) == MAXIMUM_PROBLEMS + 1
    assert "and 5 more" in str(reasons[-1])
    assert problems.losses == MAXIMUM_PROBLEMS + 5


def test_foreign_text_in_reasons_is_short_and_harmless() -> None:
    assert shown("a\x1b[31mb") == "a\ufffd[31mb"
    assert len(shown("x" * 1_000)) == 121


def test_the_blob_of_an_object_is_not_shown() -> None:
    entry = IpsecObject(ObjectClass.NFA, GUID, data=b"hunter2")
    assert "hunter2" not in repr(entry)
