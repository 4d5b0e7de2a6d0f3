"""What the key exchange asks of certificates: our own for a root, and a verdict on the peer's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from stockade.crypto.signatures import PrivateKey
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import CallerError, PeerError, Reason, ReasonCode
from stockade.pki.certificate import Certificate, read_certificate
from stockade.pki.chain import Chain, ChainRules, Trust, build_chain
from stockade.pki.distribution import ListSource
from stockade.pki.names import Part, parse_name, same_name
from stockade.pki.revocation import RevocationCheck, why_revoked

MAXIMUM_SENT = 16
MAXIMUM_WANTED = 8
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


@quickly_made
@dataclass(frozen=True, slots=True)
class VerifiedPeer:
    """A peer's certificate whose chain holds, and the name (as the rule writes it) that the chain is
    under."""

    certificate: Certificate
    root_ca: str
    authorities: tuple[str, ...] = ()
    """The subjects of the authorities above it, nearest first."""
    wanted: tuple[str, ...] = ()
    """Places of revocation lists that must be asked first; `settle` then says how it ends."""


class CredentialSource(Protocol):
    """Implemented by `Credentials`. Names of roots are as rules write them. Nothing raises."""

    def own(self, root_ca: str) -> tuple[OwnCertificate, ...] | Reason:
        """Our usable certificates under this root, or why there is none (NO_CERTIFICATE)."""

    def authority_names(self, root_ca: str) -> tuple[bytes, ...]:
        """The DER names of the trusted roots and authorities that the rule's name means."""

    def verify(self, certificates: Sequence[bytes], roots: Sequence[str]) -> VerifiedPeer | Reason:
        """Judge what a peer sent (DER, its own certificate first) by the roots of a rule."""

    def settle(
        self, certificates: Sequence[bytes], roots: Sequence[str], wanted: Sequence[str]
    ) -> VerifiedPeer | Reason:
        """The last word, after asking `wanted`. May block, unless there is nothing to ask."""


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
        fetched: ListSource | None = None,
    ) -> None:
        self._fetched = fetched
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
        return self._verify(certificates, roots, last=self._fetched is None)

    def settle(
        self, certificates: Sequence[bytes], roots: Sequence[str], wanted: Sequence[str]
    ) -> VerifiedPeer | Reason:
        assert self._fetched is not None
        if wanted:
            self._fetched.fetch(wanted, self._moment())
        verdict = self._verify(certificates, roots, last=True)
        trouble = self._fetched.trouble(wanted)
        if isinstance(verdict, Reason) and trouble:
            return Reason(verdict.code, verdict.detail, (*verdict.facts, ("not fetched:", trouble)))
        return verdict

    def _verify(
        self, certificates: Sequence[bytes], roots: Sequence[str], *, last: bool
    ) -> VerifiedPeer | Reason:
        """`last`: what lists are here must do; else a list that must be fetched first is no refusal."""
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
            moment, trust = self._moment(), self._trust_now()
            check = (
                self.rules.revocation if last else min(self.rules.revocation, RevocationCheck.REVOKED_ONLY)
            )
            rules = replace(self.rules, revocation=check)
            verdict = build_chain(peer, others, trust, named, rules, moment)
            if not isinstance(verdict, Reason):
                wanted = () if last else self._wanted(verdict, trust, moment)
                above = tuple(link.subject_text for link in verdict[1:])
                if not wanted and not last:
                    # Nothing to wait for: the rules hold as they are.
                    verdict = build_chain(peer, others, trust, named, self.rules, moment)
                if not isinstance(verdict, Reason):
                    return VerifiedPeer(peer, root, above, wanted)
            refusal = refusal or verdict
        return refusal or Reason.of(ReasonCode.CERTIFICATE_UNTRUSTED, "the rule names no root")

    def _trust_now(self) -> Trust:
        if self._fetched is None:
            return self.trust
        return replace(self.trust, revocation_lists=(*self.trust.revocation_lists, *self._fetched.lists()))

    def _wanted(self, chain: Chain, trust: Trust, moment: datetime) -> tuple[str, ...]:
        """The places to ask about links that no list in date speaks of."""
        if self.rules.revocation is RevocationCheck.NONE or self._fetched is None:
            return ()
        urls: list[str] = []
        for link, issuer in pairwise(chain):
            strict = RevocationCheck.STRICT
            if why_revoked(link, issuer, trust.revocation_lists, strict, moment) is not None:
                urls += link.distribution_points
        return self._fetched.due(list(dict.fromkeys(urls))[:MAXIMUM_WANTED], moment)


_parsed = lru_cache(maxsize=128)(parse_name)
"""The names in rules are few, and every handshake with certificates asks for some."""


def _named(roots: Sequence[str]) -> list[tuple[Part, ...]] | Reason:
    try:
        return [_parsed(root) for root in roots]
    except CallerError as error:
        return error.reason
