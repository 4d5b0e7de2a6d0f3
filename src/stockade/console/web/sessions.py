"""Sessions and tries to sign in: in memory, bounded, on a clock that is a parameter."""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

MAXIMUM_SESSIONS = 200
LONGEST_SESSION = 12 * 3600.0
MAXIMUM_TRACKED = 4096
FREE_TRIES = 5
"""Wrong passwords from one address before it has to wait; an account has four times as many."""

FIRST_WAIT, LONGEST_WAIT = 15.0, 900.0
FORGET_AFTER = 3600.0


@dataclass(slots=True)
class Session:
    """Somebody who signed in. `token` stands in every form (CSRF)."""

    name: str
    role: str
    token: str
    began: float
    used: float

    def __repr__(self) -> str:
        return f"Session({self.name!r}, {self.role!r})"

    def accepts(self, token: str) -> bool:
        return hmac.compare_digest(self.token.encode(), token.encode("utf-8", "replace"))


class Sessions:
    """By the hash of their cookie. `idle_seconds` without a request end one, twelve hours any."""

    def __init__(self, idle_seconds: float, clock: Callable[[], float]) -> None:
        self._idle = idle_seconds
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, name: str, role: str) -> str:
        """A new session; returns its cookie. The one unused for longest goes where there are too many."""
        now = self._clock()
        while len(self._sessions) >= MAXIMUM_SESSIONS:
            self._sessions.popitem(last=False)
        cookie = secrets.token_urlsafe(32)
        self._sessions[_key(cookie)] = Session(name, role, secrets.token_urlsafe(32), now, now)
        return cookie

    def find(self, cookie: str | None, *, touch: bool = True) -> Session | None:
        """The session of a cookie. Requests that a page makes by itself do not `touch` it: a forgotten window
        stays nobody's."""
        if not cookie:
            return None
        key = _key(cookie)
        session = self._sessions.get(key)
        if session is None:
            return None
        now = self._clock()
        if now - session.used > self._idle or now - session.began > LONGEST_SESSION:
            del self._sessions[key]
            return None
        if touch:
            session.used = now
            self._sessions.move_to_end(key)
        return session

    def any_open(self) -> bool:
        """Whether one is left that has not run out."""
        now = self._clock()
        self.end_all_of(lambda one: now - one.used <= self._idle and now - one.began <= LONGEST_SESSION)
        return bool(self._sessions)

    def end(self, cookie: str | None) -> None:
        if cookie:
            self._sessions.pop(_key(cookie), None)

    def end_all_of(self, allowed: Callable[[Session], bool]) -> None:
        """End the sessions that are not `allowed` any more."""
        self._sessions = OrderedDict((key, one) for key, one in self._sessions.items() if allowed(one))


def _key(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).digest()


@dataclass(slots=True)
class _Failures:
    count: int
    newest: float
    until: float


class Tries:
    """Slows down who guesses: after some wrong tries an address has to wait, twice as long each time; and so
    has an account, whatever the addresses. Bounded: the oldest are forgotten first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, address: str, account: str) -> float:
        """Seconds until a try is allowed; 0 when it is now."""
        now = self._clock()
        found = [self._failures.get(key) for key, _ in _keys(address, account)]
        return max((one.until - now for one in found if one is not None), default=0.0)

    def failed(self, address: str, account: str) -> None:
        now = self._clock()
        for key, free in _keys(address, account):
            one = self._failures.get(key)
            if one is None or now - one.newest > FORGET_AFTER:
                one = self._failures[key] = _Failures(0, now, 0.0)
            one.count += 1
            one.newest = now
            if one.count >= free:
                one.until = now + min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(16, one.count - free))
            self._failures.move_to_end(key)
        while len(self._failures) > MAXIMUM_TRACKED:
            self._failures.popitem(last=False)

    def succeeded(self, address: str, account: str) -> None:
        for key, _ in _keys(address, account):
            self._failures.pop(key, None)


def _keys(address: str, account: str) -> list[tuple[str, int]]:
    try:
        parsed = ip_address(address)
        if parsed.version == 6:  # a /64 is one customer
            address = str(ip_address(int(parsed) >> 64 << 64))
    except ValueError:
        pass
    keys = [(f"address {address}", FREE_TRIES)]
    if account:
        keys.append((f"account {account[:64]}", 4 * FREE_TRIES))
    return keys
