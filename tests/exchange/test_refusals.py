"""What does not fit: keys, proposals, identities, policies. Each end must say the likely cause."""

from dataclasses import replace

from exchange_harness import (
    AES,
    ALPHA,
    BETA,
    ESP,
    Packet,
    Policy,
    assert_matching,
    deliver,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import ReportKind
from stockade.model.addresses import AddressRange
from stockade.model.negotiation import Kerberos, Negotiation
from stockade.model.reasons import ReasonCode
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import TCP, UDP, TrafficSelector
from stockade.wire.isakmp.message import decode_payloads
from stockade.wire.isakmp.payloads import NotificationPayload


def notifications(network: object) -> list[int]:
    """Types of all unprotected notifications that were sent."""
    found = []
    for packet in network.sent:  # type: ignore[attr-defined]
        if packet.header.exchange_type == 5 and not packet.header.encrypted:
            for entry in decode_payloads(packet.header.next_payload, packet.send.datagram[28:]):
                if isinstance(entry.payload, NotificationPayload):
                    found.append(entry.payload.type)
    return found


def test_wrong_preshared_key_is_named_by_both_ends_within_seconds() -> None:
    """Message 5 cannot be read.

    alpha                        beta
      … messages 1 to 4 …
      HDR*, IDii, HASH_I     ->
                             <-   HDR, N(AUTHENTICATION-FAILED)
    """
    network, alpha, beta = two_hosts(negotiation(key=b"secret 1"), negotiation(key=b"secret 2"))
    started = network.now
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, lambda: bool(alpha.reported(ReportKind.MAIN_MODE_FAILED)))
    assert network.now - started < 4
    network.run(10)
    (report,) = alpha.reported(ReportKind.MAIN_MODE_FAILED)
    assert report.reason.code is ReasonCode.PSK_MISMATCH
    assert report.filter_id == "f0"
    assert ReasonCode.PSK_MISMATCH in beta.codes(ReportKind.MESSAGE_REFUSED)
    assert beta.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH]
    assert set(notifications(network)) == {24, 40003}  # and STATUS
    for node in (alpha, beta):
        assert not node.sas
        assert not node.engine.main_modes(network.now)
        assert node.engine.statistics["authentication_failures"] == 1
        assert "secret" not in repr(node.reports)


def test_wrong_preshared_key_and_a_silent_peer() -> None:
    """The responder does not say a word (as some do): the initiator still names the cause, after 31 s."""

    def only_exchange(packet: Packet) -> list[tuple[float, bytes]]:
        return [] if packet.header.exchange_type == 5 else deliver(packet)

    network, alpha, _ = two_hosts(negotiation(key=b"one"), negotiation(key=b"two"), fate=only_exchange)
    started = network.now
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(60, lambda: bool(alpha.reported(ReportKind.MAIN_MODE_FAILED)))
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH]
    assert 31 <= network.now - started < 32


def test_no_common_main_mode_proposal_lists_each_offer_and_why() -> None:
    offers = (
        MainModeProposal(Encryption.DES_CBC, Hash.SHA1, Group.MODP_768),
        MainModeProposal(Encryption.AES_CBC_128, Hash.MD5, Group.ECP_256),
        MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.MODP_1024),
    )
    network, alpha, beta = two_hosts(negotiation(main=offers), negotiation(main=(AES,)))
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, lambda: bool(alpha.reports))
    (refusal,) = beta.reported(ReportKind.MAIN_MODE_FAILED)
    assert refusal.reason.code is ReasonCode.NO_PROPOSAL_CHOSEN
    assert refusal.reason.facts == (
        ("offer 1 DES-SHA1-1:", "encryption, we have AES128"),
        ("offer 2 AES128-MD5-ECP256:", "hash, we have SHA1"),
        ("offer 3 AES128-SHA1-2:", "group, we have ECP256"),
    )
    assert not beta.engine.main_modes(network.now)
    network.run(10)
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.NO_PROPOSAL_CHOSEN]
    assert set(notifications(network)) == {14, 40003}  # and STATUS


