"""Security associations as the driver gets them (RFC 4301 §4.4.2): one record per direction."""

from dataclasses import dataclass

from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.quickly_made import quickly_made
from stockade.model.secret import Secret
from stockade.model.suites import EspSuite, Integrity
from stockade.model.traffic import TrafficSelector

_INBOUND = Direction.INBOUND
MINIMUM_SPI = 0x100  # 1–255 are reserved by IANA, 0 is local use (RFC 4303 §2.1)
MAXIMUM_SPI = 0xFFFF_FFFF


@quickly_made
@dataclass(frozen=True, slots=True)
class Lifetime:
    """When an SA is rekeyed (soft) and when it dies (hard). None = no limit. Seconds since installation;
    bytes are those of the protected payload."""

    soft_seconds: float | None = None
    hard_seconds: float | None = None
    soft_bytes: int | None = None
    hard_bytes: int | None = None

    def __post_init__(self) -> None:
        for soft, hard in ((self.soft_seconds, self.hard_seconds), (self.soft_bytes, self.hard_bytes)):
            if soft is not None and hard is not None and soft > hard:
                raise ValueError("the soft lifetime ends before the hard one")


@dataclass(frozen=True, slots=True)
class UdpEncapsulation:
    """ESP in UDP (RFC 3948): the ports of the outer header."""

    source_port: int
    destination_port: int


@quickly_made
@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """One direction of a quick-mode SA.

    `spi` is chosen by the receiver: ours for an inbound SA, the peer's for an outbound one. `source` and
    `destination` are the outer addresses. Exactly one of `esp` and `ah` is set. `encryption_key` includes the
    salt of combined modes (RFC 4106 §8.1), `integrity_key` that of GMAC in AH. `pair` is the SPI of the other
    direction. `negotiation` and `filter_id` say which rule made it; `main_mode` is the cookie pair of its
    main mode (`<initiator hex>:<responder hex>`). `idle_seconds`: the driver reports the SA idle when nothing
    passed for so long (None = never). `silence_seconds`: the driver reports the SA silent when packets went
    out for so long and nothing came back through the pair (None = never). `bundle` joins two SAs of one
    direction into AH over ESP (RFC 4301 §4.5, RFC 2407 §4.4.4): each names the SPI of the other. They carry
    nothing until both are installed and after one is gone; either may be installed first, inbound ones before
    outbound ones. `original`, inbound behind a NAT in transport mode: source and destination as the peer has
    them, where it told both (NAT-OA, RFC 3947 §5.2). `extended_sequence`: numbers of 64 bits, of which
    packets carry the lower half (RFC 4303 §2.2.1); the receiver needs its window to know the upper one."""

    spi: int
    direction: Direction
    source: Address
    destination: Address
    selector: TrafficSelector
    mode: Mode
    esp: EspSuite | None
    ah: Integrity | None
    encryption_key: Secret
    integrity_key: Secret
    pair: int
    negotiation: str
    filter_id: str
    main_mode: str
    lifetime: Lifetime = Lifetime()
    replay_window: int = 64
    idle_seconds: float | None = None
    silence_seconds: float | None = None
    udp: UdpEncapsulation | None = None
    bundle: int | None = None
    original: tuple[Address, Address] | None = None
    extended_sequence: bool = False

    def __post_init__(self) -> None:
        for spi in (self.spi, self.pair):
            if not MINIMUM_SPI <= spi <= MAXIMUM_SPI:
                raise ValueError(f"SPI {spi:#x} is reserved or too long")
        if (self.esp is None) == (self.ah is None):
            raise ValueError("an SA is either ESP or AH")
        if self.ah is not None and self.udp is not None:
            raise ValueError("AH does not pass a NAT (RFC 3948 is for ESP)")
        if self.bundle is not None and not MINIMUM_SPI <= self.bundle <= MAXIMUM_SPI:
            raise ValueError(f"SPI {self.bundle:#x} is reserved or too long")
        if self.replay_window and not 32 <= self.replay_window <= 4096:
            raise ValueError("the replay window holds 32 to 4096 packets, or 0 for none")
        if self.extended_sequence and not self.replay_window:
            raise ValueError("extended sequence numbers need a replay window (RFC 4303 §3.3.3)")

    @property
    def peer(self) -> Address:
        return self.source if self.direction is _INBOUND else self.destination

    @property
    def local(self) -> Address:
        return self.destination if self.direction is _INBOUND else self.source


@dataclass(frozen=True, slots=True)
class SaCounters:
    """What one SA carried since it was installed. `age` and `idle` in seconds."""

    spi: int
    direction: Direction
    packets: int = 0
    bytes: int = 0
    integrity_failures: int = 0
    replays: int = 0
    selector_mismatches: int = 0
    age: float = 0.0
    idle: float = 0.0


@dataclass(frozen=True, slots=True)
class EndedCounters:
    """What all SAs of one direction and of the same `classes_of` that are no more carried together, since the
    data plane began. `bytes` as `SaCounters` has them."""

    direction: Direction
    classes: tuple[str, ...]
    packets: int
    bytes: int


CLASSES = ("confidential", "authenticated", "transport", "tunnel")
"""As Windows sums bytes up: encrypted, authenticated, by encapsulation; an SA may be of several."""


def classes_of(sa: SecurityAssociation) -> tuple[str, ...]:
    """Which of `CLASSES` an SA's bytes count for."""
    esp = sa.esp
    encrypts = esp is not None and esp.encryption.is_confidential
    authenticates = esp is None or esp.encryption.is_aead or esp.integrity is not None
    mode = "tunnel" if sa.mode is Mode.TUNNEL else "transport"
    return (*("confidential",) * encrypts, *("authenticated",) * authenticates, mode)
