"""Offers and choices of main mode (RFC 2409 §5 and Appendix A); what holds for both modes is in
`proposals.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stockade.crypto.registry import (
    encryption_algorithm,
    encryption_from_ike,
    group_from_number,
    hash_algorithm,
    hash_from_ike,
)
from stockade.ike.auth.method import AuthMethod
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
from stockade.model.negotiation import Negotiation
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import (
    Encryption,
    Group,
    Hash,
    MainModeProposal,
)
from stockade.wire.isakmp.constants import (
    AuthenticationMethodNumber,
    IkeAttribute,
    IsakmpTransform,
    LifeType,
    ProtocolId,
)
from stockade.wire.isakmp.payloads import (
    Attribute,
    ProposalPayload,
    SecurityAssociationPayload,
    TransformPayload,
)

MAXIMUM_TRANSFORMS = 64
_METHOD_NAMES = {int(one): one.name.lower().replace("_", "-") for one in AuthenticationMethodNumber}


@quickly_made
@dataclass(frozen=True, slots=True)
class MainModeCandidate:
    """One main mode that our policy allows: what we may offer, and what we accept."""

    proposal: MainModeProposal
    method: AuthMethod
    lifetime_seconds: int
    negotiation: Negotiation

    def __str__(self) -> str:
        return f"{self.proposal} by {self.method.name}, {self.lifetime_seconds} s"


@quickly_made
@dataclass(frozen=True, slots=True)
class MainModeChoice:
    """What both ends agree on; `reply` is the SA payload that says so. `offered`: the attributes of the
    peer's transform. `alternatives`: candidates that the transform fits as well, with other credentials; the
    number that is negotiated says nothing about which pre-shared key is meant."""

    candidate: MainModeCandidate
    lifetime_seconds: int
    reply: SecurityAssociationPayload
    offered: tuple[Attribute, ...] = ()
    alternatives: tuple[MainModeCandidate, ...] = ()
    offered_seconds: int | None = None

    def by(self, candidate: MainModeCandidate) -> "MainModeChoice":
        """The same choice where the peer turns out to mean another candidate, with its own lifetime."""
        seconds = min(candidate.lifetime_seconds, self.offered_seconds or candidate.lifetime_seconds)
        return replace(self, candidate=candidate, lifetime_seconds=seconds)


def main_mode_offer(candidates: Sequence[MainModeCandidate]) -> SecurityAssociationPayload:
    """One proposal with a transform per candidate, in order (RFC 2409 §5; at most 64)."""
    transforms: list[TransformPayload] = []
    offered: set[tuple[MainModeProposal, int]] = set()
    for candidate in candidates:
        what = (candidate.proposal, candidate.method.number)
        if what in offered or len(transforms) == MAXIMUM_TRANSFORMS:
            continue  # another credential for the same: which one is meant is not negotiated
        offered.add(what)
        cipher = encryption_algorithm(candidate.proposal.encryption)
        assert cipher.ike_id is not None
        attributes = [
            Attribute(IkeAttribute.ENCRYPTION_ALGORITHM, cipher.ike_id),
            Attribute(IkeAttribute.HASH_ALGORITHM, hash_algorithm(candidate.proposal.hash).ike_id),
            Attribute(IkeAttribute.GROUP_DESCRIPTION, candidate.proposal.group.number),
            Attribute(IkeAttribute.AUTHENTICATION_METHOD, candidate.method.number),
            *lifetime_attributes(
                IkeAttribute.LIFE_TYPE,
                LifeType.SECONDS,
                IkeAttribute.LIFE_DURATION,
                candidate.lifetime_seconds,
            ),
            *candidate.method.attributes,
        ]
        if cipher.key_length_attribute is not None:
            attributes.insert(1, Attribute(IkeAttribute.KEY_LENGTH, cipher.key_length_attribute))
        transforms.append(TransformPayload(len(transforms) + 1, IsakmpTransform.KEY_IKE, tuple(attributes)))
    return sa_payload([ProposalPayload(1, ProtocolId.ISAKMP, b"", tuple(transforms))])


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
    values = TransformAttributes(transform.attributes, IkeAttribute.LIFE_TYPE, IkeAttribute.LIFE_DURATION)
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


_read = Remembered(_read_main_mode)


def _why_not_main_mode(offered: _OfferedMainMode, candidates: Sequence[MainModeCandidate]) -> str:
    """The first thing that no candidate has as offered; empty if one fits."""
    if offered.fault:
        return offered.fault
    left = [entry for entry in candidates if entry.proposal.encryption is offered.encryption]
    if not left:
        return "encryption, we have " + listed(c.proposal.encryption.netsh_word for c in candidates)
    by_hash = [entry for entry in left if entry.proposal.hash is offered.hash]
    if not by_hash:
        return "hash, we have " + listed(c.proposal.hash.netsh_word for c in left)
    by_group = [entry for entry in by_hash if entry.proposal.group is offered.group]
    if not by_group:
        return "group, we have " + listed(c.proposal.group.netsh_word for c in by_hash)
    if all(entry.method.number != offered.method for entry in by_group):
        return f"authentication {offered.method}, we have " + listed(c.method.name for c in by_group)
    return ""


def _fitting(offered: _OfferedMainMode, candidates: Sequence[MainModeCandidate]) -> list[MainModeCandidate]:
    if offered.fault:
        return []
    wanted = (offered.encryption, offered.hash, offered.group, offered.method)
    return [
        entry
        for entry in candidates
        if (entry.proposal.encryption, entry.proposal.hash, entry.proposal.group, entry.method.number)
        == wanted
    ]


def _answered(transform: TransformPayload, candidate: MainModeCandidate) -> TransformPayload:
    """The transform as the responder returns it: as it came, but with our own name where it has the
    peer's."""
    own = {attribute.type: attribute for attribute in candidate.method.attributes}
    if not own:
        return transform
    attributes = tuple(own.get(attribute.type, attribute) for attribute in transform.attributes)
    return replace(transform, attributes=attributes)


