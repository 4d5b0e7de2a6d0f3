"""The program that the kernel runs, run by a few lines of Python instead; and who reads strays how often.

Whether a real kernel takes it, and to the same end, tests/host asks."""

import asyncio
import os
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.agent.doors import Door, Instruction, StraysWatch, choose_door
from stockade.ike.cookies import CookieMark, half_sip_hash, new_cookie
from stockade.ike.flood import is_first_message

WORD = 0xFFFF_FFFF
FIRST = b"\1" * 8 + bytes(8) + b"\1\x10\2\0" + bytes(4) + (40).to_bytes(4, "big") + bytes(12)
MARK = CookieMark(bytes(range(8)))


def run(program: Sequence[Instruction], packet: bytes) -> int:
    """Classic BPF as the kernel's documentation has it (networking/filter.rst), as far as it is used here."""
    a = x = at = 0
    memory = [0] * 16
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        match code:
            case 0x20 | 0x30:
                size = 4 if code == 0x20 else 1
                if k + size > len(packet):
                    return 0
                a = int.from_bytes(packet[k : k + size], "big")
            case 0x80:
                a = len(packet)
            case 0x00:
                a = k
            case 0x60:
                a = memory[k]
            case 0x61:
                x = memory[k]
            case 0x02:
                memory[k] = a
            case 0x07:
                x = a
            case 0x0C:
                a = a + x & WORD
            case 0x4C:
                a |= x
            case 0x44:
                a |= k
            case 0x54:
                a &= k
            case 0xA4:
                a ^= k
            case 0xAC:
                a ^= x
            case 0x64:
                a = a << k & WORD
            case 0x74:
                a >>= k
            case 0x15:
                at += if_true if a == k else if_false
            case 0x1D:
                at += if_true if a == x else if_false
            case 0x35:
                at += if_true if a >= k else if_false
            case 0x06:
                return k
            case _:
                raise AssertionError(f"an instruction that nobody knows: {code:#x}")


def test_the_hash_is_halfsiphash() -> None:
    """The first of its authors' test vectors for 2-4 rounds and the key 00 … 07 (there in little-endian
    words)."""
    key = int.from_bytes(bytes(range(4)), "little"), int.from_bytes(bytes(range(4, 8)), "little")
    assert half_sip_hash(key, [0], 2, 4).to_bytes(4, "little").hex() == "a9359f5b"


@settings(max_examples=150, deadline=None)
@given(
    st.binary(min_size=8, max_size=8), st.binary(min_size=5, max_size=5), st.binary(min_size=28, max_size=60)
)
def test_kernel_and_engine_agree_about_our_cookies(key: bytes, free: bytes, rest: bytes) -> None:
    mark = CookieMark(key)
    cookie = mark.complete(free)
    assert mark.knows(cookie)
    program = choose_door(0, mark)
    assert len(program) < 4096  # what a kernel takes
    assert run(program, cookie + rest) == Door.MAIN
    assert run(program, rest[:8] + cookie + rest[8:]) == (
        Door.STRANGERS if cookie == bytes(8) and is_first_message(rest[:8] + cookie + rest[8:]) else Door.MAIN
    )
    other = bytes(byte ^ 0x5A for byte in cookie)
    assert run(program, other + b"\7" * 8 + rest) == (Door.MAIN if mark.knows(other) else Door.STRAYS)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([0, 4]), st.booleans())
def test_any_bytes_find_a_door(data: bytes, marker: int, marked: bool) -> None:
    door = run(choose_door(marker, MARK if marked else None), data)
    assert door in list(Door)
    if door == Door.ESP:
        assert marker
        assert data[:4] != bytes(4)


def test_first_messages_are_what_the_engine_takes_for_them() -> None:
    program = choose_door(0, MARK)
    assert run(program, FIRST) == Door.STRANGERS
    for place in range(8, 24):
        changed = FIRST[:place] + bytes([FIRST[place] ^ 1]) + FIRST[place + 1 :]
        expected = Door.STRANGERS if is_first_message(changed) else Door.STRAYS
        assert run(program, changed) == expected, place
    assert run(choose_door(4, MARK), bytes(4) + FIRST) == Door.STRANGERS
    assert run(choose_door(0, None), FIRST[:20]) == Door.MAIN


def test_a_new_cookie_is_marked_and_never_none() -> None:
    assert MARK.knows(new_cookie(os.urandom, MARK))
    sizes = iter([bytes(8), b"\1" * 8])
    assert new_cookie(lambda size: next(sizes), None) == b"\1" * 8


def test_strays_are_read_at_once_and_then_again_after_a_pause() -> None:
    async def scenario() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        os.write(writing, b"x")  # and nobody reads it: there is always more
        taken: list[float] = []
        watch = StraysWatch(loop, [(reading, list)], lambda read: taken.append(loop.time()))
        deadline = loop.time() + 30
        while len(taken) < 3 and loop.time() < deadline:
            await asyncio.sleep(0.001)
        assert all(later - sooner >= 0.045 for sooner, later in pairwise(taken))
        watch.close()
        before = len(taken)
        await asyncio.sleep(0.12)
        os.close(reading)
        os.close(writing)
        return before, len(taken)

    before, after = asyncio.run(scenario())
    assert before >= 3
    assert after == before
