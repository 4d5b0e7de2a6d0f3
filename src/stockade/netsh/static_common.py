"""What the commands of `netsh ipsec static` share: their parameters, finding objects by name or GUID, and
building filters and authentication lists from words."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeVar
from uuid import UUID, uuid4

from stockade.model.addresses import Address
from stockade.model.filters import Action
from stockade.model.negotiation import AuthenticationMethod, Certificate, Kerberos, PresharedKey
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret
from stockade.netsh.grammar import Arguments, Parameter
from stockade.netsh.methods import MAIN_MODE_METHODS, QUICK_MODE_METHODS, ROOT_CA
from stockade.netsh.session import Session
from stockade.netsh.values import (
    FILTER_ADDRESS,
    GUID,
    MASK,
    MAXIMUM_COUNT,
    MOMENT,
    NAME,
    NAME_OR_ALL,
    NEW_NAME,
    PORT,
    PRESHARED_KEY,
    PRESHARED_KEY_HEX,
    PROTOCOL,
    RESERVED_NAME,
    RULE_NAME,
    TEXT,
    TUNNEL_ENDPOINT,
    YES_NO,
    AddressWord,
    choice,
    mask_length,
    number,
    prefix_range,
)
from stockade.netsh.words import nearest, shown, syntax_error
from stockade.policy.exemptions import unsecurable_end
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DYNAMIC_FILTER_LIST,
    ConnectionType,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
    now,
)

STATIC = ("ipsec", "static")


class Level(StrEnum):
    NORMAL = "normal"
    VERBOSE = "verbose"


class Format(StrEnum):
    LIST = "list"
    TABLE = "table"


class Switch(StrEnum):
    ENABLE = "enable"
    DISABLE = "disable"


class RuleType(StrEnum):
    TUNNEL = "tunnel"
    TRANSPORT = "transport"


# Ours, for scripts that rebuild a store exactly (`dump`).
NEW_GUID = Parameter("guid", GUID, "its GUID; without it a new one is made", ours=True)
MODIFIED = Parameter("modified", MOMENT, "when it was last modified; without it now", ours=True)

NEW_OBJECT_NAME = Parameter("name", NEW_NAME, "name of the new object", required=True)
OBJECT_NAME = Parameter("name", NAME, "name of the object", required=True, place="name")
OBJECT_GUID = Parameter("guid", GUID, "its GUID instead of its name", place="name")
CHANGED_NAME = Parameter("newname", NEW_NAME, "the new name; rules that use the object follow")
NAME_OR_ALL_OBJECTS = Parameter(
    "name", NAME_OR_ALL, "name of the object, or all", required=True, place="name"
)
DESCRIPTION = Parameter("description", TEXT, "what it is for")

# filters
FILTER_LIST = Parameter("filterlist", NAME, "name of the filter list", required=True)
SOURCE = Parameter("srcaddr", FILTER_ADDRESS, "source address of the packet", required=True)
DESTINATION = Parameter("dstaddr", FILTER_ADDRESS, "destination address of the packet", required=True)
PROTOCOL_ = Parameter("protocol", PROTOCOL, "protocol of the packet", default=0, default_text="any")
MIRRORED = Parameter("mirrored", YES_NO, "also for the answers", default=True, default_text="yes")
SOURCE_MASK = Parameter(
    "srcmask", MASK, "mask of the source; without meaning for me and any", default_text="255.255.255.255"
)
DESTINATION_MASK = Parameter(
    "dstmask", MASK, "mask of the destination; without meaning for me and any", default_text="255.255.255.255"
)
SOURCE_PORT = Parameter("srcport", PORT, "source port, with TCP and UDP", default=0, default_text="0")
DESTINATION_PORT = Parameter(
    "dstport", PORT, "destination port, with TCP and UDP", default=0, default_text="0"
)

DUPLICATE = Parameter(
    "duplicate",
    YES_NO,
    "add it although the list has it already",
    default=False,
    default_text="no",
    ours=True,
)

# filter actions
SESSION_PFS = Parameter(
    "qmpfs", YES_NO, "a new Diffie-Hellman exchange in each quick mode", default_text="no"
)
INPASS = Parameter("inpass", YES_NO, "accept clear packets, but always answer secured", default_text="no")
SOFT = Parameter("soft", YES_NO, "fall back to clear with computers that have no IPsec", default_text="no")
ACTION = Parameter("action", choice(Action), "what happens to the packets", default_text="negotiate")
QUICK_MODE = Parameter(
    "qmsecmethods",
    QUICK_MODE_METHODS,
    "quick-mode security methods, the most wanted one first; only with action=negotiate",
    default_text='"ESP[3DES,SHA1] ESP[3DES,MD5]"',
)

# policies
MASTER_PFS = Parameter("mmpfs", YES_NO, "one quick mode per main mode (sets qmpermm=1)", default_text="no")
QUICK_MODES = Parameter(
    "qmpermm", number(0, MAXIMUM_COUNT), "quick modes per main mode, 0 for no limit", default_text="0"
)
MAIN_MODE_LIFETIME = Parameter(
    "mmlifetime",
    number(1, 35_791_394, "<minutes>", "minutes"),
    "main-mode lifetime in minutes",
    default_text="480",
)
HAS_DEFAULT_RULE = Parameter(
    "hasdefaultrule", YES_NO, "no: make the policy without its default response rule", ours=True
)
DEFAULT_RULE = Parameter(
    "activatedefaultrule", YES_NO, "switch the default response rule on", default_text="yes"
)
POLLING = Parameter(
    "pollinginterval",
    number(0, 35_791_394, "<minutes>", "minutes"),
    "how often the agent looks for changes, in minutes",
    default_text="180",
)
ASSIGN = Parameter(
    "assign", YES_NO, "put the policy in force, in place of the one that is", default_text="no"
)
MAIN_MODE = Parameter(
    "mmsecmethods",
    MAIN_MODE_METHODS,
    "main-mode security methods, the most wanted one first",
    default_text='"3DES-SHA1-2 3DES-MD5-2 DES-SHA1-1 DES-MD5-1"',
)

# rules
POLICY = Parameter("policy", NAME, "name of the policy that the rule is in", required=True)
NEW_RULE_NAME = Parameter("name", RULE_NAME, 'name of the new rule; "" for none', required=True)
CHANGED_RULE_NAME = Parameter("newname", RULE_NAME, 'the new name; "" for none')
RULE_ID = Parameter(
    "id", number(1, MAXIMUM_COUNT, "<number>"), "number of the rule, as show tells it", place="name"
)
RULE_FILTER_ACTION = Parameter("filteraction", NAME, "name of the filter action", required=True)
TUNNEL = Parameter("tunnel", TUNNEL_ENDPOINT, "other end of the tunnel; without it transport mode")
CONNECTION_TYPE = Parameter(
    "conntype", choice(ConnectionType, "lan|dialup|all"), "kind of connection", default_text="all"
)
ACTIVATE = Parameter("activate", YES_NO, "switch the rule on", default_text="yes")
KERBEROS = Parameter("kerberos", YES_NO, "authenticate by Kerberos V5")
PSK = Parameter(
    "psk", PRESHARED_KEY, "authenticate by this pre-shared key; kept in clear; repeatable", repeatable=True
)
PSK_HEX = Parameter(
    "pskhex", PRESHARED_KEY_HEX, "a pre-shared key in hexadecimal; repeatable", repeatable=True, ours=True
)
ROOTCA = Parameter(
    "rootca", ROOT_CA, "authenticate by a certificate under this root; repeatable", repeatable=True
)
AUTHENTICATION: tuple[Parameter[object], ...] = (KERBEROS, PSK, ROOTCA, PSK_HEX)

# show
LEVEL = Parameter("level", choice(Level), "how much", default=Level.NORMAL, default_text="normal")
FORMAT = Parameter("format", choice(Format), "how it is laid out", default=Format.LIST, default_text="list")
WIDE = Parameter("wide", YES_NO, "do not cut long texts", default=False, default_text="no")
RULE_TYPE = Parameter("type", choice(RuleType), "only rules of this type")


# -- finding objects


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def guid(self) -> UUID: ...


N = TypeVar("N", bound=_Named)


def unknown(kind: str, name: str, names: Iterable[str], **facts: str) -> StockadeError:
    """UNKNOWN_NAME with the nearest name that there is."""
    closest = nearest(name, names)
    if closest is not None:
        facts["nearest"] = closest
    return error_for(ReasonCode.UNKNOWN_NAME, f"there is no {kind} “{shown(name)}”", **facts)


def by_name(kind: str, name: str, entries: Iterable[N], **facts: str) -> N:
    entries = tuple(entries)
    for entry in entries:
        if entry.name and entry.name.casefold() == name.casefold():
            return entry
    raise unknown(kind, name, [entry.name for entry in entries if entry.name], **facts)


def by_name_or_guid(kind: str, arguments: Arguments, entries: Iterable[N]) -> N:
    """The object that `name=` or `guid=` names."""
    guid = arguments.get(OBJECT_GUID)
    if guid is None:
        return by_name(kind, arguments[OBJECT_NAME], entries)
    for entry in entries:
        if entry.guid == guid:
            return entry
    raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no {kind} with the GUID {{{guid}}}")


def policy_named(objects: PolicySet, name: str) -> Policy:
    return by_name("policy", name, objects.policies)


def filter_list_named(objects: PolicySet, name: str) -> FilterList:
    return by_name("filter list", name, objects.filter_lists)


def filter_action_named(objects: PolicySet, name: str) -> FilterAction:
    return by_name("filter action", name, objects.filter_actions)


def chosen_rule(policy: Policy, arguments: Arguments) -> Rule:
    """The rule that `name=` or `id=` names."""
    rule_id = arguments.get(RULE_ID)
    if rule_id is None:
        name = arguments.get(OBJECT_NAME) or ""
        return by_name("rule", name, policy.rules, policy=policy.name)
    if rule_id > len(policy.rules):
        raise error_for(
            ReasonCode.UNKNOWN_NAME,
            f"policy “{policy.name}” has no rule {rule_id}",
            expected=f"1 to {len(policy.rules)}",
        )
    return policy.rules[rule_id - 1]


def means_all(name: str | None) -> bool:
    return name is not None and name.casefold() == RESERVED_NAME


# -- building objects


def _end(arguments: Arguments, address: Parameter[AddressWord], mask: Parameter[str]) -> FilterAddress:
    word, mask_text = arguments[address], arguments.get(mask)
    # For me, any, names and kinds of server a mask has no meaning, and Windows' own scripts give one.
    if word.addresses is None:
        return FilterAddress(word.kind, None, word.name, word.version)
    if mask_text is None:
        return FilterAddress.of(word.addresses)
    if word.complete:
        raise syntax_error(
            f"{mask.tag}= cannot stand beside a range or an address with /length",
            word=mask_text,
            expected=f"{address.tag}=<address> with {mask.tag}=, or one of the other forms alone",
        )
    first = word.addresses.first
    try:
        return FilterAddress.of(prefix_range(first, mask_length(mask_text, first)))
    except ValueError as error:
        raise syntax_error(f"{mask.tag}=: {error}", word=mask_text, expected=MASK.expected) from None


def filter_from(arguments: Arguments) -> Filter:
    """The filter that `add filter` and `delete filter` describe."""
    try:
        return Filter(
            _end(arguments, SOURCE, SOURCE_MASK),
            _end(arguments, DESTINATION, DESTINATION_MASK),
            arguments[PROTOCOL_],
            arguments[SOURCE_PORT],
            arguments[DESTINATION_PORT],
            arguments[MIRRORED],
            arguments.get_or(DESCRIPTION, ""),
        )
    except ValueError as error:
        raise error_for(ReasonCode.INVALID_FILTER, str(error)) from None


def tunnel_from(session: Session, arguments: Arguments) -> Address | None:
    """The end point that `tunnel=` names; a name is looked up now and its first address taken."""
    return tunnel_endpoint(session, arguments.get(TUNNEL))


def tunnel_endpoint(session: Session, word: Address | str | None) -> Address | None:
    """The address that the word for a tunnel's end point means: a host name is looked up now."""
    if not isinstance(word, str):
        return word
    found = session.resolver.addresses(word)
    if not found:
        raise error_for(ReasonCode.UNKNOWN_NAME, f"the host name “{shown(word)}” has no address")
    return found[0]


