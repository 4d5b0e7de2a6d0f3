"""Offers and choices: main-mode and quick-mode proposals as SA payloads, and the choice among them.

RFC 2408 §4.2, RFC 2409 §5 and Appendix A, RFC 2407 §4.5. The initiator's order counts: the responder takes
the first transform that its policy allows, and returns it unmodified. A choosing function returns a choice,
or the `Reason` of the refusal that lists each offer and the first thing that did not fit. Unknown attributes
do not abort a negotiation ([MS-IKEE] §3.1.5): they are echoed with the transform that carries them.

Lifetimes are the exception to "unmodified": the shorter one of both ends counts, and an initiator accepts a
choice whose lifetime was shortened, as some responders do instead of sending RESPONDER-LIFETIME.

Left out: AH and ESP bundled in one offer (two SAs per direction) and IP compression; such offers are skipped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from stockade.crypto.registry import (
    encryption_algorithm,
    encryption_from_esp,
    encryption_from_ike,
    group_from_number,
    hash_algorithm,
    hash_from_ah,
    hash_from_esp_auth,
    hash_from_ike,
)
from stockade.ike.auth.method import AuthMethod
from stockade.model.negotiation import Mode, Negotiation, QuickModePolicy
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import MINIMUM_SPI
from stockade.model.suites import (
    Encryption,
    EspSuite,
    Group,
    Hash,
    MainModeProposal,
    QuickModeProposal,
)
from stockade.wire.isakmp.constants import (
    DomainOfInterpretation,
    EncapsulationMode,
    EspTransform,
    IkeAttribute,
    IpsecAttribute,
    IsakmpTransform,
    LifeType,
    ProtocolId,
    Situation,
    name_of,
)
from stockade.wire.isakmp.payloads import (
    Attribute,
    ProposalPayload,
    SecurityAssociationPayload,
    TransformPayload,
)

DEFAULT_LIFETIME_SECONDS = 28_800  # where a quick mode names none: RFC 2407 §4.5
MAXIMUM_FACTS = 16
_MODES = {Mode.TRANSPORT: EncapsulationMode.TRANSPORT, Mode.TUNNEL: EncapsulationMode.TUNNEL}


@dataclass(frozen=True, slots=True)
class MainModeCandidate:
    """One main mode that our policy allows: what we may offer, and what we accept."""

    proposal: MainModeProposal
    method: AuthMethod
    lifetime_seconds: int
    negotiation: Negotiation


@dataclass(frozen=True, slots=True)
class MainModeChoice:
    """What both ends agree on; `reply` is the SA payload that says so."""

    candidate: MainModeCandidate
    lifetime_seconds: int
    reply: SecurityAssociationPayload


@dataclass(frozen=True, slots=True)
class QuickModeChoice:
    """What both ends agree on. `proposal` has the lifetimes that count here; `peer_spi` is the SPI of our
    outbound SA. `shortened`: our lifetime is shorter than the peer's offer says, so the peer should hear
    it."""

    proposal: QuickModeProposal
    protocol: ProtocolId
    group: Group | None
    peer_spi: int
    reply: SecurityAssociationPayload
    shortened: bool


# ---- attributes
class _Attributes:
    """The attributes of one transform, by number. Lifetimes come as pairs (type, duration), in order."""

    def __init__(self, attributes: Iterable[Attribute], life_type: int, life_duration: int) -> None:
        self.numbers: dict[int, int | None] = {}
        self.lifetimes: dict[int, int] = {}
        self.fault = ""
        pending: int | None = None
        for attribute in attributes:
            number = attribute.number
            if attribute.type == life_type:
                pending = number
            elif attribute.type == life_duration:
                if pending is None:
                    self.fault = "a lifetime without its type"
                elif number:
                    self.lifetimes[pending] = min(number, self.lifetimes.get(pending, number))
                pending = None
            elif self.numbers.get(attribute.type, number) != number:
                self.fault = f"attribute {attribute.type} with two values"
            else:
                self.numbers[attribute.type] = number

    def get(self, kind: int) -> int | None:
        return self.numbers.get(kind)


def _lifetime(kind: int, type_: LifeType, duration_: int, value: int) -> tuple[Attribute, Attribute]:
    # Always the 4-byte form, as Windows writes durations (RFC 2407 §4.5 shows it so, too).
    return Attribute(kind, int(type_)), Attribute(duration_, min(value, 0xFFFF_FFFF).to_bytes(4, "big"))


def _listed(words: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(word) for word in words))


def _refusal(what: str, whys: Sequence[tuple[str, str]]) -> Reason:
    """`whys`: each offer and the first thing of it that did not fit."""
    facts = tuple((f"offer {index} {offer}:", why) for index, (offer, why) in enumerate(whys, 1))
    if len(facts) > MAXIMUM_FACTS:
        facts = (*facts[:MAXIMUM_FACTS], ("offers not listed:", str(len(facts) - MAXIMUM_FACTS)))
    return Reason(ReasonCode.NO_PROPOSAL_CHOSEN, what, facts)


def _foreign(sa: SecurityAssociationPayload) -> Reason | None:
    if sa.doi not in (DomainOfInterpretation.IPSEC, DomainOfInterpretation.ISAKMP):
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "not the IPsec domain of interpretation", doi=sa.doi)
    if sa.doi == DomainOfInterpretation.IPSEC and sa.situation != Situation.IDENTITY_ONLY:
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "unknown situation", situation=sa.situation)
    return None


def _sa(proposals: Sequence[ProposalPayload]) -> SecurityAssociationPayload:
    return SecurityAssociationPayload(DomainOfInterpretation.IPSEC, Situation.IDENTITY_ONLY, tuple(proposals))


# ---- main mode
def main_mode_offer(candidates: Sequence[MainModeCandidate]) -> SecurityAssociationPayload:
    """One proposal with a transform per candidate, in order (RFC 2409 §5; at most 64)."""
    transforms = []
    for number, candidate in enumerate(candidates[:64], 1):
        cipher = encryption_algorithm(candidate.proposal.encryption)
        assert cipher.ike_id is not None
        attributes = [
            Attribute(IkeAttribute.ENCRYPTION_ALGORITHM, cipher.ike_id),
            Attribute(IkeAttribute.HASH_ALGORITHM, hash_algorithm(candidate.proposal.hash).ike_id),
            Attribute(IkeAttribute.GROUP_DESCRIPTION, candidate.proposal.group.number),
            Attribute(IkeAttribute.AUTHENTICATION_METHOD, candidate.method.number),
            *_lifetime(
                IkeAttribute.LIFE_TYPE,
                LifeType.SECONDS,
                IkeAttribute.LIFE_DURATION,
                candidate.lifetime_seconds,
            ),
        ]
        if cipher.key_length_attribute is not None:
            attributes.insert(1, Attribute(IkeAttribute.KEY_LENGTH, cipher.key_length_attribute))
        transforms.append(TransformPayload(number, IsakmpTransform.KEY_IKE, tuple(attributes)))
    return _sa([ProposalPayload(1, ProtocolId.ISAKMP, b"", tuple(transforms))])


@dataclass(frozen=True, slots=True)
class _OfferedMainMode:
    encryption: Encryption | None
    hash: Hash | None
    group: Group | None
    method: int | None
    seconds: int | None
    description: str
    fault: str


def _read_main_mode(transform: TransformPayload) -> _OfferedMainMode:
    values = _Attributes(transform.attributes, IkeAttribute.LIFE_TYPE, IkeAttribute.LIFE_DURATION)
    cipher, bits = values.get(IkeAttribute.ENCRYPTION_ALGORITHM), values.get(IkeAttribute.KEY_LENGTH)
    hash_number = values.get(IkeAttribute.HASH_ALGORITHM)
    group_number = values.get(IkeAttribute.GROUP_DESCRIPTION)
    encryption = None if cipher is None else encryption_from_ike(cipher, bits)
    hash_name = None if hash_number is None else hash_from_ike(hash_number)
    group = None if group_number is None else group_from_number(group_number)
    method = values.get(IkeAttribute.AUTHENTICATION_METHOD)
    fault = values.fault
    if transform.transform_id != IsakmpTransform.KEY_IKE:
        fault = f"transform id {transform.transform_id} is not KEY-IKE"
    if values.get(IkeAttribute.PRF) is not None:
        fault = "a prf of its own"
    words = (
        encryption.netsh_word if encryption else f"cipher {cipher}/{bits}",
        hash_name.netsh_word if hash_name else f"hash {hash_number}",
        group.netsh_word if group else f"group {group_number}",
    )
    return _OfferedMainMode(
        encryption, hash_name, group, method, values.lifetimes.get(LifeType.SECONDS), "-".join(words), fault
    )


def _why_not_main_mode(offered: _OfferedMainMode, candidates: Sequence[MainModeCandidate]) -> str:
    """The first thing that no candidate has as offered; empty if one fits."""
    if offered.fault:
        return offered.fault
    left = [entry for entry in candidates if entry.proposal.encryption is offered.encryption]
    if not left:
        return "encryption, we have " + _listed(c.proposal.encryption.netsh_word for c in candidates)
    by_hash = [entry for entry in left if entry.proposal.hash is offered.hash]
    if not by_hash:
        return "hash, we have " + _listed(c.proposal.hash.netsh_word for c in left)
    by_group = [entry for entry in by_hash if entry.proposal.group is offered.group]
    if not by_group:
        return "group, we have " + _listed(c.proposal.group.netsh_word for c in by_hash)
    if all(entry.method.number != offered.method for entry in by_group):
        return f"authentication {offered.method}, we have " + _listed(c.method.name for c in by_group)
    return ""


def _fitting(offered: _OfferedMainMode, candidates: Sequence[MainModeCandidate]) -> MainModeCandidate | None:
    if offered.fault:
        return None
    wanted = (offered.encryption, offered.hash, offered.group, offered.method)
    for entry in candidates:
        have = (entry.proposal.encryption, entry.proposal.hash, entry.proposal.group, entry.method.number)
        if have == wanted:
            return entry
    return None


def choose_main_mode(
    offer: SecurityAssociationPayload, candidates: Sequence[MainModeCandidate]
) -> MainModeChoice | Reason:
    """The responder's choice: the first offered transform that a candidate allows."""
    if (foreign := _foreign(offer)) is not None:
        return foreign
    whys: list[tuple[str, str]] = []
    for proposal in offer.proposals:
        if proposal.protocol_id != ProtocolId.ISAKMP:
            whys.append((f"protocol {proposal.protocol_id}", "not ISAKMP"))
            continue
        for transform in proposal.transforms:
            offered = _read_main_mode(transform)
            candidate = _fitting(offered, candidates)
            if candidate is None:
                whys.append((offered.description, _why_not_main_mode(offered, candidates)))
                continue
            seconds = min(candidate.lifetime_seconds, offered.seconds or candidate.lifetime_seconds)
            # The SPI of an ISAKMP proposal means nothing (RFC 2408 §3.5) but is part of what was offered.
            reply = replace(offer, proposals=(replace(proposal, transforms=(transform,)),))
            return MainModeChoice(candidate, seconds, reply)
    return _refusal("none of the peer's main-mode offers fits", whys)


