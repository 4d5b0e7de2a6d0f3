"""What strangers may cost us: rates of reports and notifications, and how much of a thing may be open."""

from collections import OrderedDict
from collections.abc import Hashable

MAXIMUM_KEYS = 1024


class TokenBucket:
    """At most `rate` a second on average, `burst` at once."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float | None = None) -> None:
        self._rate = rate
        self._burst = max(1.0, rate if burst is None else burst)
        self._tokens = self._burst
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more is allowed now; if so, it is counted."""
        if self._at is not None and now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now if self._at is None else max(now, self._at)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class RateLimiter:
    """A bucket for all and one per key (peer). Keys are forgotten, least recently used first, beyond
    `MAXIMUM_KEYS`: a flood from many forged addresses is held by the common bucket."""

    def __init__(self, rate: float, rate_per_key: float) -> None:
        self._common = TokenBucket(rate)
        self._rate_per_key = rate_per_key
        self._buckets: OrderedDict[Hashable, TokenBucket] = OrderedDict()
        self.suppressed = 0
        """How many were refused since this was last set to 0."""

    def take(self, key: Hashable, now: float) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate_per_key)
            if len(self._buckets) > MAXIMUM_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        # The key's own bucket first: one loud peer must not use up what belongs to all.
        if bucket.take(now) and self._common.take(now):
            return True
        self.suppressed += 1
        return False


class RecentlySeen:
    """A bounded memory of what has been used: message ids of one main mode."""

    __slots__ = ("_limit", "_seen")

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, key: Hashable) -> None:
        self._seen[key] = None
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
