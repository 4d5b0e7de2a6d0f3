"""Revocation lists from the places that certificates name (CRL distribution points, RFC 5280 §4.2.1.13).

Only http is asked, as lists are signed and https would need to check certificates first. A list is asked for
only once a chain of right signatures leads to a trusted root, so a stranger cannot make us call an address of
its choice. It is kept until it is out of date, a day at most, in memory and in a folder; a place that did not
answer is not asked again for a minute. Size, time, redirections (none) and the number of places are bounded.

`fetch` blocks: the key exchange gives it away like the work of Kerberos."""

import hashlib
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from stockade.model.reasons import StockadeError
from stockade.pki.revocation import MAXIMUM_SIZE, RevocationList, read_revocation_list

TIMEOUT_SECONDS = 5.0
ALL_SECONDS = 12.0
"""No further place is asked after so long: a negotiation waits for the answer, and so does its peer."""
KEPT = timedelta(days=1)
FAILED = timedelta(minutes=1)
MAXIMUM_LISTS = 256
_PIECE = 65_536


class ListSource(Protocol):
    """Where fetched lists come from. Implemented by `ListFetcher`."""

    def lists(self) -> tuple[RevocationList, ...]:
        """What has been fetched, whatever its age. Does not block."""

    def due(self, urls: Sequence[str], moment: datetime) -> tuple[str, ...]:
        """Those of the places that may have something newer than what is here. Does not block."""

    def fetch(self, urls: Sequence[str], moment: datetime) -> None:
        """Ask them. May block, for a bounded time; raises nothing."""

    def trouble(self, urls: Sequence[str]) -> str:
        """Why the last attempts failed, by place; empty if none did."""


class ListFetcher:
    """Implements `ListSource`. `folder` keeps lists over restarts; None: only memory does. `get(url)` gives
    the bytes, or raises OSError or ValueError."""

    def __init__(self, folder: Path | None = None, get: Callable[[str], bytes] | None = None) -> None:
        self._folder = folder
        self._get = get or _download
        self._found: dict[str, tuple[datetime, RevocationList]] = {}
        self._failed: dict[str, tuple[datetime, str]] = {}
        self._lock = threading.Lock()

    def lists(self) -> tuple[RevocationList, ...]:
        with self._lock:
            return tuple(entry for _, entry in self._found.values())

    def due(self, urls: Sequence[str], moment: datetime) -> tuple[str, ...]:
        with self._lock:
            return tuple(url for url in urls if self._is_due(url, moment))

    def _is_due(self, url: str, moment: datetime) -> bool:
        failed, found = self._failed.get(url), self._found.get(url)
        if failed is not None and moment - failed[0] < FAILED:
            return False
        if found is None:
            return True
        following = found[1].next_update
        return moment - found[0] > KEPT or (following is not None and following < moment)

    def fetch(self, urls: Sequence[str], moment: datetime) -> None:
        begun = time.monotonic()
        for url in self.due(urls, moment):
            entry = self._read_kept(url, moment)
            why = ""
            if entry is None:
                try:
                    if time.monotonic() - begun > ALL_SECONDS:
                        raise TimeoutError("not asked: the places before it took too long")
                    data = self._get(url)
                    entry = read_revocation_list(data)
                    self._keep(url, data, moment)
                except (OSError, ValueError) as error:
                    why = f"{getattr(error, 'reason', None) or error}"
                except StockadeError as error:
                    why = error.reason.detail
            with self._lock:
                if entry is None:
                    self._failed[url] = (moment, why[:200])
                else:
                    self._failed.pop(url, None)
                    self._found[url] = (moment, entry)
                for table in (self._found, self._failed):
                    while len(table) > MAXIMUM_LISTS:
                        table.pop(next(iter(table)))

    def trouble(self, urls: Sequence[str]) -> str:
        with self._lock:
            return "; ".join(f"{url}: {self._failed[url][1]}" for url in urls if url in self._failed)

    # ---- the folder
    def _place(self, url: str) -> Path | None:
        mark = hashlib.sha256(url.encode()).hexdigest()[:40]
        return None if self._folder is None else self._folder / f"{mark}.crl"

    def _read_kept(self, url: str, moment: datetime) -> RevocationList | None:
        """What an earlier run fetched, if it is still in date and this run knows nothing yet."""
        place = self._place(url)
        if place is None or url in self._found:
            return None
        try:
            asked = place.stat().st_mtime
            entry = read_revocation_list(place.read_bytes())
        except (OSError, StockadeError):
            return None
        fresh = abs(moment.timestamp() - asked) < KEPT.total_seconds()
        return entry if fresh and entry.next_update is not None and entry.next_update > moment else None

    def _keep(self, url: str, data: bytes, moment: datetime) -> None:
        place = self._place(url)
        if place is None:
            return
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = place.with_suffix(".new")
        beside.write_bytes(data)
        os.utime(beside, (moment.timestamp(), moment.timestamp()))
        beside.replace(place)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: object) -> None:
        return None  # the answer then counts as an error


def _download(url: str) -> bytes:
    """The bytes at an http URL, DER or PEM's inside."""
    if urlsplit(url).scheme.lower() != "http":
        raise ValueError("only http is asked")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    found = bytearray()
    timer_end = datetime.now() + timedelta(seconds=2 * TIMEOUT_SECONDS)
    with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
        while piece := answer.read1(_PIECE):
            found += piece
            if len(found) > MAXIMUM_SIZE:
                raise ValueError(f"the list is longer than {MAXIMUM_SIZE} bytes")
            if datetime.now() > timer_end:
                raise TimeoutError("the list comes too slowly")
    return bytes(found)
