"""The virtual clock and network: time jumps, packets are late, lost, doubled or cut off as told."""

from ipaddress import ip_address

import pytest

from stockade.lab.errors import LabError
from stockade.lab.virtual import VirtualClock, VirtualNetwork
from stockade.model.addresses import Endpoint
from stockade.wire.transport import build_udp

ONE, OTHER = ip_address("10.0.0.1"), ip_address("10.0.0.2")


def packet(payload: bytes = b"x", source=ONE, destination=OTHER) -> bytes:
    return build_udp(Endpoint(source, 1000), Endpoint(destination, 2000), payload)


def numbered(count: int) -> list[bytes]:
    return [packet(number.to_bytes(2, "big")) for number in range(count)]


class Receiver:
    """Remembers what came, and when."""

    def __init__(self, network: VirtualNetwork, address=OTHER) -> None:
        self.arrived: list[tuple[float, bytes]] = []
        network.attach(address, lambda data: self.arrived.append((network.clock.now, data)))

    @property
    def packets(self) -> list[bytes]:
        return [data for _, data in self.arrived]


def test_events_happen_in_order_of_time_then_of_scheduling() -> None:
    clock, seen = VirtualClock(100.0), []
    clock.call_later(2.0, lambda: seen.append(("late", clock.now)))
    clock.call_later(1.0, lambda: seen.append(("first", clock.now)))
    clock.call_later(1.0, lambda: seen.append(("second", clock.now)))
    clock.run(5.0)
    assert seen == [("first", 101.0), ("second", 101.0), ("late", 102.0)]
    assert clock.now == 105.0


def test_events_may_schedule_events_and_cancelled_ones_do_not_happen() -> None:
    clock, seen = VirtualClock(0.0), []
    cancelled = clock.call_later(3.0, lambda: seen.append("cancelled"))
    clock.call_later(1.0, lambda: (cancelled.cancel(), clock.call_later(1.0, lambda: seen.append("child"))))
    clock.run(10.0)
    assert seen == ["child"]


def test_run_stops_at_the_event_that_makes_the_condition_true() -> None:
    clock, seen = VirtualClock(0.0), []
    for second in range(1, 10):
        clock.call_at(float(second), lambda: seen.append(1))
    assert clock.run(100.0, lambda: len(seen) == 4)
    assert clock.now == 4.0
    assert not clock.run(2.0, lambda: len(seen) == 9)
    assert clock.now == 6.0


def test_a_loop_of_events_at_one_moment_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stockade.lab.virtual.MAXIMUM_EVENTS", 1000)
    clock = VirtualClock()

    def again() -> None:
        clock.call_later(0.0, again)

    again()
    with pytest.raises(LabError, match="loops"):
        clock.run(1.0)


def test_a_packet_arrives_after_the_delay_at_its_destination_only() -> None:
    network = VirtualNetwork(VirtualClock(0.0), delay=0.25)
    one, other = Receiver(network, ONE), Receiver(network, OTHER)
    network.send(packet())
    network.clock.run(1.0)
    assert other.arrived == [(0.25, packet())]
    assert one.arrived == []


def test_loss_drops_about_the_share_that_it_names() -> None:
    network = VirtualNetwork(VirtualClock(), loss=0.3, seed=1)
    other = Receiver(network)
    for data in numbered(1000):
        network.send(data)
    network.clock.run(1.0)
    assert 620 < len(other.arrived) < 780
    assert network.statistics.lost + network.statistics.delivered == 1000


def test_duplication_delivers_packets_twice() -> None:
    network = VirtualNetwork(VirtualClock(), duplication=1.0)
    other = Receiver(network)
    network.send(packet())
    network.clock.run(1.0)
    assert other.packets == [packet(), packet()]


def test_jitter_reorders_and_the_same_seed_repeats_the_run() -> None:
    def run(seed: int) -> list[bytes]:
        network = VirtualNetwork(VirtualClock(), delay=0.01, jitter=0.05, loss=0.1, seed=seed)
        other = Receiver(network)
        for data in numbered(50):
            network.send(data)
        network.clock.run(1.0)
        return other.packets

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(1) != sorted(run(1))


def test_a_cut_stops_both_directions_until_it_is_mended() -> None:
    network = VirtualNetwork(VirtualClock())
    one, other = Receiver(network, ONE), Receiver(network, OTHER)
    network.cut(OTHER, ONE)
    network.send(packet())
    network.send(packet(source=OTHER, destination=ONE))
    network.clock.run(1.0)
    assert (one.arrived, other.arrived, network.statistics.cut) == ([], [], 2)
    network.mend(ONE, OTHER)
    network.send(packet())
    network.clock.run(1.0)
    assert len(other.arrived) == 1


def test_a_slow_link_delivers_one_packet_after_the_other() -> None:
    network = VirtualNetwork(VirtualClock(0.0), delay=0.0, bits_per_second=8 * 1000)
    other = Receiver(network)
    size = len(packet(bytes(72)))
    assert size == 100
    for _ in range(3):
        network.send(packet(bytes(72)))
    network.clock.run(1.0)
    assert [round(when, 6) for when, _ in other.arrived] == [0.1, 0.2, 0.3]


def test_packets_above_the_mtu_and_garbage_do_not_arrive() -> None:
    network = VirtualNetwork(VirtualClock(), mtu=576)
    other = Receiver(network)
    network.send(packet(bytes(600)))
    network.send(b"\x45\x00")
    network.send(b"")
    network.clock.run(1.0)
    assert other.arrived == []
    assert (network.statistics.too_big, network.statistics.malformed) == (1, 2)


def test_a_tap_sees_lost_packets_too() -> None:
    network = VirtualNetwork(VirtualClock(7.0), loss=1.0)
    other, seen = Receiver(network), []
    network.tap(lambda now, data: seen.append((now, data)))
    network.send(packet())
    network.clock.run(1.0)
    assert seen == [(7.0, packet())]
    assert other.arrived == []


def test_a_probability_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match="loss"):
        VirtualNetwork(VirtualClock(), loss=1.5)
