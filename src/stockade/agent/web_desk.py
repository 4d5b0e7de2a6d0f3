"""What the agent keeps and answers for the web console (`stockade.console.web`), which is a process of its
own.

    stockade web link ──ticket──▶ agent ◀──redeem── web console ◀──── browser with the ticket
    (root, the agent's socket)      │   ◀──report── (refused requests, logins, what operators did)
                                    └─▶ journal

The stories of negotiations are those of the Oakley log, kept in memory while somebody asked for them: by
`set config property=ikelogging`, or for some minutes by `record`. Nothing here does I/O but reading the
stores."""

import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from stockade.agent import messages
from stockade.agent.journal import Entry
from stockade.agent.oakley import negotiations, parse, render
from stockade.agent.stores import Stores
from stockade.ike.contract import StoryLine
from stockade.model.reasons import Reason, ReasonCode, error_for
from stockade.model.traffic import protocol_name
from stockade.policy.objects import Filter, FilterAction, FilterList, Policy, PolicySet, Rule

ROLES = ("viewer", "operator")
TICKET_SECONDS = 120.0
MAXIMUM_TICKETS = 16
STORY_LINES = 4000
"""Lines of negotiations that are kept: of some hundred negotiations."""

MAXIMUM_RECORDING = 3600
MAXIMUM_WATCH = 60
MAXIMUM_TOLD = 100
FILTERS_TOLD = 200
MAXIMUM_REVISIONS = 300
MAXIMUM_TEXT = 300
MAXIMUM_FACTS = 8

_REPORTS = {
    "action": ("web-action", ReasonCode.WEB_ACTION),
    "request": ("web-refused", ReasonCode.WEB_REQUEST_REFUSED),
    "login": ("web-refused", ReasonCode.WEB_LOGIN_REFUSED),
}


