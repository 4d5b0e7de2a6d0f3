"""`netsh ipsec static show`: all, filteraction, filterlist, policy, rule, store."""

from collections.abc import Iterable, Sequence

from stockade.model.filters import Action
from stockade.netsh import data, show
from stockade.netsh.grammar import Arguments, Command, Parameter
from stockade.netsh.session import JsonValue, Outcome, Session
from stockade.netsh.static_common import (
    FORMAT,
    LEVEL,
    NAME_OR_ALL_OBJECTS,
    POLICY,
    RULE_ID,
    RULE_TYPE,
    STATIC,
    WIDE,
    Format,
    Level,
    RuleType,
    by_name,
    chosen_rule,
    filter_action_named,
    filter_list_named,
    means_all,
    policy_named,
)
from stockade.netsh.values import NAME, NAME_OR_ALL, YES_NO
from stockade.netsh.words import printable
from stockade.policy.objects import FilterAction, FilterList, Policy, PolicySet, Rule

OF_RULE = Parameter("rule", NAME, "what rules of this name use, instead of a name", place="name")
RESOLVED_DNS = Parameter("resolvedns", YES_NO, "show host names for addresses", default_text="no")
RULE_CHOICE = Parameter(
    "name", NAME_OR_ALL, "name of the rule, all, or default for the default response rule", True, place="name"
)


