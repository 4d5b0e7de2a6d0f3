"""`netsh ipsec dynamic add`, `set`, `delete`: objects in the memory of the running agent. They act at once,
and are gone when it stops."""

from collections.abc import Mapping
from dataclasses import replace

from stockade.model.filters import Action
from stockade.model.negotiation import DEFAULT_MAIN_MODE_PROPOSALS, Kerberos
from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.dynamic_common import (
    ACTION_INBOUND,
    ACTION_OUTBOUND,
    DYNAMIC,
    IDENTIFYING,
    MAIN_MODE_POLICY,
    PFS_GROUP,
    QUICK_MODE_POLICY,
    SOFT,
    SOFT_EXPIRATION,
    TUNNEL,
    chosen_rule,
    find_rule,
    identified,
    in_use,
    main_mode_policy_named,
    quick_mode_policy_named,
    require_new_name,
)
from stockade.netsh.grammar import Arguments, Command, Parameter
from stockade.netsh.session import Outcome, Session
from stockade.netsh.static_common import (
    CONNECTION_TYPE,
    DESTINATION,
    DESTINATION_MASK,
    DESTINATION_PORT,
    KERBEROS,
    MAIN_MODE,
    MAIN_MODE_LIFETIME,
    MIRRORED,
    NAME_OR_ALL_OBJECTS,
    NEW_OBJECT_NAME,
    OBJECT_NAME,
    PROTOCOL_,
    PSK,
    PSK_HEX,
    QUICK_MODE,
    QUICK_MODES,
    ROOTCA,
    SOURCE,
    SOURCE_MASK,
    SOURCE_PORT,
    N,
    authentication_from,
    by_name,
    means_all,
)
from stockade.netsh.values import FILTER_ADDRESS, Kind
from stockade.netsh.words import shown
from stockade.policy.dynamic import (
    DynamicRule,
    DynamicSet,
    MainModePolicyObject,
    PfsGroup,
    QuickModePolicyObject,
)
from stockade.policy.objects import DEFAULT_MAIN_MODE_MINUTES, DEFAULT_QUICK_MODE_PROPOSALS, now

PEER = Parameter(
    "peer",
    Kind("<address>", "an address", lambda text: FILTER_ADDRESS.parse(text)),
    "address of the peer whose SAs end",
    required=True,
)


def add_main_mode_policy(session: Session, arguments: Arguments) -> Outcome:
    made = MainModePolicyObject(
        arguments[NEW_OBJECT_NAME],
        arguments.get_or(MAIN_MODE, DEFAULT_MAIN_MODE_PROPOSALS),
        arguments.get_or(MAIN_MODE_LIFETIME, DEFAULT_MAIN_MODE_MINUTES),
        arguments.get_or(QUICK_MODES, 0),
        arguments.get_or(SOFT_EXPIRATION, DEFAULT_MAIN_MODE_MINUTES),
    )
    with session.dynamic.transaction() as change:
        objects = change.read()
        require_new_name("main-mode policy", made.name, [one.name for one in objects.main_mode_policies])
        change.replace(replace(objects, main_mode_policies=(*objects.main_mode_policies, made)))
    return Outcome()


def add_quick_mode_policy(session: Session, arguments: Arguments) -> Outcome:
    made = QuickModePolicyObject(
        arguments[NEW_OBJECT_NAME],
        arguments.get_or(QUICK_MODE, DEFAULT_QUICK_MODE_PROPOSALS),
        arguments.get_or(SOFT, False),
        arguments.get_or(PFS_GROUP, PfsGroup.NOPFS),
    )
    with session.dynamic.transaction() as change:
        objects = change.read()
        require_new_name("quick-mode policy", made.name, [one.name for one in objects.quick_mode_policies])
        change.replace(replace(objects, quick_mode_policies=(*objects.quick_mode_policies, made)))
    return Outcome()


