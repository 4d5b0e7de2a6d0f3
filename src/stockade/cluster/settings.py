"""What an administrator says of a cluster."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from stockade.model.addresses import Address
from stockade.model.secret import Secret

DEFAULT_PORT = 4550
MAXIMUM_MEMBERS = 32  # as many as Network Load Balancing has
MAXIMUM_ADDRESSES = 64
LEAST_SECRET = 16
_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """`addresses`: the virtual ones. `members`: every node's own address, this one's too, by name. `secret`:
    what authenticates their messages, the same on all nodes. `hook`: the command (and its arguments) that is
    run when a peer comes that belongs to another node. ValueError says what does not fit."""

    node: str
    addresses: tuple[Address, ...]
    members: Mapping[str, Address] = field(default_factory=dict)
    secret: Secret = field(default_factory=lambda: Secret(b""))
    port: int = DEFAULT_PORT
    hook: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.addresses) <= MAXIMUM_ADDRESSES:
            raise ValueError(f"addresses must name 1 to {MAXIMUM_ADDRESSES} virtual addresses")
        if len(self.members) > MAXIMUM_MEMBERS:
            raise ValueError(f"members must be at most {MAXIMUM_MEMBERS}")
        for name in (self.node, *self.members):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a node: up to 63 letters, digits, '.', '_' and '-'")
        if self.members and self.node not in self.members:
            raise ValueError(f"members does not name this node, {self.node}")
        if len(set(self.members.values())) != len(self.members):
            raise ValueError("two members have the same address")
        if set(self.members.values()) & set(self.addresses):
            raise ValueError("a virtual address cannot be a member's own")
        if len(self.members) > 1 and len(self.secret) < LEAST_SECRET:
            raise ValueError(f"the secret must have at least {LEAST_SECRET} bytes")
        if not 1 <= self.port <= 65_535 or self.port in (500, 4500):
            raise ValueError("port must be from 1 to 65535, and neither 500 nor 4500")

    @property
    def others(self) -> dict[str, Address]:
        """The other nodes."""
        return {name: address for name, address in self.members.items() if name != self.node}
