"""RESPONDER-LIFETIME (RFC 2407 §4.6.3.1): a responder whose lifetime is shorter than the offer says so."""

from dataclasses import replace

from stockade.ike.v1.quick_mode_proposals import QuickModeChoice
from stockade.ike.v1.steps import Incoming
from stockade.model.reasons import PeerError
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import DomainOfInterpretation, IpsecAttribute, LifeType, NotifyType
from stockade.wire.isakmp.payloads import Attribute, NotificationPayload


def responder_lifetime(choice: QuickModeChoice, spi: int) -> NotificationPayload:
    """What the responder says: the lifetimes in force. `spi` is its own."""
    attributes: list[Attribute] = []
    for kind, value in (
        (LifeType.SECONDS, choice.proposal.lifetime_seconds),
        (LifeType.KILOBYTES, choice.proposal.lifetime_kilobytes),
    ):
        attributes.append(Attribute(IpsecAttribute.SA_LIFE_TYPE, int(kind)))
        attributes.append(Attribute(IpsecAttribute.SA_LIFE_DURATION, value.to_bytes(4, "big")))
    data = b"".join(attribute.encode() for attribute in attributes)
    return NotificationPayload(
        DomainOfInterpretation.IPSEC,
        choice.protocol,
        spi.to_bytes(4, "big"),
        NotifyType.RESPONDER_LIFETIME,
        data,
    )


def with_responder_lifetime(choice: QuickModeChoice, answer: Incoming) -> QuickModeChoice:
    """The choice with lifetimes that the responder's notification shortens; one that lengthens or that cannot
    be read changes nothing."""
    seconds, kilobytes = choice.proposal.lifetime_seconds, choice.proposal.lifetime_kilobytes
    for notification in answer.all(NotificationPayload):
        if notification.type != NotifyType.RESPONDER_LIFETIME:
            continue
        kind = None
        for attribute in _attributes(notification.data):
            if attribute.type == IpsecAttribute.SA_LIFE_TYPE:
                kind = attribute.number
            elif attribute.type == IpsecAttribute.SA_LIFE_DURATION and attribute.number:
                if kind == LifeType.SECONDS:
                    seconds = min(seconds, attribute.number)
                elif kind == LifeType.KILOBYTES:
                    kilobytes = min(kilobytes, attribute.number)
    if (seconds, kilobytes) == (choice.proposal.lifetime_seconds, choice.proposal.lifetime_kilobytes):
        return choice
    proposal = replace(choice.proposal, lifetime_seconds=seconds, lifetime_kilobytes=kilobytes)
    return replace(choice, proposal=proposal)


def _attributes(data: bytes) -> list[Attribute]:
    cursor = Cursor(data, "RESPONDER-LIFETIME")
    attributes: list[Attribute] = []
    try:
        while cursor.remaining and len(attributes) < 16:
            attributes.append(Attribute.decode(cursor))
    except PeerError:
        return []
    return attributes