def add_rule(session: Session, arguments: Arguments) -> Outcome:
    traffic, tunnel, connection_type = identified(session, arguments)
    authentication = authentication_from(arguments)
    quick_mode = arguments.get(QUICK_MODE_POLICY)
    with session.dynamic.transaction() as change:
        objects = change.read()
        if find_rule(objects, traffic, tunnel, connection_type) is not None:
            raise error_for(
                ReasonCode.NAME_EXISTS, "there is such a dynamic rule already; set rule changes it"
            )
        main_mode = main_mode_policy_named(objects, arguments[MAIN_MODE_POLICY]).name
        try:
            made = DynamicRule(
                traffic,
                main_mode,
                quick_mode_policy_named(objects, quick_mode).name if quick_mode else "",
                arguments.get_or(ACTION_INBOUND, Action.NEGOTIATE),
                arguments.get_or(ACTION_OUTBOUND, Action.NEGOTIATE),
                (Kerberos(),) if authentication is None else authentication,
                tunnel,
                connection_type,
            )
        except ValueError as error:
            raise error_for(ReasonCode.INVALID_POLICY, str(error), expected="qmpolicy=<name>") from None
        change.replace(replace(objects, rules=(*objects.rules, made)))
    return Outcome()


def set_main_mode_policy(session: Session, arguments: Arguments) -> Outcome:
    with session.dynamic.transaction() as change:
        objects = change.read()
        old = main_mode_policy_named(objects, arguments[OBJECT_NAME])
        new = replace(
            old,
            methods=arguments.get_or(MAIN_MODE, old.methods),
            main_mode_minutes=arguments.get_or(MAIN_MODE_LIFETIME, old.main_mode_minutes),
            quick_modes_per_main_mode=arguments.get_or(QUICK_MODES, old.quick_modes_per_main_mode),
            soft_expiration_minutes=arguments.get_or(SOFT_EXPIRATION, old.soft_expiration_minutes),
            modified=now(),
        )
        kept = tuple(new if one.guid == old.guid else one for one in objects.main_mode_policies)
        change.replace(replace(objects, main_mode_policies=kept))
    return Outcome()


def set_quick_mode_policy(session: Session, arguments: Arguments) -> Outcome:
    with session.dynamic.transaction() as change:
        objects = change.read()
        old = quick_mode_policy_named(objects, arguments[OBJECT_NAME])
        new = replace(
            old,
            methods=arguments.get_or(QUICK_MODE, old.methods),
            soft=arguments.get_or(SOFT, old.soft),
            pfs_group=arguments.get_or(PFS_GROUP, old.pfs_group),
            modified=now(),
        )
        kept = tuple(new if one.guid == old.guid else one for one in objects.quick_mode_policies)
        change.replace(replace(objects, quick_mode_policies=kept))
    return Outcome()


def set_rule(session: Session, arguments: Arguments) -> Outcome:
    traffic, tunnel, connection_type = identified(session, arguments)
    authentication = authentication_from(arguments)
    main_mode, quick_mode = arguments.get(SET_MAIN_MODE_POLICY), arguments.get(QUICK_MODE_POLICY)
    with session.dynamic.transaction() as change:
        objects = change.read()
        old = chosen_rule(objects, traffic, tunnel, connection_type)
        try:
            new = replace(
                old,
                main_mode_policy=(
                    main_mode_policy_named(objects, main_mode).name if main_mode else old.main_mode_policy
                ),
                quick_mode_policy=(
                    quick_mode_policy_named(objects, quick_mode).name if quick_mode else old.quick_mode_policy
                ),
                action_inbound=arguments.get_or(ACTION_INBOUND, old.action_inbound),
                action_outbound=arguments.get_or(ACTION_OUTBOUND, old.action_outbound),
                authentication=old.authentication if authentication is None else authentication,
                modified=now(),
            )
        except ValueError as error:
            raise error_for(ReasonCode.INVALID_POLICY, str(error), expected="qmpolicy=<name>") from None
        kept = tuple(new if one.guid == old.guid else one for one in objects.rules)
        change.replace(replace(objects, rules=kept))
    return Outcome()


