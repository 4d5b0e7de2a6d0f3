"""Offers, choices and refusals, without an exchange around them."""

import itertools
from dataclasses import replace

import pytest

from stockade.ike.auth.preshared_key import PresharedKeyMethod
from stockade.ike.v1.main_mode_proposals import (
    MainModeCandidate,
    MainModeChoice,
    check_main_mode_choice,
    choose_main_mode,
    main_mode_offer,
)
from stockade.ike.v1.quick_mode_proposals import (
    QuickModeChoice,
    QuickModeTerms,
    check_quick_mode_choice,
    choose_quick_mode,
    offered_methods,
    quick_mode_offer,
)
from stockade.model.negotiation import (
    MainModePolicy,
    Negotiation,
    PresharedKey,
    QuickModePolicy,
)
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import (
    Encryption,
    EspSuite,
    Gmac,
    Group,
    Hash,
    MainModeProposal,
    QuickModeProposal,
)
from stockade.wire.isakmp.constants import EncapsulationMode, IkeAttribute, IpsecAttribute
from stockade.wire.isakmp.payloads import (
    Attribute,
    ProposalPayload,
    SecurityAssociationPayload,
    TransformPayload,
)

AES = MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_256, Group.ECP_256)
DES3 = MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024)
ESP_AES = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1))
ESP_GCM = QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None))
AH = QuickModeProposal(ah=Hash.SHA_256)
BOTH = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, None), Hash.SHA1)
SPI, PEER_SPI, AH_SPI = 0x11223344, 0x55667788, 0x99AABBCC


def candidates(*proposals: MainModeProposal, lifetime: int = 28_800) -> list[MainModeCandidate]:
    key = PresharedKey(Secret(b"key"))
    rule = Negotiation("n", MainModePolicy(proposals), QuickModePolicy((ESP_AES,)), (key,))
    method = PresharedKeyMethod(key)
    return [MainModeCandidate(proposal, method, lifetime, rule) for proposal in proposals]


def terms(*proposals: QuickModeProposal, group: Group | None = None, ke: bool = False) -> QuickModeTerms:
    return QuickModeTerms(QuickModePolicy(proposals), group, ke)


def change_transform(
    sa: SecurityAssociationPayload, number: int, *attributes: Attribute, drop: int | None = None
) -> SecurityAssociationPayload:
    """The SA with attributes added to (one type dropped from) transform `number` of its first proposal."""
    proposal = sa.proposals[0]
    transforms = list(proposal.transforms)
    old = transforms[number - 1]
    kept = tuple(entry for entry in old.attributes if entry.type != drop)
    transforms[number - 1] = replace(old, attributes=kept + attributes)
    return replace(sa, proposals=(replace(proposal, transforms=tuple(transforms)), *sa.proposals[1:]))


def test_main_mode_offer_survives_the_wire_and_is_chosen_unmodified() -> None:
    offer = main_mode_offer(candidates(AES, DES3))
    transforms = offer.proposals[0].transforms
    assert [transform.number for transform in transforms] == [1, 2]
    choice = choose_main_mode(offer, candidates(DES3))
    assert isinstance(choice, MainModeChoice)
    assert choice.candidate.proposal == DES3
    assert choice.reply.proposals[0].transforms == (transforms[1],)


def test_aes_carries_its_key_length_and_des_must_not() -> None:
    offer = main_mode_offer(candidates(AES, DES3))
    lengths = [
        [entry.number for entry in transform.attributes if entry.type == IkeAttribute.KEY_LENGTH]
        for transform in offer.proposals[0].transforms
    ]
    assert lengths == [[256], []]


def test_unknown_attribute_does_not_abort_and_is_echoed() -> None:
    strange = Attribute(20_000, b"new")
    offer = change_transform(main_mode_offer(candidates(AES)), 1, strange)
    choice = choose_main_mode(offer, candidates(AES))
    assert isinstance(choice, MainModeChoice)
    assert strange in choice.reply.proposals[0].transforms[0].attributes


