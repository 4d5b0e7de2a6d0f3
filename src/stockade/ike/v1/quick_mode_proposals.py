"""Offers and choices of quick mode (RFC 2407 §4.5); what holds for both modes is in `proposals.py`.

One security method is one transform of a proposal; methods of one protocol that follow on each other share
the proposal. AH over ESP is two proposals with one number (RFC 2408 §4.2: both are meant), each with its own
SPI, and one transform each, so that nobody can combine what was not meant to be.

     1  ESP  spi a   3DES-SHA1, 3DES-MD5           ESP[3DES,SHA1] ESP[3DES,MD5] AH[SHA1]+ESP[3DES,None]
     2  AH   spi b   SHA1      \\
     2  ESP  spi a   3DES-none / both

AH does not pass a NAT (RFC 3947 §5): where there is one, methods with AH are neither offered nor accepted.
Left out: IP compression; such offers are skipped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, product

from stockade.crypto.registry import (
    encryption_algorithm,
    encryption_from_esp,
    group_from_number,
    hash_from_esp_auth,
    integrity_algorithm,
    integrity_from_ah,
    integrity_from_authentication,
)
from stockade.ike.v1.proposals import (
    MAXIMUM_FACTS,
    Remembered,
    TransformAttributes,
    foreign_reason,
    lifetime_attributes,
    listed,
    refusal,
    sa_payload,
)
from stockade.model.negotiation import Mode, QuickModePolicy
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import MINIMUM_SPI
from stockade.model.suites import (
    EspSuite,
    Group,
    Integrity,
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
MAXIMUM_COMBINATIONS = 256
EXTENDED = 1  # the one value of the attribute (RFC 4304 §2.1); without it numbers have 32 bits
_MODES = {Mode.TRANSPORT: EncapsulationMode.TRANSPORT, Mode.TUNNEL: EncapsulationMode.TUNNEL}


@quickly_made
@dataclass(frozen=True, slots=True)
class QuickModeChoice:
    """What both ends agree on. `proposal` has the lifetimes that count here; `peer_spi` is the SPI of our
    outbound SA, `peer_ah_spi` that of its AH where ESP and AH go together (else 0). `shortened`: our lifetime
    is shorter than the peer's offer says, so the peer should hear it."""

    proposal: QuickModeProposal
    protocol: ProtocolId
    group: Group | None
    peer_spi: int
    reply: SecurityAssociationPayload
    shortened: bool
    peer_ah_spi: int = 0

    def reply_with(self, spi: int, ah_spi: int) -> SecurityAssociationPayload:
        """`reply` with SPIs of ours: `ah_spi` is that of AH where it goes with ESP."""
        proposals = tuple(
            ProposalPayload(
                entry.number,
                entry.protocol_id,
                (ah_spi if self.peer_ah_spi and entry.protocol_id == ProtocolId.AH else spi).to_bytes(
                    4, "big"
                ),
                entry.transforms,
            )
            for entry in self.reply.proposals
        )
        return SecurityAssociationPayload(self.reply.doi, self.reply.situation, proposals)


def is_bundle(method: QuickModeProposal) -> bool:
    """Whether a method asks for AH and ESP together."""
    return method.esp is not None and method.ah is not None


def _in_udp(encapsulation: EncapsulationMode | None) -> bool:
    return encapsulation is not None and encapsulation not in _MODES.values()


def offered_methods(
    policy: QuickModePolicy, encapsulation: EncapsulationMode | None = None
) -> tuple[QuickModeProposal, ...]:
    """The methods of `policy` that can be negotiated: without AH where ESP goes in UDP."""
    if not _in_udp(encapsulation):
        return policy.proposals
    return tuple(method for method in policy.proposals if method.ah is None)


