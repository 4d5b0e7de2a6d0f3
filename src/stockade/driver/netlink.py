"""A netlink socket: requests and their answers, synchronously, with a bound on the waiting."""

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from stockade.model.reasons import HostError, ReasonCode, error_for
from stockade.wire.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NetlinkMessage,
    decode_messages,
)

ANSWER_SECONDS = 5.0
RECEIVE_BYTES = 1 << 18
BATCH_MESSAGES = 32
"""Requests in one datagram: all their answers have room in any socket's buffer."""


class NetlinkError(HostError):
    """The kernel refused a request; `number` is its errno."""

    number: int = 0


class NetlinkSocket:
    """Belongs to the network namespace of the thread that makes it. Errors: `NetlinkError` (NOT_PRIVILEGED or
    DRIVER_FAILED)."""

    def __init__(self, family: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.bind((0, 0))
        self._socket.settimeout(ANSWER_SECONDS)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send a request that changes something, and wait for its acknowledgement."""
        self._ask(kind, body, flags | NLM_F_ACK)

    def change_all(self, kind: int, bodies: Sequence[bytes]) -> Iterator[NetlinkError]:
        """Many requests that change something, in order, with few system calls; what the kernel refuses does
        not keep the rest. Gives the refusals; nothing is done but by iterating."""
        for message in self._ask_all(kind, bodies):
            if message.type == NLMSG_ERROR and message.error != 0:
                yield _refused(kind, message.error)

    def get_all(self, kind: int, bodies: Sequence[bytes]) -> Iterator[NetlinkMessage]:
        """Ask for many objects, with few system calls; those that are not there are left out."""
        for message in self._ask_all(kind, bodies):
            if message.type != NLMSG_ERROR:
                yield message

    def _ask_all(self, kind: int, bodies: Sequence[bytes]) -> Iterator[NetlinkMessage]:
        for start in range(0, len(bodies), BATCH_MESSAGES):
            part = bodies[start : start + BATCH_MESSAGES]
            first = self._sequence + 1
            self._sequence += len(part)
            # The kernel answers in order, refusals in any case: the last one's answer ends the batch.
            requests = [
                NetlinkMessage(kind, NLM_F_REQUEST, first + place, body) for place, body in enumerate(part)
            ]
            requests[-1] = replace(requests[-1], flags=NLM_F_REQUEST | NLM_F_ACK)
            yield from self._send_all(kind, requests)

    def _send_all(self, kind: int, requests: Sequence[NetlinkMessage]) -> Iterator[NetlinkMessage]:
        first, last = requests[0].sequence, requests[-1].sequence
        answered = False
        try:
            self._socket.send(b"".join(request.encode() for request in requests))
            while not answered:
                for message in decode_messages(self._socket.recv(RECEIVE_BYTES)):
                    if first <= message.sequence <= last:
                        answered = answered or (message.type, message.sequence) == (NLMSG_ERROR, last)
                        yield message
        except TimeoutError:
            raise error_for(ReasonCode.DRIVER_FAILED, "the kernel did not answer over netlink") from None
        except OSError as error:
            raise _refused(kind, error.errno or 0) from None

    def get(self, kind: int, body: bytes) -> tuple[NetlinkMessage, ...]:
        """Ask for one object."""
        return self._ask(kind, body, NLM_F_ACK)

    def dump(self, kind: int, body: bytes) -> tuple[NetlinkMessage, ...]:
        """Ask for all objects of a kind."""
        return self._ask(kind, body, NLM_F_DUMP)

    def _ask(self, kind: int, body: bytes, flags: int) -> tuple[NetlinkMessage, ...]:
        self._sequence += 1
        request = NetlinkMessage(kind, flags | NLM_F_REQUEST, self._sequence, body)
        answers: list[NetlinkMessage] = []
        try:
            self._socket.send(request.encode())
            while True:
                data = self._socket.recv(RECEIVE_BYTES)
                if self._take(decode_messages(data), answers, kind):
                    return tuple(answers)
        except TimeoutError:
            raise error_for(ReasonCode.DRIVER_FAILED, "the kernel did not answer over netlink") from None
        except OSError as error:
            raise _refused(kind, error.errno or 0) from None

    def _take(self, messages: Iterable[NetlinkMessage], answers: list[NetlinkMessage], kind: int) -> bool:
        """Sort one datagram's messages; True when the answer is complete."""
        for message in messages:
            if message.sequence != self._sequence:
                continue  # of a request that was given up
            if message.type == NLMSG_ERROR:
                if message.error != 0:
                    raise _refused(kind, message.error)
                return True
            if message.type == NLMSG_DONE:
                return True
            answers.append(message)
        return False


def _refused(kind: int, number: int | None) -> NetlinkError:
    """`number`: an errno, or whatever stands in its place; None where nothing does."""
    code = ReasonCode.NOT_PRIVILEGED if number in (errno.EPERM, errno.EACCES) else ReasonCode.DRIVER_FAILED
    known = number is not None and number in errno.errorcode
    text = os.strerror(number) if known and number is not None else "an answer that is no errno"
    error = NetlinkError(error_for(code, f"netlink request {kind}: {text}", errno=number).reason)
    error.number = number or 0
    return error
