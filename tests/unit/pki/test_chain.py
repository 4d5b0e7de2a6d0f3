"""Chains: what holds, and why what does not hold is refused, link by link."""

from datetime import timedelta

import pytest
from certificate_maker import AUTHORITY_USAGE, DAY, NOW, Made, make, root, root_name

from stockade.model.reasons import Reason, ReasonCode
from stockade.pki import certificate
from stockade.pki.chain import MAXIMUM_DEPTH, ChainRules, Trust, build_chain
from stockade.pki.names import parse_name
from stockade.pki.revocation import RevocationCheck, RevocationList

ROOT = root()
ISSUING = ROOT.issue("Issuing", authority=True)
HOST = ISSUING.issue("host")


def judge(
    host: Made,
    *sent: Made,
    trusted: tuple[Made, ...] = (ROOT,),
    named: str = root_name(),
    lists: tuple[RevocationList, ...] = (),
    check: RevocationCheck = RevocationCheck.REVOKED_ONLY,
    later: timedelta = timedelta(0),
) -> object:
    """The chain as common names, or the refusal."""
    trust = Trust(tuple(entry.read for entry in trusted), (), lists)
    found = build_chain(
        host.read,
        [entry.read for entry in sent],
        trust,
        [parse_name(named)],
        ChainRules(check),
        NOW + later,
    )
    if isinstance(found, Reason):
        return found
    return [entry.subject_text.rpartition("=")[2] for entry in found]


def refusal(*arguments: object, **options: object) -> Reason:
    found = judge(*arguments, **options)  # type: ignore[arg-type]
    assert isinstance(found, Reason), found
    return found


def test_a_chain_over_an_authority_that_the_peer_sent_holds() -> None:
    assert judge(HOST, ISSUING) == ["host", "Issuing", "Root"]


@pytest.mark.parametrize(
    "named",
    [
        "C=ZZ, O=Laboratory, CN=Root",
        "CN=Root,O=Laboratory,C=ZZ",
        'c=zz, o="laboratory", cn=ROOT',
        "C=ZZ, O=Laboratory, CN=Issuing",
    ],
)
def test_the_rule_may_name_root_or_issuer_in_either_order(named: str) -> None:
    assert judge(HOST, ISSUING, named=named) == ["host", "Issuing", "Root"]


def test_without_the_authority_in_between_there_is_no_chain() -> None:
    reason = refusal(HOST)
    assert reason.code is ReasonCode.CERTIFICATE_UNTRUSTED
    assert "issued by C=ZZ, O=Laboratory, CN=Issuing" in reason.detail


def test_a_root_that_is_not_trusted_is_worth_nothing_even_if_the_peer_sends_it() -> None:
    other = root("Other")
    assert refusal(HOST, ISSUING, ROOT, trusted=(other,)).code is ReasonCode.CERTIFICATE_UNTRUSTED


def test_a_trusted_root_that_the_rule_does_not_name_is_refused() -> None:
    reason = refusal(HOST, ISSUING, named=root_name("Other"))
    assert reason.code is ReasonCode.CERTIFICATE_UNTRUSTED
    assert "none of its authorities" in reason.detail
    assert [what for _, what in reason.facts] == ["holds", "holds", "holds"]


def test_an_authority_with_the_right_name_and_another_key_signs_nothing() -> None:
    impostor = root("Other").issue("Issuing", authority=True)
    assert refusal(HOST, impostor).code is ReasonCode.CERTIFICATE_UNTRUSTED


