"""The policy model (reference: Windows IPsec policy; [MS-GPIPSEC] §2.2): what an administrator writes.

    Policy ─ main-mode settings, polling interval
       └ n Rules ─ 1 filter list (shared), 1 filter action (shared), authentication methods, tunnel,
       connection type

Filter lists and filter actions live beside the policies, so a change acts on every rule that uses them.
Rules name them; names are case-insensitive and unique within their kind. Every object has a GUID and a
last-modified time."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID, uuid4

from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Action, Origin
from stockade.model.negotiation import DEFAULT_MAIN_MODE_PROPOSALS, AuthenticationMethod, Kerberos
from stockade.model.suites import Encryption, EspSuite, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import check_protocol_and_ports

DEFAULT_POLLING_MINUTES = 180
DEFAULT_MAIN_MODE_MINUTES = 480


def now() -> datetime:
    """The present second in UTC, as last-modified times are kept."""
    return datetime.now(UTC).replace(microsecond=0)


class AddressKind(StrEnum):
    """How a filter names one of its ends. `addresses`: a host, a subnet or a range. `name`: a DNS name. The
    last four are whatever servers the interfaces are configured with; the other end must be `me`. What each
    stands for on a host is in `facts.HostFacts`."""

    ME = "me"
    ANY = "any"
    ADDRESSES = "addresses"
    NAME = "name"
    DNS = "dns"
    WINS = "wins"
    DHCP = "dhcp"
    GATEWAY = "gateway"

    @property
    def is_server(self) -> bool:
        """DNS, WINS and DHCP servers and the default gateway."""
        return self in _SERVER_KINDS

    @property
    def is_dynamic(self) -> bool:
        """Whether what it stands for can change while the policy stays the same."""
        return self not in (AddressKind.ANY, AddressKind.ADDRESSES)


_SERVER_KINDS = frozenset({AddressKind.DNS, AddressKind.WINS, AddressKind.DHCP, AddressKind.GATEWAY})

MAXIMUM_NAME = 253
"""Characters of a DNS name (RFC 1035 §2.3.4)."""


def normal_name(name: str) -> str:
    """A DNS name as it is compared and looked up: small letters, no dot at the end."""
    return name.removesuffix(".").casefold()


def check_name(name: str) -> None:
    """ValueError unless `name` can be a DNS name: labels of 1 to 63 letters (of any script), digits, `-` and
    `_`, 253 characters in all, and not something that is meant as an address."""
    short = normal_name(name)
    if not short or len(short) > MAXIMUM_NAME:
        raise ValueError(f"a DNS name has 1 to {MAXIMUM_NAME} characters")
    labels = short.split(".")
    for label in labels:
        if not 0 < len(label) <= 63 or not all(sign.isalnum() or sign in "-_" for sign in label):
            raise ValueError(f"“{name[:80]}” is not a DNS name")
    if labels[-1].isdigit():
        raise ValueError(f"“{name[:80]}” is neither an address nor a DNS name: its last label is a number")


@dataclass(frozen=True, slots=True)
class FilterAddress:
    """One end of a filter: me, any, given addresses (host, subnet, range), a DNS name, or a kind of server.

    `addresses` is set for kind `addresses` only, `name` for kind `name` only. `version` 4 or 6 limits me,
    any, a name or a kind of server to one address family; None means both."""

    kind: AddressKind
    addresses: AddressRange | None = None
    name: str = ""
    version: int | None = None

    def __post_init__(self) -> None:
        if (self.kind is AddressKind.ADDRESSES) != (self.addresses is not None):
            raise ValueError("only an end of kind 'addresses' has addresses, and it must have them")
        if self.kind is AddressKind.NAME:
            check_name(self.name)
        elif self.name:
            raise ValueError("only an end of kind 'name' has a name")
        if self.version is not None and (self.version not in (4, 6) or self.addresses is not None):
            raise ValueError("the address family of an end is 4 or 6, and addresses have their own")

    @classmethod
    def me(cls) -> "FilterAddress":
        return cls(AddressKind.ME)

    @classmethod
    def any(cls) -> "FilterAddress":
        return cls(AddressKind.ANY)

    @classmethod
    def of(cls, addresses: AddressRange | Address) -> "FilterAddress":
        if isinstance(addresses, (IPv4Address, IPv6Address)):
            addresses = AddressRange.host(addresses)
        return cls(AddressKind.ADDRESSES, addresses)

    @classmethod
    def named(cls, name: str) -> "FilterAddress":
        """A DNS name (`ValueError` if it cannot be one)."""
        return cls(AddressKind.NAME, name=name.strip())

    @classmethod
    def server(cls, kind: AddressKind) -> "FilterAddress":
        """DNS, WINS, DHCP servers or the default gateway."""
        if not kind.is_server:
            raise ValueError(f"{kind} is no kind of server")
        return cls(kind)

    @property
    def family(self) -> int | None:
        """The IP version that the end is limited to; None where it fits both."""
        return self.version if self.addresses is None else self.addresses.version

    def __str__(self) -> str:
        if self.addresses is not None:
            return str(self.addresses)
        text = self.name if self.kind is AddressKind.NAME else self.kind.value
        return text if self.version is None else f"{text} (IPv{self.version})"


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as configured (a *generic* filter). Protocol and ports 0 mean any. `origin` says where it was
    written; filters that differ in nothing else are equal."""

    source: FilterAddress
    destination: FilterAddress
    protocol: int = 0
    source_port: int = 0
    destination_port: int = 0
    mirrored: bool = True
    description: str = ""
    origin: Origin | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_protocol_and_ports(self.protocol, self.source_port, self.destination_port)
        families = {self.source.family, self.destination.family} - {None}
        if len(families) > 1:
            raise ValueError("source and destination are of different address families")
        if self.source.kind is AddressKind.ME and self.destination.kind is AddressKind.ME:
            raise ValueError("source and destination are both this computer")
        for end, other in ((self.source, self.destination), (self.destination, self.source)):
            if end.kind.is_server and other.kind is not AddressKind.ME:
                raise ValueError(f"the other end of “{end}” must be “me”, not “{other}”")

    def same_traffic(self, other: "Filter") -> bool:
        """Equal but for the description: what `delete filter` matches by."""
        return (self.source, self.destination, self.protocol, self.source_port, self.destination_port,
                self.mirrored) == (other.source, other.destination, other.protocol, other.source_port,
                                   other.destination_port, other.mirrored)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FilterList:
    name: str
    filters: tuple[Filter, ...] = ()
    description: str = ""
    guid: UUID = field(default_factory=uuid4)
    modified: datetime = field(default_factory=now)


