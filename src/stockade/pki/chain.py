"""From a peer's certificate to the root that the rule names, link by link (RFC 5280 §6, Windows' rules).

    0 CN=host          key usage digital signature, extended key usage for IPsec if any
    1 CN=Issuing CA    basic constraints, key usage certificate signing, path length
    2 CN=Root          among the trusted roots; it or an authority below it is the one that the rule names

Every link: valid now, a key that is long enough, no critical extension that is unknown here, not revoked. The
peer's name is not compared with anything: names cannot safely be mapped to addresses.

The refusal lists every link with the first thing that is wrong about it. Depth and the number of signature
checks are bounded: a peer chooses what it sends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import Reason, ReasonCode
from stockade.pki.certificate import Certificate
from stockade.pki.names import Part, same_name
from stockade.pki.revocation import RevocationCheck, RevocationList, why_revoked

MAXIMUM_DEPTH = 8
MAXIMUM_CHECKS = 32

USAGES_FOR_IPSEC = frozenset(
    {
        "2.5.29.37.0",  # any
        "1.3.6.1.5.5.8.2.2",  # IKE intermediate
        "1.3.6.1.5.5.7.3.1",  # server authentication
        "1.3.6.1.5.5.7.3.2",  # client authentication
        "1.3.6.1.5.5.7.3.5",  # IPsec end system
        "1.3.6.1.5.5.7.3.6",  # IPsec tunnel
        "1.3.6.1.5.5.7.3.7",  # IPsec user
        "1.3.6.1.5.5.7.3.17",  # IKE (RFC 4945)
    }
)


@quickly_made
@dataclass(frozen=True, slots=True)
class ChainRules:
    """What every chain must keep to."""

    revocation: RevocationCheck = RevocationCheck.REVOKED_ONLY
    minimum_rsa_bits: int = 1024


@dataclass(frozen=True, slots=True)
class Trust:
    """What chains are built of: trusted roots, authorities in between, revocation lists."""

    roots: tuple[Certificate, ...] = ()
    authorities: tuple[Certificate, ...] = ()
    revocation_lists: tuple[RevocationList, ...] = ()


Chain = tuple[Certificate, ...]
"""The certificate itself first, its trusted root last."""


def build_chain(
    certificate: Certificate,
    sent: Sequence[Certificate],
    trust: Trust,
    named: Sequence[tuple[Part, ...]],
    rules: ChainRules,
    moment: datetime,
) -> Chain | Reason:
    """The first chain that holds. `sent`: what came along with the certificate. `named`: the authorities of
    the rule, one of which must be in the chain."""
    best: Reason | None = None
    for path in _paths(certificate, sent, trust):
        refusal = _judge(path, trust, named, rules, moment)
        if refusal is None:
            return path
        if best is None or best.code is ReasonCode.CERTIFICATE_UNTRUSTED:
            best = refusal  # what is wrong within a chain to the named root says more than another root
    if best is not None:
        return best
    return Reason.of(
        ReasonCode.CERTIFICATE_UNTRUSTED,
        f"no chain leads from {certificate.subject_text}, issued by {certificate.issuer_text}, "
        "to a trusted root",
        **{"trusted roots": len(trust.roots)},
    )


def _paths(certificate: Certificate, sent: Sequence[Certificate], trust: Trust) -> Iterator[Chain]:
    """Every path of right signatures to a trusted root, within bounds; roots are tried first."""
    trusted = {root.der for root in trust.roots}
    candidates = (*trust.roots, *trust.authorities, *sent)
    checks = 0
    open_paths: list[Chain] = [(certificate,)]
    while open_paths:
        path = open_paths.pop()
        last = path[-1]
        if last.der in trusted:
            yield path
            continue
        if len(path) >= MAXIMUM_DEPTH:
            continue
        found: list[Chain] = []
        for issuer in candidates:
            if issuer.subject != last.issuer or any(issuer.der == link.der for link in path):
                continue
            if any(issuer.der == other[-1].der for other in found):
                continue
            if checks >= MAXIMUM_CHECKS:
                return
            checks += 1
            if issuer.issued(last):
                found.append((*path, issuer))
        open_paths += reversed(found)


def _judge(
    path: Chain, trust: Trust, named: Sequence[tuple[Part, ...]], rules: ChainRules, moment: datetime
) -> Reason | None:
    faults = [_fault(path, index, trust, rules, moment) for index in range(len(path))]
    first = next((fault for fault in faults if fault is not None), None)
    above = path[1:] or path
    if first is None and not any(same_name(link.subject_parts, name) for link in above for name in named):
        detail = "the chain holds, but none of its authorities is the one that the rule names"
        first = Reason.of(ReasonCode.CERTIFICATE_UNTRUSTED, detail)
    if first is None:
        return None
    facts = tuple(
        (f"link {index} {link.subject_text}:", "holds" if fault is None else fault.detail or str(fault))
        for index, (link, fault) in enumerate(zip(path, faults, strict=True))
    )
    return Reason(first.code, first.detail, facts)


def _fault(path: Chain, index: int, trust: Trust, rules: ChainRules, moment: datetime) -> Reason | None:
    """The first thing that is wrong about one link."""
    link = path[index]
    fault = _validity(link, moment) or _key(link, rules)
    if fault is None and link.unknown_critical:
        identifiers = ", ".join(link.unknown_critical)
        fault = Reason.of(ReasonCode.CERTIFICATE_USAGE, f"it has extensions unknown here: {identifiers}")
    if fault is None:
        fault = _usage(link) if index == 0 else _authority(path, index)
    if fault is None and index + 1 < len(path):
        fault = why_revoked(link, path[index + 1], trust.revocation_lists, rules.revocation, moment)
    return fault


def _validity(link: Certificate, moment: datetime) -> Reason | None:
    if moment > link.not_after:
        detail = f"expired {link.not_after:%Y-%m-%d %H:%M} UTC"
    elif moment < link.not_before:
        detail = f"not valid before {link.not_before:%Y-%m-%d %H:%M} UTC"
    else:
        return None
    # Which clock is wrong only people can tell.
    clock = f"by this computer's clock it is {moment:%Y-%m-%d %H:%M} UTC"
    return Reason.of(ReasonCode.CERTIFICATE_EXPIRED, f"{detail}; {clock}")


def _key(link: Certificate, rules: ChainRules) -> Reason | None:
    key = link.public_key
    if key.kind == "RSA" and key.bits < rules.minimum_rsa_bits:
        detail = f"an RSA key of {key.bits} bits, at least {rules.minimum_rsa_bits} are asked for"
        return Reason.of(ReasonCode.CERTIFICATE_KEY, detail)
    return None


def _extended_usage(link: Certificate) -> Reason | None:
    if link.extended_key_usage is None or link.extended_key_usage & USAGES_FOR_IPSEC:
        return None
    usages = ", ".join(sorted(link.extended_key_usage))
    return Reason.of(ReasonCode.CERTIFICATE_USAGE, f"its extended key usage is {usages}, nothing for IPsec")


def _usage(link: Certificate) -> Reason | None:
    """RFC 4945 §5.1.3.2: digital signature or non-repudiation, if key usage is there at all."""
    if link.key_usage is not None and not link.key_usage & {"digital_signature", "content_commitment"}:
        return Reason.of(ReasonCode.CERTIFICATE_USAGE, "its key usage has no digital signature")
    return _extended_usage(link)


def _authority(path: Chain, index: int) -> Reason | None:
    """An authority above the end. A root of version 1 has no basic constraints; being among the trusted
    roots says enough."""
    link = path[index]
    constraints = link.constraints
    if constraints is None and index + 1 < len(path):
        return Reason.of(ReasonCode.CERTIFICATE_USAGE, "it has no basic constraints, so it is no authority")
    if constraints is not None and not constraints.authority:
        return Reason.of(ReasonCode.CERTIFICATE_USAGE, "it is no certification authority")
    if link.key_usage is not None and "key_cert_sign" not in link.key_usage:
        return Reason.of(ReasonCode.CERTIFICATE_USAGE, "its key usage has no certificate signing")
    below = sum(not entry.self_issued for entry in path[1:index])
    if constraints is not None and constraints.path_length is not None and below > constraints.path_length:
        detail = f"{below} authorities stand below it, its path length allows {constraints.path_length}"
        return Reason.of(ReasonCode.CERTIFICATE_USAGE, detail)
    return _extended_usage(link)
