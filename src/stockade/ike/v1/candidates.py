"""What main modes we can do for some negotiations: their methods and proposals, with the credentials that
this host has."""

from collections.abc import Iterable, Sequence

from stockade.ike.auth.certificate import certificate_methods
from stockade.ike.auth.kerberos import GSS_KERBEROS, GssSource, kerberos_method
from stockade.ike.auth.method import AuthMethod
from stockade.ike.auth.preshared_key import PRESHARED_KEY, PresharedKeyMethod
from stockade.ike.v1.main_mode_proposals import MainModeCandidate
from stockade.model.negotiation import (
    AuthenticationMethod,
    Certificate,
    Kerberos,
    Negotiation,
    PresharedKey,
)
from stockade.model.reasons import Reason, ReasonCode
from stockade.pki.credentials import CredentialSource, OwnCertificate, VerifiedPeer
from stockade.wire.isakmp.constants import PayloadType

MAXIMUM_CANDIDATES = 128

_NO_KERBEROS = (
    ReasonCode.AUTHENTICATION_FAILED,
    ReasonCode.KERBEROS_CLOCK_SKEW,
    ReasonCode.KERBEROS_EXPIRED,
    ReasonCode.KERBEROS_NO_TICKET,
    ReasonCode.KERBEROS_UNAVAILABLE,
    ReasonCode.KERBEROS_UNREACHABLE,
)
"""Kerberos was agreed on, and then turned out not to work between the two."""
_NOT_TAKEN = (ReasonCode.PSK_MISMATCH, ReasonCode.AUTHENTICATION_FAILED)
"""The peer does not take our credential: another key, no connection of it, no trust in our root."""
_NOT_SHOWN = (ReasonCode.CERTIFICATE_UNTRUSTED, ReasonCode.NO_PEER_CERTIFICATE)
"""The peer has no certificate under a root of the rule."""


class NoCredentials:
    """A `CredentialSource` for a host without certificates."""

    def own(self, root_ca: str) -> tuple[OwnCertificate, ...] | Reason:
        return Reason.of(ReasonCode.NO_CERTIFICATE, "this host has no machine store", root=root_ca)

    def authority_names(self, root_ca: str) -> tuple[bytes, ...]:
        return ()

    def verify(self, certificates: Sequence[bytes], roots: Sequence[str]) -> VerifiedPeer | Reason:
        return Reason.of(ReasonCode.CERTIFICATE_UNTRUSTED, "this host has no machine store")

    def settle(
        self, certificates: Sequence[bytes], roots: Sequence[str], wanted: Sequence[str]
    ) -> VerifiedPeer | Reason:
        return self.verify(certificates, roots)


def main_mode_candidates(
    negotiations: Iterable[Negotiation], credentials: CredentialSource, kerberos: GssSource | None = None
) -> list[MainModeCandidate] | Reason:
    """In the order of the negotiations and of the methods in them, without those whose credential is not
    here. All certificates of a rule stand where its first one does. At most `MAXIMUM_CANDIDATES`."""
    candidates: list[MainModeCandidate] = []
    refusals: list[tuple[str, Reason]] = []
    for negotiation in negotiations:
        for method in _methods(negotiation.authentication, credentials, kerberos):
            if isinstance(method, Reason):
                refusals.append((negotiation.name, method))
                continue
            for proposal in negotiation.main_mode.proposals:
                lifetime = negotiation.main_mode.lifetime_seconds
                candidates.append(MainModeCandidate(proposal, method, lifetime, negotiation))
    if candidates:
        return candidates[:MAXIMUM_CANDIDATES]
    detail = "; ".join(f"{name}: {reason}" for name, reason in refusals[:8])
    return Reason.of(ReasonCode.AUTHENTICATION_METHOD_UNAVAILABLE, detail)


def known_key_first(
    candidates: list[MainModeCandidate], shown: Sequence[AuthMethod]
) -> list[MainModeCandidate]:
    """Of several pre-shared keys the one that the peer has shown last before its others, for a wrong one
    costs seconds. `shown`: what the peer authenticated by, oldest first."""
    last = next((method for method in reversed(shown) if method.number == PRESHARED_KEY), None)
    if last is None:
        return candidates
    keys = [entry for entry in candidates if entry.method.number == PRESHARED_KEY]
    keys.sort(key=lambda entry: entry.method != last)
    following = iter(keys)
    return [next(following) if entry.method.number == PRESHARED_KEY else entry for entry in candidates]


def untried_candidates(
    candidates: Sequence[MainModeCandidate], tried: AuthMethod, reason: Reason
) -> list[MainModeCandidate]:
    """Those whose credential was not tried, where `reason`, for which the one that was has failed, lies in
    it; none where it would be the same with another."""
    if tried.number == GSS_KERBEROS and reason.code in _NO_KERBEROS:
        return [entry for entry in candidates if entry.method.number != GSS_KERBEROS]
    if reason.code in _NOT_TAKEN:
        return [entry for entry in candidates if entry.method != tried]
    if reason.code in _NOT_SHOWN:
        signature = PayloadType.SIGNATURE
        return [entry for entry in candidates if entry.method.proof_type is not signature]
    return []


def _methods(
    authentication: Sequence[AuthenticationMethod],
    credentials: CredentialSource,
    kerberos: GssSource | None,
) -> "list[AuthMethod | Reason]":
    methods: list[AuthMethod | Reason] = []
    certificates = [entry for entry in authentication if isinstance(entry, Certificate)]
    for configured in authentication:
        if isinstance(configured, PresharedKey):
            methods.append(PresharedKeyMethod(configured))
        elif isinstance(configured, Kerberos):
            methods.append(kerberos_method(kerberos))
        elif configured is certificates[0]:
            found = certificate_methods(certificates, credentials)
            methods += [found] if isinstance(found, Reason) else found
    return methods
