"""The local store: objects come back as they went in, the contract's refusals, damage, the file's safety."""

import os
import sqlite3
import threading
import zlib
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.reasons import CallerError, HostError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
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
from stockade.store import schema
from stockade.store.local import LocalStore

ME, ANY = FilterAddress.me(), FilterAddress.any()

WEB = FilterList(
    "Web",
    (
        Filter(ME, FilterAddress.of(IPv4Address("10.0.0.1")), 6, 0, 443, True, "over TLS"),
        Filter(FilterAddress.of(AddressRange.network("fe80::/10")), ANY, 58, mirrored=False),
        Filter(
            FilterAddress.of(AddressRange(IPv4Address("10.0.0.5"), IPv4Address("10.0.0.9"))), ME, 17, 53, 0
        ),
    ),
    "Größe und “Anführung”",
)
SECURE = FilterAction(
    "Secure",
    Action.NEGOTIATE,
    (
        QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),
        QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, None), Hash.SHA1, 900, 5000),
        QuickModeProposal(ah=Hash.SHA_256, extended_sequence=True),
    ),
    inpass=True,
    soft=True,
    session_pfs=True,
    description="all switches on",
)
BLOCK = FilterAction("Block", Action.BLOCK, ())
POLICY = Policy(
    "Servers",
    (
        Rule(
            "web",
            "Web",
            "Secure",
            (PresharedKey(Secret(b"\x00k\xc3\xa9y")), Kerberos(), Certificate("CN=Root", True, True)),
            IPv4Address("192.0.2.1"),
            ConnectionType.LAN,
            False,
            "a rule",
        ),
        Rule(
            "",
            DYNAMIC_FILTER_LIST,
            DEFAULT_RESPONSE_ACTION,
            is_default_response=True,
            response_methods=(QuickModeProposal(ah=Hash.MD5),),
            response_session_pfs=True,
        ),
    ),
    assigned=True,
    main_mode_methods=(MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_384, Group.ECP_384),),
    main_mode_minutes=10,
    quick_modes_per_main_mode=1,
    master_pfs=True,
    polling_minutes=5,
    description="a policy",
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "home" / "policy.db")


def fill(store: LocalStore) -> None:
    with store.transaction() as change:
        change.put_filter_list(WEB)
        change.put_filter_action(SECURE)
        change.put_filter_action(BLOCK)
        change.put_policy(POLICY)


def refusal(error: pytest.ExceptionInfo[CallerError] | pytest.ExceptionInfo[HostError]) -> ReasonCode:
    return error.value.reason.code


def test_a_new_store_is_empty_and_for_its_owner_only(store: LocalStore) -> None:
    assert store.read() == PolicySet(store="local")
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o777 == 0o700
    for beside in store.path.parent.iterdir():
        assert beside.stat().st_mode & 0o077 == 0, beside


def test_every_object_comes_back_as_it_went_in(store: LocalStore) -> None:
    fill(store)
    expected = PolicySet((POLICY,), (WEB,), (SECURE, BLOCK), "local")
    assert store.read() == expected
    assert LocalStore(store.path).read() == expected


def test_a_file_with_wider_rights_is_narrowed(store: LocalStore) -> None:
    fill(store)
    store.close()
    store.path.chmod(0o644)
    LocalStore(store.path).read()
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_may_write_is_refused(store: LocalStore) -> None:
    fill(store)
    store.close()
    store.path.parent.chmod(0o777)
    with pytest.raises(HostError, match=r"chmod go-w") as error:
        store.read()
    assert refusal(error) is ReasonCode.STORE_UNREADABLE


def test_an_exception_in_a_transaction_keeps_nothing(store: LocalStore) -> None:
    fill(store)
    before = (store.read(), store.version())

    def half_a_change() -> None:
        with store.transaction() as change:
            change.delete_policy("servers")
            change.put_filter_list(FilterList("Other"))
            raise OSError("not the store's business")

    with pytest.raises(OSError, match="not the store's business"):
        half_a_change()
    assert (store.read(), store.version()) == before


def test_the_version_changes_with_every_change_and_only_then(store: LocalStore) -> None:
    other = LocalStore(store.path)
    versions = [store.version()]
    fill(store)
    versions.append(other.version())
    other.settings.set_number("ipsecexempt", 1)
    versions.append(store.version())
    with other.transaction() as change:
        change.delete_policy("Servers")
    versions.append(store.version())
    assert len(set(versions)) == 4
    with store.transaction() as change:
        change.read()
    assert store.version() == versions[-1]