def delete_all(session: Session, arguments: Arguments) -> Outcome:
    if not session.confirmed("Delete all dynamic policies and rules?"):
        return Outcome("Nothing was deleted.")
    with session.dynamic.transaction() as change:
        change.replace(DynamicSet())
    return Outcome()


def _without(kind: str, there: tuple[N, ...], name: str, used: Mapping[str, DynamicRule]) -> tuple[N, ...]:
    """`there` without the object of this name, or without any where it means all. CallerError IN_USE where a
    rule has it (`used`: by the folded name of what it uses)."""
    chosen = there if means_all(name) else (by_name(kind, name, there),)
    for entry in chosen:
        if (rule := used.get(entry.name.casefold())) is not None:
            raise in_use(kind, entry.name, rule)
    return tuple(one for one in there if one not in chosen)


def delete_main_mode_policy(session: Session, arguments: Arguments) -> Outcome:
    name = arguments[NAME_OR_ALL_OBJECTS]
    if not session.confirmed(f"Delete main-mode policy “{shown(name)}”?"):
        return Outcome("Nothing was deleted.")
    with session.dynamic.transaction() as change:
        objects = change.read()
        used = {rule.main_mode_policy.casefold(): rule for rule in reversed(objects.rules)}
        kept = _without("main-mode policy", objects.main_mode_policies, name, used)
        change.replace(replace(objects, main_mode_policies=kept))
    return Outcome()


def delete_quick_mode_policy(session: Session, arguments: Arguments) -> Outcome:
    name = arguments[NAME_OR_ALL_OBJECTS]
    if not session.confirmed(f"Delete quick-mode policy “{shown(name)}”?"):
        return Outcome("Nothing was deleted.")
    with session.dynamic.transaction() as change:
        objects = change.read()
        used = {rule.quick_mode_policy.casefold(): rule for rule in reversed(objects.rules)}
        kept = _without("quick-mode policy", objects.quick_mode_policies, name, used)
        change.replace(replace(objects, quick_mode_policies=kept))
    return Outcome()


def delete_rule(session: Session, arguments: Arguments) -> Outcome:
    traffic, tunnel, connection_type = identified(session, arguments)
    if not session.confirmed(f"Delete the dynamic rule {traffic.source} to {traffic.destination}?"):
        return Outcome("Nothing was deleted.")
    with session.dynamic.transaction() as change:
        objects = change.read()
        gone = chosen_rule(objects, traffic, tunnel, connection_type)
        kept = tuple(rule for rule in objects.rules if rule.guid != gone.guid)
        change.replace(replace(objects, rules=kept))
    return Outcome()


def delete_sa(session: Session, arguments: Arguments) -> Outcome:
    word = arguments[PEER]
    if word.addresses is None or not word.addresses.is_host:
        raise error_for(ReasonCode.SYNTAX, "peer= takes one address")
    answer = session.agent.delete_peer(word.addresses.first)
    return Outcome(
        f"Deleted {answer['main_modes']} main-mode and {answer['quick_modes']} quick-mode SAs.", dict(answer)
    )


SET_MAIN_MODE_POLICY = replace(MAIN_MODE_POLICY, required=False)
_MAIN_MODE = (QUICK_MODES, MAIN_MODE_LIFETIME, SOFT_EXPIRATION, MAIN_MODE)
_AUTHENTICATION = (KERBEROS, PSK, ROOTCA, PSK_HEX)

