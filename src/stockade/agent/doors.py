"""Which of the sockets of an IKE port a datagram goes to: classic BPF that the kernel runs over its payload.

    0  main        a cookie in it is one of ours (`stockade.ike.cookies`): peers that we know
    1  strangers   message 1 of main mode: whoever begins
    2  strays      anything else: of a main mode from before a restart, of other protocols, made up
    3  ESP         port 4500 only, where the data plane has a socket for it

The value of the program is the number of the socket in the order in which they were bound (SO_REUSEPORT). A
load beyond the end of a datagram ends it with 0, so the length is looked at first. Without a mark, what is no
first message goes to the main door."""

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Final

from stockade.ike.cookies import (
    COMPRESSIONS,
    COOKIE_SIZE,
    FINALIZATIONS,
    FREE_SIZE,
    MARK_MASK,
    CookieMark,
    initial_state,
)
from stockade.model.addresses import Endpoint
from stockade.wire.isakmp.constants import ExchangeType, PayloadType
from stockade.wire.isakmp.message import HEADER_SIZE
from stockade.wire.udp_encapsulation import ESP_DOOR

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false (instructions to leave out), constant."""

_SO_ATTACH_REUSEPORT_CBPF = 51


ENOUGH_STRAYS: Final = 16
STRAYS_PAUSE: Final = 0.05
"""So many are read at once, and then none for so long (seconds)."""
_Read = Callable[[], list[tuple[bytes, Endpoint, Endpoint]]]


class Door(IntEnum):
    MAIN = 0
    STRANGERS = 1
    STRAYS = 2
    ESP = ESP_DOOR


class _Code(IntEnum):
    """Of linux/bpf_common.h; A is the accumulator, X the index register, M sixteen words of memory."""

    LOAD_WORD = 0x20
    LOAD_BYTE = 0x30
    LOAD_CONSTANT = 0x00
    LOAD_MEMORY = 0x60
    LOAD_LENGTH = 0x80
    LOAD_X_MEMORY = 0x61
    STORE = 0x02
    A_TO_X = 0x07
    ADD_X = 0x0C
    OR_X = 0x4C
    OR = 0x44
    AND = 0x54
    XOR = 0xA4
    XOR_X = 0xAC
    SHIFT_LEFT = 0x64
    SHIFT_RIGHT = 0x74
    JUMP = 0x05
    JUMP_IF_EQUAL = 0x15
    JUMP_IF_EQUAL_X = 0x1D
    JUMP_IF_AT_LEAST = 0x35
    RETURN = 0x06


_V0, _V1, _V2, _V3, _MESSAGE = range(5)
"""Places in M."""


def _one(code: _Code, constant: int = 0, if_true: int = 0, if_false: int = 0) -> Instruction:
    return int(code), if_true, if_false, constant


def _rotated(place: int, bits: int) -> list[Instruction]:
    """A = M[place], rotated to the left."""
    return [
        _one(_Code.LOAD_MEMORY, place),
        _one(_Code.SHIFT_LEFT, bits),
        _one(_Code.A_TO_X),
        _one(_Code.LOAD_MEMORY, place),
        _one(_Code.SHIFT_RIGHT, 32 - bits),
        _one(_Code.OR_X),
    ]


def _add(place: int, other: int) -> list[Instruction]:
    return [
        _one(_Code.LOAD_MEMORY, place),
        _one(_Code.LOAD_X_MEMORY, other),
        _one(_Code.ADD_X),
        _one(_Code.STORE, place),
    ]


def _mix(place: int, bits: int, other: int) -> list[Instruction]:
    return [
        *_rotated(place, bits),
        _one(_Code.LOAD_X_MEMORY, other),
        _one(_Code.XOR_X),
        _one(_Code.STORE, place),
    ]


def _turn(place: int, bits: int) -> list[Instruction]:
    return [*_rotated(place, bits), _one(_Code.STORE, place)]


_ROUND = [
    *_add(_V0, _V1),
    *_mix(_V1, 5, _V0),
    *_turn(_V0, 16),
    *_add(_V2, _V3),
    *_mix(_V3, 8, _V2),
    *_add(_V0, _V3),
    *_mix(_V3, 7, _V0),
    *_add(_V2, _V1),
    *_mix(_V1, 13, _V2),
    *_turn(_V2, 16),
]


def _into(place: int, other: int) -> list[Instruction]:
    """M[place] ^= M[other]"""
    return [
        _one(_Code.LOAD_MEMORY, place),
        _one(_Code.LOAD_X_MEMORY, other),
        _one(_Code.XOR_X),
        _one(_Code.STORE, place),
    ]


def _return_main_if_ours(mark: CookieMark, at: int) -> list[Instruction]:
    """Go on only if the cookie at this place is none of ours."""
    program: list[Instruction] = []
    for place, number in enumerate(initial_state(mark.numbers)):
        program += [_one(_Code.LOAD_CONSTANT, number), _one(_Code.STORE, place)]
    words = (
        [_one(_Code.LOAD_WORD, at)],
        [_one(_Code.LOAD_BYTE, at + 4), _one(_Code.OR, FREE_SIZE << 24)],
    )
    for load in words:
        program += [*load, _one(_Code.STORE, _MESSAGE), *_into(_V3, _MESSAGE)]
        program += _ROUND * COMPRESSIONS
        program += _into(_V0, _MESSAGE)
    program += [_one(_Code.LOAD_MEMORY, _V2), _one(_Code.XOR, 0xFF), _one(_Code.STORE, _V2)]
    program += _ROUND * FINALIZATIONS
    return [
        *program,
        _one(_Code.LOAD_WORD, at + 4),
        _one(_Code.AND, MARK_MASK),
        _one(_Code.STORE, _MESSAGE),
        _one(_Code.LOAD_MEMORY, _V1),
        _one(_Code.LOAD_X_MEMORY, _V3),
        _one(_Code.XOR_X),
        _one(_Code.AND, MARK_MASK),
        _one(_Code.LOAD_X_MEMORY, _MESSAGE),
        _one(_Code.JUMP_IF_EQUAL_X, 0, 0, 1),
        _one(_Code.RETURN, Door.MAIN),
    ]


def choose_door(marker: int, mark: CookieMark | None) -> tuple[Instruction, ...]:
    """The program for a port; `marker` is the size of the non-ESP marker there: what does not begin with it
    is ESP."""
    esp = [
        _one(_Code.LOAD_WORD, 0),
        _one(_Code.JUMP_IF_EQUAL, 0, 1, 0),
        _one(_Code.RETURN, Door.ESP),
    ]
    otherwise = Door.MAIN if mark is None else Door.STRAYS
    initiator, responder = marker, marker + COOKIE_SIZE
    # As `flood.is_first_message` has it.
    first_message = [
        _one(_Code.LOAD_WORD, marker + 16),  # next payload, version, exchange type, flags
        _one(_Code.AND, 0xFFF0_FF01),
        _one(
            _Code.JUMP_IF_EQUAL,
            PayloadType.SECURITY_ASSOCIATION << 24 | 0x10 << 16 | ExchangeType.IDENTITY_PROTECTION << 8,
            0,
            3,
        ),
        _one(_Code.LOAD_WORD, marker + 20),  # message id
        _one(_Code.JUMP_IF_EQUAL, 0, 0, 1),
        _one(_Code.RETURN, Door.STRANGERS),
    ]
    checks = [] if mark is None else _return_main_if_ours(mark, responder)
    return (
        *(esp if marker else []),
        _one(_Code.LOAD_LENGTH),
        _one(_Code.JUMP_IF_AT_LEAST, marker + HEADER_SIZE, 1, 0),
        _one(_Code.RETURN, otherwise),
        _one(_Code.LOAD_WORD, responder),
        _one(_Code.JUMP_IF_EQUAL, 0, 0, 2 + len(first_message)),
        _one(_Code.LOAD_WORD, responder + 4),
        _one(_Code.JUMP_IF_EQUAL, 0, 0, len(first_message)),
        *first_message,
        *([] if mark is None else _return_main_if_ours(mark, initiator)),
        *checks,
        _one(_Code.RETURN, otherwise),
    )


def attach_choice(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """For the whole group of sockets that this one is in. Raises OSError where the kernel cannot."""
    attach(sock, _SO_ATTACH_REUSEPORT_CBPF, program)


def attach(sock: socket.socket, option: int, instructions: Sequence[Instruction]) -> None:
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(program, len(program))  # the kernel copies it
    header = struct.pack("@HP", len(instructions), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, option, header)


class StraysWatch:
    """Reads the strays' doors: some at once, and then none for a moment, so that what they can cost is
    bounded while a peer that speaks of what was lost with an agent before us is heard at once. `doors`: file
    descriptors and functions that read a batch; `take` gets such a function whenever there is something."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        doors: Iterable[tuple[int, _Read]],
        take: Callable[[_Read], None],
    ) -> None:
        self._loop = loop
        self._take = take
        self._doors = dict(doors)
        self._pauses: dict[int, asyncio.TimerHandle] = {}
        for descriptor in self._doors:
            self._open(descriptor)

    def close(self) -> None:
        for descriptor in self._doors:
            self._loop.remove_reader(descriptor)
        for pause in self._pauses.values():
            pause.cancel()
        self._doors.clear()

    def _open(self, descriptor: int) -> None:
        self._loop.add_reader(descriptor, self._ready, descriptor)

    def _ready(self, descriptor: int) -> None:
        self._take(self._doors[descriptor])
        self._loop.remove_reader(descriptor)
        self._pauses[descriptor] = self._loop.call_later(STRAYS_PAUSE, self._open, descriptor)
