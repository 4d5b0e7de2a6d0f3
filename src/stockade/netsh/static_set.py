"""`netsh ipsec static set`: batch, defaultrule, filteraction, filterlist, interactive, policy, rule, store.
What a command does not name stays as it is."""

from dataclasses import replace
from enum import StrEnum

from stockade.model.filters import Action
from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.grammar import Arguments, Command, Parameter
from stockade.netsh.session import Outcome, Session
from stockade.netsh.static_common import (
    ACTION,
    ACTIVATE,
    ASSIGN,
    CHANGED_NAME,
    CHANGED_RULE_NAME,
    CONNECTION_TYPE,
    DEFAULT_RULE,
    DESCRIPTION,
    FILTER_LIST,
    INPASS,
    KERBEROS,
    MAIN_MODE,
    MAIN_MODE_LIFETIME,
    MASTER_PFS,
    MODIFIED,
    NEW_GUID,
    OBJECT_GUID,
    OBJECT_NAME,
    POLICY,
    POLLING,
    PSK,
    PSK_HEX,
    QUICK_MODE,
    QUICK_MODES,
    ROOTCA,
    RULE_ID,
    SESSION_PFS,
    SOFT,
    STATIC,
    TUNNEL,
    Switch,
    authentication_from,
    by_name_or_guid,
    chosen_rule,
    filter_action_named,
    filter_list_named,
    policy_named,
    require_securable,
    require_users_securable,
    tunnel_from,
    with_default_response,
)
from stockade.netsh.values import NAME, TEXT, choice
from stockade.policy.objects import DEFAULT_QUICK_MODE_PROPOSALS, Policy, Rule, now


class Location(StrEnum):
    LOCAL = "local"
    PERSISTENT = "persistent"
    DOMAIN = "domain"


MODE = Parameter("mode", choice(Switch), "on or off", required=True)
LOCATION = Parameter("location", choice(Location), "where the policies are", required=True)
DOMAIN = Parameter("domain", TEXT, "name of the domain")
GPO_NAME = Parameter("gponame", TEXT, "group policy object to assign the policy in, by its name or GUID")
SET_FILTER_LIST = replace(FILTER_LIST, required=False)
SET_POLICY = (
    OBJECT_NAME,
    OBJECT_GUID,
    CHANGED_NAME,
    DESCRIPTION,
    MASTER_PFS,
    QUICK_MODES,
    MAIN_MODE_LIFETIME,
    DEFAULT_RULE,
    POLLING,
    ASSIGN,
    GPO_NAME,
    MAIN_MODE,
    MODIFIED,
)
SET_FILTER_ACTION = Parameter("filteraction", NAME, "name of the filter action")


def set_filter_list(session: Session, arguments: Arguments) -> Outcome:
    with session.store.transaction() as change:
        old = by_name_or_guid("filter list", arguments, change.read().filter_lists)
        change.put_filter_list(
            replace(
                old,
                name=arguments.get_or(CHANGED_NAME, old.name),
                description=arguments.get_or(DESCRIPTION, old.description),
                modified=arguments.get(MODIFIED) or now(),
            )
        )
    return Outcome()


def set_filter_action(session: Session, arguments: Arguments) -> Outcome:
    with session.store.transaction() as change:
        objects = change.read()
        old = by_name_or_guid("filter action", arguments, objects.filter_actions)
        action = arguments.get_or(ACTION, old.action)
        # Methods do not count for permit and block; kept where they are given with it.
        kept = (old.methods or DEFAULT_QUICK_MODE_PROPOSALS) if action is Action.NEGOTIATE else ()
        new = replace(
            old,
            name=arguments.get_or(CHANGED_NAME, old.name),
            action=action,
            methods=arguments.get_or(QUICK_MODE, kept),
            inpass=arguments.get_or(INPASS, old.inpass),
            soft=arguments.get_or(SOFT, old.soft),
            session_pfs=arguments.get_or(SESSION_PFS, old.session_pfs),
            description=arguments.get_or(DESCRIPTION, old.description),
            modified=arguments.get(MODIFIED) or now(),
        )
        if action is not old.action:
            for filter_list in objects.filter_lists:
                require_users_securable(objects, filter_list, filter_list.filters, new)
        change.put_filter_action(new)
    return Outcome()


