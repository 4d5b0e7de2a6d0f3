"""What the local API says: one `msgspec.Struct` per answer. The OpenAPI document is generated from these.

Field names are those of `--format json`; times are seconds, sizes bytes, SPIs `0x…` text, addresses text.
"""

from typing import Any

import msgspec


class ReasonMessage(msgspec.Struct, kw_only=True):
    """A reason of the closed list, as every refusal and failure carries it."""

    reason: str
    text: str
    remedy: str
    fault: str
    windows_code: int | None = None
    facts: dict[str, str] = {}


class NameRow(msgspec.Struct, kw_only=True):
    """A DNS name in a filter. `addresses` is null where nothing is known about it; `age` of the last answer,
    null where that is from before this start; `error` of the newest failure, empty after an answer."""

    name: str
    addresses: list[str] | None
    age: float | None
    error: str


class HostFactsMessage(msgspec.Struct, kw_only=True):
    """What the host knows of itself, and what filters mean by "me", "dns" and names. `age` since the system
    was read last."""

    addresses: list[str]
    dns_servers: list[str]
    wins_servers: list[str]
    dhcp_servers: list[str]
    gateways: list[str]
    names: list[NameRow]
    age: float


class DomainMessage(msgspec.Struct, kw_only=True):
    """The domain's policy. `age` since it was read, null where it never was; `from_copy`: nothing newer was
    read since the start. `refused`: why the newest attempt failed. `next` seconds until the next one."""

    domain: str
    controller: str
    site: str
    gpo: str
    policy: str
    age: float | None
    from_copy: bool
    refused: ReasonMessage | None
    next: float | None


class ClusterMember(msgspec.Struct, kw_only=True):
    """Another node, as this one knows it."""

    name: str
    address: str
    alive: bool
    holds: list[str]
    """The virtual addresses that it has."""
    quick_modes: int
    """How many of its quick modes this node could take over."""


class ClusterMessage(msgspec.Struct, kw_only=True):
    """This node of a cluster."""

    node: str
    addresses: list[str]
    """The virtual addresses."""
    holds: list[str]
    """Those that this node has now."""
    members: list[ClusterMember]
    refused_messages: int
    """Messages between nodes that did not count: not authentic, replayed, by nobody known."""


class Released(msgspec.Struct, kw_only=True):
    """The virtual addresses that may be moved now."""

    addresses: list[str]


class WebServed(msgspec.Struct, kw_only=True):
    """The web console as the agent keeps it."""

    state: str
    """waiting (for the first visitor), starting, running, pausing (after a fault) or closed."""
    url: str
    pid: int | None
    trouble: ReasonMessage | None
    """Why it does not serve, or what ended it last."""


class Status(msgspec.Struct, kw_only=True):
    """How the agent is."""

    version: str
    pid: int
    uptime: float
    driver: str
    policy: str | None
    policy_refused: ReasonMessage | None
    """Why the newest version of the policy is not in force, where it is not."""
    filters: int
    main_modes: int
    quick_modes: int
    held_packets: int
    refused_packets: dict[str, int]
    ike: dict[str, int]
    """Windows' IKE statistics, and counters of the engine beside them."""
    ipsec: dict[str, int]
    """Windows' IPsec statistics."""
    addresses: list[str]
    known_quick_modes: int
    facts: HostFactsMessage
    soft: int
    """With how many peers traffic passes in clear because negotiating failed (rules with `soft`)."""
    domain: DomainMessage | None
    """Null where no policy is taken from a domain."""
    boot_filters: str
    """The boot mode that still holds because no policy is in force; empty otherwise."""
    cluster: ClusterMessage | None
    """What is known of the cluster that this host is a node of."""
    web: WebServed | None
    """The web console that the agent serves; null where it serves none."""


class Series(msgspec.Struct, kw_only=True):
    """The figures of the last hour. SAs as they were, bytes a second, all else a minute."""

    time: list[float]
    """Seconds since 1970, oldest first."""
    columns: dict[str, list[float | None]]


class FilterRow(msgspec.Struct, kw_only=True):
    """One specific filter, heaviest first."""

    id: str
    direction: str
    protocol: str
    source: str
    source_port: int
    destination: str
    destination_port: int
    action: str
    weight: int
    exemption: bool
    accept_clear: bool
    allow_soft: bool
    negotiation: str | None
    provenance: str
    packets: int
    bytes: int
    store: str = ""
    policy: str = ""
    rule: str = ""
    filter_list: str = ""
    filter_index: int = 0
    mirrored: bool = False