COMMANDS = (
    Command(
        DYNAMIC,
        ("add", "mmpolicy"),
        "Adds a main-mode policy.",
        (NEW_OBJECT_NAME, *_MAIN_MODE),
        add_main_mode_policy,
        example='add mmpolicy name="MM" mmsecmethods="AES256-SHA256-ECP256 3DES-SHA1-2"',
    ),
    Command(
        DYNAMIC,
        ("add", "qmpolicy"),
        "Adds a quick-mode policy.",
        (NEW_OBJECT_NAME, SOFT, PFS_GROUP, QUICK_MODE),
        add_quick_mode_policy,
        example='add qmpolicy name="QM" pfsgroup=GRPMM qmsecmethods="ESP[3DES,SHA1]:100000k/3600s"',
    ),
    Command(
        DYNAMIC,
        ("add", "rule"),
        "Adds a rule; it acts at once.",
        (
            SOURCE,
            DESTINATION,
            MAIN_MODE_POLICY,
            QUICK_MODE_POLICY,
            PROTOCOL_,
            SOURCE_PORT,
            DESTINATION_PORT,
            MIRRORED,
            CONNECTION_TYPE,
            ACTION_INBOUND,
            ACTION_OUTBOUND,
            SOURCE_MASK,
            DESTINATION_MASK,
            TUNNEL,
            *_AUTHENTICATION,
        ),
        add_rule,
        "A rule that negotiates needs qmpolicy=. The order of kerberos=, psk= and rootca= on the line is the "
        "order of preference; without any of them it is Kerberos. A tunnel rule is not mirrored.",
        'add rule srcaddr=me dstaddr=10.0.0.2 mmpolicy="MM" qmpolicy="QM" psk="a long random key"',
    ),
    Command(
        DYNAMIC,
        ("set", "mmpolicy"),
        "Changes a main-mode policy.",
        (OBJECT_NAME, *_MAIN_MODE),
        set_main_mode_policy,
        example='set mmpolicy name="MM" mmlifetime=60',
    ),
    Command(
        DYNAMIC,
        ("set", "qmpolicy"),
        "Changes a quick-mode policy.",
        (OBJECT_NAME, SOFT, PFS_GROUP, QUICK_MODE),
        set_quick_mode_policy,
        example='set qmpolicy name="QM" soft=yes',
    ),
    Command(
        DYNAMIC,
        ("set", "rule"),
        "Changes the rule that has the same addresses, protocol, ports, mirroring, connection type, tunnel.",
        (
            *IDENTIFYING,
            SET_MAIN_MODE_POLICY,
            QUICK_MODE_POLICY,
            ACTION_INBOUND,
            ACTION_OUTBOUND,
            *_AUTHENTICATION,
        ),
        set_rule,
        "Authentication methods that are given replace all that the rule had.",
        "set rule srcaddr=me dstaddr=10.0.0.2 actioninbound=permit",
    ),
    Command(
        DYNAMIC,
        ("delete", "all"),
        "Deletes all dynamic policies and rules.",
        (),
        delete_all,
        "The policies of the local and the persistent store stay in force.",
    ),
    Command(
        DYNAMIC,
        ("delete", "mmpolicy"),
        "Deletes a main-mode policy, or all of them.",
        (NAME_OR_ALL_OBJECTS,),
        delete_main_mode_policy,
        "Refused while a rule uses it.",
        'delete mmpolicy name="MM"',
    ),
    Command(
        DYNAMIC,
        ("delete", "qmpolicy"),
        "Deletes a quick-mode policy, or all of them.",
        (NAME_OR_ALL_OBJECTS,),
        delete_quick_mode_policy,
        "Refused while a rule uses it.",
        'delete qmpolicy name="QM"',
    ),
    Command(
        DYNAMIC,
        ("delete", "rule"),
        "Deletes the rule that has the same addresses, protocol, ports, mirroring, connection type, tunnel.",
        IDENTIFYING,
        delete_rule,
        example="delete rule srcaddr=me dstaddr=10.0.0.2",
    ),
    Command(
        DYNAMIC,
        ("delete", "sa"),
        "Deletes the security associations with a peer, and tells it.",
        (PEER,),
        delete_sa,
        example="delete sa peer=10.0.0.2",
        changes=False,
        ours=True,
    ),
)
