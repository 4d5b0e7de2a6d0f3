"""Proofs of lost state: a restarted node (or the one that took its address over) shows a peer at once that
the SAs are gone, and nobody else can.

RFC 6290's idea for IKEv2, as a vendor extension of IKEv1 between implementations that announce it:

    quick mode 1, 2    N(39001, ESP, own SPI, token), N(39001, ISAKMP, cookies, token)     under protection
    … the node restarts; a packet with an SPI or cookies that it does not know comes …
    informational      N(39002, ESP, the SPI, proofs) or N(39002, ISAKMP, the cookies, proofs)     in clear
    the peer           compares; equal: the SA's main mode and its pairs go, main mode begins at once

    token = first 16 bytes of HMAC-SHA-256(secret, context | node | generation | local | peer | what)

The secret survives the restart and never leaves the node (or cluster). The *generation* changes with every
start of the agent: a running agent never says tokens of its own generation, so nothing that it can be asked
is a token of an SA that it may have. The addresses bind a token to one pair of hosts, `what` to one SA. A
token is worth one renegotiation of an SA that its maker no longer has; replayed, it names an SA that is gone.

Within a cluster the nodes share the secret, and each proves for the others, of any generation, what comes to
an address that it holds itself; not for a node that lives and holds that address too (behind a balancer, or
while it moves), for that one may still have what is asked about.

What it costs: to receive, a dictionary look-up and comparisons in constant time; to send, a few HMACs behind
a rate limit. Nothing that is not a valid proof changes anything."""

from collections.abc import Collection
from dataclasses import dataclass

from stockade.crypto.hashing import equal, prf
from stockade.model.addresses import Address
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.wire.isakmp.constants import DomainOfInterpretation, NotifyType, ProtocolId
from stockade.wire.isakmp.payloads import NotificationPayload

TOKEN_SIZE = 16
GENERATIONS = 4
"""Generations of which a node may still be asked: the last three, and the one that runs."""
MAXIMUM_NODES = 8
MINIMUM_SECRET = 32
_CONTEXT = b"Stockade token of lost state 1\0"


@dataclass(frozen=True, slots=True)
class RestartSecret:
    """What makes tokens. `node` is this node's name, `others` the names of the nodes that it proves for;
    `generation` counts the starts."""

    secret: Secret
    generation: int
    node: str = ""
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.secret.reveal()) < MINIMUM_SECRET:
            raise ValueError(f"the secret must have {MINIMUM_SECRET} bytes")
        if len(self.others) >= MAXIMUM_NODES or self.node in self.others:
            raise ValueError(f"a cluster has up to {MAXIMUM_NODES} nodes with different names")
        if any(len(name.encode()) > 255 for name in (self.node, *self.others)):
            raise ValueError("a node's name has at most 255 bytes")

    def token(self, what: bytes, local: Address, peer: Address) -> bytes:
        """What is given to a peer under protection: `local` and `peer` as we see them."""
        return self._make(self.node, self.generation % GENERATIONS, what, local, peer)

    def proofs(self, what: bytes, local: Address, peer: Address, but: Collection[str] = ()) -> bytes:
        """Every token that an earlier run of this node, or another node, can have given; never one of this
        run, nor of the nodes `but`."""
        own = self.generation % GENERATIONS
        tokens = [self._make(self.node, number, what, local, peer)
                  for number in range(GENERATIONS) if number != own]  # fmt: skip
        tokens += [self._make(name, number, what, local, peer)
                   for name in self.others if name not in but for number in range(GENERATIONS)]  # fmt: skip
        return b"".join(tokens)

    def _make(self, node: str, generation: int, what: bytes, local: Address, peer: Address) -> bytes:
        name = node.encode()
        data = b"".join(
            (_CONTEXT, bytes((len(name),)), name, bytes((generation, local.version)), local.packed,
             peer.packed, what)
        )  # fmt: skip
        return prf(Hash.SHA_256, self.secret, data)[:TOKEN_SIZE]


def about_pair(spi: int) -> bytes:
    """`spi`: the token giver's inbound one."""
    return b"pair" + spi.to_bytes(4, "big")


def about_mode(cookies: bytes) -> bytes:
    return b"mode" + cookies


def give(what: bytes, token: bytes) -> NotificationPayload:
    return _notification(NotifyType.STOCKADE_TOKEN, what, token)


def show(what: bytes, proofs: bytes) -> NotificationPayload:
    return _notification(NotifyType.STOCKADE_STATE_LOST, what, proofs)


def _notification(kind: NotifyType, what: bytes, data: bytes) -> NotificationPayload:
    spi = what[4:]
    protocol = ProtocolId.ESP if len(spi) == 4 else ProtocolId.ISAKMP
    return NotificationPayload(DomainOfInterpretation.IPSEC, protocol, spi, kind, data)


def given_in(notifications: "list[NotificationPayload]") -> tuple[tuple[bytes, bytes], ...]:
    """The tokens that a peer gives in a quick mode: (its SPI or the cookies, token)."""
    return tuple(
        (entry.spi, entry.data)
        for entry in notifications
        if entry.type == NotifyType.STOCKADE_TOKEN
        and len(entry.data) == TOKEN_SIZE
        and len(entry.spi) in (4, 16)
    )[:3]


def proves(notification: NotificationPayload, token: bytes | None) -> bool:
    """Whether the token that was given stands among what is shown. Compares all, in constant time each."""
    data = notification.data
    if (
        token is None
        or not data
        or len(data) % TOKEN_SIZE
        or len(data) > TOKEN_SIZE * GENERATIONS * MAXIMUM_NODES
    ):
        return False
    found = False
    for at in range(0, len(data), TOKEN_SIZE):
        found |= equal(data[at : at + TOKEN_SIZE], token)
    return found
