"""Packets that a full socket drops are counted, once."""

import socket

from stockade.driver.userspace.overflow import Overflows


def test_what_a_full_socket_drops_is_counted_once_and_what_it_dropped_before_never() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taking,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        taking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        taking.bind(("127.0.0.1", 0))
        taking.setblocking(False)

        def flood(count: int) -> None:
            for _ in range(count):
                sending.sendto(bytes(1000), taking.getsockname())

        def held() -> int:
            count = 0
            while True:
                try:
                    taking.recv(2000)
                except BlockingIOError:
                    return count
                count += 1

        flood(50)
        held()
        overflows = Overflows()
        overflows.watch(taking)
        assert overflows.take() == 0
        flood(40)
        lost = overflows.take()
        assert lost + held() == 40
        assert lost > 0
        assert overflows.take() == 0
        flood(30)
        assert overflows.forget(taking) + held() == 30
        assert overflows.take() == overflows.forget(taking) == 0


def test_a_socket_that_tells_nothing_any_more_has_dropped_nothing_more() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    overflows = Overflows()
    overflows._seen[sock] = 7
    sock.close()
    assert overflows.take() == overflows.forget(sock) == 0
