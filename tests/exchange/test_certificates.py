"""Main mode with certificates.

alpha                                beta
  HDR, SA, VID                   ->
                                 <-   HDR, SA, VID
  HDR, KE, Ni, CERTREQ           ->
                                 <-   HDR, KE, Nr, CERTREQ
  HDR*, IDii, CERT…, SIG_I, N    ->
                                 <-   HDR*, IDir, CERT…, SIG_R, N
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from certificate_maker import NOW, Made, root, root_name
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Network,
    Node,
    Policy,
    assert_matching,
    deliver,
    established,
    negotiation,
    pairs_up,
)

from stockade.ike.contract import Perform, ReportKind, perform
from stockade.model.negotiation import AuthenticationMethod, Certificate, Kerberos, PresharedKey
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.secret import Secret
from stockade.pki.access import AccessEntry, AccessKind, AccessList, AccountMapping
from stockade.pki.chain import ChainRules, Trust
from stockade.pki.credentials import Credentials
from stockade.pki.distribution import ListFetcher, ListSource
from stockade.pki.revocation import RevocationCheck, RevocationList

ROOT, OTHER = root(), root("Other")
ISSUING = ROOT.issue("Issuing", authority=True)
ALPHA_CERTIFICATE, BETA_CERTIFICATE = ISSUING.issue("alpha"), ISSUING.issue("beta")
KEY, WRONG = PresharedKey(Secret(b"correct horse")), PresharedKey(Secret(b"wrong horse"))
UNDER_ROOT, UNDER_OTHER = Certificate(root_name()), Certificate(root_name("Other"))


def node(
    address: object,
    *methods: AuthenticationMethod,
    machine: tuple[Made, ...] = (),
    trusted: tuple[Made, ...] = (ROOT,),
    lists: tuple[RevocationList, ...] = (),
    check: RevocationCheck = RevocationCheck.REVOKED_ONLY,
    seed: int = 0,
) -> Node:
    trust = Trust(tuple(entry.read for entry in trusted), (ISSUING.read,), lists)
    credentials = Credentials([entry.own for entry in machine], trust, ChainRules(check), moment=lambda: NOW)
    rule = replace(negotiation(), authentication=methods)
    return Node(address, Policy(rule), seed, EXACT, credentials)  # type: ignore[arg-type]


def hosts(
    alphas: tuple[AuthenticationMethod, ...] = (UNDER_ROOT,),
    betas: tuple[AuthenticationMethod, ...] = (UNDER_ROOT,),
    *,
    alpha: Made = ALPHA_CERTIFICATE,
    beta: Made = BETA_CERTIFICATE,
    **options: object,
) -> tuple[Network, Node, Node]:
    one = node(ALPHA, *alphas, machine=(alpha,), **options)  # type: ignore[arg-type]
    other = node(BETA, *betas, machine=(beta,), **options)  # type: ignore[arg-type]
    return Network([one, other]), one, other


@pytest.mark.parametrize("kind", ["rsa1024", "rsa2048", "p256", "p384", "p521"])
def test_both_ends_prove_themselves(kind: str) -> None:
    one, two = ISSUING.issue("alpha", kind), ISSUING.issue("beta", kind)
    network, alpha, beta = hosts(alpha=one, beta=two)
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    for host, peer in ((alpha, two), (beta, one)):
        (view,) = host.engine.main_modes(network.now)
        assert view.peer_identity == peer.read.identity
        assert view.authentication.startswith("certificate (")
        assert not host.reported(ReportKind.MESSAGE_REFUSED)


@pytest.mark.parametrize(
    ("alphas", "betas", "used"),
    [
        ((UNDER_ROOT, KEY), (KEY, UNDER_ROOT), "certificate (ECDSA secp256r1)"),
        ((KEY, UNDER_ROOT), (UNDER_ROOT, KEY), "preshared-key"),
        ((UNDER_ROOT, KEY), (KEY,), "preshared-key"),
        ((Kerberos(), UNDER_ROOT), (UNDER_ROOT,), "certificate (ECDSA secp256r1)"),
        ((UNDER_OTHER, KEY), (UNDER_ROOT, KEY), "preshared-key"),
        ((UNDER_OTHER, UNDER_ROOT), (UNDER_ROOT,), "certificate (ECDSA secp256r1)"),
        ((replace(UNDER_ROOT, exclude_ca_name=True),), (UNDER_ROOT,), "certificate (ECDSA secp256r1)"),
    ],
)
def test_the_first_method_that_both_have_is_taken(
    alphas: tuple[AuthenticationMethod, ...], betas: tuple[AuthenticationMethod, ...], used: str
) -> None:
    network, alpha, beta = hosts(alphas, betas)
    established(network, alpha, beta)
    assert [view.authentication for view in alpha.engine.main_modes(0)] == [used]


@pytest.mark.parametrize(
    ("alphas", "betas", "failed", "used"),
    [
        # beta has a key, another one
        ((KEY, UNDER_ROOT), (WRONG, UNDER_ROOT), [ReasonCode.PSK_MISMATCH], "certificate (ECDSA secp256r1)"),
        # alpha's certificate is under a root that beta does not trust
        ((UNDER_ROOT, KEY), (UNDER_OTHER, KEY), [ReasonCode.AUTHENTICATION_FAILED], "preshared-key"),
    ],
)
def test_a_method_that_both_have_and_that_does_not_serve_is_followed_by_the_next(
    alphas: tuple[AuthenticationMethod, ...],
    betas: tuple[AuthenticationMethod, ...],
    failed: list[ReasonCode],
    used: str,
) -> None:
    """beta chooses before alpha has proved anything."""
    elsewhere = OTHER.issue("beta elsewhere")
    alpha = node(ALPHA, *alphas, machine=(ALPHA_CERTIFICATE,), trusted=(ROOT, OTHER))
    beta = node(BETA, *betas, machine=(BETA_CERTIFICATE, elsewhere), trusted=(ROOT, OTHER))
    network = Network([alpha, beta])
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(40, pairs_up(alpha, beta)), alpha.reports
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == failed
    assert [view.authentication for view in alpha.engine.main_modes(0)] == [used]
    assert_matching(alpha, beta)


def test_where_the_peer_shows_no_certificate_of_ours_the_key_serves() -> None:
    """alpha trusts no root that beta has a certificate under: told by alpha, after message 6."""
    alpha = node(ALPHA, UNDER_ROOT, KEY, machine=(ALPHA_CERTIFICATE,))
    beta = node(BETA, UNDER_ROOT, KEY, machine=(BETA_CERTIFICATE,))
    real = alpha.engine._context.credentials

    class Distrusting:
        """Sees no trusted chain in what beta shows."""

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def verify(self, certificates: Sequence[bytes], roots: Sequence[str]) -> Reason:
            return Reason.of(ReasonCode.CERTIFICATE_UNTRUSTED)

        def settle(self, certificates: Sequence[bytes], roots: Sequence[str], wanted: object) -> Reason:
            return Reason.of(ReasonCode.CERTIFICATE_UNTRUSTED)

    alpha.engine._context.credentials = Distrusting()  # type: ignore[assignment]
    network = Network([alpha, beta])
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(40, pairs_up(alpha, beta)), alpha.reports
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.CERTIFICATE_UNTRUSTED]
    assert [view.authentication for view in alpha.engine.main_modes(0)] == ["preshared-key"]


@pytest.mark.parametrize("code", [ReasonCode.CERTIFICATE_REVOKED, ReasonCode.INVALID_SIGNATURE])
def test_a_certificate_that_is_no_good_is_followed_by_nothing(code: ReasonCode) -> None:
    alpha = node(ALPHA, UNDER_ROOT, KEY, machine=(ALPHA_CERTIFICATE,))
    network = Network([alpha, node(BETA, UNDER_ROOT, KEY, machine=(BETA_CERTIFICATE,))])
    network.fate = lambda packet: deliver(packet) if packet.number <= 5 else []
    network.command(alpha, alpha.acquire(BETA))
    network.run(0.5)
    (mode,) = alpha.engine._table.main_modes()
    assert mode.untried(Reason.of(ReasonCode.AUTHENTICATION_FAILED))
    assert not mode.untried(Reason.of(code))


def test_the_certificate_that_the_peer_asks_for_is_shown() -> None:
    """alpha has one under each root, in the wrong order; beta trusts one root only."""
    under_other = OTHER.issue("alpha elsewhere")
    alpha = node(
        ALPHA,
        UNDER_OTHER,
        UNDER_ROOT,
        machine=(under_other, ALPHA_CERTIFICATE),
        trusted=(ROOT, OTHER),
    )
    beta = node(BETA, UNDER_ROOT, machine=(BETA_CERTIFICATE,))
    for first, second in ((alpha, beta), (beta, alpha)):
        network = Network([alpha, beta])
        network.command(first, first.acquire(second.address))
        assert network.run(5, lambda second=second: bool(second.engine.main_modes(0)))
        network.run(2)
        (view,) = beta.engine.main_modes(network.now)[:1]
        assert view.peer_identity == ALPHA_CERTIFICATE.read.identity


def refused(network: Network, alpha: Node, beta: Node) -> tuple[ReasonCode, ReasonCode]:
    """What alpha, the initiator, and beta say when main mode does not come up."""
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(100, lambda: bool(alpha.reported(ReportKind.MAIN_MODE_FAILED)))
    assert not any(view.established for view in alpha.engine.main_modes(0))
    network.run(100)
    assert not alpha.sas
    assert not beta.sas
    refusals = [*beta.codes(ReportKind.MESSAGE_REFUSED), *beta.codes(ReportKind.MAIN_MODE_FAILED)]
    return alpha.codes(ReportKind.MAIN_MODE_FAILED)[0], refusals[0] if refusals else ReasonCode.SA_DELETED


def test_an_initiator_whose_certificate_is_under_another_root() -> None:
    """alpha thinks that its chain leads to the root; beta knows another root of that name."""
    impostor = root("Root")
    mine = impostor.issue("alpha")
    alpha = node(ALPHA, UNDER_ROOT, machine=(mine,), trusted=(impostor, ROOT))
    beta = node(BETA, UNDER_ROOT, machine=(BETA_CERTIFICATE,))
    network = Network([alpha, beta])
    said_alpha, said_beta = refused(network, alpha, beta)
    assert said_beta is ReasonCode.CERTIFICATE_UNTRUSTED
    assert said_alpha is ReasonCode.AUTHENTICATION_FAILED


def test_a_responder_whose_certificate_is_under_another_root() -> None:
    impostor = root("Root")
    alpha = node(ALPHA, UNDER_ROOT, machine=(ALPHA_CERTIFICATE,))
    beta = node(BETA, UNDER_ROOT, machine=(impostor.issue("beta"),), trusted=(impostor, ROOT))
    network = Network([alpha, beta])
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(100, lambda: bool(alpha.reported(ReportKind.MAIN_MODE_FAILED)))
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.CERTIFICATE_UNTRUSTED]
    assert "link 0" not in str(alpha.reports[-1].reason)  # there is no chain to list
    assert not alpha.sas


def test_a_revoked_peer_is_refused() -> None:
    lists = (ISSUING.revocation_list(ALPHA_CERTIFICATE),)
    alpha = node(ALPHA, UNDER_ROOT, machine=(ALPHA_CERTIFICATE,))
    beta = node(BETA, UNDER_ROOT, machine=(BETA_CERTIFICATE,), lists=lists)
    assert refused(Network([alpha, beta]), alpha, beta)[1] is ReasonCode.CERTIFICATE_REVOKED


def test_a_certificate_with_somebody_elses_key_is_refused() -> None:
    thief = Made(ALPHA_CERTIFICATE.x509, root("thief").key)
    network, alpha, beta = hosts(alpha=thief)
    assert refused(network, alpha, beta) == (
        ReasonCode.AUTHENTICATION_FAILED,
        ReasonCode.INVALID_SIGNATURE,
    )


def test_without_a_certificate_of_our_own_nothing_is_sent() -> None:
    alpha = node(ALPHA, UNDER_ROOT)
    beta = node(BETA, UNDER_ROOT, machine=(BETA_CERTIFICATE,))
    network = Network([alpha, beta])
    network.command(alpha, alpha.acquire(BETA))
    assert alpha.codes(ReportKind.QUICK_MODE_FAILED) == [ReasonCode.AUTHENTICATION_METHOD_UNAVAILABLE]
    assert not network.sent


def test_a_certificate_that_maps_to_no_account_is_refused() -> None:
    network, alpha, beta = hosts(betas=(replace(UNDER_ROOT, map_to_account=True),))
    network.command(alpha, alpha.acquire(BETA))
    network.run(5)
    (report,) = beta.reported(ReportKind.MAIN_MODE_FAILED)
    assert report.reason.code is ReasonCode.ACCESS_DENIED
    assert "mapped to accounts" in report.reason.detail
    assert not beta.sas
    assert ReasonCode.PSK_MISMATCH not in alpha.codes(ReportKind.MAIN_MODE_FAILED)


def test_the_account_of_a_certificate_counts_for_access() -> None:
    subject = ALPHA_CERTIFICATE.read.subject_text
    accounts = (AccountMapping("ALPHA$@LAB", subject, ALPHA_CERTIFICATE.read.issuer_text),)
    network, alpha, beta = hosts(betas=(replace(UNDER_ROOT, map_to_account=True),))
    allowed = AccessEntry(True, AccessKind.COMPUTER, "alpha$@lab")
    beta.engine.set_access(AccessList((allowed,), accounts=accounts), network.now)
    established(network, alpha, beta)
    denied = AccessEntry(False, AccessKind.COMPUTER, "ALPHA$@LAB")
    beta.engine.set_access(AccessList((allowed, denied), accounts=accounts), network.now)
    network.run(1)
    assert not beta.sas
    assert not alpha.sas


@pytest.mark.parametrize("who", ["initiator", "responder"])
@pytest.mark.parametrize("revoked", [False, True])
def test_a_list_that_a_certificate_names_is_awaited_by_this_exchange_alone(who: str, revoked: bool) -> None:
    url = "http://lists.example/issuing.crl"
    one, two = (ISSUING.issue(name, points=(url,)) for name in ("alpha", "beta"))
    checked = one if who == "responder" else two
    entry = ISSUING.revocation_list(*([checked] if revoked else []))
    network, alpha, beta = hosts(alpha=one, beta=two)
    host, other = (beta, alpha) if who == "responder" else (alpha, beta)
    fetcher = ListFetcher(get=lambda asked: entry.der)
    old = host.engine._context.credentials
    credentials = Credentials(old.machine, old.trust, old.rules, moment=lambda: NOW, fetched=fetcher)  # type: ignore[attr-defined]
    host.engine.set_credentials(credentials)
    tasks: list[Perform] = []
    apply = host.apply
    host.apply = lambda effect: tasks.append(effect) if isinstance(effect, Perform) else apply(effect)  # type: ignore[assignment,arg-type,func-returns-value]
    network.command(alpha, alpha.acquire(BETA))
    network.run(5)
    assert not host.sas, "nothing before the list is there"
    assert not fetcher.lists(), "the engine itself asks nobody"
    (task,) = tasks
    network.command(host, perform(task))
    network.run(5)
    assert bool(host.sas) is not revoked
    if revoked:
        (report,) = host.reported(ReportKind.MAIN_MODE_FAILED)
        assert report.reason.code is ReasonCode.CERTIFICATE_REVOKED
        assert not other.sas


@pytest.mark.parametrize("slow", ["initiator", "responder"])
def test_a_clock_that_is_slow_is_named_where_a_new_certificate_is_not_valid_yet(slow: str) -> None:
    """The host with the slow clock refuses the other's certificate, which was made ten minutes ago."""
    fresh = ISSUING.issue("fresh", start=NOW - timedelta(minutes=10))
    own = {"alpha": fresh, "beta": BETA_CERTIFICATE}
    if slow == "initiator":
        own = {"alpha": ALPHA_CERTIFICATE, "beta": fresh}
    network, alpha, beta = hosts(**own)
    late = alpha if slow == "initiator" else beta
    late.engine._context.credentials._moment = lambda: NOW - timedelta(hours=1)  # type: ignore[attr-defined]
    network.command(alpha, alpha.acquire(BETA))
    network.run(30)
    assert not alpha.sas
    assert not beta.sas
    reasons = [
        report.reason for report in late.reports if report.reason.code is ReasonCode.CERTIFICATE_EXPIRED
    ]
    assert "not valid before 2026-06-01 11:50 UTC" in str(reasons[0])
    assert "by this computer's clock it is 2026-06-01 11:00 UTC" in str(reasons[0])
    other = beta if late is alpha else alpha
    assert not any(view.established for view in other.engine.main_modes(network.now)), "both ends know"


