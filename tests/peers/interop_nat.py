"""The NAT of the trials: which addresses it has, what it puts in whose place, and how it forgets."""

import os
import socket
import struct
from pathlib import Path

from interop_cases import CASES, NAT_INSIDE, NAT_OUTSIDE, NAT_THEIRS, OURS, PEERS, Case

from stockade.lab.needs import find_program
from stockade.lab.netns import Namespace, Network

MAPPED = range(20_000, 30_000)
MAPPED_ANEW = range(30_000, 40_000)
"""Ports outside, at first and after `change_mapping`."""


def address_nat(network: Network) -> None:
    """We reach 10.9.3.0/24 through the NAT, which puts its own address in the place of ours; peers with an
    address in 10.8.3.0/24 reach us through it, which puts the case's public address there."""
    network["ours"].ip(f"route add 10.9.3.0/24 via {NAT_INSIDE}")
    public = [
        (case.own_address(peer, "responder"), case.address(peer, "responder"))
        for case in CASES
        for peer in PEERS
        if case.nat
    ]
    nat = network["nat"]
    nat.ip(
        f"address add {NAT_OUTSIDE}/24 dev eth0",
        f"address add {NAT_THEIRS}/24 dev eth0",
        *(f"address add {address}/24 dev eth0" for _, address in public),
    )
    settings = {"ip_forward": 1, "conf/all/send_redirects": 0, "conf/eth0/send_redirects": 0}

    def set_up() -> None:
        for name, value in settings.items():
            Path("/proc/sys/net/ipv4", name).write_text(f"{value}\n", encoding="ascii")

    nat.call(set_up)
    translate(nat, [("daddr 10.9.3.0/24", NAT_OUTSIDE), *((f"saddr {own}", to) for own, to in public)])


def translate(nat: Namespace, rules: list[tuple[str, str]]) -> None:
    """Put another source into UDP packets that match, and other ports. By nftables, but where their kernel
    part knows no IP."""
    if "STOCKADE_IN_UML" in os.environ:
        for match, to in rules:
            end, address = match.split()
            words = ["-d" if end == "daddr" else "-s", address, "-p", "udp", "-j", "SNAT"]
            words += ["--to", f"{to}:{_ports(MAPPED)}"]
            nat.run(["iptables-legacy", "-t", "nat", "-A", "POSTROUTING", *words])
        return
    nft = find_program("nft")
    assert nft is not None
    lines = [f"ip {match} meta l4proto udp snat to {to}:{_ports(MAPPED)}" for match, to in rules]
    hook = "type nat hook postrouting priority srcnat; policy accept;"
    script = "\n".join(["table ip trial {", "chain translate {", hook, *lines, "}", "}", ""])
    nat.run([nft, "-f", "-"], input_text=script)


def change_mapping(nat: Namespace, case: Case, peer: str, role: str) -> None:
    """Give the end behind the NAT other ports from now on, for what is under way too: what it sends and gets
    is in a zone of connection tracking of its own, where nothing is known yet. Where there are no zones the
    NAT forgets all that is under way."""
    own = case.own_address(peer, role)
    inside, outside, far = (
        (OURS, NAT_OUTSIDE, own) if role == "initiator" else (own, case.address(peer, role), OURS)
    )
    ports = _ports(MAPPED_ANEW)
    if "STOCKADE_IN_UML" in os.environ:
        rule = ["-s", inside, "-d", far, "-p", "udp", "-j", "SNAT"]
        nat.run(["iptables-legacy", "-t", "nat", "-I", "POSTROUTING", *rule, "--to", f"{outside}:{ports}"])
        nat.call(_forget_all)
        return
    nft = find_program("nft")
    assert nft is not None
    script = f"""\
table ip trial {{
    chain zones {{
        type filter hook prerouting priority raw; policy accept;
        ip saddr {inside} ip daddr {far} ct zone set 7
        ip saddr {far} ip daddr {outside} ct zone set 7
    }}
}}
insert rule ip trial translate ip saddr {inside} ip daddr {far} meta l4proto udp snat to {outside}:{ports}
"""
    nat.run([nft, "-f", "-"], input_text=script)


def _forget_all() -> None:
    """Of this namespace: IPCTNL_MSG_CT_DELETE with no flow named (linux/nfnetlink_conntrack.h)."""
    netfilter, delete, request_and_answer = 12, 1 << 8 | 2, 0x5
    message = struct.pack("=IHHIIBBH", 20, delete, request_and_answer, 1, 0, socket.AF_INET, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netfilter) as connection:
        connection.settimeout(30)
        connection.send(message)
        (error,) = struct.unpack("=i", connection.recv(4096)[16:20])
    assert error == 0, os.strerror(-error)


def _ports(ports: range) -> str:
    return f"{ports[0]}-{ports[-1]}"
