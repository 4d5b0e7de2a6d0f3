"""The nftables table that the driver makes, read by nft itself, in a namespace of its own."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Interface
from types import MappingProxyType

import pytest

from stockade.driver.userspace import nft
from stockade.lab.netns import Network
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import MainModePolicy, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, QuickModeProposal
from stockade.model.traffic import TrafficSelector

ANY, ANY6 = AddressRange.everything(), AddressRange.everything(6)
NEGOTIATION = Negotiation(
    "rule",
    MainModePolicy(),
    QuickModePolicy((QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),)),
    (PresharedKey(Secret(b"key")),),
)


def entry(
    number: int,
    selector: TrafficSelector,
    direction: Direction,
    action: Action,
    *,
    accept_clear: bool = False,
) -> SpecificFilter:
    return SpecificFilter(
        f"{number:016x}",
        selector,
        direction,
        action,
        1,
        Provenance("local", "policy", "rule"),
        negotiation="rule" if action is Action.NEGOTIATE else None,
        accept_clear=accept_clear,
    )


def table(*filters: SpecificFilter) -> FilterTable:
    return FilterTable(filters, MappingProxyType({"rule": NEGOTIATION}))


SELECTORS = [
    TrafficSelector(ANY, ANY),
    TrafficSelector(AddressRange.host("10.0.0.1"), AddressRange.network("10.1.0.0/16"), 1),
    TrafficSelector(ANY, AddressRange(*map(AddressRange.host("0.0.0.0").first.__class__, (5, 9))), 6, 0, 80),
    TrafficSelector(ANY, ANY, 17, 53, 0),
    TrafficSelector(ANY, ANY, 132, 1, 2),
    TrafficSelector(ANY, ANY, 136, 7, 0),
    TrafficSelector(ANY, ANY, 47),
    TrafficSelector(ANY6, AddressRange.network("2001:db8::/32"), 6, 0, 22),
    TrafficSelector(ANY6, ANY6, 58),
]


@pytest.fixture
def wire() -> Iterator[Network]:
    with Network({"alpha": IPv4Interface("10.9.1.1/24"), "beta": IPv4Interface("10.9.1.2/24")}) as network:
        yield network


def test_every_kind_of_filter_is_read_by_nft(wire: Network) -> None:
    filters = []
    for selector in SELECTORS:
        for direction in Direction:
            for action in Action:
                for clear in {False, action is Action.NEGOTIATE}:
                    filters.append(entry(len(filters), selector, direction, action, accept_clear=clear))
    text = nft.render(table(*filters))
    alpha = wire["alpha"]
    alpha.run([nft.program(), "-c", "-f", "-"], input_text=text)
    alpha.call(lambda: nft.install(text))
    counters = alpha.call(nft.read_counters)
    assert {counter.filter_id for counter in counters} == {found.id for found in filters}
    listing = alpha.run([nft.program(), "-j", "list", "chain", "inet", "stockade", "output"]).stdout
    rules = [item["rule"] for item in json.loads(listing)["nftables"] if "rule" in item]
    names = [part["counter"] for rule in rules for part in rule["expr"] if "counter" in part]
    outbound = [found.id for found in filters if found.direction is Direction.OUTBOUND]
    assert names == [f"f_{name}" for name in outbound]
    alpha.call(nft.remove)
    alpha.call(nft.remove)
    assert alpha.run([nft.program(), "list", "tables"]).stdout == ""


def test_thousands_of_filters_load_at_once(wire: Network) -> None:
    filters = [
        entry(
            number,
            TrafficSelector(
                AddressRange.host("10.0.0.1"),
                AddressRange.network(f"10.{number % 250}.{number // 250}.0/24"),
                6,
            ),
            list(Direction)[number % 2],
            list(Action)[number % 3],
        )
        for number in range(4000)
    ]
    alpha = wire["alpha"]
    alpha.call(lambda: nft.install(nft.render(table(*filters))))
    assert len(alpha.call(nft.read_counters)) == 4000


def test_replacing_touches_nobody_elses_table(wire: Network) -> None:
    alpha = wire["alpha"]
    alpha.run([nft.program(), "add table inet somebody; add chain inet somebody c"])
    for action in (Action.BLOCK, Action.PERMIT):
        text = nft.render(table(entry(1, SELECTORS[0], Direction.OUTBOUND, action)))
        alpha.call(lambda text=text: nft.install(text))
    assert "somebody" in alpha.run([nft.program(), "list", "tables"]).stdout
    alpha.call(nft.remove)
    assert alpha.run([nft.program(), "list", "tables"]).stdout == "table inet somebody\n"


def test_a_refused_transaction_changes_nothing(wire: Network) -> None:
    alpha = wire["alpha"]
    good = nft.render(table(entry(1, SELECTORS[0], Direction.OUTBOUND, Action.BLOCK)))
    alpha.call(lambda: nft.install(good))
    before = alpha.run([nft.program(), "list", "ruleset"]).stdout
    with pytest.raises(Exception, match="nft"):
        alpha.call(lambda: nft.install(good.replace("accept", "acept")))
    assert alpha.run([nft.program(), "list", "ruleset"]).stdout == before
