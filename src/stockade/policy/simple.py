"""The simple policy (the Simple Policy Update of Windows XP SP3 and Server 2003 SP2, KB 914841): ask for
security everywhere, and fall back to clear quickly with whoever has none.

    1  ICMP, DNS and DHCP  → permit      what a host needs before, and while, it negotiates
    2  all IP traffic      → negotiate   accept clear (inpass), fall back to clear (soft)

Without the update a policy needed a permit rule for each subnet without IPsec, because falling back took 3
seconds; with it the second rule is enough. The time itself (500 ms) is the service's setting
`simplepolicyupdate`, not a part of the policy. Two rules, no default response rule: the second one answers
whoever asks.

The methods are ours: what is strong first, and at the end what Windows XP and Server 2003 can do.
"""

from collections.abc import Sequence

from stockade.model.filters import Action
from stockade.model.negotiation import AuthenticationMethod
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import ICMP, TCP, UDP
from stockade.policy.objects import (
    AddressKind,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)

SIMPLE_POLICY = "Simple policy"
SIMPLE_POLICY_SETTING = "simplepolicyupdate"
"""The setting of the service that shortens the fall-back time of every rule with `soft` to 500 ms."""

MAIN_MODE_METHODS = (
    MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_256, Group.ECP_256),
    MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.MODP_2048),
    MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_2048),
    MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024),
)
QUICK_MODE_METHODS = (
    QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),
    QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA_256)),
    QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1)),
)


def simple_policy_set(
    name: str, authentication: Sequence[AuthenticationMethod], *, store: str = "local"
) -> PolicySet:
    """The policy called `name`, not assigned, with its filter lists and actions, whose names begin with the
    policy's."""
    me, anything = FilterAddress.me(), FilterAddress.any()
    dns = FilterAddress(AddressKind.DNS)
    needed = FilterList(
        f"{name}: always in clear",
        (
            Filter(me, anything, ICMP, description="ICMP"),
            Filter(me, dns, UDP, 0, 53, description="DNS"),
            Filter(me, dns, TCP, 0, 53, description="DNS over TCP"),
            Filter(me, FilterAddress(AddressKind.DHCP), UDP, 68, 67, description="DHCP"),
        ),
        "What this computer needs before it can negotiate with anybody",
    )
    everything = FilterList(
        f"{name}: all IP traffic", (Filter(me, anything),), "Everything to and from this computer"
    )
    permit = FilterAction(f"{name}: permit", Action.PERMIT, description="Let it pass in clear")
    request = FilterAction(
        f"{name}: request security",
        methods=QUICK_MODE_METHODS,
        inpass=True,
        soft=True,
        description="Ask for security; accept clear traffic, and go on in clear with who has none",
    )
    methods = tuple(authentication)
    rules = (
        Rule("Always in clear", needed.name, permit.name, methods),
        Rule("Ask for security everywhere", everything.name, request.name, methods),
    )
    policy = Policy(
        name,
        rules,
        main_mode_methods=MAIN_MODE_METHODS,
        description="Ask for security everywhere, fall back to clear quickly (Simple Policy Update)",
    )
    return PolicySet((policy,), (needed, everything), (permit, request), store)
