"""One-liners in the language of `ipseccmd` (Windows XP; `ipsecpol` on Windows 2000).

    ipseccmd -f 0+10.0.0.2::TCP -n ESP[3DES,SHA] -a PRESHARE:"key"                          dynamic
    ipseccmd -w REG -p "Servers:60" -r "Web" -f *+0:80:TCP -n BLOCK -x                      static
    ipseccmd show all | ipseccmd -u | ipseccmd set logike | ipseccmd export REG file

They do what the commands of `netsh ipsec` do: with `-w` a rule of a policy in the store (its filter list and
filter action named after the rule), without it rules in the memory of the agent.

A filter is `A/mask:port=B/mask:port:protocol`; `=` is one way, `+` both; `0` is this computer, `*` any;
octets may be `*`; a filter in `( )` passes, in `[ ]` is blocked. Not taken: other computers (`\\\\name`), the
domain store (`-w DS`), main-mode filters (`-1f`)."""

from collections.abc import Sequence
from dataclasses import replace

from stockade.model.filters import Action
from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.ipseccmd_words import Request, read_request
from stockade.netsh.session import Outcome, Session
from stockade.netsh.static_common import default_response_rule, require_securable
from stockade.netsh.words import MAXIMUM_LINE, shown, syntax_error
from stockade.policy.dynamic import (
    DynamicRule,
    DynamicSet,
    MainModePolicyObject,
    PfsGroup,
    QuickModePolicyObject,
)
from stockade.policy.objects import (
    FilterAction,
    FilterList,
    Policy,
    Rule,
    now,
)

HELP = (__doc__ or "").strip()

_SHOW = {
    "filters": "ipsec dynamic show qmfilter all type=specific",
    "policies": "ipsec dynamic show rule",
    "auth": "ipsec dynamic show rule",
    "stats": "ipsec dynamic show stats",
    "sas": "ipsec dynamic show qmsas",
    "all": "ipsec dynamic show all",
}


def run_ipseccmd(arguments: Sequence[str], session: Session) -> Outcome:
    """Run one command. CallerError for what cannot be read; nothing is applied then."""
    if sum(map(len, arguments)) > MAXIMUM_LINE:
        raise error_for(ReasonCode.SYNTAX, f"the command has more than {MAXIMUM_LINE} characters")
    words = list(arguments)
    if words and words[0].replace("\\", "/").rpartition("/")[2].casefold() in ("ipseccmd", "ipseccmd.exe"):
        words = words[1:]
    if words and words[0].startswith("\\\\"):
        if session.world.is_this_computer(words[0]):
            return run_ipseccmd(words[1:], session)
        raise error_for(ReasonCode.NOT_AVAILABLE, f"other computers ({shown(words[0])})")
    if not words or words[0] in ("?", "/?", "-?", "help"):
        return Outcome(HELP)
    first = words[0].casefold()
    if first in ("show", "set", "import", "export"):
        return _query(first, words[1:], session)
    if words == ["-u"]:
        with session.dynamic.transaction() as change:
            change.replace(DynamicSet())
        return Outcome()
    request = read_request(words, session)
    session.describe(f"ipseccmd for rule {request.rule or '(dynamic)'}")
    if request.confirm and session.world.confirm is not None and not session.world.confirm("Apply this?"):
        return Outcome("Nothing was applied.")
    return _apply_static(request, session) if request.location else _apply_dynamic(request, session)


def _query(verb: str, words: Sequence[str], session: Session) -> Outcome:
    # The interpreter's table is not needed for the one-liners themselves.
    from stockade.netsh.interpreter import run_command

    if verb == "show":
        wanted = words[0].casefold() if words else "all"
        if wanted not in _SHOW or len(words) > 1:
            raise syntax_error(
                "show takes one word", word=wanted, expected=", ".join(_SHOW), candidates=_SHOW
            )
        return run_command(_SHOW[wanted], session)
    if verb == "set":
        switch = {"logike": "1", "dontlogike": "0"}
        if len(words) != 1 or words[0].casefold() not in switch:
            raise syntax_error("set takes logike or dontlogike", expected="logike or dontlogike")
        value = switch[words[0].casefold()]
        return run_command(
            ["ipsec", "dynamic", "set", "config", "property=ikelogging", f"value={value}"], session
        )
    if len(words) != 2 or words[0].casefold() != "reg":
        raise syntax_error(f"{verb} takes REG and a file", expected=f"{verb} REG FILE")
    return run_command(["ipsec", "static", f"{verb}policy", f"file={words[1]}"], session)


# -- applying


def _apply_static(request: Request, session: Session) -> Outcome:
    before = session.store
    session.choose_store(request.location)
    try:
        _write(request, session)
    finally:
        session.store = before
    return Outcome()


