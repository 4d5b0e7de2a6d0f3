"""The event ids of Windows, as a table: which of our events carries which, so that what looks for ids (a
collector, a habit) finds them.

Windows 2003 audits the key exchange as 541 to 547; Vista and later as 4650 to 4655, 4976 to 4984 and 5451 to
5453, and the policy agent as 5456 to 5474 (Microsoft's reference "Advanced security audit policy settings",
and the names of its events). One event of ours carries the ids of both. An id that nothing here can mean
(Extended Mode is AuthIP's) is in the table all the same, with the reason why it never comes. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from stockade.model.reasons import ReasonCode

_TRUST = frozenset(
    {
        ReasonCode.CERTIFICATE_UNTRUSTED,
        ReasonCode.NO_PEER_CERTIFICATE,
        ReasonCode.CERTIFICATE_INVALID,
        ReasonCode.CERTIFICATE_KEY,
        ReasonCode.CERTIFICATE_EXPIRED,
        ReasonCode.CERTIFICATE_USAGE,
        ReasonCode.CERTIFICATE_REVOKED,
        ReasonCode.NO_CERTIFICATE,
        ReasonCode.KERBEROS_UNAVAILABLE,
        ReasonCode.KERBEROS_CLOCK_SKEW,
        ReasonCode.KERBEROS_NO_TICKET,
        ReasonCode.KERBEROS_UNREACHABLE,
        ReasonCode.KERBEROS_EXPIRED,
        ReasonCode.KERBEROS_REFUSED,
    }
)
_PROOF = frozenset(
    {
        ReasonCode.PSK_MISMATCH,
        ReasonCode.AUTHENTICATION_FAILED,
        ReasonCode.ACCESS_DENIED,
        ReasonCode.INVALID_HASH,
        ReasonCode.INVALID_SIGNATURE,
        ReasonCode.DECRYPTION_FAILED,
    }
)
_PROPOSAL = frozenset({ReasonCode.NO_PROPOSAL_CHOSEN})
_CERTIFICATE = frozenset(code for code in _TRUST if "CERTIFICATE" in code.name) | {
    ReasonCode.INVALID_SIGNATURE
}
_STORE = frozenset({ReasonCode.STORE_UNREADABLE, ReasonCode.STORE_BUSY})
_STOPPING = frozenset({ReasonCode.SHUTTING_DOWN})


@dataclass(frozen=True, slots=True)
class Carrier:
    """An event of ours that carries an id: its kind; `only` (or all `but`) with one of these reasons; with a
    fact (name, text) that has this text in it, or `unless` it has."""

    kind: str
    only: frozenset[ReasonCode] | None = None
    but: frozenset[ReasonCode] = frozenset()
    fact: tuple[str, str] | None = None
    unless: tuple[str, str] | None = None

    def fits_reason(self, code: ReasonCode) -> bool:
        return (self.only is None or code in self.only) and code not in self.but

    def fits_facts(self, facts: Mapping[str, str]) -> bool:
        if self.unless is not None and self.unless[1] in facts.get(self.unless[0], ""):
            return False
        return self.fact is None or self.fact[1] in facts.get(self.fact[0], "")


@dataclass(frozen=True, slots=True)
class WindowsEvent:
    """One id: Windows' meaning, and what of ours carries it, or why nothing does."""

    number: int
    meaning: str
    carriers: tuple[Carrier, ...] = ()
    never: str = ""


_BY_CERTIFICATE = ("authentication", "certificate")
_FROM_DOMAIN = ("stores", "domain")
_OF_THIS_COMPUTER = (  # neither where no policy is assigned
    Carrier("policy-loaded", fact=("stores", "local")),
    Carrier("policy-loaded", fact=("stores", "persistent"), unless=_FROM_DOMAIN),
)
_NO_EXTENDED_MODE = "Extended Mode is AuthIP's; IKE has none"
_QUIET = "the stores are looked at every second; that nothing changed is no event"
_UNREACHABLE = frozenset({ReasonCode.DIRECTORY_UNREACHABLE})
_KEPT = ("in_force", "last good")
_CHANGED, _UNCHANGED = ("changes", "found"), ("changes", "none")