def check_main_mode_choice(
    reply: SecurityAssociationPayload, candidates: Sequence[MainModeCandidate]
) -> MainModeChoice | Reason:
    """What the responder chose, if it is one thing and one that we offered."""
    if len(reply.proposals) != 1 or len(reply.proposals[0].transforms) != 1:
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "the peer chose more than one transform")
    choice = choose_main_mode(reply, candidates)
    if isinstance(choice, Reason):
        return Reason(ReasonCode.NO_PROPOSAL_CHOSEN, "the peer chose what was not offered", choice.facts)
    return choice


# ---- quick mode
def can_offer(policy: QuickModePolicy) -> bool:
    """Whether any method of `policy` is one that we can offer: not AH and ESP together."""
    return any(method.esp is None or method.ah is None for method in policy.proposals)


def quick_mode_offer(
    policy: QuickModePolicy, spi: int, group: Group | None, encapsulation: EncapsulationMode | None = None
) -> SecurityAssociationPayload:
    """The methods of `policy`, in order: one proposal per run of methods of the same protocol, all with our
    SPI. `group` is that of perfect forward secrecy, `encapsulation` another mode than the policy's own (in
    UDP). `ValueError` unless `can_offer(policy)`."""
    proposals: list[ProposalPayload] = []
    packed = spi.to_bytes(4, "big")
    for method in policy.proposals:
        if method.esp is not None and method.ah is not None:
            continue
        protocol = ProtocolId.ESP if method.esp is not None else ProtocolId.AH
        last = proposals[-1] if proposals else None
        earlier = (
            last.transforms if last and last.protocol_id == protocol and len(last.transforms) < 64 else ()
        )
        transform = _quick_mode_transform(
            len(earlier) + 1, method, encapsulation or _MODES[policy.mode], group
        )
        if earlier:
            proposals[-1] = replace(proposals[-1], transforms=(*earlier, transform))
        else:
            proposals.append(ProposalPayload(len(proposals) + 1, protocol, packed, (transform,)))
    return _sa(proposals)


