"""`ObjectSet` -> `PolicySet`: an import, whichever file it came from.

What cannot be taken over is a problem that names its object; nothing is guessed and nothing half-taken:
a rule without its filter action is left out, not given another one. A policy that lost anything on the way is
never left assigned: somebody must look at it first."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar
from uuid import UUID, uuid5

from stockade.model.filters import Action, Origin
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.objects import (
    DEFAULT_POLLING_MINUTES,
    DEFAULT_RESPONSE_ACTION,
    DEFAULT_RESPONSE_METHODS,
    DYNAMIC_FILTER_LIST,
    FilterAction,
    FilterList,
    Policy,
    PolicySet,
    Rule,
    now,
)
from stockade.store.formats.conversion.actions import Offers, read_filter_action, read_offers
from stockade.store.formats.conversion.filters import read_filters
from stockade.store.formats.conversion.main_mode import MainModeSettings, read_main_mode
from stockade.store.formats.conversion.names import Names, description_of
from stockade.store.formats.conversion.rules import RuleSettings, read_rule
from stockade.store.formats.ipsec_data import (
    FilterListData,
    IpsecData,
    IsakmpData,
    NegotiationData,
    NfaData,
    PolicyData,
)
from stockade.store.formats.numbers import EspNumbers
from stockade.store.formats.objects import (
    ACTION_NEGOTIATE,
    ACTION_NEGOTIATE_INBOUND_PASS,
    DEFAULT_RESPONSE_TYPE,
    IpsecObject,
    ObjectClass,
    ObjectSet,
    Reference,
    cycles,
    guid_text,
)
from stockade.store.formats.problems import Problems

MAXIMUM_RULES = 100_000

T = TypeVar("T")
D = TypeVar("D", bound=IpsecData)


def policy_set_from_objects(
    objects: ObjectSet,
    *,
    store: str = "local",
    esp_numbers: EspNumbers = EspNumbers.WINDOWS,
    source: str = "",
) -> tuple[PolicySet, tuple[Reason, ...]]:
    """The policies, filter lists and filter actions of `objects`, and what did not come over as it was
    (those of `objects.problems` first). `source` is the file's name, for the origin of filters."""
    policy_set, problems, _ = policy_set_and_damage(
        objects, store=store, esp_numbers=esp_numbers, source=source
    )
    return policy_set, problems


def policy_set_and_damage(
    objects: ObjectSet,
    *,
    store: str = "local",
    esp_numbers: EspNumbers = EspNumbers.WINDOWS,
    source: str = "",
) -> tuple[PolicySet, tuple[Reason, ...], frozenset[Reference]]:
    """The same, and the objects that lost something: what is in the policies is not all that they hold."""
    reader = _Reader(objects, esp_numbers, source)
    policy_set = reader.policy_set(store)
    return policy_set, reader.problems.reasons(), reader.damaged


