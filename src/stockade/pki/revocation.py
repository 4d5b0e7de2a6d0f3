"""Certificate revocation lists (RFC 5280 §5) and how strictly they are asked.

StrongCRLCheck, as Windows has it: 0 never asked; 1 a certificate is refused only if a list says that it is
revoked (the default); 2 also if no valid list can be found. Lists are files in the machine store, and what
`distribution.py` fetches.

Left out: delta lists, indirect lists and lists for a part of the certificates. They are used only for what
they say is revoked, never as proof that something is not."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from stockade.model.reasons import Reason, ReasonCode, error_for
from stockade.pki.certificate import Certificate, shown_name, signature_hash

MAXIMUM_SIZE = 4 * 1024 * 1024


class RevocationCheck(IntEnum):
    """The values of StrongCRLCheck."""

    NONE = 0
    REVOKED_ONLY = 1
    STRICT = 2


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list that could be read. `revoked`: serial numbers. `whole`: it speaks of all certificates of its
    issuer."""

    der: bytes
    issuer: bytes
    issuer_text: str
    this_update: datetime
    next_update: datetime | None
    revoked: frozenset[int]
    whole: bool
    hash_name: str
    signature: bytes
    signed_part: bytes


def read_revocation_list(der: bytes) -> RevocationList:
    """Parse a list, DER. `PeerError` CERTIFICATE_INVALID."""
    if len(der) > MAXIMUM_SIZE:
        raise error_for(ReasonCode.CERTIFICATE_INVALID, f"a revocation list of {len(der)} bytes is too long")
    try:
        found = x509.load_der_x509_crl(der)
        critical = any(extension.critical for extension in found.extensions)
        return RevocationList(
            der=der,
            issuer=found.issuer.public_bytes(),
            issuer_text=shown_name(found.issuer),
            this_update=found.last_update_utc,
            next_update=found.next_update_utc,
            revoked=frozenset(entry.serial_number for entry in found),
            whole=not critical,
            hash_name=signature_hash(
                found.signature_algorithm_oid.dotted_string, found.signature_hash_algorithm
            ),
            signature=found.signature,
            signed_part=found.tbs_certlist_bytes,
        )
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as fault:
        detail = f"{type(fault).__name__} while reading a revocation list"
        raise error_for(ReasonCode.CERTIFICATE_INVALID, detail) from None


def why_revoked(
    certificate: Certificate,
    issuer: Certificate,
    lists: tuple[RevocationList, ...],
    check: RevocationCheck,
    moment: datetime,
) -> Reason | None:
    """Why revocation forbids this certificate, issued by `issuer`; None if it does not."""
    if check is RevocationCheck.NONE:
        return None
    trouble = "no revocation list of its issuer is here"
    checked = False
    for entry in lists:
        if entry.issuer != certificate.issuer:
            continue
        if issuer.key_usage is not None and "crl_sign" not in issuer.key_usage:
            trouble = "its issuer may not sign revocation lists"
            continue
        if not issuer.public_key.verify_link(entry.hash_name, entry.signature, entry.signed_part):
            trouble = "the signature of the revocation list is wrong"
            continue
        if certificate.serial_number in entry.revoked:  # also by a list that is out of date: it stays revoked
            return Reason.of(ReasonCode.CERTIFICATE_REVOKED, "revoked by its issuer")
        if entry.next_update is None or entry.next_update < moment or entry.this_update > moment:
            trouble = f"the revocation list is out of date (next update {_day(entry.next_update)})"
        elif not entry.whole:
            trouble = "the revocation list speaks of a part of the certificates only"
        else:
            checked = True
    if checked or check is RevocationCheck.REVOKED_ONLY:
        return None
    return Reason.of(ReasonCode.CERTIFICATE_REVOKED, trouble, strong_crl_check=int(check))


def _day(moment: datetime | None) -> str:
    return "not given" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"
