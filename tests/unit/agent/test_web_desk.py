"""What the agent keeps for the web console."""

from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from stockade.agent import messages
from stockade.agent.journal import Entry
from stockade.agent.paths import Paths
from stockade.agent.stores import Stores
from stockade.agent.web_api import DOOR
from stockade.agent.web_desk import MAXIMUM_TICKETS, STORY_LINES, TICKET_SECONDS, WebDesk
from stockade.console.main import main as stockade
from stockade.ike.contract import StoryLine
from stockade.model.addresses import Endpoint
from stockade.model.reasons import CallerError

KEY = "a-key-that-nobody-may-see-0815"
SCRIPT = f"""
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr=10.0.0.2 protocol=TCP dstport=80 description=web
add filteraction name=require qmsecmethods="ESP[AES128,SHA1]:100000k/3600s"
add policy name=first activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=first filterlist=secured filteraction=require psk="{KEY}"
set policy name=first assign=yes
"""


class Desk:
    """A desk with a clock that stands still, and what it did."""

    def __init__(self, home: Path) -> None:
        self.now = 1000.0
        self.entries: list[Entry] = []
        self.narrating: list[bool] = []
        paths = Paths.of(home)
        paths.make_folders()
        self.desk = WebDesk(
            Stores(paths), self.entries.append, self.narrating.append, lambda: self.now, lambda: self.now
        )


@pytest.fixture
def world(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "home")


HERE, THERE = Endpoint(ip_address("10.0.0.1"), 500), Endpoint(ip_address("10.0.0.2"), 500)


def line(number: int, event: str) -> StoryLine:
    return StoryLine(number, 0, "main mode", True, HERE, THERE, event, "x")


def test_a_ticket_is_good_once_and_for_a_time(world: Desk) -> None:
    ticket = world.desk.ticket("viewer").ticket
    assert world.desk.redeem(ticket + "x").role == ""
    assert world.desk.redeem(ticket).role == "viewer"
    assert world.desk.redeem(ticket).role == ""
    late = world.desk.ticket("operator").ticket
    world.now += TICKET_SECONDS + 1
    assert world.desk.redeem(late).role == ""


def test_tickets_are_few_and_have_known_roles(world: Desk) -> None:
    first = world.desk.ticket("viewer").ticket
    for _ in range(MAXIMUM_TICKETS):
        last = world.desk.ticket("viewer").ticket
    assert world.desk.redeem(first).role == ""
    assert world.desk.redeem(last).role == "viewer"
    with pytest.raises(CallerError):
        world.desk.ticket("root")


def test_stories_are_told_while_a_recording_runs(world: Desk) -> None:
    assert world.desk.negotiations(10).recording is False
    assert world.desk.record(60).recording is True
    assert world.narrating == [True]
    world.desk.remember(line(1, "begun"))
    world.desk.remember(line(1, "established"))
    world.desk.remember(line(2, "failed"))
    told = world.desk.negotiations(10)
    assert [(one["number"], one["outcome"]) for one in told.negotiations] == [
        (2, "failed"),
        (1, "established"),
    ]
    world.now += 61
    world.desk.remember(line(3, "begun"))
    assert world.narrating[-1] is False
    assert len(world.desk.negotiations(10).negotiations) == 2
    assert world.desk.negotiations(10).recording is False


def test_stories_are_told_while_somebody_looks_on_and_a_moment_after(world: Desk) -> None:
    assert world.desk.negotiations(10, watch=15).recording is True
    world.desk.remember(line(1, "begun"))
    world.now += 10
    (story,) = world.desk.negotiations(10, watch=15).negotiations
    assert story["number"] == 1
    world.now += 16
    world.desk.remember(line(2, "begun"))
    assert world.narrating == [True, True, False], "nobody looks: nobody pays"
    assert len(world.desk.negotiations(10).negotiations) == 1
    world.desk.record(600)
    assert world.desk.negotiations(10, watch=15).seconds_left == 600, "a look does not cut a recording short"
    with pytest.raises(CallerError):
        world.desk.negotiations(10, watch=61)


def test_the_oakley_log_keeps_telling_after_a_recording(world: Desk) -> None:
    world.desk.set_always(True)
    world.desk.record(0)
    assert world.narrating[-1] is True
    assert world.desk.negotiations(1).seconds_left is None


def test_what_is_kept_of_stories_is_bounded(world: Desk) -> None:
    world.desk.set_always(True)
    for number in range(STORY_LINES + 500):
        world.desk.remember(line(number, "begun"))
    assert len(world.desk._lines) == STORY_LINES
    assert len(world.desk.negotiations(1_000_000).negotiations) == 100


def test_reports_are_journalled_without_what_breaks_lines(world: Desk) -> None:
    facts = {f"fact{number}": "a\nb" * 1000 for number in range(50)}
    world.desk.report(messages.WebReport(kind="request", text="bad\n" + "x" * 10_000, facts=facts))
    (entry,) = world.entries
    told = entry.as_dict()
    assert entry.kind == "web-refused"
    assert len(str(told)) < 10_000
    assert "\n" not in str(told["text"])
    with pytest.raises(CallerError):
        world.desk.report(messages.WebReport(kind="other", text=""))


def test_policy_history_and_difference_show_no_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    script = tmp_path / "p.netsh"
    script.write_text(SCRIPT)
    assert stockade(["--home", str(home), "netsh", "-f", str(script)]) == 0
    desk = Desk(home).desk
    (policy,) = [one for one in desk.policy().policies if one.name == "first"]
    assert policy.assigned
    objects = Stores(Paths.of(home)).local_store("local").read()
    stored = objects.policy("first")
    assert stored is not None
    (rule,) = [one for one in policy.rules if one.name == "secure"]
    for told, kept in (
        (policy, stored),
        (rule, stored.rules[0]),
        (rule.filter_list_mark, objects.filter_list("secured")),
        (rule.filter_action_mark, objects.filter_action("require")),
    ):
        assert told is not None
        assert kept is not None
        assert told.guid == f"{{{str(kept.guid).upper()}}}"
        assert datetime.fromisoformat(told.modified) == kept.modified
        assert told.modified.endswith("Z")
    assert (rule.authentication, rule.filter_count, rule.filters[0].destination_port) == (
        ["preshared-key"],
        1,
        80,
    )
    history = desk.history("local")
    assert len(history.revisions) >= 2
    oldest = history.revisions[-1].number
    difference = desk.difference("local", oldest, None)
    assert any("name=secure" in one or 'name="secure"' in one for one in difference.lines)
    for told in (policy, history, difference):
        assert KEY not in str(told)
        assert KEY.encode().hex() not in str(told)


def test_the_door_has_nothing_that_holds_keys() -> None:
    assert not any("dynamic" in path or "ticket" in path for _, path in DOOR)
