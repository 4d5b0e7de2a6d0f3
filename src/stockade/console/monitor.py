"""`stockade monitor`: filters, SAs, negotiations, peers, events and statistics, as they change.

A client of the local API like every other command: what it shows is one look a second at the agent
(`monitor_data.py`), and its keys are calls that `stockade sa` and `stockade explain` make as well. Needs the
optional package `textual` (`pip install stockade[monitor]`); `--once` does without."""

import time
from collections.abc import Callable
from typing import ClassVar, Literal

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane
from textual.worker import get_current_worker

from stockade.agent.client import AgentClient
from stockade.console.monitor_data import Snapshot, Trends, fetch, overview, sheets, sparkline
from stockade.console.monitor_sheet import Sheet, size
from stockade.model.reasons import StockadeError

LOOK_SECONDS = 1.0
FILTER_LOOKS = 5
"""The filter table is asked for at every fifth look: it may have thousands of rows."""

MAXIMUM_ROWS = 1_000
TABS = {
    "quick": "Quick modes",
    "main": "Main modes",
    "negotiations": "Negotiations",
    "peers": "Peers",
    "specific": "Filters",
    "generic": "Generic filters",
    "main-filters": "Main-mode filters",
    "policies": "Policies",
    "main-methods": "IKE policies",
    "quick-methods": "Methods",
    "events": "Events",
    "statistics": "Statistics",
}
TAB_KEYS = "123456f7890m"
Fetch = Callable[[], Snapshot]


class Asking(ModalScreen[str]):
    """One line of text; an empty answer means: rather not."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel")]

    def __init__(self, question: str, proposal: str = "") -> None:
        super().__init__()
        self._question, self._proposal = question, proposal

    def compose(self) -> ComposeResult:
        with Vertical(id="asking"):
            yield Static(self._question, markup=False)
            yield Input(self._proposal)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())

    def action_cancel(self) -> None:
        self.dismiss("")


class Telling(ModalScreen[None]):
    """Some lines to read; any of these keys closes them."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "close", "close")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(id="telling"):
            yield Static(self._text, markup=False)
            yield Static("Enter closes this", classes="hint")

    def action_close(self) -> None:
        self.dismiss(None)


