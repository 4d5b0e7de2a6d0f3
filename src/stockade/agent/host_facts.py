"""What a host knows of itself, read from the system: addresses, default gateways, DNS, WINS and DHCP servers.

| fact | from |
| --- | --- |
| addresses, with subnet and kind of interface | rtnetlink; PPP is dial-up, everything else is LAN |
| default gateways | rtnetlink: default routes of the main table |
| DNS servers | resolv.conf; behind a resolver of this host, what systemd-resolved or NetworkManager use |
| DHCP and WINS servers | the newest lease of each interface: systemd-networkd, NetworkManager, dhclient |

`agent.toml` can give any of the servers in place of what is found (`HostSettings`). A file that is not there
or cannot be read says nothing. What a DHCP server says is as trustworthy as DHCP: the same as in Windows.
"""

import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from stockade.driver.netlink import NetlinkSocket
from stockade.model.addresses import Address
from stockade.policy.facts import HostFacts, LocalAddress
from stockade.policy.objects import ConnectionType
from stockade.wire import rtnetlink

MAXIMUM_FILE = 1 << 20
MAXIMUM_SERVERS = 64
"""Of one kind: a file that names more is not believed beyond that."""

_MAIN_TABLE = 254
_DIAL_UP = frozenset({512, 256, 257, 258, 259})  # ARPHRD_PPP, SLIP and its kin
_OPTION = re.compile(
    r"^\s*option\s+(?P<name>dhcp-server-identifier|netbios-name-servers)\s+(?P<value>[^;]*);"
)


@dataclass(frozen=True, slots=True)
class HostSettings:
    """`[host]` of `agent.toml`: servers to use in place of those that are found; None: look."""

    dns_servers: tuple[Address, ...] | None = None
    wins_servers: tuple[Address, ...] | None = None
    dhcp_servers: tuple[Address, ...] | None = None
    gateways: tuple[Address, ...] | None = None


@dataclass(frozen=True, slots=True)
class SystemFiles:
    """Where the system keeps what is read here; another root for tests."""

    root: Path = field(default_factory=lambda: Path("/"))

    @property
    def resolver(self) -> tuple[Path, ...]:
        """In the order in which they are asked."""
        names = (
            "etc/resolv.conf",
            "run/systemd/resolve/resolv.conf",
            "run/NetworkManager/no-stub-resolv.conf",
        )
        return tuple(self.root / name for name in names)

    def leases(self) -> Iterator[Path]:
        for folder, pattern in (
            ("run/systemd/netif/leases", "*"),
            ("var/lib/NetworkManager", "internal-*.lease"),
            ("var/lib/NetworkManager", "dhclient-*.lease"),
            ("var/lib/dhcp", "dhclient*.leases"),
            ("var/lib/dhclient", "dhclient*.leases"),
        ):
            yield from sorted((self.root / folder).glob(pattern))

    def state(self) -> tuple[tuple[str, int, int], ...]:
        """Differs when one of the files changed."""
        found = []
        for path in (*self.resolver, *self.leases()):
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((str(path), status.st_mtime_ns, status.st_size))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Servers:
    """What the files say."""

    dns: tuple[Address, ...] = ()
    wins: tuple[Address, ...] = ()
    dhcp: tuple[Address, ...] = ()


def read_servers(files: SystemFiles) -> Servers:
    wins: list[Address] = []
    dhcp: list[Address] = []
    for path in files.leases():
        more_dhcp, more_wins = read_lease(_text(path))
        dhcp += more_dhcp
        wins += more_wins
    return Servers(_dns_servers(files), _some(wins), _some(dhcp))


def _dns_servers(files: SystemFiles) -> tuple[Address, ...]:
    """The servers that questions of this host go to in the end: a resolver of its own asks others."""
    for path in files.resolver:
        servers = name_servers(_text(path))
        beyond = tuple(server for server in servers if not server.is_loopback)
        if beyond:
            return _some(beyond)
    return ()


def name_servers(text: str) -> tuple[Address, ...]:
    """The `nameserver` lines of a resolv.conf (resolv.conf(5)); what is no address is passed over."""
    words = (line.split() for line in text.splitlines())
    return _addresses(line[1] for line in words if len(line) > 1 and line[0] == "nameserver")


