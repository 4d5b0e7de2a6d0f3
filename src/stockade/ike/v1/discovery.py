"""Negotiation discovery ([MS-IKEE] §3.7): traffic goes in clear while its security is negotiated, and never
again once it was secured.

     main mode 1, 2     VID MS-Negotiation Discovery Capable
     quick mode 1, 2    HDR*, HASH, SA, Ni …, N(EXCHANGE_INFO: flags)

Here is what the two ends tell each other: *boundary*, I take such traffic in clear too (`inpass`), and
*guarantee encryption*, no method of mine leaves it readable. What a host makes of clear packets meanwhile is
`agent/soft.py`. Left out: a boundary host's ESP in UDP is encapsulated like every other (Windows sends it in
clear): what an SA is there for does not go in clear."""

from dataclasses import dataclass

from stockade.ike.v1.steps import Incoming
from stockade.model.negotiation import QuickModePolicy
from stockade.model.quickly_made import quickly_made
from stockade.model.suites import Encryption
from stockade.wire.isakmp.constants import ExchangeInfoFlag, NotifyType
from stockade.wire.isakmp.payloads import NotificationPayload, microsoft_notification, microsoft_value

# as numbers: flags of the library cost more to combine than the message that carries them costs to make
_BOUNDARY = int(ExchangeInfoFlag.NEGOTIATION_DISCOVERY_BOUNDARY)
_GUARANTEE = int(ExchangeInfoFlag.GUARANTEE_ENCRYPTION)


@quickly_made
@dataclass(frozen=True, slots=True)
class ExchangeInfo:
    """What one end says of a quick mode."""

    boundary: bool
    guarantee_encryption: bool

    def __str__(self) -> str:
        words = []
        if self.boundary:
            words.append("takes clear traffic too")
        if self.guarantee_encryption:
            words.append("always encrypts")
        return ", ".join(words) or "neither takes clear traffic nor always encrypts"


def info_of(policy: QuickModePolicy) -> ExchangeInfo:
    """What we say of a rule."""
    encrypts = all(
        method.esp is not None and method.esp.encryption is not Encryption.NULL for method in policy.proposals
    )
    return ExchangeInfo(policy.boundary, encrypts)


def exchange_info(policy: QuickModePolicy, protocol: int, message_id: int) -> NotificationPayload:
    """The notification; it always has the message id ([MS-IKEE] §2.2.6)."""
    info = info_of(policy)
    flags = (_BOUNDARY if info.boundary else 0) | (_GUARANTEE if info.guarantee_encryption else 0)
    return microsoft_notification(
        NotifyType.MICROSOFT_EXCHANGE_INFO, flags, protocol_id=protocol, message_id=message_id
    )


def told_by(message: Incoming, message_id: int) -> ExchangeInfo | None:
    """What the peer says in its message; None where it says nothing, or speaks of another quick mode."""
    for notification in message.all(NotificationPayload):
        if notification.type != NotifyType.MICROSOFT_EXCHANGE_INFO:
            continue
        value = microsoft_value(notification)
        if value is not None and value.message_id in (None, message_id):
            return ExchangeInfo(bool(value.value & _BOUNDARY), bool(value.value & _GUARANTEE))
    return None