def _write(request: Request, session: Session) -> None:
    with session.store.transaction() as change:
        objects = change.read()
        if request.assign is False:  # of all policies of the store
            for assigned in objects.policies:
                if assigned.assigned:
                    change.put_policy(replace(assigned, assigned=False, modified=now()))
        if not request.policy:
            return
        policy = objects.policy(request.policy)
        if request.delete:
            change.delete_policy(request.policy)
            return
        if policy is None:
            policy = Policy(request.policy, (default_response_rule(False),))
        policy = replace(
            policy,
            main_mode_methods=request.main_mode_methods,
            main_mode_minutes=request.main_mode_minutes,
            quick_modes_per_main_mode=1 if request.master_pfs else request.quick_modes,
            master_pfs=request.master_pfs,
            polling_minutes=(
                policy.polling_minutes if request.polling_minutes is None else request.polling_minutes
            ),
            assigned=policy.assigned if request.assign is None else request.assign,
            modified=now(),
        )
        if request.default_response:
            policy = replace(policy, rules=tuple(_active(rule, request) for rule in policy.rules))
        if not request.filters:
            change.put_policy(policy)
            return
        # Filters in brackets have an action of their own, so each action makes a rule of its own.
        for action in dict.fromkeys(spec.action for spec in request.filters):
            name = request.rule if action is None else f"{request.rule} ({action})"
            chosen = tuple(spec.filter for spec in request.filters if spec.action is action)
            list_name, action_name = f"{name} filter list", f"{name} filter action"
            old_list, old_action = objects.filter_list(list_name), objects.filter_action(action_name)
            filter_list = FilterList(list_name, chosen)
            change.put_filter_list(replace(filter_list, guid=old_list.guid) if old_list else filter_list)
            made = _filter_action(request, action_name, action or request.action)
            require_securable(request.policy, name, made, list_name, chosen)
            change.put_filter_action(replace(made, guid=old_action.guid) if old_action else made)
            policy = _with_rule(policy, _rule(request, name, list_name, action_name))
        change.put_policy(policy)


def _active(rule: Rule, request: Request) -> Rule:
    if not rule.is_default_response:
        return rule
    return replace(
        rule,
        active=True,
        authentication=request.authentication,
        response_methods=request.methods,
        modified=now(),
    )


def _filter_action(request: Request, name: str, action: Action) -> FilterAction:
    negotiates = action is Action.NEGOTIATE
    return FilterAction(
        name,
        action,
        request.methods if negotiates else (),
        negotiates and request.inpass,
        negotiates and request.soft,
        negotiates and request.pfs is not PfsGroup.NOPFS,
    )


def _rule(request: Request, name: str, filter_list: str, filter_action: str) -> Rule:
    return Rule(
        name, filter_list, filter_action, request.authentication, request.tunnel, request.connection_type
    )


def _with_rule(policy: Policy, rule: Rule) -> Policy:
    """The policy with the rule, in the place of the one of its name or before the default response rule."""
    for old in policy.rules:
        if old.name and old.name.casefold() == rule.name.casefold():
            new = replace(rule, guid=old.guid)
            return replace(policy, rules=tuple(new if one.guid == old.guid else one for one in policy.rules))
    named = tuple(one for one in policy.rules if not one.is_default_response)
    default = tuple(one for one in policy.rules if one.is_default_response)
    return replace(policy, rules=(*named, rule, *default))


def _apply_dynamic(request: Request, session: Session) -> Outcome:
    with session.dynamic.transaction() as change:
        objects = change.read()
        number = 1
        while objects.main_mode_policy(f"ipseccmd {number}") or objects.quick_mode_policy(
            f"ipseccmd {number}"
        ):
            number += 1
        name = f"ipseccmd {number}"
        main_mode = MainModePolicyObject(
            name,
            request.main_mode_methods,
            request.main_mode_minutes,
            1 if request.master_pfs else request.quick_modes,
            request.soft_minutes,
        )
        quick_mode = QuickModePolicyObject(name, request.methods, request.soft, request.pfs)
        rules: list[DynamicRule] = []
        for spec in request.filters:
            action = spec.action or request.action
            passes = action is Action.NEGOTIATE and request.inpass
            rule = DynamicRule(
                spec.filter,
                name,
                name if action is Action.NEGOTIATE else "",
                Action.PERMIT if passes else action,
                action,
                request.authentication,
                request.tunnel,
                request.connection_type,
            )
            if any(rule.same_rule(other) for other in (*objects.rules, *rules)):
                raise error_for(ReasonCode.NAME_EXISTS, f"there is a dynamic rule for {rule.name} already")
            rules.append(rule)
        change.replace(
            DynamicSet(
                (*objects.main_mode_policies, main_mode),
                (*objects.quick_mode_policies, quick_mode),
                (*objects.rules, *rules),
            )
        )
    return Outcome()
