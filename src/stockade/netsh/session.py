"""What a command works on and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from stockade.model.filters import Origin
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.netsh.buffer import Buffer
from stockade.netsh.contract import (
    AgentView,
    AssigningStore,
    DescribedStore,
    DynamicStore,
    Files,
    JsonValue,
    Resolver,
    Settings,
    World,
)
from stockade.policy.contract import PolicyStore
from stockade.policy.objects import Filter, FilterAddress, FilterList

__all__ = ["JsonValue", "Outcome", "Session", "reason_data"]

T = TypeVar("T")

MAXIMUM_GROUP = 2_000
"""Changes of a script that are written together."""

TrafficKey = tuple[FilterAddress, FilterAddress, int, int, int, bool]


def traffic_key(entry: Filter) -> TrafficKey:
    """What `same_traffic` compares."""
    return (
        entry.source,
        entry.destination,
        entry.protocol,
        entry.source_port,
        entry.destination_port,
        entry.mirrored,
    )


@dataclass(slots=True)
class Session:
    """One run of the command language: the store that `set store` chose and, between commands, the context
    that was entered (`ipsec static`). `buffer`: changes are collected (batch mode, an atomic script) and not
    in the stores yet. `interactive`: ask before deleting. `depth`: how many scripts call each other."""

    store: PolicyStore
    context: tuple[str, ...] = ()
    ended: bool = False  # `exit` was said
    world: World = field(default_factory=World)
    buffer: Buffer | None = None
    atomic: bool = False  # the buffer is that of an atomic script
    interactive: bool = False
    depth: int = 0
    origin: Origin | None = None  # the line of the script that is running
    path: tuple[str, ...] = ()  # the words of the command that is running
    grouping: bool = False  # a script runs whose changes may be written many at a time
    group: list[Origin | None] = field(default_factory=list)  # the lines of the changes in the buffer
    # The last filter list that a filter was added to, so that a long script does not compare each with all.
    _traffic: tuple[tuple[Filter, ...], set[TrafficKey]] = field(default_factory=lambda: ((), set()))

    def traffic_of(self, filter_list: FilterList) -> set[TrafficKey]:
        """What the filters of the list match, without their descriptions."""
        if self._traffic[0] is not filter_list.filters:
            return {traffic_key(entry) for entry in filter_list.filters}
        return self._traffic[1]

    def remember_traffic(self, filter_list: FilterList, known: set[TrafficKey]) -> None:
        self._traffic = (filter_list.filters, known)

    # -- the world, as the session sees it

    def choose_store(self, location: str) -> None:
        """Work on the `local` or `persistent` store from now on."""
        if location == self.store.name:
            return
        if self.world.open_store is None:
            raise error_for(ReasonCode.NOT_AVAILABLE, f"the {location} store cannot be reached from here")
        store = self.world.open_store(location)
        self.store = store if self.buffer is None else self.buffer.store(store)

    def choose_domain(self, domain: str) -> None:
        """Work on the policies of a domain from now on; of this computer's where it has no name."""
        if self.world.open_domain is None:
            raise error_for(ReasonCode.NOT_AVAILABLE, "no directory can be reached from here")
        if self.buffer is not None:
            raise error_for(
                ReasonCode.NOT_AVAILABLE,
                "the store cannot become that of a domain while changes are collected",
                expected="set store location=domain before the batch begins",
            )
        self.store = self.world.open_domain(domain)

    @property
    def domain_store(self) -> AssigningStore | None:
        """The store, where it is that of a domain (also while changes of it are collected)."""
        store = self.store if self.buffer is None else self.buffer.original(self.store)
        return store if isinstance(store, AssigningStore) else None

    @property
    def settings(self) -> Settings:
        settings = _present(self.world.settings, "settings are kept by the agent's store")
        return settings if self.buffer is None else self.buffer.settings(settings)

    @property
    def dynamic(self) -> DynamicStore:
        dynamic = _present(self.world.dynamic, "dynamic policy is in the memory of a running agent")
        return dynamic if self.buffer is None else self.buffer.dynamic(dynamic)

    @property
    def agent(self) -> AgentView:
        return _present(self.world.agent, "only a running agent knows what is in force")

    @property
    def files(self) -> Files:
        return _present(self.world.files, "no files can be reached from here")

    @property
    def resolver(self) -> Resolver:
        return _present(self.world.resolver, "host names are not looked up here")

    # -- batch mode

    def begin_buffer(self) -> None:
        """Collect changes from now on. HostError where the store cannot be read."""
        if self.buffer is None:
            self.buffer = Buffer()
            try:
                self.store = self.buffer.store(self.store)
            except BaseException:
                self.buffer = None
                raise

    def end_buffer(self, command: str, *, keep: bool) -> None:
        """Write what was collected, as one change, or (`keep=False`) forget it."""
        buffer, self.buffer = self.buffer, None
        if buffer is None:
            return
        self.store = buffer.original(self.store)
        if keep:
            buffer.flush(command)

    # -- scripts: many changes, one write

    def join_group(self) -> None:
        """The next command changes a store, in a script that is not all or nothing: it goes into the working
        copy, and is written with others."""
        if self.grouping and (self.buffer is None or self.group):
            if len(self.group) >= MAXIMUM_GROUP:
                self.end_group()
            self.begin_buffer()
            self.group.append(self.origin)

    def end_group(self) -> None:
        """Write what the commands of the script changed so far, as one revision. An error tells the lines
        that are not applied."""
        if not self.group:
            return
        lines, self.group = self.group, []
        first, last = lines[0], lines[-1]
        where = "script"
        if first is not None and last is not None:
            where = f"script {first.file}, lines {first.line} to {last.line}"
        try:
            self.end_buffer(where, keep=True)
        except StockadeError as error:
            facts = dict(error.reason.facts) | {"not_applied": where}
            raise error_for(error.reason.code, error.reason.detail, **facts) from error

    def describe(self, command: str) -> None:
        """Tell the store what the next changes come from."""
        if self.buffer is None and isinstance(self.store, DescribedStore):
            self.store.describe(command)

    def confirmed(self, question: str) -> bool:
        """Whether the change may be made: asked only in interactive mode."""
        if not self.interactive:
            return True
        ask: Callable[[str], bool] = _present(
            self.world.confirm,
            "interactive mode is on and there is nobody to ask; set interactive mode=disable",
        )
        return ask(question)


def _present(value: T | None, otherwise: str) -> T:
    if value is None:
        raise error_for(ReasonCode.NOT_AVAILABLE, otherwise)
    return value


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command did. `text` is for people, without a newline at its end, and empty where netsh says
    nothing; `data` is the same for programs; `status` is the exit status. `line` and `source` say where in a
    script the command stood (0 and empty outside one). `reason` is why where the command failed. `note`: a
    remark about something that was passed over, not the outcome of a command."""

    text: str = ""
    data: JsonValue = None
    status: int = 0
    line: int = 0
    source: str = ""
    reason: Reason | None = field(default=None)
    note: bool = False
    path: tuple[str, ...] = ()  # the words of the command, in full, where it was found

    @property
    def failed(self) -> bool:
        return self.status != 0


def reason_data(reason: Reason) -> JsonValue:
    """The JSON form of a reason (`Reason.as_dict`), typed as JSON."""
    code = reason.code
    return {
        "reason": code.word,
        "text": str(reason),
        "remedy": code.remedy,
        "fault": code.fault.value,
        "windows_code": code.windows_code,
        "facts": dict(reason.facts),
    }