def identity_from(arguments: Arguments) -> tuple[UUID, datetime]:
    """GUID and last-modified time of a new object."""
    return arguments.get(NEW_GUID) or uuid4(), arguments.get(MODIFIED) or now()


def authentication_from(arguments: Arguments) -> tuple[AuthenticationMethod, ...] | None:
    """The methods in the order of the command line; None where none was named."""
    methods: list[AuthenticationMethod] = []
    named = False
    for parameter, value in arguments:
        if parameter not in AUTHENTICATION:
            continue
        named = True
        if isinstance(value, Secret):
            methods.append(PresharedKey(value))
        elif isinstance(value, Certificate):
            methods.append(value)
        elif value is True:
            methods.append(Kerberos())
    if named and not methods:
        raise syntax_error(
            "kerberos=no leaves no way to authenticate",
            word="kerberos=no",
            expected="psk= or rootca= beside it",
        )
    return tuple(methods) if named else None


def default_response_rule(active: bool) -> Rule:
    """The rule without a name that every policy has."""
    return Rule("", DYNAMIC_FILTER_LIST, DEFAULT_RESPONSE_ACTION, active=active, is_default_response=True)


def with_default_response(policy: Policy, active: bool) -> Policy:
    """`policy` with its default response rule switched on or off (and added where an import left it out)."""
    rules = tuple(
        replace(rule, active=active, modified=now()) if rule.is_default_response else rule
        for rule in policy.rules
    )
    if not any(rule.is_default_response for rule in rules):
        rules += (default_response_rule(active),)
    return replace(policy, rules=rules)


