"""The terminal monitor: its tables, and its keys under textual's pilot, on answers of the API's types."""

import asyncio
import time
from collections.abc import Callable

import msgspec
import pytest

pytest.importorskip("textual")

from textual.widgets import DataTable, Input, Static, TabbedContent

from stockade.agent import messages
from stockade.console import monitor_data, monitor_policy, monitor_sheet
from stockade.console.main import main
from stockade.console.monitor import TAB_KEYS, TABS, Asking, Monitor, Telling
from stockade.console.monitor_data import Snapshot, Trends, fetch, plain, sheets, sparkline
from stockade.console.monitor_policy import main_mode_filters, policies_in_force
from stockade.console.monitor_sheet import Sheet
from stockade.model.reasons import ReasonCode, error_for

EVIL = "\x1b[2J[red]all is well[/]"
FILTER = messages.FilterRow(
    id="f1", direction="outbound", protocol="tcp", source="10.0.0.1", source_port=0, destination="10.0.0.2",
    destination_port=80, action="negotiate", weight=77, exemption=False, accept_clear=True, allow_soft=False,
    negotiation="n", provenance="local store, rule web", packets=12, bytes=2048,
    store="local", policy="p", rule="web", filter_list="to web", filter_index=1,
)  # fmt: skip
MAIN = messages.MainModeRow(
    cookies="aa:bb", local="10.0.0.1:500", peer="10.0.0.2:500", role="initiator", established=True,
    suite="AES128-SHA1-2", authentication="kerberos", local_identity="me", peer_identity=EVIL,
    peer_vendor="", age=5.0, remaining=28_795.0, quick_modes=1,
)  # fmt: skip
TRYING = msgspec.structs.replace(
    MAIN, peer="[fe80::9]:500", established=False, cookies="cc:00", peer_identity=""
)
METHODS = messages.Methods(
    policy="p",
    methods=[
        messages.MethodsRow(
            name="n", provenance="local store, rule web", filters=2, authentication=["preshared-key"],
            main_mode_methods=["AES128-SHA1-2", "3DES-SHA1-2"], main_mode_seconds=28_800,
            quick_modes_per_main_mode=0, perfect_forward_secrecy="no", mode="tunnel",
            tunnel_endpoint="10.0.0.9", soft_seconds=300,
            quick_mode_methods=[
                messages.QuickModeMethodRow(
                    method="ESP[AES128,SHA1]", ah="", esp_encryption="AES128", esp_integrity="SHA1",
                    lifetime_seconds=3600, lifetime_kilobytes=100_000,
                )
            ],
        )
    ],
)  # fmt: skip
TREE = messages.PolicyTree(
    policies=[
        messages.PolicyNode(
            store="local", name="p", description="a policy", guid="{72385230}",
            modified="2026-11-22T07:00:00Z", assigned=True, main_mode_methods=[],
            main_mode_minutes=480, master_pfs=False,
            rules=[
                messages.RuleNode(
                    name="web", description="", guid="{72385231}", modified="2026-11-22T07:00:01Z",
                    active=True, default_response=False, connection_type="all", tunnel_endpoint=None,
                    authentication=[], filter_list="to web", filter_list_mark=None, filter_count=1,
                    filters=[
                        messages.FilterNode(
                            source="me", source_port=0, destination="dns", destination_port=80,
                            protocol="tcp", mirrored=True, description="",
                        )
                    ],
                    filter_action="secure", filter_action_mark=None, action="negotiate", methods=[],
                    inpass=True, soft=False, session_pfs=False,
                )
            ],
        )
    ]
)  # fmt: skip
WAITING = messages.UnderWayRow(
    phase="main mode",
    cookies="cc:00",
    local="10.0.0.1:500",
    peer="[fe80::9]:500",
    role="initiator",
    age=3.0,
    standing="waiting for message 2, asked for 3 times",
)
QUICK = messages.QuickModeRow(
    inbound_spi="0x00001001", outbound_spi="0x00002002", local="10.0.0.1", peer="10.0.0.2", traffic="tcp 80",
    suite="ESP[AES128,SHA1]", pfs_group="", role="initiator", main_mode="aa:bb", rule="rule web", age=4.0,
    remaining=3596.0, inbound_packets=3, inbound_bytes=300, outbound_packets=4, outbound_bytes=4096, idle=1.0,
)  # fmt: skip
EVENT = {
    "number": 7, "time": "2026-11-22T07:00:00.000Z", "kind": "main-mode-failed",
    "windows_events": [545, 4653], "reason": "psk-mismatch", "text": EVIL, "peer": "10.0.0.3:500",
}  # fmt: skip
STORY = {
    "number": 3, "phase": "main mode", "role": "initiator", "remote": "10.0.0.3:500", "began": "07:00",
    "outcome": "failed", "lines": [
        {"elapsed": 0.0, "event": "sent", "text": "message 1"},
        {"elapsed": 0.2, "event": "refused", "text": "no", "remedy": "set the same psk"},
    ],
}  # fmt: skip