def test_a_root_with_the_right_name_and_another_key_is_not_the_root() -> None:
    impostor = root("Root")
    forged = impostor.issue("host")
    assert refusal(forged, impostor).code is ReasonCode.CERTIFICATE_UNTRUSTED


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"end": NOW - DAY}, ReasonCode.CERTIFICATE_EXPIRED, "expired"),
        ({"start": NOW + DAY}, ReasonCode.CERTIFICATE_EXPIRED, "not valid before"),
        ({"usage": ("key_encipherment",)}, ReasonCode.CERTIFICATE_USAGE, "no digital signature"),
        ({"extended": ("1.3.6.1.5.5.7.3.4",)}, ReasonCode.CERTIFICATE_USAGE, "1.3.6.1.5.5.7.3.4"),
        ({"critical": "1.2.3.4"}, ReasonCode.CERTIFICATE_USAGE, "1.2.3.4"),
        ({"kind": "rsa1024", "start": NOW + DAY}, ReasonCode.CERTIFICATE_EXPIRED, "not valid"),
    ],
)
def test_a_host_certificate_that_may_not_be_used(
    options: dict[str, object], code: ReasonCode, words: str
) -> None:
    reason = refusal(ISSUING.issue("host", **options), ISSUING)  # type: ignore[arg-type]
    assert reason.code is code
    assert words in reason.detail
    link_0, link_1, link_2 = reason.facts
    assert link_0[0] == "link 0 C=ZZ, O=Laboratory, CN=host:"
    assert words in link_0[1]
    assert (link_1[1], link_2[1]) == ("holds", "holds")


@pytest.mark.parametrize(
    "options",
    [
        {"usage": ("content_commitment",)},
        {"usage": ()},
        {"extended": ("1.3.6.1.5.5.8.2.2",)},
        {"extended": ("1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.4")},
        {"constraints": False},
    ],
)
def test_a_host_certificate_that_may(options: dict[str, object]) -> None:
    assert judge(ISSUING.issue("host", **options), ISSUING) == ["host", "Issuing", "Root"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"authority": False, "usage": AUTHORITY_USAGE}, "no certification authority"),
        ({"constraints": False, "usage": AUTHORITY_USAGE}, "no basic constraints"),
        ({"authority": True, "usage": ("crl_sign",)}, "no certificate signing"),
    ],
)
def test_an_authority_that_is_none(options: dict[str, object], words: str) -> None:
    authority = ROOT.issue("Issuing", **options)  # type: ignore[arg-type]
    reason = refusal(authority.issue("host"), authority)
    assert reason.code is ReasonCode.CERTIFICATE_USAGE
    assert words in dict(reason.facts)["link 1 C=ZZ, O=Laboratory, CN=Issuing:"]


def test_path_length_counts_authorities_below() -> None:
    short = root("Root", path_length=1)
    first = short.issue("First", authority=True)
    second = first.issue("Second", authority=True)
    assert judge(first.issue("host"), first, trusted=(short,)) == ["host", "First", "Root"]
    reason = refusal(second.issue("host"), first, second, trusted=(short,))
    assert reason.code is ReasonCode.CERTIFICATE_USAGE
    assert "path length allows 1" in reason.detail


def test_short_rsa_keys_are_refused() -> None:
    trust = Trust((ROOT.read,), (ISSUING.read,))
    host = ISSUING.issue("host", "rsa1024").read
    rules = ChainRules(minimum_rsa_bits=2048)
    found = build_chain(host, (), trust, [parse_name(root_name())], rules, NOW)
    assert isinstance(found, Reason)
    assert found.code is ReasonCode.CERTIFICATE_KEY
    rules = ChainRules()
    assert not isinstance(build_chain(host, (), trust, [parse_name(root_name())], rules, NOW), Reason)


def test_a_self_signed_certificate_is_its_own_root_where_it_is_trusted() -> None:
    alone = make("alone")
    assert judge(alone, trusted=(alone,), named=root_name("alone")) == ["alone"]
    assert refusal(alone, named=root_name("alone")).code is ReasonCode.CERTIFICATE_UNTRUSTED


def test_authorities_that_sign_each_other_cost_a_bounded_time() -> None:
    """A peer sends a crowd of certificates of one name and key, all of which fit each other."""
    ring = [ROOT.issue("Ring", authority=True)]
    ring += [ring[-1].issue("Ring", authority=True) for _ in range(2 * MAXIMUM_DEPTH)]
    other = root("Other")
    assert refusal(ring[-1].issue("host"), *ring, trusted=(other,)).code is ReasonCode.CERTIFICATE_UNTRUSTED


