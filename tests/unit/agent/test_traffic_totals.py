"""Sums over SAs that come and go between two looks."""

from stockade.agent.recorder import TrafficTotals
from stockade.model.filters import Direction
from stockade.model.sa import EndedCounters, SaCounters

OUT = Direction.OUTBOUND
CLASSES = ("confidential", "transport")


def live(spi: int, packets: int, size: int) -> SaCounters:
    return SaCounters(spi, OUT, packets, size)


def ended(packets: int, size: int) -> EndedCounters:
    return EndedCounters(OUT, CLASSES, packets, size)


def look(totals: TrafficTotals, sas: list[SaCounters], *gone: EndedCounters) -> tuple[int, int]:
    totals.look(sas, lambda direction, spi: None, gone)
    return totals.packets[OUT], totals.bytes[OUT]


def test_what_ended_before_the_first_look_does_not_count() -> None:
    totals = TrafficTotals()
    assert look(totals, [], ended(5, 500)) == (0, 0)
    assert look(totals, [], ended(6, 600)) == (1, 100)
    assert totals.by_class["confidential", OUT] == 100


def test_an_sa_counts_once_whether_it_was_seen_or_not() -> None:
    totals = TrafficTotals()
    look(totals, [])
    assert look(totals, [live(1, 2, 200), live(2, 1, 50)]) == (3, 250)
    # 1 ends with 300, 3 came and went with 40
    assert look(totals, [live(2, 1, 50)], ended(5, 340)) == (6, 390)
    assert look(totals, [live(2, 2, 60)], ended(5, 340)) == (7, 400)
    assert look(totals, [], ended(7, 400)) == (7, 400)


def test_another_sa_with_the_spi_of_one_that_ended() -> None:
    totals = TrafficTotals()
    look(totals, [])
    look(totals, [live(1, 9, 900)])
    assert look(totals, [live(1, 1, 10)], ended(10, 1000)) == (11, 1010)


def test_a_data_plane_that_began_anew_takes_nothing_back_and_adds_nothing_twice() -> None:
    totals = TrafficTotals()
    look(totals, [])
    assert look(totals, [live(1, 9, 900)], ended(1, 100)) == (10, 1000)
    assert look(totals, []) == (10, 1000), "all of it died"
    assert look(totals, [live(1, 1, 10)]) == (11, 1010)
    assert look(totals, [], ended(2, 30)) == (12, 1030)


def test_a_data_plane_that_does_not_tell_takes_nothing_back() -> None:
    totals = TrafficTotals()
    look(totals, [])
    assert look(totals, [live(1, 9, 900)]) == (9, 900)
    assert look(totals, []) == (9, 900)
