"""Filter actions: negotiation-policy objects ⇄ `FilterAction` ([MS-GPIPSEC] §2.2.1.3).

    action GUID permit, block                  -> permit, block; offers do not count
    negotiate                                  -> negotiate
    negotiate with inbound pass-through        -> negotiate, inpass
    a last offer without algorithms            -> soft
    PFS-QM-Required not 0 in any offer         -> session PFS

The specification's table for PFS says the opposite; every predefined policy, whose window shows it off, holds
0."""

from dataclasses import dataclass

from stockade.model.filters import Action
from stockade.model.reasons import ReasonCode
from stockade.model.suites import EspSuite, Hash, QuickModeProposal
from stockade.policy.objects import FilterAction, now
from stockade.store.formats import numbers
from stockade.store.formats.conversion.names import Names, description_of
from stockade.store.formats.ipsec_data.negotiation import (
    OFFER_AH,
    OFFER_ESP,
    AlgorithmOffer,
    NegotiationData,
    SecurityOffer,
)
from stockade.store.formats.numbers import EspNumbers
from stockade.store.formats.objects import (
    ACTION_BLOCK,
    ACTION_NEGOTIATE,
    ACTION_NEGOTIATE_INBOUND_PASS,
    ACTION_PERMIT,
    STANDARD_TYPE,
    IpsecObject,
    ObjectClass,
    Reference,
    guid_text,
)
from stockade.store.formats.problems import Problems

_ACTIONS = {
    ACTION_PERMIT: (Action.PERMIT, False),
    ACTION_BLOCK: (Action.BLOCK, False),
    ACTION_NEGOTIATE: (Action.NEGOTIATE, False),
    ACTION_NEGOTIATE_INBOUND_PASS: (Action.NEGOTIATE, True),
}
_ACTION_GUIDS = {pair: guid for guid, pair in _ACTIONS.items()}
_LARGEST = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Offers:
    """What a negotiation blob says."""

    methods: tuple[QuickModeProposal, ...]
    soft: bool
    session_pfs: bool


def read_offers(data: NegotiationData, where: str, reading: EspNumbers, problems: Problems) -> Offers:
    """The offers that are known here; others are losses."""
    methods: list[QuickModeProposal] = []
    soft = False
    pfs: set[bool] = set()
    doubtful = False
    for position, offer in enumerate(data.offers, 1):
        if offer.count == 0:
            soft = True
            if position != len(data.offers):
                problems.note("the offer that allows clear traffic is not the last one", where)
            continue
        pfs.add(offer.perfect_forward_secrecy != 0)
        doubtful = doubtful or any(
            record.offer_type == OFFER_ESP and record.algorithm == numbers.ESP_CIPHER_IN_DOUBT
            for record in offer.algorithms
        )
        try:
            methods.append(_method(offer, reading))
        except ValueError as error:
            problems.loss(ReasonCode.NOT_EXPRESSIBLE, f"quick-mode method {position}: {error}", where)
    if len(pfs) == 2:
        problems.note("only some of its methods ask for session PFS; here all of them do", where)
    if doubtful:
        meant = numbers.esp_cipher(numbers.ESP_CIPHER_IN_DOUBT, reading)
        problems.note(f"ESP cipher 1, on which sources disagree, is read as {meant}", where)
    return Offers(tuple(methods), soft, True in pfs)


def _method(offer: SecurityOffer, reading: EspNumbers) -> QuickModeProposal:
    if offer.count > len(offer.records):
        raise ValueError(f"{offer.count} protocols in one offer, at most 3 are possible")
    esp: EspSuite | None = None
    ah: Hash | None = None
    for record in offer.algorithms:
        if record.offer_type == OFFER_AH and ah is None:
            ah = _hash(record.algorithm)
        elif record.offer_type == OFFER_ESP and esp is None:
            cipher = numbers.esp_cipher(record.algorithm, reading)
            if cipher is None:
                raise ValueError(f"ESP cipher {record.algorithm} is not known")
            esp = EspSuite(cipher, None if record.integrity == 0 else _hash(record.integrity))
        elif record.offer_type in (OFFER_AH, OFFER_ESP):
            raise ValueError("the same protocol twice in one offer")
        else:
            raise ValueError(f"protocol {record.offer_type} is neither AH (1) nor ESP (2)")
    usual = QuickModeProposal(ah=Hash.SHA1)
    return QuickModeProposal(
        esp,
        ah,
        offer.lifetime_seconds or usual.lifetime_seconds,
        offer.lifetime_kilobytes or usual.lifetime_kilobytes,
    )