def _quick_mode_transform(
    number: int, method: QuickModeProposal, encapsulation: EncapsulationMode, group: Group | None
) -> TransformPayload:
    integrity = method.ah
    key_bits = None
    if method.esp is not None:
        cipher = encryption_algorithm(method.esp.encryption)
        transform_id, key_bits = cipher.esp_id, cipher.key_length_attribute
        integrity = method.esp.integrity
    else:
        assert integrity is not None
        transform_id = hash_algorithm(integrity).ah_id
    attributes = [
        *_lifetime(
            IpsecAttribute.SA_LIFE_TYPE,
            LifeType.SECONDS,
            IpsecAttribute.SA_LIFE_DURATION,
            method.lifetime_seconds,
        ),
        *_lifetime(
            IpsecAttribute.SA_LIFE_TYPE,
            LifeType.KILOBYTES,
            IpsecAttribute.SA_LIFE_DURATION,
            method.lifetime_kilobytes,
        ),
        Attribute(IpsecAttribute.ENCAPSULATION_MODE, int(encapsulation)),
    ]
    if group is not None:
        attributes.append(Attribute(IpsecAttribute.GROUP_DESCRIPTION, group.number))
    if integrity is not None:
        attributes.append(
            Attribute(IpsecAttribute.AUTHENTICATION_ALGORITHM, hash_algorithm(integrity).esp_auth_id)
        )
    if key_bits is not None:
        attributes.append(Attribute(IpsecAttribute.KEY_LENGTH, key_bits))
    return TransformPayload(number, transform_id, tuple(attributes))


