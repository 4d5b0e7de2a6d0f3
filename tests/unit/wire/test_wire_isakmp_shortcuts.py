"""The short ways of the decoder say what the long way says, or nothing."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from stockade.model.reasons import PeerError
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp import message
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.message import decode_clear_payloads, decode_payloads, encode_payloads
from stockade.wire.isakmp.payloads import (
    WHOLE_BODIES,
    Attribute,
    Payload,
    ProposalPayload,
    SecurityAssociationPayload,
    TransformPayload,
    VendorIdPayload,
    decode_body,
)

OFFER = SecurityAssociationPayload(
    1,
    1,
    (
        ProposalPayload(
            1, 3, b"\1\2\3\4", tuple(TransformPayload(n, 12, (Attribute(1, n),)) for n in (1, 2))
        ),
        ProposalPayload(2, 2, b"", (TransformPayload(1, 3, (Attribute(5, b"abcd"),)),)),
    ),
)


def long_way(kind: int, body: bytes) -> Payload | None:
    try:
        return decode_body(kind, Cursor(body, "payload"))
    except PeerError:
        return None


def test_an_offer_whose_transforms_are_known_is_read_the_short_way() -> None:
    body = OFFER.encode_body()
    assert long_way(PayloadType.SECURITY_ASSOCIATION, body) == OFFER
    assert SecurityAssociationPayload.of_known_transforms(body) == OFFER


@given(place=st.integers(0, len(OFFER.encode_body()) - 1), value=st.integers(0, 255), cut=st.integers(0, 12))
@example(place=0, value=0, cut=0)
def test_a_damaged_offer_is_read_as_the_long_way_reads_it_or_not_at_all(
    place: int, value: int, cut: int
) -> None:
    long_way(PayloadType.SECURITY_ASSOCIATION, OFFER.encode_body())  # its transforms are known
    damaged = bytearray(OFFER.encode_body())
    damaged[place] = value
    body = bytes(damaged[: len(damaged) - cut])
    short = SecurityAssociationPayload.of_known_transforms(body)
    assert short is None or short == long_way(PayloadType.SECURITY_ASSOCIATION, body)


@settings(max_examples=200)
@given(kind=st.sampled_from(sorted(int(kind) for kind in WHOLE_BODIES)), body=st.binary(max_size=40))
def test_any_body_is_read_as_the_long_way_reads_it_or_not_at_all(kind: int, body: bytes) -> None:
    short = WHOLE_BODIES[kind](body)
    assert short is None or short == long_way(kind, body)


def test_an_offer_is_read_once_and_what_is_kept_of_offers_is_bounded() -> None:
    bodies = [encode_payloads([OFFER, VendorIdPayload(bytes([n]))])[1] for n in range(200)]
    first = int(PayloadType.SECURITY_ASSOCIATION)
    for body in bodies:
        assert decode_clear_payloads(first, body) == decode_payloads(first, body)
        assert decode_clear_payloads(first, body) is decode_clear_payloads(first, body)
    assert len(message._offers) <= 64
    long = encode_payloads([OFFER, VendorIdPayload(bytes(2000))])[1]
    assert decode_clear_payloads(first, long) == decode_payloads(first, long)
    assert long not in message._offers