def test_names_are_unique_without_regard_to_case(store: LocalStore) -> None:
    fill(store)
    for put in (
        lambda change: change.put_filter_list(FilterList("WEB")),
        lambda change: change.put_filter_action(FilterAction("sECURE")),
        lambda change: change.put_policy(Policy("SERVERS")),
        lambda change: change.put_policy(
            Policy("Two", (Rule("r", "Web", "Block"), Rule("R", "Web", "Block")))
        ),
    ):
        with pytest.raises(CallerError) as error, store.transaction() as change:
            put(change)
        assert refusal(error) is ReasonCode.NAME_EXISTS
    assert len(store.read().policies) == 1


def test_non_ascii_names_are_folded_too(store: LocalStore) -> None:
    with store.transaction() as change:
        change.put_filter_list(FilterList("Größe"))
    with pytest.raises(CallerError), store.transaction() as change:
        change.put_filter_list(FilterList("GRÖSSE"))


def test_a_new_name_is_carried_into_the_rules(store: LocalStore) -> None:
    fill(store)
    with store.transaction() as change:
        change.put_filter_list(replace(WEB, name="HTTP"))
        change.put_filter_action(replace(SECURE, name="Sealed"))
        assert change.read().policies[0].rules[0].filter_list == "HTTP"
    rule = store.read().policies[0].rules[0]
    assert (rule.filter_list, rule.filter_action) == ("HTTP", "Sealed")


def test_what_a_rule_uses_is_not_deleted_and_the_rule_is_named(store: LocalStore) -> None:
    fill(store)
    for delete in ("delete_filter_list", "delete_filter_action"):
        name = "web" if delete == "delete_filter_list" else "secure"
        expected = pytest.raises(CallerError, match="rule “web” of policy “Servers”")
        with expected as error, store.transaction() as change:
            getattr(change, delete)(name)
        assert refusal(error) is ReasonCode.IN_USE
    with store.transaction() as change:
        change.delete_policy("Servers")
        change.delete_filter_list("Web")
        change.delete_filter_action("Secure")
    left = store.read()
    assert (left.policies, left.filter_lists, [a.name for a in left.filter_actions]) == ((), (), ["Block"])


def test_unknown_names_are_refused(store: LocalStore) -> None:
    fill(store)
    for use in (
        lambda change: change.delete_policy("x"),
        lambda change: change.delete_filter_list("x"),
        lambda change: change.delete_filter_action("x"),
        lambda change: change.put_policy(Policy("P", (Rule("r", "nothing", "Block"),))),
        lambda change: change.put_policy(Policy("P", (Rule("r", "Web", "nothing"),))),
    ):
        with pytest.raises(CallerError) as error, store.transaction() as change:
            use(change)
        assert refusal(error) is ReasonCode.UNKNOWN_NAME


def test_at_most_one_policy_is_assigned(store: LocalStore) -> None:
    fill(store)
    with store.transaction() as change:
        change.put_policy(Policy("Second", assigned=True))
    assert [policy.assigned for policy in store.read().policies] == [False, True]


def test_settings_keep_their_types(store: LocalStore) -> None:
    settings = store.settings
    assert (settings.number("ipsecexempt", 3), settings.flag("x", True), settings.text("y", "z")) == (
        3,
        True,
        "z",
    )
    settings.set_number("ipsecexempt", 0)
    settings.set_flag("x", False)
    settings.set_text("y", "stateful")
    again = LocalStore(store.path).settings
    assert (again.number("ipsecexempt", 3), again.flag("x", True), again.text("y", "z")) == (
        0,
        False,
        "stateful",
    )
    again.remove("x")
    assert settings.flag("x", True) is True
    with pytest.raises(HostError) as error:
        settings.number("y", 1)
    assert refusal(error) is ReasonCode.STORE_UNREADABLE


def test_another_writer_makes_it_busy(store: LocalStore) -> None:
    fill(store)
    hurried = LocalStore(store.path, busy_seconds=0.05)
    with store.transaction() as change:
        change.put_filter_list(FilterList("Other"))
        assert hurried.read().filter_list("Other") is None  # reading goes on meanwhile
        with pytest.raises(HostError) as error, hurried.transaction():
            pass
    assert refusal(error) is ReasonCode.STORE_BUSY
    with hurried.transaction() as change:
        change.put_filter_list(FilterList("Third"))


def test_another_thread_waits_its_turn(store: LocalStore) -> None:
    fill(store)
    impatient = LocalStore(store.path, busy_seconds=0.05)
    codes: list[ReasonCode] = []

    def from_a_thread() -> None:
        try:
            impatient.read()
        except HostError as error:
            codes.append(error.reason.code)

    with impatient.transaction():
        thread = threading.Thread(target=from_a_thread)
        thread.start()
        thread.join()
    assert codes == [ReasonCode.STORE_BUSY]


