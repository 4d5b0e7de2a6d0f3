"""Reading certificates, the files of the machine store, and what the key exchange asks of both."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from certificate_maker import DAY, NOW, root, root_name
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.crypto.signatures import PrivateKey
from stockade.model.identities import Identity, IdentityType
from stockade.model.reasons import CallerError, PeerError, Reason, ReasonCode
from stockade.model.secret import Secret
from stockade.pki.certificate import read_certificate
from stockade.pki.chain import Trust
from stockade.pki.containers import read_bundle, read_file
from stockade.pki.credentials import Credentials
from stockade.pki.machine_store import AUTHORITIES, LISTS, MACHINE, ROOTS, MachineStore
from stockade.pki.names import name_text, parse_name, same_name
from stockade.pki.revocation import read_revocation_list

ROOT = root()
ISSUING = ROOT.issue("Issuing", authority=True)
HOST = ISSUING.issue("host", names=["host.test", "me@host.test", "10.0.0.1"])


# ---- one certificate
def test_what_is_read_is_what_is_in_it() -> None:
    read = HOST.read
    assert read.subject_text == "C=ZZ, O=Laboratory, CN=host"
    assert read.issuer_text == "C=ZZ, O=Laboratory, CN=Issuing"
    assert str(read.identity) == read.subject_text
    assert read.key_usage == {"digital_signature"}
    assert [str(entry) for entry in read.alternative_names] == ["host.test", "me@host.test", "10.0.0.1"]
    assert ISSUING.read.issued(read)
    assert not ROOT.read.issued(read)
    assert not read.self_issued
    assert ROOT.read.self_issued


@settings(max_examples=150)
@given(data=st.data())
def test_any_bytes_are_a_certificate_or_the_peers_error(data: st.DataObject) -> None:
    der = bytearray(HOST.der)
    for _ in range(data.draw(st.integers(1, 8))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    mangled = bytes(der)[: data.draw(st.integers(0, len(der)))]
    for read in (read_certificate, read_revocation_list, read_bundle):
        with suppress(PeerError):
            read(mangled)


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_file_or_the_callers_error(data: bytes) -> None:
    for content in (data, b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n"):
        with suppress(CallerError):
            read_file(content)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from(["CN", "OU", "1.2.3"]), st.text(min_size=1)), min_size=1, max_size=4)
)
def test_a_name_as_text_is_read_back(parts: list[tuple[str, str]]) -> None:
    shown = parse_name(name_text(tuple(parts)))
    assert [keyword for keyword, _ in shown] == [keyword for keyword, _ in parts]
    assert same_name(shown, parse_name(name_text(tuple(parts))))


def test_sha1_links_hold_and_md5_links_do_not(tmp_path: Path) -> None:
    """Peers of that time have SHA-1; the openssl program makes what the library refuses to."""
    for hash_name, holds in (("sha1", True), ("md5", False)):
        target = tmp_path / f"{hash_name}.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", f"-{hash_name}", "-subj"]
        command += ["/C=ZZ/CN=old", "-keyout", str(tmp_path / "key.pem"), "-out", str(target)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("the openssl program is not installed")
        (certificate,) = read_file(target.read_bytes()).certificates
        assert certificate.issued(certificate) is holds


# ---- the files
def test_a_pkcs12_file_gives_host_and_authorities_but_trusts_no_root_by_itself(tmp_path: Path) -> None:
    store = MachineStore(tmp_path / "certificates")
    data = HOST.pkcs12(b"hush", ISSUING, ROOT)
    done = store.import_file(data, Secret(b"hush"))
    assert [entry.place for entry in done] == [MACHINE, AUTHORITIES, ""]
    assert "--trust-roots" in done[2].note
    again = store.import_file(data, Secret(b"hush"), trust_roots=True)
    assert [entry.place for entry in again] == [MACHINE, AUTHORITIES, ROOTS]
    found, problems = store.entries()
    assert not problems
    assert sorted(entry.place for entry in found) == sorted([MACHINE, ROOTS, AUTHORITIES])


def test_pem_with_key_and_list(tmp_path: Path) -> None:
    store = MachineStore(tmp_path)
    done = store.import_file(HOST.pem + HOST.key_pem + ISSUING.pem)
    assert [entry.place for entry in done] == [MACHINE, AUTHORITIES]
    (done_list,) = store.import_file(ISSUING.revocation_list().der)
    assert done_list.place == LISTS
    credentials, problems = store.credentials()
    assert not problems
    assert len(credentials.machine) == len(credentials.trust.authorities) == 1
    assert len(credentials.trust.revocation_lists) == 1
    assert credentials.trust.roots == ()


def test_files_with_keys_are_their_owners_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        MachineStore(tmp_path / "certificates").import_file(HOST.pem + HOST.key_pem)
    finally:
        os.umask(old)
    (file,) = (tmp_path / "certificates" / MACHINE).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        HOST.key_pem,
        HOST.pkcs12(b"hush"),
        HOST.pem + ROOT.key_pem,
        b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----",
    ],
    ids=["empty", "no file", "key alone", "no password", "wrong key", "damaged"],
)
def test_what_cannot_be_taken_over_changes_nothing(tmp_path: Path, data: bytes) -> None:
    store = MachineStore(tmp_path / "certificates")
    with pytest.raises(CallerError) as caught:
        store.import_file(data)
    assert caught.value.reason.code is ReasonCode.INVALID_FILE
    assert not (tmp_path / "certificates").exists()


def test_a_damaged_file_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    store = MachineStore(tmp_path)
    store.import_file(HOST.pem + HOST.key_pem)
    (tmp_path / MACHINE / "aaaa.pem").write_bytes(b"-----BEGIN X-----\n-----END X-----")
    found, (problem,) = store.entries()
    assert len(found) == 1
    assert ("file", f"{MACHINE}/aaaa.pem") in problem.facts


def test_a_private_key_does_not_show_itself() -> None:
    key = PrivateKey.load(HOST.key_pem)
    assert repr(key) == "PrivateKey(ECDSA secp256r1 256)"
    assert "Secret" in repr(key.pem())


# ---- what the key exchange asks
def credentials(*machine, trusted=(ROOT,)) -> Credentials:  # type: ignore[no-untyped-def]
    trust = Trust(tuple(entry.read for entry in trusted), (ISSUING.read,))
    return Credentials([entry.own for entry in machine], trust, moment=lambda: NOW)


def test_our_own_certificate_is_found_with_its_chain() -> None:
    found = credentials(ROOT.issue("other"), HOST).own(root_name("Issuing"))
    assert not isinstance(found, Reason)
    (own,) = found
    assert [link.subject_text[-7:] for link in own.chain] == ["CN=host", "Issuing", "CN=Root"]


def test_why_none_of_our_own_will_do_is_told_of_each() -> None:
    expired = ISSUING.issue("old", end=NOW - DAY)
    found = credentials(expired, root("Other").issue("foreign")).own(root_name())
    assert isinstance(found, Reason)
    assert found.code is ReasonCode.NO_CERTIFICATE
    old, foreign = found.facts
    assert "expired" in old[1]
    assert "no chain" in foreign[1]


def test_own_certificates_are_judged_anew_after_a_minute() -> None:
    moment = [NOW]
    trust = Trust((ROOT.read,), (ISSUING.read,))
    ending = ISSUING.issue("host", end=NOW + DAY / 24)
    source = Credentials([ending.own], trust, moment=lambda: moment[0])
    assert not isinstance(source.own(root_name()), Reason)
    moment[0] += DAY
    assert isinstance(source.own(root_name()), Reason)


def test_the_peer_is_verified_under_the_root_that_fits() -> None:
    other = root("Other")
    source = credentials(trusted=(ROOT, other))
    found = source.verify([other.issue("peer").der], [root_name(), root_name("Other")])
    assert not isinstance(found, Reason)
    assert found.root_ca == root_name("Other")


def test_a_root_that_the_rule_names_wrongly_is_a_refusal_and_no_crash() -> None:
    for name in ("", "no name", "=x", "CN=" + "x" * 10_000):
        assert isinstance(credentials(HOST).own(name), Reason)
        assert isinstance(credentials(HOST).verify([HOST.der], [name]), Reason)


def test_no_certificate_at_all() -> None:
    found = credentials().verify([], [root_name()])
    assert isinstance(found, Reason)
    assert found.code is ReasonCode.NO_PEER_CERTIFICATE


def test_a_distinguished_name_is_shown_as_text() -> None:
    assert str(Identity(IdentityType.DER_ASN1_DN, HOST.read.subject)) == "C=ZZ, O=Laboratory, CN=host"
    assert str(Identity(IdentityType.DER_ASN1_DN, b"\x30\x01")) == "type 9: 3001"