def quick_mode_offer(
    policy: QuickModePolicy,
    spi: int,
    group: Group | None,
    encapsulation: EncapsulationMode | None = None,
    ah_spi: int = 0,
) -> SecurityAssociationPayload:
    """The methods of `policy`, in order, with our SPI: `ah_spi` is that of AH where it goes with ESP. `group`
    is that of perfect forward secrecy, `encapsulation` another mode than the policy's own (in UDP)."""
    proposals: list[ProposalPayload] = []
    number = number_of_run = 0
    mode = encapsulation or _MODES[policy.mode]
    for method in offered_methods(policy, encapsulation):
        last = proposals[-1] if proposals else None
        if is_bundle(method):
            number += 1
            for protocol, own in ((ProtocolId.AH, ah_spi), (ProtocolId.ESP, spi)):
                transform = _quick_mode_transform(1, protocol, method, mode, group)
                proposals.append(ProposalPayload(number, protocol, own.to_bytes(4, "big"), (transform,)))
            number_of_run = 0
            continue
        protocol = ProtocolId.ESP if method.esp is not None else ProtocolId.AH
        joins = (
            last is not None
            and last.number == number_of_run
            and last.protocol_id == protocol
            and len(last.transforms) < 64
        )
        earlier = last.transforms if joins and last is not None else ()
        transform = _quick_mode_transform(len(earlier) + 1, protocol, method, mode, group)
        if joins:
            proposals[-1] = replace(proposals[-1], transforms=(*earlier, transform))
        else:
            number += 1
            number_of_run = number
            proposals.append(ProposalPayload(number, protocol, spi.to_bytes(4, "big"), (transform,)))
    return sa_payload(proposals)


@lru_cache(maxsize=256)  # a rule's methods are the same in every offer
def _quick_mode_transform(
    number: int,
    protocol: ProtocolId,
    method: QuickModeProposal,
    encapsulation: EncapsulationMode,
    group: Group | None,
) -> TransformPayload:
    integrity: Integrity | None = method.ah
    key_bits = None
    if protocol is ProtocolId.ESP:
        assert method.esp is not None
        cipher = encryption_algorithm(method.esp.encryption)
        transform_id, key_bits = cipher.esp_id, cipher.key_length_attribute
        integrity = method.esp.integrity
    else:
        assert integrity is not None
        transform_id = integrity_algorithm(integrity).ah_id
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
            Attribute(IpsecAttribute.AUTHENTICATION_ALGORITHM, integrity_algorithm(integrity).esp_auth_id)
        )
    if key_bits is not None:
        attributes.append(Attribute(IpsecAttribute.KEY_LENGTH, key_bits))
    if method.extended_sequence:
        attributes.append(Attribute(IpsecAttribute.EXTENDED_SEQUENCE_NUMBER, EXTENDED))
    return TransformPayload(number, transform_id, tuple(attributes))


@dataclass(frozen=True, slots=True)
class _OfferedQuickMode:
    is_ah: bool
    suite: EspSuite | Integrity | None
    mode: int | None
    group_number: int | None
    seconds: int | None
    kilobytes: int | None
    description: str
    fault: str
    extended: bool = False


def _read_quick_mode(protocol: int, transform: TransformPayload) -> _OfferedQuickMode:
    values = TransformAttributes(
        transform.attributes, IpsecAttribute.SA_LIFE_TYPE, IpsecAttribute.SA_LIFE_DURATION
    )
    authentication = values.get(IpsecAttribute.AUTHENTICATION_ALGORITHM)
    bits = values.get(IpsecAttribute.KEY_LENGTH)
    integrity = None if authentication is None else hash_from_esp_auth(authentication)
    suite: EspSuite | Integrity | None = None
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
        suite = integrity_from_ah(transform.transform_id)
        description = f"AH[{suite.netsh_word}]" if suite else f"AH transform {transform.transform_id}"
        named = None if authentication is None else integrity_from_authentication(authentication)
        if suite is not named:
            fault = fault or "the authentication algorithm is not the transform's"
    extended = values.get(IpsecAttribute.EXTENDED_SEQUENCE_NUMBER)
    if extended not in (None, 0, EXTENDED):
        fault = fault or f"extended sequence numbers of kind {extended}"
    return _OfferedQuickMode(
        protocol == ProtocolId.AH,
        suite,
        values.get(IpsecAttribute.ENCAPSULATION_MODE),
        values.get(IpsecAttribute.GROUP_DESCRIPTION),
        values.lifetimes.get(LifeType.SECONDS),
        values.lifetimes.get(LifeType.KILOBYTES),
        description if extended != EXTENDED else f"{description}/ESN",
        fault,
        extended == EXTENDED,
    )


