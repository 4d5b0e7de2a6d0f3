"""Who lost state says so, who is told believes only a proof (`proofs.py`).

Here: when we prove, at what rate, and what a peer's proof does. A flood of unknown SPIs or cookies costs us a
bounded number of HMACs and datagrams a second; a flood of forged proofs costs a look-up and a comparison
each, and a report now and then."""

from collections.abc import Callable

from stockade.ike import proofs
from stockade.ike.context import NAT_TRAVERSAL_PORT, NON_ESP_MARKER, Context
from stockade.ike.contract import Send
from stockade.ike.limits import RateLimiter
from stockade.ike.peers import PeerTable, QuickModePair
from stockade.ike.v1 import informational
from stockade.ike.v1.association import MainMode
from stockade.ike.v1.exchange import Conversation
from stockade.model.addresses import Address, Endpoint
from stockade.model.reasons import Reason, ReasonCode
from stockade.wire.isakmp.constants import ExchangeType, NotifyType, PayloadType, ProtocolId
from stockade.wire.isakmp.message import HEADER_SIZE, Header
from stockade.wire.isakmp.payloads import NotificationPayload

IKE_PORT = 500


class LostState:
    """One per engine. `renegotiate(mode, pairs, reason, now)` is called with what a peer has proved to have
    lost: its main mode, if we still have it, and the pairs that this main mode made."""

    def __init__(
        self,
        context: Context,
        table: PeerTable,
        renegotiate: Callable[[MainMode | None, list[QuickModePair], Reason, float], None],
    ) -> None:
        self._context = context
        self._table = table
        self._renegotiate = renegotiate
        config = context.config
        self._rate = RateLimiter(config.proofs_per_second, config.proofs_per_second_and_peer)

    # ---- what we lost
    def prove_pair(self, local: Address, peer: Address, spi: int, now: float, port: int = 0) -> None:
        """A packet from `peer` names an SPI that we do not have. `port`: it came in UDP, from this one, most
        likely through a NAT: the way back is the one that it came."""
        random = self._context.random
        conversation = Conversation(random(8), random(8), ExchangeType.INFORMATIONAL, _message_id(random))
        if self._table.pair(spi) is None:
            own = NAT_TRAVERSAL_PORT if port else IKE_PORT
            ends = (Endpoint(local, own), Endpoint(peer, port or IKE_PORT))
            self._prove(proofs.about_pair(spi), conversation, *ends, now)

    def prove_mode(self, header: Header, local: Endpoint, remote: Endpoint, now: float) -> None:
        """An encrypted message under cookies that we do not have."""
        cookies = header.initiator_cookie + header.responder_cookie
        message_id = _message_id(self._context.random)
        conversation = Conversation(
            header.initiator_cookie, header.responder_cookie, ExchangeType.INFORMATIONAL, message_id
        )
        self._prove(proofs.about_mode(cookies), conversation, local, remote, now)

    def _prove(
        self, what: bytes, conversation: Conversation, local: Endpoint, remote: Endpoint, now: float
    ) -> None:
        context = self._context
        secret = context.restart_secret
        if secret is None or isinstance(context.lookup.for_peer(local.address, remote.address), Reason):
            return
        if not self._rate.take(remote.address, now):
            return
        holders = context.living_holders(local.address)
        shown = proofs.show(what, secret.proofs(what, local.address, remote.address, holders))
        datagram = conversation.encode((shown,), protected=False)
        marker = NON_ESP_MARKER if local.port == NAT_TRAVERSAL_PORT else b""
        context.count("proofs_sent")
        context.count("datagrams_sent")
        context.effects.append(Send(marker + datagram, local, remote))

    # ---- what a peer lost
    def receive(self, header: Header, datagram: bytes, local: Endpoint, remote: Endpoint, now: float) -> bool:
        """A message in clear under cookies of no main mode; whether it was meant for here. `PeerError` where
        it cannot be read."""
        if (
            header.exchange_type != ExchangeType.INFORMATIONAL
            or header.encrypted
            or header.next_payload != PayloadType.NOTIFICATION
            or not any(header.responder_cookie)
        ):
            return False
        conversation = Conversation(
            header.initiator_cookie, header.responder_cookie, ExchangeType.INFORMATIONAL, header.message_id
        )
        message = conversation.decode(header, datagram[HEADER_SIZE:], informational.UNPROTECTED)
        shown = [entry for entry in message.all(NotificationPayload)
                 if entry.type == NotifyType.STOCKADE_STATE_LOST]  # fmt: skip
        for notification in shown[:1]:
            self._about_pair(notification, local, remote, now)
        return bool(shown)

    def _about_pair(
        self, notification: NotificationPayload, local: Endpoint, remote: Endpoint, now: float
    ) -> None:
        pair = None
        if notification.protocol_id == ProtocolId.ESP and len(notification.spi) == 4:
            spi = int.from_bytes(notification.spi, "big")
            pair = self._table.pair_by_outbound(remote.address, spi)
        if pair is None or pair.local.address != local.address:
            self._refuse("a proof about a pair that there is not", local, remote, now)
        elif not proofs.proves(notification, pair.tokens.get(notification.spi)):
            self._refuse("a forged proof of lost state", local, remote, now)
        else:
            modes = self._table.with_peer(local.address, remote.address)
            self._lost(next((mode for mode in modes if mode.cookies == pair.main_mode), None),
                       pair.main_mode, local, remote, now)  # fmt: skip

    def about_mode(self, mode: MainMode, notification: NotificationPayload, now: float) -> None:
        """A proof, in clear, under the cookies of a main mode of ours."""
        conversation = mode.conversation
        cookies = conversation.initiator_cookie + conversation.responder_cookie
        if (
            mode.established is None
            or notification.spi != cookies
            or not proofs.proves(notification, mode.token)
        ):
            self._refuse("a forged proof of lost state", mode.local, mode.remote, now)
        else:
            self._lost(mode, mode.cookies, mode.local, mode.remote, now)

    def _lost(
        self, mode: MainMode | None, cookies: str, local: Endpoint, remote: Endpoint, now: float
    ) -> None:
        self._context.count("proofs_accepted")
        pairs = [pair for pair in self._table.pairs_with(local.address, remote.address)
                 if pair.main_mode == cookies]  # fmt: skip
        reason = Reason.of(ReasonCode.PEER_LOST_STATE, peer=remote.address)
        self._renegotiate(mode, pairs, reason, now)

    def _refuse(self, detail: str, local: Endpoint, remote: Endpoint, now: float) -> None:
        self._context.count("proofs_refused")
        reason = Reason.of(ReasonCode.UNEXPECTED_MESSAGE, detail, peer=remote.address)
        self._context.refuse(reason, local, remote, now)


def _message_id(random: Callable[[int], bytes]) -> int:
    return int.from_bytes(random(4), "big") | 1
