"""The steps of a filter table: what stands in them, and that a difference leads to the same as the whole."""

import random

import pytest

from stockade.driver.userspace.layout import PLACES, Layout, merged
from stockade.driver.userspace.rules import Leftovers, Rules
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.traffic import TrafficSelector
from stockade.policy.specific import make_filter, table_order
from stockade.policy.weights import weight_of

ANY = AddressRange.everything()


def made(
    selector: TrafficSelector,
    direction: Direction = Direction.OUTBOUND,
    action: Action = Action.BLOCK,
    rule: str = "r",
) -> SpecificFilter:
    return make_filter(
        selector, direction, action, weight_of(selector, direction), Provenance("l", "p", rule)
    )


def table(filters: list[SpecificFilter]) -> FilterTable:
    unique = {entry.id: entry for entry in filters}
    return FilterTable(tuple(sorted(unique.values(), key=table_order)))


def hosts(count: int) -> list[SpecificFilter]:
    return [
        made(TrafficSelector(AddressRange.host("10.0.0.1"), AddressRange.host(f"10.1.{n >> 8}.{n & 255}")))
        for n in range(count)
    ]


def shown(layout: Layout) -> object:
    return {place: {name: step.members for name, step in layout.steps[place].items()} for place in PLACES}


def test_as_many_steps_as_shapes_however_many_filters() -> None:
    filters = hosts(2000)
    filters += [
        made(TrafficSelector(ANY, AddressRange.network(f"10.{n}.0.0/16")), action=action)
        for n in range(200)
        for action in (Action.BLOCK, Action.PERMIT)
    ]
    filters += [
        made(TrafficSelector(AddressRange.network(f"10.{n}.0.0/16"), ANY), action=action)
        for n in range(200)
        for action in (Action.BLOCK, Action.PERMIT)
    ]
    steps = Layout(table(filters)).steps[Direction.OUTBOUND, 4]
    assert sum(len(step.members) for step in steps.values()) == 2000 + 2 * 200 * 2
    assert len(steps) == 1 + 2 * 2  # those of two shapes weigh the same, and stand apart by action


def test_of_two_that_say_the_same_the_first_has_the_place() -> None:
    selector = TrafficSelector(ANY, AddressRange.host("10.1.0.1"))
    pair = [made(selector, action=action) for action in (Action.PERMIT, Action.BLOCK)]
    layout = Layout(table(pair))
    (step,) = layout.steps[Direction.OUTBOUND, 4].values()
    assert list(step.members.values()) == [pair[1].id]
    # And when it goes, the other one takes it.
    alone = table(pair[:1])
    (step,) = Layout(alone, layout).steps[Direction.OUTBOUND, 4].values()
    assert list(step.members.values()) == [pair[0].id]


@pytest.mark.parametrize("turn", range(20))
def test_following_a_table_gives_what_laying_it_out_gives(turn: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ranges = [ANY, *(AddressRange.network(f"10.{n}.0.0/16") for n in range(4)), AddressRange.host("10.0.0.1")]

    def one() -> SpecificFilter:
        selector = TrafficSelector(chance.choice(ranges), chance.choice(ranges), chance.choice((0, 6)))
        actions = (Action.BLOCK, Action.PERMIT)
        return made(selector, chance.choice(list(Direction)), chance.choice(actions), chance.choice("ab"))

    filters = [one() for _ in range(30)]
    layout = Layout(table(filters))
    for _ in range(20):
        filters = [entry for entry in filters if chance.randrange(8)] + [
            one() for _ in range(chance.randrange(4))
        ]
        layout = Layout(table(filters), layout)
        assert shown(layout) == shown(Layout(table(filters))), seed


def test_a_filter_in_the_place_of_another_is_replaced_in_one_transaction() -> None:
    filters = hosts(10)
    other = made(filters[3].selector, rule="another")
    before = Rules(table(filters))
    change = Rules(table([*filters[:3], other, *filters[4:]]), previous=before).since(before)
    assert change is not None
    lines = change.first.splitlines()
    assert [line.split()[0] for line in lines] == ["delete", "add"]
    assert other.id in lines[1]
    assert change.then == ""


def test_what_comes_is_in_before_what_goes_is_out() -> None:
    filters = hosts(10)
    before = Rules(table(filters[:9]))
    change = Rules(table(filters[1:]), previous=before).since(before)
    assert change is not None
    assert change.first.startswith("add element")
    assert "delete" not in change.first
    assert change.then.startswith("delete element")
    assert change.touched == 2


def test_another_order_is_written_anew_and_leaves_nothing_behind() -> None:
    one, other = made(TrafficSelector(ANY, AddressRange.host("10.0.0.2"))), made(TrafficSelector(ANY, ANY))
    before = Rules(FilterTable((one, other)))
    assert Rules(FilterTable((other, one)), previous=before).since(before) is None
    there = Leftovers(("output", *before.chains()), ("out4_old_g1",), ("f_old",))
    assert there.generation == 2
    change = Rules(FilterTable((other, one)), generation=there.generation).whole(there)
    for name in before.chains():
        assert f"delete chain inet stockade {name}\n" in change.then
        assert name not in change.first
    assert "delete map inet stockade out4_old_g1\n" in change.then
    assert "delete counter inet stockade f_old\n" in change.then
    assert "chain inet stockade output\n" not in change.then


def test_merging_keeps_both_orders_or_says_that_it_cannot() -> None:
    assert merged(["a", "b", "d"], ["b", "c", "d", "e"]) == ["a", "b", "c", "d", "e"]
    assert merged([], ["a"]) == ["a"]
    assert merged(["a", "b"], []) == ["a", "b"]
    assert merged(["a", "b"], ["b", "a"]) is None
