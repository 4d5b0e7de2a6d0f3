"""What a data plane can express, and whether a negotiation asks for more.

    driver (tried on this host, or by registry) ─▶ Capabilities ─▶ the compiler refuses a policy that asks
                                                       │           for more (policy/compiler.py)
                                                       └─▶ the driver checks again before it acts

One list for all who ask: the agent, `lint`, `explain`, `show filters` and the drivers."""

from dataclasses import dataclass, replace

from stockade.model.negotiation import Mode, Negotiation
from stockade.model.suites import Encryption, Integrity, QuickModeProposal


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a data plane can express. A policy that asks for more is refused whole, with the rule's name.
    `udp_versions`: the IP versions over which it has ESP in UDP (nobody knows about NATs before the key
    exchange). `protocol_choice`: a rule may leave open whether ESP, AH or both secure its traffic."""

    name: str
    modes: frozenset[Mode]
    encryptions: frozenset[Encryption]
    integrities: frozenset[Integrity]
    authentication_header: bool
    ip_versions: frozenset[int]
    extended_sequence: bool = False
    udp_versions: frozenset[int] = frozenset({4})
    protocol_choice: bool = True

    def refusal_of(self, negotiation: Negotiation) -> tuple[str, QuickModeProposal | None] | None:
        """Why this data plane cannot do what the negotiation may agree on: a sentence, and the method that
        asks too much (None: it is not a method). None: it can."""
        quick_mode = negotiation.quick_mode
        endpoint = quick_mode.tunnel_endpoint
        if quick_mode.mode not in self.modes:
            return self.lacks(f"{quick_mode.mode} mode"), None
        if endpoint is not None and endpoint.version not in self.ip_versions:
            return self.lacks(f"tunnel over IPv{endpoint.version}"), None
        for method in quick_mode.proposals:
            missing = self._missing(method)
            if missing is not None:
                return self.lacks(missing), method
        return None

    def lacks(self, what: str) -> str:
        return f"the {self.name} data plane has no {what}"

    def _missing(self, method: QuickModeProposal) -> str | None:
        if method.ah is not None and not self.authentication_header:
            return "AH"
        if method.ah is not None and method.ah not in self.integrities:
            return f"AH with {method.ah}"
        if method.extended_sequence and not self.extended_sequence:
            return "extended sequence numbers"
        if method.esp is None:
            return None
        if method.esp.encryption not in self.encryptions:
            return str(method.esp.encryption)
        if method.esp.integrity is not None and method.esp.integrity not in self.integrities:
            return str(method.esp.integrity)
        return None

    def narrow(self, negotiation: Negotiation) -> tuple[Negotiation, str]:
        """The negotiation as a data plane can have it whose rules each need one protocol: methods with other
        protocols than the first one has are left out, and a sentence says so ("" where none is). Never is
        anything secured less than by one of the rule's own methods; a peer that has only what is left out
        is refused."""
        methods = negotiation.quick_mode.proposals
        if self.protocol_choice:
            return negotiation, ""
        kept = tuple(method for method in methods if _protocols(method) == _protocols(methods[0]))
        if len(kept) == len(methods):
            return negotiation, ""
        text = (
            f"leaves open whether ESP, AH or both secure its traffic, which the {self.name} data plane"
            f" cannot: only methods with {_protocols(methods[0])} are used"
        )
        return replace(negotiation, quick_mode=replace(negotiation.quick_mode, proposals=kept)), text


def _protocols(method: QuickModeProposal) -> str:
    return " and ".join(word for word, part in (("ESP", method.esp), ("AH", method.ah)) if part is not None)
