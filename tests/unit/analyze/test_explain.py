import json
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from stockade.analyze import explain
from stockade.analyze.explain import Verdict, explain_flow
from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Direction, FilterTable
from stockade.model.negotiation import Kerberos, PresharedKey
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, QuickModeProposal
from stockade.model.traffic import Flow, TrafficSelector
from stockade.policy.compiler import compile_table
from stockade.policy.dynamic import with_responses
from stockade.policy.lookup import FilterTableLookup
from stockade.policy.objects import Filter, FilterAction, FilterAddress, Rule

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ME_TO_ANY = Filter(FilterAddress.me(), FilterAddress.any())
ME_TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(PEER))
TELNET = replace(ME_TO_PEER, protocol=6, destination_port=23)
GCM = QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None))
SECURE = FilterAction("secure", methods=(GCM,), session_pfs=True)


@dataclass(frozen=True)
class Pair:
    """The part of the engine's QuickModeView that an explanation needs."""

    selector: TrafficSelector
    negotiation: str
    filter_id: str
    inbound_spi: int = 0x1111
    outbound_spi: int = 0x2222
    peer: Address = PEER
    proposal: QuickModeProposal = GCM


def hosts(protocol=0):
    return TrafficSelector(AddressRange.host(ME), AddressRange.host(PEER), protocol)


@pytest.fixture
def table(policy_set):
    key = PresharedKey(Secret(b"a key that nobody may see"))
    return compile_table(
        [
            policy_set(
                ("all", ME_TO_ANY, SECURE, {"authentication": (Kerberos(), key)}),
                ("peer open", ME_TO_PEER, "permit"),
                ("no telnet", TELNET, "block"),
            )
        ],
        [ME],
    )


def test_no_filter_says_that_it_passes_in_clear():
    explanation = explain_flow(FilterTable(), Flow(ME, PEER, 6, 1, 2), OUT)
    assert explanation.verdict is Verdict.NO_FILTER
    assert explanation.reason.code is ReasonCode.NO_FILTER
    assert explanation.deciding is None
    assert explanation.return_verdict is Verdict.NO_FILTER
    assert explanation.lines()[0] == "outbound tcp 192.0.2.1:1 -> 192.0.2.2:2: no-filter"


def test_a_blocked_flow_names_its_filter_and_the_lighter_ones_with_the_reason_they_lost(table):
    explanation = explain_flow(table, Flow(ME, PEER, 6, 40000, 23), OUT)
    assert explanation.verdict is Verdict.BLOCK
    assert explanation.reason.code is ReasonCode.BLOCKED
    assert explanation.deciding.provenance.rule == "no telnet"
    assert explanation.weight[-2] == "the destination port is given"
    assert [(other.entry.provenance.rule, other.why) for other in explanation.shadowed] == [
        ("peer open", "it names a protocol"),
        ("all", "its addresses are more specific (64 against 32 of 64 bits)"),
    ]


def test_a_permitted_flow_has_no_negotiation(table):
    explanation = explain_flow(table, Flow(ME, PEER, 6, 40000, 22), OUT)
    assert explanation.verdict is Verdict.PERMIT
    assert explanation.reason.code is ReasonCode.PERMITTED
    assert explanation.negotiation is None
    assert explanation.sa is None


def test_a_secured_flow_tells_what_is_negotiated_but_no_key(table):
    other = ip_address("198.51.100.7")
    explanation = explain_flow(table, Flow(ME, other, 6, 40000, 80), OUT)
    assert explanation.verdict is Verdict.SECURE
    assert explanation.reason.code is ReasonCode.SECURED
    as_dict = explanation.as_dict()
    assert as_dict["negotiation"]["authentication"] == ["kerberos", "preshared-key"]
    assert as_dict["negotiation"]["quick_mode"]["methods"] == [str(GCM)]
    text = "\n".join(explanation.lines())
    assert "ESP[AESGCM256,None]:100000k/3600s" in text
    assert "perfect forward secrecy with the main-mode group" in text
    assert "SA         none yet" in text
    assert "held until the SA is up" in text
    for shown in (text, json.dumps(as_dict), repr(explanation)):
        assert "nobody may see" not in shown