@dataclass(frozen=True, slots=True)
class _OfferedQuickMode:
    suite: EspSuite | Hash | None
    mode: int | None
    group_number: int | None
    seconds: int | None
    kilobytes: int | None
    description: str
    fault: str


def _read_quick_mode(protocol: int, transform: TransformPayload) -> _OfferedQuickMode:
    values = _Attributes(transform.attributes, IpsecAttribute.SA_LIFE_TYPE, IpsecAttribute.SA_LIFE_DURATION)
    authentication = values.get(IpsecAttribute.AUTHENTICATION_ALGORITHM)
    bits = values.get(IpsecAttribute.KEY_LENGTH)
    integrity = None if authentication is None else hash_from_esp_auth(authentication)
    suite: EspSuite | Hash | None = None
    fault = values.fault
    if protocol == ProtocolId.ESP:
        encryption = encryption_from_esp(transform.transform_id, bits)
        description = (
            f"{name_of(EspTransform, transform.transform_id)}/{bits}"
            if encryption is None
            else f"ESP[{encryption.netsh_word},{integrity.netsh_word if integrity else authentication}]"
        )
        if encryption is not None and (integrity is not None) == (authentication is not None):
            try:
                suite = EspSuite(encryption, integrity)
            except ValueError as error:
                fault = fault or str(error)
    else:
        suite = hash_from_ah(transform.transform_id)
        description = f"AH[{suite.netsh_word}]" if suite else f"AH transform {transform.transform_id}"
        if suite is not integrity:
            fault = fault or "the authentication algorithm is not the transform's"
    if values.get(IpsecAttribute.EXTENDED_SEQUENCE_NUMBER) not in (None, 0):
        fault = fault or "extended sequence numbers"
    return _OfferedQuickMode(
        suite,
        values.get(IpsecAttribute.ENCAPSULATION_MODE),
        values.get(IpsecAttribute.GROUP_DESCRIPTION),
        values.lifetimes.get(LifeType.SECONDS),
        values.lifetimes.get(LifeType.KILOBYTES),
        description,
        fault,
    )


@dataclass(frozen=True, slots=True)
class QuickModeTerms:
    """What a choice is measured by. `key_exchange`: the peer sent a KE payload (None: not known yet).
    `required_group`: perfect forward secrecy with this group is a must. `encapsulation`: another mode than
    the policy's own (in UDP)."""

    policy: QuickModePolicy
    required_group: Group | None
    key_exchange: bool
    encapsulation: EncapsulationMode | None = None

    @property
    def wanted_encapsulation(self) -> EncapsulationMode:
        return self.encapsulation or _MODES[self.policy.mode]


