"""Two hosts, their filters and their SAs, for the tests of the packet path."""

import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType, SimpleNamespace

import pytest

from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import TrafficSelector
from stockade.wire.ip import build_packet
from stockade.wire.transport import build_echo, build_tcp, build_udp

ALPHA, BETA = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
ALPHA6, BETA6 = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")
GCM = EspSuite(Encryption.AES_GCM_128, None)
CBC = EspSuite(Encryption.AES_CBC_128, Hash.SHA1)


def make_filters(
    *rules: tuple[str, int, int], accept_clear: bool = False, negotiation: str = "rule", version: int = 4
) -> tuple[SpecificFilter, ...]:
    """Each rule is (action, protocol, port of the server), for any hosts and both directions."""
    filters = []
    everyone = AddressRange.everything(version)
    for number, (word, protocol, port) in enumerate(rules):
        selectors = {
            TrafficSelector(everyone, everyone, protocol, 0, port),
            TrafficSelector(everyone, everyone, protocol, port, 0),
        }
        for direction in Direction:
            for index, selector in enumerate(sorted(selectors, key=str)):
                action = Action(word)
                filters.append(
                    SpecificFilter(
                        f"{number:08x}{index:04x}{list(Direction).index(direction):04x}",
                        selector,
                        direction,
                        action,
                        100 - number,
                        Provenance("local", "policy", f"rule {number}"),
                        negotiation=negotiation if action is Action.NEGOTIATE else None,
                        accept_clear=accept_clear and direction is Direction.INBOUND,
                    )
                )
    return tuple(filters)


def make_table(*rules: tuple[str, int, int], accept_clear: bool = False, version: int = 4) -> FilterTable:
    proposal = QuickModeProposal(GCM)
    negotiation = Negotiation(
        "rule", MainModePolicy(), QuickModePolicy((proposal,)), (PresharedKey(Secret(b"key")),)
    )
    return FilterTable(
        make_filters(*rules, accept_clear=accept_clear, version=version),
        MappingProxyType({"rule": negotiation}),
    )


def make_sa(
    suite: EspSuite = GCM, *, spi: int = 0x1000, protocol: int = 0, version: int = 4, **values: object
) -> SecurityAssociation:
    """The outbound half at alpha of an SA from alpha to beta."""
    alpha, beta = (ALPHA, BETA) if version == 4 else (ALPHA6, BETA6)
    sa = SecurityAssociation(
        spi=spi,
        direction=Direction.OUTBOUND,
        source=alpha,
        destination=beta,
        selector=TrafficSelector(AddressRange.host(alpha), AddressRange.host(beta), protocol),
        mode=Mode.TRANSPORT,
        esp=suite,
        ah=None,
        encryption_key=Secret(os.urandom(encryption_algorithm(suite.encryption).keymat_size)),
        integrity_key=Secret(
            os.urandom(hash_algorithm(suite.integrity).integrity_key_size if suite.integrity else 0)
        ),
        pair=spi + 1,
        negotiation="rule",
        filter_id="0" * 16,
        main_mode="",
    )
    return replace(sa, **values)


def mirror(sa: SecurityAssociation, **values: object) -> SecurityAssociation:
    """The same SA as the other host has it."""
    other = Direction.INBOUND if sa.direction is Direction.OUTBOUND else Direction.OUTBOUND
    return replace(sa, direction=other, **values)


def tcp(payload: bytes = b"data", *, port: int = 80, **values: object) -> bytes:
    return build_tcp(Endpoint(ALPHA, 4000), Endpoint(BETA, port), payload, **values)


def udp(payload: bytes = b"data", *, source: IPv4Address = ALPHA, destination: IPv4Address = BETA) -> bytes:
    return build_udp(Endpoint(source, 4000), Endpoint(destination, 53), payload)


def ping(payload: bytes = b"ping") -> bytes:
    return build_echo(ALPHA, BETA, identifier=7, sequence=1, payload=payload)


@pytest.fixture(scope="session")
def hosts() -> SimpleNamespace:
    """Everything above by name: `hosts.make_sa()`, `hosts.ALPHA` …"""
    names: dict[str, Callable[..., object] | object] = {
        "ALPHA": ALPHA,
        "BETA": BETA,
        "ALPHA6": ALPHA6,
        "BETA6": BETA6,
        "GCM": GCM,
        "CBC": CBC,
        "make_filters": make_filters,
        "make_table": make_table,
        "make_sa": make_sa,
        "mirror": mirror,
        "tcp": tcp,
        "udp": udp,
        "ping": ping,
        "build_packet": build_packet,
    }
    return SimpleNamespace(**names)