def set_policy(session: Session, arguments: Arguments) -> Outcome:
    gpo = _assigned_by(session, arguments)
    if gpo is not None:
        return _assign(session, arguments, gpo)
    with session.store.transaction() as change:
        old = by_name_or_guid("policy", arguments, change.read().policies)
        master_pfs = arguments.get_or(MASTER_PFS, old.master_pfs)
        # Master PFS forced the limit to 1; without it, and without a new limit, there is none again.
        kept = 0 if old.master_pfs and not master_pfs else old.quick_modes_per_main_mode
        policy = replace(
            old,
            name=arguments.get_or(CHANGED_NAME, old.name),
            assigned=arguments.get_or(ASSIGN, old.assigned),
            main_mode_methods=arguments.get_or(MAIN_MODE, old.main_mode_methods),
            main_mode_minutes=arguments.get_or(MAIN_MODE_LIFETIME, old.main_mode_minutes),
            quick_modes_per_main_mode=1 if master_pfs else arguments.get_or(QUICK_MODES, kept),
            master_pfs=master_pfs,
            polling_minutes=arguments.get_or(POLLING, old.polling_minutes),
            description=arguments.get_or(DESCRIPTION, old.description),
            modified=arguments.get(MODIFIED) or now(),
        )
        active = arguments.get(DEFAULT_RULE)
        change.put_policy(policy if active is None else with_default_response(policy, active))
    return Outcome()


def _assigned_by(session: Session, arguments: Arguments) -> str | None:
    """The group policy object that the command is about."""
    domain, gpo = session.domain_store is not None, arguments.get(GPO_NAME)
    if gpo is not None and not domain:
        raise error_for(
            ReasonCode.SYNTAX,
            "gponame= goes with policies of a domain only",
            expected="set store location=domain",
        )
    if gpo is not None and not arguments.given(ASSIGN):
        raise error_for(ReasonCode.SYNTAX, "assign=yes or assign=no goes with gponame=", word="gponame=")
    if domain and gpo is None and arguments.given(ASSIGN):
        raise error_for(
            ReasonCode.SYNTAX,
            "in a domain a policy is assigned in a group policy object",
            expected="gponame=…",
        )
    return gpo


def _assign(session: Session, arguments: Arguments, gpo: str) -> Outcome:
    others = [one for one in SET_POLICY if one not in (OBJECT_NAME, OBJECT_GUID, ASSIGN, GPO_NAME)]
    if any(arguments.given(one) for one in others):
        raise error_for(
            ReasonCode.SYNTAX,
            "a policy is assigned in a group policy object by a command of its own",
            expected="name= or guid=, assign= and gponame=",
        )
    session.end_group()
    store = session.domain_store
    if session.buffer is not None or store is None:
        raise error_for(
            ReasonCode.NOT_AVAILABLE,
            "a group policy object is changed at once, so not while changes are collected",
            expected="set batch mode=disable first, or a script that is not atomic",
        )
    name = by_name_or_guid("policy", arguments, store.read().policies).name
    (store.assign if arguments[ASSIGN] else store.unassign)(name, gpo)
    return Outcome()


def set_rule(session: Session, arguments: Arguments) -> Outcome:
    authentication, tunnel = authentication_from(arguments), tunnel_from(session, arguments)
    with session.store.transaction() as change:
        objects = change.read()
        policy = policy_named(objects, arguments[POLICY])
        old = chosen_rule(policy, arguments)
        if old.is_default_response:
            raise error_for(
                ReasonCode.INVALID_POLICY,
                "this is the default response rule; set defaultrule changes it",
                policy=policy.name,
            )
        filter_list, filter_action = arguments.get(SET_FILTER_LIST), arguments.get(SET_FILTER_ACTION)
        new = replace(
            old,
            name=arguments.get_or(CHANGED_RULE_NAME, old.name),
            filter_list=filter_list_named(objects, filter_list).name if filter_list else old.filter_list,
            filter_action=(
                filter_action_named(objects, filter_action).name if filter_action else old.filter_action
            ),
            authentication=old.authentication if authentication is None else authentication,
            tunnel_endpoint=tunnel if arguments.given(TUNNEL) else old.tunnel_endpoint,
            connection_type=arguments.get_or(CONNECTION_TYPE, old.connection_type),
            active=arguments.get_or(ACTIVATE, old.active),
            description=arguments.get_or(DESCRIPTION, old.description),
            modified=now(),
        )
        if filter_list or filter_action:
            used, action = objects.filter_list(new.filter_list), objects.filter_action(new.filter_action)
            if used is not None and action is not None:
                require_securable(policy.name, new.name, action, used.name, used.filters)
        change.put_policy(_with_rule(policy, old, new))
    return Outcome()


def set_default_rule(session: Session, arguments: Arguments) -> Outcome:
    authentication = authentication_from(arguments)
    with session.store.transaction() as change:
        policy = policy_named(change.read(), arguments[POLICY])
        if not any(rule.is_default_response for rule in policy.rules):
            policy = with_default_response(policy, active=False)
        old = next(rule for rule in policy.rules if rule.is_default_response)
        new = replace(
            old,
            authentication=old.authentication if authentication is None else authentication,
            active=arguments.get_or(ACTIVATE, old.active),
            response_methods=arguments.get_or(QUICK_MODE, old.response_methods),
            response_session_pfs=arguments.get_or(SESSION_PFS, old.response_session_pfs),
            guid=arguments.get(NEW_GUID) or old.guid,
            modified=arguments.get(MODIFIED) or now(),
        )
        change.put_policy(_with_rule(policy, old, new))
    return Outcome()