WINDOWS_EVENTS = (
    # -- Windows 2003: the key exchange (category Logon/Logoff)
    WindowsEvent(
        541,
        "IKE security association established (both modes)",
        (Carrier("main-mode-established"), Carrier("quick-mode-established")),
    ),
    WindowsEvent(
        542, "IKE security association ended: data protection (quick mode)", (Carrier("quick-mode-deleted"),)
    ),
    WindowsEvent(
        543, "IKE security association ended: key exchange (main mode)", (Carrier("main-mode-deleted"),)
    ),
    WindowsEvent(
        544,
        "IKE failed because the peer could not authenticate: no trust",
        (Carrier("main-mode-failed", _TRUST),),
    ),
    WindowsEvent(545, "IKE peer authentication failed", (Carrier("main-mode-failed", _PROOF),)),
    WindowsEvent(
        546,
        "IKE failed because the peer's proposal is not acceptable",
        (Carrier("main-mode-failed", _PROPOSAL), Carrier("quick-mode-failed", _PROPOSAL)),
    ),
    WindowsEvent(
        547,
        "IKE negotiation failed",
        (
            Carrier("main-mode-failed", but=_TRUST | _PROOF | _PROPOSAL),
            Carrier("quick-mode-failed", but=_PROPOSAL),
        ),
    ),
    # -- Vista and later: the key exchange
    WindowsEvent(
        4650,
        "main mode established, without certificates",
        (Carrier("main-mode-established", unless=_BY_CERTIFICATE),),
    ),
    WindowsEvent(
        4651,
        "main mode established, with certificates",
        (Carrier("main-mode-established", fact=_BY_CERTIFICATE),),
    ),
    WindowsEvent(4652, "main mode failed, with certificates", (Carrier("main-mode-failed", _CERTIFICATE),)),
    WindowsEvent(4653, "main mode failed", (Carrier("main-mode-failed", but=_CERTIFICATE | _STOPPING),)),
    WindowsEvent(4654, "quick mode failed", (Carrier("quick-mode-failed", but=_STOPPING),)),
    WindowsEvent(4655, "main mode ended", (Carrier("main-mode-deleted"),)),
    # -- the driver
    WindowsEvent(
        4960,
        "an inbound packet failed the integrity check",
        (Carrier("packets-refused", frozenset({ReasonCode.INTEGRITY_FAILED})),),
    ),
    WindowsEvent(
        4961,
        "an inbound packet failed the replay check",
        (Carrier("packets-refused", frozenset({ReasonCode.REPLAYED})),),
    ),
    WindowsEvent(
        4963,
        "an inbound packet was clear that should have been secured",
        (Carrier("packets-refused", frozenset({ReasonCode.CLEAR_DROPPED})),),
    ),
    WindowsEvent(
        4965,
        "an inbound packet had an unknown SPI",
        (Carrier("packets-refused", frozenset({ReasonCode.UNKNOWN_SPI})),),
    ),
    # -- invalid packets of the key exchange
    WindowsEvent(
        4976,
        "invalid packet during main mode",
        (Carrier("message-refused", unless=("phase", "quick mode")),),
    ),
    WindowsEvent(
        4977, "invalid packet during quick mode", (Carrier("message-refused", fact=("phase", "quick mode")),)
    ),
    WindowsEvent(4978, "invalid packet during Extended Mode", never=_NO_EXTENDED_MODE),
    WindowsEvent(4979, "main mode and Extended Mode established", never=_NO_EXTENDED_MODE),
    WindowsEvent(
        4980, "main mode and Extended Mode established, with a certificate", never=_NO_EXTENDED_MODE
    ),
    WindowsEvent(
        4981,
        "main mode with a certificate and Extended Mode established",
        never=_NO_EXTENDED_MODE,
    ),
    WindowsEvent(4982, "main mode and Extended Mode established, with certificates", never=_NO_EXTENDED_MODE),
    WindowsEvent(4983, "Extended Mode failed, with a certificate", never=_NO_EXTENDED_MODE),
    WindowsEvent(4984, "Extended Mode failed", never=_NO_EXTENDED_MODE),
    # -- quick mode
    WindowsEvent(5451, "quick mode established", (Carrier("quick-mode-established"),)),
    WindowsEvent(5452, "quick mode ended", (Carrier("quick-mode-deleted"),)),
    WindowsEvent(
        5453,
        "negotiation failed because the key exchange does not run",
        (Carrier("main-mode-failed", _STOPPING), Carrier("quick-mode-failed", _STOPPING)),
    ),
    # -- the policy agent (PAStore)
    WindowsEvent(5456, "policy of Active Directory applied", (Carrier("policy-loaded", fact=_FROM_DOMAIN),)),
    WindowsEvent(
        5457,
        "policy of Active Directory not applied",
        (Carrier("policy-refused", but=_STORE, fact=_FROM_DOMAIN),),
    ),
    WindowsEvent(
        5458,
        "the kept copy of Active Directory's policy applied",
        (Carrier("domain-copy-taken"),),
    ),
    WindowsEvent(
        5459,
        "the kept copy of Active Directory's policy not applied",
        (Carrier("domain-copy-not-read"),),
    ),
    WindowsEvent(5460, "local policy applied", _OF_THIS_COMPUTER),
    WindowsEvent(
        5461, "local policy not applied", (Carrier("policy-refused", but=_STORE, unless=_FROM_DOMAIN),)
    ),
    WindowsEvent(5462, "some rules of the policy not applied", (Carrier("policy-warning"),)),
    WindowsEvent(5463, "polled the policy: no change", never=_QUIET),
    WindowsEvent(
        5464,
        "polled the policy: changes found and applied",
        (Carrier("stores-changed"), Carrier("policy-expanded")),
    ),
    WindowsEvent(5465, "reloading asked for, and done", (Carrier("policy-reloaded"),)),
    WindowsEvent(
        5466,
        "polled: Active Directory cannot be reached, the kept copy stays",
        (Carrier("domain-policy-not-read", _UNREACHABLE, fact=_KEPT),),
    ),
    WindowsEvent(
        5467,
        "polled: Active Directory reached again, no change; the kept copy is out of use",
        (Carrier("domain-policy-read", fact=_UNCHANGED),),
    ),
    WindowsEvent(
        5468,
        "polled: Active Directory reached, changes applied",
        (Carrier("domain-policy-read", fact=_CHANGED),),
    ),
    WindowsEvent(5471, "local policy loaded", _OF_THIS_COMPUTER),
    WindowsEvent(5472, "local policy cannot be loaded", (Carrier("policy-refused", _STORE),)),
    WindowsEvent(5473, "policy of the directory loaded", (Carrier("domain-policy-read"),)),
    WindowsEvent(
        5474,
        "policy of the directory cannot be loaded",
        (
            Carrier("domain-policy-not-read", but=_UNREACHABLE),
            Carrier("domain-policy-not-read", _UNREACHABLE, unless=_KEPT),
        ),
    ),
    # -- the service
    WindowsEvent(5478, "IPsec services started", (Carrier("agent-started"),)),
    WindowsEvent(5479, "IPsec services stopped", (Carrier("agent-stopped"),)),
    WindowsEvent(5480, "the network interfaces cannot be listed", (Carrier("facts-not-read"),)),
    WindowsEvent(5484, "critical failure", (Carrier("driver-failed"),)),
)

BY_NUMBER = {event.number: event for event in WINDOWS_EVENTS}


def _by_kind() -> dict[str, tuple[tuple[int, Carrier], ...]]:
    found: dict[str, list[tuple[int, Carrier]]] = {}
    for event in WINDOWS_EVENTS:
        for carrier in event.carriers:
            found.setdefault(carrier.kind, []).append((event.number, carrier))
    return {kind: tuple(pairs) for kind, pairs in found.items()}


_BY_KIND = _by_kind()


def windows_events(kind: str, code: ReasonCode, facts: Mapping[str, str]) -> list[int]:
    """The ids that an event of this kind carries, lowest first; `facts` are its fields and the reason's."""
    fitting = [number for number, carrier in _carriers(kind, code) if carrier.fits_facts(facts)]
    return list(dict.fromkeys(fitting))  # two carriers of one id may fit


@lru_cache(maxsize=512)  # both are words of closed lists
def _carriers(kind: str, code: ReasonCode) -> tuple[tuple[int, Carrier], ...]:
    return tuple(pair for pair in _BY_KIND.get(kind, ()) if pair[1].fits_reason(code))