_read = Remembered(_read_quick_mode)


@quickly_made
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


def _why_not_quick_mode(
    offered: Sequence[_OfferedQuickMode], terms: QuickModeTerms
) -> str | QuickModeProposal:
    """The method of ours that fits, or the first thing that does not. `offered`: one transform, or one of AH
    and one of ESP that go together."""
    for part in offered:
        if part.fault:
            return part.fault
    methods = offered_methods(terms.policy, terms.encapsulation)
    suites = [part.suite for part in offered]
    fitting = [
        method
        for method in methods
        if None not in suites and [suite for suite in (method.ah, method.esp) if suite is not None] == suites
    ]
    if not fitting:
        whose = "algorithms, we have "
        if _in_udp(terms.encapsulation) and any(part.is_ah for part in offered):
            whose = "AH does not pass the NAT between us, we have "
        return whose + (listed(str(m).partition(":")[0] for m in methods) or "nothing without AH")
    if len({part.extended for part in offered}) > 1:
        return "AH and ESP do not agree about extended sequence numbers"
    extended = offered[0].extended
    fitting = [method for method in fitting if method.extended_sequence is extended]
    if not fitting:
        wanted = "which we have not" if extended else "which we insist on, are missing"
        return f"extended sequence numbers, {wanted}"
    for part in offered:
        why = _why_not_terms(part, terms)
        if why:
            return why
    if len({part.group_number for part in offered}) > 1:
        return "AH and ESP ask for different groups"
    return fitting[0]


def _why_not_terms(offered: _OfferedQuickMode, terms: QuickModeTerms) -> str:
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
    return ""


def offers_encapsulation(offer: SecurityAssociationPayload, encapsulation: EncapsulationMode) -> bool:
    """Whether any transform of a quick-mode offer asks for this encapsulation mode."""
    return any(
        attribute.type == IpsecAttribute.ENCAPSULATION_MODE and attribute.number == encapsulation
        for proposal in offer.proposals
        for transform in proposal.transforms
        for attribute in transform.attributes
    )


def choose_quick_mode(
    offer: SecurityAssociationPayload, terms: QuickModeTerms, spi: int, ah_spi: int = 0
) -> QuickModeChoice | Reason:
    """The responder's choice: the first offered transform (or pair of transforms, for AH over ESP) that
    `terms` allow; `spi` is ours, `ah_spi` that of AH beside ESP."""
    if (foreign := foreign_reason(offer)) is not None:
        return foreign
    whys: list[tuple[str, str]] = []
    for number in dict.fromkeys(proposal.number for proposal in offer.proposals):
        proposals = [proposal for proposal in offer.proposals if proposal.number == number]
        proposals.sort(key=lambda entry: entry.protocol_id)  # AH before ESP, as in a method
        if (why := _why_not_proposals(proposals)) is not None:
            whys.append((f"proposal {number}", why))
            continue
        # Bounded: an SA payload has at most 65 kB, and two transforms are tried with each other only once.
        for transforms in _combinations(proposals):
            parts = [
                _read(transform, proposal.protocol_id, transform)
                for proposal, transform in zip(proposals, transforms, strict=True)
            ]
            method = _why_not_quick_mode(parts, terms)
            if isinstance(method, str):
                whys.append(("+".join(part.description for part in parts), method))
                continue
            return _choice(offer, proposals, transforms, parts, method, (ah_spi, spi)[2 - len(parts) :])
    return refusal("none of the peer's quick-mode offers fits", whys)


def judge_quick_modes(offer: SecurityAssociationPayload, terms: QuickModeTerms) -> list[tuple[str, str]]:
    """Each offer, and the first thing of it that does not fit (empty: it fits). For the log."""
    judged: list[tuple[str, str]] = []
    for number in dict.fromkeys(proposal.number for proposal in offer.proposals[:MAXIMUM_FACTS]):
        proposals = [proposal for proposal in offer.proposals if proposal.number == number]
        proposals.sort(key=lambda entry: entry.protocol_id)
        if (why := _why_not_proposals(proposals)) is not None:
            judged.append((f"proposal {number}", why))
            continue
        for transforms in islice(_combinations(proposals), MAXIMUM_FACTS):
            parts = [
                _read_quick_mode(proposal.protocol_id, transform)
                for proposal, transform in zip(proposals, transforms, strict=True)
            ]
            method = _why_not_quick_mode(parts, terms)
            life = f"{parts[-1].kilobytes}k/{parts[-1].seconds}s"
            what = "+".join(part.description for part in parts)
            judged.append((f"{what}:{life}", method if isinstance(method, str) else ""))
    return judged[:MAXIMUM_FACTS]