def _with_rule(policy: Policy, old: Rule, new: Rule) -> Policy:
    rules = tuple(new if rule.guid == old.guid else rule for rule in policy.rules)
    return replace(policy, rules=rules, modified=now())


def set_store(session: Session, arguments: Arguments) -> Outcome:
    location = arguments[LOCATION]
    if location is Location.DOMAIN:
        session.choose_domain(arguments.get_or(DOMAIN, ""))
        return Outcome()
    if arguments.given(DOMAIN):
        raise error_for(ReasonCode.SYNTAX, "domain= goes with location=domain only", word="domain=")
    session.choose_store(location.value)
    return Outcome()


def set_batch(session: Session, arguments: Arguments) -> Outcome:
    if arguments[MODE] is Switch.ENABLE:
        session.begin_buffer()
        return Outcome()
    if session.atomic:
        return Outcome()  # the script as a whole is one batch
    session.end_buffer("set batch mode=disable (changes collected in batch mode)", keep=True)
    return Outcome()


def set_interactive(session: Session, arguments: Arguments) -> Outcome:
    session.interactive = arguments[MODE] is Switch.ENABLE
    return Outcome()


COMMANDS = (
    Command(
        STATIC,
        ("set", "defaultrule"),
        "Changes the default response rule of a policy.",
        (
            POLICY,
            SESSION_PFS,
            ACTIVATE,
            QUICK_MODE,
            KERBEROS,
            PSK,
            ROOTCA,
            PSK_HEX,
            NEW_GUID,
            MODIFIED,
        ),
        set_default_rule,
        "The rule is for peers that ask for security where no filter speaks of their traffic. This version "
        "keeps it and does not act on it yet.",
        'set defaultrule policy="Servers" activate=no',
    ),
    Command(
        STATIC,
        ("set", "filteraction"),
        "Changes a filter action, and so every rule that uses it.",
        (
            OBJECT_NAME,
            OBJECT_GUID,
            CHANGED_NAME,
            DESCRIPTION,
            SESSION_PFS,
            INPASS,
            SOFT,
            ACTION,
            QUICK_MODE,
            MODIFIED,
        ),
        set_filter_action,
        example='set filteraction name="Secure" qmpfs=yes',
    ),
    Command(
        STATIC,
        ("set", "filterlist"),
        "Changes the name or description of a filter list.",
        (OBJECT_NAME, OBJECT_GUID, CHANGED_NAME, DESCRIPTION, MODIFIED),
        set_filter_list,
        example='set filterlist name="Web" newname="Web servers"',
    ),
    Command(
        STATIC,
        ("set", "policy"),
        "Changes a policy; with assign=yes puts it in force.",
        SET_POLICY,
        set_policy,
        "In the store of a domain gponame= names the group policy object that assigns it, or no longer does.",
        example='set policy name="Servers" assign=yes',
    ),
    Command(
        STATIC,
        ("set", "rule"),
        "Changes a rule of a policy.",
        (
            OBJECT_NAME,
            RULE_ID,
            POLICY,
            CHANGED_RULE_NAME,
            DESCRIPTION,
            SET_FILTER_LIST,
            SET_FILTER_ACTION,
            TUNNEL,
            CONNECTION_TYPE,
            ACTIVATE,
            KERBEROS,
            PSK,
            ROOTCA,
            PSK_HEX,
        ),
        set_rule,
        "Authentication methods that are given replace all that the rule had.",
        'set rule name="Web" policy="Servers" activate=no',
    ),
    Command(
        STATIC,
        ("set", "store"),
        "Chooses the store that the commands work on.",
        (LOCATION, DOMAIN),
        set_store,
        "It holds until the shell or the script ends. The persistent policy is applied first when the agent "
        "starts, and the assigned local one is added to it. The store of a domain is its directory; there "
        "the tickets of who runs the command count (kinit).",
        "set store location=persistent",
    ),
    Command(
        STATIC,
        ("set", "batch"),
        "Collects changes, and writes them together.",
        (MODE,),
        set_batch,
        "Changes are written when batch mode is switched off, and when the shell or the script ends. Until "
        "then show shows them and nobody else sees them.",
        "set batch mode=enable",
    ),
    Command(
        STATIC,
        ("set", "interactive"),
        "Asks before something is deleted.",
        (MODE,),
        set_interactive,
        example="set interactive mode=disable",
    ),
)