def test_attribute_with_two_values_is_no_offer() -> None:
    extra = Attribute(IkeAttribute.GROUP_DESCRIPTION, 2)
    refusal = choose_main_mode(change_transform(main_mode_offer(candidates(AES)), 1, extra), candidates(AES))
    assert isinstance(refusal, Reason)
    assert "two values" in str(refusal)


def test_authentication_method_that_we_lack() -> None:
    offer = change_transform(
        main_mode_offer(candidates(AES)),
        1,
        Attribute(IkeAttribute.AUTHENTICATION_METHOD, 3),
        drop=IkeAttribute.AUTHENTICATION_METHOD,
    )
    refusal = choose_main_mode(offer, candidates(AES))
    assert isinstance(refusal, Reason)
    assert refusal.facts == (("offer 1 AES256-SHA256-ECP256:", "authentication 3, we have preshared-key"),)


def test_refusal_lists_at_most_sixteen_offers_and_counts_the_rest() -> None:
    suites = itertools.product(
        (Encryption.DES_CBC, Encryption.AES_CBC_192, Encryption.AES_CBC_256),
        (Hash.MD5, Hash.SHA1, Hash.SHA_256, Hash.SHA_384),
        (Group.MODP_768, Group.MODP_1024, Group.MODP_2048, Group.ECP_384),
    )
    offer = main_mode_offer(candidates(*[MainModeProposal(*suite) for suite in suites][:40]))
    refusal = choose_main_mode(offer, candidates(AES))
    assert isinstance(refusal, Reason)
    assert refusal.code is ReasonCode.NO_PROPOSAL_CHOSEN
    assert len(refusal.facts) == 17
    assert refusal.facts[-1] == ("offers not listed:", "24")


def test_several_keys_for_one_proposal_are_one_offer() -> None:
    offer = main_mode_offer([*candidates(AES), *candidates(AES), *candidates(DES3)])
    assert [transform.number for transform in offer.proposals[0].transforms] == [1, 2]


def test_initiator_refuses_what_it_did_not_offer() -> None:
    ours = candidates(AES)
    assert isinstance(check_main_mode_choice(main_mode_offer(ours), ours), MainModeChoice)
    assert isinstance(check_main_mode_choice(main_mode_offer(candidates(DES3)), ours), Reason)
    two = check_main_mode_choice(main_mode_offer(candidates(AES, DES3)), ours)
    assert isinstance(two, Reason)
    assert "more than one" in str(two)


@pytest.mark.parametrize(("ours", "theirs", "agreed"), [(100, 200, 100), (200, 100, 100)])
def test_lesser_main_mode_lifetime(ours: int, theirs: int, agreed: int) -> None:
    choice = choose_main_mode(
        main_mode_offer(candidates(AES, lifetime=theirs)), candidates(AES, lifetime=ours)
    )
    assert isinstance(choice, MainModeChoice)
    assert choice.lifetime_seconds == agreed


def test_foreign_domain_of_interpretation_and_situation() -> None:
    offer = main_mode_offer(candidates(AES))
    for changed in (replace(offer, doi=2), replace(offer, situation=0)):
        assert isinstance(choose_main_mode(changed, candidates(AES)), Reason)


def test_quick_mode_offer_groups_runs_of_one_protocol_and_keeps_the_order() -> None:
    offer = quick_mode_offer(QuickModePolicy((ESP_AES, ESP_GCM, AH, ESP_AES)), SPI, None)
    shape = [(p.number, p.protocol_id, len(p.transforms)) for p in offer.proposals]
    assert shape == [(1, 3, 2), (2, 2, 1), (3, 3, 1)]
    assert {p.spi for p in offer.proposals} == {SPI.to_bytes(4, "big")}


def test_ah_over_esp_is_two_proposals_of_one_number_with_a_spi_each() -> None:
    offer = quick_mode_offer(QuickModePolicy((ESP_AES, BOTH, ESP_AES, AH)), SPI, None, ah_spi=AH_SPI)
    shape = [(p.number, int(p.protocol_id), p.spi, len(p.transforms)) for p in offer.proposals]
    ours, header = SPI.to_bytes(4, "big"), AH_SPI.to_bytes(4, "big")
    assert shape == [(1, 3, ours, 1), (2, 2, header, 1), (2, 3, ours, 1), (3, 3, ours, 1), (4, 2, ours, 1)]
    esp = offer.proposals[2].transforms[0]
    assert not [a for a in esp.attributes if a.type == IpsecAttribute.AUTHENTICATION_ALGORITHM]


