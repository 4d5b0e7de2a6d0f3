"""Offers and choices of quick mode (RFC 2407 §4.5); what holds for both modes is in `proposals.py`.

Left out: AH and ESP bundled in one offer (two SAs per direction) and IP compression; such offers are skipped.
"""

from dataclasses import dataclass, replace

from stockade.crypto.registry import (
    encryption_algorithm,
    encryption_from_esp,
    group_from_number,
    hash_algorithm,
    hash_from_ah,
    hash_from_esp_auth,
)
from stockade.ike.v1.proposals import (
    TransformAttributes,
    foreign_reason,
    lifetime_attributes,
    listed,
    refusal,
    sa_payload,
)
from stockade.model.negotiation import Mode, QuickModePolicy
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import MINIMUM_SPI
from stockade.model.suites import (
    EspSuite,
    Group,
    Hash,
    QuickModeProposal,
)
from stockade.wire.isakmp.constants import (
    EncapsulationMode,
    EspTransform,
    IpsecAttribute,
    LifeType,
    ProtocolId,
    name_of,
)
from stockade.wire.isakmp.payloads import (
    Attribute,
    ProposalPayload,
    SecurityAssociationPayload,
    TransformPayload,
)

DEFAULT_LIFETIME_SECONDS = 28_800  # where a quick mode names none: RFC 2407 §4.5
_MODES = {Mode.TRANSPORT: EncapsulationMode.TRANSPORT, Mode.TUNNEL: EncapsulationMode.TUNNEL}


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
    return sa_payload(proposals)


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
        *lifetime_attributes(
            IpsecAttribute.SA_LIFE_TYPE,
            LifeType.SECONDS,
            IpsecAttribute.SA_LIFE_DURATION,
            method.lifetime_seconds,
        ),
        *lifetime_attributes(
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
    values = TransformAttributes(
        transform.attributes, IpsecAttribute.SA_LIFE_TYPE, IpsecAttribute.SA_LIFE_DURATION
    )
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
        return "algorithms, we have " + listed(str(m).partition(":")[0] for m in methods)
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
    if (foreign := foreign_reason(offer)) is not None:
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
    return refusal("none of the peer's quick-mode offers fits", whys)


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
