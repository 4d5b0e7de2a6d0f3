"""What was read of a directory -> the policy that applies. The objects are those of a real domain."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stockade.model.reasons import ReasonCode, StockadeError
from stockade.policy.group_policy import Container, ContainerKind, GpoLink, GroupPolicyObject
from stockade.store.directory.evaluation import evaluate
from stockade.store.directory.snapshot import (
    DirectoryObject,
    Snapshot,
    decode_snapshot,
    encode_snapshot,
)
from stockade.store.formats.ldif import _records

DATA = Path(__file__).parents[3] / "data"
DOMAIN = "DC=lab,DC=test"
CONTAINER = f"CN=IP Security,CN=System,{DOMAIN}"
SERVER = f"CN=ipsecPolicy{{72385230-70FA-11D1-864C-14A300000000}},{CONTAINER}"
GPO = f"CN={{0B5E6A61-0000-4000-8000-000000000001}},CN=Policies,CN=System,{DOMAIN}"


def real_objects() -> tuple[DirectoryObject, ...]:
    (path,) = DATA.rglob("*ipsec-objects*.ldif")
    return tuple(
        DirectoryObject(record.dn, record.attributes)
        for record in _records(path.read_text())
        if "ipsecdata" in record.attributes
    )


def snapshot(pointer: str = SERVER, objects: tuple[DirectoryObject, ...] | None = None, **facts) -> Snapshot:
    gpo = GroupPolicyObject(GPO, "Servers", pointer=pointer)
    return Snapshot(
        1_000.0,
        "lab.test",
        DOMAIN,
        f"CN=alpha,{DOMAIN}",
        "dc1.lab.test",
        containers=(Container(DOMAIN, ContainerKind.DOMAIN, (GpoLink(GPO),)),),
        gpos=(gpo,),
        objects=real_objects() if objects is None else objects,
        **facts,
    )


def refusal(one: Snapshot) -> str:
    with pytest.raises(StockadeError) as caught:
        evaluate(one)
    assert caught.value.reason.code is ReasonCode.DIRECTORY_UNREADABLE
    return str(caught.value.reason)


def test_the_pointers_policy_is_assigned_and_no_other():
    found = evaluate(snapshot())
    assert found.policy is not None
    assert found.policy.name == "Server (Request Security)"
    assert [one.name for one in found.policy_set.policies if one.assigned] == [found.policy.name]
    assert found.policy_set.store == "domain"
    assert len(found.policy.rules) == 3


def test_without_a_pointer_nothing_is_assigned():
    assert evaluate(snapshot("")).policy is None


def test_a_pointer_to_what_is_not_there_is_an_error():
    missing = SERVER.replace("72385230", "00000000")
    assert "is not in the directory" in refusal(snapshot(missing))
    assert "no IPsec policy" in refusal(snapshot(f"CN=Administrators,{DOMAIN}"))
    assert "out of this domain" in refusal(snapshot(SERVER.replace("DC=lab", "DC=elsewhere")))


def test_objects_that_may_not_be_read_are_told():
    assert "22 objects that this computer may not read" in refusal(snapshot(objects=(), hidden=22))


def without(kind: str, *, number: int = 0) -> tuple[DirectoryObject, ...]:
    objects = real_objects()
    policy = next(one for one in objects if one.dn.casefold() == SERVER.casefold())
    (names,) = [values for name, values in policy.attributes.items() if name == kind]
    return tuple(one for one in objects if one.dn.casefold() != str(names[number]).casefold())


def test_an_object_that_refers_to_a_missing_one_is_reported_and_not_guessed():
    assert "72385232" in refusal(snapshot(objects=without("ipsecnfareference", number=_place("72385232"))))
    assert "ipsecISAKMPPolicy" in refusal(snapshot(objects=without("ipsecisakmpreference")))


def _place(part: str) -> int:
    policy = next(one for one in real_objects() if one.dn.casefold() == SERVER.casefold())
    return [part in str(value) for value in policy.attributes["ipsecnfareference"]].index(True)


def changed(part: str, **attributes: tuple[object, ...]) -> tuple[DirectoryObject, ...]:
    return tuple(
        replace(one, attributes={**one.attributes, **attributes}) if part in one.dn else one
        for one in real_objects()
    )


def test_every_truncation_of_a_blob_of_the_policy_is_refused_and_of_another_policy_is_told():
    mine, others = "ipsecNFA{72385232", "ipsecISAKMPPolicy{72385237"
    for part, spoils in ((mine, True), (others, False)):
        blob = next(one for one in real_objects() if part in one.dn).attributes["ipsecdata"][0]
        for length in (0, 1, 19, 20, len(blob) // 2):
            damaged = snapshot(objects=changed(part, ipsecdata=(blob[:length],)))
            if spoils:
                assert "damaged" in refusal(damaged)
            else:
                assert evaluate(damaged).policy is not None
                assert evaluate(damaged).problems


def test_references_in_a_circle_are_refused():
    rule = f"CN=ipsecNFA{{72385232-70FA-11D1-864C-14A300000000}},{CONTAINER}"
    objects = changed("ipsecNegotiationPolicy{72385233", ipsecnfareference=(rule,))
    assert "in a circle" in refusal(snapshot(objects=objects))


def test_a_snapshot_survives_its_file_and_a_damaged_file_is_an_error():
    one = snapshot(site="Home", hidden=1)
    data = encode_snapshot(one)
    assert decode_snapshot(data) == one
    assert "ipsecData" not in repr(one)
    for spoilt in (b"", b"{}", data[:-2], data.replace(b'"format":1', b'"format":2'), b"[" * 100_000):
        with pytest.raises(StockadeError, match="copy of the directory"):
            decode_snapshot(spoilt)
    form = json.loads(data)
    for name in form:
        for value in (None, 3, "x", [1], {"a": 1}):
            try:
                decode_snapshot(json.dumps({**form, name: value}).encode())
            except StockadeError:
                continue


def test_content_is_compared_without_the_time_of_reading():
    one = snapshot()
    assert one.same_content(replace(one, read=2_000.0, controller="dc2.lab.test"))
    assert not one.same_content(replace(one, objects=one.objects[1:]))