def _joined(blocks: Iterable[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks)


def _verbose(arguments: Arguments) -> bool:
    return arguments[LEVEL] is Level.VERBOSE


def _table(arguments: Arguments) -> bool:
    return arguments[FORMAT] is Format.TABLE


def _rules_named(objects: PolicySet, name: str) -> list[Rule]:
    rules = [rule for policy in objects.policies for rule in policy.rules if not rule.is_default_response]
    first = by_name("rule", name, rules)
    return [rule for rule in rules if rule.name.casefold() == first.name.casefold()]


def show_all(session: Session, arguments: Arguments) -> Outcome:
    objects, wide = session.store.read(), arguments[WIDE]
    blocks: list[Sequence[str]] = []
    if _table(arguments):
        blocks.append(show.policy_table(objects.policies, wide))
        blocks += _rule_tables(objects.policies, wide)
        blocks.append(show.filter_list_table(objects.filter_lists, wide))
        blocks += _filter_tables(objects.filter_lists, wide)
        blocks.append(show.filter_action_table(objects.filter_actions, wide))
        blocks += _method_tables(objects.filter_actions)
    else:
        blocks += [show.policy_lines(entry, objects, True, wide) for entry in objects.policies]
        blocks += [show.filter_list_lines(e, objects.store, True, wide) for e in objects.filter_lists]
        blocks += [show.filter_action_lines(e, objects.store, True, wide) for e in objects.filter_actions]
    blocks.append(
        [
            f"No. of Policies          : {len(objects.policies)}",
            f"No. of FilterLists       : {len(objects.filter_lists)}",
            f"No. of FilterActions     : {len(objects.filter_actions)}",
            f"Store                    : {show.store_name(objects.store)}",
        ]
    )
    return Outcome(_joined(blocks), data.policy_set_data(objects))


def _rule_tables(policies: Iterable[Policy], wide: bool) -> list[list[str]]:
    return [
        [f"Rules of {printable(one.name)}", *show.rule_table(enumerate(one.rules, start=1), wide)]
        for one in policies
    ]


def _filter_tables(filter_lists: Iterable[FilterList], wide: bool) -> list[list[str]]:
    return [
        [f"Filters of {printable(one.name)}", *show.filter_table(one.filters, wide)] for one in filter_lists
    ]


def _method_tables(filter_actions: Iterable[FilterAction]) -> list[list[str]]:
    return [
        [f"Security methods of {printable(one.name)}", *show.method_table(one.methods)]
        for one in filter_actions
        if one.methods and one.action is Action.NEGOTIATE
    ]


def show_policy(session: Session, arguments: Arguments) -> Outcome:
    objects, name, wide = session.store.read(), arguments[NAME_OR_ALL_OBJECTS], arguments[WIDE]
    chosen = objects.policies if means_all(name) else (policy_named(objects, name),)
    values: dict[str, JsonValue] = {"policies": [data.policy_data(entry, objects.store) for entry in chosen]}
    if _table(arguments):
        blocks: list[Sequence[str]] = [show.policy_table(chosen, wide)]
        if _verbose(arguments):
            blocks += _rule_tables(chosen, wide)
        return Outcome(_joined(blocks), values)
    blocks = [show.policy_lines(entry, objects, _verbose(arguments), wide) for entry in chosen]
    blocks += _count("Policies", len(chosen), name)
    return Outcome(_joined(blocks), values)


def show_filter_list(session: Session, arguments: Arguments) -> Outcome:
    objects, wide = session.store.read(), arguments[WIDE]
    names = session.resolver.name if arguments.get(RESOLVED_DNS) else None
    name, of_rule = arguments.get(NAME_OR_ALL_OBJECTS), arguments.get(OF_RULE)
    if of_rule is not None:
        used = {rule.filter_list.casefold() for rule in _rules_named(objects, of_rule)}
        chosen = tuple(entry for entry in objects.filter_lists if entry.name.casefold() in used)
    elif name is None or means_all(name):
        chosen = objects.filter_lists
    else:
        chosen = (filter_list_named(objects, name),)
    values: dict[str, JsonValue] = {
        "filter_lists": [data.filter_list_data(entry, objects.store) for entry in chosen]
    }
    if _table(arguments):
        blocks: list[Sequence[str]] = [show.filter_list_table(chosen, wide)]
        if _verbose(arguments):
            blocks += _filter_tables(chosen, wide)
        return Outcome(_joined(blocks), values)
    blocks = [
        show.filter_list_lines(entry, objects.store, _verbose(arguments), wide, names) for entry in chosen
    ]
    blocks += _count("FilterLists", len(chosen), name)
    return Outcome(_joined(blocks), values)


def show_filter_action(session: Session, arguments: Arguments) -> Outcome:
    objects, wide = session.store.read(), arguments[WIDE]
    name, of_rule = arguments.get(NAME_OR_ALL_OBJECTS), arguments.get(OF_RULE)
    if of_rule is not None:
        used = {rule.filter_action.casefold() for rule in _rules_named(objects, of_rule)}
        chosen = tuple(entry for entry in objects.filter_actions if entry.name.casefold() in used)
    elif name is None or means_all(name):
        chosen = objects.filter_actions
    else:
        chosen = (filter_action_named(objects, name),)
    values: dict[str, JsonValue] = {
        "filter_actions": [data.filter_action_data(entry, objects.store) for entry in chosen]
    }
    if _table(arguments):
        tables = [show.filter_action_table(chosen, wide)]
        return Outcome(_joined(tables + (_method_tables(chosen) if _verbose(arguments) else [])), values)
    blocks: list[Sequence[str]] = [
        show.filter_action_lines(entry, objects.store, _verbose(arguments), wide) for entry in chosen
    ]
    blocks += _count("FilterActions", len(chosen), name)
    return Outcome(_joined(blocks), values)


def _count(label: str, count: int, name: str | None) -> list[list[str]]:
    return [[f"{'No. of ' + label:<25}: {count}"]] if means_all(name) else []


def _chosen_rules(policy: Policy, arguments: Arguments) -> list[tuple[int, Rule]]:
    numbered = list(enumerate(policy.rules, start=1))
    name = arguments.get(RULE_CHOICE)
    wanted_type = arguments.get(RULE_TYPE)
    if wanted_type is not None:
        tunnels = wanted_type is RuleType.TUNNEL
        numbered = [
            (number, rule) for number, rule in numbered if (rule.tunnel_endpoint is not None) == tunnels
        ]
    if means_all(name):
        return numbered
    named_default = any(rule.name.casefold() == "default" for rule in policy.rules)
    if name is not None and name.casefold() == "default" and not named_default:
        return [(number, rule) for number, rule in numbered if rule.is_default_response]
    wanted = chosen_rule(policy, arguments)
    return [(number, rule) for number, rule in numbered if rule.guid == wanted.guid]


def show_rule(session: Session, arguments: Arguments) -> Outcome:
    objects, wide = session.store.read(), arguments[WIDE]
    policy = policy_named(objects, arguments[POLICY])
    chosen = _chosen_rules(policy, arguments)
    values: list[JsonValue] = [data.rule_data(rule, number) for number, rule in chosen]
    if _table(arguments):
        tables = [show.rule_table(chosen, wide)]
        if _verbose(arguments):
            lists = dict.fromkeys(objects.filter_list(rule.filter_list) for _, rule in chosen)
            actions = dict.fromkeys(objects.filter_action(rule.filter_action) for _, rule in chosen)
            tables += _filter_tables([one for one in lists if one is not None], wide)
            tables += _method_tables([one for one in actions if one is not None])
        text = _joined(tables)
    else:
        blocks: list[Sequence[str]] = [
            show.rule_lines(rule, number, objects, _verbose(arguments), wide) for number, rule in chosen
        ]
        blocks += _count("Rules", len(chosen), arguments.get(RULE_CHOICE))
        text = _joined(blocks)
    return Outcome(text, {"policy": policy.name, "rules": values})


def show_store(session: Session, arguments: Arguments) -> Outcome:
    name = session.store.name
    return Outcome(f"{'Store':<25}: {show.store_name(name)}", {"store": name})


_LAYOUT = (LEVEL, FORMAT, WIDE)

COMMANDS = (
    Command(
        STATIC,
        ("show", "all"),
        "Shows all policies, filter lists and filter actions.",
        (FORMAT, WIDE),
        show_all,
    ),
    Command(
        STATIC,
        ("show", "filteraction"),
        "Shows a filter action, or all of them.",
        (NAME_OR_ALL_OBJECTS, OF_RULE, *_LAYOUT),
        show_filter_action,
        example="show filteraction all level=verbose",
    ),
    Command(
        STATIC,
        ("show", "filterlist"),
        "Shows a filter list, or all of them.",
        (NAME_OR_ALL_OBJECTS, OF_RULE, *_LAYOUT, RESOLVED_DNS),
        show_filter_list,
        example='show filterlist name="Telnet" level=verbose',
    ),
    Command(
        STATIC,
        ("show", "policy"),
        "Shows a policy, or all of them; with level=verbose their rules.",
        (NAME_OR_ALL_OBJECTS, *_LAYOUT),
        show_policy,
        example="show policy all format=table",
    ),
    Command(
        STATIC,
        ("show", "rule"),
        "Shows a rule of a policy, all of them, or the default response rule.",
        (RULE_CHOICE, RULE_ID, POLICY, RULE_TYPE, *_LAYOUT),
        show_rule,
        example='show rule all policy="Servers" level=verbose',
    ),
    Command(STATIC, ("show", "store"), "Shows which store the commands work on.", (), show_store),
)
