"""The three predefined policies of Windows 2000, XP and 2003 as data (`restorepolicyexamples`).

| policy                           | rules, besides the default response rule                                |
| -------------------------------- | ----------------------------------------------------------------------- |
| Client (Respond Only)            | none                                                                    |
| Server (Request Security)        | All ICMP Traffic → Permit; All IP Traffic → Request Security (Optional) |
| Secure Server (Require Security) | All ICMP Traffic → Permit; All IP Traffic → Require Security            |

What they contain, and the GUIDs, are those of the default objects of Active Directory; the descriptions are
ours. They show how policies are made; they are not for production: *Request* and *Require* both accept
clear packets, they offer DES and MD5, and whatever they secure needs Kerberos.

Algorithm number 1 of the original objects reads as DES, as their window shows it; see `store/` on that
number.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from stockade.model.filters import Action
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import ICMP
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DEFAULT_RESPONSE_METHODS,
    DYNAMIC_FILTER_LIST,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)

ALL_IP_TRAFFIC = "All IP Traffic"
ALL_ICMP_TRAFFIC = "All ICMP Traffic"
PERMIT = "Permit"
REQUEST_SECURITY = "Request Security (Optional)"
REQUIRE_SECURITY = "Require Security"
CLIENT = "Client (Respond Only)"
SERVER = "Server (Request Security)"
SECURE_SERVER = "Secure Server (Require Security)"

_OBJECTS = "-70fa-11d1-864c-14a300000000"
_RULES = "-5ee3-11d2-ace8-0060b0ecca17"
_ICMP_RULES = "-071d-11d3-ad22-0060b0ecca17"


def _esp(encryption: Encryption, integrity: Hash, seconds: int) -> QuickModeProposal:
    return QuickModeProposal(EspSuite(encryption, integrity), lifetime_seconds=seconds)


_REQUEST_METHODS = (
    _esp(Encryption.TRIPLE_DES_CBC, Hash.SHA1, 900),
    _esp(Encryption.DES_CBC, Hash.SHA1, 900),
    QuickModeProposal(ah=Hash.SHA1, lifetime_seconds=300),
    QuickModeProposal(ah=Hash.MD5, lifetime_seconds=300),
)
_REQUIRE_METHODS = (
    _esp(Encryption.TRIPLE_DES_CBC, Hash.SHA1, 900),
    _esp(Encryption.TRIPLE_DES_CBC, Hash.MD5, 900),
    _esp(Encryption.DES_CBC, Hash.SHA1, 900),
    _esp(Encryption.DES_CBC, Hash.MD5, 900),
)


def _filter_lists(modified: datetime) -> tuple[FilterList, ...]:
    me, any_ = FilterAddress.me(), FilterAddress.any()
    return (
        FilterList(
            ALL_IP_TRAFFIC,
            (Filter(me, any_),),
            "Every IP packet between this computer and any other, but for broadcast and multicast",
            UUID("7238523a" + _OBJECTS),
            modified,
        ),
        FilterList(
            ALL_ICMP_TRAFFIC,
            (Filter(me, any_, ICMP, description="ICMP"),),
            "Every ICMP packet between this computer and any other",
            UUID("72385235" + _OBJECTS),
            modified,
        ),
    )


def _filter_actions(modified: datetime) -> tuple[FilterAction, ...]:
    return (
        FilterAction(
            PERMIT,
            Action.PERMIT,
            description="Let the traffic pass in clear",
            guid=UUID("7238523b" + _OBJECTS),
            modified=modified,
        ),
        FilterAction(
            REQUEST_SECURITY,
            methods=_REQUEST_METHODS,
            inpass=True,
            soft=True,
            description="Accept clear traffic, ask for security, and go on in clear with who cannot",
            guid=UUID("72385233" + _OBJECTS),
            modified=modified,
        ),
        FilterAction(
            REQUIRE_SECURITY,
            methods=_REQUIRE_METHODS,
            inpass=True,
            description="Accept a first clear packet, but speak with other computers through IPsec only",
            guid=UUID("7238523f" + _OBJECTS),
            modified=modified,
        ),
    )


def _default_response(guid: str, modified: datetime) -> Rule:
    return Rule(
        "",
        DYNAMIC_FILTER_LIST,
        DEFAULT_RESPONSE_ACTION,
        guid=UUID(guid),
        modified=modified,
        is_default_response=True,
        response_methods=DEFAULT_RESPONSE_METHODS,
    )


def _policies(modified: datetime) -> tuple[Policy, ...]:
    def icmp(guid: str) -> Rule:
        return Rule("", ALL_ICMP_TRAFFIC, PERMIT, guid=UUID(guid + _ICMP_RULES), modified=modified)

    def traffic(action: str, guid: str) -> Rule:
        return Rule("", ALL_IP_TRAFFIC, action, guid=UUID(guid + _OBJECTS), modified=modified)

    return (
        Policy(
            SERVER,
            (
                icmp("594272e2"),
                traffic(REQUEST_SECURITY, "72385232"),
                _default_response("59319be2" + _RULES, modified),
            ),
            description="Ask for security in all traffic, and do without it where the other side cannot",
            guid=UUID("72385230" + _OBJECTS),
            modified=modified,
        ),
        Policy(
            CLIENT,
            (_default_response("59319c04" + _RULES, modified),),
            description="Speak in clear, and secure what a server asks to have secured",
            guid=UUID("72385236" + _OBJECTS),
            modified=modified,
        ),
        Policy(
            SECURE_SERVER,
            (
                icmp("594272fd"),
                traffic(REQUIRE_SECURITY, "7238523e"),
                _default_response("59319bf3" + _RULES, modified),
            ),
            description="Require security in all traffic; no clear traffic with who cannot",
            guid=UUID("7238523c" + _OBJECTS),
            modified=modified,
        ),
    )


def predefined_set(modified: datetime | None = None) -> PolicySet:
    """The three policies, none assigned, with their filter lists and filter actions. `modified`: their
    last-modified time, now if None."""
    when = datetime.now(UTC).replace(microsecond=0) if modified is None else modified
    return PolicySet(_policies(when), _filter_lists(when), _filter_actions(when))


def predefined_names() -> Iterable[str]:
    return (CLIENT, SERVER, SECURE_SERVER)
