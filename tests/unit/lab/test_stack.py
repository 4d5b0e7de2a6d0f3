"""The tiny stack: pings, streams over bad networks, refused ports, and garbage."""

import hashlib
import random
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.lab.stack import IpStack
from stockade.lab.tcp import ATTEMPTS, Connection, State
from stockade.lab.virtual import VirtualClock, VirtualNetwork
from stockade.model.addresses import Endpoint
from stockade.wire.ip import build_packet, parse_packet
from stockade.wire.transport import TcpFlag, build_tcp, decode_tcp

ONE, OTHER = ip_address("10.0.0.1"), ip_address("10.0.0.2")


class Pair:
    """Two stacks on one network."""

    def __init__(self, **settings: float) -> None:
        self.clock = VirtualClock()
        self.network = VirtualNetwork(self.clock, **settings)  # type: ignore[arg-type]
        source = random.Random(7)
        self.one = IpStack(ONE, self.clock, self.network.send, source.randbytes)
        self.other = IpStack(OTHER, self.clock, self.network.send, source.randbytes)
        self.network.attach(ONE, self.one.receive)
        self.network.attach(OTHER, self.other.receive)

    def move(self, content: bytes, seconds: float = 3600.0) -> tuple[Connection, bytes, bytes]:
        """Send `content` to a server that answers with its hash; (connection, what arrived, the answer)."""
        arrived, answer = bytearray(), bytearray()

        def serve(connection: Connection) -> None:
            def done() -> None:
                connection.send(hashlib.sha256(arrived).digest())
                connection.close()

            connection.on_data = arrived.extend
            connection.on_end = done

        self.other.listen(5001, serve)
        connection = self.one.connect(OTHER, 5001)
        connection.on_data = answer.extend
        connection.send(content)
        connection.close()
        self.clock.run(seconds, lambda: connection.state is State.CLOSED)
        return connection, bytes(arrived), bytes(answer)


def test_a_ping_is_answered_after_twice_the_delay() -> None:
    pair, times = Pair(delay=0.01), []
    pair.one.ping(OTHER, lambda sent, received: times.append(received - sent))
    pair.clock.run(1.0)
    assert times == [pytest.approx(0.02)]


def test_a_duplicated_answer_counts_once() -> None:
    pair, times = Pair(duplication=1.0), []
    pair.one.ping(OTHER, lambda sent, received: times.append(received - sent))
    pair.clock.run(1.0)
    assert len(times) == 1


def test_a_stream_arrives_whole_and_ends_on_both_sides() -> None:
    content = random.Random(1).randbytes(300_000)
    connection, arrived, answer = Pair().move(content)
    assert arrived == content
    assert answer == hashlib.sha256(content).digest()
    assert (connection.state, connection.failed) == (State.CLOSED, None)
    assert connection.repeated == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_survives_loss_duplication_and_reordering(seed: int) -> None:
    content = random.Random(seed).randbytes(120_000)
    pair = Pair(loss=0.1, duplication=0.1, delay=0.01, jitter=0.01, seed=seed)
    connection, arrived, answer = pair.move(content)
    assert arrived == content
    assert answer == hashlib.sha256(content).digest()
    assert connection.failed is None
    assert connection.repeated > 0


@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 5000), loss=st.sampled_from([0.0, 0.05, 0.25]), seed=st.integers(0, 1000))
def test_streams_of_any_length_arrive_whole(size: int, loss: float, seed: int) -> None:
    content = random.Random(seed).randbytes(size)
    _, arrived, answer = Pair(loss=loss, jitter=0.005, seed=seed).move(content)
    assert arrived == content
    assert answer == hashlib.sha256(content).digest()


def test_a_stream_crosses_the_end_of_the_sequence_numbers() -> None:
    pair = Pair()
    pair.one._random = lambda size: b"\xff\xff\xff\x00"  # 256 bytes before the wrap
    content = random.Random(3).randbytes(50_000)
    assert pair.move(content)[1] == content


def test_a_port_where_nobody_listens_refuses() -> None:
    pair = Pair()
    connection = pair.one.connect(OTHER, 23)
    pair.clock.run(1.0)
    assert (connection.state, connection.failed) == (State.CLOSED, "refused")


def test_a_host_that_does_not_answer_is_given_up_after_bounded_attempts() -> None:
    pair, sent = Pair(), []
    pair.network.cut(ONE, OTHER)
    pair.network.tap(lambda now, packet: sent.append(packet))
    connection = pair.one.connect(OTHER, 23)
    assert pair.clock.run(120.0, lambda: connection.state is State.CLOSED)
    assert connection.failed == "unanswered"
    assert len(sent) == ATTEMPTS + 1


def test_an_aborted_stream_resets_the_peer() -> None:
    pair, accepted = Pair(), []
    pair.other.listen(80, accepted.append)
    connection = pair.one.connect(OTHER, 80)
    pair.clock.run(1.0)
    connection.abort("enough")
    pair.clock.run(1.0)
    assert accepted[0].failed == "reset by the peer"


def test_a_segment_out_of_nowhere_is_reset_after_rfc_9293() -> None:
    pair, sent = Pair(), []
    pair.network.tap(lambda now, packet: sent.append(packet))
    pair.other.receive(build_tcp(Endpoint(ONE, 9), Endpoint(OTHER, 80), b"abc", acknowledgement=77))
    pair.other.receive(
        build_tcp(Endpoint(ONE, 9), Endpoint(OTHER, 80), b"abc", sequence=5, flags=TcpFlag.FIN)
    )
    headers = [decode_tcp(packet[parse_packet(packet).payload_offset :]) for packet in sent]
    assert [(header.flags, header.sequence, header.acknowledgement) for header in headers] == [
        (TcpFlag.RST, 77, 0),
        (TcpFlag.RST | TcpFlag.ACK, 0, 9),
    ]


def test_packets_for_others_and_fragments_are_dropped() -> None:
    pair, sent = Pair(), []
    pair.network.tap(lambda now, packet: sent.append(packet))
    pair.other.receive(build_tcp(Endpoint(ONE, 9), Endpoint(ip_address("10.0.0.9"), 80)))
    pair.other.receive(build_packet(ONE, OTHER, 6, bytes(24), dont_fragment=False, more_fragments=True))
    assert sent == []


@settings(max_examples=100, deadline=None)
@given(payload=st.binary(max_size=80), protocol=st.sampled_from([1, 6, 17, 50, 58]))
def test_garbage_raises_nothing(payload: bytes, protocol: int) -> None:
    pair = Pair()
    pair.other.listen(80, lambda connection: None)
    pair.other.receive(payload)
    pair.other.receive(build_packet(ONE, OTHER, protocol, payload))
    pair.clock.run(0.1)
