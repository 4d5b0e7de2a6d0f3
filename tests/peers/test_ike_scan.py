"""ike-scan, an independent prober, against our responder: it sends one first message and prints the
answer."""

import subprocess
from collections.abc import Iterator
from ipaddress import ip_interface

import pytest
from engine_runner import EngineHost

from stockade.ike.contract import ReportKind
from stockade.lab.needs import find_program
from stockade.lab.netns import Namespace, Network
from stockade.model.negotiation import MainModePolicy, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal

pytestmark = pytest.mark.skipif(
    find_program("ike-scan") is None, reason="ike-scan is not installed (Debian: ike-scan)"
)

OURS, PROBER = "10.7.2.1", "10.7.2.2"
# encryption AES-CBC with 128 bits, hash SHA2-256, authentication by pre-shared key, group 14
FITTING = "--trans=(1=7,14=128,2=4,3=1,4=14)"
NOT_FITTING = "--trans=(1=5,2=2,3=1,4=2)"


@pytest.fixture
def network() -> Iterator[Network]:
    hosts = {"ours": ip_interface(f"{OURS}/24"), "prober": ip_interface(f"{PROBER}/24")}
    with Network(hosts) as made:
        yield made


@pytest.fixture
def responder(network: Network) -> Iterator[EngineHost]:
    negotiation = Negotiation(
        "local/peers/ike-scan",
        MainModePolicy((MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.MODP_2048),)),
        QuickModePolicy((QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1)),)),
        (PresharedKey(Secret(b"not used by a probe")),),
    )
    with EngineHost(network["ours"], network["prober"].addresses[0], negotiation) as host:
        yield host


def scan(responder: EngineHost, prober: Namespace, *arguments: str) -> str:
    """Run ike-scan against the responder and play the responder meanwhile; what it printed."""
    program = find_program("ike-scan")
    assert program is not None
    command = [program, "--retry=2", "--timeout=3000", "--multiline", *arguments, str(responder.local)]
    process = prober.popen(command, stdout=subprocess.PIPE)
    responder.run_until(lambda: process.poll() is not None, 90)
    return process.communicate(timeout=60)[0]


def test_a_fitting_transform_gets_a_handshake(responder: EngineHost, network: Network) -> None:
    output = scan(responder, network["prober"], FITTING)
    assert "Main Mode Handshake returned" in output
    assert "Enc=AES" in output
    assert "KeyLength=128" in output
    assert "Hash=SHA2-256" in output
    assert "Group=14" in output
    assert "Auth=PSK" in output
    assert "1 returned handshake; 0 returned notify" in output


def test_the_answer_carries_the_vendor_id_of_windows(responder: EngineHost, network: Network) -> None:
    output = scan(responder, network["prober"], FITTING)
    assert "VID=1e2b516905991c7d7c96fcbfb587e461" in output


def test_a_transform_that_does_not_fit_is_refused(responder: EngineHost, network: Network) -> None:
    output = scan(responder, network["prober"], NOT_FITTING)
    assert "0 returned handshake" in output
    assert "NO-PROPOSAL-CHOSEN" in output
    refusals = responder.reasons(ReportKind.MAIN_MODE_FAILED) + responder.reasons(ReportKind.MESSAGE_REFUSED)
    assert ReasonCode.NO_PROPOSAL_CHOSEN in refusals


@pytest.mark.parametrize("mode", ["--aggressive", "--ikev2"])
def test_other_exchanges_get_no_handshake(responder: EngineHost, network: Network, mode: str) -> None:
    output = scan(responder, network["prober"], mode)
    assert "0 returned handshake" in output
    assert ReasonCode.UNSUPPORTED_EXCHANGE in responder.reasons(ReportKind.MESSAGE_REFUSED)
    assert not responder.established()


def test_a_stranger_gets_no_handshake(network: Network, responder: EngineHost) -> None:
    network["prober"].ip("address add 10.7.2.3/24 dev eth0", "route add 10.7.2.1/32 dev eth0 src 10.7.2.3")
    output = scan(responder, network["prober"], FITTING)
    assert "0 returned handshake" in output
    refusals = responder.reasons(ReportKind.MAIN_MODE_FAILED) + responder.reasons(ReportKind.MESSAGE_REFUSED)
    assert ReasonCode.NO_POLICY in refusals
