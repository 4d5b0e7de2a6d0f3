"""The nftables table that the driver makes, read by nft itself, in a namespace of its own."""

from collections.abc import Iterator
from ipaddress import IPv4Interface
from types import MappingProxyType

import pytest

from stockade.driver.userspace import nft
from stockade.driver.userspace.rules import Change, Rules
from stockade.lab.netns import Network
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import MainModePolicy, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.reasons import HostError
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, QuickModeProposal
from stockade.model.traffic import TrafficSelector
from stockade.policy.specific import make_filter

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
    alpha = wire["alpha"]
    text = Rules(table(*filters)).whole().first
    alpha.run([nft.program(), "-c", "-f", "-"], input_text=text)
    alpha.call(lambda: nft.install_whole(table(*filters)))
    counters = alpha.call(nft.read_counters)
    # Of those that say the same the first one has the place.
    first = {(found.selector, found.direction): found.id for found in reversed(filters)}
    alone = {found.id for found in filters if found.selector in (SELECTORS[0], SELECTORS[2])}
    assert {counter.filter_id for counter in counters} == set(first.values()) | alone
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
    alpha.call(lambda: nft.install_whole(table(*filters)))
    assert len(alpha.call(nft.read_counters)) == 4000


def test_replacing_touches_nobody_elses_table(wire: Network) -> None:
    alpha = wire["alpha"]
    alpha.run([nft.program(), "add table inet somebody; add chain inet somebody c"])
    for action in (Action.BLOCK, Action.PERMIT):
        filters = table(entry(1, SELECTORS[0], Direction.OUTBOUND, action))
        alpha.call(lambda filters=filters: nft.install_whole(filters))
    assert "somebody" in alpha.run([nft.program(), "list", "tables"]).stdout
    alpha.call(nft.remove)
    assert alpha.run([nft.program(), "list", "tables"]).stdout == "table inet somebody\n"


def test_a_refused_transaction_changes_nothing(wire: Network) -> None:
    alpha = wire["alpha"]
    rules = alpha.call(
        lambda: nft.install_whole(table(entry(1, SELECTORS[0], Direction.OUTBOUND, Action.BLOCK)))
    )
    before = alpha.run([nft.program(), "list", "ruleset"]).stdout
    text = rules.whole().first
    with pytest.raises(HostError, match="nft"):
        alpha.call(lambda: nft.install(Change(text.replace("drop", "dorp"), "")))
    assert alpha.run([nft.program(), "list", "ruleset"]).stdout == before


def filters_of_a_net(count: int) -> list[SpecificFilter]:
    return [
        make_filter(
            TrafficSelector(
                AddressRange.host("10.0.0.1"), AddressRange.host(f"10.2.{n >> 8}.{n & 255}"), 6, 0, 80
            ),
            Direction.OUTBOUND,
            Action.NEGOTIATE,
            5,
            Provenance("local", "policy", "rule"),
            negotiation="rule",
        )
        for n in range(count)
    ]


def nothing() -> None:
    raise AssertionError("the whole was written")


def test_one_filter_more_is_one_element_more(wire: Network) -> None:
    alpha = wire["alpha"]
    filters = filters_of_a_net(1001)
    rules = alpha.call(lambda: nft.install_whole(table(*filters[:1000])))
    before = alpha.run([nft.program(), "-a", "list", "table", "inet", "stockade"]).stdout
    change = Rules(table(*filters), previous=rules).since(rules)
    assert change is not None
    assert change.touched == 1
    assert len(change.first) < 300
    assert not change.then
    more = alpha.call(lambda: nft.install_difference(table(*filters), rules, nothing))
    assert len(alpha.call(nft.read_counters)) == 1001
    back = alpha.call(lambda: nft.install_difference(table(*filters[:1000]), more, nothing))
    after = alpha.run([nft.program(), "-a", "list", "table", "inet", "stockade"]).stdout
    assert sorted(after.split()) == sorted(before.split())  # the same objects, with the same handles
    assert back.generation == rules.generation


def test_what_somebody_else_did_to_the_table_is_healed(wire: Network) -> None:
    alpha = wire["alpha"]
    filters = filters_of_a_net(5)
    rules = alpha.call(lambda: nft.install_whole(table(*filters[:4])))
    alpha.run([nft.program(), "delete table inet stockade"])
    alpha.call(lambda: nft.install_difference(table(*filters), rules, lambda: None))
    assert len(alpha.call(nft.read_counters)) == 5


def test_a_table_of_another_version_is_replaced(wire: Network) -> None:
    alpha = wire["alpha"]
    alpha.run(
        [
            nft.program(),
            "add table inet stockade; add chain inet stockade output { type filter hook output priority 7; }",
        ]
    )
    alpha.call(lambda: nft.install_whole(table(*filters_of_a_net(2))))
    assert "priority mangle" in alpha.run([nft.program(), "list", "table", "inet", "stockade"]).stdout