# ---- revocation
@pytest.mark.parametrize("check", [RevocationCheck.REVOKED_ONLY, RevocationCheck.STRICT])
def test_a_revoked_certificate_is_refused(check: RevocationCheck) -> None:
    lists = (ISSUING.revocation_list(HOST), ROOT.revocation_list())
    reason = refusal(HOST, ISSUING, lists=lists, check=check)
    assert reason.code is ReasonCode.CERTIFICATE_REVOKED
    assert reason.facts[0][1] == "revoked by its issuer"


def test_a_revoked_authority_takes_all_below_with_it() -> None:
    reason = refusal(HOST, ISSUING, lists=(ROOT.revocation_list(ISSUING),))
    assert reason.code is ReasonCode.CERTIFICATE_REVOKED
    assert [what for _, what in reason.facts] == ["holds", "revoked by its issuer", "holds"]


def test_level_0_never_asks() -> None:
    lists = (ISSUING.revocation_list(HOST),)
    assert judge(HOST, ISSUING, lists=lists, check=RevocationCheck.NONE) == ["host", "Issuing", "Root"]


def test_level_2_wants_a_valid_list_for_every_link() -> None:
    both = (ISSUING.revocation_list(), ROOT.revocation_list())
    strict = RevocationCheck.STRICT
    assert judge(HOST, ISSUING, lists=both, check=strict) == ["host", "Issuing", "Root"]
    assert refusal(HOST, ISSUING, lists=both[:1], check=strict).code is ReasonCode.CERTIFICATE_REVOKED
    assert refusal(HOST, ISSUING, check=strict).detail.startswith("no revocation list")


@pytest.mark.parametrize(
    ("worthless", "words"),
    [
        (lambda: ISSUING.revocation_list(days=0), "out of date"),
        (lambda: ISSUING.revocation_list(signer=root("Other")), "signature"),
        (lambda: ISSUING.revocation_list(partial=True), "a part of the certificates"),
    ],
)
def test_a_worthless_list_is_none_at_level_2_and_no_matter_at_level_1(worthless, words) -> None:  # type: ignore[no-untyped-def]
    lists = (worthless(), ROOT.revocation_list())
    reason = refusal(HOST, ISSUING, lists=lists, check=RevocationCheck.STRICT)
    assert words in reason.detail
    assert judge(HOST, ISSUING, lists=lists) == ["host", "Issuing", "Root"]


def test_a_forged_list_revokes_nothing() -> None:
    forged = ISSUING.revocation_list(HOST, signer=root("Other"))
    assert judge(HOST, ISSUING, lists=(forged,)) == ["host", "Issuing", "Root"]


def test_an_old_list_still_revokes() -> None:
    lists = (ISSUING.revocation_list(HOST, days=0),)
    assert refusal(HOST, ISSUING, lists=lists).code is ReasonCode.CERTIFICATE_REVOKED


def test_who_signed_what_is_verified_once_and_the_rest_of_the_judgement_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuing = ROOT.issue("Issuing once", authority=True)
    host = issuing.issue("host once")
    assert judge(host, issuing) == ["host once", "Issuing once", "Root"]

    def never(*_: object) -> bool:
        raise AssertionError("verified again")

    monkeypatch.setattr(certificate, "_signed", never)
    assert judge(host, issuing) == ["host once", "Issuing once", "Root"]
    assert refusal(host, issuing, later=DAY * 4000).code is ReasonCode.CERTIFICATE_EXPIRED
    monkeypatch.undo()
    forged = certificate.read_certificate(host.der[:-1] + bytes([host.der[-1] ^ 1]))
    trust = Trust((ROOT.read,), (), ())
    for _ in range(2):
        found = build_chain(forged, [issuing.read], trust, [parse_name(root_name())], ChainRules(), NOW)
        assert isinstance(found, Reason)
        assert found.code is ReasonCode.CERTIFICATE_UNTRUSTED