DEFAULT_QUICK_MODE_PROPOSALS = (
    QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1)),
    QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.MD5)),
)


@dataclass(frozen=True, slots=True)
class FilterAction:
    """Permit, block or negotiate. `methods` (quick-mode security methods, in order), `inpass`, `soft` and
    `session_pfs` count for negotiate only."""

    name: str
    action: Action = Action.NEGOTIATE
    methods: tuple[QuickModeProposal, ...] = DEFAULT_QUICK_MODE_PROPOSALS
    inpass: bool = False
    soft: bool = False
    session_pfs: bool = False
    description: str = ""
    guid: UUID = field(default_factory=uuid4)
    modified: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        if self.action is Action.NEGOTIATE and not self.methods:
            raise ValueError("a filter action that negotiates needs at least one security method")


# What the default response rule names as its filter list and filter action; neither is an object in the
# store.
DYNAMIC_FILTER_LIST = "<Dynamic>"
DEFAULT_RESPONSE_ACTION = "Default Response"
DEFAULT_RESPONSE_METHODS = (
    QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1)),
    QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.MD5)),
    QuickModeProposal(EspSuite(Encryption.DES_CBC, Hash.SHA1)),
    QuickModeProposal(EspSuite(Encryption.DES_CBC, Hash.MD5)),
    QuickModeProposal(ah=Hash.SHA1),
    QuickModeProposal(ah=Hash.MD5),
)


class ConnectionType(StrEnum):
    ALL = "all"
    LAN = "lan"
    DIALUP = "dialup"


@dataclass(frozen=True, slots=True)
class Rule:
    """Ties a filter list to a filter action. The default response rule has neither name
    (`is_default_response`)."""

    name: str
    filter_list: str
    filter_action: str
    authentication: tuple[AuthenticationMethod, ...] = (Kerberos(),)
    tunnel_endpoint: Address | None = None
    connection_type: ConnectionType = ConnectionType.ALL
    active: bool = True
    description: str = ""
    guid: UUID = field(default_factory=uuid4)
    modified: datetime = field(default_factory=now)
    is_default_response: bool = False
    response_methods: tuple[QuickModeProposal, ...] = ()  # default response rule only; () = the usual ones
    response_session_pfs: bool = False  # default response rule only


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. At most one per store is assigned (kept by the store). Times in minutes, as netsh has
    them."""

    name: str
    rules: tuple[Rule, ...] = ()
    assigned: bool = False
    main_mode_methods: tuple[MainModeProposal, ...] = DEFAULT_MAIN_MODE_PROPOSALS
    main_mode_minutes: int = DEFAULT_MAIN_MODE_MINUTES
    quick_modes_per_main_mode: int = 0
    master_pfs: bool = False
    polling_minutes: int = DEFAULT_POLLING_MINUTES
    description: str = ""
    guid: UUID = field(default_factory=uuid4)
    modified: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        if not self.main_mode_methods:
            raise ValueError("a policy needs at least one main-mode security method")
        if self.main_mode_minutes < 1:
            raise ValueError("the main-mode lifetime must be at least one minute")


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Everything that one store holds, read in one transaction: what the compiler takes. `store` is its name
    in provenance: `local`, `persistent`, `domain`."""

    policies: tuple[Policy, ...] = ()
    filter_lists: tuple[FilterList, ...] = ()
    filter_actions: tuple[FilterAction, ...] = ()
    store: str = "local"

    @property
    def assigned(self) -> Policy | None:
        return next((policy for policy in self.policies if policy.assigned), None)

    def filter_list(self, name: str) -> FilterList | None:
        return next((entry for entry in self.filter_lists if entry.name.casefold() == name.casefold()), None)

    def filter_action(self, name: str) -> FilterAction | None:
        return next(
            (entry for entry in self.filter_actions if entry.name.casefold() == name.casefold()), None
        )

    def policy(self, name: str) -> Policy | None:
        return next((entry for entry in self.policies if entry.name.casefold() == name.casefold()), None)
