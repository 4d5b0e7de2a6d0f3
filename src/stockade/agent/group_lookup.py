"""The groups of the directory for the access list: what a ticket says in numbers (SIDs) by their names, and
the groups of a peer whose ticket we do not see (a responder proves itself to us with ours).

Asked only where the access list has entries for groups of the directory, by a process of its own
(`domain_fetch`), from a thread that may block. Answers are kept for a while. Where none comes the groups are
*unknown*, which no entry allows and any denying one denies."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from stockade.agent.domain_settings import DomainSettings, Request
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.pki.access import AccessKind, AccessList

KEPT_SECONDS = 600.0
PATIENCE = 20.0
MAXIMUM_KEPT = 10_000
MAXIMUM_ANSWER = 4 << 20
SID = "S-1-"
NOT_ASKED = "its groups were not looked up when it connected, as no entry named any"
"""Such a peer is cut off when an entry denies a group, and asked anew when it comes back."""


@dataclass(frozen=True, slots=True)
class Groups:
    """SIDs and names of groups. `unknown`: why they are not all there."""

    names: tuple[str, ...] = ()
    unknown: str = ""


class GroupLookup:
    """`wanted`: the access list has entries for groups of a directory at all; `by_name`: for others than
    SIDs. Used from several threads."""

    def __init__(self, settings: DomainSettings, keytab: Path) -> None:
        self._settings, self._keytab = settings, keytab
        self._lock = threading.Lock()
        self._of_peers: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._names: dict[str, tuple[float, str]] = {}
        self.wanted = self.by_name = False

    def follow(self, access: AccessList) -> None:
        """Another access list."""
        local = {name.casefold() for name in access.groups}
        groups = [
            entry.name
            for entry in access.entries
            if entry.kind is AccessKind.GROUP and entry.name.casefold() not in local
        ]
        inside = [each for members in access.groups.values() for each in members if each.startswith(SID)]
        self.by_name = any(not name.upper().startswith(SID) for name in groups)
        self.wanted = bool(groups or inside)

    def of_peer(self, principal: str) -> Groups:
        """The groups of an account of the directory, by its principal. Blocks."""
        if not self._settings.domain:
            return Groups()
        if not self.wanted:
            return Groups(unknown=NOT_ASKED)
        key, now = principal.casefold(), time.monotonic()
        with self._lock:
            kept = self._of_peers.get(key)
        if kept is not None and now - kept[0] < KEPT_SECONDS:
            return Groups(kept[1])
        try:
            found = tuple(name for row in self._ask(peer=principal) for name in row)
        except StockadeError as error:
            return Groups(unknown=f"the groups of {principal} cannot be looked up: {error.reason}")
        with self._lock:
            if len(self._of_peers) >= MAXIMUM_KEPT:
                self._of_peers.clear()
            self._of_peers[key] = (now, found)
        return Groups(found)

    def named(self, sids: tuple[str, ...]) -> Groups:
        """These SIDs, and their names where an entry asks for names. Blocks."""
        if not self._settings.domain:
            return Groups(sids)
        if not self.wanted:
            return Groups(sids, NOT_ASKED)
        now = time.monotonic()
        with self._lock:
            known = {
                sid: self._names[sid][1]
                for sid in sids
                if sid in self._names and now - self._names[sid][0] < KEPT_SECONDS
            }
        missing = tuple(sid for sid in sids if sid not in known)
        if missing:
            try:
                rows = {row[0]: row[1] for row in self._ask(sids=missing) if len(row) > 1}
            except StockadeError as error:
                why = f"the groups of the ticket cannot be looked up: {error.reason}"
                return Groups(sids, why if self.by_name else "")  # by numbers they are all there
            with self._lock:
                if len(self._names) >= MAXIMUM_KEPT:
                    self._names.clear()
                for sid in missing:
                    self._names[sid] = (now, rows.get(sid, ""))
            known |= rows
        return Groups((*sids, *(name for name in known.values() if name)))

    def _ask(self, *, peer: str = "", sids: tuple[str, ...] = ()) -> list[list[str]]:
        request = replace(
            Request.of(self._settings, str(self._keytab)), peer=peer, sids=tuple(dict.fromkeys(sids))
        )
        try:
            done = subprocess.run(
                [sys.executable, "-m", "stockade.agent.domain_fetch"],
                input=request.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            raise error_for(
                ReasonCode.DIRECTORY_UNREACHABLE, "no answer in time", domain=self._settings.domain
            ) from None
        from stockade.agent.domain import refusal_in

        kind, _, rest = done.stdout[:MAXIMUM_ANSWER].partition(b"\n")
        refused = refusal_in(kind, rest)
        if refused is not None:
            raise refused
        try:
            rows = json.loads(rest) if kind == b"groups" else None
            if isinstance(rows, list) and all(isinstance(row, list) for row in rows):
                return [_texts(row) for row in rows]
        except ValueError:
            pass
        raise error_for(
            ReasonCode.DIRECTORY_UNREACHABLE,
            "reading the directory ended without an answer",
            domain=self._settings.domain,
        )


def _texts(row: Iterable[object]) -> list[str]:
    return [str(value) for value in row]
