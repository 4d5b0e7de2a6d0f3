"""`stockade policy history | diff | rollback | forget`: the revisions of a policy store; and
`stockade policy simple`, a whole policy by one command."""

from collections.abc import Sequence
from pathlib import Path

from stockade.agent.paths import Paths
from stockade.console.netsh_command import print_outcomes
from stockade.console.netsh_world import Console
from stockade.console.output import clean, give
from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.difference import difference_lines, keys_that_changed, setting_lines
from stockade.netsh.interpreter import run_command
from stockade.store.local import LocalStore
from stockade.store.opening import copies_of
from stockade.store.revisions import Revision

MAXIMUM_KEY_FILE = 1024


def history(paths: Paths, store: str, form: str) -> int:
    """Print the revisions, newest last."""
    with Console(paths) as console:
        revisions = _readable(console, store).history()
    answer = {"store": store, "revisions": [_as_dict(one) for one in revisions]}
    give(answer, form, lambda: _print_history(revisions))
    return 0


def _print_history(revisions: Sequence[Revision]) -> None:
    if not revisions:
        print("No changes yet.")
    for one in revisions:
        counts = [
            f"{sign}{count}"
            for sign, count in (("+", one.added), ("~", one.changed), ("-", one.removed))
            if count
        ]
        print(f"{one.number:>5}  {one.made:%Y-%m-%d %H:%M:%S} UTC  {one.author}  [{' '.join(counts) or '='}]")
        print(f"       {clean(one.command)}")


def _as_dict(one: Revision) -> dict[str, object]:
    return {
        "number": one.number,
        "made": one.made.isoformat(),
        "author": one.author,
        "command": one.command,
        "added": one.added,
        "changed": one.changed,
        "removed": one.removed,
    }


def diff(paths: Paths, store: str, first: int, second: int | None, form: str) -> int:
    """Print what changed from revision `first` to `second` (None: the present), as commands. Keys are not
    shown; that one changed is said."""
    with Console(paths) as console:
        opened = _readable(console, store)
        old = opened.revision(first)
        new = opened.read() if second is None else opened.revision(second)
        settings = (opened.settings_at(first), opened.settings_at(second))
    later = "now" if second is None else f"revision {second}"
    lines = difference_lines(old, new, f"revision {first}", later)
    lines += setting_lines(*settings)
    changed_keys = keys_that_changed(old, new)
    told = [*lines, *(f"~ the pre-shared key of {where}" for where in changed_keys)]
    answer = {"store": store, "diff": lines, "changed_keys": changed_keys}
    give(answer, form, "\n".join(told) or "No difference.")
    return 0


def rollback(paths: Paths, store: str, number: int, form: str) -> int:
    """Make the store as it was after revision `number`, and tell a running agent."""
    with Console(paths) as console:
        opened = _store(console, store)
        opened.describe(f"policy rollback {number}")
        opened.rollback(number)
        newest = opened.history()[-1].number
        told = f"The {store} store is as it was after revision {number}; this is revision {newest}."
        give({"store": store, "rolled_back_to": number, "revision": newest}, form, told)
        return 0 if console.tell_agent() else 1


def simple(
    paths: Paths,
    store: str,
    form: str,
    *,
    name: str | None,
    assign: bool,
    replace: bool,
    psk_file: str | None,
    rootca: str | None,
) -> int:
    """Write the policy of the Simple Policy Update, and tell a running agent: `netsh ipsec static add
    simplepolicy`, with the key from a file, so that it stands in no list of processes."""
    words = ["ipsec", "static", "add", "simplepolicy"]
    if name is not None:
        words.append(f"name={name}")
    if rootca is not None:
        words.append(f"rootca={rootca}")
    if psk_file is not None:
        words.append(f"pskhex={_key_of(psk_file)}")
    words += [f"{tag}=yes" for tag, wanted in (("assign", assign), ("replace", replace)) if wanted]
    with Console(paths) as console:
        console.session.choose_store(store)
        outcomes = [run_command(words, console.session)]
        print_outcomes(outcomes, form, one_command=True)
        return 0 if console.tell_agent() and not outcomes[0].failed else 1


def _key_of(psk_file: str) -> str:
    try:
        with Path(psk_file).open("rb") as file:
            key = file.read(MAXIMUM_KEY_FILE + 1).rstrip(b"\r\n")
    except OSError as error:
        raise error_for(ReasonCode.FILE_UNUSABLE, f"cannot read {psk_file}: {error.strerror}") from error
    if not 0 < len(key) <= MAXIMUM_KEY_FILE:
        raise error_for(
            ReasonCode.INVALID_FILE, f"{psk_file}: a key has 1 to {MAXIMUM_KEY_FILE} bytes", file=psk_file
        )
    return key.hex()


def forget(paths: Paths, store: str, keep: int, form: str) -> int:
    """Drop all but the newest `keep` revisions, and the keys in them."""
    with Console(paths) as console:
        opened = _store(console, store)
        dropped = opened.forget(keep)
    for copy in copies_of(opened.path):  # they have the history too, with the keys in it
        LocalStore(copy, store).forget(keep)
    told = f"{dropped} revisions are gone, and the keys that only they held."
    give({"store": store, "dropped": dropped}, form, told)
    return 0


def _readable(console: Console, name: str) -> LocalStore:
    """The store; where it is damaged, its last good copy, which has a history too."""
    opened = console.store(name)
    return opened if isinstance(opened, LocalStore) else opened.copy


def _store(console: Console, name: str) -> LocalStore:
    """The store, to be changed."""
    opened = console.store(name)
    if not isinstance(opened, LocalStore):
        damage = opened.damage
        raise error_for(
            ReasonCode.STORE_UNREADABLE,
            f"{damage.detail}; its history can be looked at, and not be changed",
            **dict(damage.facts),
        )
    return opened