def test_transactions_do_not_nest_and_end_with_their_block(store: LocalStore) -> None:
    with store.transaction() as change, pytest.raises(RuntimeError), store.transaction():
        pass
    with pytest.raises(RuntimeError):
        change.put_filter_list(WEB)
    assert store.read().filter_lists == ()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"not a database, but long enough to look like one of something" * 9, "restore it from a backup"),
    ],
)
def test_damage_is_unreadable_and_never_an_empty_policy(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "policy.db"
    path.write_bytes(content)
    with pytest.raises(HostError, match=words) as error:
        LocalStore(path).read()
    assert refusal(error) is ReasonCode.STORE_UNREADABLE
    assert str(path) in str(error.value)


def test_damaged_pages_are_unreadable(store: LocalStore) -> None:
    fill(store)
    store.close()
    content = bytearray(store.path.read_bytes())
    content[4096:12288] = os.urandom(8192)
    store.path.write_bytes(content)
    with pytest.raises(HostError) as error:
        LocalStore(store.path).read()
    assert refusal(error) is ReasonCode.STORE_UNREADABLE


def test_an_invalid_object_is_unreadable(store: LocalStore) -> None:
    fill(store)
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE filters SET protocol = 300 WHERE position = 0")
    connection.close()
    with pytest.raises(HostError, match="protocol 300") as error:
        store.read()
    assert refusal(error) is ReasonCode.STORE_UNREADABLE


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(HostError, match="another program"):
        LocalStore(path).read()
    assert path.read_bytes() == before


def test_a_later_format_is_refused(store: LocalStore) -> None:
    fill(store)
    store.close()
    connection = sqlite3.connect(store.path)
    connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(HostError, match="newer"):
        store.read()


def test_an_older_format_is_brought_up_to_date(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    store.close()
    next_version = (*schema.MIGRATIONS, ("ALTER TABLE policies ADD COLUMN colour TEXT",))
    monkeypatch.setattr(schema, "MIGRATIONS", next_version)
    connection = sqlite3.connect(store.path, isolation_level=None)
    schema.migrate(connection, to=len(next_version))
    assert schema.schema_version(connection) == len(next_version)
    assert connection.execute("SELECT name, colour FROM policies").fetchall() == [("Servers", None)]
    connection.close()


def test_a_file_that_vanishes_under_an_open_store_is_no_empty_policy(store: LocalStore) -> None:
    fill(store)
    store.path.unlink()
    with pytest.raises(HostError, match="removed while it was in use"):
        store.read()


def test_a_log_without_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.db-wal").write_bytes(b"left")
    with pytest.raises(HostError, match=r"policy\.db-wal"):
        LocalStore(tmp_path / "policy.db").read()


def test_a_restored_backup_is_noticed(store: LocalStore, tmp_path: Path) -> None:
    fill(store)
    backup = LocalStore(tmp_path / "backup.db")
    with backup.transaction() as change:
        change.put_filter_list(FilterList("From the backup"))
    backup.close()
    before = store.version()
    for suffix in ("-wal", "-shm"):
        store.path.with_name(store.path.name + suffix).unlink(missing_ok=True)
    backup.path.replace(store.path)
    assert [entry.name for entry in store.read().filter_lists] == ["From the backup"]
    assert store.version() != before


def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "a ?#%20 é" / "policy.db")
    fill(store)
    assert LocalStore(store.path).read().policies == (POLICY,)


def test_a_child_after_fork_has_its_own_connection(store: LocalStore) -> None:
    fill(store)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            with store.transaction() as change:
                change.put_filter_list(FilterList("From the child"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read().filter_list("From the child") is not None


def test_a_preshared_key_is_in_no_repr_and_gone_from_the_file_when_forgotten(store: LocalStore) -> None:
    # A key that does not compress: the history keeps objects compressed.
    key = os.urandom(16).hex().encode()
    hidden = store.path.with_name(store.path.name + "-wal")
    with store.transaction() as change:
        change.put_filter_list(WEB)
        change.put_filter_action(SECURE)
        change.put_policy(Policy("P", (Rule("r", "Web", "Secure", (PresharedKey(Secret(key)),)),)))
    assert key.decode() not in repr(store.read()) + repr(store)
    with store.transaction() as change:
        change.delete_policy("P")
    assert len(store.history()) == 3
    assert store.revision(2).policies[0].rules[0].authentication == (PresharedKey(Secret(key)),)
    assert store.forget(1) == 2
    assert not hidden.exists() or not hidden.stat().st_size
    store.close()  # the last one out folds the log into the file
    content = store.path.read_bytes()
    assert key not in content
    # Nor compressed: no stored object holds it.
    with sqlite3.connect(store.path) as connection:
        bodies = [zlib.decompress(row[0]) for row in connection.execute("SELECT body FROM contents")]
    connection.close()
    assert not any(key.hex().encode() in body for body in bodies)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no database at all" * 1000, "overwritten"),
        (b"", "empty"),
        (b"SQLite format 3\0" + bytes(200), "another program"),
    ],
)
def test_a_file_overwritten_in_place_is_noticed(store: LocalStore, content: bytes, words: str) -> None:
    fill(store)
    other = LocalStore(store.path)
    good = other.read()
    whole = _whole(store)
    for leftover in ("-wal", "-shm"):
        store.path.with_name(store.path.name + leftover).unlink(missing_ok=True)
    inode = store.path.stat().st_ino
    store.path.write_bytes(content)
    assert store.path.stat().st_ino == inode
    for call in (store.read, store.version, other.read, store.history):
        with pytest.raises(HostError, match=words) as error:
            call()
        assert refusal(error) is ReasonCode.STORE_UNREADABLE
    assert store.path.read_bytes() == content  # nothing was folded into the ruins
    restored = store.path.with_name("restored.db")
    restored.write_bytes(whole)
    restored.chmod(0o600)
    restored.replace(store.path)
    assert store.read() == good
    assert other.read() == good


def test_another_store_copied_over_the_file_in_place_is_noticed(store: LocalStore, tmp_path: Path) -> None:
    fill(store)
    reader = LocalStore(store.path)
    good = reader.read()
    elsewhere = LocalStore(tmp_path / "elsewhere" / "policy.db")
    with elsewhere.transaction() as change:
        change.put_filter_list(FilterList("Not this one"))
    inode = store.path.stat().st_ino
    store.path.write_bytes(_whole(elsewhere))
    assert store.path.stat().st_ino == inode
    for one in (store, reader):
        for call in (one.version, one.read):
            with pytest.raises(HostError, match="copied over") as error:
                call()
            assert refusal(error) is ReasonCode.STORE_UNREADABLE
    # Put right by another file: both go on with it.
    whole = store.path.with_name("restored.db")
    whole.write_bytes(_whole(elsewhere))
    whole.chmod(0o600)
    for leftover in ("-wal", "-shm"):
        store.path.with_name(store.path.name + leftover).unlink(missing_ok=True)
    whole.replace(store.path)
    assert [one.name for one in reader.read().filter_lists] == ["Not this one"]
    assert good != reader.read()


def test_folding_the_log_in_is_no_damage(store: LocalStore) -> None:
    reader = LocalStore(store.path)
    for number in range(30):
        with store.transaction() as change:
            change.put_filter_list(FilterList(f"list {number}"))
        if number % 3 == 0:
            with sqlite3.connect(store.path) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            other.close()
        assert len(reader.read().filter_lists) == number + 1


def _whole(store: LocalStore) -> bytes:
    """The content of a copy without a log."""
    copy = store.path.with_name("whole.db")
    store.copy_to(copy)
    return copy.read_bytes()


def test_the_look_at_the_file_leaves_the_locks_alone(store: LocalStore) -> None:
    fill(store)
    hurried = LocalStore(store.path, busy_seconds=0.05)
    hurried.read()
    with store.transaction() as change:
        change.put_filter_list(FilterList("Other"))
        for _ in range(3):
            hurried.version()
            hurried.close()  # closes its connection: ours must keep its lock
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            status = 1
            try:
                with LocalStore(store.path, busy_seconds=0.05).transaction() as theirs:
                    theirs.put_filter_list(FilterList("Theirs"))
                status = 0
            except HostError:
                status = 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert store.read().filter_list("Other") is not None
    assert store.read().filter_list("Theirs") is None


def test_every_kind_of_address_comes_back(store: LocalStore) -> None:
    filters = (
        Filter(ME, FilterAddress.named("Host.Example.com")),
        Filter(ME, FilterAddress(AddressKind.NAME, name="h.example", version=6)),
        Filter(ME, FilterAddress.server(AddressKind.DNS)),
        Filter(FilterAddress.server(AddressKind.GATEWAY), ME),
        Filter(FilterAddress(AddressKind.ANY, version=4), FilterAddress(AddressKind.ME, version=4)),
    )
    with store.transaction() as change:
        change.put_filter_list(FilterList("L", filters))
    assert LocalStore(store.path).read().filter_lists[0].filters == filters


def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "policy.db"
    connection = sqlite3.connect(path, isolation_level=None)
    schema.migrate(connection, to=1)
    connection.execute("INSERT INTO filter_lists VALUES ('g', 'Old', 'old', '', '2020-01-01T00:00:00+00:00')")
    connection.execute("UPDATE filter_lists SET guid = '00000000-0000-0000-0000-000000000001'")
    connection.execute(
        "INSERT INTO filters VALUES ('00000000-0000-0000-0000-000000000001', 0, 'me', NULL, NULL,"
        " 'any', NULL, NULL, 6, 0, 80, 1, '')"
    )
    connection.close()
    path.chmod(0o600)
    store = LocalStore(path)
    assert store.read().filter_lists[0].filters == (Filter(ME, ANY, 6, 0, 80),)
    assert store.history() == ()
    with store.transaction() as change:
        change.delete_filter_list("Old")
    first, second = store.history()
    assert (first.added, second.removed) == (1, 1)
    store.rollback(first.number)
    assert store.read().filter_lists[0].name == "Old"


def test_filters_are_changed_in_any_way(store: LocalStore) -> None:
    one, two, three = (Filter(ME, ANY, 6, 0, port) for port in (1, 2, 3))
    lists = ((one,), (one, two), (one, two, three), (two, three), (three, two), (), (one, one), (one,))
    guid = FilterList("L").guid
    for filters in lists:
        with store.transaction() as change:
            change.put_filter_list(FilterList("L", filters, guid=guid))
        assert store.read().filter_lists[0].filters == filters


def test_two_writers_do_not_build_on_what_the_other_has_changed(store: LocalStore) -> None:
    one, two, three = (Filter(ME, ANY, 6, 0, port) for port in (1, 2, 3))
    other = LocalStore(store.path)
    guid = FilterList("L").guid
    with store.transaction() as change:
        change.put_filter_list(FilterList("L", (one, two), guid=guid))
    seen = store.read().filter_lists[0].filters
    with other.transaction() as change:
        change.put_filter_list(FilterList("L", (three,), guid=guid))
    with store.transaction() as change:  # without reading first
        change.put_filter_list(FilterList("L", (*seen, three), guid=guid))
    assert other.read().filter_lists[0].filters == (one, two, three)
    assert LocalStore(store.path).read() == store.read()


def test_what_is_remembered_is_what_is_there(store: LocalStore) -> None:
    fill(store)
    for filters in (WEB.filters[:1], WEB.filters, ()):
        store.read()
        with store.transaction() as change:
            change.put_filter_list(replace(WEB, filters=filters))
            assert change.read().filter_lists[0].filters == filters
        assert store.read() == LocalStore(store.path).read()
    with store.transaction() as change:
        change.put_filter_list(replace(WEB, name="Renamed"))
    assert store.read() == LocalStore(store.path).read()
    with store.transaction() as change:
        change.put_policy(Policy("Second", assigned=True))
    assert store.read() == LocalStore(store.path).read()


def test_a_long_list_of_which_one_filter_changed_keeps_the_other_objects(store: LocalStore) -> None:
    """The compiler compares by identity first; and what did change is read as it is now."""
    reader = LocalStore(store.path)
    filters = [Filter(FilterAddress.me(), FilterAddress.any(), 6, 0, port) for port in range(1, 50)]
    with store.transaction() as change:
        change.put_filter_list(FilterList("long", tuple(filters)))
        change.put_filter_list(FilterList("other", tuple(filters[:3])))
    before = reader.read()
    one = Filter(FilterAddress.me(), FilterAddress.any(), 17, 0, 7)
    with store.transaction() as change:
        old = change.read().filter_list("long")
        assert old is not None
        change.put_filter_list(replace(old, filters=(*old.filters[:9], one, *old.filters[10:])))
    after = reader.read()
    then, now = before.filter_list("long"), after.filter_list("long")
    assert then is not None
    assert now is not None
    assert now.filters[9] == one
    assert all(a is b for n, (a, b) in enumerate(zip(then.filters, now.filters, strict=True)) if n != 9)
    assert after == LocalStore(store.path).read()


def test_a_filter_that_was_read_once_does_not_hide_damage_that_came_later(store: LocalStore) -> None:
    reader = LocalStore(store.path)
    with store.transaction() as change:
        change.put_filter_list(
            FilterList("list", (Filter(FilterAddress.me(), FilterAddress.any(), 6, 0, 80),))
        )
    reader.read()
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE filters SET destination_port = 81")
    connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'changes'")
    connection.commit()
    connection.close()
    with pytest.raises(HostError, match="is not what was written"):
        reader.read()