def test_the_json_form_is_json_and_has_all_parts(table):
    as_dict = json.loads(json.dumps(explain_flow(table, Flow(ME, PEER, 6, 40000, 23), OUT).as_dict()))
    assert as_dict["verdict"] == "block"
    assert as_dict["reason"]["reason"] == "blocked"
    assert as_dict["filter"]["provenance"]["filter_list"] == "no telnet filters"
    assert as_dict["weight"] == as_dict["filter"]["weight"]
    assert len(as_dict["weight_explained"]) == 7
    assert as_dict["shadowed"][0]["why"] == "it names a protocol"
    assert as_dict["return_path"]["verdict"] == "block"
    assert as_dict["sa"] is None


def test_the_sa_that_carries_the_flow_is_the_one_of_the_deciding_rule(policy_set):
    table = compile_table([policy_set(("peer", ME_TO_PEER, SECURE))], [ME])
    flow = Flow(ME, PEER, 6, 40000, 80)
    entry = table.lookup(flow, OUT)
    right = Pair(hosts(), entry.negotiation, entry.id)
    wrong = [
        Pair(hosts(), "local/Office/other", entry.id, 1, 2),
        Pair(hosts(17), entry.negotiation, entry.id, 3, 4),
    ]
    assert explain_flow(table, flow, OUT, [*wrong, right]).sa.spi == 0x2222
    assert explain_flow(table, flow.reversed(), IN, [*wrong, right]).sa.spi == 0x1111
    assert explain_flow(table, flow, OUT, wrong).sa is None
    assert "0x00002222 with 192.0.2.2" in "\n".join(explain_flow(table, flow, OUT, [right]).lines())


def test_of_several_sas_the_newest_one_made_for_this_filter_carries_it(policy_set):
    table = compile_table([policy_set(("peer", ME_TO_PEER, SECURE))], [ME])
    flow = Flow(ME, PEER, 6, 40000, 80)
    entry = table.lookup(flow, OUT)
    sas = [
        Pair(hosts(), entry.negotiation, entry.id, outbound_spi=0x100),
        Pair(hosts(), entry.negotiation, entry.id, outbound_spi=0x200),
        Pair(hosts(), entry.negotiation, "of another filter", outbound_spi=0x300),
    ]
    assert explain_flow(table, flow, OUT, sas).sa.spi == 0x200
    assert explain_flow(table, flow, OUT, sas[2:]).sa.spi == 0x300


def test_a_filter_without_mirror_is_a_mismatch_note(policy_set):
    one_way = replace(ME_TO_PEER, mirrored=False)
    table = compile_table([policy_set(("peer", one_way, SECURE))], [ME])
    explanation = explain_flow(table, Flow(ME, PEER, 1), OUT)
    assert explanation.return_filter is None
    assert any("mirrored?" in note for note in explanation.notes)
    both_ways = compile_table([policy_set(("peer", ME_TO_PEER, SECURE))], [ME])
    assert not any("mirrored?" in note for note in explain_flow(both_ways, Flow(ME, PEER, 1), OUT).notes)


def test_a_blocked_answer_is_a_note(policy_set):
    inbound_block = Filter(FilterAddress.of(PEER), FilterAddress.me(), 17, mirrored=False)
    table = compile_table(
        [policy_set(("peer", ME_TO_PEER, "permit"), ("shut", inbound_block, "block"))], [ME]
    )
    explanation = explain_flow(table, Flow(ME, PEER, 17, 1, 2), OUT)
    assert (explanation.verdict, explanation.return_verdict) == (Verdict.PERMIT, Verdict.BLOCK)
    assert any("answer is blocked" in note for note in explanation.notes)


