"""What a negotiate filter asks of IKE: main-mode settings, quick-mode settings, ways to authenticate.

The policy compiler makes these, the agent hands them to the IKE engine. `policy/` and `ike/` meet here.
"""

from dataclasses import dataclass
from enum import StrEnum

from stockade.model.addresses import Address
from stockade.model.quickly_made import quickly_made
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import TrafficSelector


class Mode(StrEnum):
    """IPsec encapsulation (RFC 4301 §3.2)."""

    TRANSPORT = "transport"
    TUNNEL = "tunnel"


@dataclass(frozen=True, slots=True)
class PresharedKey:
    """Authentication by pre-shared key (RFC 2409 §5.4). The key is never printed."""

    key: Secret

    def __post_init__(self) -> None:
        if not len(self.key):
            raise ValueError("a pre-shared key must not be empty")

    def __str__(self) -> str:
        return "preshared-key"


@dataclass(frozen=True, slots=True)
class Kerberos:
    """Authentication by Kerberos V5 (GSS-API, method 65001)."""

    def __str__(self) -> str:
        return "kerberos"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Authentication by a certificate whose chain ends in the root named `root_ca`."""

    root_ca: str
    exclude_ca_name: bool = False
    map_to_account: bool = False

    def __str__(self) -> str:
        return f"certificate ({self.root_ca})"


AuthenticationMethod = PresharedKey | Kerberos | Certificate

DEFAULT_MAIN_MODE_PROPOSALS = (
    MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024),
    MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.MD5, Group.MODP_1024),
    MainModeProposal(Encryption.DES_CBC, Hash.SHA1, Group.MODP_768),
    MainModeProposal(Encryption.DES_CBC, Hash.MD5, Group.MODP_768),
)


@dataclass(frozen=True, slots=True)
class MainModePolicy:
    """Main-mode (ISAKMP) settings. `lifetime_seconds` > 0; `quick_modes_per_main_mode` 0 = no limit, and 1
    where master-key perfect forward secrecy is on (MS-GPIPSEC §2.2.1.2)."""

    proposals: tuple[MainModeProposal, ...] = DEFAULT_MAIN_MODE_PROPOSALS
    lifetime_seconds: int = 28_800
    quick_modes_per_main_mode: int = 0

    def __post_init__(self) -> None:
        if not self.proposals:
            raise ValueError("main mode needs at least one security method")
        if self.lifetime_seconds < 1:
            raise ValueError("the main-mode lifetime must be positive")
        if self.quick_modes_per_main_mode < 0:
            raise ValueError("quick modes per main mode must be 0 (no limit) or more")


@dataclass(frozen=True, slots=True)
class QuickModePolicy:
    """Quick-mode settings of one filter action. With `perfect_forward_secrecy` each quick mode runs a new
    Diffie-Hellman exchange; `group` None means the group that main mode used (`GRPMM`). `boundary`: inbound
    clear traffic is accepted, too (`inpass`); peers with negotiation discovery are told."""

    proposals: tuple[QuickModeProposal, ...]
    perfect_forward_secrecy: bool = False
    group: Group | None = None
    mode: Mode = Mode.TRANSPORT
    tunnel_endpoint: Address | None = None
    boundary: bool = False

    def __post_init__(self) -> None:
        if not self.proposals:
            raise ValueError("quick mode needs at least one security method")
        if (self.mode is Mode.TUNNEL) != (self.tunnel_endpoint is not None):
            raise ValueError("tunnel mode needs a tunnel end point, transport mode has none")


@dataclass(frozen=True, slots=True)
class Negotiation:
    """All that IKE needs to secure the traffic of one rule. `name` is unique in a filter table and steady
    over recompilations of the same policy (store/policy/rule). `soft_seconds`: how long clear traffic that a
    rule with `soft` fell back to lasts (SoftSAExpirationTime, 480 minutes) before it is negotiated again."""

    name: str
    main_mode: MainModePolicy
    quick_mode: QuickModePolicy
    authentication: tuple[AuthenticationMethod, ...]
    soft_seconds: int = 28_800

    def __post_init__(self) -> None:
        if self.soft_seconds < 1:
            raise ValueError("the lifetime of a soft SA must be positive")
        if not self.authentication:
            raise ValueError("a negotiation needs at least one authentication method")


@quickly_made
@dataclass(frozen=True, slots=True)
class QuickModeMatch:
    """Policy's answer to a peer's quick-mode request: which rule covers it. `selector` is what an SA of ours
    will carry outbound (source = us), inside both the peer's request and the filter; `filter_id` the
    outbound filter. `dynamic`: the default response rule answers; the filter is not in the table, and whoever
    installs the SAs puts temporary filters for them there, and takes them away with the SAs."""

    negotiation: Negotiation
    selector: TrafficSelector
    filter_id: str
    dynamic: bool = False
