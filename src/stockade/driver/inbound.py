"""Inbound: SA, replay, integrity, open, and the check against policy (RFC 4301 §5.2). See `datapath` for the
whole way."""

from collections.abc import Sequence

from stockade.driver.ah import AH
from stockade.driver.audit import Audit
from stockade.driver.contract import PeerMoved
from stockade.driver.early import EarlyPackets
from stockade.driver.esp import MALFORMED, NO_NEXT_HEADER
from stockade.driver.lifetimes import Lifetimes
from stockade.driver.outbound import Outbound
from stockade.driver.packets import ESP, UDP, UDP_HEADER, exchange_payload, flow_key, locate, out_of_udp
from stockade.driver.sad import MAXIMUM_KNOWN_FLOWS, InboundEntry, OutboundEntry, SaDatabase, inbound_key
from stockade.driver.spd import PolicyDatabase
from stockade.driver.tunnel import take_out
from stockade.model.filters import Action, Direction
from stockade.model.negotiation import Mode
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import Flow
from stockade.wire.ah import AH_FIXED_SIZE
from stockade.wire.ip import flow_of

_EARLY_ESP, _EARLY_AH, _EARLY_UDP = b"E", b"A", b"U"


def _bundle_is_whole(entry: InboundEntry, outer: InboundEntry | None) -> bool:
    """Whether a packet came to this SA with nothing of its bundle missing and nothing beside it."""
    if entry.sa.ah is not None:
        return outer is None and entry.other is not None
    return outer is not None and entry.other is outer