def test_no_common_quick_mode_proposal() -> None:
    gcm = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
    network, alpha, beta = two_hosts(negotiation(quick=(gcm,)), negotiation(quick=(ESP,)))
    started = network.now
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, lambda: bool(alpha.reported(ReportKind.QUICK_MODE_FAILED)))
    assert network.now - started < 1  # the refusal is authenticated, so there is no need to wait
    (report,) = alpha.reported(ReportKind.QUICK_MODE_FAILED)
    assert report.reason.code is ReasonCode.NO_PROPOSAL_CHOSEN
    assert report.filter_id == "f0"
    (refusal,) = beta.reported(ReportKind.QUICK_MODE_FAILED)
    assert refusal.reason.facts == (("offer 1 ESP[AESGCM128,None]:", "algorithms, we have ESP[AES128,SHA1]"),)
    for node in (alpha, beta):
        assert not node.sas
        assert len(node.engine.main_modes(network.now)) == 1


def test_perfect_forward_secrecy_that_is_required_and_not_offered() -> None:
    network, alpha, beta = two_hosts(negotiation(), negotiation(pfs=True))
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, lambda: bool(alpha.reported(ReportKind.QUICK_MODE_FAILED)))
    (refusal,) = beta.reported(ReportKind.QUICK_MODE_FAILED)
    assert "perfect forward secrecy" in str(refusal.reason)


def test_peer_asks_for_traffic_that_policy_does_not_secure() -> None:
    network, alpha, beta = two_hosts()
    hosts = AddressRange.host(BETA), AddressRange.host(ALPHA)
    beta.policy.selector = TrafficSelector(*hosts, UDP)
    network.command(
        alpha, alpha.acquire(BETA, TrafficSelector(AddressRange.host(ALPHA), AddressRange.host(BETA), TCP))
    )
    assert network.run(10, lambda: bool(alpha.reported(ReportKind.QUICK_MODE_FAILED)))
    assert alpha.codes(ReportKind.QUICK_MODE_FAILED) == [ReasonCode.INVALID_IDENTITY]
    assert beta.codes(ReportKind.QUICK_MODE_FAILED) == [ReasonCode.INVALID_IDENTITY]
    assert not alpha.sas
    assert not beta.sas


def test_lost_refusal_of_a_quick_mode_is_repeated_with_the_request() -> None:
    gcm = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
    lost = {"left": 1}

    def fate(packet: Packet) -> list[tuple[float, bytes]]:
        if packet.header.exchange_type == 5 and lost["left"]:
            lost["left"] -= 1
            return []
        return deliver(packet)

    network, alpha, _ = two_hosts(negotiation(quick=(gcm,)), negotiation(quick=(ESP,)), fate=fate)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(2, lambda: bool(alpha.reported(ReportKind.QUICK_MODE_FAILED)))
    assert alpha.codes(ReportKind.QUICK_MODE_FAILED) == [ReasonCode.NO_PROPOSAL_CHOSEN]
    assert lost["left"] == 0


def test_no_policy_for_the_peer_keeps_no_state() -> None:
    network, alpha, beta = two_hosts()
    beta.policy.rule = None
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, lambda: bool(alpha.reported(ReportKind.MAIN_MODE_FAILED)))
    assert beta.codes(ReportKind.MESSAGE_REFUSED)[0] is ReasonCode.NO_POLICY
    assert not beta.engine.main_modes(0)
    assert beta.engine.next_timeout() is None
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.NO_PROPOSAL_CHOSEN]


def test_forged_refusal_does_not_stop_a_main_mode_that_works() -> None:
    """Anybody on the path can send an unprotected notification; the genuine answer wins if it comes."""
    from stockade.ike.v1.exchange import Conversation
    from stockade.ike.v1.informational import notification
    from stockade.wire.isakmp.constants import NotifyType

    network, alpha, beta = two_hosts(fate=lambda packet: [(0.5, packet.send.datagram)])
    network.command(alpha, alpha.acquire(BETA))
    for _ in range(10):
        network.run(0.4)
        header = network.sent[-1].header
        forged = Conversation(header.initiator_cookie, header.responder_cookie, 5, 77)
        datagram = forged.encode((notification(NotifyType.NO_PROPOSAL_CHOSEN),), protected=False)
        network.inject(datagram, beta.endpoint, alpha)
        network.inject(datagram, alpha.endpoint, beta)
    assert network.run(10, pairs_up(alpha, beta))
    assert_matching(alpha, beta)


