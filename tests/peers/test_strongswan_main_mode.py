"""IKEv1 main mode with a pre-shared key, our engine against strongSwan's charon, in both roles.

Needs no ESP in the kernel: where it has none, charon's child SA fails and its IKE SA stays, and that is what
is looked at here. Quick mode and traffic are in test_strongswan_traffic.py.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

import pytest
from engine_runner import QUICK_TIMERS, EngineHost
from strongswan_node import Connection, StrongSwan

from stockade.ike.config import NatScope
from stockade.ike.contract import ReportKind
from stockade.lab.netns import Network
from stockade.model.negotiation import MainModePolicy, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal

OURS, THEIRS = "10.7.1.1", "10.7.1.2"
PRESHARED_KEY = "correct horse battery staple"

SUITES = [
    pytest.param(
        "3des-sha1-modp1024",
        MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024),
        ("3DES_CBC", None, "HMAC_SHA1_96", "MODP_1024"),
        id="3des-sha1-modp1024",
    ),
    pytest.param(
        "aes128-sha256-modp2048",
        MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.MODP_2048),
        ("AES_CBC", "128", "HMAC_SHA2_256_128", "MODP_2048"),
        id="aes128-sha256-modp2048",
    ),
    pytest.param(
        "aes192-sha1-modp768",
        MainModeProposal(Encryption.AES_CBC_192, Hash.SHA1, Group.MODP_768),
        ("AES_CBC", "192", "HMAC_SHA1_96", "MODP_768"),
        id="aes192-sha1-modp768",
    ),
    pytest.param(
        "aes256-sha384-ecp384",
        MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_384, Group.ECP_384),
        ("AES_CBC", "256", "HMAC_SHA2_384_192", "ECP_384"),
        id="aes256-sha384-ecp384",
    ),
    pytest.param(
        "aes128-sha1-ecp256",
        MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.ECP_256),
        ("AES_CBC", "128", "HMAC_SHA1_96", "ECP_256"),
        id="aes128-sha1-ecp256",
    ),
]


class Pair:
    """One network with room for us and for strongSwan; both are started by the test."""

    def __init__(self, network: Network, folder: Path, stack: ExitStack) -> None:
        self._network = network
        self._folder = folder
        self._stack = stack

    def start(
        self,
        ike_proposal: str,
        *proposals: MainModeProposal,
        our_key: str = PRESHARED_KEY,
        nat_traversal: bool = False,
        microsoft_version: int = 8,
    ) -> tuple[EngineHost, StrongSwan]:
        negotiation = Negotiation(
            "local/peers/main-mode",
            MainModePolicy(proposals),
            QuickModePolicy((QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1)),)),
            (PresharedKey(Secret(our_key.encode())),),
        )
        theirs = self._network["theirs"]
        connection = Connection(THEIRS, OURS, PRESHARED_KEY, ike_proposal, encapsulation=nat_traversal)
        config = replace(
            QUICK_TIMERS,
            nat_traversal=nat_traversal,
            nat_scope=NatScope.BOTH,
            microsoft_version=microsoft_version,
        )
        ours = EngineHost(self._network["ours"], theirs.addresses[0], negotiation, config=config)
        return (
            self._stack.enter_context(ours),
            self._stack.enter_context(StrongSwan(theirs, self._folder, connection)),
        )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    hosts = {"ours": ip_interface(f"{OURS}/24"), "theirs": ip_interface(f"{THEIRS}/24")}
    with Network(hosts) as network, ExitStack() as stack:
        yield Pair(network, tmp_path, stack)


def assert_same_main_mode(
    ours: EngineHost, theirs: StrongSwan, suite: tuple[str, str | None, str, str], *, we_initiated: bool
) -> None:
    """Both ends have one main mode, with the same cookies and the same algorithms."""
    (view,) = [entry for entry in ours.engine.main_modes(0.0) if entry.established]
    (entry,) = theirs.established()
    assert view.initiator is we_initiated
    assert entry["version"] == "1"
    assert entry.get("initiator") == (None if we_initiated else "yes")
    assert entry["remote-id"] == OURS
    assert str(view.peer_identity) == THEIRS
    assert view.cookies == f"{entry['initiator-spi']}:{entry['responder-spi']}"
    assert (entry["encr-alg"], entry.get("encr-keysize"), entry["integ-alg"], entry["dh-group"]) == suite


@pytest.mark.parametrize(("ike_proposal", "proposal", "suite"), SUITES)
def test_we_initiate(
    pair: Pair, ike_proposal: str, proposal: MainModeProposal, suite: tuple[str, str | None, str, str]
) -> None:
    ours, theirs = pair.start(ike_proposal, proposal)
    ours.acquire()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"
    assert ours.run_until(lambda: bool(theirs.established())), theirs.log()
    assert_same_main_mode(ours, theirs, suite, we_initiated=True)


@pytest.mark.parametrize(("ike_proposal", "proposal", "suite"), SUITES)
def test_strongswan_initiates(
    pair: Pair, ike_proposal: str, proposal: MainModeProposal, suite: tuple[str, str | None, str, str]
) -> None:
    ours, theirs = pair.start(ike_proposal, proposal)
    verdict = theirs.initiate()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"
    assert ours.run_until(lambda: verdict.poll() is not None, 90)
    assert_same_main_mode(ours, theirs, suite, we_initiated=False)


def test_the_one_fitting_offer_of_several_is_chosen(pair: Pair) -> None:
    fitting = MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_256, Group.MODP_2048)
    others = (
        MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024),
        MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.ECP_256),
    )
    ours, theirs = pair.start("aes256-sha256-modp2048", *others, fitting)
    ours.acquire()
    assert ours.run_until(ours.established), theirs.log()
    (view,) = [entry for entry in ours.engine.main_modes(0.0) if entry.established]
    assert view.proposal == fitting


def test_a_strongswan_without_a_common_offer_is_refused_by_both(pair: Pair) -> None:
    ours, theirs = pair.start(
        "aes256-sha256-modp2048", MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024)
    )
    verdict = theirs.initiate(5)
    ours.run_until(lambda: verdict.poll() is not None, 90)
    assert not ours.established()
    assert theirs.established() == []
    refusals = ours.reasons(ReportKind.MAIN_MODE_FAILED) + ours.reasons(ReportKind.MESSAGE_REFUSED)
    assert ReasonCode.NO_PROPOSAL_CHOSEN in refusals
    assert "NO_PROPOSAL_CHOSEN" in theirs.log()


def test_with_a_wrong_key_both_say_so_when_we_initiate(pair: Pair) -> None:
    ours, theirs = pair.start(
        "aes128-sha256-modp2048",
        MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.MODP_2048),
        our_key="wrong horse",
    )
    ours.acquire()
    assert ours.run_until(lambda: bool(ours.reasons(ReportKind.MAIN_MODE_FAILED)), 60), theirs.log()
    assert ours.reasons(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH]
    assert theirs.established() == []
    assert re.search(r"decryption failed|could not decrypt|invalid HASH|MALFORMED", theirs.log()), (
        theirs.log()
    )


def test_with_a_wrong_key_both_say_so_when_strongswan_initiates(pair: Pair) -> None:
    ours, theirs = pair.start(
        "aes128-sha256-modp2048",
        MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.MODP_2048),
        our_key="wrong horse",
    )
    verdict = theirs.initiate(4)
    ours.run_until(lambda: verdict.poll() is not None, 90)
    refusals = ours.reasons(ReportKind.MAIN_MODE_FAILED) + ours.reasons(ReportKind.MESSAGE_REFUSED)
    assert ReasonCode.PSK_MISMATCH in refusals
    assert not ours.established()
    assert theirs.established() == []
    assert verdict.returncode != 0


def test_strongswan_deletes_the_main_mode(pair: Pair) -> None:
    ours, theirs = pair.start(
        "aes128-sha256-modp2048", MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.MODP_2048)
    )
    ours.acquire()
    assert ours.run_until(ours.established), theirs.log()
    verdict = theirs.terminate()
    assert ours.run_until(lambda: not ours.established()), theirs.log()
    assert ours.run_until(lambda: verdict.poll() is not None, 90)
    assert ours.reasons(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.SA_DELETED]
    assert theirs.established() == []


@pytest.mark.parametrize("we_initiate", [True, False])
@pytest.mark.parametrize(
    ("version", "says"), [(8, "received NAT-T (RFC 3947) vendor ID"), (4, "nat-t-ike-02\\n vendor ID")]
)
def test_with_a_nat_in_between_both_go_to_port_4500(
    pair: Pair, we_initiate: bool, version: int, says: str
) -> None:
    """With a strongSwan that behaves as behind a NAT: RFC 3947, and the draft as Windows 2003 speaks it."""
    suite = MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.MODP_2048)
    ours, theirs = pair.start("aes128-sha256-modp2048", suite, nat_traversal=True, microsoft_version=version)
    if we_initiate:
        ours.acquire()
    else:
        theirs.initiate()
    assert ours.run_until(ours.established), f"{ours.reports}\n{theirs.log()}"
    assert ours.run_until(lambda: bool(theirs.established())), theirs.log()
    (view,) = [entry for entry in ours.engine.main_modes(0.0) if entry.established]
    (entry,) = theirs.established()
    assert (view.local.port, view.remote.port) == (4500, 4500)
    assert entry["remote-port"] == entry["local-port"] == "4500"
    assert says in theirs.log()
    assert ("received NAT-T (RFC 3947) vendor ID" in theirs.log()) is (version == 8)