def test_two_rules_for_the_two_directions_are_a_note(policy_set):
    there = replace(ME_TO_PEER, mirrored=False)
    back = Filter(FilterAddress.of(PEER), FilterAddress.me(), mirrored=False)
    table = compile_table([policy_set(("there", there, SECURE), ("back", back, SECURE))], [ME])
    assert any("another rule" in note for note in explain_flow(table, Flow(ME, PEER, 1), OUT).notes)


def test_inpass_and_soft_are_noted_in_their_direction(policy_set):
    action = replace(SECURE, inpass=True, soft=True)
    table = compile_table([policy_set(("peer", ME_TO_PEER, action))], [ME])
    outbound = " ".join(explain_flow(table, Flow(ME, PEER, 1), OUT).why)
    inbound = " ".join(explain_flow(table, Flow(PEER, ME, 1), IN).notes)
    assert outbound.count("soft") == 1  # said once
    assert "inpass" not in outbound
    assert "inpass" in inbound
    assert "dropped" not in inbound


def test_an_inbound_flow_that_must_be_secured_says_that_clear_packets_die(policy_set):
    table = compile_table([policy_set(("peer", ME_TO_PEER, SECURE))], [ME])
    assert any("dropped" in note for note in explain_flow(table, Flow(PEER, ME, 1), IN).notes)


def test_what_the_question_leaves_open_is_listed(table):
    explanation = explain_flow(table, Flow(ME, PEER, 6), OUT)
    assert explanation.verdict is Verdict.PERMIT
    assert [(other.entry.provenance.rule, other.why) for other in explanation.depends] == [
        ("no telnet", "for destination port 23 it is block")
    ]
    anything = explain_flow(table, Flow(ME, PEER, 0), OUT)
    assert "for protocol tcp and destination port 23 it is block" in {other.why for other in anything.depends}
    assert explain_flow(table, Flow(ME, PEER, 6, 40000, 22), OUT).depends == ()
    assert explain_flow(table, Flow(ME, PEER, 1), OUT).depends == ()


def test_the_lists_are_bounded(policy_set, monkeypatch):
    monkeypatch.setattr(explain, "MAXIMUM_LISTED", 2)
    filters = [replace(ME_TO_PEER, protocol=6, destination_port=port) for port in range(1, 6)]
    table = compile_table([policy_set(("peer", ME_TO_PEER, "permit"), ("ports", filters, "block"))], [ME])
    assert len(explain_flow(table, Flow(ME, PEER, 6), OUT).depends) == 2


def test_an_exemption_explains_itself(table):
    explanation = explain_flow(table, Flow(PEER, ME, 17, 500, 500), IN)
    assert explanation.verdict is Verdict.EXEMPT
    assert explanation.weight[0] == "default exemption, above every rule"
    assert explanation.shadowed[0].why == "default exemptions stand above every rule"
    assert "exemption: IKE" in "\n".join(explanation.lines())


def test_multicast_that_a_rule_cannot_secure_says_so(table):
    explanation = explain_flow(table, Flow(ME, ip_address("224.0.0.251"), 17, 5353, 5353), OUT)
    assert explanation.verdict is Verdict.BLOCK
    assert "IPsec cannot secure: blocked" in "\n".join(explanation.lines())
    assert explanation.shadowed[0].why == "the weights are equal and the deciding filter is more restrictive"


# ---- the keys that scripts read
def asked(policy_set, action, flow=None, direction=OUT):
    table = compile_table([policy_set(("peer", ME_TO_PEER, action))], [ME])
    return json.loads(json.dumps(explain_flow(table, flow or Flow(ME, PEER, 6, 1, 2), direction).as_dict()))


