"""`netsh ipsec static add simplepolicy`: the two-rule policy of the Simple Policy Update by one command.
Windows had to be told it in six, and by an edit of the registry."""

from dataclasses import replace

from stockade.model.negotiation import Kerberos
from stockade.netsh.grammar import Arguments, Command, Parameter
from stockade.netsh.merge import merge_into
from stockade.netsh.session import Outcome, Session
from stockade.netsh.static_common import (
    ASSIGN,
    KERBEROS,
    PSK,
    PSK_HEX,
    ROOTCA,
    STATIC,
    authentication_from,
    policy_named,
)
from stockade.netsh.values import NEW_NAME, YES_NO
from stockade.netsh.words import quoted
from stockade.policy.simple import SIMPLE_POLICY, SIMPLE_POLICY_SETTING, simple_policy_set

POLICY_NAME = Parameter(
    "name", NEW_NAME, "name of the policy", default=SIMPLE_POLICY, default_text=quoted(SIMPLE_POLICY)
)
REPLACE = Parameter(
    "replace", YES_NO, "put it in the place of a policy of this name", default=False, default_text="no"
)


def add_simple_policy(session: Session, arguments: Arguments) -> Outcome:
    name = arguments[POLICY_NAME]
    methods = authentication_from(arguments) or (Kerberos(),)
    assign = arguments.get_or(ASSIGN, False)
    settings = session.settings  # first: where there are none nothing is changed
    with session.store.transaction() as change:
        merged = merge_into(
            change,
            simple_policy_set(name, methods, store=session.store.name),
            overwrite=arguments[REPLACE],
        )
        policy = policy_named(change.read(), name)
        if assign and not policy.assigned:
            policy = replace(policy, assigned=True)
            change.put_policy(policy)
    # After the policy: a setting without it would shorten the fall-back time of other rules.
    settings.put_setting(SIMPLE_POLICY_SETTING, "1")
    lines = [
        f"Policy “{policy.name}” asks for security everywhere; rules with soft fall back to clear after"
        " 500 ms (set config property=simplepolicyupdate value=0 makes it 3 seconds again)."
    ]
    if not policy.assigned:
        lines.append(f"It is not in force: set policy name={quoted(policy.name)} assign=yes puts it there.")
    return Outcome(
        "\n".join(lines),
        {
            "policy": policy.name,
            "assigned": policy.assigned,
            "added": list(merged.added),
            "replaced": list(merged.replaced),
            "unchanged": list(merged.unchanged),
        },
    )


COMMANDS = (
    Command(
        STATIC,
        ("add", "simplepolicy"),
        "Adds the policy of the Simple Policy Update: ask for security everywhere, fall back quickly.",
        (POLICY_NAME, ASSIGN, KERBEROS, PSK, ROOTCA, REPLACE, PSK_HEX),
        add_simple_policy,
        "Two rules: ICMP, DNS and DHCP pass in clear; everything else is secured where the other side can,"
        " and goes on in clear after 500 ms where it cannot. Without kerberos=, psk= and rootca= it is"
        " Kerberos.",
        'add simplepolicy assign=yes rootca="CN=Example CA"',
        ours=True,
    ),
)