class _Reader:
    """One import. Filter lists and actions are converted once and shared; each remembers whether it lost
    something."""

    def __init__(self, objects: ObjectSet, esp_numbers: EspNumbers, source: str) -> None:
        self._source = source
        self.problems = Problems(objects.problems)
        self._objects = {entry.reference: entry for entry in objects.objects}
        self._active = objects.active
        self._esp_numbers = esp_numbers
        self._filter_lists: dict[Reference, FilterList] = {}
        self._filter_actions: dict[Reference, FilterAction] = {}
        self._main_modes: dict[Reference, MainModeSettings | None] = {}
        self._rule_settings: dict[Reference, RuleSettings | None] = {}
        self._responses: dict[Reference, Offers | None] = {}
        self._damaged: set[Reference] = set()  # objects that lost something
        self._rule_count = 0
        self._used: set[Reference] = set()  # main-mode settings, rules, default responses that a policy has
        self._list_names, self._action_names, self._policy_names = Names(), Names(), Names()

    @property
    def damaged(self) -> frozenset[Reference]:
        return frozenset(self._damaged)

    def policy_set(self, store: str) -> PolicySet:
        for chain in cycles(self._objects.values()):
            self.problems.loss(
                ReasonCode.INVALID_FILE,
                "references run in a circle: " + " → ".join(str(entry) for entry in chain[:6]),
                str(chain[0]),
            )
        for entry in self._of_class(ObjectClass.FILTER):
            filter_list = self._converted(entry, self._filter_list)
            if filter_list is not None:
                self._filter_lists[entry.reference] = filter_list
        self._read_filter_actions()
        policies = []
        for entry in self._of_class(ObjectClass.POLICY):
            policy = self._converted(entry, self._policy)
            if policy is not None:
                policies.append(policy)
        self._report_leftovers(policies)
        return PolicySet(
            tuple(policies), tuple(self._filter_lists.values()), tuple(self._filter_actions.values()), store
        )

    # -- what every kind needs

    def _of_class(self, object_class: ObjectClass) -> Iterator[IpsecObject]:
        return (entry for entry in self._objects.values() if entry.object_class is object_class)

    def _converted(self, entry: IpsecObject, convert: Callable[[IpsecObject], T | None]) -> T | None:
        """`convert(entry)`; an error becomes a problem, and any loss marks the object."""
        before = self.problems.losses
        result: T | None = None
        try:
            result = convert(entry)
        except StockadeError as error:
            self.problems.add(error.reason)
        if self.problems.losses > before:
            self._damaged.add(entry.reference)
        return result

    def _once(
        self,
        cache: dict[Reference, T | None],
        entry: IpsecObject,
        convert: Callable[[IpsecObject], T | None],
    ) -> T | None:
        """`_converted`, but a second user of a shared object gets the same again: no file can make us decode
        one large object for each of many small ones."""
        if entry.reference not in cache:
            cache[entry.reference] = self._converted(entry, convert)
        return cache[entry.reference]

    def _data(self, entry: IpsecObject, kind: type[D]) -> D:
        data = entry.decoded()
        if not isinstance(data, kind):
            raise error_for(ReasonCode.INVALID_FILE, f"a {entry.object_class} was not expected here")
        if data.trailer not in (b"", b"\0"):
            self.problems.note(
                f"{len(data.trailer)} bytes of unknown meaning at its end are not kept", entry.label
            )
        return data

    def _resolved(self, reference: Reference, wanted: ObjectClass, entry: IpsecObject) -> IpsecObject | None:
        """The object that `entry` refers to; a missing one, or one of another class, is a loss."""
        if reference.object_class is not wanted:
            self.problems.loss(
                ReasonCode.INVALID_FILE, f"it refers to {reference} where an {wanted} must stand", entry.label
            )
            return None
        found = self._objects.get(reference)
        if found is None:
            self.problems.loss(ReasonCode.MISSING_OBJECT, f"{reference}", entry.label)
        return found

    # -- one kind each

    def _filter_list(self, entry: IpsecObject) -> FilterList:
        filters = read_filters(self._data(entry, FilterListData), entry.label, self.problems)
        if self._source:
            origin = Origin(self._source, entry.line)
            filters = tuple(replace(one, origin=origin) for one in filters)
        return FilterList(
            self._list_names.claim(
                entry.name, f"Filter list {guid_text(entry.guid)}", entry.label, self.problems
            ),
            filters,
            description_of(entry.description, entry.label, self.problems),
            entry.guid,
            entry.changed or now(),
        )

    def _read_filter_actions(self) -> None:
        """All that are not merely the default response of some rule."""
        by_rules = {
            entry.negotiation_policy
            for entry in self._of_class(ObjectClass.NFA)
            if entry.filters and entry.negotiation_policy
        }
        for entry in self._of_class(ObjectClass.NEGOTIATION_POLICY):
            if entry.negotiation_type == DEFAULT_RESPONSE_TYPE and entry.reference not in by_rules:
                continue
            action = self._converted(entry, self._filter_action)
            if action is not None:
                self._filter_actions[entry.reference] = action

    def _filter_action(self, entry: IpsecObject) -> FilterAction | None:
        data = self._data(entry, NegotiationData)
        return read_filter_action(entry, data, self._action_names, self._esp_numbers, self.problems)

    def _policy(self, entry: IpsecObject) -> Policy | None:
        before = self.problems.losses
        data = self._data(entry, PolicyData)
        if entry.isakmp_policy is None:
            self.problems.loss(ReasonCode.MISSING_OBJECT, "it has no main-mode settings", entry.label)
            return None
        isakmp = self._resolved(entry.isakmp_policy, ObjectClass.ISAKMP_POLICY, entry)
        if isakmp is None:
            return None
        self._used.add(isakmp.reference)
        main_mode = self._once(self._main_modes, isakmp, self._main_mode)
        if main_mode is None:
            self.problems.loss(
                ReasonCode.MISSING_OBJECT, "its main-mode settings did not come over", entry.label
            )
            return None
        rules: list[Rule] = []
        default: Rule | None = None
        names = Names()
        sources = {isakmp.reference}
        for reference in entry.rules:
            nfa = self._resolved(reference, ObjectClass.NFA, entry)
            if nfa is None:
                continue
            sources.update((nfa.reference, *nfa.forward))
            for rule in self._rules(nfa, entry, main_mode.map_certificates, names):
                if not rule.is_default_response:
                    rules.append(rule)
                elif default is None:
                    default = rule
                else:
                    self.problems.loss(
                        ReasonCode.INVALID_POLICY, "a second default response rule is left out", nfa.label
                    )
        damaged = self.problems.losses > before or not self._damaged.isdisjoint(sources)
        assigned = entry.guid == self._active
        if assigned and damaged:
            self.problems.note(
                "it was assigned; as something of it did not come over, it is not assigned here", entry.label
            )
        return Policy(
            self._policy_names.claim(
                entry.name, f"Policy {guid_text(entry.guid)}", entry.label, self.problems
            ),
            tuple(rules) if default is None else (*rules, default),
            assigned and not damaged,
            main_mode.methods,
            main_mode.minutes,
            main_mode.quick_modes,
            main_mode.master_pfs,
            self._polling_minutes(data.polling_seconds, entry),
            description_of(entry.description, entry.label, self.problems),
            entry.guid,
            entry.changed or now(),
        )

    def _main_mode(self, entry: IpsecObject) -> MainModeSettings | None:
        return read_main_mode(self._data(entry, IsakmpData), entry.label, self.problems)

    def _settings(self, entry: IpsecObject) -> RuleSettings:
        return read_rule(self._data(entry, NfaData), entry.label, self.problems)

    def _offers(self, entry: IpsecObject) -> Offers:
        return read_offers(self._data(entry, NegotiationData), entry.label, self._esp_numbers, self.problems)

    def _polling_minutes(self, seconds: int, entry: IpsecObject) -> int:
        if not seconds:
            return DEFAULT_POLLING_MINUTES
        if seconds % 60:
            self.problems.note(
                f"its polling interval of {seconds} s becomes {max(seconds // 60, 1)} min", entry.label
            )
        return max(seconds // 60, 1)

    def _rules(
        self, nfa: IpsecObject, policy: IpsecObject, map_certificates: bool, names: Names
    ) -> list[Rule]:
        """One rule, or several where it names several filter lists; none (with a loss) where something that
        it needs is missing."""
        guid = nfa.guid
        if nfa.reference in self._used:
            self.problems.note("two policies share it; each gets a rule of its own", nfa.label)
            guid = uuid5(guid, str(policy.guid))
        self._used.add(nfa.reference)
        settings = self._once(self._rule_settings, nfa, self._settings)
        if settings is None:
            return []
        if map_certificates:
            settings = settings.with_mapped_certificates()
        if nfa.negotiation_policy is None:
            self.problems.loss(ReasonCode.MISSING_OBJECT, "it has no filter action", nfa.label)
            return []
        negotiation = self._resolved(nfa.negotiation_policy, ObjectClass.NEGOTIATION_POLICY, nfa)
        if negotiation is None or settings.tunnel_lost:
            return []
        if not nfa.filters and negotiation.negotiation_type == DEFAULT_RESPONSE_TYPE:
            return self._default_response(nfa, negotiation, guid, settings)
        return self._ordinary_rules(nfa, guid, settings, names)

    def _ordinary_rules(
        self, nfa: IpsecObject, guid: UUID, settings: RuleSettings, names: Names
    ) -> list[Rule]:
        action = self._filter_actions.get(nfa.negotiation_policy) if nfa.negotiation_policy else None
        if action is None:
            self.problems.loss(ReasonCode.MISSING_OBJECT, "its filter action did not come over", nfa.label)
            return []
        if not nfa.filters:
            self.problems.loss(ReasonCode.MISSING_OBJECT, "it has no filter list", nfa.label)
            return []
        if action.action is Action.NEGOTIATE and not settings.authentication:
            self.problems.loss(
                ReasonCode.INVALID_POLICY, "it negotiates, but has no way to authenticate", nfa.label
            )
            return []
        if len(nfa.filters) > 1:
            self.problems.note(f"it becomes {len(nfa.filters)} rules, one per filter list", nfa.label)
        rules = []
        for position, reference in enumerate(nfa.filters):
            if self._resolved(reference, ObjectClass.FILTER, nfa) is None:
                continue
            filter_list = self._filter_lists.get(reference)
            if filter_list is None:
                self.problems.loss(
                    ReasonCode.MISSING_OBJECT, f"its filter list {reference} did not come over", nfa.label
                )
                continue
            self._rule_count += 1
            if self._rule_count > MAXIMUM_RULES:
                raise error_for(ReasonCode.INVALID_FILE, f"more than {MAXIMUM_RULES} rules")
            rules.append(
                Rule(
                    names.claim(nfa.name, f"Rule for {filter_list.name}", nfa.label, self.problems),
                    filter_list.name,
                    action.name,
                    settings.authentication,
                    settings.tunnel_endpoint,
                    settings.connection_type,
                    settings.active,
                    description_of(nfa.description, nfa.label, self.problems),
                    guid if position == 0 else uuid5(guid, str(position)),
                    nfa.changed or now(),
                )
            )
        return rules

    def _default_response(
        self, nfa: IpsecObject, negotiation: IpsecObject, guid: UUID, settings: RuleSettings
    ) -> list[Rule]:
        self._used.add(negotiation.reference)
        if negotiation.negotiation_action not in (ACTION_NEGOTIATE, ACTION_NEGOTIATE_INBOUND_PASS):
            self.problems.loss(ReasonCode.INVALID_POLICY, "a default response that negotiates not", nfa.label)
            return []
        offers = self._once(self._responses, negotiation, self._offers)
        if offers is None or not offers.methods or not settings.authentication:
            self.problems.loss(
                ReasonCode.INVALID_POLICY, "a default response without methods known here", nfa.label
            )
            return []
        if offers.soft or settings.tunnel_endpoint:
            self.problems.note("a default response knows no soft fall-back and no tunnel", nfa.label)
        return [
            Rule(
                "",
                DYNAMIC_FILTER_LIST,
                DEFAULT_RESPONSE_ACTION,
                settings.authentication,
                None,
                settings.connection_type,
                settings.active,
                description_of(nfa.description, nfa.label, self.problems),
                guid,
                nfa.changed or now(),
                True,
                () if offers.methods == DEFAULT_RESPONSE_METHODS else offers.methods,
                offers.session_pfs,
            )
        ]

    def _report_leftovers(self, policies: list[Policy]) -> None:
        """What no policy has. It was without effect where it came from, too."""
        for entry in self._objects.values():
            own = entry.object_class in (ObjectClass.ISAKMP_POLICY, ObjectClass.NFA) or (
                entry.object_class is ObjectClass.NEGOTIATION_POLICY
                and entry.reference not in self._filter_actions
                and entry.reference not in self._damaged
            )
            if own and entry.reference not in self._used and not self._is_version_information(entry):
                self.problems.note("no policy has it; it is left out", entry.label)
        if self._active is not None and all(policy.guid != self._active for policy in policies):
            self.problems.loss(
                ReasonCode.MISSING_OBJECT, "the assigned policy did not come over", guid_text(self._active)
            )

    @staticmethod
    def _is_version_information(entry: IpsecObject) -> bool:
        if entry.object_class is not ObjectClass.NFA:
            return False
        try:
            data = entry.decoded()
        except StockadeError:
            return False
        return isinstance(data, NfaData) and data.version_information is not None