class BrokenLists:
    """A `ListSource` with a fault of ours in it."""

    def lists(self) -> tuple[RevocationList, ...]:
        return ()

    def due(self, urls: Sequence[str], moment: object) -> tuple[str, ...]:
        return tuple(urls)

    def fetch(self, urls: Sequence[str], moment: object) -> None:
        raise ZeroDivisionError("a fault")

    def trouble(self, urls: Sequence[str]) -> str:
        return ""


def waiting_for_a_list(
    lists: ListSource, check: RevocationCheck
) -> tuple[Network, Node, Node, list[Perform]]:
    """beta, the responder, has been told to look for alpha's revocation list."""
    one = ISSUING.issue("alpha", points=("http://lists.example/issuing.crl",))
    network, alpha, beta = hosts(alpha=one, check=check)
    old = beta.engine._context.credentials
    beta.engine.set_credentials(
        Credentials(old.machine, old.trust, old.rules, moment=lambda: NOW, fetched=lists)  # type: ignore[attr-defined]
    )
    tasks: list[Perform] = []
    apply = beta.apply
    beta.apply = lambda effect: tasks.append(effect) if isinstance(effect, Perform) else apply(effect)  # type: ignore[assignment,arg-type,func-returns-value]
    network.command(alpha, alpha.acquire(BETA))
    network.run(1)
    assert len(tasks) == 1
    return network, alpha, beta, tasks


