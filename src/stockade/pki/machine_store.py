"""The machine store: certificates, keys and revocation lists as files in one folder.

    machine/<fingerprint>.pem       certificate and private key of this host
    roots/<fingerprint>.pem         roots that are trusted
    authorities/<fingerprint>.pem   authorities between a certificate and its root
    lists/<fingerprint>.pem         revocation lists

The folder is its owner's only, as keys stand in it in clear (the service must read them without a person, as
Windows' does). Files are written beside their place and moved there, so no reader sees half a file. A root is
trusted only when the person says so; a file that merely brings one along makes nobody trust it."""

import base64
import hashlib
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stockade.crypto.signatures import PrivateKey
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret
from stockade.pki.certificate import Certificate
from stockade.pki.chain import ChainRules, Trust
from stockade.pki.containers import Contents, read_file
from stockade.pki.credentials import Credentials, OwnCertificate
from stockade.pki.distribution import ListSource
from stockade.pki.revocation import RevocationList

MACHINE, ROOTS, AUTHORITIES, LISTS = "machine", "roots", "authorities", "lists"
PLACES = (MACHINE, ROOTS, AUTHORITIES, LISTS)
MAXIMUM_FILES = 1024


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did with one thing: the place that it went to; empty if it was left out, and why."""

    place: str
    subject: str
    fingerprint: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """One file of the store."""

    place: str
    fingerprint: str
    certificate: Certificate | None = None
    private_key: PrivateKey | None = None
    revocation_list: RevocationList | None = None


class MachineStore:
    """The store in `folder`, which is made when something is imported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def import_file(
        self, data: bytes, password: Secret | None = None, *, trust_roots: bool = False
    ) -> list[Imported]:
        """Take over what a PEM, DER or PKCS #12 file holds. `CallerError` INVALID_FILE changes nothing; a
        private key without its certificate is such an error."""
        contents = read_file(data, password)
        keys = _matched(contents)
        done: list[Imported] = []
        for certificate in contents.certificates:
            done.append(self._import_certificate(certificate, keys.get(certificate.fingerprint), trust_roots))
        for entry in contents.revocation_lists:
            mark = hashlib.sha256(entry.der).hexdigest()
            self._write(LISTS, mark, _pem("X509 CRL", entry.der))
            done.append(Imported(LISTS, entry.issuer_text, mark))
        return done

    def _import_certificate(
        self, certificate: Certificate, key: PrivateKey | None, trust_roots: bool
    ) -> Imported:
        mark, subject = certificate.fingerprint, certificate.subject_text
        text = _pem("CERTIFICATE", certificate.der)
        if key is not None:
            self._write(MACHINE, mark, text + key.pem().reveal())
            if certificate.self_issued and trust_roots:
                self._write(ROOTS, mark, text)
                return Imported(MACHINE, subject, mark, "trusted as a root, too")
            return Imported(MACHINE, subject, mark)
        if certificate.self_issued and certificate.issued(certificate):
            if not trust_roots:
                return Imported("", subject, mark, "a root; it becomes trusted only with --trust-roots")
            self._write(ROOTS, mark, text)
            return Imported(ROOTS, subject, mark)
        if certificate.constraints is None or not certificate.constraints.authority:
            return Imported("", subject, mark, "neither an authority, nor is its private key in the file")
        self._write(AUTHORITIES, mark, text)
        return Imported(AUTHORITIES, subject, mark)

    def entries(self) -> tuple[list[Stored], list[Reason]]:
        """All that can be read, in a steady order, and what could not, with the file's name."""
        found: list[Stored] = []
        problems: list[Reason] = []
        for place in PLACES:
            for path in self._files(place):
                try:
                    found.append(_stored(place, path))
                except StockadeError as error:
                    facts = (*error.reason.facts, ("file", f"{place}/{path.name}"))
                    problems.append(Reason(error.reason.code, error.reason.detail, facts))
                except OSError as error:
                    detail = f"{place}/{path.name}: {error.strerror}"
                    problems.append(Reason.of(ReasonCode.STORE_UNREADABLE, detail))
        return found, problems

    def credentials(
        self, rules: ChainRules | None = None, fetched: ListSource | None = None
    ) -> tuple[Credentials, list[Reason]]:
        """The present content for the key exchange, and what could not be read. `fetched`: lists from the
        places that certificates name."""
        found, problems = self.entries()

        def certificates(place: str) -> tuple[Certificate, ...]:
            return tuple(e.certificate for e in found if e.place == place and e.certificate is not None)

        machine = [
            OwnCertificate(entry.certificate, entry.private_key)
            for entry in found
            if entry.place == MACHINE and entry.certificate is not None and entry.private_key is not None
        ]
        lists = tuple(entry.revocation_list for entry in found if entry.revocation_list is not None)
        trust = Trust(certificates(ROOTS), certificates(AUTHORITIES), lists)
        return Credentials(machine, trust, rules, fetched=fetched), problems

    def _files(self, place: str) -> Iterator[Path]:
        try:
            names = sorted((self._folder / place).glob("*.pem"))
        except OSError:
            return iter(())
        return iter(names[:MAXIMUM_FILES])

    def _write(self, place: str, mark: str, content: bytes) -> None:
        folder = self._folder / place
        target, beside = folder / f"{mark[:40]}.pem", folder / f".{mark[:40]}.new"
        try:
            for each in (self._folder, folder):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except OSError as error:
            raise error_for(
                ReasonCode.STORE_UNREADABLE, f"cannot write {target}: {error.strerror}"
            ) from error


def _matched(contents: Contents) -> dict[str, PrivateKey]:
    """Fingerprint -> the private key that belongs to the certificate."""
    keys: dict[str, PrivateKey] = {}
    for key in contents.private_keys:
        encoded = key.public.encoded
        owners = [entry for entry in contents.certificates if entry.public_key.encoded == encoded]
        if not owners:
            raise error_for(ReasonCode.INVALID_FILE, "a private key without its certificate")
        for owner in owners:
            keys[owner.fingerprint] = key
    return keys


def _stored(place: str, path: Path) -> Stored:
    contents = read_file(path.read_bytes())
    mark = path.stem
    if place == LISTS:
        if len(contents.revocation_lists) != 1:
            raise error_for(ReasonCode.INVALID_FILE, "one revocation list expected")
        return Stored(place, mark, revocation_list=contents.revocation_lists[0])
    if len(contents.certificates) != 1:
        raise error_for(ReasonCode.INVALID_FILE, "one certificate expected")
    certificate = contents.certificates[0]
    if place != MACHINE:
        return Stored(place, mark, certificate)
    key = _matched(contents).get(certificate.fingerprint)
    if key is None:
        raise error_for(ReasonCode.INVALID_FILE, "the private key is missing")
    return Stored(place, mark, certificate, key)


def _pem(kind: str, der: bytes) -> bytes:
    lines = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n".encode()
