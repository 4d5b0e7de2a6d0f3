"""The anti-replay window of one inbound SA (RFC 4303 §3.4.3), 32 to 4096 packets wide.

    sequence numbers   …  top-size+1 ─────────────── top
    bitmap             bit size-1 ────────────────── bit 0     1 = seen

RFC 6479 spares C implementations the shift of a bitmap over many machine words by a ring of blocks. A Python
integer shifts 4096 bits in one operation that costs less than that ring's bookkeeping, so the bitmap here is
one integer with the same verdicts.

Extended sequence numbers (RFC 4303 §2.2.1): packets carry the lower 32 bits, and `number_of` finds the upper
ones as appendix A2.2 says, from where the window stands:

    A  the window lies in one space of 2^32       B  it begins in the space before
       |------[bottom ... top]------|                |[... top]--------------[bottom ...|
       below bottom: the next space                  bottom and above: the space before

So a packet may be up to 2^32 - size ahead; numbers that begin anew after 2^32 need no more care. Left out:
getting in step again after 2^32 packets lost in a row (A3): by then the SA has long been found silent.
"""


class ReplayWindow:
    """Which sequence numbers came already. `check` before the integrity check, `accept` after it: a forged
    packet must not move the window."""

    __slots__ = ("_bitmap", "_mask", "extended", "size", "top")

    def __init__(self, size: int, *, extended: bool = False) -> None:
        """`size` 32–4096 packets, or 0: every sequence number but 0 is accepted. `extended`: numbers have 64
        bits."""
        if (size or extended) and not 32 <= size <= 4096:
            raise ValueError("the replay window holds 32 to 4096 packets, or 0 for none")
        self.size = size
        self.extended = extended
        self.top = 0
        self._bitmap = 0
        self._mask = (1 << size) - 1

    def number_of(self, lower: int) -> int:
        """The whole number of a packet that carries these 32 bits: what `check`, the integrity check and
        `accept` are about. 0, which nobody sends, for one from before the first packet."""
        if not self.extended:
            return lower
        higher, top = self.top & ~0xFFFF_FFFF, self.top & 0xFFFF_FFFF
        bottom = top - self.size + 1
        if bottom >= 0:
            return higher + lower if lower >= bottom else higher + lower + (1 << 32)
        if lower < bottom + (1 << 32):
            return higher + lower
        return higher - (1 << 32) + lower if higher else 0

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
