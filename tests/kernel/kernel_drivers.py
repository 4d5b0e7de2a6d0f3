"""The kernel's driver alone, without an agent: for the scenarios of kernel_scenarios.py."""

import itertools
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from types import MappingProxyType, SimpleNamespace

from kernel_world import ALPHA6, BETA6, World, eventually, xfrm

from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.driver.kernel.driver import KernelDriver
from stockade.driver.netlink import NetlinkSocket
from stockade.lab.netns import Namespace
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import AH, ESP, TrafficSelector
from stockade.policy.specific import make_filter
from stockade.wire import xfrm as xfrm_wire
from stockade.wire import xfrm_layout
from stockade.wire.netlink import encode_attributes


class Here:
    """A driver whose every call happens in its namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.driver = namespace.call(KernelDriver)
        self.seen: list[object] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *arguments, **words: self.namespace.call(
            lambda: getattr(self.driver, name)(*arguments, **words)
        )

    def wait_for(self, kind: type, seconds: float = 6.0, **fields: object) -> object:
        def found() -> object:
            self.seen += self.events()
            return next(
                (
                    event
                    for event in self.seen
                    if isinstance(event, kind)
                    and all(getattr(event, name) == value for name, value in fields.items())
                ),
                None,
            )

        event = eventually(found, seconds)
        assert event is not None, self.seen
        self.seen.remove(event)
        return event


@contextmanager
def two_drivers(world: World) -> Iterator[tuple[Here, Here]]:
    drivers = Here(world.alpha), Here(world.beta)
    try:
        for driver in drivers:
            driver.start()
        yield drivers
    finally:
        for driver in drivers:
            driver.stop()
    for driver in drivers:
        # what the kernel itself put there while it waited for an SA goes after 3 s
        assert eventually(lambda space=driver.namespace: xfrm(space, "state") == [])
        assert xfrm(driver.namespace, "policy") == []


def table_of(
    local: str, peer: str, protocol: int, proposal: QuickModeProposal, **options: bool
) -> FilterTable:
    negotiation = Negotiation(
        "local/test/rule",
        MainModePolicy(),
        QuickModePolicy((proposal,), mode=Mode.TRANSPORT),
        (PresharedKey(Secret(b"x")),),
    )
    selector = TrafficSelector(AddressRange.host(local), AddressRange.host(peer), protocol)
    provenance = Provenance("local", "test", "rule")
    return FilterTable(
        tuple(
            make_filter(
                selector if direction is Direction.OUTBOUND else selector.reversed(),
                direction,
                Action.NEGOTIATE,
                1,
                provenance,
                negotiation=negotiation.name,
                **options,
            )
            for direction in (Direction.OUTBOUND, Direction.INBOUND)
        ),
        MappingProxyType({negotiation.name: negotiation}),
    )


def sas_of(
    one: str,
    other: str,
    protocol: int,
    proposal: QuickModeProposal | SimpleNamespace,
    spi: int,
    **fields: object,
) -> tuple[SecurityAssociation, SecurityAssociation]:
    """One direction, as its receiver and as its sender have it."""
    esp, ah = proposal.esp, proposal.ah
    size = encryption_algorithm(esp.encryption).keymat_size if esp else 0
    integrity = esp.integrity if esp else ah
    common = dict(
        spi=spi,
        source=ip_address(one),
        destination=ip_address(other),
        selector=TrafficSelector(AddressRange.host(one), AddressRange.host(other), protocol),
        mode=fields.pop("mode", Mode.TRANSPORT),
        esp=esp,
        ah=ah,
        encryption_key=Secret(bytes(range(spi % 7, spi % 7 + size))),
        integrity_key=Secret(bytes(hash_algorithm(integrity).integrity_key_size) if integrity else b""),
        pair=spi ^ 1,
        negotiation="local/test/rule",
        filter_id="00" * 8,
        main_mode="",
        **fields,
    )
    return SecurityAssociation(direction=Direction.INBOUND, **common), SecurityAssociation(
        direction=Direction.OUTBOUND, **common
    )


def secure(
    alpha: Here,
    beta: Here,
    ends: tuple[str, str],
    protocol: int,
    proposal: QuickModeProposal,
    **fields: object,
) -> tuple[int, int]:
    """SAs in both directions, inbound first; the SPIs of alpha -> beta and of beta -> alpha."""
    one, other = ends
    forth, back = 0x1000, 0x1001
    to_beta = sas_of(one, other, protocol, proposal, forth, **fields)
    to_alpha = sas_of(other, one, protocol, proposal, back, **fields)
    beta.add_sa(to_beta[0])
    alpha.add_sa(to_alpha[0])
    beta.add_sa(to_alpha[1])
    alpha.add_sa(to_beta[1])
    return forth, back


SUITES = [
    QuickModeProposal(EspSuite(encryption, None if encryption.is_aead else integrity))
    for encryption, integrity in zip(
        Encryption,
        itertools.cycle((Hash.SHA1, Hash.SHA_256, Hash.SHA_512, Hash.MD5, Hash.SHA_384)),
        strict=False,
    )
] + [QuickModeProposal(ah=Hash.SHA_256)]


def know_the_neighbours(world: World) -> None:
    """Neighbour discovery is ICMPv6 too: a real table exempts it, here the neighbours are given."""
    for one, other, address in ((world.alpha, world.beta, BETA6), (world.beta, world.alpha, ALPHA6)):
        link = other.run(["cat", "/sys/class/net/eth0/address"], check=False).stdout.strip()
        if not link:
            text = other.run(["ip", "-brief", "link", "show", "eth0"]).stdout
            link = re.search(r"(\w\w:){5}\w\w", text)[0]
        one.ip(f"neighbour replace {address} lladdr {link} dev eth0 nud permanent")


BEFORE_THE_WRAP = (1 << 32) - 3


def set_numbers(driver: Here, sa: SecurityAssociation, used: int) -> None:
    """As if so many packets had passed (XFRM_MSG_NEWAE; the driver has no use for it)."""
    protocol = ESP if sa.esp is not None else AH
    high, low = used >> 32, used & 0xFFFF_FFFF
    window = sa.replay_window if sa.direction is Direction.INBOUND else xfrm_wire.LEGACY_WINDOW
    words = window // 32
    inbound = sa.direction is Direction.INBOUND
    numbers = (0, low, 0, high) if inbound else (low, 0, high, 0)
    replay = xfrm_layout.REPLAY_ESN.pack(words, *numbers, window) + bytes(4 * words)
    body = xfrm_wire.state_id(sa.destination, sa.spi, protocol)
    body += sa.source.packed.ljust(16, b"\0") + bytes(8)
    body += encode_attributes({xfrm_wire.Attribute.REPLAY_ESN: replay})

    def change() -> None:
        netlink = NetlinkSocket(socket.NETLINK_XFRM)
        netlink.change(0x1E, body, 0x100)  # XFRM_MSG_NEWAE, NLM_F_REPLACE
        netlink.close()

    driver.namespace.call(change)


def secure_both(
    alpha: Here,
    beta: Here,
    ends: tuple[str, str],
    protocol: int,
    proposal: QuickModeProposal,
    change: Callable[[SecurityAssociation], SecurityAssociation] = lambda sa: sa,
) -> tuple[int, int, int, int]:
    """As `secure`, with AH around ESP: the SPIs of ESP and AH forth, and of both back."""
    halves = SimpleNamespace(esp=proposal.esp, ah=None), SimpleNamespace(esp=None, ah=proposal.ah)
    for start, (one, other), (sender, receiver) in (
        (0x1000, ends, (alpha, beta)),
        (0x1001, (ends[1], ends[0]), (beta, alpha)),
    ):
        spis = start, start + 16
        pairs = [
            sas_of(one, other, protocol, half, spi, bundle=bundle)
            for half, spi, bundle in zip(halves, spis, reversed(spis), strict=True)
        ]
        for received, _ in pairs:
            receiver.add_sa(change(received))
        for _, sent in pairs:
            sender.add_sa(change(sent))
    return 0x1000, 0x1010, 0x1001, 0x1011