def test_ah_over_esp_is_chosen_whole_or_not_at_all() -> None:
    offer = quick_mode_offer(QuickModePolicy((BOTH, ESP_AES)), PEER_SPI, None, ah_spi=AH_SPI)
    choice = choose_quick_mode(offer, terms(BOTH), SPI, 0x200)
    assert isinstance(choice, QuickModeChoice)
    assert (choice.proposal.esp, choice.proposal.ah) == (BOTH.esp, BOTH.ah)
    assert (choice.peer_spi, choice.peer_ah_spi) == (PEER_SPI, AH_SPI)
    assert [p.spi for p in choice.reply.proposals] == [(0x200).to_bytes(4, "big"), SPI.to_bytes(4, "big")]
    assert isinstance(
        check_quick_mode_choice(choice.reply, QuickModePolicy((BOTH,)), None, False), QuickModeChoice
    )
    alone = choose_quick_mode(offer, terms(ESP_AES), SPI)
    assert isinstance(alone, QuickModeChoice)
    assert alone.proposal.ah is None
    assert alone.peer_ah_spi == 0
    half = replace(offer, proposals=offer.proposals[1:2])  # ESP without integrity, and no AH beside it
    assert isinstance(choose_quick_mode(half, terms(BOTH, ESP_AES), SPI), Reason)


@pytest.mark.parametrize(
    "method",
    [
        *(QuickModeProposal(EspSuite(entry, None)) for entry in Encryption if entry.is_aead),
        *(QuickModeProposal(ah=entry) for entry in Gmac),
        QuickModeProposal(EspSuite(Encryption.AES_CBC_128, None), Gmac.AES_GMAC_192),
    ],
    ids=str,
)
def test_every_combined_mode_and_gmac_is_offered_and_chosen(method: QuickModeProposal) -> None:
    everything = (*(QuickModeProposal(ah=entry) for entry in (*Hash, *Gmac)), ESP_AES, ESP_GCM, method)
    offer = quick_mode_offer(QuickModePolicy(everything), PEER_SPI, None, ah_spi=AH_SPI)
    choice = choose_quick_mode(offer, terms(method), SPI, 0x200)
    assert isinstance(choice, QuickModeChoice)
    assert (choice.proposal.esp, choice.proposal.ah) == (method.esp, method.ah)
    assert type(choice.proposal.ah) is type(method.ah)


def test_several_transforms_of_ah_and_esp_are_combined() -> None:
    wanted = QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, None), Hash.SHA_256)
    sha1 = quick_mode_offer(QuickModePolicy((BOTH,)), PEER_SPI, None, ah_spi=AH_SPI).proposals
    other = quick_mode_offer(QuickModePolicy((wanted,)), PEER_SPI, None, ah_spi=AH_SPI).proposals
    both = [
        replace(one, transforms=(*one.transforms, *two.transforms))
        for one, two in zip(sha1, other, strict=True)
    ]
    offer = SecurityAssociationPayload(1, 1, tuple(both))
    choice = choose_quick_mode(offer, terms(wanted), SPI, 0x200)
    assert isinstance(choice, QuickModeChoice)
    assert [p.transforms for p in choice.reply.proposals] == [p.transforms for p in other]
    refusal = choose_quick_mode(offer, terms(ESP_AES), SPI)
    assert isinstance(refusal, Reason)
    assert len(refusal.facts) == 4
    assert refusal.facts[0][0] == "offer 1 AH[SHA1]+ESP[AES128,None]:"


