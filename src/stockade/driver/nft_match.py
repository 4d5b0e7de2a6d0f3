"""Traffic in the words of nftables (nft(8), "Expressions"): what the filters of the user-space data plane and
the boot filters have in common. Light to import: the boot filters come before everything else."""

from stockade.model.addresses import AddressRange
from stockade.model.traffic import TrafficSelector


def match_of(selector: TrafficSelector) -> str:
    """`meta nfproto ipv4 ip daddr 10.0.0.0/8 …`: a packet of this traffic."""
    family = "ip" if selector.version == 4 else "ip6"
    parts = [f"meta nfproto ipv{selector.version}"]
    parts += [
        f"{family} {name} {addresses_of(addresses)}"
        for name, addresses in (("saddr", selector.source), ("daddr", selector.destination))
        if not addresses.is_everything
    ]
    if selector.protocol:
        parts.append(f"meta l4proto {selector.protocol}")
    if selector.source_port:
        parts.append(f"th sport {selector.source_port}")
    if selector.destination_port:
        parts.append(f"th dport {selector.destination_port}")
    return " ".join(parts)


def addresses_of(addresses: AddressRange) -> str:
    """A host, a network, or first-last."""
    if addresses.is_host or addresses.prefix_length is not None:
        return str(addresses)
    return f"{addresses.first}-{addresses.last}"
