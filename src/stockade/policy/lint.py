"""Warnings that people want before a policy is in force, or after it surprised them.

Nothing here is an error: the policy compiles and does what it says. `lint_policies` reads the policies as
written (also those that are not assigned), `lint_table` what became of them. No finding repeats a key, nor
its length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from stockade.model.filters import Action, FilterClass, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Group, Hash
from stockade.policy.compiler import rule_name
from stockade.policy.exemptions import is_unsecurable
from stockade.policy.objects import FilterAction, Policy, PolicySet, Rule
from stockade.policy.weights import compare_weights

MAXIMUM_COMPARISONS = 200_000
"""Pairs of filters that `lint_table` looks at; beyond that it says that it stopped."""

MINIMUM_KEY_BYTES = 16
MINIMUM_KEY_CHARACTERS = 8


class Lint(StrEnum):
    """What a finding is about; people filter by these words."""

    RULE_WITHOUT_FILTERS = "rule-without-filters"
    RULE_NAMES_NOTHING = "rule-names-nothing"
    DEFAULT_RESPONSE = "default-response"
    WEAK_ALGORITHM = "weak-algorithm"
    WEAK_PRESHARED_KEY = "weak-preshared-key"
    AUTHENTICATION_UNAVAILABLE = "authentication-unavailable"
    SHADOWED = "shadowed"
    BLOCK_OVERRULED = "block-overruled"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class Finding:
    """One warning: its kind, a sentence, and where it comes from."""

    kind: Lint
    text: str
    provenance: Provenance

    def __str__(self) -> str:
        return f"{self.provenance}: {self.text}"

    def as_dict(self) -> dict[str, object]:
        return {"kind": self.kind.value, "text": self.text, "where": str(self.provenance)}


_WEAK_ENCRYPTIONS = {
    Encryption.DES_CBC: "DES has 56-bit keys and is broken in hours",
    Encryption.NULL: "no encryption: the traffic can be read on the way",
}
_WEAK_HASHES = {Hash.MD5: "MD5 is broken"}
_WEAK_GROUPS = {
    Group.MODP_768: "Diffie-Hellman group 1 (768 bits) is broken by anybody with a cluster",
    Group.MODP_1024: "Diffie-Hellman group 2 (1024 bits) is within reach of states",
}


def weak_preshared_key(key: Secret) -> bool:
    """Whether a key is short, or made of few different characters, or of digits only: such keys are found
    by trying, from one recorded aggressive or active main mode."""
    value = key.reveal()
    return len(value) < MINIMUM_KEY_BYTES or len(set(value)) < MINIMUM_KEY_CHARACTERS or value.isdigit()


def lint_policies(policy_sets: Sequence[PolicySet]) -> tuple[Finding, ...]:
    """What is doubtful in the policies as written."""
    found: dict[Finding, None] = {}
    for policy_set in policy_sets:
        for policy in policy_set.policies:
            found.update(dict.fromkeys(_lint_main_mode(policy_set, policy)))
            for rule in policy.rules:
                if rule.active:
                    found.update(dict.fromkeys(_lint_rule(policy_set, policy, rule)))
    return tuple(found)


def _lint_main_mode(policy_set: PolicySet, policy: Policy) -> Iterator[Finding]:
    where = Provenance(policy_set.store, policy.name, "main mode")
    for proposal in policy.main_mode_methods:
        for why in (
            _WEAK_ENCRYPTIONS.get(proposal.encryption),
            _WEAK_HASHES.get(proposal.hash),
            _WEAK_GROUPS.get(proposal.group),
        ):
            if why:
                yield Finding(Lint.WEAK_ALGORITHM, f"main-mode method {proposal}: {why}", where)


def _lint_rule(policy_set: PolicySet, policy: Policy, rule: Rule) -> Iterator[Finding]:
    where = Provenance(
        policy_set.store, policy.name, rule_name(rule), rule.filter_list, 0, filter_action=rule.filter_action
    )
    if rule.is_default_response:
        yield Finding(Lint.DEFAULT_RESPONSE, "the default response rule is not acted on yet", where)
        return
    filter_list = policy_set.filter_list(rule.filter_list)
    action = policy_set.filter_action(rule.filter_action)
    if filter_list is None:
        text = f"the filter list “{rule.filter_list}” does not exist"
        yield Finding(Lint.RULE_NAMES_NOTHING, text, where)
    elif not filter_list.filters:
        text = f"the filter list “{filter_list.name}” has no filters, so the rule does nothing"
        yield Finding(Lint.RULE_WITHOUT_FILTERS, text, where)
    if action is None:
        text = f"the filter action “{rule.filter_action}” does not exist"
        yield Finding(Lint.RULE_NAMES_NOTHING, text, where)
    elif action.action is Action.NEGOTIATE:
        yield from _lint_methods(action, where)
        yield from _lint_authentication(rule, where)


def _lint_methods(action: FilterAction, where: Provenance) -> Iterator[Finding]:
    for method in action.methods:
        reasons = []
        if method.esp is not None:
            reasons.append(_WEAK_ENCRYPTIONS.get(method.esp.encryption))
            if method.esp.integrity is not None:
                reasons.append(_WEAK_HASHES.get(method.esp.integrity))
        if method.ah is not None:
            reasons.append(_WEAK_HASHES.get(method.ah))
        for why in reasons:
            if why:
                text = f"filter action “{action.name}”, method {method}: {why}"
                yield Finding(Lint.WEAK_ALGORITHM, text, where)


def _lint_authentication(rule: Rule, where: Provenance) -> Iterator[Finding]:
    usable = False
    for method in rule.authentication:
        match method:
            case PresharedKey(key):
                usable = True
                if weak_preshared_key(key):
                    text = "the pre-shared key is short or simple; take a long random one"
                    yield Finding(Lint.WEAK_PRESHARED_KEY, text, where)
            case Kerberos() | Certificate():
                text = f"authentication by {method} is not available yet and is passed over"
                yield Finding(Lint.AUTHENTICATION_UNAVAILABLE, text, where)
    if not usable:
        text = "none of the rule's authentication methods is available: every negotiation fails"
        yield Finding(Lint.AUTHENTICATION_UNAVAILABLE, text, where)


def lint_table(table: FilterTable) -> tuple[Finding, ...]:
    """What is doubtful in a compiled table: filters that a heavier one leaves nothing, and blocks that a
    heavier filter overrules in part (the addresses count before the port, which surprises many)."""
    found: dict[Finding, None] = {}
    heavier: list[SpecificFilter] = []
    compared = 0
    for entry in table.filters:
        for above in heavier:
            compared += 1
            if compared > MAXIMUM_COMPARISONS:
                text = f"the table is large: not all of its {len(table.filters)} filters were compared"
                where = Provenance("policy", table.policy_name or "", "all rules")
                return (*found, Finding(Lint.INCOMPLETE, text, where))
            finding = _compare(above, entry)
            if finding is not None:
                found[finding] = None
        heavier.append(entry)
    return tuple(found)


def _compare(above: SpecificFilter, entry: SpecificFilter) -> Finding | None:
    if above.direction is not entry.direction or entry.filter_class is FilterClass.EXEMPTION:
        return None
    if above.selector.covers(entry.selector):
        if above.action is entry.action and above.negotiation == entry.negotiation:
            return None
        why = compare_weights(above.weight, entry.weight) or "it is the more restrictive one"
        text = f"“{entry}” never matches: “{above}” stands before it ({above.provenance}), because {why}"
        return Finding(Lint.SHADOWED, text, entry.provenance)
    if (
        entry.action is Action.BLOCK
        and above.action is not Action.BLOCK
        and above.filter_class is FilterClass.POLICY
        and not is_unsecurable(entry.selector.destination)
        and above.selector.overlaps(entry.selector)
        # a narrower exception is what an administrator means; an exception that is wider in what it carries
        # (protocol, ports) is mostly an oversight
        and entry.selector.protocol != 0
        and not _names_as_much(above, entry)
    ):
        text = (
            f"“{entry}” does not hold where “{above}” ({above.provenance}) matches too, because"
            f" {compare_weights(above.weight, entry.weight)}"
        )
        return Finding(Lint.BLOCK_OVERRULED, text, entry.provenance)
    return None


def _names_as_much(above: SpecificFilter, entry: SpecificFilter) -> bool:
    """Whether `above` names every protocol and port that `entry` names."""
    return all(
        bool(upper) or not lower
        for upper, lower in (
            (above.selector.protocol, entry.selector.protocol),
            (above.selector.source_port, entry.selector.source_port),
            (above.selector.destination_port, entry.selector.destination_port),
        )
    )
