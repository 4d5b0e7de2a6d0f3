"""The filter table as XFRM policies, and the way from one table to the next: after every single change each
packet meets the verdict of the old table or of the new one."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from types import MappingProxyType

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from stockade.driver.kernel.policies import (
    BORDER,
    FIRST_PRIORITY,
    LAST_PRIORITY,
    STEP,
    Change,
    few_steps,
    filter_id_of,
    is_ours,
    key_of,
    policies_of,
    request_ids,
    steps_between,
)
from stockade.model.addresses import AddressRange
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Action, Direction, FilterTable, Provenance
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.reasons import CallerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import TrafficSelector
from stockade.policy.specific import make_filter
from stockade.wire.xfrm import (
    Policy,
    PolicyAction,
    PolicyDirection,
    XfrmMode,
)
from stockade.wire.xfrm_decode import (
    decode_policy,
)

CAPABILITIES = Capabilities(
    "kernel", frozenset(Mode), frozenset(Encryption), frozenset(Hash), True, frozenset({4, 6})
)
ESP = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
AH = QuickModeProposal(ah=Hash.SHA_256)
NAMES = ("one", "two")
PORTS = (0, 80, 443)
HOSTS = ("10.0.0.0/30", "10.0.0.0/31", "10.0.0.1", "10.0.0.2", "10.0.0.1-10.0.0.2")


def addresses(text: str) -> AddressRange:
    if "-" in text:
        first, last = text.split("-")
        return AddressRange(AddressRange.host(first).first, AddressRange.host(last).first)
    return AddressRange.network(text)


def negotiation(name: str, *proposals: QuickModeProposal) -> Negotiation:
    return Negotiation(
        name, MainModePolicy(), QuickModePolicy(proposals or (ESP,)), (PresharedKey(Secret(b"x")),)
    )


def entry(
    host: str = "10.0.0.1",
    port: int = 0,
    action: Action = Action.BLOCK,
    weight: int = 1,
    direction: Direction = Direction.OUTBOUND,
    name: str = "one",
    accept_clear: bool = False,
):
    protocol = 6 if port else 0
    return make_filter(
        TrafficSelector(addresses("10.9.0.0/16"), addresses(host), protocol, 0, port),
        direction,
        action,
        weight,
        Provenance("local", "policy", f"rule {name}"),
        negotiation=name if action is Action.NEGOTIATE else None,
        accept_clear=accept_clear,
    )


def table(filters: Iterable, *proposals: QuickModeProposal) -> FilterTable:
    by_id = {found.id: found for found in filters}
    return FilterTable(
        tuple(by_id.values()),
        MappingProxyType({name: negotiation(name, *proposals) for name in NAMES}),
    )


def policies(wanted: FilterTable) -> list[Policy]:
    return policies_of(wanted, request_ids(NAMES, {}), CAPABILITIES)


def test_each_action_is_what_the_kernel_calls_it():
    found = policies(
        table(
            [
                entry(action=Action.PERMIT),
                entry(port=80, action=Action.BLOCK),
                entry(port=443, action=Action.NEGOTIATE),
                entry(port=443, action=Action.NEGOTIATE, direction=Direction.INBOUND, accept_clear=True),
                entry(port=80, action=Action.NEGOTIATE, direction=Direction.INBOUND),
            ]
        )
    )
    permit, block, outbound, inpass, inbound = found
    assert (permit.action, permit.templates) == (PolicyAction.ALLOW, ())
    assert (block.action, block.templates) == (PolicyAction.BLOCK, ())
    (template,) = outbound.templates
    assert (outbound.action, template.protocol, template.mode) == (PolicyAction.ALLOW, 50, XfrmMode.TRANSPORT)
    assert template.request_id == request_ids(NAMES, {})["one"]
    assert (template.source, template.destination, template.optional) == (None, None, False)
    assert inpass.templates[0].optional
    assert not inbound.templates[0].optional
    assert [policy.direction for policy in (outbound, inbound)] == [PolicyDirection.OUT, PolicyDirection.IN]
    assert outbound.selector.destination_port == 443


def test_the_filter_is_known_from_what_the_kernel_gives_back():
    made = entry()
    (policy,) = policies(table([made]))
    back = decode_policy(policy.encode())
    assert is_ours(back)
    assert filter_id_of(back) == made.id
    assert not is_ours(replace(back, limits=type(back.limits)()))


def test_a_range_is_several_policies_and_a_shadowed_filter_none():
    both, one = policies(table([entry("10.0.0.1-10.0.0.2"), entry("10.0.0.2", action=Action.PERMIT)]))
    assert [str(policy.selector.destination) for policy in (both, one)] == ["10.0.0.1/32", "10.0.0.2/32"]
    assert one.action is PolicyAction.BLOCK


BOTH = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, None), Hash.SHA1)


def test_ah_alone_is_a_template_and_mixtures_are_refused_by_their_rule():
    secured = table([entry(action=Action.NEGOTIATE)], AH)
    assert policies(secured)[0].templates[0].protocol == 51
    for proposals in ((AH, ESP), (BOTH, ESP), (AH, BOTH)):
        with pytest.raises(CallerError) as refusal:
            policies(table([entry(action=Action.NEGOTIATE)], *proposals))
        assert refusal.value.reason.code is ReasonCode.DRIVER_LACKS
        assert dict(refusal.value.reason.facts)["rule"] == "rule one"


def test_ah_around_esp_is_two_templates_the_inner_one_first():
    for made in policies(table([entry(action=Action.NEGOTIATE)], BOTH)):
        assert [template.protocol for template in made.templates] == [50, 51]
        assert not any(template.optional for template in made.templates)


def test_request_ids_are_steady_and_differ():
    ids = request_ids(["a", "b"], {})
    assert request_ids(["b", "c"], ids)["b"] == ids["b"]
    assert len({*ids.values(), request_ids(["c"], ids)["c"]}) == 3
    clash = request_ids(["a"], {"other": ids["a"]})
    assert clash["a"] == ids["a"] + 1


class Kernel:
    """The policies of a kernel: one for each selector and direction, smallest priority first."""

    def __init__(self) -> None:
        self.policies: dict = {}

    def apply(self, change: Change, policy: Policy) -> None:
        key = key_of(policy)
        assert (key in self.policies) == (change is not Change.ADD), change
        if change is Change.REMOVE:
            del self.policies[key]
            return
        priorities = {
            other.priority for other in self.policies.values() if other.direction is policy.direction
        } - ({self.policies[key].priority} if key in self.policies else set())
        assert policy.priority not in priorities, "two policies of one priority have no order"
        assert 0 < policy.priority <= LAST_PRIORITY
        self.policies[key] = policy

    def verdict(self, direction: PolicyDirection, host: int, port: int) -> object:
        for policy in sorted(self.policies.values(), key=lambda policy: policy.priority):
            selector = policy.selector
            if (
                policy.direction is direction
                and int(selector.destination.network_address) <= host <= int(selector.destination[-1])
                and selector.destination_port in (0, port)
            ):
                return policy.action, policy.templates
        return None

    def verdicts(self) -> list[object]:
        first = int(AddressRange.host("10.0.0.0").first)
        return [
            self.verdict(direction, host, port)
            for direction in (PolicyDirection.IN, PolicyDirection.OUT)
            for host in range(first, first + 4)
            for port in (1, 80, 443)
        ]


filters = st.builds(
    entry,
    st.sampled_from(HOSTS),
    st.sampled_from(PORTS),
    st.sampled_from(Action),
    st.just(1),
    st.sampled_from(Direction),
    st.sampled_from(NAMES),
)
tables = st.lists(filters, max_size=8).map(table)


@settings(max_examples=150, deadline=None)
@given(st.lists(tables, min_size=2, max_size=4), st.data())
def test_every_packet_meets_the_old_or_the_new_verdict_at_every_moment(wanted_tables, data):
    kernel = Kernel()
    for wanted in wanted_tables:
        old = kernel.verdicts()
        expected = Kernel()
        for priority, policy in enumerate(policies(wanted)):
            expected.policies[key_of(policy)] = replace(policy, priority=priority)
        new = expected.verdicts()
        current = data.draw(st.permutations(list(kernel.policies.values())))
        steps = steps_between(current, policies(wanted))
        interrupted = data.draw(st.none() | st.integers(0, len(steps)))
        for step in steps[:interrupted]:
            kernel.apply(step.change, step.policy)
            for before, now, after in zip(old, kernel.verdicts(), new, strict=True):
                assert now in (before, after)
        if interrupted is None:
            assert kernel.verdicts() == new
            assert steps_between(list(kernel.policies.values()), policies(wanted)) == []


def test_an_added_filter_costs_one_change():
    many = [entry(f"10.1.{number}.0/24") for number in range(100)]
    kernel = Kernel()
    for step in steps_between([], policies(table(many))):
        kernel.apply(step.change, step.policy)
    more = [*many[:50], entry("10.2.0.0/16"), *many[50:]]
    steps = steps_between(list(kernel.policies.values()), policies(table(more)))
    assert [step.change for step in steps] == [Change.ADD]
    assert steps[0].policy.priority == FIRST_PRIORITY + STEP * 50 - STEP // 2


@settings(max_examples=150, deadline=None)
@given(st.lists(tables, min_size=2, max_size=6))
def test_few_changes_lead_where_the_whole_difference_leads(wanted_tables):
    kernel, in_force, done = Kernel(), table([]), 0
    for wanted in wanted_tables:
        by_filter: dict[str, list[Policy]] = {}
        for policy in sorted(kernel.policies.values(), key=lambda policy: policy.priority):
            by_filter.setdefault(filter_id_of(policy), []).append(policy)
        whole = sum(len(list(policies(table([one])))) for one in in_force.filters)
        steps = None
        if whole == len(kernel.policies) and len(by_filter) == len(in_force.filters):
            ids = request_ids(list(wanted.negotiations), {})
            steps = few_steps(kernel.policies, by_filter, in_force, wanted, ids, CAPABILITIES)
        if steps is None:
            steps = steps_between(list(kernel.policies.values()), policies(wanted))
        else:
            done += 1
        old = kernel.verdicts()
        expected = Kernel()
        for priority, policy in enumerate(policies(wanted)):
            expected.policies[key_of(policy)] = replace(policy, priority=priority)
        new = expected.verdicts()
        for step in steps:
            kernel.apply(step.change, step.policy)
            for before, now, after in zip(old, kernel.verdicts(), new, strict=True):
                assert now in (before, after)
        assert kernel.verdicts() == new
        assert steps_between(list(kernel.policies.values()), policies(wanted)) == []
        in_force = wanted
    event(f"{done} of {len(wanted_tables)} by few steps")


def test_a_full_gap_and_a_new_order_write_the_table_anew():
    kernel = Kernel()
    filters = [entry("10.0.0.1"), entry("10.0.0.2")]
    for number in range(3, 60):  # always into the same gap
        for step in steps_between(list(kernel.policies.values()), policies(table(filters))):
            kernel.apply(step.change, step.policy)
        filters.insert(1, entry(f"10.0.0.{number}"))
    filters.reverse()
    for step in steps_between(list(kernel.policies.values()), policies(table(filters))):
        kernel.apply(step.change, step.policy)
    ordered = sorted(kernel.policies.values(), key=lambda policy: policy.priority)
    assert [filter_id_of(policy) for policy in ordered] == [found.id for found in filters]
    assert all(policy.priority < BORDER for policy in ordered)


def tunnel_table(*rules: tuple[str, str, Direction, str]) -> FilterTable:
    """Each rule is (name, end point, direction, far network), with one network here."""
    near = addresses("10.81.0.0/24")
    filters = []
    negotiations = {}
    for name, end, direction, far in rules:
        selector = TrafficSelector(near, addresses(far))
        selector = selector if direction is Direction.OUTBOUND else selector.reversed()
        filters.append(
            make_filter(
                selector, direction, Action.NEGOTIATE, 1, Provenance("l", "p", name), negotiation=name
            )
        )
        mode = QuickModePolicy((ESP,), mode=Mode.TUNNEL, tunnel_endpoint=ip_address(end))
        negotiations[name] = replace(negotiation(name), quick_mode=mode)
    return FilterTable(tuple(filters), MappingProxyType(negotiations))


def test_what_comes_in_by_a_tunnel_must_be_of_the_rule_that_answers_it():
    """Inbound and forwarded, of the peer that the outbound rule names, whatever the inbound one is called."""
    wanted = tunnel_table(
        ("out", "192.0.2.2", Direction.OUTBOUND, "10.82.0.0/24"),
        ("in", "192.0.2.1", Direction.INBOUND, "10.82.0.0/24"),
        ("lonely", "192.0.2.1", Direction.INBOUND, "10.83.0.0/24"),
    )
    ids = request_ids(list(wanted.negotiations), {})
    found = policies_of(wanted, ids, CAPABILITIES)
    by_direction = {
        direction: [one for one in found if one.direction is direction] for direction in PolicyDirection
    }
    assert [len(by_direction[direction]) for direction in PolicyDirection] == [2, 1, 2]
    (out,) = by_direction[PolicyDirection.OUT]
    assert out.templates[0].request_id == ids["out"]
    assert (out.templates[0].source, out.templates[0].destination) == (None, ip_address("192.0.2.2"))
    for direction in (PolicyDirection.IN, PolicyDirection.FORWARD):
        answered, lonely = by_direction[direction]
        assert answered.templates[0].request_id == ids["out"]
        assert answered.templates[0].source == ip_address("192.0.2.2")
        assert not answered.templates[0].optional
        assert lonely.templates[0].request_id == ids["lonely"], "which no SA will have: nothing passes"
    assert few_steps({}, {}, wanted, wanted, ids, CAPABILITIES) is None
    steps = steps_between(found, ())
    assert len(steps) == len(found), "those for forwarded packets go too"
