"""The check of a message against its step, and identities."""

from ipaddress import ip_address

import pytest

from stockade.ike.auth.preshared_key import PresharedKeyMethod
from stockade.ike.v1 import main_mode, quick_mode
from stockade.ike.v1.exchange import Conversation
from stockade.ike.v1.identities import (
    check_peer_identity,
    own_identity,
    requested_selector,
    selector_payloads,
)
from stockade.ike.v1.informational import notification, reason_of
from stockade.ike.v1.protection import MessageProtection
from stockade.ike.v1.steps import Expectation
from stockade.model.addresses import AddressRange
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption
from stockade.model.traffic import ICMP, TCP, TrafficSelector
from stockade.wire.isakmp.constants import NotifyType
from stockade.wire.isakmp.message import HEADER_SIZE, decode_header, decode_payloads, encode_payloads
from stockade.wire.isakmp.payloads import (
    IdentificationPayload,
    KeyExchangePayload,
    NoncePayload,
    Payload,
    UnknownPayload,
    VendorIdPayload,
    microsoft_notification,
)

MESSAGE_3 = main_mode.exchange_expectation(3, PresharedKeyMethod(PresharedKey(Secret(b"key"))))
ALPHA, BETA = ip_address("10.9.0.1"), ip_address("10.9.0.2")
KE, NONCE = KeyExchangePayload(b"k" * 64), NoncePayload(b"n" * 16)


def check(expect: Expectation, *payloads: Payload) -> None:
    first, body = encode_payloads(payloads)
    expect.check(decode_payloads(first, body))


def test_needed_payloads_in_any_order_with_what_is_tolerated() -> None:
    check(MESSAGE_3, NONCE, VendorIdPayload(b"x"), KE, UnknownPayload(99, b"?"), VendorIdPayload(b"y"))


@pytest.mark.parametrize(
    ("payloads", "complaint"),
    [
        ((KE,), "main mode message 3 lacks the nonce payload"),
        ((), "main mode message 3 lacks the key exchange payload"),
        ((KE, NONCE, KE), "main mode message 3 has two key exchange payloads"),
        ((KE, NONCE, own_identity(ALPHA)), "main mode message 3 must not carry a identification payload"),
    ],
)
def test_message_that_does_not_fit_is_refused_by_the_payloads_name(
    payloads: tuple[Payload, ...], complaint: str
) -> None:
    with pytest.raises(PeerError) as caught:
        check(MESSAGE_3, *payloads)
    assert caught.value.reason.code is ReasonCode.UNEXPECTED_MESSAGE
    assert caught.value.reason.detail == complaint


def test_clear_message_where_an_encrypted_one_is_due_and_the_reverse() -> None:
    key = Secret(bytes(16))
    conversation = Conversation(
        b"i" * 8, b"r" * 8, 2, 0, MessageProtection(Encryption.AES_CBC_128, key, bytes(16))
    )
    for protected, expect in ((False, quick_mode.MESSAGE_3), (True, MESSAGE_3)):
        datagram = conversation.encode((KE, NONCE), protected=protected)
        with pytest.raises(PeerError, match="must be"):
            conversation.decode(decode_header(datagram), datagram[HEADER_SIZE:], expect)


def test_opening_moves_no_iv_and_accepting_does() -> None:
    key = Secret(b"k" * 16)
    sender, receiver = (MessageProtection(Encryption.AES_CBC_128, key, bytes(16)) for _ in range(2))
    sealed = sender.seal(b"hello")
    assert len(sealed) == 16
    receiver.open(b"rubbish!" * 4)
    assert receiver.open(sealed) == b"hello".ljust(16, b"\0")
    receiver.accept(sealed)
    assert receiver.last_block == sender.last_block == sealed
    with pytest.raises(PeerError):
        receiver.open(b"short")


def test_identities_of_a_selector_come_back_as_the_mirrored_selector() -> None:
    for source in ("10.9.0.1/32", "10.9.0.0/24"):
        for first, last in (("10.1.0.0", "10.1.0.255"), ("10.1.0.3", "10.1.0.7"), ("10.1.0.9", "10.1.0.9")):
            destination = AddressRange(ip_address(first), ip_address(last))
            selector = TrafficSelector(AddressRange.network(source), destination, TCP, 0, 25)
            seen = requested_selector(list(selector_payloads(selector)), BETA, ALPHA)
            assert seen == selector.reversed()


def test_no_identities_mean_the_two_hosts() -> None:
    assert requested_selector([], ALPHA, BETA) == TrafficSelector(
        AddressRange.host(ALPHA), AddressRange.host(BETA)
    )


def test_identities_that_name_no_traffic_are_refused() -> None:
    host = IdentificationPayload(1, 0, 0, ALPHA.packed)
    name = IdentificationPayload(2, 0, 0, b"example.org")
    six = IdentificationPayload(5, 0, 0, bytes(16))
    tcp, port = IdentificationPayload(1, TCP, 0, BETA.packed), IdentificationPayload(1, ICMP, 8, BETA.packed)
    for pair in ([host], [host, name], [host, six], [host, tcp], [port, port], [host, host, host]):
        with pytest.raises(PeerError) as caught:
            requested_selector(pair, ALPHA, BETA)
        assert caught.value.reason.code is ReasonCode.INVALID_IDENTITY


def test_main_mode_identity_must_be_the_address_that_speaks() -> None:
    assert str(check_peer_identity(own_identity(BETA), BETA)) == "10.9.0.2"
    assert str(check_peer_identity(IdentificationPayload(1, 17, 500, BETA.packed), BETA)) == "10.9.0.2"
    assert str(check_peer_identity(IdentificationPayload(2, 0, 0, b"beta.example"), BETA)) == "beta.example"
    for wrong in (
        own_identity(ALPHA),
        IdentificationPayload(1, TCP, 500, BETA.packed),
        IdentificationPayload(1, 17, 53, BETA.packed),
    ):
        with pytest.raises(PeerError):
            check_peer_identity(wrong, BETA)


def test_notifications_become_reasons() -> None:
    refused = notification(NotifyType.NO_PROPOSAL_CHOSEN)
    assert reason_of(refused, mismatch=None, protected=True).code is ReasonCode.NO_PROPOSAL_CHOSEN
    failed = notification(NotifyType.PAYLOAD_MALFORMED)
    assert (
        reason_of(failed, mismatch=ReasonCode.PSK_MISMATCH, protected=False).code is ReasonCode.PSK_MISMATCH
    )
    assert reason_of(failed, mismatch=None, protected=False).code is ReasonCode.PEER_REFUSED
    status = microsoft_notification(NotifyType.MICROSOFT_STATUS, 13868, protocol_id=3, message_id=7)
    reason = reason_of(status, mismatch=None, protected=True)
    assert "13868" in str(reason)
    assert ReasonCode.NO_PROPOSAL_CHOSEN.meaning in str(reason)