def test_only_unavailable_authentication_methods() -> None:
    rule = negotiation()
    kerberos = Negotiation("k", rule.main_mode, rule.quick_mode, (Kerberos(),))
    network, alpha, beta = two_hosts(kerberos, rule)
    network.command(alpha, alpha.acquire(BETA))
    assert alpha.codes(ReportKind.QUICK_MODE_FAILED) == [ReasonCode.AUTHENTICATION_METHOD_UNAVAILABLE]
    network.command(beta, beta.acquire(ALPHA))
    network.run(1)
    assert alpha.codes(ReportKind.MESSAGE_REFUSED) == [ReasonCode.AUTHENTICATION_METHOD_UNAVAILABLE]


def test_no_spi_left() -> None:
    from stockade.ike.engine import Engine
    from stockade.model.reasons import error_for

    def exhausted(local: object, peer: object) -> int:
        raise error_for(ReasonCode.NO_SPI)

    network, alpha, beta = two_hosts()
    alpha.engine = Engine(alpha.policy, exhausted, lambda size: bytes(range(1, size + 1)))
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, lambda: bool(alpha.reported(ReportKind.QUICK_MODE_FAILED)))
    assert alpha.codes(ReportKind.QUICK_MODE_FAILED) == [ReasonCode.NO_SPI]
    assert not beta.sas


def test_policy_change_deletes_what_it_no_longer_allows() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    alpha.engine.set_lookup(Policy(negotiation()), network.now)
    network.run(1)
    assert_matching(alpha, beta)  # nothing changed, nothing is lost
    other = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
    alpha.engine.set_lookup(Policy(negotiation(quick=(other,))), network.now)
    network.run(1)
    assert alpha.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.POLICY_CHANGED]
    assert beta.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.SA_DELETED]
    assert not alpha.sas
    assert not beta.sas
    assert len(alpha.engine.main_modes(0)) == 1
    alpha.engine.set_lookup(Policy(negotiation(key=b"another")), network.now)
    network.run(1)
    assert alpha.codes(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.POLICY_CHANGED]
    assert beta.codes(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.SA_DELETED]


def test_policy_change_fails_what_is_being_negotiated() -> None:
    network, alpha, _ = two_hosts(fate=lambda packet: [])
    network.command(alpha, alpha.acquire(BETA))
    alpha.engine.set_lookup(Policy(None), network.now)
    network.pump()
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.POLICY_CHANGED]
    assert alpha.reports[0].filter_id == "f0"
    assert alpha.engine.next_timeout() is None


def test_the_key_of_one_rule_does_not_open_the_traffic_of_another() -> None:
    """beta answers alpha's main mode by its rule for everybody, but the traffic belongs to a rule with a key
    that alpha does not have.

    alpha                                beta
      … main mode with the key of "everybody" …
      HDR*, HASH(1), SA, Ni, ID, ID  ->
                                     <-   HDR*, HASH(1), N(INVALID-ID-INFORMATION)
    """

    class TwoRules(Policy):
        def for_quick_mode(self, local, peer, requested):  # type: ignore[no-untyped-def]
            return replace(super().for_quick_mode(local, peer, requested), negotiation=guarded)

    everybody = negotiation(key=b"known to many")
    guarded = negotiation(key=b"known to few", name="local/test/guarded")
    network, alpha, beta = two_hosts(everybody, everybody)
    beta.engine.set_lookup(TwoRules(everybody), network.now)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(20, lambda: bool(alpha.reported(ReportKind.QUICK_MODE_FAILED)))
    assert ReasonCode.MAIN_MODE_DOES_NOT_FIT in beta.codes(ReportKind.QUICK_MODE_FAILED)
    for node in (alpha, beta):
        assert not node.sas
