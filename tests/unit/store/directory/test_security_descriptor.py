"""Who may read and apply a group policy object."""

import random
import struct

import pytest

from stockade.model.reasons import StockadeError
from stockade.store.directory.security_descriptor import (
    APPLY_GROUP_POLICY,
    read_access_list,
    read_sid,
    why_not_applied,
)

USERS, US, OTHERS = "S-1-5-11", "S-1-5-21-1-2-3-1104", "S-1-5-21-1-2-3-1105"
READ, CONTROL, ALL = 0x10, 0x100, 0x1000_0000
ALLOW, DENY, ALLOW_OBJECT, DENY_OBJECT = 0, 1, 5, 6


def sid(text: str) -> bytes:
    parts = [int(part) for part in text.split("-")[2:]]
    head = bytes([1, len(parts) - 1]) + parts[0].to_bytes(6, "big")
    return head + b"".join(struct.pack("<I", part) for part in parts[1:])


def entry(kind: int, mask: int, who: str, right: object = None, flags: int = 0) -> bytes:
    body = struct.pack("<I", mask)
    if kind in (ALLOW_OBJECT, DENY_OBJECT):
        body += struct.pack("<I", 1) + right.bytes_le if right else struct.pack("<I", 0)
    body += sid(who)
    return struct.pack("<BBH", kind, flags, len(body) + 4) + body


def descriptor(*entries: bytes, present: bool = True) -> bytes:
    body = b"".join(entries)
    acl = struct.pack("<BBHHH", 4, 0, 8 + len(body), len(entries), 0) + body
    control = 0x8000 | (4 if present else 0)
    return struct.pack("<BBHIIII", 1, 0, control, 0, 0, 0, 20 if present else 0) + (acl if present else b"")


def why(*entries: bytes, sids: tuple[str, ...] = (USERS, US)) -> str:
    return why_not_applied(read_access_list(descriptor(*entries)), frozenset(sids))


MAY_READ = entry(ALLOW, READ, USERS)
MAY_APPLY = entry(ALLOW_OBJECT, CONTROL, USERS, APPLY_GROUP_POLICY)


def test_read_and_apply_are_both_needed():
    assert why(MAY_READ, MAY_APPLY) == ""
    assert "apply" in why(MAY_READ)
    assert "read" in why(MAY_APPLY)
    assert "read" in why(MAY_READ, MAY_APPLY, sids=(OTHERS,))


def test_a_denial_before_the_permission_counts():
    denied = entry(DENY_OBJECT, CONTROL, US, APPLY_GROUP_POLICY)
    assert US in why(denied, MAY_READ, MAY_APPLY)
    assert why(MAY_READ, MAY_APPLY, denied) == ""
    assert why(entry(DENY_OBJECT, CONTROL, OTHERS, APPLY_GROUP_POLICY), MAY_READ, MAY_APPLY) == ""


def test_all_extended_rights_and_full_control_hold_the_right_and_another_right_does_not():
    other = entry(ALLOW_OBJECT, CONTROL, USERS, type(APPLY_GROUP_POLICY)(int=1))
    assert "apply" in why(MAY_READ, other)
    assert why(MAY_READ, entry(ALLOW, CONTROL, USERS)) == ""
    assert why(entry(ALLOW, ALL, US)) == ""


def test_an_entry_for_what_stands_below_only_does_not_count():
    assert why(MAY_READ, entry(ALLOW, CONTROL, USERS, flags=8)) != ""


def test_no_access_list_lets_everybody_and_an_empty_one_nobody():
    assert why_not_applied(read_access_list(descriptor(present=False)), frozenset()) == ""
    assert why() != ""


def test_a_sid_is_read_as_people_write_it():
    assert read_sid(sid(US)) == US


def test_damaged_descriptors_are_an_error_and_nothing_else():
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    whole = descriptor(MAY_READ, MAY_APPLY, entry(DENY_OBJECT, CONTROL, OTHERS))
    for length in range(len(whole)):
        with pytest.raises(StockadeError, match="security descriptor"):
            read_access_list(whole[:length])
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read_access_list(bytes(data))
        except StockadeError:
            continue