class Monitor(App[int]):
    """The monitor. `interval` in seconds between two looks."""

    TITLE = "Stockade"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head { height: auto; padding: 0 1; background: $panel; }
    #trouble { height: auto; padding: 0 1; color: $error; }
    #trends { height: auto; padding: 0 1; }
    DataTable { height: 1fr; }
    Asking, Telling { align: center middle; }
    #asking, #telling { width: 90%; height: auto; max-height: 90%; border: round $accent; padding: 1 2;
                        background: $surface; overflow-y: auto; }
    .hint { color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("p", "pause", "pause"),
        Binding("slash", "search", "search"),
        Binding("e", "explain", "explain a flow"),
        Binding("r", "rekey", "rekey"),
        Binding("d", "delete", "delete SA"),
        Binding("s", "record", "record steps"),
        *(Binding(key, f"tab('{name}')", show=False) for key, name in zip(TAB_KEYS, TABS, strict=True)),
    ]

    def __init__(self, client: AgentClient, interval: float = LOOK_SECONDS) -> None:
        super().__init__()
        self._client = client
        self._interval = interval
        self._snapshot: Snapshot | None = None
        self._trends = Trends()
        self._looks = 0
        self._search = ""
        self._busy = False
        self.paused = False
        self._shown: dict[str, Sheet] = {}

    def compose(self) -> ComposeResult:
        yield Static("asking the agent …", id="head", markup=False)
        yield Static("", id="trouble", markup=False)
        with TabbedContent(id="tabs"):
            for key, (name, title) in zip(TAB_KEYS, TABS.items(), strict=True):
                with TabPane(f"{key} {title}", id=name):
                    if name == "statistics":
                        yield Static("", id="trends", markup=False)
                    yield DataTable(id=f"table-{name}", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        self.set_interval(self._interval, self._look)
        self._look()

    # ---- looking
    def _look(self) -> None:
        if self.paused or self._busy:
            return
        self._busy = True
        self.run_worker(self._ask, thread=True, exclusive=False)

    def _ask(self) -> None:
        worker = get_current_worker()
        keep = self._snapshot if self._looks % FILTER_LOOKS else None
        try:
            answer: Snapshot | StockadeError = fetch(self._client, keep)
        except StockadeError as error:
            answer = error
        if not worker.is_cancelled:
            self.call_from_thread(self._take, answer)

    def _take(self, answer: Snapshot | StockadeError) -> None:
        self._busy = False
        if not self.query("#trouble"):
            return  # the answer came when the monitor was being closed
        trouble = self.query_one("#trouble", Static)
        if isinstance(answer, StockadeError):
            trouble.update(f"{answer} · what to do: {answer.reason.code.remedy}")
            return
        trouble.update("")
        self._looks += 1
        self._snapshot = answer
        self._trends.add(answer, time.monotonic())
        self._draw()

    def _draw(self) -> None:
        if self._snapshot is None:
            return
        state = " · PAUSED" if self.paused else ""
        found = f" · only rows with “{self._search}”" if self._search else ""
        self.query_one("#head", Static).update(overview(self._snapshot.status) + state + found)
        self._draw_trends()
        for name, sheet in sheets(self._snapshot).items():
            shown = sheet.narrowed(self._search) if self._search else sheet
            if self._shown.get(name) != shown:
                self._fill(name, shown)
                self._shown[name] = shown

    def _fill(self, name: str, sheet: Sheet) -> None:
        table = self.query_one(f"#table-{name}", DataTable)
        row, scroll = table.cursor_row, table.scroll_y
        if not table.columns:
            table.add_columns(*sheet.columns)
        table.clear()
        for number, cells in enumerate(sheet.rows[:MAXIMUM_ROWS]):
            table.add_row(*map(Text, cells), key=str(number))  # plain: a peer's text is no markup
        if sheet.rows:
            table.move_cursor(row=min(row, len(sheet.rows) - 1), scroll=False)
            table.scroll_to(y=scroll, animate=False)

    def _draw_trends(self) -> None:
        lines = []
        for name, values in self._trends.values.items():
            last = values[-1] if values else 0.0
            text = f"{size(int(last))}/s" if name.startswith("bytes") else f"{last:g}"
            lines.append(f"{name:<16} {text:>12}  {sparkline(values)}")
        self.query_one("#trends", Static).update("\n".join(lines))

    # ---- keys
    def action_tab(self, name: str) -> None:
        self.query_one("#tabs", TabbedContent).active = name
        self.query_one(f"#table-{name}", DataTable).focus()

    def action_pause(self) -> None:
        self.paused = not self.paused
        self._draw()

    def action_search(self) -> None:
        self.push_screen(Asking("Only rows with this text (empty: all)", self._search), self._set_search)

    def _set_search(self, text: str | None) -> None:
        self._search = text or ""
        self._draw()

    def _target(self) -> str:
        """What the cursor is on: a peer's address or an inbound SPI; empty where it is on neither."""
        name = self.query_one("#tabs", TabbedContent).active
        sheet, row = self._shown.get(name), self.query_one(f"#table-{name}", DataTable).cursor_row
        return sheet.targets[row] if sheet is not None and 0 <= row < len(sheet.targets) else ""

    def action_delete(self) -> None:
        target = self._target()
        if not target:
            self._say("put the cursor on an SA or a peer", "warning")
            return
        what = f"the quick mode {target}" if target.startswith("0x") else f"all SAs with {target}"
        question = f"Delete {what}? The peer is told. Write yes:"
        self.push_screen(Asking(question), lambda answer: self._delete(target, answer))

    def _delete(self, target: str, answer: str | None) -> None:
        if answer != "yes":
            return
        if target.startswith("0x"):
            self._call("deleted", "/v1/sas/quick/delete", {"spi": target})
        else:
            self._call("deleted", "/v1/sas/delete", {"peer": target})

    def action_rekey(self) -> None:
        target = self._target()
        if not target.startswith("0x"):
            self._say("put the cursor on a quick mode", "warning")
            return
        self._call("rekey begun", "/v1/sas/quick/rekey", {"spi": target})

    def action_record(self) -> None:
        self._call("steps of negotiations are recorded", "/v1/negotiations/record", {"seconds": "600"})

    def _call(self, done: str, path: str, parameters: dict[str, str]) -> None:
        def work() -> None:
            try:
                self._client.post(path, parameters)
            except StockadeError as error:
                self.call_from_thread(self._say, str(error), "error")
                return
            self.call_from_thread(self._say, done)
            self.call_from_thread(self._look)

        self.run_worker(work, thread=True)

    def _say(self, text: str, severity: Literal["information", "warning", "error"] = "information") -> None:
        self.notify(text, severity=severity, markup=False)

    def action_explain(self) -> None:
        target = self._target()
        proposal = f"me {target} any" if target and not target.startswith("0x") else ""
        question = "Explain a flow: source destination [protocol [port]], as  me 10.0.0.2 tcp 80"
        self.push_screen(Asking(question, proposal), self._explain)

    def _explain(self, text: str | None) -> None:
        words = (text or "").split()
        if not words:
            return
        if not 2 <= len(words) <= 4:
            self._say("write: source destination [protocol [port]]", "warning")
            return
        own = self._snapshot.status["addresses"] if self._snapshot is not None else []
        other = next((word for word in words[:2] if word != "me"), "")
        mine = next((one for one in own if (":" in one) == (":" in other)), other)
        source, destination = (mine if word == "me" else word for word in words[:2])
        parameters = {"source": source, "destination": destination, "protocol": "any"}
        parameters |= dict(zip(("protocol", "destination_port"), words[2:], strict=False))

        def work() -> None:
            try:
                lines = self._client.get("/v1/explain", parameters)["lines"]
            except StockadeError as error:
                lines = [str(error), f"what to do: {error.reason.code.remedy}"]
            self.call_from_thread(self.push_screen, Telling("\n".join(map(str, lines))))

        self.run_worker(work, thread=True)


def run_monitor(client: AgentClient) -> int:
    """Until q. Errors before it begins: AGENT_NOT_RUNNING, NOT_PRIVILEGED."""
    client.get("/v1/status")
    return Monitor(client).run() or 0