class Filters(msgspec.Struct, kw_only=True):
    policy: str | None
    filters: list[FilterRow]
    warnings: list[str]


class MainModeRow(msgspec.Struct, kw_only=True):
    cookies: str
    local: str
    peer: str
    role: str
    established: bool
    suite: str
    authentication: str
    local_identity: str
    peer_identity: str
    peer_vendor: str
    age: float
    remaining: float
    quick_modes: int


class QuickModeRow(msgspec.Struct, kw_only=True):
    """A pair of SAs. In tunnel mode `local` and `peer` are the ends of the tunnel."""

    inbound_spi: str
    outbound_spi: str
    local: str
    peer: str
    mode: str = ""
    traffic: str
    suite: str
    pfs_group: str
    role: str
    main_mode: str
    rule: str
    age: float
    remaining: float
    inbound_packets: int
    inbound_bytes: int
    outbound_packets: int
    outbound_bytes: int
    idle: float


class SoftRow(msgspec.Struct, kw_only=True):
    """A soft SA: clear traffic with a peer, for a time. `why` is what failed."""

    local: str
    peer: str
    traffic: str
    rule: str
    why: str
    age: float
    remaining: float


class UnderWayRow(msgspec.Struct, kw_only=True):
    """A negotiation that has not ended, and what it waits for."""

    phase: str
    cookies: str
    local: str
    peer: str
    role: str
    age: float
    standing: str


class Sas(msgspec.Struct, kw_only=True):
    main_modes: list[MainModeRow]
    quick_modes: list[QuickModeRow]
    soft: list[SoftRow]
    under_way: list[UnderWayRow] = []


class QuickModeMethodRow(msgspec.Struct, kw_only=True):
    """A security method of quick mode, in netsh's words. Lifetimes 0: no limit."""

    method: str
    ah: str
    esp_encryption: str
    esp_integrity: str
    lifetime_seconds: int
    lifetime_kilobytes: int


class MethodsRow(msgspec.Struct, kw_only=True):
    """What a rule negotiates with: an IKE policy, a quick-mode policy and how peers prove who they are, each
    list in order of preference. No keys. `filters`: how many specific filters name it."""

    name: str
    provenance: str
    filters: int
    authentication: list[str]
    main_mode_methods: list[str]
    main_mode_seconds: int
    quick_modes_per_main_mode: int
    quick_mode_methods: list[QuickModeMethodRow]
    perfect_forward_secrecy: str
    mode: str
    tunnel_endpoint: str
    soft_seconds: int


class Methods(msgspec.Struct, kw_only=True):
    """The main-mode and quick-mode policies in force."""

    policy: str | None
    methods: list[MethodsRow]


class PeerRung(msgspec.Struct):
    """One step: at most so many seconds, and why."""

    name: str
    seconds: float
    why: str


class PeerPlan(msgspec.Struct):
    """What is done when a peer is silent; seconds. `notice_seconds` is the worst case, from the first packet
    without an answer to the beginning of a new main mode, and the sum of the `rungs`. `known`: there is a
    main mode with the peer; without one it is the plan for a peer that cannot be asked."""

    peer: str
    known: bool
    notice_seconds: float
    idle_seconds: float
    rungs: list[PeerRung]
    lines: list[str]


class Loaded(msgspec.Struct, kw_only=True):
    """The answer to a reload: what is in force now, and the refusal if the new policy is not."""

    policy: str | None
    filters: int
    refused: ReasonMessage | None


class Dynamic(msgspec.Struct, kw_only=True):
    """The objects of the dynamic store, in the form of `stockade.store.dynamic`; keys only if asked for. To
    change them, send all of them back with the version that was read."""

    version: int
    objects: dict[str, Any]


class Deleted(msgspec.Struct, kw_only=True):
    peer: str
    main_modes: int
    quick_modes: int


class Rekeyed(msgspec.Struct, kw_only=True):
    """A rekey has begun; events tell how it ends."""

    peer: str
    inbound_spi: str


class JournalEntries(msgspec.Struct, kw_only=True):
    entries: list[dict[str, Any]]


class EspKeys(msgspec.Struct, kw_only=True):
    """The keys of one SA, as Wireshark's table of ESP SAs names things; keys are hexadecimal."""

    protocol: str
    source: str
    destination: str
    spi: str
    encryption: str
    encryption_key: str
    authentication: str
    authentication_key: str
    extended_sequence: bool


