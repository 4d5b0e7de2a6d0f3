"""Clients behind a NAT, for tests with real packets.

one  10.77.0.2 ─┐
                ├─ switch ── 10.77.0.1  nat  203.0.113.1 ── 203.0.113.2  outside
two  10.77.0.3 ─┘            (nftables: masquerade, so ports are chosen anew)
"""

from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType
from typing import Self

from stockade.lab.netns import Namespace, Network

ONE, TWO, INSIDE = "10.77.0.2", "10.77.0.3", "10.77.0.1"
PUBLIC, OUTSIDE = "203.0.113.1", "203.0.113.2"
OUTER_INTERFACE = "wan0"

_RULES = """\
table ip lab {
    chain translate {
        type nat hook postrouting priority srcnat; policy accept;
        oifname "%s" ip protocol udp masquerade to :%s
        oifname "%s" masquerade
    }
}
"""


class NatWorld:
    """The namespaces `one`, `two`, `nat`, `outside`, a context manager."""

    def __init__(self) -> None:
        hosts = {"one": f"{ONE}/24", "two": f"{TWO}/24", "nat": f"{INSIDE}/24"}
        self.network = Network({name: ip_interface(address) for name, address in hosts.items()})
        self.outside = Namespace("outside")

    def __enter__(self) -> Self:
        self.network.__enter__()
        try:
            self.outside.create()
            self.nat.ip(
                f"link add {OUTER_INTERFACE} type veth peer name eth0 netns {self.outside.full_name}",
                f"address add {PUBLIC}/24 dev {OUTER_INTERFACE}",
                f"link set {OUTER_INTERFACE} up",
            )
            self.outside.ip(f"address add {OUTSIDE}/24 dev eth0", "link set eth0 up")
            for client in (self.one, self.two):
                client.ip(f"route add default via {INSIDE}")
            self.nat.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n", encoding="ascii"))
            self.translate("20000-29999")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.outside.remove()
        self.network.close()

    @property
    def one(self) -> Namespace:
        return self.network["one"]

    @property
    def two(self) -> Namespace:
        return self.network["two"]

    @property
    def nat(self) -> Namespace:
        return self.network["nat"]

    def translate(self, ports: str) -> None:
        """Translate from now on, UDP to these ports outside; what was translated before is forgotten, as by a
        NAT that was restarted."""
        rules = _RULES % (OUTER_INTERFACE, ports, OUTER_INTERFACE)
        flush = "table ip lab {\n}\ndelete table ip lab\n"
        self.nat.run(["nft", "-f", "-"], input_text=flush + rules)
        # Deleting a translation makes the kernel forget its flows in no hurry; an address that goes, at once.
        self.nat.ip(
            f"address delete {PUBLIC}/24 dev {OUTER_INTERFACE}",
            f"address add {PUBLIC}/24 dev {OUTER_INTERFACE}",
        )
