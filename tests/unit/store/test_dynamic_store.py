"""The dynamic store: its rules, and its JSON on the way to the agent and back."""

import json
from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.filters import Action
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.reasons import CallerError, HostError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.policy.dynamic import (
    DynamicRule,
    DynamicSet,
    MainModePolicyObject,
    PfsGroup,
    QuickModePolicyObject,
)
from stockade.policy.objects import AddressKind, ConnectionType, Filter, FilterAddress
from stockade.store.dynamic import DynamicMemory, dynamic_form, dynamic_of
from stockade.store.json_form import decode, encode

MAIN_MODE = MainModePolicyObject(
    "MM", (MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_384, Group.ECP_384),), 5, 2, 7
)
QUICK_MODE = QuickModePolicyObject(
    "QM",
    (
        QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),
        QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, None), Hash.SHA1, 9, 10, True),
    ),
    True,
    PfsGroup.GRP3,
)
RULE = DynamicRule(
    Filter(FilterAddress.me(), FilterAddress.server(AddressKind.DNS), 17, 0, 53),
    "mm",
    "QM",
    Action.PERMIT,
    Action.NEGOTIATE,
    (PresharedKey(Secret(b"\x00\xff")), Kerberos(), Certificate("CN=Root", True, False)),
    IPv4Address("192.0.2.1"),
    ConnectionType.LAN,
)
SET = DynamicSet((MAIN_MODE,), (QUICK_MODE,), (RULE,))


def test_there_and_back() -> None:
    form = dynamic_form(SET, with_keys=True)
    assert dynamic_of(decode(encode(form))) == SET
    assert dynamic_of(json.loads(json.dumps(form))) == SET


def test_without_keys_none_is_there() -> None:
    text = json.dumps(dynamic_form(SET, with_keys=False))
    assert "00ff" not in text
    with pytest.raises(ValueError, match="hexadecimal"):
        dynamic_of(json.loads(text))


def test_memory_and_its_versions() -> None:
    memory = DynamicMemory()
    version = memory.version
    memory.require_version(version)
    memory.replace(SET)
    assert memory.read() == SET
    with pytest.raises(HostError) as error:
        memory.require_version(version)
    assert error.value.reason.code is ReasonCode.STORE_BUSY


@pytest.mark.parametrize(
    ("objects", "code"),
    [
        (DynamicSet((MAIN_MODE, MainModePolicyObject("mm"))), ReasonCode.NAME_EXISTS),
        (DynamicSet((), (QUICK_MODE, QuickModePolicyObject("qm"))), ReasonCode.NAME_EXISTS),
        (DynamicSet((), (QUICK_MODE,), (RULE,)), ReasonCode.UNKNOWN_NAME),
        (DynamicSet((MAIN_MODE,), (), (RULE,)), ReasonCode.UNKNOWN_NAME),
        (DynamicSet(tuple(MainModePolicyObject(str(n)) for n in range(20_001))), ReasonCode.INVALID_POLICY),
    ],
)
def test_what_does_not_fit_together_is_refused(objects: DynamicSet, code: ReasonCode) -> None:
    memory = DynamicMemory()
    with pytest.raises(CallerError) as error:
        memory.replace(objects)
    assert error.value.reason.code is code
    assert memory.read() == DynamicSet()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_json_is_a_set_or_a_value_error(data: st.DataObject) -> None:
    form = json.loads(json.dumps(dynamic_form(SET, with_keys=True)))
    place, key = form, data.draw(st.sampled_from(sorted(form)))
    for _ in range(data.draw(st.integers(0, 4))):
        inner = place[key]
        if isinstance(inner, dict) and inner:
            place, key = inner, data.draw(st.sampled_from(sorted(inner)))
        elif isinstance(inner, list) and inner:
            place, key = inner, data.draw(st.integers(0, len(inner) - 1))
    place[key] = data.draw(json_values)
    with suppress(ValueError):
        dynamic_of(form)


@pytest.mark.parametrize("damage", ["00f", "00ffg", 5, None])
def test_a_damaged_key_is_not_repeated(damage: object) -> None:
    form = json.loads(json.dumps(dynamic_form(SET, with_keys=True)))
    form["rules"][0]["authentication"][0]["key"] = damage
    with pytest.raises(ValueError, match="hexadecimal") as error:
        dynamic_of(form)
    assert "00ff" not in str(error.value)