def require_securable(
    policy: str, rule: str, filter_action: FilterAction, filter_list: str, filters: Iterable[Filter]
) -> None:
    """CallerError NOT_SECURABLE where a rule would ask for security for nothing but multicast or broadcast:
    the agent would refuse the whole policy for it, perhaps much later."""
    if filter_action.action is not Action.NEGOTIATE:
        return
    for entry in filters:
        addresses = unsecurable_end(entry)
        if addresses is not None:
            raise error_for(
                ReasonCode.NOT_SECURABLE,
                f"“{filter_list}” names {addresses}, and “{filter_action.name}” negotiates",
                rule=rule,
                policy=policy,
            )


def require_users_securable(
    objects: PolicySet,
    filter_list: FilterList,
    filters: Iterable[Filter],
    filter_action: FilterAction | None = None,
) -> None:
    """The same for all rules that use the list: with `filters` in it, or another form of their action."""
    doubtful = [entry for entry in filters if unsecurable_end(entry) is not None]
    if not doubtful:
        return
    for policy in objects.policies:
        for rule in policy.rules:
            if rule.is_default_response or rule.filter_list.casefold() != filter_list.name.casefold():
                continue
            used = objects.filter_action(rule.filter_action)
            if filter_action is not None:
                used = filter_action if used is not None and used.guid == filter_action.guid else None
            if used is not None:
                require_securable(policy.name, rule.name, used, filter_list.name, doubtful)