def test_two_proposals_of_one_number_that_are_not_ah_with_esp_are_refused() -> None:
    offer = quick_mode_offer(QuickModePolicy((ESP_AES,)), PEER_SPI, None)
    esp = offer.proposals[0]
    twice = replace(offer, proposals=(esp, replace(esp, spi=SPI.to_bytes(4, "big"))))
    refusal = choose_quick_mode(twice, terms(ESP_AES, AH), PEER_SPI)
    assert isinstance(refusal, Reason)
    assert "several protocols at once" in str(refusal)


def test_ah_is_neither_offered_nor_taken_where_there_is_a_nat() -> None:
    policy = QuickModePolicy((BOTH, AH, ESP_AES))
    mode = EncapsulationMode.UDP_TRANSPORT
    assert offered_methods(policy, mode) == (ESP_AES,)
    assert [p.protocol_id for p in quick_mode_offer(policy, SPI, None, mode).proposals] == [3]
    wrong = quick_mode_offer(QuickModePolicy((AH,)), PEER_SPI, None)
    kind = IpsecAttribute.ENCAPSULATION_MODE
    wrong = change_transform(wrong, 1, Attribute(kind, int(mode)), drop=kind)
    refusal = choose_quick_mode(wrong, QuickModeTerms(policy, None, False, mode), SPI)
    assert isinstance(refusal, Reason)
    assert "AH does not pass the NAT" in str(refusal)


def test_quick_mode_choice_has_the_lesser_lifetimes_and_says_when_ours_is_shorter() -> None:
    offer = quick_mode_offer(QuickModePolicy((ESP_AES,)), PEER_SPI, None)
    short = replace(ESP_AES, lifetime_seconds=60, lifetime_kilobytes=200_000)
    choice = choose_quick_mode(offer, terms(short), SPI)
    assert isinstance(choice, QuickModeChoice)
    assert (choice.proposal.lifetime_seconds, choice.proposal.lifetime_kilobytes) == (60, 100_000)
    assert choice.shortened
    assert choice.peer_spi == PEER_SPI
    assert choice.reply.proposals[0].spi == SPI.to_bytes(4, "big")
    same = choose_quick_mode(offer, terms(ESP_AES), SPI)
    assert isinstance(same, QuickModeChoice)
    assert not same.shortened


@pytest.mark.parametrize("spi", [b"", b"\0\0\0\x05", b"\0" * 8])
def test_reserved_or_odd_spi_is_refused(spi: bytes) -> None:
    offer = quick_mode_offer(QuickModePolicy((ESP_AES,)), PEER_SPI, None)
    offer = replace(offer, proposals=(replace(offer.proposals[0], spi=spi),))
    assert isinstance(choose_quick_mode(offer, terms(ESP_AES), SPI), Reason)


@pytest.mark.parametrize(
    ("offered", "required", "ke", "fits"),
    [
        (None, None, False, True),
        (None, None, True, False),
        (Group.ECP_256, None, True, True),
        (Group.ECP_256, None, False, False),
        (None, Group.ECP_256, False, False),
        (Group.MODP_1024, Group.ECP_256, True, False),
        (Group.ECP_256, Group.ECP_256, True, True),
    ],
)
def test_perfect_forward_secrecy_rules(
    offered: Group | None, required: Group | None, ke: bool, fits: bool
) -> None:
    offer = quick_mode_offer(QuickModePolicy((ESP_AES,)), PEER_SPI, offered)
    choice = choose_quick_mode(offer, terms(ESP_AES, group=required, ke=ke), SPI)
    assert isinstance(choice, QuickModeChoice) is fits


def test_initiator_refuses_a_group_that_it_did_not_offer() -> None:
    policy = QuickModePolicy((ESP_AES,))
    reply = quick_mode_offer(policy, PEER_SPI, Group.ECP_256)
    assert isinstance(check_quick_mode_choice(reply, policy, None, True), Reason)
    assert isinstance(check_quick_mode_choice(reply, policy, Group.ECP_256, True), QuickModeChoice)


def test_initiator_accepts_a_choice_with_a_shorter_lifetime() -> None:
    policy = QuickModePolicy((ESP_AES,))
    shorter = QuickModePolicy((replace(ESP_AES, lifetime_seconds=120),))
    choice = check_quick_mode_choice(quick_mode_offer(shorter, PEER_SPI, None), policy, None, False)
    assert isinstance(choice, QuickModeChoice)
    assert choice.proposal.lifetime_seconds == 120


