"""The host's facts over time: read at start, read again when something says so, joined with resolved names.

    rtnetlink event ─────┐ settle
    resolv.conf, leases ─┼────────▶ read ─▶ facts ─┐
    names due ─▶ workers ┘                         ├─▶ changed? ─▶ the core expands the policy anew
                       answers ────────────────────┘

Nothing is decided here about policy, and nothing blocks but the kernel's own answers.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from stockade.agent.host_facts import HostSettings, SystemFiles, read_host_facts
from stockade.agent.names import NameKeeper
from stockade.policy.dynamic import DynamicSet
from stockade.policy.facts import HostFacts
from stockade.policy.objects import AddressKind, PolicySet
from stockade.policy.places import dynamic_places, static_places

MINIMUM_SETTLING = 0.2
"""Seconds to wait after something changed: changes come in flocks."""

SETTLING_FACTOR = 10.0
"""A host whose routes take long to read reads them at most this share of the time."""


class FactsKeeper:
    """The facts of one host. `clock` is the monotonic clock."""

    def __init__(
        self,
        names: NameKeeper,
        settings: HostSettings,
        files: SystemFiles | None = None,
        read: Callable[[SystemFiles, HostSettings], HostFacts] = read_host_facts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.names = names
        self._settings = settings
        self._files = SystemFiles() if files is None else files
        self._read = read
        self._clock = clock
        self._system = HostFacts()
        self._state: object = None
        self._cost = 0.0
        self.read_at = 0.0
        """When the system was read last."""

    @property
    def facts(self) -> HostFacts:
        """As they are known now."""
        return replace(self._system, names=self.names.answers)

    @property
    def settling(self) -> float:
        """Seconds to wait after the first sign of a change."""
        return max(MINIMUM_SETTLING, SETTLING_FACTOR * self._cost)

    def refresh(self) -> bool:
        """Read the system; True where it changed. `HostError`: what was known stays."""
        begun = self._clock()
        state = self._files.state()
        found = self._read(self._files, self._settings)
        self.read_at = self._clock()
        self._cost = self.read_at - begun
        before, self._system, self._state = self._system, found, state
        if before.dns_servers != found.dns_servers:
            self.names.ask_again(self.read_at)
        return before != found

    def files_changed(self) -> bool:
        """Whether resolv.conf or a lease was written since the last `refresh`."""
        return self._files.state() != self._state

    def want_names(self, policy_sets: Sequence[PolicySet], dynamic: DynamicSet | None) -> bool:
        """The policy that is to be in force: its names are asked for. True where the facts changed by that,
        for some of its names were known from an earlier run."""
        before = self.names.answers
        self.names.want(names_of(policy_sets, dynamic), self._clock())
        self.names.ask_due(self._clock())
        return self.names.answers != before


def names_of(policy_sets: Sequence[PolicySet], dynamic: DynamicSet | None) -> set[str]:
    """The DNS names in the filters of active rules. CallerError as the compiler's."""
    return {
        end.name
        for place in (*static_places(policy_sets), *dynamic_places(dynamic or DynamicSet()))
        for filter_ in place.filters
        for end in (filter_.source, filter_.destination)
        if end.kind is AddressKind.NAME
    }