class WebDesk:
    """`narrate` turns the telling of stories on or off; `clock` is monotonic."""

    def __init__(
        self,
        stores: Stores,
        write: Callable[[Entry], None],
        narrate: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._stores = stores
        self._write = write
        self._narrate = narrate
        self._clock = clock
        self._wall_clock = wall_clock
        self._lines: deque[tuple[StoryLine, float]] = deque(maxlen=STORY_LINES)
        self._always = False
        self._until: float | None = None
        self._tickets: dict[bytes, tuple[str, float]] = {}

    # ---- negotiations

    def set_always(self, always: bool) -> None:
        """Whether the Oakley log is on: then stories are told anyway."""
        self._always = always
        self._narrate(always or self._until is not None)

    def remember(self, line: StoryLine) -> None:
        """A line of a story. Past its time a recording ends here, so it needs no timer."""
        if self._until is not None and self._clock() >= self._until:
            self._until = None
            self._narrate(self._always)
            if not self._always:
                return
        self._lines.append((line, self._wall_clock()))

    def record(self, seconds: int) -> messages.Recording:
        """Tell stories for so long (0: stop)."""
        if not 0 <= seconds <= MAXIMUM_RECORDING:
            raise error_for(ReasonCode.SYNTAX, f"seconds {seconds}: expected 0–{MAXIMUM_RECORDING}")
        self._until = self._clock() + seconds if seconds else None
        self._narrate(self._always or self._until is not None)
        recording, left = self._state()
        return messages.Recording(recording=recording, seconds_left=left)

    def negotiations(self, last: int, *, watch: int = 0) -> messages.Negotiations:
        """The newest stories, newest first. `watch`: tell stories for so many seconds more, because somebody
        looks on; nobody pays for them when nobody does."""
        if not 0 <= watch <= MAXIMUM_WATCH:
            raise error_for(ReasonCode.SYNTAX, f"watch {watch}: expected 0–{MAXIMUM_WATCH}")
        if watch:
            self._until = max(self._until or 0.0, self._clock() + watch)
            self._narrate(True)
        text = "".join(render(line, wall) for line, wall in self._lines)
        stories = negotiations(parse(text.splitlines(keepends=True)))
        recording, left = self._state()
        return messages.Negotiations(
            recording=recording,
            seconds_left=left,
            negotiations=[story.as_dict() for story in reversed(stories[-min(last, MAXIMUM_TOLD) :])],
        )

    def _state(self) -> tuple[bool, float | None]:
        left = max(0.0, self._until - self._clock()) if self._until is not None else 0.0
        if self._always:
            return True, None
        return left > 0, round(left, 1)

    # ---- who may come in

    def ticket(self, role: str) -> messages.WebTicket:
        """A new ticket. Only its hash is kept."""
        if role not in ROLES:
            raise error_for(ReasonCode.SYNTAX, f"role {role!r}: expected {' or '.join(ROLES)}")
        self._expire()
        while len(self._tickets) >= MAXIMUM_TICKETS:
            self._tickets.pop(next(iter(self._tickets)))
        ticket = secrets.token_urlsafe(32)
        self._tickets[_hash(ticket)] = (role, self._clock() + TICKET_SECONDS)
        return messages.WebTicket(ticket=ticket, role=role, seconds=TICKET_SECONDS)

    def redeem(self, ticket: str) -> messages.WebEntry:
        """The role that a ticket is good for; it is used up by that."""
        self._expire()
        wanted = _hash(ticket)
        for known in tuple(self._tickets):
            if hmac.compare_digest(known, wanted):
                return messages.WebEntry(role=self._tickets.pop(known)[0])
        return messages.WebEntry(role="")

    def _expire(self) -> None:
        now = self._clock()
        self._tickets = {key: entry for key, entry in self._tickets.items() if entry[1] > now}

    def report(self, report: messages.WebReport) -> messages.Noted:
        """Write what the console tells into the journal, which limits how much of it."""
        if report.kind not in _REPORTS:
            raise error_for(ReasonCode.SYNTAX, f"kind {report.kind[:40]!r}: expected {', '.join(_REPORTS)}")
        kind, code = _REPORTS[report.kind]
        facts = {_line(name): _line(value) for name, value in list(report.facts.items())[:MAXIMUM_FACTS]}
        self._write(Entry(kind, Reason(code, _line(report.text), tuple(facts.items()))))
        return messages.Noted(noted=True)

    # ---- policy

    def policy(self) -> messages.PolicyTree:
        """The stores as they are now. HostError STORE_UNREADABLE."""
        found = self._stores.read().policy_sets
        return messages.PolicyTree(
            policies=[_policy(objects, policy) for objects in found for policy in objects.policies]
        )

    def history(self, store: str) -> messages.History:
        revisions = self._stores.local_store(store).history()
        return messages.History(
            store=store,
            revisions=[
                messages.RevisionRow(
                    number=one.number,
                    made=one.made.isoformat(),
                    author=one.author,
                    command=one.command,
                    added=one.added,
                    changed=one.changed,
                    removed=one.removed,
                )
                for one in reversed(revisions[-MAXIMUM_REVISIONS:])
            ],
        )

    def difference(self, store: str, first: int, second: int | None) -> messages.Difference:
        """From revision `first` to `second` (None: now)."""
        # late: nobody waits for it at the start
        from stockade.netsh.difference import difference_lines, keys_that_changed

        opened = self._stores.local_store(store)
        old = opened.revision(first)
        new = opened.read() if second is None else opened.revision(second)
        names = (f"revision {first}", "now" if second is None else f"revision {second}")
        return messages.Difference(
            store=store, lines=difference_lines(old, new, *names), changed_keys=keys_that_changed(old, new)
        )


def _hash(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()


def _line(text: str) -> str:
    """What strangers caused must not be long, nor break lines."""
    return "".join(letter if letter.isprintable() else "�" for letter in text[:MAXIMUM_TEXT])


def _policy(objects: PolicySet, policy: Policy) -> messages.PolicyNode:
    lists = {one.name: one for one in objects.filter_lists}
    actions = {one.name: one for one in objects.filter_actions}
    return messages.PolicyNode(
        store=objects.store,
        name=policy.name,
        description=policy.description,
        guid=_guid(policy.guid),
        modified=_moment(policy.modified),
        assigned=policy.assigned,
        main_mode_methods=[str(one) for one in policy.main_mode_methods],
        main_mode_minutes=policy.main_mode_minutes,
        master_pfs=policy.master_pfs,
        rules=[
            _rule(rule, lists.get(rule.filter_list), actions.get(rule.filter_action)) for rule in policy.rules
        ],
    )


def _guid(guid: UUID) -> str:
    return f"{{{str(guid).upper()}}}"  # as netsh shows it


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _mark(found: FilterList | FilterAction | None) -> messages.ObjectMark | None:
    if found is None:
        return None
    return messages.ObjectMark(guid=_guid(found.guid), modified=_moment(found.modified))


def _rule(rule: Rule, filters: FilterList | None, action: FilterAction | None) -> messages.RuleNode:
    found = filters.filters if filters else ()
    methods = rule.response_methods if rule.is_default_response else action.methods if action else ()
    return messages.RuleNode(
        name=rule.name,
        description=rule.description,
        guid=_guid(rule.guid),
        modified=_moment(rule.modified),
        active=rule.active,
        default_response=rule.is_default_response,
        connection_type=rule.connection_type.value,
        tunnel_endpoint=None if rule.tunnel_endpoint is None else str(rule.tunnel_endpoint),
        authentication=[str(method) for method in rule.authentication],
        filter_list=rule.filter_list,
        filter_list_mark=_mark(filters),
        filter_count=len(found),
        filters=[_filter(one) for one in found[:FILTERS_TOLD]],
        filter_action=rule.filter_action,
        filter_action_mark=_mark(action),
        action=action.action.value if action else "negotiate",
        methods=[str(method) for method in methods],
        inpass=bool(action and action.inpass),
        soft=bool(action and action.soft),
        session_pfs=bool(action and action.session_pfs),
    )


def _filter(one: Filter) -> messages.FilterNode:
    return messages.FilterNode(
        source=str(one.source),
        source_port=one.source_port,
        destination=str(one.destination),
        destination_port=one.destination_port,
        protocol=protocol_name(one.protocol),
        mirrored=one.mirrored,
        description=one.description,
    )