def test_encapsulation_mode_must_be_named_and_ours() -> None:
    offer = quick_mode_offer(QuickModePolicy((ESP_AES,)), PEER_SPI, None)
    kind = IpsecAttribute.ENCAPSULATION_MODE
    for changed in (
        change_transform(offer, 1, drop=kind),
        change_transform(offer, 1, Attribute(kind, 1), drop=kind),
    ):
        refusal = choose_quick_mode(changed, terms(ESP_AES), SPI)
        assert isinstance(refusal, Reason)
        assert "encapsulation mode" in str(refusal)


def test_esp_without_integrity_is_refused() -> None:
    offer = quick_mode_offer(QuickModePolicy((ESP_AES,)), PEER_SPI, None)
    bare = change_transform(offer, 1, drop=IpsecAttribute.AUTHENTICATION_ALGORITHM)
    assert isinstance(choose_quick_mode(bare, terms(ESP_AES), SPI), Reason)


def test_extended_sequence_numbers_are_offered_and_taken_where_policy_asks_and_only_there() -> None:
    extended = replace(ESP_AES, extended_sequence=True)
    offers = {
        method: quick_mode_offer(QuickModePolicy((method,)), PEER_SPI, None) for method in (ESP_AES, extended)
    }
    for method, offer in offers.items():
        (transform,) = offer.proposals[0].transforms
        found = [a.number for a in transform.attributes if a.type == 11]  # RFC 4304
        assert found == ([1] if method is extended else [])
    for ours, theirs, fault in (
        (extended, extended, None),
        (ESP_AES, ESP_AES, None),
        (ESP_AES, extended, "which we have not"),
        (extended, ESP_AES, "which we insist on"),
    ):
        choice = choose_quick_mode(offers[theirs], terms(ours), SPI)
        if fault is None:
            assert isinstance(choice, QuickModeChoice)
            assert choice.proposal.extended_sequence is (ours is extended)
            assert choice.reply.proposals[0].transforms == offers[theirs].proposals[0].transforms
            assert isinstance(
                check_quick_mode_choice(choice.reply, QuickModePolicy((ours,)), None, False), QuickModeChoice
            )
        else:
            assert isinstance(choice, Reason)
            assert fault in str(choice)
    both = choose_quick_mode(offers[ESP_AES], terms(extended, ESP_AES), SPI)
    assert isinstance(both, QuickModeChoice)
    assert both.proposal == ESP_AES
    odd = change_transform(offers[ESP_AES], 1, Attribute(IpsecAttribute.EXTENDED_SEQUENCE_NUMBER, 7))
    assert "of kind 7" in str(choose_quick_mode(odd, terms(ESP_AES), SPI))


def test_a_responder_that_answers_with_other_numbers_than_offered_is_refused() -> None:
    extended = replace(ESP_AES, extended_sequence=True)
    offer = quick_mode_offer(QuickModePolicy((extended,)), PEER_SPI, None)
    choice = choose_quick_mode(offer, terms(extended), SPI)
    assert isinstance(choice, QuickModeChoice)
    without = change_transform(choice.reply, 1, drop=IpsecAttribute.EXTENDED_SEQUENCE_NUMBER)
    assert isinstance(check_quick_mode_choice(without, QuickModePolicy((extended,)), None, False), Reason)


def test_proposals_that_we_do_not_know_are_passed_over() -> None:
    good = quick_mode_offer(QuickModePolicy((ESP_AES,)), PEER_SPI, None)
    compression = ProposalPayload(7, 4, b"\1\2", (TransformPayload(1, 2),))
    blowfish = ProposalPayload(8, 3, PEER_SPI.to_bytes(4, "big"), (TransformPayload(1, 7),))
    offer = replace(good, proposals=(compression, blowfish, *good.proposals))
    assert isinstance(choose_quick_mode(offer, terms(ESP_AES), SPI), QuickModeChoice)
