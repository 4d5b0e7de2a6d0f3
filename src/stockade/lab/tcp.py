"""A small TCP for virtual hosts (RFC 9293 segments, a subset of its behaviour), on virtual time.

It is good enough to move a file over a network that loses, duplicates and reorders: cumulative
acknowledgements, a store for early segments, repetition after three equal acknowledgements and after a
time-out that doubles, orderly close, reset. It leaves out what a laboratory does not need: window scaling,
selective acknowledgements, congestion control (the window is fixed), urgent data, keepalives, simultaneous
open, and the careful parts of RFC 5961.

    connect ──SYN──▶            Connection states: opening ─▶ open ─▶ closed
            ◀─SYN/ACK──  listen     (`failed` says why where it did not end well)
            ──ACK──▶
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from stockade.lab.virtual import Timer, VirtualClock
from stockade.wire.transport import TcpFlag

MAXIMUM_SEGMENT = 1360
"""Bytes of data in a segment: leaves room for ESP, its IV, padding and ICV in 1500."""
WINDOW_BYTES = 65_535
EARLY_SEGMENTS = 256
FIRST_TIMEOUT = 0.25
MAXIMUM_TIMEOUT = 4.0
ATTEMPTS = 12
LINGER_SECONDS = 10.0
SEQUENCES = 1 << 32


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment. Sequence numbers are 32-bit, `window` is in bytes."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgement: int
    flags: int
    window: int = WINDOW_BYTES
    data: bytes = b""


class State(Enum):
    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


def _nothing() -> None:
    return None


def _ignore(data: bytes) -> None:
    return None


class Connection:
    """One end of a stream. `transmit` takes its segments; `forget` is called when the connection may be
    forgotten.

    Callbacks, to be set by the user: `on_open`, `on_data(bytes)` in order and once, `on_end` (the peer has no
    more to say), `on_closed` (nothing more will happen; look at `failed`)."""

    def __init__(
        self,
        clock: VirtualClock,
        local_port: int,
        remote_port: int,
        first_sequence: int,
        transmit: Callable[[Segment], None],
        forget: Callable[[], None],
    ) -> None:
        self.local_port, self.remote_port = local_port, remote_port
        self.state = State.OPENING
        self.failed: str | None = None
        self.on_open: Callable[[], None] = _nothing
        self.on_data: Callable[[bytes], None] = _ignore
        self.on_end: Callable[[], None] = _nothing
        self.on_closed: Callable[[], None] = _nothing
        self.repeated = 0
        self._clock, self._transmit, self._forget = clock, transmit, forget
        # Positions count from 0 (the SYN) and never wrap; only segments carry 32-bit sequence numbers.
        self._first = first_sequence
        self._unacknowledged = 0
        self._next = 0
        self._buffer = bytearray()  # data from position max(1, _unacknowledged) on
        self._end_position: int | None = None  # where our FIN stands, once there is no more to say
        self._peer_window = WINDOW_BYTES
        self._same_acknowledgements = 0
        self._recover = 0
        self._peer_first = 0
        self._expected = 0
        self._early: dict[int, bytes] = {}
        self._peer_end: int | None = None
        self._peer_ended = False
        self._timer: Timer | None = None
        self._timeout = FIRST_TIMEOUT
        self._attempts = 0
        self._syn: int = TcpFlag.SYN

    # ---- the user's side ----

    def open(self) -> None:
        """Begin as the client."""
        self._send_syn()

    def accept(self, segment: Segment) -> None:
        """Begin as the server that received this SYN."""
        self._take_syn(segment)
        self._syn = TcpFlag.SYN | TcpFlag.ACK
        self._send_syn()

    def send(self, data: bytes) -> None:
        """Queue data; it goes out as the window allows."""
        if self._end_position is not None:
            raise ValueError("the connection was closed for sending")
        self._buffer += data
        self._send_more()

    def close(self) -> None:
        """No more to say: the FIN follows the data."""
        if self._end_position is None:
            self._end_position = self._data_base() + len(self._buffer)
            self._send_more()

    def abort(self, why: str) -> None:
        """Give up at once, with a reset for the peer."""
        if self.state is not State.CLOSED:
            self._emit(TcpFlag.RST | TcpFlag.ACK, self._next)
            self._finish(why)

    # ---- the network's side ----

    def receive(self, segment: Segment) -> None:
        """A segment for this connection came."""
        if self.state is State.CLOSED:
            if segment.flags & TcpFlag.FIN:  # our last acknowledgement was lost
                self._emit(TcpFlag.ACK, self._next)
            return
        if segment.flags & TcpFlag.RST:
            if self.state is State.OPEN or segment.flags & TcpFlag.ACK:
                self._finish("refused" if self.state is State.OPENING else "reset by the peer")
            return
        if segment.flags & TcpFlag.SYN:
            self._receive_syn(segment)
        if self.state is State.OPENING and not (
            segment.flags & TcpFlag.ACK and self._position(segment.acknowledgement, self._first, 0) == 1
        ):
            return
        self._take_acknowledgement(segment)
        if segment.data or segment.flags & TcpFlag.FIN:
            self._take_data(segment)
        self._finish_if_done()

    def _receive_syn(self, segment: Segment) -> None:
        if self._expected == 0:
            self._take_syn(segment)
            self._syn = TcpFlag.ACK
        elif self.state is State.OPEN:
            self._emit(TcpFlag.ACK, self._next)  # a repeated SYN/ACK: our answer was lost

    def _take_syn(self, segment: Segment) -> None:
        self._peer_first = segment.sequence
        self._expected = 1

    def _take_acknowledgement(self, segment: Segment) -> None:
        if not segment.flags & TcpFlag.ACK:
            return
        position = self._position(segment.acknowledgement, self._first, self._unacknowledged)
        if position > self._next:
            return
        self._peer_window = max(segment.window, MAXIMUM_SEGMENT)
        if position > self._unacknowledged:
            was_opening = self.state is State.OPENING
            self._drop_acknowledged(position)
            if was_opening:
                self.state = State.OPEN
                if self._syn == TcpFlag.ACK:
                    self._emit(TcpFlag.ACK, self._next)
                self.on_open()
            elif position < self._recover:
                self._repeat()  # a hole follows the one that was just filled
            self._send_more()
        elif position == self._unacknowledged < self._next and not segment.data:
            self._same_acknowledgements += 1
            if self._same_acknowledgements == 3 and position >= self._recover:
                self._recover = self._next
                self._repeat()

    def _drop_acknowledged(self, position: int) -> None:
        base = self._data_base()
        del self._buffer[: max(0, position - base)]
        self._unacknowledged = position
        self._same_acknowledgements = 0
        self._attempts = 0
        self._timeout = FIRST_TIMEOUT
        self._set_timer()

    def _take_data(self, segment: Segment) -> None:
        position = self._position(segment.sequence, self._peer_first, self._expected)
        end = position + len(segment.data)
        if segment.flags & TcpFlag.FIN:
            self._peer_end = end
        room = position <= self._expected or len(self._early) < EARLY_SEGMENTS
        if segment.data and end > self._expected and room:
            kept = self._early.get(position, b"")
            self._early[position] = max(kept, segment.data, key=len)
        self._deliver_in_order()
        if self._peer_end == self._expected and not self._peer_ended:
            self._peer_ended = True
            self._expected += 1
            self._emit(TcpFlag.ACK, self._next)
            self.on_end()
        else:
            self._emit(TcpFlag.ACK, self._next)

    def _deliver_in_order(self) -> None:
        while True:
            ready = [at for at in self._early if at <= self._expected]
            if not ready:
                return
            at = min(ready)
            data = self._early.pop(at)[self._expected - at :]
            if data:
                self._expected += len(data)
                self.on_data(data)

    # ---- sending ----

    def _send_syn(self) -> None:
        self._transmit(
            Segment(
                self.local_port,
                self.remote_port,
                self._first,
                self._acknowledgement(),
                self._syn,
                WINDOW_BYTES,
            )
        )
        self._next = max(self._next, 1)
        self._set_timer()

    def _send_more(self) -> None:
        if self.state is not State.OPEN:
            return
        limit = self._unacknowledged + min(self._peer_window, WINDOW_BYTES)
        end = self._data_base() + len(self._buffer)
        while self._next < end and self._next < limit:
            self._next += self._send_from(self._next, min(limit, end))
        if self._end_position is not None and self._next == self._end_position:
            self._emit(TcpFlag.FIN | TcpFlag.ACK, self._next)
            self._next += 1
        if self._timer is None:
            self._set_timer()

    def _send_from(self, position: int, limit: int) -> int:
        """Send one segment of data from `position`; how many bytes it holds."""
        offset = position - self._data_base()
        data = bytes(self._buffer[offset : offset + min(MAXIMUM_SEGMENT, limit - position)])
        self._emit(TcpFlag.ACK | TcpFlag.PSH, position, data)
        return len(data)

    def _repeat(self) -> None:
        """Send the first unacknowledged segment once more."""
        self.repeated += 1
        if self._unacknowledged == 0:
            self._send_syn()
        elif self._unacknowledged == self._end_position:
            self._emit(TcpFlag.FIN | TcpFlag.ACK, self._unacknowledged)
        else:
            self._send_from(self._unacknowledged, min(self._next, self._data_base() + len(self._buffer)))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unacknowledged < self._next:
            self._timer = self._clock.call_later(self._timeout, self._on_timeout)

    def _on_timeout(self) -> None:
        self._timer = None
        if self.state is State.CLOSED:
            return
        self._attempts += 1
        if self._attempts > ATTEMPTS:
            self._finish("unanswered")
            return
        self._timeout = min(self._timeout * 2, MAXIMUM_TIMEOUT)
        self._recover = self._next
        self._repeat()
        self._set_timer()

    def _emit(self, flags: int, position: int, data: bytes = b"") -> None:
        self._transmit(
            Segment(
                self.local_port,
                self.remote_port,
                (self._first + position) % SEQUENCES,
                self._acknowledgement(),
                flags,
                WINDOW_BYTES,
                data,
            )
        )

    # ---- positions ----

    def _data_base(self) -> int:
        return max(1, self._unacknowledged)

    def _acknowledgement(self) -> int:
        return (self._peer_first + self._expected) % SEQUENCES if self._expected else 0

    @staticmethod
    def _position(sequence: int, first: int, near: int) -> int:
        """The position of a 32-bit sequence number, the one nearest to `near`."""
        difference = (sequence - first - near) % SEQUENCES
        return near + (difference if difference < SEQUENCES // 2 else difference - SEQUENCES)

    # ---- the end ----

    def _finish_if_done(self) -> None:
        ours_done = self._end_position is not None and self._unacknowledged > self._end_position
        if self.state is State.OPEN and ours_done and self._peer_ended:
            self._finish(None)

    def _finish(self, why: str | None) -> None:
        self.state = State.CLOSED
        self.failed = why
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Kept for a while, so that a repeated FIN finds somebody who acknowledges it.
        self._clock.call_later(LINGER_SECONDS if why is None else 0.0, self._forget)
        self.on_closed()
