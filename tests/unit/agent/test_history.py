"""The figures behind the plots."""

from stockade.agent.history import MAXIMUM_REASONS, Figures, History


def figures(count: int, **refused: int) -> Figures:
    return Figures(
        1,
        2,
        count,
        2 * count,
        refused,
        {"negotiation_failures": count, "main_modes": 7, "datagrams_sent": count},
    )


def test_sums_become_rates() -> None:
    history = History(started=95.0)
    history.add(figures(10, replayed=10), 100.0)
    history.add(figures(60, replayed=60), 105.0)
    times, columns = history.columns()
    assert times == [100.0, 105.0]
    assert columns["main modes"] == [1, 1]
    assert columns["quick modes"] == [2, 2]
    assert columns["bytes in"] == [None, 10.0]
    assert columns["bytes out"] == [None, 20.0]
    assert columns["refused: replayed"] == [None, 600.0]
    assert columns["ike: negotiations failed"] == [120.0, 600.0]
    assert columns["ike: main modes made"] == [84.0, 0.0]
    assert "ike: quick modes made" not in columns, "what never moves is no line"
    assert not [name for name in columns if "datagrams" in name], "no negotiation ends by one"


def test_a_data_plane_that_counts_anew_gives_no_negative_rate() -> None:
    history = History(started=95.0)
    for now, count in ((100.0, 50), (105.0, 5), (105.0, 6), (110.0, 11)):
        history.add(figures(count), now)
    assert history.columns()[1]["bytes in"] == [None, 0.0, None, 1.0]


def test_it_is_bounded_in_points_and_reasons() -> None:
    history = History(points=10, started=95.0)
    for number in range(50):
        many = {f"reason{which}": number * which for which in range(20)}
        history.add(figures(number, **many), 100.0 + 5 * number)
    times, columns = history.columns()
    assert len(times) == 10
    assert times[-1] == 345.0
    drops = [name for name in columns if name.startswith("refused: ")]
    assert len(drops) == MAXIMUM_REASONS
    assert "refused: reason19" in drops
    assert "refused: reason1" not in drops
