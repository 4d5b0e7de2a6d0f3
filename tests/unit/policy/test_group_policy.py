"""Which group policy object brings its IPsec policy to a computer."""

import random
from dataclasses import replace

import pytest

from stockade.policy.group_policy import (
    Container,
    ContainerKind,
    GpoLink,
    GroupPolicyObject,
    Standing,
    parse_links,
    place_in_tree,
    resultant,
)

DOMAIN = "DC=lab,DC=test"
POLICIES = f"CN=Policies,CN=System,{DOMAIN}"


def gpo(name: str, **facts) -> GroupPolicyObject:
    facts.setdefault("pointer", f"CN=ipsecPolicy of {name}")
    return GroupPolicyObject(f"CN={name},{POLICIES}", name, **facts)


def link(name: str, **facts) -> GpoLink:
    return GpoLink(f"cn={name.upper()}, {POLICIES}", **facts)  # written otherwise than the object's own DN


def tree(*links: tuple[GpoLink, ...], blocks: tuple[int, ...] = ()) -> tuple[Container, ...]:
    """Site, domain, OU, OU below: with these links."""
    kinds = (ContainerKind.SITE, ContainerKind.DOMAIN, ContainerKind.UNIT, ContainerKind.UNIT)
    names = ("CN=Home", DOMAIN, f"OU=Servers,{DOMAIN}", f"OU=Web,OU=Servers,{DOMAIN}")
    return tuple(
        Container(name, kind, entries, place in blocks)
        for place, (name, kind, entries) in enumerate(zip(names, kinds, links, strict=True))
    )


def standing(containers, *objects) -> dict[str, Standing]:
    return {one.gpo.name: one.standing for one in resultant(containers, objects).considered}


def winner(containers, *objects) -> str | None:
    found = resultant(containers, objects).winner
    return found.gpo.name if found else None


SITE, ROOT, OUTER, INNER = gpo("site"), gpo("root"), gpo("outer"), gpo("inner")
ALL = (SITE, ROOT, OUTER, INNER)
EVERYWHERE = tree((link("site"),), (link("root"),), (link("outer"),), (link("inner"),))


def test_the_nearest_object_wins_and_nothing_is_merged():
    assert winner(EVERYWHERE, *ALL) == "inner"
    considered = resultant(EVERYWHERE, ALL).considered
    assert [one.gpo.name for one in considered] == ["inner", "outer", "root", "site"]
    assert [one.precedence for one in considered] == [1, 2, 3, 4]
    assert {one.standing for one in considered[1:]} == {Standing.OVERRIDDEN}
    assert "inner" in considered[1].why


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"pointer": ""}, Standing.NO_IPSEC_POLICY),
        ({"computer_disabled": True}, Standing.COMPUTER_DISABLED),
        ({"permitted": False}, Standing.FILTERED),
        ({"readable": False}, Standing.NOT_READABLE),
        ({"wmi_filter": "[lab.test;{…};0]"}, Standing.WMI_FILTER),
        ({"has_extension": False}, Standing.NO_EXTENSION),
        ({"supported": False}, Standing.UNSUPPORTED),
    ],
)
def test_an_object_that_does_not_count_says_why_and_the_next_one_wins(facts, reason):
    objects = (SITE, ROOT, OUTER, replace(INNER, **facts))
    assert winner(EVERYWHERE, *objects) == "outer"
    judged = resultant(EVERYWHERE, objects).considered[0]
    assert judged.standing is reason
    assert judged.why
    assert judged.precedence == 0


def test_a_disabled_link_does_not_count():
    assert winner(tree((), (link("root"),), (), (link("inner", disabled=True),)), ROOT, INNER) == "root"


def test_link_order_one_is_stronger_than_two():
    containers = tree((), (), (), (link("inner"), link("outer")))
    assert winner(containers, OUTER, INNER) == "inner"


def test_blocked_inheritance_keeps_out_what_comes_from_above_but_not_its_own():
    containers = tree((link("site"),), (link("root"),), (link("outer"),), (), blocks=(2,))
    assert winner(containers, *ALL) == "outer"
    assert standing(containers, *ALL)["root"] is Standing.BLOCKED
    containers = tree((link("site"),), (link("root"),), (link("outer"),), (), blocks=(3,))
    assert winner(containers, *ALL) is None
    assert set(standing(containers, *ALL).values()) == {Standing.BLOCKED}