def test_a_fault_while_getting_a_list_is_no_fault_of_kerberos() -> None:
    network, _, beta, (task,) = waiting_for_a_list(BrokenLists(), RevocationCheck.REVOKED_ONLY)
    answer = perform(task)
    network.command(beta, answer)
    (report,) = beta.reported(ReportKind.MAIN_MODE_FAILED)
    assert report.reason.code is ReasonCode.INTERNAL
    assert "ZeroDivisionError while getting 1 revocation lists" in report.reason.detail
    assert not beta.sas


@pytest.mark.parametrize("check", [RevocationCheck.REVOKED_ONLY, RevocationCheck.STRICT])
def test_a_list_that_does_not_come_counts_as_the_check_says(check: RevocationCheck) -> None:
    """Nobody ever answers the task: after its time the lists that are here decide."""
    network, alpha, beta, _ = waiting_for_a_list(BrokenLists(), check)
    network.run(EXACT.task_seconds - 2)
    assert not beta.sas
    network.run(10)
    if check is RevocationCheck.REVOKED_ONLY:
        assert_matching(alpha, beta)
        return
    (report,) = beta.reported(ReportKind.MAIN_MODE_FAILED)
    assert report.reason.code is ReasonCode.CERTIFICATE_REVOKED
    assert "no revocation list of its issuer is here" in str(report.reason)
    assert "waited 20 s for 1 revocation lists" in str(report.reason)
    assert not beta.sas


def test_a_main_mode_under_one_root_does_not_serve_a_rule_for_another() -> None:
    """beta's rule changes to another root: the main mode that it has proves nothing there."""
    network, alpha, beta = hosts()
    established(network, alpha, beta)
    beta.policy.rule = replace(negotiation(), authentication=(UNDER_OTHER,))
    beta.engine.set_lookup(beta.policy, network.now)
    network.pump()
    assert not beta.engine.main_modes(network.now)
    assert not beta.sas
