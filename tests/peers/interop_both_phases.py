"""Both phases made anew by us, by lifetimes in seconds, while echo requests go: none is lost.

    main mode   |---- 1 min: made anew 9 to 15 s (as the responder: 5 s) before its end, then deleted ----|
    quick modes |-- 25 s --|-- 25 s --|-- 25 s --|-- …     the last one under the new main mode

A main mode lives for a minute at least (netsh counts minutes). So all trials of this kind wait side by side,
and while others run: `begun` brings up those of a run at its start, and each looks at its own when its turn
comes. The wire is not looked at for so long; a request in clear would get no answer, for the peers' policies
refuse it.
"""

import traceback
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from interop_cases import BY_NAME, Case
from interop_laboratory import Begun, Laboratory, bring_up, delete, eventually, ping

PATIENCE = 150.0
"""Seconds, from when a trial's turn comes: a busy machine takes its time for each exchange."""


@contextmanager
def begun(laboratory: Laboratory, trials: Collection[str]) -> Iterator[None]:
    """While this context lasts those of the trials (`case/peer/role`) that are of this kind are under way."""
    try:
        for trial in trials:
            begin(laboratory, trial)
        yield
    finally:
        for left in laboratory.begun.values():
            left.watch.__exit__(GeneratorExit, GeneratorExit(), None)  # nobody asks what it saw
        laboratory.begun.clear()


def begin(laboratory: Laboratory, trial: str) -> None:
    """If it is of this kind and the peer can do it."""
    name, peer, role = trial.split("/")
    case = BY_NAME[name]
    if not case.main_mode_minutes or peer in laboratory.absent or peer in case.cannot:
        return
    now = laboratory.begun[trial] = Begun(ExitStack())
    try:
        _begin(laboratory, now, case, peer, role)
    except Exception:
        now.trouble = traceback.format_exc()


def _begin(laboratory: Laboratory, now: Begun, case: Case, peer: str, role: str) -> None:
    laboratory.stockade.apply(case.dynamic_rule(peer, role))
    bring_up(laboratory, case, peer, role)
    ends = case.traffic(peer, role)
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    (mode,) = laboratory.main_modes(case.address(peer, role))
    assert mode["role"] == role, mode
    now.main_mode = str(mode["cookies"])
    now.watch.enter_context(laboratory.pinging(peer, ends))


def we_rekey_both_phases(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    trial = f"{case.name}/{peer}/{role}"
    if trial not in laboratory.begun:
        begin(laboratory, trial)
    now, address = laboratory.begun.pop(trial), case.address(peer, role)
    with now.watch:
        assert not now.trouble, now.trouble
        eventually(
            lambda: made_anew(laboratory, address, now.main_mode),
            PATIENCE,
            lambda: f"not made anew: {laboratory.stockade.client.get('/v1/sas')}",
        )
    delete(laboratory, case, peer, role)


def made_anew(laboratory: Laboratory, address: str, first: str) -> bool:
    """The main mode of the beginning is gone, one that we began has taken its place, and the newest pair is
    under that one and was begun by us too."""
    modes = laboratory.main_modes(address)
    ours = {mode["cookies"] for mode in modes if mode["role"] == "initiator"}
    rows = laboratory.quick_modes(address)
    newest = min(rows, key=lambda row: float(str(row["age"])), default=None)
    return (
        first not in {mode["cookies"] for mode in modes}
        and newest is not None
        and newest["role"] == "initiator"
        and newest["main_mode"] in ours
    )
