"""Warnings that people want before a policy is in force, or after it surprised them.

    lint_policies   the policies as written: algorithms, authentication, empty or missing parts
    lint_table      what became of them (`lint_filters.py`)
    lint_lockout    DNS, Kerberos, DHCP (`lint_lockout.py`)
    lint            all of it, and what the compiler found doubtful

Nothing here is an error: the policy compiles and does what it says. (One that does not is a finding too.)
Every finding has a remedy; none repeats a key, nor its length.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Action, Provenance
from stockade.model.negotiation import AuthenticationMethod, PresharedKey
from stockade.model.reasons import StockadeError
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Group, Hash, Integrity, MainModeProposal, QuickModeProposal
from stockade.policy.candidates import DoubtKind
from stockade.policy.compiler import ALL_VERSIONS, PolicyCompiler, rule_name
from stockade.policy.dynamic import DYNAMIC_STORE, DynamicSet
from stockade.policy.exemptions import DEFAULT_EXEMPT_LEVEL, level_meaning
from stockade.policy.facts import HostFacts, as_facts
from stockade.policy.findings import Finding, Lint, Severity
from stockade.policy.lint_filters import lint_table
from stockade.policy.lint_lockout import lint_lockout
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DEFAULT_RESPONSE_METHODS,
    DYNAMIC_FILTER_LIST,
    Policy,
    PolicySet,
    Rule,
)

__all__ = [
    "Finding",
    "Lint",
    "Severity",
    "lint",
    "lint_lockout",
    "lint_policies",
    "lint_table",
    "weak_preshared_key",
]

MINIMUM_KEY_BYTES = 16
MINIMUM_KEY_CHARACTERS = 8

_WEAK: dict[Encryption | Integrity | Group, tuple[str, Severity]] = {
    Encryption.DES_CBC: ("DES has 56-bit keys and is broken in hours", Severity.ERROR),
    Encryption.TRIPLE_DES_CBC: ("3DES has blocks of 64 bits and is slow", Severity.NOTE),
    Encryption.NULL: ("no encryption: the traffic can be read on the way", Severity.WARNING),
    Hash.MD5: ("MD5 is broken", Severity.WARNING),
    Group.MODP_768: (
        "Diffie-Hellman group 1 (768 bits) is broken by anybody with a cluster",
        Severity.ERROR,
    ),
    Group.MODP_1024: ("Diffie-Hellman group 2 (1024 bits) is within reach of states", Severity.WARNING),
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
    yield from _lint_main_mode_methods(policy.main_mode_methods, where)


def _lint_main_mode_methods(methods: Iterable[MainModeProposal], where: Provenance) -> Iterator[Finding]:
    for proposal in methods:
        for part in (proposal.encryption, proposal.hash, proposal.group):
            if part in _WEAK:
                why, severity = _WEAK[part]
                text = f"main-mode method {proposal}: {why}"
                yield Finding(Lint.WEAK_ALGORITHM, text, where, severity)


def _lint_rule(policy_set: PolicySet, policy: Policy, rule: Rule) -> Iterator[Finding]:
    where = Provenance(
        policy_set.store, policy.name, rule_name(rule), rule.filter_list, filter_action=rule.filter_action
    )
    if rule.is_default_response:
        yield from _lint_default_response(rule, where)
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
        yield from _lint_methods(f"filter action “{action.name}”", action.methods, where)
        if action.soft:
            yield _clear_allowed(f"filter action “{action.name}”", where)
        yield from _lint_authentication(rule.authentication, where)


def _lint_default_response(rule: Rule, where: Provenance) -> Iterator[Finding]:
    text = (
        "the default response rule is active: any peer that can authenticate decides what else is secured"
        " (Windows Vista and later ignore this rule)"
    )
    where = replace(
        where,
        rule=rule.name or "default response rule",
        filter_list=DYNAMIC_FILTER_LIST,
        filter_action=DEFAULT_RESPONSE_ACTION,
    )
    yield Finding(Lint.DEFAULT_RESPONSE, text, where, Severity.NOTE)
    yield from _lint_methods(
        "the default response rule", rule.response_methods or DEFAULT_RESPONSE_METHODS, where
    )
    yield from _lint_authentication(rule.authentication, where)


def _clear_allowed(whose: str, where: Provenance) -> Finding:
    text = f"{whose} falls back to clear (soft): whoever can drop IKE packets on the way reads the traffic"
    return Finding(Lint.CLEAR_ALLOWED, text, where)


def _lint_methods(whose: str, methods: Iterable[QuickModeProposal], where: Provenance) -> Iterator[Finding]:
    for method in methods:
        parts: list[Encryption | Integrity | None] = [method.ah]
        if method.esp is not None:
            cipher = method.esp.encryption
            parts = [cipher if cipher.is_confidential else Encryption.NULL, method.esp.integrity, method.ah]
        for part in parts:
            if part is not None and part in _WEAK:
                why, severity = _WEAK[part]
                text = f"{whose}, method {method}: {why}"
                yield Finding(Lint.WEAK_ALGORITHM, text, where, severity)


def _lint_authentication(methods: Sequence[AuthenticationMethod], where: Provenance) -> Iterator[Finding]:
    for method in methods:
        if not isinstance(method, PresharedKey):
            continue
        if weak_preshared_key(method.key):
            text = "the pre-shared key is short or simple: it can be found by trying"
            yield Finding(Lint.WEAK_PRESHARED_KEY, text, where, Severity.ERROR)
        else:
            text = "authentication by pre-shared key: kept in clear, known to many, changed by nobody"
            yield Finding(Lint.PRESHARED_KEY, text, where)
    if not methods:
        text = "the rule has no authentication method: every negotiation fails"
        yield Finding(Lint.NO_AUTHENTICATION, text, where, Severity.ERROR)


# ---- all of it

_DOUBTS = {
    DoubtKind.NEVER_MATCHES: (Lint.NEVER_MATCHES, Severity.WARNING),
    DoubtKind.NO_SERVER: (Lint.NO_SERVER, Severity.NOTE),
    DoubtKind.PENDING: (Lint.NAME_NOT_RESOLVED, Severity.WARNING),
    DoubtKind.CONNECTION: (Lint.CONNECTION_TYPE, Severity.WARNING),
    DoubtKind.FAMILY: (Lint.FAMILY_NOT_SECURED, Severity.WARNING),
    DoubtKind.CONFLICT: (Lint.CONFLICT, Severity.WARNING),
    DoubtKind.METHODS: (Lint.METHODS_LEFT_OUT, Severity.WARNING),
}
_SEVERITIES = (Severity.ERROR, Severity.WARNING, Severity.NOTE)


def lint(
    policy_sets: Sequence[PolicySet],
    local_addresses: HostFacts | Sequence[Address] = (),
    exempt_level: int = DEFAULT_EXEMPT_LEVEL,
    dynamic: DynamicSet | None = None,
    capabilities: Capabilities | None = None,
) -> tuple[Finding, ...]:
    """Everything doubtful: in the policies as written, in what they compile to on this computer with a data
    plane of these capabilities (None: one that can do everything), in the exemption level. Errors first, then
    warnings, then notes. A policy that is refused gives a finding with the refusal."""
    facts = as_facts(local_addresses)
    found: dict[Finding, None] = dict.fromkeys(lint_policies(policy_sets))
    if dynamic is not None:
        found.update(dict.fromkeys(_lint_dynamic(dynamic)))
    compiler = PolicyCompiler()
    try:
        versions = ALL_VERSIONS if capabilities is None else capabilities.ip_versions
        table = compiler.compile(policy_sets, facts, exempt_level, versions, dynamic, capabilities)
    except StockadeError as refusal:
        facts_ = dict(refusal.reason.facts)
        where = Provenance(
            facts_.get("store", "policy"), facts_.get("policy", ""), facts_.get("rule", "all rules")
        )
        found[Finding(Lint.REFUSED, str(refusal.reason), where, Severity.ERROR)] = None
    else:
        for doubt in compiler.doubts():
            if doubt.kind in _DOUBTS:  # an empty list is found in the policies as written
                kind, severity = _DOUBTS[doubt.kind]
                found[Finding(kind, doubt.text, doubt.provenance, severity)] = None
        found.update(dict.fromkeys(lint_table(table)))
        found.update(dict.fromkeys(lint_lockout(table, facts)))
        if table.filters:
            found.update(dict.fromkeys(_lint_exemptions(exempt_level)))
    return tuple(sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity)))


def _lint_exemptions(level: int) -> Iterator[Finding]:
    """What the exemption level opens besides what its name says."""
    where = Provenance("exemption", "", f"exemption level {level}")
    meaning = level_meaning(level)
    remedy = "netsh ipsec dynamic set config property=ipsecexempt value=3"
    if meaning.kerberos_and_rsvp:
        text = (
            "whoever sends from port 88, or by protocol 46, passes every filter, also those that block:"
            " the sender chooses the port"
        )
        yield Finding(Lint.OPENS_MORE, text, where, Severity.ERROR, remedy)
    if meaning.multicast_and_broadcast:
        text = "all multicast and broadcast passes every filter, also those that block"
        yield Finding(Lint.OPENS_MORE, text, where, Severity.WARNING, remedy)


def _lint_dynamic(dynamic: DynamicSet) -> Iterator[Finding]:
    for main_mode in dynamic.main_mode_policies:
        where = Provenance(DYNAMIC_STORE, main_mode.name, "main mode")
        yield from _lint_main_mode_methods(main_mode.methods, where)
    for quick_mode in dynamic.quick_mode_policies:
        where = Provenance(DYNAMIC_STORE, quick_mode.name, "quick mode")
        yield from _lint_methods(f"quick-mode policy “{quick_mode.name}”", quick_mode.methods, where)
        if quick_mode.soft:
            yield _clear_allowed(f"quick-mode policy “{quick_mode.name}”", where)
    for rule in dynamic.rules:
        if rule.negotiates:
            yield from _lint_authentication(
                rule.authentication, Provenance(DYNAMIC_STORE, rule.main_mode_policy, rule.name)
            )
