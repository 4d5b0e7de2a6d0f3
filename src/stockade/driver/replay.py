"""The anti-replay window of one inbound SA (RFC 4303 §3.4.3), 32 to 4096 packets wide.

    sequence numbers   …  top-size+1 ─────────────── top
    bitmap             bit size-1 ────────────────── bit 0     1 = seen

RFC 6479 spares C implementations the shift of a bitmap over many machine words by a ring of blocks. A Python
integer shifts 4096 bits in one operation that costs less than that ring's bookkeeping, so the bitmap here is
one integer with the same verdicts. Left out: extended sequence numbers (IKEv1 of Windows never negotiates
them).
"""


class ReplayWindow:
    """Which sequence numbers came already. `check` before the integrity check, `accept` after it: a forged
    packet must not move the window."""

    __slots__ = ("_bitmap", "_mask", "size", "top")

    def __init__(self, size: int) -> None:
        """`size` 32–4096 packets, or 0: every sequence number but 0 is accepted."""
        if size and not 32 <= size <= 4096:
            raise ValueError("the replay window holds 32 to 4096 packets, or 0 for none")
        self.size = size
        self.top = 0
        self._bitmap = 0
        self._mask = (1 << size) - 1

    def check(self, sequence: int) -> bool:
        """Whether a packet with this number may be new. Number 0 is never sent (RFC 4303 §3.3.3)."""
        if sequence > self.top:
            return True
        if not self.size:
            return sequence != 0
        behind = self.top - sequence
        return behind < self.size and sequence != 0 and not self._bitmap >> behind & 1

    def accept(self, sequence: int) -> bool:
        """Mark a number as seen; False if it is not new after all (the same packet twice in one batch)."""
        ahead = sequence - self.top
        if ahead > 0:
            if self.size:
                # A jump beyond the window leaves nothing of it; shifting by 2**32 would build a huge integer
                # first.
                self._bitmap = (self._bitmap << ahead | 1) & self._mask if ahead < self.size else 1
            self.top = sequence
            return True
        if not self.check(sequence):
            return False
        self._bitmap |= 1 << -ahead if self.size else 0
        return True