def _method_name(number: int | None) -> str:
    """A method of authentication as a peer names it, in words where there are any."""
    return _METHOD_NAMES.get(number or 0, f"method {number}")


def judge_main_modes(
    offer: SecurityAssociationPayload, candidates: Sequence[MainModeCandidate]
) -> list[tuple[str, str]]:
    """Each transform offered, and the first thing of it that does not fit (empty: it fits). For the log."""
    judged = []
    for proposal in offer.proposals[:MAXIMUM_FACTS]:
        for transform in proposal.transforms[:MAXIMUM_FACTS]:
            offered = _read_main_mode(transform)
            why = _why_not_main_mode(offered, candidates)
            by = _method_name(offered.method)
            judged.append((f"{offered.description} by {by}, {offered.seconds} s", why))
    return judged[:MAXIMUM_FACTS]


def choose_main_mode(
    offer: SecurityAssociationPayload, candidates: Sequence[MainModeCandidate]
) -> MainModeChoice | Reason:
    """The responder's choice: the first offered transform that a candidate allows."""
    if (foreign := foreign_reason(offer)) is not None:
        return foreign
    whys: list[tuple[str, str]] = []
    for proposal in offer.proposals:
        if proposal.protocol_id != ProtocolId.ISAKMP:
            whys.append((f"protocol {proposal.protocol_id}", "not ISAKMP"))
            continue
        for transform in proposal.transforms:
            offered = _read(transform, transform)
            fitting = _fitting(offered, candidates)
            if not fitting:
                whys.append((offered.description, _why_not_main_mode(offered, candidates)))
                continue
            candidate = fitting[0]
            seconds = min(candidate.lifetime_seconds, offered.seconds or candidate.lifetime_seconds)
            # The SPI of an ISAKMP proposal means nothing (RFC 2408 §3.5) but is part of what was offered.
            answer = ProposalPayload(
                proposal.number, proposal.protocol_id, proposal.spi, (_answered(transform, candidate),)
            )
            reply = SecurityAssociationPayload(offer.doi, offer.situation, (answer,))
            others = tuple(fitting[1:])
            return MainModeChoice(candidate, seconds, reply, transform.attributes, others, offered.seconds)
    return refusal("none of the peer's main-mode offers fits", whys)


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
