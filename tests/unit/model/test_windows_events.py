"""The table of Windows' event ids: complete, and each id on the events that it should be on."""

import re
from pathlib import Path

import pytest

import stockade
from stockade.ike.contract import ReportKind
from stockade.model.reasons import ReasonCode
from stockade.model.windows_events import BY_NUMBER, WINDOWS_EVENTS, windows_events

ASKED_FOR = {
    *range(541, 548),
    *range(4650, 4656),
    *range(4976, 4985),
    *range(5451, 5454),
    *range(5456, 5475),
} - {5469, 5470}  # these two numbers were never given


def test_every_id_is_there_once_and_carried_or_explained():
    assert BY_NUMBER.keys() >= ASKED_FOR
    assert len(BY_NUMBER) == len(WINDOWS_EVENTS)
    for event in WINDOWS_EVENTS:
        assert bool(event.carriers) != bool(event.never), event


@pytest.mark.parametrize(
    ("kind", "code", "facts", "ids"),
    [
        (
            "main-mode-established",
            ReasonCode.SA_ESTABLISHED,
            {"authentication": "preshared-key"},
            [541, 4650],
        ),
        (
            "main-mode-established",
            ReasonCode.SA_ESTABLISHED,
            {"authentication": "certificate (RSA)"},
            [541, 4651],
        ),
        ("quick-mode-established", ReasonCode.SA_ESTABLISHED, {}, [541, 5451]),
        ("quick-mode-deleted", ReasonCode.SA_IDLE, {}, [542, 5452]),
        ("main-mode-deleted", ReasonCode.SA_DELETED, {}, [543, 4655]),
        ("main-mode-failed", ReasonCode.CERTIFICATE_UNTRUSTED, {}, [544, 4652]),
        ("main-mode-failed", ReasonCode.PSK_MISMATCH, {}, [545, 4653]),
        ("main-mode-failed", ReasonCode.NO_PROPOSAL_CHOSEN, {}, [546, 4653]),
        ("main-mode-failed", ReasonCode.NEGOTIATION_TIMED_OUT, {}, [547, 4653]),
        ("quick-mode-failed", ReasonCode.NO_PROPOSAL_CHOSEN, {}, [546, 4654]),
        ("message-refused", ReasonCode.MALFORMED_PAYLOAD, {"phase": "quick mode"}, [4977]),
        ("message-refused", ReasonCode.MALFORMED_PAYLOAD, {}, [4976]),
        ("policy-loaded", ReasonCode.POLICY_LOADED, {"stores": "persistent, domain"}, [5456]),
        ("policy-loaded", ReasonCode.POLICY_LOADED, {"stores": "local"}, [5460, 5471]),
        ("policy-loaded", ReasonCode.POLICY_LOADED, {"stores": "persistent, local"}, [5460, 5471]),
        ("policy-loaded", ReasonCode.POLICY_LOADED, {"stores": "persistent"}, [5460, 5471]),
        ("policy-loaded", ReasonCode.POLICY_LOADED, {"stores": ""}, []),
        ("policy-refused", ReasonCode.STORE_UNREADABLE, {}, [5472]),
        ("packets-refused", ReasonCode.REPLAYED, {}, [4961]),
        ("nothing-of-the-kind", ReasonCode.INTERNAL, {}, []),
    ],
)
def test_an_event_carries_the_ids_of_both_generations(kind, code, facts, ids):
    assert windows_events(kind, code, facts) == ids


@pytest.mark.parametrize("code", list(ReasonCode), ids=lambda code: code.word)
def test_every_failure_has_one_old_and_one_new_id(code):
    for kind in ("main-mode-failed", "quick-mode-failed"):
        found = windows_events(kind, code, {})
        assert len([number for number in found if number < 1000]) == 1, found
        assert len([number for number in found if number > 1000]) == 1, found


def test_the_manual_says_why_an_id_never_comes():
    page = (Path(__file__).parents[3] / "docs" / "event-ids.md").read_text()
    rows = {int(row.split()[1]): row for row in page.splitlines() if re.match(r"\| \d{3,4} \|", row)}
    assert rows.keys() == BY_NUMBER.keys()
    for event in WINDOWS_EVENTS:
        assert ("none:" in rows[event.number]) == bool(event.never)
        assert event.never in rows[event.number]


def test_the_table_names_only_kinds_that_the_code_tells():
    told = {kind.value for kind in ReportKind}
    for path in (Path(stockade.__file__).parent / "agent").glob("*.py"):
        told |= set(re.findall(r'(?:Entry|_note|_tell)\(\s*"([a-z-]+)"', path.read_text()))
    named = {carrier.kind for event in WINDOWS_EVENTS for carrier in event.carriers}
    assert named <= told
