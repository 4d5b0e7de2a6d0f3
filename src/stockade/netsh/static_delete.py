"""`netsh ipsec static delete`: all, filter, filteraction, filterlist, policy, rule. What a rule uses is not
deleted; the error names the rule."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.grammar import Arguments, Command
from stockade.netsh.session import Outcome, Session
from stockade.netsh.static_common import (
    DESTINATION,
    DESTINATION_MASK,
    DESTINATION_PORT,
    FILTER_LIST,
    MIRRORED,
    NAME_OR_ALL_OBJECTS,
    POLICY,
    PROTOCOL_,
    RULE_ID,
    SOURCE,
    SOURCE_MASK,
    SOURCE_PORT,
    STATIC,
    N,
    by_name,
    chosen_rule,
    filter_from,
    filter_list_named,
    means_all,
    policy_named,
)
from stockade.netsh.words import shown
from stockade.policy.contract import PolicyTransaction
from stockade.policy.objects import PolicySet, now


def _agreed(session: Session, question: str) -> bool:
    return session.confirmed(f"Delete {question}?")


def delete_all(session: Session, arguments: Arguments) -> Outcome:
    if not _agreed(session, "all policies, filter lists and filter actions"):
        return Outcome("Nothing was deleted.")
    with session.store.transaction() as change:
        objects = change.read()
        for policy in objects.policies:
            change.delete_policy(policy.name)
        for filter_list in objects.filter_lists:
            change.delete_filter_list(filter_list.name)
        for filter_action in objects.filter_actions:
            change.delete_filter_action(filter_action.name)
    return Outcome()


def delete_filter(session: Session, arguments: Arguments) -> Outcome:
    wanted = filter_from(arguments)
    with session.store.transaction() as change:
        filter_list = filter_list_named(change.read(), arguments[FILTER_LIST])
        rest = tuple(entry for entry in filter_list.filters if not entry.same_traffic(wanted))
        if len(rest) == len(filter_list.filters):
            raise error_for(
                ReasonCode.UNKNOWN_NAME,
                f"filter list “{filter_list.name}” has no filter that is the same in every part",
                filters=len(filter_list.filters),
            )
        change.put_filter_list(replace(filter_list, filters=rest, modified=now()))
    return Outcome()


def _deletes(
    kind: str,
    there: Callable[[PolicySet], Iterable[N]],
    delete: Callable[[PolicyTransaction, str], None],
) -> Callable[[Session, Arguments], Outcome]:
    """The command that deletes the object of this kind which is named, or all of them."""

    def delete_named(session: Session, arguments: Arguments) -> Outcome:
        name = arguments[NAME_OR_ALL_OBJECTS]
        if not _agreed(session, f"{kind} “{shown(name)}”"):
            return Outcome("Nothing was deleted.")
        with session.store.transaction() as change:
            entries = there(change.read())
            for entry in entries if means_all(name) else (by_name(kind, name, entries),):
                delete(change, entry.name)
        return Outcome()

    return delete_named


delete_filter_action = _deletes(
    "filter action",
    lambda objects: objects.filter_actions,
    lambda change, name: change.delete_filter_action(name),
)
delete_filter_list = _deletes(
    "filter list",
    lambda objects: objects.filter_lists,
    lambda change, name: change.delete_filter_list(name),
)
delete_policy = _deletes(
    "policy", lambda objects: objects.policies, lambda change, name: change.delete_policy(name)
)


def delete_rule(session: Session, arguments: Arguments) -> Outcome:
    if not _agreed(session, f"rules of policy “{shown(arguments[POLICY])}”"):
        return Outcome("Nothing was deleted.")
    with session.store.transaction() as change:
        policy = policy_named(change.read(), arguments[POLICY])
        if means_all(arguments.get(NAME_OR_ALL_OBJECTS)):
            rest = tuple(rule for rule in policy.rules if rule.is_default_response)
        else:
            gone = chosen_rule(policy, arguments)
            if gone.is_default_response:
                raise error_for(
                    ReasonCode.INVALID_POLICY,
                    "the default response rule cannot be deleted, but set defaultrule activate=no stops it",
                    policy=policy.name,
                )
            rest = tuple(rule for rule in policy.rules if rule.guid != gone.guid)
        change.put_policy(replace(policy, rules=rest, modified=now()))
    return Outcome()


COMMANDS = (
    Command(
        STATIC,
        ("delete", "all"),
        "Deletes all policies, filter lists and filter actions.",
        (),
        delete_all,
        "Also the policy that is in force: nothing is secured or blocked afterwards.",
    ),
    Command(
        STATIC,
        ("delete", "filter"),
        "Deletes the filter that is the same in every part but the description.",
        (
            FILTER_LIST,
            SOURCE,
            DESTINATION,
            PROTOCOL_,
            MIRRORED,
            SOURCE_MASK,
            DESTINATION_MASK,
            SOURCE_PORT,
            DESTINATION_PORT,
        ),
        delete_filter,
        "What is left out has the default of add filter.",
        'delete filter filterlist="Telnet" srcaddr=any dstaddr=me protocol=TCP dstport=23',
    ),
    Command(
        STATIC,
        ("delete", "filteraction"),
        "Deletes a filter action, or all of them.",
        (NAME_OR_ALL_OBJECTS,),
        delete_filter_action,
        "Refused while a rule uses it.",
        'delete filteraction name="Secure"',
    ),
    Command(
        STATIC,
        ("delete", "filterlist"),
        "Deletes a filter list, or all of them.",
        (NAME_OR_ALL_OBJECTS,),
        delete_filter_list,
        "Refused while a rule uses it.",
        'delete filterlist name="Telnet"',
    ),
    Command(
        STATIC,
        ("delete", "policy"),
        "Deletes a policy with its rules, or all of them.",
        (NAME_OR_ALL_OBJECTS,),
        delete_policy,
        "Filter lists and filter actions stay.",
        'delete policy name="Servers"',
    ),
    Command(
        STATIC,
        ("delete", "rule"),
        "Deletes a rule of a policy, or all of them but the default response rule.",
        (NAME_OR_ALL_OBJECTS, RULE_ID, POLICY),
        delete_rule,
        example='delete rule name="Web" policy="Servers"',
    ),
)
