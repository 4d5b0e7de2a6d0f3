"""The tables of the local store, and how a file of an older version is brought to the present one.

    policies ─┬ rules ─┬ rule_authentication        meta: the change counter
              │        ├ → filter_lists ─ filters   settings: what `netsh ipsec dynamic set config` keeps
              │        └ → filter_actions           revisions, contents: the history

A rule refers to its filter list and filter action by GUID, so a new name needs no change in the rules, and
SQLite itself refuses to delete what a rule uses. `name_key` is the case-folded name: names are unique without
regard to case, and SQLite's own NOCASE knows ASCII only. Ordered lists that are always read whole (security
methods) are JSON texts; their words are the values of `stockade.model.suites`."""

import random
import sqlite3

APPLICATION_ID = 0x53544B44  # "STKD", in the file's header: tells our file from any other SQLite file

_FIRST_VERSION = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT",
    "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    """CREATE TABLE policies (
        guid TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        name_key TEXT NOT NULL UNIQUE,
        assigned INTEGER NOT NULL CHECK (assigned IN (0, 1)),
        main_mode_methods TEXT NOT NULL,
        main_mode_minutes INTEGER NOT NULL,
        quick_modes_per_main_mode INTEGER NOT NULL,
        master_pfs INTEGER NOT NULL,
        polling_minutes INTEGER NOT NULL,
        description TEXT NOT NULL,
        modified TEXT NOT NULL) STRICT""",
    "CREATE UNIQUE INDEX one_assigned_policy ON policies (assigned) WHERE assigned = 1",
    """CREATE TABLE filter_lists (
        guid TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        name_key TEXT NOT NULL UNIQUE,
        description TEXT NOT NULL,
        modified TEXT NOT NULL) STRICT""",
    """CREATE TABLE filters (
        filter_list TEXT NOT NULL REFERENCES filter_lists (guid) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        source_kind TEXT NOT NULL,
        source_first TEXT,
        source_last TEXT,
        destination_kind TEXT NOT NULL,
        destination_first TEXT,
        destination_last TEXT,
        protocol INTEGER NOT NULL,
        source_port INTEGER NOT NULL,
        destination_port INTEGER NOT NULL,
        mirrored INTEGER NOT NULL,
        description TEXT NOT NULL,
        PRIMARY KEY (filter_list, position)) STRICT""",
    """CREATE TABLE filter_actions (
        guid TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        name_key TEXT NOT NULL UNIQUE,
        action TEXT NOT NULL,
        methods TEXT NOT NULL,
        inpass INTEGER NOT NULL,
        soft INTEGER NOT NULL,
        session_pfs INTEGER NOT NULL,
        description TEXT NOT NULL,
        modified TEXT NOT NULL) STRICT""",
    """CREATE TABLE rules (
        guid TEXT PRIMARY KEY,
        policy TEXT NOT NULL REFERENCES policies (guid) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        name_key TEXT NOT NULL,
        is_default_response INTEGER NOT NULL,
        filter_list TEXT REFERENCES filter_lists (guid) ON DELETE RESTRICT,
        filter_action TEXT REFERENCES filter_actions (guid) ON DELETE RESTRICT,
        tunnel_endpoint TEXT,
        connection_type TEXT NOT NULL,
        active INTEGER NOT NULL,
        description TEXT NOT NULL,
        modified TEXT NOT NULL,
        response_methods TEXT NOT NULL,
        response_session_pfs INTEGER NOT NULL,
        UNIQUE (policy, position),
        CHECK (is_default_response = 1 OR (filter_list IS NOT NULL AND filter_action IS NOT NULL))) STRICT""",
    "CREATE UNIQUE INDEX rule_names ON rules (policy, name_key) WHERE name_key <> ''",
    "CREATE INDEX rules_by_filter_list ON rules (filter_list)",
    "CREATE INDEX rules_by_filter_action ON rules (filter_action)",
    """CREATE TABLE rule_authentication (
        rule TEXT NOT NULL REFERENCES rules (guid) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        kind TEXT NOT NULL,
        preshared_key BLOB,
        root_ca TEXT,
        exclude_ca_name INTEGER NOT NULL DEFAULT 0,
        map_to_account INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (rule, position)) STRICT""",
)

# DNS names and address families of filter ends; revisions (`stockade.store.revisions`).
_SECOND_VERSION = (
    "ALTER TABLE filters ADD COLUMN source_name TEXT",
    "ALTER TABLE filters ADD COLUMN source_version INTEGER",
    "ALTER TABLE filters ADD COLUMN destination_name TEXT",
    "ALTER TABLE filters ADD COLUMN destination_version INTEGER",
    """CREATE TABLE contents (
        id INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        body BLOB NOT NULL) STRICT""",
    """CREATE TABLE revisions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        made TEXT NOT NULL,
        author TEXT NOT NULL,
        command TEXT NOT NULL,
        assigned TEXT,
        objects TEXT NOT NULL,
        settings TEXT NOT NULL) STRICT""",
)

# Where a filter was written.
_THIRD_VERSION = (
    "ALTER TABLE filters ADD COLUMN origin_file TEXT",
    "ALTER TABLE filters ADD COLUMN origin_line INTEGER",
)

# Entry i brings a file from version i to version i + 1. Add to the end; never change one that was released.
MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST_VERSION, _SECOND_VERSION, _THIRD_VERSION)
SCHEMA_VERSION = len(MIGRATIONS)


def schema_version(connection: sqlite3.Connection) -> int:
    """The version that the file has; 0 for a file without tables."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, to: int = SCHEMA_VERSION) -> None:
    """Bring the file to version `to` in one transaction; nothing to do where it is there already.

    `connection` must be in autocommit mode (`isolation_level=None`)."""
    if schema_version(connection) >= to:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster between the look above and the lock.
        version = schema_version(connection)
        for statements in MIGRATIONS[version:to]:
            for statement in statements:
                connection.execute(statement)
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            # A random start: a file put in this one's place differs in its counter too.
            connection.execute("INSERT INTO meta VALUES ('changes', ?)", (random.getrandbits(40),))
        if version < to:
            connection.execute(f"PRAGMA user_version = {to}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