class IkeKeys(msgspec.Struct, kw_only=True):
    """The key that a main mode encrypts with, by its initiator's cookie; hexadecimal."""

    initiator_cookie: str
    key: str


class SaKeys(msgspec.Struct, kw_only=True):
    """One direction of an SA in our own words, for `stockade capture` to open its packets; keys are
    hexadecimal. `protocol` is “esp” or “ah”."""

    protocol: str
    spi: str
    source: str
    destination: str
    mode: str
    encryption: str
    encryption_key: str
    integrity: str
    integrity_key: str
    extended_sequence: bool


class CaptureKeys(msgspec.Struct, kw_only=True):
    """What decrypts a capture: in Wireshark's words, and all SAs in ours (`sas`). `left_out`: SAs with
    algorithms that Wireshark cannot decrypt."""

    esp: list[EspKeys]
    ike: list[IkeKeys]
    left_out: int
    sas: list[SaKeys] = []


class ExplanationMessage(msgspec.Struct, kw_only=True):
    """What happens to a packet and why; `lines` is the text for people, `explanation` the facts."""

    explanation: dict[str, Any]
    lines: list[str]


class FilterNode(msgspec.Struct, kw_only=True):
    """A filter as an administrator wrote it."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: str
    mirrored: bool
    description: str


class ObjectMark(msgspec.Struct, kw_only=True):
    """What every object of a store has: its GUID as netsh shows it, and when it was last changed, ISO 8601 in
    UTC."""

    guid: str
    modified: str


class RuleNode(msgspec.Struct, kw_only=True):
    """A rule with what it names. `filters` are the first ones, `filter_count` says how many there are. The
    default response rule has neither filter list nor filter action."""

    name: str
    description: str
    guid: str
    modified: str
    active: bool
    default_response: bool
    connection_type: str
    tunnel_endpoint: str | None
    authentication: list[str]
    filter_list: str
    filter_list_mark: ObjectMark | None
    filter_count: int
    filters: list[FilterNode]
    filter_action: str
    filter_action_mark: ObjectMark | None
    action: str
    methods: list[str]
    inpass: bool
    soft: bool
    session_pfs: bool


class PolicyNode(msgspec.Struct, kw_only=True):
    """A policy of a store, with its rules. No keys. `modified`: when the policy itself was last changed, ISO
    8601 in UTC."""

    store: str
    name: str
    description: str
    guid: str
    modified: str
    assigned: bool
    main_mode_methods: list[str]
    main_mode_minutes: int
    master_pfs: bool
    rules: list[RuleNode]


class PolicyTree(msgspec.Struct, kw_only=True):
    """All policies of all stores: persistent, local and the domain's."""

    policies: list[PolicyNode]


class RevisionRow(msgspec.Struct, kw_only=True):
    """A change of a store: how many objects came, changed and went."""

    number: int
    made: str
    author: str
    command: str
    added: int
    changed: int
    removed: int


class History(msgspec.Struct, kw_only=True):
    """The revisions of a store, newest first."""

    store: str
    revisions: list[RevisionRow]


class Difference(msgspec.Struct, kw_only=True):
    """What changed between two revisions, as commands; keys are not shown, only where one changed."""

    store: str
    lines: list[str]
    changed_keys: list[str]


class Negotiations(msgspec.Struct, kw_only=True):
    """The stories of the newest negotiations, newest first; told while `recording`, for `seconds_left` more
    (null: for good, as the Oakley log is on)."""

    recording: bool
    seconds_left: float | None
    negotiations: list[dict[str, Any]]


class Recording(msgspec.Struct, kw_only=True):
    recording: bool
    seconds_left: float | None


class WebTicket(msgspec.Struct, kw_only=True):
    """A way into the web console, good once, for `seconds`."""

    ticket: str
    role: str
    seconds: float


class WebKey(msgspec.Struct, kw_only=True):
    """A ticket that somebody came with."""

    ticket: str


class WebEntry(msgspec.Struct, kw_only=True):
    """What a ticket was good for; an empty role: nothing."""

    role: str


class WebReport(msgspec.Struct, kw_only=True):
    """What the web console wants in the journal. `kind`: action, request or login (refused)."""

    kind: str
    text: str
    facts: dict[str, str] = {}


class Noted(msgspec.Struct, kw_only=True):
    noted: bool