def read_lease(text: str) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """DHCP server and WINS servers of a lease file: `KEY=value` lines (systemd, NetworkManager), or the
    declarations of dhclient.leases(5), of which the last one of each interface counts."""
    dhcp: dict[str, tuple[Address, ...]] = {}
    wins: dict[str, tuple[Address, ...]] = {}
    interface = ""
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key in ("SERVER_ADDRESS", "NETBIOS_NAME_SERVERS"):
            into = dhcp if key == "SERVER_ADDRESS" else wins
            into[""] = _addresses(value.replace(",", " ").split())
            continue
        if line.startswith("lease"):
            interface = ""
        elif line.strip().startswith("interface "):
            interface = line.split('"')[1] if line.count('"') == 2 else ""
            dhcp.pop(interface, None)
            wins.pop(interface, None)
        elif (found := _OPTION.match(line)) is not None:
            into = dhcp if found["name"].startswith("dhcp") else wins
            into[interface] = _addresses(found["value"].replace(",", " ").split())
    return (
        tuple(one for servers in dhcp.values() for one in servers),
        tuple(one for servers in wins.values() for one in servers),
    )


def read_host_facts(files: SystemFiles, settings: HostSettings) -> HostFacts:
    """Everything but names. `HostError` where the kernel does not answer."""
    servers = read_servers(files)
    netlink = NetlinkSocket()
    try:
        facts = HostFacts(
            addresses=_local_addresses(netlink),
            dns_servers=servers.dns,
            wins_servers=servers.wins,
            dhcp_servers=servers.dhcp,
            gateways=_gateways(netlink),
        )
    finally:
        netlink.close()
    given = {
        name: value
        for name in ("dns_servers", "wins_servers", "dhcp_servers", "gateways")
        if (value := getattr(settings, name)) is not None
    }
    return replace(facts, **given)


def present_addresses() -> set[Address]:
    """The host's addresses and nothing else, for who must know at once. `HostError` as above."""
    netlink = NetlinkSocket()
    try:
        return {one.address for one in _local_addresses(netlink)}
    finally:
        netlink.close()


def _local_addresses(netlink: NetlinkSocket) -> tuple[LocalAddress, ...]:
    links = netlink.dump(rtnetlink.MessageType.GET_LINK, rtnetlink.get_links())
    kinds = dict(rtnetlink.decode_link_type(answer.body) for answer in links)
    answers = netlink.dump(rtnetlink.MessageType.GET_ADDRESS, rtnetlink.get_addresses())
    found = []
    for entry in (rtnetlink.decode_address(answer.body) for answer in answers):
        if entry is not None and not entry.address.is_loopback:
            dial_up = kinds.get(entry.interface) in _DIAL_UP
            connection = ConnectionType.DIALUP if dial_up else ConnectionType.LAN
            found.append(LocalAddress(entry.address, entry.prefix_length, connection))
    return tuple(sorted(found, key=lambda one: (one.address.version, int(one.address))))


def _gateways(netlink: NetlinkSocket) -> tuple[Address, ...]:
    found: list[Address] = []
    for version in (4, 6):
        for answer in netlink.dump(rtnetlink.MessageType.GET_ROUTE, rtnetlink.get_routes(version)):
            if answer.type == rtnetlink.MessageType.NEW_ROUTE:
                found += rtnetlink.decode_gateways(answer.body, _MAIN_TABLE)
    return _some(found)


def source_address(peer: Address) -> Address | None:
    """Our address on the way to a peer; None where there is no way. Sends nothing."""
    family = socket.AF_INET if peer.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((str(peer), 500))
            return ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None


def _addresses(words: Iterable[str]) -> tuple[Address, ...]:
    found = []
    for word in words:
        try:
            found.append(ip_address(word.strip().partition("%")[0]))
        except ValueError:
            continue
    return tuple(found)


def _some(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(addresses))[:MAXIMUM_SERVERS]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAXIMUM_FILE).decode("utf-8", "replace")
    except OSError:
        return ""