def _why_not_quick_mode(offered: _OfferedQuickMode, terms: QuickModeTerms) -> str | QuickModeProposal:
    """The method of ours that fits, or the first thing that does not."""
    if offered.fault:
        return offered.fault
    methods = [method for method in terms.policy.proposals if method.esp is None or method.ah is None]
    fitting = [m for m in methods if offered.suite is not None and offered.suite == (m.esp or m.ah)]
    if not fitting:
        return "algorithms, we have " + _listed(str(m).partition(":")[0] for m in methods)
    if offered.mode != terms.wanted_encapsulation:
        wanted = name_of(EncapsulationMode, terms.wanted_encapsulation)
        return f"encapsulation mode {offered.mode}, we have {wanted}"
    group = None if offered.group_number is None else group_from_number(offered.group_number)
    if terms.required_group is not None and group is not terms.required_group:
        return f"perfect forward secrecy with group {terms.required_group.number} is required here"
    if offered.group_number is not None and group is None:
        return f"group {offered.group_number} is unknown"
    if (group is not None) != terms.key_exchange:
        return "group and key exchange payload do not go together"
    return fitting[0]


def offers_encapsulation(offer: SecurityAssociationPayload, encapsulation: EncapsulationMode) -> bool:
    """Whether any transform of a quick-mode offer asks for this encapsulation mode."""
    return any(
        attribute.type == IpsecAttribute.ENCAPSULATION_MODE and attribute.number == encapsulation
        for proposal in offer.proposals
        for transform in proposal.transforms
        for attribute in transform.attributes
    )


def choose_quick_mode(
    offer: SecurityAssociationPayload, terms: QuickModeTerms, spi: int
) -> QuickModeChoice | Reason:
    """The responder's choice: the first offered transform that `terms` allow; `spi` is ours."""
    if (foreign := _foreign(offer)) is not None:
        return foreign
    whys: list[tuple[str, str]] = []
    numbers = [proposal.number for proposal in offer.proposals]
    for proposal in offer.proposals:
        if numbers.count(proposal.number) > 1:
            whys.append((f"proposal {proposal.number}", "several protocols at once"))
            continue
        if proposal.protocol_id not in (ProtocolId.ESP, ProtocolId.AH):
            whys.append((f"proposal {proposal.number}", f"protocol {proposal.protocol_id}"))
            continue
        peer_spi = int.from_bytes(proposal.spi, "big")
        if len(proposal.spi) != 4 or peer_spi < MINIMUM_SPI:
            whys.append((f"proposal {proposal.number}", "the SPI is reserved or not 4 bytes long"))
            continue
        for transform in proposal.transforms:
            offered = _read_quick_mode(proposal.protocol_id, transform)
            method = _why_not_quick_mode(offered, terms)
            if isinstance(method, str):
                whys.append((offered.description, method))
                continue
            peer_seconds = offered.seconds or DEFAULT_LIFETIME_SECONDS
            seconds = min(method.lifetime_seconds, peer_seconds)
            kilobytes = min(method.lifetime_kilobytes, offered.kilobytes or method.lifetime_kilobytes)
            shortened = seconds < peer_seconds or kilobytes < (offered.kilobytes or kilobytes)
            reply = replace(
                offer,
                proposals=(replace(proposal, spi=spi.to_bytes(4, "big"), transforms=(transform,)),),
            )
            return QuickModeChoice(
                replace(method, lifetime_seconds=seconds, lifetime_kilobytes=kilobytes),
                ProtocolId(proposal.protocol_id),
                None if offered.group_number is None else group_from_number(offered.group_number),
                peer_spi,
                reply,
                shortened,
            )
    return _refusal("none of the peer's quick-mode offers fits", whys)


def check_quick_mode_choice(
    reply: SecurityAssociationPayload,
    policy: QuickModePolicy,
    group: Group | None,
    key_exchange: bool,
    encapsulation: EncapsulationMode | None = None,
) -> QuickModeChoice | Reason:
    """What the responder chose, if it is one thing and one that we offered. `group` is the one that we
    offered; `key_exchange` whether the answer has a KE payload."""
    if len(reply.proposals) != 1 or len(reply.proposals[0].transforms) != 1:
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "the peer chose more than one transform")
    choice = choose_quick_mode(reply, QuickModeTerms(policy, group, key_exchange, encapsulation), 0)
    if isinstance(choice, Reason):
        return Reason(ReasonCode.NO_PROPOSAL_CHOSEN, "the peer chose what was not offered", choice.facts)
    if choice.group is not group:
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "the peer chose a group that was not offered")
    return choice