def test_an_enforced_link_passes_a_block_and_overrides_those_below():
    containers = tree((), (link("root", enforced=True),), (link("outer"),), (link("inner"),), blocks=(3,))
    assert winner(containers, *ALL) == "root"
    assert standing(containers, *ALL)["outer"] is Standing.BLOCKED
    assert standing(containers, *ALL)["inner"] is Standing.OVERRIDDEN


def test_of_enforced_links_the_one_nearest_to_the_root_wins():
    containers = tree((), (link("root", enforced=True),), (link("outer", enforced=True),), ())
    assert winner(containers, *ALL) == "root"
    containers = tree((link("site", enforced=True),), (link("root", enforced=True),), (), ())
    assert winner(containers, *ALL) == "site"


def test_an_enforced_link_that_is_disabled_enforces_nothing():
    containers = tree((), (link("root", enforced=True, disabled=True),), (), (link("inner"),))
    assert winner(containers, *ALL) == "inner"


def test_a_link_to_an_object_that_is_not_there_is_told():
    containers = tree((), (link("gone"),), (), (link("inner"),))
    assert resultant(containers, (INNER,)).considered[1].standing is Standing.NOT_READABLE


def test_without_any_assigned_policy_there_is_no_winner():
    assert winner(EVERYWHERE, *(replace(one, pointer="") for one in ALL)) is None
    assert winner(tree((), (), (), ()), *ALL) is None


def test_the_order_of_precedence_is_that_of_a_slow_second_judge():
    """Applied one after the other, as a client does: site, domain, units; enforced ones again, the root
    last."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300):
        names = [f"g{number}" for number in range(8)]
        links = tuple(
            tuple(
                link(name, disabled=chance.random() < 0.2, enforced=chance.random() < 0.3)
                for name in chance.sample(names, chance.randrange(4))
            )
            for _ in range(4)
        )
        containers = tree(*links, blocks=tuple(place for place in range(1, 4) if chance.random() < 0.3))
        objects = tuple(gpo(name, pointer="p" if chance.random() < 0.6 else "") for name in names)
        assigned = {one.name.casefold() for one in objects if one.pointer}
        last = None
        for enforced in (False, True):
            for place in range(4) if not enforced else (3, 2, 1, 0):
                blocked = any(one.blocks_inheritance for one in containers[place + 1 :])
                for one in reversed(containers[place].links):
                    name = one.gpo.partition(",")[0][3:].casefold()
                    if one.disabled or one.enforced != enforced or (blocked and not enforced):
                        continue
                    last = name if name in assigned else last
        assert winner(containers, *objects) == last


def test_links_are_read_with_the_last_of_the_text_first():
    text = f"[LDAP://cn=one,{POLICIES};0][ldap://CN=two,{POLICIES};1] [LDAP://CN=three,{POLICIES};2]"
    three, two, one = parse_links(text)
    assert (three.gpo, three.enforced, three.disabled) == (f"CN=three,{POLICIES}", True, False)
    assert (two.disabled, one.disabled, one.enforced) == (True, False, False)
    assert parse_links(" ") == ()


@pytest.mark.parametrize(
    "text",
    ["[", "LDAP://x;0", "[LDAP://x]", "[LDAP://x;]", "[http://x;0]", "[LDAP://x;zwei]", "[LDAP://x;0]x"],
)
def test_links_that_cannot_be_read_are_an_error(text):
    with pytest.raises(ValueError, match="gPLink"):
        parse_links(text)


def test_the_place_of_a_computer_is_read_from_its_name():
    dn = r"CN=web\,1,OU=Web,OU=Servers,dc=LAB,dc=test"
    assert place_in_tree(dn, DOMAIN) == (
        "dc=LAB,dc=test",
        "OU=Servers,dc=LAB,dc=test",
        "OU=Web,OU=Servers,dc=LAB,dc=test",
    )
    with pytest.raises(ValueError, match="is not in the domain"):
        place_in_tree("CN=x,DC=other,DC=test", DOMAIN)