def _why_not_proposals(proposals: Sequence[ProposalPayload]) -> str | None:
    protocols = [proposal.protocol_id for proposal in proposals]
    if protocols not in ([ProtocolId.AH], [ProtocolId.ESP], [ProtocolId.AH, ProtocolId.ESP]):
        if len(protocols) > 1:
            return "several protocols at once, and not AH with ESP"
        return f"protocol {protocols[0]}"
    for proposal in proposals:
        if len(proposal.spi) != 4 or int.from_bytes(proposal.spi, "big") < MINIMUM_SPI:
            return "the SPI is reserved or not 4 bytes long"
    return None


def _combinations(proposals: Sequence[ProposalPayload]) -> Iterator[tuple[TransformPayload, ...]]:
    """Every choice of one transform per proposal, the peer's first ones first; at most
    `MAXIMUM_COMBINATIONS`."""
    return islice(product(*(proposal.transforms for proposal in proposals)), MAXIMUM_COMBINATIONS)


def _choice(
    offer: SecurityAssociationPayload,
    proposals: Sequence[ProposalPayload],
    transforms: Sequence[TransformPayload],
    parts: Sequence[_OfferedQuickMode],
    method: QuickModeProposal,
    spis: Sequence[int],
) -> QuickModeChoice:
    peer_seconds = min(part.seconds or DEFAULT_LIFETIME_SECONDS for part in parts)
    peer_kilobytes = min((part.kilobytes for part in parts if part.kilobytes), default=None)
    seconds = min(method.lifetime_seconds, peer_seconds)
    kilobytes = min(method.lifetime_kilobytes, peer_kilobytes or method.lifetime_kilobytes)
    answers = [
        ProposalPayload(proposal.number, proposal.protocol_id, spi.to_bytes(4, "big"), (transform,))
        for proposal, transform, spi in zip(proposals, transforms, spis, strict=True)
    ]
    if len(answers) > 1 and offer.proposals.index(proposals[0]) > offer.proposals.index(proposals[1]):
        answers.reverse()  # as they were offered
    if (method.lifetime_seconds, method.lifetime_kilobytes) != (seconds, kilobytes):
        method = replace(method, lifetime_seconds=seconds, lifetime_kilobytes=kilobytes)
    main, group_number = proposals[-1], parts[-1].group_number
    return QuickModeChoice(
        method,
        ProtocolId.AH if main.protocol_id == ProtocolId.AH else ProtocolId.ESP,
        None if group_number is None else group_from_number(group_number),
        int.from_bytes(main.spi, "big"),
        SecurityAssociationPayload(offer.doi, offer.situation, tuple(answers)),
        seconds < peer_seconds or kilobytes < (peer_kilobytes or kilobytes),
        int.from_bytes(proposals[0].spi, "big") if len(proposals) > 1 else 0,
    )


def check_quick_mode_choice(
    reply: SecurityAssociationPayload,
    policy: QuickModePolicy,
    group: Group | None,
    key_exchange: bool,
    encapsulation: EncapsulationMode | None = None,
) -> QuickModeChoice | Reason:
    """What the responder chose, if it is one thing and one that we offered. `group` is the one that we
    offered; `key_exchange` whether the answer has a KE payload."""
    numbers = {proposal.number for proposal in reply.proposals}
    if len(numbers) != 1 or any(len(proposal.transforms) != 1 for proposal in reply.proposals):
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "the peer chose more than one transform")
    choice = choose_quick_mode(reply, QuickModeTerms(policy, group, key_exchange, encapsulation), 0)
    if isinstance(choice, Reason):
        return Reason(ReasonCode.NO_PROPOSAL_CHOSEN, "the peer chose what was not offered", choice.facts)
    if choice.group is not group:
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "the peer chose a group that was not offered")
    return choice
