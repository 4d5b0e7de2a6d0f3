"""Requests over netlink and what is made of the answers; the kernel is of paper."""

import errno
from collections import deque
from collections.abc import Callable

import pytest

from stockade.driver.netlink import BATCH_MESSAGES, NetlinkError, NetlinkSocket
from stockade.model.reasons import HostError, ReasonCode
from stockade.wire.netlink import NLM_F_ACK, NLMSG_ERROR, NetlinkMessage, decode_messages

Answer = Callable[[NetlinkMessage], bytes | None]


class Paper:
    """Answers each request as it is told; no answer is what a kernel says to one that asks for none."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.waiting: deque[bytes] = deque()
        self.seen: list[list[NetlinkMessage]] = []

    def send(self, data: bytes) -> None:
        self.seen.append(list(decode_messages(data)))
        for request in self.seen[-1]:
            body = self.answer(request)
            if body is not None:
                self.waiting.append(NetlinkMessage(NLMSG_ERROR, 0, request.sequence, body).encode())

    def recv(self, size: int) -> bytes:
        if not self.waiting:
            raise TimeoutError
        return self.waiting.popleft()


def socket_over(answer: Answer) -> tuple[NetlinkSocket, Paper]:
    made = NetlinkSocket.__new__(NetlinkSocket)
    paper = Paper(answer)
    made._socket, made._sequence = paper, 7
    return made, paper


def number(error: int) -> bytes:
    return (-error).to_bytes(4, "little", signed=True)


def test_many_requests_go_in_few_datagrams_in_order_and_refusals_do_not_keep_the_rest() -> None:
    def answer(request: NetlinkMessage) -> bytes | None:
        if request.body[0] % 50 == 7:
            return number(errno.ESRCH)
        return number(0) if request.flags & NLM_F_ACK else None

    netlink, paper = socket_over(answer)
    bodies = [bytes([place, 0, 0, 0]) for place in range(200)]
    refusals = list(netlink.change_all(5, bodies))
    assert [error.number for error in refusals] == [errno.ESRCH] * 4
    assert [request.body for part in paper.seen for request in part] == bodies
    assert len(paper.seen) == -(-200 // BATCH_MESSAGES)
    assert max(map(len, paper.seen)) == BATCH_MESSAGES
    assert len({request.sequence for part in paper.seen for request in part}) == 200
    assert list(netlink.change_all(5, [])) == []


def test_many_objects_are_asked_for_and_those_that_are_not_there_left_out() -> None:
    netlink, paper = socket_over(lambda request: None)

    def send(data: bytes) -> None:
        requests = list(decode_messages(data))
        for request in requests:
            if request.body == b"none":
                paper.waiting.append(NetlinkMessage(NLMSG_ERROR, 0, request.sequence, number(3)).encode())
                continue
            paper.waiting.append(NetlinkMessage(16, 0, request.sequence, request.body).encode())
            if request.flags & NLM_F_ACK:
                paper.waiting.append(NetlinkMessage(NLMSG_ERROR, 0, request.sequence, number(0)).encode())

    paper.send = send
    for last in (b"some", b"none"):
        bodies = [b"one!", b"none", b"two!"] * 20 + [last]
        found = [message.body for message in netlink.get_all(5, bodies)]
        assert found == [body for body in bodies if body != b"none"]
        assert not paper.waiting


def test_a_refusal_of_the_last_one_ends_a_batch_and_silence_is_an_error() -> None:
    netlink, _ = socket_over(lambda request: number(errno.EPERM))
    refusals = list(netlink.change_all(5, [b"four"] * 3))
    assert [error.reason.code for error in refusals] == [ReasonCode.NOT_PRIVILEGED] * 3
    netlink, _ = socket_over(lambda request: None)
    with pytest.raises(HostError, match="did not answer"):
        list(netlink.change_all(5, [b"four"]))


@pytest.mark.parametrize("body", [b"", b"\0\0", (-(1 << 31)).to_bytes(4, "little", signed=True), number(-3)])
def test_an_answer_without_an_errno_is_a_refusal(body: bytes) -> None:
    netlink, _ = socket_over(lambda request: body)
    with pytest.raises(NetlinkError, match="no errno"):
        netlink.change(5, b"four")
    assert len(list(netlink.change_all(5, [b"four"]))) == 1
