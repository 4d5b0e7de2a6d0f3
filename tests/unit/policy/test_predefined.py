"""The three predefined policies."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.model.filters import Action, Direction
from stockade.model.negotiation import DEFAULT_MAIN_MODE_PROPOSALS, Kerberos
from stockade.model.traffic import ICMP, Flow
from stockade.policy.compiler import compile_table
from stockade.policy.objects import now
from stockade.policy.predefined import (
    CLIENT,
    SECURE_SERVER,
    SERVER,
    predefined_names,
    predefined_set,
)

ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
IN, OUT = Direction.INBOUND, Direction.OUTBOUND


def assigned(name):
    found = predefined_set()
    return replace(found, policies=tuple(replace(one, assigned=one.name == name) for one in found.policies))


def test_nothing_is_assigned_and_every_rule_finds_its_objects():
    found = predefined_set()
    assert [one.name for one in found.policies] == [SERVER, CLIENT, SECURE_SERVER]
    assert set(predefined_names()) == {one.name for one in found.policies}
    assert found.assigned is None
    for policy in found.policies:
        assert policy.main_mode_methods == DEFAULT_MAIN_MODE_PROPOSALS
        assert (policy.polling_minutes, policy.main_mode_minutes) == (180, 480)
        assert not policy.master_pfs
        for rule in policy.rules:
            assert rule.authentication == (Kerberos(),)
            if not rule.is_default_response:
                assert found.filter_list(rule.filter_list)
                assert found.filter_action(rule.filter_action)


def test_guids_are_those_of_the_original_objects_and_unique():
    found = predefined_set()
    assert str(found.policy(CLIENT).guid) == "72385236-70fa-11d1-864c-14a300000000"
    objects = [*found.policies, *found.filter_lists, *found.filter_actions]
    objects += [rule for policy in found.policies for rule in policy.rules]
    assert len({one.guid for one in objects}) == len(objects) == 15


def test_the_time_of_the_last_change_can_be_given():
    when = now()
    found = predefined_set(when)
    assert {one.modified for one in (*found.policies, *found.filter_lists, *found.filter_actions)} == {when}


def test_the_client_speaks_in_clear_and_answers():
    table = compile_table([assigned(CLIENT)], [ME])
    assert table.filters == ()
    assert len(table.negotiations[table.default_response].quick_mode.proposals) == 6


@pytest.mark.parametrize(("name", "soft"), [(SERVER, True), (SECURE_SERVER, False)])
def test_the_servers_secure_all_but_icmp_and_accept_a_clear_packet(name, soft):
    table = compile_table([assigned(name)], [ME])
    out = table.lookup(Flow(ME, PEER, 6, 1024, 80), OUT)
    back = table.lookup(Flow(PEER, ME, 6, 80, 1024), IN)
    assert out.action is back.action is Action.NEGOTIATE
    assert out.allow_soft is soft
    assert back.accept_clear
    assert table.lookup(Flow(ME, PEER, ICMP), OUT).action is Action.PERMIT
    methods = table.negotiations[out.negotiation].quick_mode.proposals
    assert [str(method) for method in methods] == (
        [
            "ESP[3DES,SHA1]:100000k/900s",
            "ESP[DES,SHA1]:100000k/900s",
            "AH[SHA1]:100000k/300s",
            "AH[MD5]:100000k/300s",
        ]
        if soft
        else [
            "ESP[3DES,SHA1]:100000k/900s",
            "ESP[3DES,MD5]:100000k/900s",
            "ESP[DES,SHA1]:100000k/900s",
            "ESP[DES,MD5]:100000k/900s",
        ]
    )
    assert table.warnings == ()