def _hash(number: int) -> Hash:
    found = numbers.HASHES.get(number)
    if found is None:
        raise ValueError(f"hash {number} is not known")
    return found


def read_filter_action(
    entry: IpsecObject, data: NegotiationData, names: Names, reading: EspNumbers, problems: Problems
) -> FilterAction | None:
    """The filter action of the object and its blob, or None (with a loss)."""
    meaning = _ACTIONS.get(entry.negotiation_action) if entry.negotiation_action else None
    if meaning is None:
        problems.loss(
            ReasonCode.NOT_EXPRESSIBLE,
            "it says no action"
            if entry.negotiation_action is None
            else f"action {guid_text(entry.negotiation_action)} is not known",
            entry.label,
        )
        return None
    action, inpass = meaning
    offers = (
        read_offers(data, entry.label, reading, problems)
        if action is Action.NEGOTIATE
        else Offers((), False, False)
    )
    if action is Action.NEGOTIATE and not offers.methods:
        problems.loss(ReasonCode.NOT_EXPRESSIBLE, "it negotiates, but has no method known here", entry.label)
        return None
    return FilterAction(
        names.claim(entry.name, f"Filter action {guid_text(entry.guid)}", entry.label, problems),
        action,
        offers.methods,
        inpass,
        offers.soft,
        offers.session_pfs,
        description_of(entry.description, entry.label, problems),
        entry.guid,
        entry.changed or now(),
    )


def write_offers(
    methods: tuple[QuickModeProposal, ...],
    *,
    soft: bool,
    session_pfs: bool,
    where: str,
    reading: EspNumbers,
    problems: Problems,
) -> NegotiationData:
    """The offers as a blob; methods that it cannot hold are losses."""
    offers = []
    for method in methods:
        records = _records(method, reading)
        if records is None:
            problems.loss(ReasonCode.NOT_EXPRESSIBLE, f"quick-mode method {method}", where)
            continue
        spare = AlgorithmOffer()
        first, second, third = (*records, spare, spare, spare)[:3]
        offers.append(
            SecurityOffer(
                min(method.lifetime_seconds, _LARGEST),
                min(method.lifetime_kilobytes, _LARGEST),
                0,
                int(session_pfs),
                len(records),
                (first, second, third),
            )
        )
    if soft:
        offers.append(SecurityOffer())
    return NegotiationData(tuple(offers))


def _records(method: QuickModeProposal, reading: EspNumbers) -> tuple[AlgorithmOffer, ...] | None:
    records = []
    if method.extended_sequence:
        return None
    if method.ah is not None:
        number = numbers.HASH_NUMBERS.get(method.ah) if isinstance(method.ah, Hash) else None
        if number is None:
            return None
        records.append(AlgorithmOffer(number, 0, OFFER_AH))
    if method.esp is not None:
        cipher = numbers.esp_cipher_number(method.esp.encryption, reading)
        integrity = 0 if method.esp.integrity is None else numbers.HASH_NUMBERS.get(method.esp.integrity)
        if cipher is None or integrity is None:
            return None
        records.append(AlgorithmOffer(cipher, integrity, OFFER_ESP))
    return tuple(records)


def action_guid_parts(action: FilterAction) -> tuple[Action, bool]:
    """The pair that the action GUID says: `inpass` counts only where it negotiates."""
    return action.action, action.inpass and action.action is Action.NEGOTIATE


def write_filter_action(
    action: FilterAction, owners: tuple[Reference, ...], reading: EspNumbers, problems: Problems
) -> IpsecObject:
    """The filter action as an object."""
    negotiates = action.action is Action.NEGOTIATE
    data = write_offers(
        action.methods if negotiates else (),
        soft=action.soft and negotiates,
        session_pfs=action.session_pfs,
        where=f"filter action “{action.name}”",
        reading=reading,
        problems=problems,
    )
    return IpsecObject(
        ObjectClass.NEGOTIATION_POLICY,
        action.guid,
        action.name,
        action.description,
        data.encode(),
        changed=action.modified,
        owners=owners,
        negotiation_type=STANDARD_TYPE,
        negotiation_action=_ACTION_GUIDS[action_guid_parts(action)],
    )