class Inbound:
    """Opens."""

    def __init__(
        self,
        policies: PolicyDatabase,
        sad: SaDatabase,
        audit: Audit,
        lifetimes: Lifetimes,
        outbound: Outbound,
    ) -> None:
        self._policies = policies
        self._sad = sad
        self._audit = audit
        self._lifetimes = lifetimes
        self._outbound = outbound
        self._early = EarlyPackets(lambda: audit.count(ReasonCode.UNKNOWN_SPI.word))

    def take_early(self, entry: InboundEntry, now: float) -> list[bytes]:
        """An SA came: open what came for it before (`early.py`)."""
        if not len(self._early) or (entry.sa.bundle is not None and entry.other is None):
            return []
        clear: list[bytes] = []
        for one in (entry, entry.other):
            if not isinstance(one, InboundEntry):
                continue
            key = inbound_key(one.sa.spi, one.sa.destination)
            if one.sa.ah is not None:
                clear += self.receive(self._early.take(_EARLY_AH + key), now)
            else:
                clear += self.receive(self._early.take(_EARLY_ESP + key), now)
                clear += self.receive_udp(self._early.take(_EARLY_UDP + key), now)
        return clear

    def tick(self, now: float) -> None:
        self._early.expire(now)

    def forget_flows(self) -> None:
        """Filters or SAs changed."""
        for entry in self._sad:
            if isinstance(entry, InboundEntry):
                entry.known_flows.clear()

    def receive(self, packets: Sequence[bytes], now: float) -> list[bytes]:
        """Open a batch of IP packets with ESP or AH; the clear packets that policy accepts, in order."""
        return self._receive(packets, now, None)

    def receive_udp(self, packets: Sequence[bytes], now: float) -> list[bytes]:
        """As `receive`, for UDP datagrams to the NAT-traversal port. An SA without UDP refuses what comes so,
        and one with UDP what comes bare: whoever changes the way has changed the agreement."""
        clear: list[bytes] = []
        unwrapped: list[bytes] = []
        for packet in packets:
            place = locate(packet)
            esp = None if place is None or place[1] != UDP else out_of_udp(packet, place[0])
            if place is None or esp is None:
                self._audit.refuse_malformed(packet, now)
                continue
            at = place[0]
            destination = packet[16:20] if packet[0] < 0x60 else packet[24:40]
            entry = self._sad.inbound.get(destination + packet[at + UDP_HEADER : at + UDP_HEADER + 4])
            port = packet[at] << 8 | packet[at + 1]
            if entry is None and len(esp) >= at + AH_FIXED_SIZE:
                spi = int.from_bytes(esp[at : at + 4], "big")
                self._audit.refuse_packet(ReasonCode.UNKNOWN_SPI, packet, now, spi, port, counted=False)
                self._early.add(_EARLY_UDP + destination + esp[at : at + 4], packet, now)
                continue
            if entry is None or entry.sa.udp is None or entry.sa.udp.source_port == port:
                unwrapped.append(esp)
                continue
            clear += self._receive(unwrapped, now, None, in_udp=True)
            unwrapped = []
            authentic = entry.packets
            clear += self._receive([esp], now, None, in_udp=True)
            if entry.packets > authentic and packet[12:16] == entry.sa.source.packed:
                self._move(entry, port)
        return clear + self._receive(unwrapped, now, None, in_udp=True)

    def _move(self, entry: InboundEntry, port: int) -> None:
        """The peer of this SA is behind a NAT that gave it another port: what we send goes there. So do all
        pairs with that peer, each when its own next packet proves it."""
        partner = self._sad.partner(entry)
        self._sad.move(entry, port)
        if isinstance(partner, OutboundEntry):
            self._sad.move(partner, port)
        self._outbound.forget_flows()
        self.forget_flows()
        self._audit.tell(PeerMoved(entry.sa.spi, entry.sa.peer, port))

    def _receive(
        self, packets: Sequence[bytes], now: float, outer: InboundEntry | None, in_udp: bool = False
    ) -> list[bytes]:
        """`outer`: the AH entry of a bundle, whose packets these are with their AH taken out."""
        clear: list[bytes] = []
        run: list[bytes] = []
        numbers: list[int] = []
        run_entry: InboundEntry | None = None
        run_header = 0
        tables, from_bytes = {ESP: self._sad.inbound, AH: self._sad.inbound_ah}, int.from_bytes
        for packet in packets:
            place = locate(packet)
            if place is None or place[1] not in tables or len(packet) < place[0] + AH_FIXED_SIZE:
                self._audit.refuse_malformed(packet, now)
                continue
            at, protocol = place
            spi = at if protocol == ESP else at + 4
            destination = packet[16:20] if packet[0] < 0x60 else packet[24:40]
            entry = tables[protocol].get(destination + packet[spi : spi + 4])
            if entry is None:
                number = from_bytes(packet[spi : spi + 4], "big")
                self._audit.refuse_packet(ReasonCode.UNKNOWN_SPI, packet, now, number, counted=in_udp)
                if not in_udp:
                    kind = _EARLY_ESP if protocol == ESP else _EARLY_AH
                    self._early.add(kind + destination + packet[spi : spi + 4], packet, now)
                continue
            if (entry.sa.udp is not None) is not in_udp or (
                (entry.sa.bundle is not None or outer is not None) and not _bundle_is_whole(entry, outer)
            ):
                entry.selector_mismatches += 1
                self._audit.refuse_packet(ReasonCode.SELECTOR_MISMATCH, packet, now, entry.sa.spi)
                continue
            if len(packet) - at < entry.opener.minimum_size:
                self._audit.refuse_malformed(packet, now)
                continue
            number = entry.window.number_of(from_bytes(packet[spi + 4 : spi + 8], "big"))
            if not entry.window.check(number):
                entry.replays += 1
                self._audit.refuse_packet(ReasonCode.REPLAYED, packet, now, entry.sa.spi)
                continue
            if entry is not run_entry or at != run_header:
                if run_entry is not None:
                    self._open(run_entry, run_header, run, numbers, clear, now)
                run, numbers, run_entry, run_header = [], [], entry, at
            run.append(packet)
            numbers.append(number)
        if run_entry is not None:
            self._open(run_entry, run_header, run, numbers, clear, now)
        return clear

    def _open(
        self,
        entry: InboundEntry,
        at: int,
        packets: list[bytes],
        numbers: list[int],
        clear: list[bytes],
        now: float,
    ) -> None:
        """`numbers`: the packets' whole sequence numbers, as the window had it when they came."""
        accept, known_flows = entry.window.accept, entry.known_flows
        is_tunnel = entry.sa.mode is Mode.TUNNEL
        count = size = 0
        bundled: list[bytes] = []
        for packet, number, opened in zip(
            packets, numbers, entry.opener.open(packets, at, numbers), strict=True
        ):
            # A number that a packet before it in this batch has used makes it a replay, forged or not, as if
            # it came alone.
            if opened is None and entry.window.check(number):
                entry.integrity_failures += 1
                self._audit.refuse_packet(ReasonCode.INTEGRITY_FAILED, packet, now, entry.sa.spi)
                continue
            if opened is None or not accept(number):
                entry.replays += 1
                self._audit.refuse_packet(ReasonCode.REPLAYED, packet, now, entry.sa.spi)
                continue
            next_header, payload = opened
            if opened is MALFORMED:
                self._audit.refuse_malformed(packet, now, entry.sa.spi)
                continue
            count += 1
            size += len(payload)
            if next_header == NO_NEXT_HEADER:
                continue
            if entry.sa.bundle is not None and entry.sa.ah is not None:
                bundled.append(exchange_payload(packet, at, next_header, payload))
                continue
            if is_tunnel:
                inside = take_out(packet, next_header, payload)
                if inside is None:
                    self._audit.refuse_malformed(packet, now, entry.sa.spi)
                    continue
                plain = inside
                # A fragment inside has no ports, nor a key of its own.
                place = locate(plain)
                key = b"" if place is None else flow_key(plain, *place)
            else:
                plain = exchange_payload(packet, at, next_header, payload)
                if entry.mend is not None:
                    plain = entry.mend(plain, at, next_header)
                key = flow_key(plain, at, next_header)
            accepted = known_flows.get(key)
            if accepted is None:
                accepted = self._accepts(entry, plain, key)
            if accepted:
                clear.append(plain)
                if entry.burst is not None and key in known_flows:
                    entry.burst.learn(key)
            else:
                entry.selector_mismatches += 1
                self._audit.refuse_packet(ReasonCode.SELECTOR_MISMATCH, plain, now, entry.sa.spi)
        if count:
            entry.count(count, size, now)
            self._lifetimes.check(entry, now)
        if bundled:
            clear += self._receive(bundled, now, entry)

    def _accepts(self, entry: InboundEntry, plain: bytes, key: bytes) -> bool:
        """RFC 4301 §5.2 step 4: the SA was made for this flow, and policy wants this flow on such an SA."""
        try:
            flow = flow_of(plain)
        except PeerError:
            return False
        found = self._policies.lookup(flow, Direction.INBOUND)
        accepted = (
            entry.sa.selector.matches(flow)
            and found is not None
            and found.action is Action.NEGOTIATE
            and self._is_of_rule(entry.sa, found.negotiation, flow)
        )
        if accepted and entry.sa.udp is not None and entry.sa.mode is Mode.TRANSPORT:
            self._outbound.answer_there(flow.reversed(), entry.sa.udp.source_port)
        # Behind an IPv6 extension header stand ports that the key does not have: asked every time.
        if key and key[0] == flow.protocol:
            if len(entry.known_flows) >= MAXIMUM_KNOWN_FLOWS:
                entry.known_flows.clear()
            entry.known_flows[key] = accepted
        return accepted

    def _is_of_rule(self, sa: SecurityAssociation, negotiation: str | None, flow: Flow) -> bool:
        """Whether the SA was made for the negotiation that a filter names. Windows has one rule for each
        direction of a tunnel: the inbound one's end point is our own address and names no peer, and the SA
        was made for the outbound one, whose end point is the peer's. So what came belongs to the SA only if
        an answer to it would leave by the same rule: traffic that another tunnel answers came from the wrong
        peer."""
        if negotiation is None or negotiation == sa.negotiation:
            return negotiation is not None
        if (
            sa.mode is not Mode.TUNNEL
            or self._policies.tunnels.get(negotiation) != sa.destination
            or self._policies.tunnels.get(sa.negotiation) != sa.source
        ):
            return False
        found = self._policies.lookup(flow.reversed(), Direction.OUTBOUND)
        return found is not None and found.negotiation == sa.negotiation
