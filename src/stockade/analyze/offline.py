"""Explanation, filters and lint of policies without an agent: what would be in force on a computer with these
addresses.

    policy sets (of a file, a script, a store) + facts ─▶ Offline ─▶ explain / filters / lint / unused

Which policy: the assigned one. Where none is assigned, the only one there is, or the one that is asked for
by name; `Offline.assumed` says so. Nothing is looked up: DNS names and servers count as far as the facts
have them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stockade.analyze.explain import Explanation, explain_flow, filter_as_dict
from stockade.analyze.unused import Unused, find_unused
from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Direction, FilterTable
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.model.traffic import Flow
from stockade.policy.compiler import ALL_VERSIONS, compile_table
from stockade.policy.dynamic import DynamicSet
from stockade.policy.exemptions import DEFAULT_EXEMPT_LEVEL
from stockade.policy.facts import HostFacts, as_facts
from stockade.policy.lint import Finding, lint
from stockade.policy.objects import PolicySet
from stockade.policy.places import PERSISTENT_STORE, in_force


@dataclass(frozen=True, slots=True)
class Offline:
    """Policies on a computer that need not be this one. `assumed` names policies that are treated as assigned
    though they are not."""

    policy_sets: tuple[PolicySet, ...]
    facts: HostFacts
    exempt_level: int
    dynamic: DynamicSet
    table: FilterTable
    assumed: tuple[str, ...]
    capabilities: Capabilities | None = None
    refusal: Reason | None = None
    """Why the data plane with these capabilities would refuse the whole policy."""

    @classmethod
    def of(
        cls,
        policy_sets: Sequence[PolicySet],
        local_addresses: HostFacts | Sequence[Address],
        *,
        exempt_level: int = DEFAULT_EXEMPT_LEVEL,
        dynamic: DynamicSet | None = None,
        policy: str | None = None,
        capabilities: Capabilities | None = None,
    ) -> "Offline":
        """Compile, for a data plane with these capabilities (None: one that can do everything); what such a
        one refuses is explained as if it were in force, and every answer says so. Errors: those of
        `compile_table`; CallerError UNKNOWN_NAME (no such policy), INVALID_POLICY (none is assigned and there
        are several)."""
        chosen, assumed = choose_policies(policy_sets, policy, needed=dynamic is None or not dynamic.rules)
        facts = as_facts(local_addresses)
        versions = ALL_VERSIONS if capabilities is None else capabilities.ip_versions
        refusal = None
        try:
            table = compile_table(chosen, facts, exempt_level, versions, dynamic, capabilities)
        except StockadeError as error:
            if error.reason.code is not ReasonCode.DRIVER_LACKS:
                raise
            refusal = error.reason
            table = compile_table(chosen, facts, exempt_level, versions, dynamic)
        return cls(
            chosen, facts, exempt_level, dynamic or DynamicSet(), table, assumed, capabilities, refusal
        )

    def explain(self, flow: Flow, direction: Direction | None = None) -> Explanation:
        """What would happen to packets of the flow. Direction None: outbound if the source is an address of
        the computer, inbound else."""
        if direction is None:
            direction = Direction.OUTBOUND if flow.source in self.facts.local else Direction.INBOUND
        explanation = explain_flow(self.table, flow, direction)
        notes = list(explanation.notes)
        own = flow.source if direction is Direction.OUTBOUND else flow.destination
        if own not in self.facts.local and not own.is_multicast:
            notes.append(f"{own} is no address of the computer that the question is about")
        notes += [
            f"policy “{name}” is not assigned; the answer takes it as if it were" for name in self.assumed
        ]
        notes += self.warnings()[:1] if self.refusal is not None else ()
        return replace(explanation, notes=tuple(notes))

    def warnings(self) -> tuple[str, ...]:
        """Sentences for people: that the policy is refused, and the doubts of the compiler."""
        if self.refusal is None:
            return self.table.warnings
        text = f"the policy is refused, and the one before it stays in force: {self.refusal}"
        return (text, *self.table.warnings)

    def filters(self) -> tuple[dict[str, object], ...]:
        """The whole table, heaviest first, in its JSON form."""
        return tuple(filter_as_dict(entry) for entry in self.table.filters)

    def lint(self) -> tuple[Finding, ...]:
        """Everything doubtful, errors first."""
        return lint(self.policy_sets, self.facts, self.exempt_level, self.dynamic, self.capabilities)

    def unused(self) -> tuple[Unused, ...]:
        return find_unused(self.policy_sets)


def choose_policies(
    policy_sets: Sequence[PolicySet], name: str | None = None, *, needed: bool = True
) -> tuple[tuple[PolicySet, ...], tuple[str, ...]]:
    """The sets with the policy in question assigned, those that count together (`places.in_force`), and the
    names of policies that were not assigned. `needed` False: no policy at all is an answer too."""
    if name is not None:
        return _named(policy_sets, name)
    if any(entry.assigned is not None for entry in policy_sets):
        return in_force(policy_sets), ()
    policies = [(entry.store, policy.name) for entry in policy_sets for policy in entry.policies]
    if not policies and not needed:
        return tuple(policy_sets), ()
    if len(policies) != 1:
        raise error_for(
            ReasonCode.NOT_ASSIGNED,
            f"no policy is assigned, and there are {len(policies)}; --policy NAME says which one to look at"
            if policies
            else "there is no policy",
            **({"policies": ", ".join(policy for _, policy in policies)} if policies else {}),
        )
    return _named(policy_sets, policies[0][1])


def _named(policy_sets: Sequence[PolicySet], name: str) -> tuple[tuple[PolicySet, ...], tuple[str, ...]]:
    """The first policy of that name assigned, beside what persistent policy there is, and nothing else."""
    holder = next((entry for entry in policy_sets if entry.policy(name) is not None), None)
    wanted = None if holder is None else holder.policy(name)
    if holder is None or wanted is None:
        raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no policy “{name}”", policy=name)
    changed: list[PolicySet] = []
    for policy_set in policy_sets:
        if policy_set is not holder and PERSISTENT_STORE in (policy_set.store, holder.store):
            changed.append(policy_set)
            continue
        policies = tuple(replace(entry, assigned=entry is wanted) for entry in policy_set.policies)
        changed.append(replace(policy_set, policies=policies))
    return in_force(changed), () if wanted.assigned else (wanted.name,)
