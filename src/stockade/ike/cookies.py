"""The cookies that this host chooses (RFC 2408 §2.5.3), and the mark in them by which its kernel knows them.

     0    1    2    3    4    5    6    7
    |  random, or a proof    |    mark    |      mark = HalfSipHash-1-3 of the five bytes, by a secret key

Every message that belongs to something has a cookie of ours in it, as the initiator's or as the responder's.
A filter in the kernel that has the key can tell those from whatever else a stranger sends
(`stockade.agent.doors`), before a byte of it is copied: a datagram with invented cookies is taken for one of
ours once in 16 million times. The mark is no proof of anything, and nothing relies on it: the engine finds a
main mode by the whole cookie, and by the addresses. HalfSipHash (Aumasson and Bernstein 2012, with words of
32 bits) is what a classic BPF program can compute."""

from collections.abc import Sequence
from typing import Final

from stockade.ike.contract import RandomSource

COOKIE_SIZE: Final = 8
FREE_SIZE: Final = 5
MARK_MASK: Final = 0xFF_FFFF
KEY_SIZE: Final = 8
COMPRESSIONS: Final = 1
FINALIZATIONS: Final = 3
_WORD: Final = 0xFFFF_FFFF


def initial_state(key: tuple[int, int]) -> tuple[int, int, int, int]:
    """v0 to v3 before the first word of the message."""
    return key[0], key[1], key[0] ^ 0x6C79_6765, key[1] ^ 0x7465_6462


def half_sip_hash(
    key: tuple[int, int],
    words: Sequence[int],
    compressions: int = COMPRESSIONS,
    finalizations: int = FINALIZATIONS,
) -> int:
    """32 bits; the last word has the length of the message in its highest byte."""
    v0, v1, v2, v3 = initial_state(key)

    def rounds(number: int) -> None:
        nonlocal v0, v1, v2, v3
        for _ in range(number):
            v0 = v0 + v1 & _WORD
            v1 = (v1 << 5 & _WORD | v1 >> 27) ^ v0
            v0 = v0 << 16 & _WORD | v0 >> 16
            v2 = v2 + v3 & _WORD
            v3 = (v3 << 8 & _WORD | v3 >> 24) ^ v2
            v0 = v0 + v3 & _WORD
            v3 = (v3 << 7 & _WORD | v3 >> 25) ^ v0
            v2 = v2 + v1 & _WORD
            v1 = (v1 << 13 & _WORD | v1 >> 19) ^ v2
            v2 = v2 << 16 & _WORD | v2 >> 16

    for word in words:
        v3 ^= word
        rounds(compressions)
        v0 ^= word
    v2 ^= 0xFF
    rounds(finalizations)
    return v1 ^ v3


class CookieMark:
    """`key`: 8 random bytes, new at every start of the agent."""

    __slots__ = ("numbers",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"the key of the cookies' mark has {KEY_SIZE} bytes, not {len(key)}")
        self.numbers: Final = int.from_bytes(key[:4], "big"), int.from_bytes(key[4:], "big")

    def complete(self, free: bytes) -> bytes:
        """The cookie that begins with these five bytes."""
        words = int.from_bytes(free[:4], "big"), FREE_SIZE << 24 | free[4]
        return free[:FREE_SIZE] + (half_sip_hash(self.numbers, words) & MARK_MASK).to_bytes(3, "big")

    def knows(self, cookie: bytes) -> bool:
        """Whether this may be a cookie of ours."""
        return self.complete(cookie) == cookie


def new_cookie(random: RandomSource, mark: CookieMark | None) -> bytes:
    """Never zero, which means none."""
    while True:
        cookie = random(COOKIE_SIZE) if mark is None else mark.complete(random(FREE_SIZE))
        if any(cookie):
            return cookie
