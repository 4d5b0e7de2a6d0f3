"""IKEv1 main mode with certificates, our engine against strongSwan's charon, in both roles: RSA (RFC 2409
§5.1) and ECDSA (RFC 4754), with an authority between certificate and root.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_interface
from pathlib import Path

import pytest
from certificate_maker import Made, root, root_name
from engine_runner import EngineHost
from strongswan_node import Connection, StrongSwan

from stockade.ike.contract import ReportKind
from stockade.lab.netns import Network
from stockade.model.negotiation import (
    AuthenticationMethod,
    Certificate,
    MainModePolicy,
    Negotiation,
    PresharedKey,
    QuickModePolicy,
)
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.pki.chain import Trust
from stockade.pki.credentials import Credentials

OURS, THEIRS = "10.7.1.1", "10.7.1.2"
SUITE = MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.ECP_256)
TODAY = datetime.now(UTC)
VALID = {"start": TODAY - timedelta(days=1), "end": TODAY + timedelta(days=10)}


class Public:
    """A root, an authority under it, and a host certificate for each end."""

    def __init__(self, kind: str) -> None:
        self.root = root("Root", kind, **VALID)
        self.authority = self.root.issue("Issuing", kind, authority=True, **VALID)
        self.ours = self.authority.issue("ours", kind, names=["ours.test"], **VALID)
        self.theirs = self.authority.issue("theirs", kind, names=["theirs.test", THEIRS], **VALID)


@pytest.fixture(scope="module", params=["rsa2048", "p256", "p384", "p521"])
def public(request: pytest.FixtureRequest) -> Public:
    return Public(request.param)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def network() -> Iterator[Network]:
    hosts = {"ours": ip_interface(f"{OURS}/24"), "theirs": ip_interface(f"{THEIRS}/24")}
    with Network(hosts) as network:
        yield network


def rule(*methods: AuthenticationMethod) -> Negotiation:
    return Negotiation(
        "local/peers/certificates",
        MainModePolicy((SUITE,)),
        QuickModePolicy((QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1)),)),
        methods,
    )


def start(
    network: Network,
    stack: ExitStack,
    folder: Path,
    public: Public,
    *,
    methods: tuple[AuthenticationMethod, ...] = (Certificate(root_name()),),
    trusted: Made | None = None,
    our_certificate: Made | None = None,
    identity: str = "theirs.test",
) -> tuple[EngineHost, StrongSwan]:
    trust = Trust(((trusted or public.root).read, public.root.read), (public.authority.read,))
    credentials = Credentials([(our_certificate or public.ours).own], trust)
    theirs = network["theirs"]
    connection = Connection(
        THEIRS,
        OURS,
        "",
        "aes128-sha256-ecp256",
        certificate=public.theirs.pem,
        private_key=public.theirs.key_pem,
        authorities=(public.root.pem, public.authority.pem),
        identity=identity,
    )
    ours = EngineHost(network["ours"], theirs.addresses[0], rule(*methods), credentials=credentials)
    return stack.enter_context(ours), stack.enter_context(StrongSwan(theirs, folder, connection))


def assert_both_up(ours: EngineHost, theirs: StrongSwan, identity: str = "theirs.test") -> None:
    (view,) = [entry for entry in ours.engine.main_modes(0.0) if entry.established]
    (entry,) = theirs.established()
    assert view.cookies == f"{entry['initiator-spi']}:{entry['responder-spi']}"
    assert str(view.peer_identity) == identity
    assert view.authentication.startswith("certificate")
    assert "CN=ours" in theirs.log()


def test_we_initiate(network: Network, stack: ExitStack, tmp_path: Path, public: Public) -> None:
    ours, theirs = start(network, stack, tmp_path, public)
    ours.acquire()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"
    assert ours.run_until(lambda: bool(theirs.established())), theirs.log()
    assert_both_up(ours, theirs)


def test_strongswan_initiates(network: Network, stack: ExitStack, tmp_path: Path, public: Public) -> None:
    ours, theirs = start(network, stack, tmp_path, public)
    verdict = theirs.initiate()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"
    assert ours.run_until(lambda: verdict.poll() is not None, 90)
    assert_both_up(ours, theirs)


def test_a_large_chain_comes_and_goes_in_fragments(
    network: Network, stack: ExitStack, tmp_path: Path
) -> None:
    """strongSwan sends fragments at once where a message is long; having seen them, so do we."""
    ours, theirs = start(network, stack, tmp_path, Public("rsa4096"))
    verdict = theirs.initiate()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"
    assert ours.run_until(lambda: verdict.poll() is not None, 90)
    assert_both_up(ours, theirs)
    assert "splitting IKE message" in theirs.log()
    assert "received fragment #1" in theirs.log()


@pytest.fixture(scope="module")
def one_public() -> Public:
    return Public("p256")


@pytest.mark.parametrize("identity", [THEIRS, "C=ZZ, O=Laboratory, CN=theirs"])
def test_strongswan_with_another_kind_of_identity(
    network: Network, stack: ExitStack, tmp_path: Path, one_public: Public, identity: str
) -> None:
    ours, theirs = start(network, stack, tmp_path, one_public, identity=identity)
    ours.acquire()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"
    assert ours.run_until(lambda: bool(theirs.established())), theirs.log()
    assert_both_up(ours, theirs, identity)


def test_the_root_need_not_be_named_in_the_request(
    network: Network, stack: ExitStack, tmp_path: Path, one_public: Public
) -> None:
    methods = (Certificate(root_name(), exclude_ca_name=True),)
    ours, theirs = start(network, stack, tmp_path, one_public, methods=methods)
    ours.acquire()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"


def test_the_certificate_is_taken_where_strongswan_offers_no_key(
    network: Network, stack: ExitStack, tmp_path: Path, one_public: Public
) -> None:
    """Several methods in order: both ends can use only the second one."""
    methods = (PresharedKey(Secret(b"only here")), Certificate(root_name()))
    ours, theirs = start(network, stack, tmp_path, one_public, methods=methods)
    verdict = theirs.initiate()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"
    assert ours.run_until(lambda: verdict.poll() is not None, 90)
    assert_both_up(ours, theirs)


def test_a_peer_under_another_root_is_refused_link_by_link(
    network: Network, stack: ExitStack, tmp_path: Path, one_public: Public
) -> None:
    other = root("Other", "p256", **VALID)
    mine = other.issue("ours", "p256", **VALID)
    ours, theirs = start(
        network,
        stack,
        tmp_path,
        one_public,
        methods=(Certificate(root_name("Other")),),
        trusted=other,
        our_certificate=mine,
    )
    ours.acquire()
    assert ours.run_until(lambda: bool(ours.reasons(ReportKind.MAIN_MODE_FAILED)), 60), theirs.log()
    assert not ours.established()
    assert theirs.established() == []


def test_strongswan_as_initiator_under_another_root_is_refused_link_by_link(
    network: Network, stack: ExitStack, tmp_path: Path, one_public: Public
) -> None:
    other = root("Other", "p256", **VALID)
    ours, theirs = start(
        network,
        stack,
        tmp_path,
        one_public,
        methods=(Certificate(root_name("Other")),),
        trusted=other,
        our_certificate=other.issue("ours", "p256", **VALID),
    )
    verdict = theirs.initiate(5)
    assert ours.run_until(lambda: verdict.poll() is not None, 90)
    refused = [report.reason for report in ours.reports if report.kind is ReportKind.MESSAGE_REFUSED]
    reason, *_ = [entry for entry in refused if entry.code is ReasonCode.CERTIFICATE_UNTRUSTED]
    assert "link 0 C=ZZ, O=Laboratory, CN=theirs" in str(reason)
    assert theirs.established() == []
