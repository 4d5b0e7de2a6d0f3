"""`netsh ipsec static add`: filter, filteraction, filterlist, policy, rule."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol
from uuid import UUID

from stockade.model.filters import Action
from stockade.model.negotiation import DEFAULT_MAIN_MODE_PROPOSALS, Kerberos
from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.grammar import Arguments, Command
from stockade.netsh.session import Outcome, Session, traffic_key
from stockade.netsh.static_common import (
    ACTION,
    ACTIVATE,
    ASSIGN,
    CONNECTION_TYPE,
    DEFAULT_RULE,
    DESCRIPTION,
    DESTINATION,
    DESTINATION_MASK,
    DESTINATION_PORT,
    DUPLICATE,
    FILTER_LIST,
    HAS_DEFAULT_RULE,
    INPASS,
    KERBEROS,
    MAIN_MODE,
    MAIN_MODE_LIFETIME,
    MASTER_PFS,
    MIRRORED,
    MODIFIED,
    NEW_GUID,
    NEW_OBJECT_NAME,
    NEW_RULE_NAME,
    POLICY,
    POLLING,
    PROTOCOL_,
    PSK,
    PSK_HEX,
    QUICK_MODE,
    QUICK_MODES,
    ROOTCA,
    RULE_FILTER_ACTION,
    SESSION_PFS,
    SOFT,
    SOURCE,
    SOURCE_MASK,
    SOURCE_PORT,
    STATIC,
    TUNNEL,
    authentication_from,
    default_response_rule,
    filter_action_named,
    filter_from,
    filter_list_named,
    identity_from,
    policy_named,
    require_securable,
    require_users_securable,
    tunnel_from,
)
from stockade.netsh.values import RESERVED_NAME
from stockade.policy.objects import (
    DEFAULT_MAIN_MODE_MINUTES,
    DEFAULT_POLLING_MINUTES,
    DEFAULT_QUICK_MODE_PROPOSALS,
    ConnectionType,
    FilterAction,
    FilterList,
    Policy,
    Rule,
    now,
)


def add_filter(session: Session, arguments: Arguments) -> Outcome:
    entry = replace(filter_from(arguments), origin=session.origin)
    name = arguments[FILTER_LIST]
    with session.store.transaction() as change:
        objects = change.read()
        filter_list = objects.filter_list(name)
        if filter_list is None:
            if name.casefold() == RESERVED_NAME:
                raise error_for(ReasonCode.SYNTAX, "“all” is reserved, no filter list can have this name")
            filter_list = FilterList(name)
        known = session.traffic_of(filter_list)
        if traffic_key(entry) in known and not arguments[DUPLICATE]:
            raise error_for(
                ReasonCode.NAME_EXISTS, f"filter list “{filter_list.name}” has this filter already"
            )
        require_users_securable(objects, filter_list, (entry,))
        changed = replace(filter_list, filters=(*filter_list.filters, entry), modified=now())
        change.put_filter_list(changed)
        known.add(traffic_key(entry))
        session.remember_traffic(changed, known)
    return Outcome()


def add_filter_list(session: Session, arguments: Arguments) -> Outcome:
    guid, modified = identity_from(arguments)
    with session.store.transaction() as change:
        _require_new_guid(guid, change.read().filter_lists)
        change.put_filter_list(
            FilterList(arguments[NEW_OBJECT_NAME], (), arguments.get_or(DESCRIPTION, ""), guid, modified)
        )
    return Outcome()


def add_filter_action(session: Session, arguments: Arguments) -> Outcome:
    action = arguments.get_or(ACTION, Action.NEGOTIATE)
    usual = DEFAULT_QUICK_MODE_PROPOSALS if action is Action.NEGOTIATE else ()
    guid, modified = identity_from(arguments)
    with session.store.transaction() as change:
        _require_new_guid(guid, change.read().filter_actions)
        change.put_filter_action(
            FilterAction(
                arguments[NEW_OBJECT_NAME],
                action,
                arguments.get_or(QUICK_MODE, usual),
                arguments.get_or(INPASS, False),
                arguments.get_or(SOFT, False),
                arguments.get_or(SESSION_PFS, False),
                arguments.get_or(DESCRIPTION, ""),
                guid,
                modified,
            )
        )
    return Outcome()


def add_policy(session: Session, arguments: Arguments) -> Outcome:
    master_pfs = arguments.get_or(MASTER_PFS, False)
    guid, modified = identity_from(arguments)
    default = (default_response_rule(arguments.get_or(DEFAULT_RULE, True)),)
    with session.store.transaction() as change:
        _require_new_guid(guid, change.read().policies)
        change.put_policy(
            Policy(
                arguments[NEW_OBJECT_NAME],
                default if arguments.get_or(HAS_DEFAULT_RULE, True) else (),
                arguments.get_or(ASSIGN, False),
                arguments.get_or(MAIN_MODE, DEFAULT_MAIN_MODE_PROPOSALS),
                arguments.get_or(MAIN_MODE_LIFETIME, DEFAULT_MAIN_MODE_MINUTES),
                1 if master_pfs else arguments.get_or(QUICK_MODES, 0),
                master_pfs,
                arguments.get_or(POLLING, DEFAULT_POLLING_MINUTES),
                arguments.get_or(DESCRIPTION, ""),
                guid,
                modified,
            )
        )
    return Outcome()


def add_rule(session: Session, arguments: Arguments) -> Outcome:
    authentication, tunnel = authentication_from(arguments), tunnel_from(session, arguments)
    guid, modified = identity_from(arguments)
    with session.store.transaction() as change:
        objects = change.read()
        policy = policy_named(objects, arguments[POLICY])
        _require_new_guid(guid, policy.rules)
        filter_list = filter_list_named(objects, arguments[FILTER_LIST])
        filter_action = filter_action_named(objects, arguments[RULE_FILTER_ACTION])
        if not arguments.given(NEW_GUID):  # a script of `dump` brings back what there was
            name = arguments[NEW_RULE_NAME]
            require_securable(policy.name, name, filter_action, filter_list.name, filter_list.filters)
        rule = Rule(
            arguments[NEW_RULE_NAME],
            filter_list.name,
            filter_action.name,
            (Kerberos(),) if authentication is None else authentication,
            tunnel,
            arguments.get_or(CONNECTION_TYPE, ConnectionType.ALL),
            arguments.get_or(ACTIVATE, True),
            arguments.get_or(DESCRIPTION, ""),
            guid,
            modified,
        )
        named = tuple(entry for entry in policy.rules if not entry.is_default_response)
        default = tuple(entry for entry in policy.rules if entry.is_default_response)
        change.put_policy(replace(policy, rules=(*named, rule, *default), modified=now()))
    return Outcome()


class _HasGuid(Protocol):
    @property
    def guid(self) -> UUID: ...


def _require_new_guid(guid: UUID, entries: Iterable[_HasGuid]) -> None:
    """A GUID that is given must not be that of another object: `put` would replace it."""
    if any(entry.guid == guid for entry in entries):
        raise error_for(ReasonCode.NAME_EXISTS, f"an object has the GUID {{{guid}}} already")


COMMANDS = (
    Command(
        STATIC,
        ("add", "filter"),
        "Adds a filter to a filter list.",
        (
            FILTER_LIST,
            SOURCE,
            DESTINATION,
            DESCRIPTION,
            PROTOCOL_,
            MIRRORED,
            SOURCE_MASK,
            DESTINATION_MASK,
            SOURCE_PORT,
            DESTINATION_PORT,
            DUPLICATE,
        ),
        add_filter,
        "A filter list that does not exist is made. A mask for me, any, a name or a kind of server is "
        "ignored. "
        "DNS, WINS, DHCP and GATEWAY are the servers that this computer is configured with; the other end is "
        "me then. A name stands for the addresses that it has at the time, and is looked up again later. "
        "Ours: a single /length, and me@4, any@6 … for one address family.",
        'add filter filterlist="Telnet" srcaddr=any dstaddr=me protocol=TCP dstport=23',
    ),
    Command(
        STATIC,
        ("add", "filteraction"),
        "Adds a filter action.",
        (
            NEW_OBJECT_NAME,
            DESCRIPTION,
            SESSION_PFS,
            INPASS,
            SOFT,
            ACTION,
            QUICK_MODE,
            NEW_GUID,
            MODIFIED,
        ),
        add_filter_action,
        "Encryption: DES, 3DES, None; ours: AES128, AES192, AES256, AESGCM128, AESGCM192, AESGCM256 (with "
        "hash None). Hash: MD5, SHA1; ours: SHA256, SHA384, SHA512. Lifetimes: <k>k kilobytes, <s>s seconds, "
        "by default 100000k/3600s.",
        'add filteraction name="Secure" qmsecmethods="ESP[AESGCM128,None] ESP[3DES,SHA1]:100000k/3600s"',
    ),
    Command(
        STATIC,
        ("add", "filterlist"),
        "Adds an empty filter list.",
        (NEW_OBJECT_NAME, DESCRIPTION, NEW_GUID, MODIFIED),
        add_filter_list,
        example='add filterlist name="Mail" description="Everything that the mail server does"',
    ),
    Command(
        STATIC,
        ("add", "policy"),
        "Adds a policy with its default response rule.",
        (
            NEW_OBJECT_NAME,
            DESCRIPTION,
            MASTER_PFS,
            QUICK_MODES,
            MAIN_MODE_LIFETIME,
            DEFAULT_RULE,
            POLLING,
            ASSIGN,
            MAIN_MODE,
            NEW_GUID,
            MODIFIED,
            HAS_DEFAULT_RULE,
        ),
        add_policy,
        "A main-mode method is encryption-hash-group: DES or 3DES, MD5 or SHA1, 1 (768), 2 (1024) or 3 "
        "(2048 bits); ours: AES128, AES192, AES256, SHA256, SHA384, SHA512, ECP256, ECP384, X25519.",
        'add policy name="Servers" mmsecmethods="AES256-SHA256-ECP256 3DES-SHA1-2" assign=yes',
    ),
    Command(
        STATIC,
        ("add", "rule"),
        "Adds a rule to a policy.",
        (
            NEW_RULE_NAME,
            POLICY,
            FILTER_LIST,
            RULE_FILTER_ACTION,
            TUNNEL,
            CONNECTION_TYPE,
            ACTIVATE,
            DESCRIPTION,
            KERBEROS,
            PSK,
            ROOTCA,
            PSK_HEX,
            NEW_GUID,
            MODIFIED,
        ),
        add_rule,
        "The order of kerberos=, psk= and rootca= on the line is the order of preference; without any of "
        "them it is Kerberos. A tunnel needs one rule for each direction, its filters not mirrored; a name "
        "as its end "
        "is looked up now.",
        'add rule name="Web" policy="Servers" filterlist="Web" filteraction="Secure" psk="a long random key"',
    ),
)
