"""What a turn of the agent's loop does, in which order."""

from types import SimpleNamespace

from stockade.agent.service import Service


def test_each_answer_leaves_before_the_next_datagram_is_looked_at() -> None:
    """Twenty peers whose messages wait: the first must not wait for the work that the last one makes."""
    told: list[str] = []
    core = SimpleNamespace(
        receive=lambda datagram, local, remote, now: told.append(f"received {datagram.decode()}"),
        pump=lambda now, send: told.append("sent"),
    )
    service = SimpleNamespace(_core=core, _send=None, _pumped=lambda now: told.append("turn ended"))
    Service._on_datagrams(service, lambda: [(b"one", None, None), (b"two", None, None)])
    assert told == ["received one", "sent", "received two", "sent", "turn ended"]
