"""`netsh ipsec dynamic show`: what is in force now, as the running agent tells it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action
from stockade.model.traffic import protocol_name
from stockade.netsh.config import config_data, config_lines
from stockade.netsh.contract import JsonValue
from stockade.netsh.data import filter_data
from stockade.netsh.dynamic_common import DYNAMIC
from stockade.netsh.dynamic_data import (
    Names,
    Row,
    covers,
    dynamic_data,
    ipsec_statistics,
    main_mode_lines,
    main_mode_policy_data,
    main_mode_policy_lines,
    quick_mode_lines,
    quick_mode_policy_data,
    quick_mode_policy_lines,
    rows_of,
    rule_data,
    rule_lines,
    specific_filter_rows,
    statistics_lines,
    text_of,
)
from stockade.netsh.grammar import Arguments, Command, Parameter
from stockade.netsh.in_force import active_rules, assigned_policies_of, what_is_in_force
from stockade.netsh.session import Outcome, Session
from stockade.netsh.show import columns, filter_lines, filter_table
from stockade.netsh.static_common import FORMAT, RULE_TYPE, Format, RuleType, means_all, unknown
from stockade.netsh.values import (
    FILTER_ADDRESS,
    MASK,
    NAME_OR_ALL,
    PORT,
    PROTOCOL,
    YES_NO,
    AddressWord,
    Kind,
    choice,
    mask_length,
    prefix_range,
)
from stockade.netsh.words import printable
from stockade.policy.dynamic import MainModePolicyObject, QuickModePolicyObject
from stockade.policy.objects import Filter

P = TypeVar("P", MainModePolicyObject, QuickModePolicyObject)


class FilterType(StrEnum):
    GENERIC = "generic"
    SPECIFIC = "specific"


class Statistics(StrEnum):
    ALL = "all"
    IKE = "ike"
    IPSEC = "ipsec"


POLICY_NAME = Parameter("name", NAME_OR_ALL, "name of the policy, or all", default_text="all")
FILTER_NAME = Parameter("name", NAME_OR_ALL, "filters of this rule, or all", default_text="all")
FILTER_TYPE = Parameter(
    "type",
    choice(FilterType),
    "as configured, or as they are in force",
    default=FilterType.GENERIC,
    default_text="generic",
)
FROM = Parameter("srcaddr", FILTER_ADDRESS, "only what speaks of this source")
TO = Parameter("dstaddr", FILTER_ADDRESS, "only what speaks of this destination")
FROM_MASK = Parameter("srcmask", MASK, "mask of srcaddr")
TO_MASK = Parameter("dstmask", MASK, "mask of dstaddr")
OF_PROTOCOL = Parameter("protocol", PROTOCOL, "only this protocol")
FROM_PORT = Parameter("srcport", PORT, "only this source port")
TO_PORT = Parameter("dstport", PORT, "only this destination port")
INBOUND = Parameter("actioninbound", choice(Action), "only with this action for inbound packets")
OUTBOUND = Parameter("actionoutbound", choice(Action), "only with this action for outbound packets")
RESOLVED = Parameter("resolvedns", YES_NO, "show host names beside addresses", default_text="no")
ALL_WORD = Parameter(
    "all", Kind("all", "all", lambda text: _all(text)), "everything, which is the default", place="all"
)
KIND_OF_STATISTICS = Parameter(
    "type", choice(Statistics), "which statistics", default=Statistics.ALL, default_text="all"
)

_ENDS = (FROM, TO, FROM_MASK, TO_MASK)


def _all(text: str) -> str:
    if text.strip().casefold() != "all":
        raise ValueError("it is not “all”")
    return "all"


def _joined(blocks: Iterable[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks)


def _names(session: Session, arguments: Arguments) -> Names:
    return Names(session.resolver if arguments.get(RESOLVED) else None)


def _wanted(
    arguments: Arguments, address: Parameter[AddressWord], mask: Parameter[str]
) -> AddressRange | None:
    word = arguments.get(address)
    if word is None or word.addresses is None:
        return None
    length = arguments.get(mask)
    if length is None or word.complete:
        return word.addresses
    first = word.addresses.first
    return prefix_range(first, mask_length(length, first))


# -- policies and rules


def show_main_mode_policy(session: Session, arguments: Arguments) -> Outcome:
    chosen = _named("main-mode policy", arguments, what_is_in_force(session).main_modes)
    blocks = [[*main_mode_policy_lines(entry), _store_line(store)] for store, entry in chosen]
    blocks.append([f"No. of MainMode Policies : {len(chosen)}"])
    data: list[JsonValue] = [{**main_mode_policy_data(entry), "store": store} for store, entry in chosen]
    return Outcome(_joined(blocks), {"main_mode_policies": data})


def show_quick_mode_policy(session: Session, arguments: Arguments) -> Outcome:
    chosen = _named("quick-mode policy", arguments, what_is_in_force(session).quick_modes)
    blocks = [[*quick_mode_policy_lines(entry), _store_line(store)] for store, entry in chosen]
    blocks.append([f"No. of QuickMode Policies: {len(chosen)}"])
    data: list[JsonValue] = [{**quick_mode_policy_data(entry), "store": store} for store, entry in chosen]
    return Outcome(_joined(blocks), {"quick_mode_policies": data})


def _named(kind: str, arguments: Arguments, entries: Sequence[tuple[str, P]]) -> Sequence[tuple[str, P]]:
    """Those that `name=` means: all of that name, for two stores may have one."""
    name = arguments.get_or(POLICY_NAME, "all")
    if means_all(name):
        return entries
    found = [(store, entry) for store, entry in entries if entry.name.casefold() == name.casefold()]
    if not found:
        raise unknown(kind, name, [entry.name for _, entry in entries])
    return found


def _store_line(store: str) -> str:
    return f"{'Store':<25}: {store.capitalize()}"


def show_rule(session: Session, arguments: Arguments) -> Outcome:
    wanted_type = arguments.get(RULE_TYPE)
    chosen = [
        (store, named.name, rule)
        for store, named in what_is_in_force(session).rules
        if _matches(arguments, (rule := named.rule).filter)
        and (wanted_type is None or (rule.tunnel_endpoint is not None) == (wanted_type is RuleType.TUNNEL))
        and arguments.get_or(INBOUND, rule.action_inbound) is rule.action_inbound
        and arguments.get_or(OUTBOUND, rule.action_outbound) is rule.action_outbound
    ]
    blocks = [
        [*rule_lines(rule), f"{'Rule Name':<25}: {printable(name)}", _store_line(store)]
        for store, name, rule in chosen
    ]
    blocks.append([f"No. of Rules             : {len(chosen)}"])
    data: list[JsonValue] = [
        {**rule_data(rule), "name": name, "store": store} for store, name, rule in chosen
    ]
    return Outcome(_joined(blocks), {"rules": data})


def _matches(arguments: Arguments, entry: Filter) -> bool:
    for parameter, mask, end in ((FROM, FROM_MASK, entry.source), (TO, TO_MASK, entry.destination)):
        word = arguments.get(parameter)
        if word is None:
            continue
        wanted = _wanted(arguments, parameter, mask)
        if wanted is None:
            if (word.kind, word.name.casefold()) != (end.kind, end.name.casefold()):
                return False
        elif end.addresses is None or not end.addresses.overlaps(wanted):
            return False
    return (
        arguments.get_or(OF_PROTOCOL, entry.protocol) == entry.protocol
        and arguments.get_or(FROM_PORT, entry.source_port) == entry.source_port
        and arguments.get_or(TO_PORT, entry.destination_port) == entry.destination_port
    )


# -- filters


def _configured(session: Session) -> Iterator[tuple[str, Filter, Action, Action]]:
    """The filters of the rules that are in force, as configured: rule, filter, actions in and out."""
    for rule in session.dynamic.read().rules:
        yield rule.name, rule.filter, rule.action_inbound, rule.action_outbound
    for policy_set, policy in assigned_policies_of(session):
        for static, filter_list, action in active_rules(policy_set, policy):
            for entry in filter_list.filters:
                yield static.name, entry, action.action, action.action


def _show_generic(session: Session, arguments: Arguments, *, negotiated_only: bool) -> Outcome:
    name = arguments.get_or(FILTER_NAME, "all")
    chosen = [
        (rule, entry, inbound, outbound)
        for rule, entry, inbound, outbound in _configured(session)
        if _matches(arguments, entry)
        and (means_all(name) or rule.casefold() == name.casefold())
        and (not negotiated_only or Action.NEGOTIATE in (inbound, outbound))
        and arguments.get_or(INBOUND, inbound) is inbound
        and arguments.get_or(OUTBOUND, outbound) is outbound
    ]
    values: list[JsonValue] = [
        {
            **filter_data(entry),
            "rule": rule,
            "action_inbound": inbound.value,
            "action_outbound": outbound.value,
        }
        for rule, entry, inbound, outbound in chosen
    ]
    if arguments.get(FORMAT) is Format.TABLE:
        text = _joined([filter_table([entry for _, entry, _, _ in chosen], False)])
    else:
        blocks = [
            [
                f"{'Rule':<25}: {printable(rule) or 'NONE'}",
                *filter_lines(entry, False),
                f"{'Inbound Action':<25}: {inbound.value.upper()}",
                f"{'Outbound Action':<25}: {outbound.value.upper()}",
            ]
            for rule, entry, inbound, outbound in chosen
        ]
        blocks.append([f"No. of Generic Filters   : {len(chosen)}"])
        text = _joined(blocks)
    return Outcome(text, {"type": "generic", "filters": values})


def _specific(session: Session, arguments: Arguments) -> list[Row]:
    source, destination = (_wanted(arguments, *pair) for pair in ((FROM, FROM_MASK), (TO, TO_MASK)))
    name = arguments.get_or(FILTER_NAME, "all")
    rows = []
    for row in rows_of(session.agent.filters(), "filters"):
        action = INBOUND if row.get("direction") == "inbound" else OUTBOUND
        wanted_action = arguments.get(action)
        if (
            covers(text_of(row, "source"), source)
            and covers(text_of(row, "destination"), destination)
            and (means_all(name) or name.casefold() in text_of(row, "provenance").casefold())
            and (wanted_action is None or row.get("action") == wanted_action.value)
            and arguments.get_or(FROM_PORT, row.get("source_port")) == row.get("source_port")
            and arguments.get_or(TO_PORT, row.get("destination_port")) == row.get("destination_port")
            and _same_protocol(row, arguments.get(OF_PROTOCOL))
        ):
            rows.append(row)
    return rows


def _same_protocol(row: Row, wanted: int | None) -> bool:
    if wanted is None:
        return True
    try:
        return PROTOCOL.parse(text_of(row, "protocol")) == wanted
    except ValueError:
        return False


def show_quick_mode_filter(session: Session, arguments: Arguments) -> Outcome:
    if arguments[FILTER_TYPE] is FilterType.GENERIC:
        return _show_generic(session, arguments, negotiated_only=False)
    rows = _specific(session, arguments)
    lines = specific_filter_rows(rows, _names(session, arguments))
    text = _joined([lines, [f"No. of Specific Filters  : {len(rows)}"]])
    return Outcome(text, {"type": "specific", "filters": [dict(row) for row in rows]})


def show_main_mode_filter(session: Session, arguments: Arguments) -> Outcome:
    """Main mode knows addresses only: who negotiates with whom."""
    if arguments[FILTER_TYPE] is FilterType.GENERIC:
        return _show_generic(session, arguments, negotiated_only=True)
    pairs: dict[tuple[str, str, str], JsonValue] = {}
    for row in _specific(session, arguments):
        if row.get("negotiation"):
            key = (text_of(row, "direction"), text_of(row, "source"), text_of(row, "destination"))
            pairs.setdefault(key, row.get("negotiation"))
    names = _names(session, arguments)
    lines = columns(
        ("Direction", "Source", "Destination", "Policy"),
        [
            (direction, names(source), names(destination), str(negotiation))
            for (direction, source, destination), negotiation in pairs.items()
        ],
    )
    data: list[JsonValue] = [
        {"direction": direction, "source": source, "destination": destination, "negotiation": negotiation}
        for (direction, source, destination), negotiation in pairs.items()
    ]
    text = _joined([lines, [f"No. of Specific Filters  : {len(pairs)}"]])
    return Outcome(text, {"type": "specific", "filters": data})


# -- security associations and statistics


def _chosen_sas(session: Session, arguments: Arguments, key: str) -> list[Row]:
    source, destination = arguments.get(FROM), arguments.get(TO)
    rows = []
    for row in rows_of(session.agent.sas(), key):
        ends = ((source, text_of(row, "local")), (destination, text_of(row, "peer")))
        if all(word is None or covers(text, word.addresses) for word, text in ends):
            rows.append(row)
    return rows


def show_main_mode_sas(session: Session, arguments: Arguments) -> Outcome:
    rows, names = _chosen_sas(session, arguments, "main_modes"), _names(session, arguments)
    if arguments[FORMAT] is Format.TABLE:
        headers = ("Cookie Pair", "Sec Methods", "Auth Mode", "Source", "Destination")
        keys = ("cookies", "suite", "authentication", "local", "peer")
        blocks = [columns(headers, [[names(text_of(row, key)) for key in keys] for row in rows])]
    else:
        blocks = [["IKE Main Mode SAs", "-" * 17], *(main_mode_lines(row, names) for row in rows)]
    blocks.append([f"No. of MainMode SAs      : {len(rows)}"])
    return Outcome(_joined(blocks), {"main_modes": [dict(row) for row in rows]})


def show_quick_mode_sas(session: Session, arguments: Arguments) -> Outcome:
    rows, names = _chosen_sas(session, arguments, "quick_modes"), _names(session, arguments)
    wanted = arguments.get(OF_PROTOCOL)
    if wanted is not None:
        rows = [row for row in rows if _speaks_of(row, wanted)]
    if arguments[FORMAT] is Format.TABLE:
        headers = ("Source", "Destination", "Traffic", "Offer Used", "SPI In", "SPI Out")
        keys = ("local", "peer", "traffic", "suite", "inbound_spi", "outbound_spi")
        blocks = [columns(headers, [[names(text_of(row, key)) for key in keys] for row in rows])]
    else:
        blocks = [["Quick Mode SAs", "-" * 14], *(quick_mode_lines(row, names) for row in rows)]
    blocks.append([f"No. of QuickMode SAs     : {len(rows)}"])
    return Outcome(_joined(blocks), {"quick_modes": [dict(row) for row in rows]})


def _speaks_of(row: Row, protocol: int) -> bool:
    words = text_of(row, "traffic").casefold().replace(",", " ").split()
    return protocol == 0 or protocol_name(protocol).casefold() in words


def show_statistics(session: Session, arguments: Arguments) -> Outcome:
    kind = arguments[KIND_OF_STATISTICS]
    kinds = ("ike", "ipsec") if kind is Statistics.ALL else (kind.value,)
    status, sas = session.agent.status(), session.agent.sas()
    data: dict[str, JsonValue] = {}
    if "ike" in kinds:
        data["ike"] = status.get("ike")
        data["main_modes"], data["quick_modes"] = status.get("main_modes"), status.get("quick_modes")
    if "ipsec" in kinds:
        data["ipsec"] = dict(ipsec_statistics(status, sas))
    return Outcome("\n".join(statistics_lines(status, sas, kinds)), data)


def show_all(session: Session, arguments: Arguments) -> Outcome:
    names = _names(session, arguments)
    settings, objects, here = session.settings, session.dynamic.read(), what_is_in_force(session)
    filters, sas, status = session.agent.filters(), session.agent.sas(), session.agent.status()
    rows = rows_of(filters, "filters")
    main_modes, quick_modes = rows_of(sas, "main_modes"), rows_of(sas, "quick_modes")
    blocks: list[Sequence[str]] = [
        config_lines(settings),
        *([*main_mode_policy_lines(entry), _store_line(store)] for store, entry in here.main_modes),
        *([*quick_mode_policy_lines(entry), _store_line(store)] for store, entry in here.quick_modes),
        *([*rule_lines(named.rule), _store_line(store)] for store, named in here.rules),
        ["Filters in force", *specific_filter_rows(rows, names)],
        ["IKE Main Mode SAs", "-" * 17],
        *(main_mode_lines(row, names) for row in main_modes),
        ["Quick Mode SAs", "-" * 14],
        *(quick_mode_lines(row, names) for row in quick_modes),
        statistics_lines(status, sas, ("ike", "ipsec")),
    ]
    data: dict[str, JsonValue] = {
        "config": config_data(settings),
        **dynamic_data(objects),
        "policy": filters.get("policy"),
        "filters": [dict(row) for row in rows],
        "main_modes": [dict(row) for row in main_modes],
        "quick_modes": [dict(row) for row in quick_modes],
        "ike": status.get("ike"),
        "ipsec": dict(ipsec_statistics(status, sas)),
    }
    return Outcome(_joined(blocks), data)


# Windows has it for security associations only.
OUR_FORMAT = replace(FORMAT, ours=True)
_FILTER = (FILTER_NAME, FILTER_TYPE, *_ENDS)

COMMANDS = (
    Command(
        DYNAMIC,
        ("show", "all"),
        "Shows settings, policies, filters, security associations and statistics.",
        (RESOLVED,),
        show_all,
        changes=False,
    ),
    Command(
        DYNAMIC,
        ("show", "mmpolicy"),
        "Shows a main-mode policy, or all of them.",
        (POLICY_NAME,),
        show_main_mode_policy,
        example="show mmpolicy all",
        changes=False,
    ),
    Command(
        DYNAMIC,
        ("show", "qmpolicy"),
        "Shows a quick-mode policy, or all of them.",
        (POLICY_NAME,),
        show_quick_mode_policy,
        example="show qmpolicy all",
        changes=False,
    ),
    Command(
        DYNAMIC,
        ("show", "mmfilter"),
        "Shows which computers negotiate with each other.",
        (*_FILTER, RESOLVED, OUR_FORMAT),
        show_main_mode_filter,
        example="show mmfilter all type=specific",
        changes=False,
    ),
    Command(
        DYNAMIC,
        ("show", "qmfilter"),
        "Shows the filters: as configured, or as they are in force.",
        (*_FILTER, OF_PROTOCOL, FROM_PORT, TO_PORT, INBOUND, OUTBOUND, RESOLVED, OUR_FORMAT),
        show_quick_mode_filter,
        example="show qmfilter all type=specific",
        changes=False,
    ),
    Command(
        DYNAMIC,
        ("show", "rule"),
        "Shows the dynamic rules.",
        (RULE_TYPE, *_ENDS, OF_PROTOCOL, FROM_PORT, TO_PORT, INBOUND, OUTBOUND, RESOLVED),
        show_rule,
        example="show rule type=transport",
        changes=False,
    ),
    Command(
        DYNAMIC,
        ("show", "mmsas"),
        "Shows the main-mode security associations.",
        (ALL_WORD, FROM, TO, FORMAT, RESOLVED),
        show_main_mode_sas,
        example="show mmsas format=table",
        changes=False,
    ),
    Command(
        DYNAMIC,
        ("show", "qmsas"),
        "Shows the quick-mode security associations.",
        (ALL_WORD, FROM, TO, OF_PROTOCOL, FORMAT, RESOLVED),
        show_quick_mode_sas,
        example="show qmsas format=table",
        changes=False,
    ),
    Command(
        DYNAMIC,
        ("show", "stats"),
        "Shows statistics of the key exchange and of the security associations.",
        (KIND_OF_STATISTICS,),
        show_statistics,
        example="show stats type=ike",
        changes=False,
    ),
)
