"""Damage that SQLite does not notice: bits flipped anywhere in the file. What is read is the policy that was
written, or nothing."""

import random
import sqlite3
from ipaddress import ip_address
from pathlib import Path

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import ReasonCode, StockadeError
from stockade.model.secret import Secret
from stockade.policy.objects import (
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)
from stockade.store.local import LocalStore

KEY = b"correct horse battery staple"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "policy.db")
    filters = tuple(
        Filter(
            FilterAddress.me(),
            FilterAddress.of(AddressRange.host(ip_address(f"192.0.2.{number}"))),
            6,
            0,
            8000 + number,
            description=f"filter {number}",
        )
        for number in range(1, 40)
    )
    rule = Rule("rule", "list", "stop", (PresharedKey(Secret(KEY)),))
    with made.transaction() as change:
        change.put_filter_list(FilterList("list", filters))
        change.put_filter_action(FilterAction("stop", Action.BLOCK))
        change.put_policy(Policy("policy", (rule,), assigned=True))
        change.put_setting("ipsecexempt", "3")
    made.close()
    return made


def outcome(path: Path) -> tuple[PolicySet, str | None] | None:
    """What is read; None where the store is refused."""
    store = LocalStore(path)
    try:
        return store.read(), store.get_setting("ipsecexempt")
    except StockadeError as error:
        if error.reason.code is not ReasonCode.STORE_UNREADABLE:
            raise
        return None
    finally:
        store.close()


def test_bits_flipped_anywhere_give_the_same_policy_or_none(store, tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = random.Random(seed)
    sound = store.path.read_bytes()
    good = outcome(store.path)
    assert good is not None
    refused = 0
    path = tmp_path / "flipped.db"
    for _ in range(100):
        for leftover in tmp_path.glob("flipped.db*"):
            leftover.unlink()
        content = bytearray(sound)
        for _ in range(source.choice((1, 1, 2, 8))):
            content[source.randrange(len(content))] ^= 1 << source.randrange(8)
        path.write_bytes(content)
        path.chmod(0o600)
        told = outcome(path)
        refused += told is None
        assert told is None or told == good
    assert refused  # the flips do reach what counts


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"192.0.2.17192.0.2.17", b"192.0.2.16192.0.2.16"),
        (b"block", b"permi"),
        (KEY, KEY.replace(b"horse", b"house")),
        (b"ipsecexempt3", b"ipsecexempt0"),
    ],
)
def test_one_value_that_another_one_was_put_over_is_noticed(store, before, after):
    content = store.path.read_bytes()
    assert before in content
    store.path.write_bytes(content.replace(before, after))
    assert outcome(store.path) is None


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM filters WHERE position = 3",
        "UPDATE filter_actions SET action = 'permit'",
        "UPDATE policies SET assigned = 0",
        "UPDATE rules SET active = 0",
        "DELETE FROM rules",
        "UPDATE settings SET value = '0'",
        "DELETE FROM settings",
        "UPDATE revisions SET objects = 'rubbish'",
        "UPDATE revisions SET settings = '['",
    ],
)
def test_rows_that_were_not_changed_by_a_change_are_damage(store, statement):
    connection = sqlite3.connect(store.path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    assert outcome(store.path) is None


def test_a_history_in_the_form_of_an_older_program_is_no_damage(store):
    """The form of an object may grow: what counts then is the object that it says."""
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE contents SET digest = randomblob(32)")
    connection.commit()
    connection.close()
    found = outcome(store.path)
    assert found is not None
    assert found[0].policies[0].assigned


def test_no_key_is_in_the_refusal(store):
    content = store.path.read_bytes()
    store.path.write_bytes(content.replace(KEY, KEY.replace(b"horse", b"house")))
    with pytest.raises(StockadeError) as caught:
        LocalStore(store.path).read()
    assert "horse" not in str(caught.value)
    assert "house" not in str(caught.value)
    assert "policy" in str(caught.value)


def test_a_flipped_name_in_the_schema_is_damage(store):
    """SQLite's complaint may hold octets that are no text, and a column may be called otherwise."""
    content = store.path.read_bytes()
    for before, after in (
        (b"destination_port INTEGER", b"destinat\xa0on_port INTEGER"),
        (b"CREATE TABLE filters", b"CREATE T\xc1BLE filters"),
    ):
        assert before in content
        store.path.write_bytes(content.replace(before, after))
        assert outcome(store.path) is None


def test_a_setting_that_only_its_index_lost_is_still_read(store):
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'settings'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(store.path.read_bytes())
    page = content[(root - 1) * size : root * size]
    place = page.index(b"ipsecexempt")
    content[(root - 1) * size + place] ^= 0x01
    store.path.write_bytes(content)
    assert store.get_setting("ipsecexempt") == "3"
