"""What the key exchange asks of certificates: our own for a root, and a verdict on the peer's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from stockade.crypto.signatures import PrivateKey
from stockade.model.reasons import CallerError, PeerError, Reason, ReasonCode
from stockade.pki.certificate import Certificate, read_certificate
from stockade.pki.chain import Chain, ChainRules, Trust, build_chain
from stockade.pki.names import Part, parse_name, same_name
from stockade.pki.revocation import RevocationCheck

MAXIMUM_SENT = 16
OWN_SECONDS = 60
"""Our own chains are judged anew after so long: every first message of a stranger asks for them."""


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """A certificate of this host with its key. `chain`: itself first, its trusted root last."""

    certificate: Certificate
    private_key: PrivateKey
    chain: Chain = ()

    @property
    def method(self) -> int:
        """The value of the Authentication Method attribute that goes with the key."""
        return self.private_key.public.method


@dataclass(frozen=True, slots=True)
class VerifiedPeer:
    """A peer's certificate whose chain holds, and the name (as the rule writes it) that the chain is
    under."""

    certificate: Certificate
    root_ca: str
    authorities: tuple[str, ...] = ()
    """The subjects of the authorities above it, nearest first."""


class CredentialSource(Protocol):
    """Implemented by `Credentials`. Names of roots are as rules write them. Nothing raises."""

    def own(self, root_ca: str) -> tuple[OwnCertificate, ...] | Reason:
        """Our usable certificates under this root, or why there is none (NO_CERTIFICATE)."""

    def authority_names(self, root_ca: str) -> tuple[bytes, ...]:
        """The DER names of the trusted roots and authorities that the rule's name means."""

    def verify(self, certificates: Sequence[bytes], roots: Sequence[str]) -> VerifiedPeer | Reason:
        """Judge what a peer sent (DER, its own certificate first) by the roots of a rule."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


class Credentials:
    """Certificates in memory; `moment` gives the time that validity is measured by."""

    def __init__(
        self,
        machine: Sequence[OwnCertificate] = (),
        trust: Trust | None = None,
        rules: ChainRules | None = None,
        moment: Callable[[], datetime] = wall_clock,
    ) -> None:
        self.machine = tuple(machine)
        self.trust = Trust() if trust is None else trust
        self.rules = ChainRules() if rules is None else rules
        self._moment = moment
        self._own: dict[str, tuple[datetime, tuple[OwnCertificate, ...] | Reason]] = {}

    def own(self, root_ca: str) -> tuple[OwnCertificate, ...] | Reason:
        known, moment = self._own.get(root_ca), self._moment()
        if known is not None and abs((moment - known[0]).total_seconds()) < OWN_SECONDS:
            return known[1]
        found = self._find_own(root_ca, moment)
        self._own[root_ca] = (moment, found)
        return found

    def _find_own(self, root_ca: str, moment: datetime) -> tuple[OwnCertificate, ...] | Reason:
        named = _named([root_ca])
        if isinstance(named, Reason):
            return named
        # Whether our own can be checked for revocation is the peer's worry; that it is revoked is ours.
        check = min(self.rules.revocation, RevocationCheck.REVOKED_ONLY)
        rules = ChainRules(check, self.rules.minimum_rsa_bits)
        usable, whys = [], []
        for entry in self.machine:
            chain = build_chain(entry.certificate, (), self.trust, named, rules, moment)
            if isinstance(chain, Reason):
                whys.append((f"{entry.certificate.subject_text}:", chain.detail or str(chain)))
            else:
                usable.append(OwnCertificate(entry.certificate, entry.private_key, chain))
        if usable:
            return tuple(usable)
        detail = f"{len(whys)} in the machine store, none of them under {root_ca}"
        return Reason(ReasonCode.NO_CERTIFICATE, detail, tuple(whys[:8]))

    def authority_names(self, root_ca: str) -> tuple[bytes, ...]:
        named = _named([root_ca])
        if isinstance(named, Reason):
            return ()
        known = (*self.trust.roots, *self.trust.authorities)
        found = [entry.subject for entry in known if same_name(entry.subject_parts, named[0])]
        return tuple(dict.fromkeys(found))

    def verify(self, certificates: Sequence[bytes], roots: Sequence[str]) -> VerifiedPeer | Reason:
        if not certificates:
            return Reason.of(ReasonCode.NO_PEER_CERTIFICATE)
        try:
            peer, *others = [read_certificate(der) for der in certificates[:MAXIMUM_SENT]]
        except PeerError as error:
            return error.reason
        refusal: Reason | None = None
        for root in roots:
            named = _named([root])
            if isinstance(named, Reason):
                refusal = refusal or named
                continue
            verdict = build_chain(peer, others, self.trust, named, self.rules, self._moment())
            if not isinstance(verdict, Reason):
                return VerifiedPeer(peer, root, tuple(link.subject_text for link in verdict[1:]))
            refusal = refusal or verdict
        return refusal or Reason.of(ReasonCode.CERTIFICATE_UNTRUSTED, "the rule names no root")


def _named(roots: Sequence[str]) -> list[tuple[Part, ...]] | Reason:
    try:
        return [parse_name(root) for root in roots]
    except CallerError as error:
        return error.reason