@pytest.mark.parametrize("direction", [OUT, IN])
@pytest.mark.parametrize(
    ("action", "verdict", "word", "inbound_clear", "outbound", "on_failure"),
    [
        ("permit", "permit", "permit", "accept", "send", None),
        ("block", "block", "block", "drop", "drop", None),
        (SECURE, "secure", "negotiate", "drop", "secure", "drop"),
        (replace(SECURE, inpass=True), "secure", "negotiate", "accept", "secure", "drop"),
        (replace(SECURE, soft=True), "secure", "negotiate", "drop", "secure", "clear"),
        (replace(SECURE, inpass=True, soft=True), "secure", "negotiate", "accept", "secure", "clear"),
    ],
)
def test_each_action_has_its_row_of_the_decision_table(
    policy_set, direction, action, verdict, word, inbound_clear, outbound, on_failure
):
    flow = Flow(ME, PEER, 6, 1, 2)
    answer = asked(policy_set, action, flow if direction is OUT else flow.reversed(), direction)
    assert answer["verdict"] == verdict
    assert answer["action"] == word
    assert answer["inbound_clear"] == inbound_clear
    assert answer["outbound"] == outbound
    assert answer["on_failure"] == on_failure
    assert answer["policy"] == "Office"
    assert answer["rule"] == "peer"
    assert answer["filter_list"] == "peer filters"
    assert answer["filter_index"] == 1
    assert isinstance(answer["weight"], int)
    assert all(isinstance(sentence, str) and sentence for sentence in answer["why"])
    assert "rule “peer”" in answer["why"][0]


def test_without_a_filter_the_keys_are_there_and_empty():
    answer = explain_flow(FilterTable(), Flow(ME, PEER, 6, 1, 2), OUT).as_dict()
    assert answer["verdict"] == "no-filter"
    for key in ("action", "on_failure", "rule", "filter_list", "weight", "policy"):
        assert answer[key] is None
    assert (answer["inbound_clear"], answer["outbound"]) == ("accept", "send")
    assert answer["why"][0] == "no filter speaks of this packet: it passes in clear"


def test_an_exemption_is_a_verdict_of_its_own(table):
    answer = explain_flow(table, Flow(PEER, ME, 17, 500, 500), IN).as_dict()
    assert (answer["verdict"], answer["action"]) == ("exempt", "permit")
    assert answer["rule"] == "IKE, UDP 500 of this computer"
    assert answer["filter_list"] is None
    assert "whatever the rules say" in answer["why"][0]


def test_why_tells_what_the_filter_beat(table):
    why = explain_flow(table, Flow(ME, PEER, 6, 40000, 23), OUT).as_dict()["why"]
    assert any("stands before" in sentence and "it names a protocol" in sentence for sentence in why)
    open_port = explain_flow(table, Flow(ME, PEER, 6), OUT).as_dict()["why"]
    assert any("for destination port 23 it is block" in sentence for sentence in open_port)


def test_a_one_way_filter_leaves_the_other_direction_as_it_is(policy_set):
    one_way = replace(ME_TO_PEER, mirrored=False)
    table = compile_table([policy_set(("peer", one_way, SECURE))], [ME])
    answer = explain_flow(table, Flow(ME, PEER, 6, 1, 2), OUT).as_dict()
    assert (answer["outbound"], answer["inbound_clear"]) == ("secure", "accept")


def test_the_default_response_rule_is_mentioned_where_nothing_else_speaks(policy_set):
    base = policy_set()
    rule = Rule("", "<Dynamic>", "Default Response", is_default_response=True)
    policy = replace(base.policies[0], rules=(rule,))
    table = compile_table([replace(base, policies=(policy,))], [ME])
    flow = Flow(ME, PEER, 6, 1, 2)
    explanation = explain_flow(table, flow, OUT)
    assert any("default response" in note for note in explanation.notes)
    asked_for = TrafficSelector(AddressRange.host(ME), AddressRange.host(PEER))
    match = FilterTableLookup(table).for_quick_mode(ME, PEER, asked_for)
    answered = explain_flow(with_responses(table, [match]), flow, OUT)
    assert answered.verdict is Verdict.SECURE
    assert answered.weight == ("made by the default response rule: below every written filter",)
