"""What the agent and the data-plane process exchange survives the way."""

from dataclasses import replace
from ipaddress import IPv4Address
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.driver.contract import Acquire, DriverFailed, PacketRefused, SaExpired, SaIdle, SaSilent
from stockade.driver.userspace import messages
from stockade.model.filters import Direction, Provenance
from stockade.model.reasons import HostError, Reason, ReasonCode
from stockade.model.sa import Lifetime, SecurityAssociation
from stockade.model.traffic import Flow

ALPHA, BETA = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")


def through(frame: bytes) -> bytes:
    (found,) = messages.Frames().feed(frame)
    return found


@pytest.mark.parametrize(
    "event",
    [
        Acquire("0" * 16, Flow(ALPHA, BETA, 6, 1, 2)),
        SaExpired(0x1000, Direction.INBOUND, True, BETA),
        SaIdle(0xFFFF_FFFF, Direction.OUTBOUND, BETA),
        SaSilent(0x1000, Direction.OUTBOUND, BETA),
        PacketRefused(Reason.of(ReasonCode.REPLAYED, "why"), ALPHA, BETA, 5, 6),
    ],
)
def test_events_come_back(event: Acquire | SaExpired | SaIdle | PacketRefused) -> None:
    frame = messages.encode(messages.event_message(event))
    assert messages.event_of(messages.event_decoder.decode(through(frame))) == event


def test_ready_is_no_drivers_event_and_a_process_never_reports_its_end() -> None:
    assert messages.event_of(messages.Ready()) is None
    with pytest.raises(ValueError, match="own end"):
        messages.event_message(DriverFailed(Reason.of(ReasonCode.DRIVER_FAILED)))


def test_an_sa_comes_back_with_its_keys_and_shows_none(hosts: SimpleNamespace) -> None:
    sa: SecurityAssociation = hosts.make_sa(
        hosts.CBC,
        lifetime=Lifetime(1, 2, 3, 4),
        idle_seconds=5.5,
        silence_seconds=2.5,
        extended_sequence=True,
    )
    message = messages.sa_message(sa, 1400)
    request = messages.request_decoder.decode(through(messages.encode(message)))
    assert isinstance(request, messages.AddSa)
    assert request.mtu == 1400
    found = messages.sa_of(request)
    assert found.encryption_key == sa.encryption_key
    assert found.integrity_key == sa.integrity_key
    keys = {"encryption_key": sa.encryption_key, "integrity_key": sa.integrity_key}
    assert replace(found, **keys) == replace(sa, **keys)
    for text in (repr(message), str(message)):
        assert repr(sa.encryption_key.reveal())[2:-1] not in text
        assert "key" not in text


def test_filters_come_back_without_what_the_process_need_not_know(hosts: SimpleNamespace) -> None:
    table = hosts.make_table(("block", 6, 23), ("negotiate", 0, 0), accept_clear=True)
    frame = messages.encode(messages.filters_message(table.filters))
    request = messages.request_decoder.decode(through(frame))
    assert isinstance(request, messages.InstallFilters)
    nowhere = Provenance("", "", "")
    assert messages.filters_of(request) == tuple(
        replace(entry, provenance=nowhere, weight=0) for entry in table.filters
    )
    assert b"key" not in frame


def test_a_refusal_becomes_the_error_that_it_was() -> None:
    message = messages.refused_message(Reason.of(ReasonCode.NO_SPI, "none left", tries=64))
    reply = messages.reply_decoder.decode(through(messages.encode(message)))
    assert isinstance(reply, messages.Refused)
    with pytest.raises(HostError, match=r"none left \(tries 64\)"):
        messages.raise_refused(reply)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30))
def test_frames_come_out_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(messages.encode(messages.Release(str(number), "10.0.0.1")) for number in range(9))
    frames = messages.Frames()
    found = []
    at = 0
    for cut in [*cuts, len(stream)]:
        found += list(frames.feed(stream[at : at + cut]))
        at += cut
    assert [messages.request_decoder.decode(frame).filter_id for frame in found] == list("012345678")


def test_a_frame_beyond_the_limit_ends_the_stream() -> None:
    with pytest.raises(ValueError, match="frame"):
        list(messages.Frames().feed(b"\xff\xff\xff\xff"))