class Client:
    """Answers as the agent does, and remembers what it was asked to do."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, str]]] = []
        self.down = False
        self.out = 0
        self.looks = 0

    def get(self, path: str, parameters: dict[str, str] | None = None) -> dict[str, object]:
        if self.down:
            raise error_for(ReasonCode.AGENT_NOT_RUNNING, "gone")
        if path == "/v1/explain":
            return {"lines": [f"explained {sorted((parameters or {}).items())}", EVIL]}
        if path == "/v1/status":
            self.looks += 1
            return self._status()
        answers = {
            "/v1/filters": messages.Filters(policy="p", filters=[FILTER, FILTER], warnings=[]),
            "/v1/sas": messages.Sas(
                main_modes=[MAIN, TRYING], quick_modes=[QUICK], soft=[], under_way=[WAITING]
            ),
            "/v1/methods": METHODS,
            "/v1/policy": TREE,
            "/v1/negotiations": messages.Negotiations(recording=True, seconds_left=1.0, negotiations=[STORY]),
            "/v1/journal": messages.JournalEntries(entries=[EVENT]),
        }
        return msgspec.to_builtins(answers[path])

    def _status(self) -> dict[str, object]:
        ways = [f"{kind}_bytes_{way}" for kind in ("transport", "tunnel") for way in ("sent", "received")]
        return {
            "version": "1", "pid": 1, "uptime": 61.0, "driver": "userspace", "policy": "p", "filters": 2,
            "policy_refused": None, "main_modes": 1, "quick_modes": 1, "held_packets": 0, "soft": 0,
            "refused_packets": {"replayed": 5},
            "ike": {"main_modes": 1, "quick_modes": 1, "acquire_failures": 2},
            "ipsec": {**dict.fromkeys(ways, 0), "transport_bytes_sent": self.out}, "boot_filters": "",
            "addresses": ["10.0.0.1", "fe80::1"],
        }  # fmt: skip

    def post(self, path: str, parameters: dict[str, str] | None = None) -> dict[str, object]:
        self.posts.append((path, parameters or {}))
        return {}


@pytest.fixture
def snapshot() -> Snapshot:
    return fetch(Client())


def test_every_table_has_what_the_snap_in_shows(snapshot: Snapshot) -> None:
    found = sheets(snapshot)
    assert found.keys() == TABS.keys()
    incoming, outgoing = found["quick"].rows
    assert incoming[1:4] == ("in  ←", "tcp 80", "0x00001001")
    assert outgoing[1:4] == ("out →", "tcp 80", "0x00002002")
    assert outgoing[6:11] == ("4", "4.0 KiB", "1 s", "4 s", "59 min 56 s")
    assert found["main"].rows[0][4:6] == ("AES128-SHA1-2", "kerberos")
    (generic,) = found["generic"].rows
    assert generic[1:5] == ("negotiate (inpass)", "77", "2", "24")
    assert generic[6:] == ("me", "dns:80", "tcp", "yes"), "in the words of who wrote it"
    assert found["specific"].rows[0][4] == "10.0.0.2:80"
    assert found["specific"].rows[0][9] == "10.0.0.9"
    (policy,) = found["policies"].rows
    assert policy[:5] == ("p", "local", "yes", "yes", "2026-11-22T07:00:00Z")
    assert policy[5:] == ("1", "a policy", "{72385230}", "")
    wide, narrow = found["main-filters"].rows
    assert wide[:4] == ("generic", "both", "me", "dns")
    assert narrow[:4] == ("specific", "outbound", "10.0.0.1", "10.0.0.2"), "main mode knows no ports"
    for row in (wide, narrow):
        assert row[4:8] == ("77", "preshared-key", "p", "AES128-SHA1-2, 3DES-SHA1-2")
        assert row[8:] == ("all", "2", "local store, rule web")
    assert [row[1:3] for row in found["main-methods"].rows] == [("1", "AES128-SHA1-2"), ("2", "3DES-SHA1-2")]
    assert found["main-methods"].rows[0][5] == "preshared-key"
    (offer,) = found["quick-methods"].rows
    assert offer[2:] == ("none", "AES128", "SHA1", "100000 KB / 3600 s", "no", "tunnel", "10.0.0.9")
    states = {row[0]: row[1] for row in found["peers"].rows}
    assert states == {"10.0.0.2": "secured", "10.0.0.3": "down", "fe80::9": "negotiating"}
    assert ("IKE", "acquire failures", "2") in found["statistics"].rows
    assert ("dropped", "replayed", "5") in found["statistics"].rows
    told = found["negotiations"]
    assert any("set the same psk" in row[5] for row in told.rows)
    assert told.rows[0][4:] == ("under way", "waiting for message 2, asked for 3 times")
    assert found["events"].rows[0][2] == "545, 4653"
    for sheet in found.values():
        assert all(len(row) == len(sheet.columns) for row in sheet.rows)
        assert not sheet.targets or len(sheet.targets) == len(sheet.rows)


def test_what_a_peer_says_of_itself_steers_no_terminal(snapshot: Snapshot) -> None:
    assert "\x1b" not in plain(snapshot)
    assert "all is well" in plain(snapshot)


def test_main_mode_filters_are_of_what_negotiates_and_go_by_the_heaviest() -> None:
    light = msgspec.structs.replace(
        FILTER, id="f2", weight=5, negotiation="other", rule="rest", filter_index=2
    )
    permit = msgspec.structs.replace(FILTER, id="f3", action="permit", negotiation=None)
    back = msgspec.structs.replace(
        FILTER, id="f4", direction="inbound", source="10.0.0.2", destination="10.0.0.1", mirrored=True
    )
    table = messages.Filters(policy="p", filters=[FILTER, back, light, permit], warnings=[])
    other = msgspec.structs.replace(METHODS.methods[0], name="other", authentication=["kerberos"])
    methods = messages.Methods(policy="p", methods=[*METHODS.methods, other])
    rows = main_mode_filters(*map(msgspec.to_builtins, (table, methods, TREE))).rows
    assert [row[:6] for row in rows] == [
        ("generic", "both", "me", "dns", "77", "preshared-key"),
        ("generic", "", "10.0.0.1", "10.0.0.2", "5", "kerberos"),
        ("specific", "outbound", "10.0.0.1", "10.0.0.2", "77", "preshared-key"),
        ("specific", "inbound", "10.0.0.2", "10.0.0.1", "77", "preshared-key"),
    ], "nobody told how the second one was written; the third one is of two filters"
    assert rows[2][9] == "2"


def test_policies_of_other_stores_that_are_in_force_are_shown_too() -> None:
    dynamic = msgspec.structs.replace(FILTER, store="dynamic", policy="mm", rule="d")
    table = messages.Filters(policy="p", filters=[dynamic], warnings=[])
    far = msgspec.structs.replace(TREE.policies[0], store="domain", name="far")
    tree = messages.PolicyTree(policies=[*TREE.policies, far])
    status = {"domain": {"gpo": "Servers", "policy": "far"}}
    rows = policies_in_force(*map(msgspec.to_builtins, (tree, table)), status).rows
    assert [row[:4] for row in rows] == [
        ("mm", "dynamic", "", "yes"),
        ("p", "local", "yes", "no"),
        ("far", "domain", "yes", "no"),
    ]
    assert [row[8] for row in rows] == ["", "", "Servers"]


def test_a_search_keeps_rows_and_their_targets_together() -> None:
    sheet = Sheet("t", ("a",), (("One",), ("two",), ("ONE more",)), ("1", "2", "3"))
    assert sheet.narrowed("one").targets == ("1", "3")


def test_sparklines_and_rates(snapshot: Snapshot) -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([0, 5, 10]) == "▁▅█"
    trends, client = Trends(), Client()
    trends.add(fetch(client), 10.0)
    client.out = 5000
    trends.add(fetch(client), 12.0)
    assert list(trends.values["bytes out"]) == [2500.0]


def test_once_prints_it_all_and_a_pipe_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stockade.console.handlers._client", lambda options: Client())
    assert main(["monitor", "--once"]) == 0
    printed = capsys.readouterr().out
    for title in (
        "Main-mode SAs",
        "Quick-mode SAs",
        "Negotiations",
        "Generic filters",
        "Main-mode filters",
        "Peers",
        "Statistics",
    ):
        assert title in printed
    assert main(["monitor"]) == 1
    assert "--once" in capsys.readouterr().err


# ---- under the pilot
async def until(pilot, condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await pilot.pause(0.02)


def drive(steps, client: Client | None = None) -> Client:
    """Run the monitor without a terminal, and do the steps when it has shown something."""
    used = client or Client()

    async def run() -> None:
        app = Monitor(used, interval=0.3)  # oftener, and a slow machine does nothing else
        async with app.run_test(size=(140, 40)) as pilot:
            await until(pilot, lambda: app._shown)
            await steps(app, pilot)

    asyncio.run(run())
    return used


def test_all_tabs_are_filled_and_reached_by_their_keys() -> None:
    async def steps(app, pilot) -> None:
        for key, name in zip(TAB_KEYS, TABS, strict=True):
            await pilot.press(key)
            await until(pilot, lambda name=name: app.query_one("#tabs", TabbedContent).active == name)
            table = app.query_one(f"#table-{name}", DataTable)
            assert table.row_count == len(sheets(fetch(Client()))[name].rows)
        shown = app.query_one("#table-events", DataTable).get_row_at(0)[4]
        assert "[red]" in str(shown), "a peer's text is no markup"
        assert "policy p" in str(app.query_one("#head", Static).render())
        assert "bytes out" in str(app.query_one("#trends", Static).render())

    drive(steps)


def test_delete_asks_first_and_rekey_acts_on_the_row_under_the_cursor() -> None:
    async def steps(app, pilot) -> None:
        await pilot.press("1", "r")
        await until(pilot, lambda: app._client.posts)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Asking))
        await pilot.press("n", "o", "enter")
        await until(pilot, lambda: not isinstance(app.screen, Asking))
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Asking))
        await pilot.press("y", "e", "s", "enter")
        await until(pilot, lambda: len(app._client.posts) == 2)
        await pilot.press("2", "d")
        await until(pilot, lambda: isinstance(app.screen, Asking))
        await pilot.press("y", "e", "s", "enter")
        await until(pilot, lambda: len(app._client.posts) == 3)
        await pilot.press("s")
        await until(pilot, lambda: len(app._client.posts) == 4)

    assert drive(steps).posts == [
        ("/v1/sas/quick/rekey", {"spi": "0x00001001"}),
        ("/v1/sas/quick/delete", {"spi": "0x00001001"}),
        ("/v1/sas/delete", {"peer": "10.0.0.2"}),
        ("/v1/negotiations/record", {"seconds": "600"}),
    ]


def test_explain_this_flow() -> None:
    async def steps(app, pilot) -> None:
        await pilot.press("4", "e")
        await until(pilot, lambda: isinstance(app.screen, Asking))
        line = app.screen.query_one(Input)
        assert line.value == "me 10.0.0.2 any", "the peer under the cursor is proposed"
        line.value = "me 10.0.0.2 tcp 80"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Telling))
        text = str(app.screen.query(Static).first().render())
        for word in ("'10.0.0.1'", "'10.0.0.2'", "'tcp'", "'80'"):
            assert word in text
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, Telling))

    drive(steps)


def test_search_and_pause() -> None:
    async def steps(app, pilot) -> None:
        await pilot.press("1", "slash")
        await until(pilot, lambda: isinstance(app.screen, Asking))
        app.screen.query_one(Input).value = "0x00002002"
        await pilot.press("enter")
        await until(pilot, lambda: app.query_one("#table-quick", DataTable).row_count == 1)
        await pilot.press("p")
        await until(pilot, lambda: app.paused and not app._busy)
        looks = app._client.looks
        for _ in range(10):
            await pilot.pause(0.05)
        assert app._client.looks == looks
        assert "PAUSED" in str(app.query_one("#head", Static).render())
        await pilot.press("p")
        await until(pilot, lambda: app._client.looks > looks)

    drive(steps)


def test_an_agent_that_goes_is_told_and_comes_back() -> None:
    async def steps(app, pilot) -> None:
        def trouble() -> str:
            return str(app.query_one("#trouble", Static).render())

        app._client.down = True
        await until(pilot, lambda: "no agent answers" in trouble() or "agent" in trouble())
        assert "stockade agent run" in trouble()
        app._client.down = False
        await until(pilot, lambda: not trouble().strip())

    drive(steps)


def test_the_tables_need_no_terminal_library() -> None:
    for module in (monitor_data, monitor_policy, monitor_sheet):
        assert "textual" not in (module.__doc__ or "")
        source = open(module.__file__, encoding="utf-8").read()  # noqa: SIM115
        assert "import textual" not in source
        assert "from textual" not in source
