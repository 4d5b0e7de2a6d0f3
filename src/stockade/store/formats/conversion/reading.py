"""`ObjectSet` -> `PolicySet`: an import, whichever file it came from.

What cannot be taken over is a problem that names its object; nothing is guessed and nothing half-taken:
a rule without its filter action is left out, not given another one. A policy that lost anything on the way is
never left assigned: somebody must look at it first."""

from datetime import datetime
from uuid import UUID, uuid5

from stockade.model.filters import Action
from stockade.model.reasons import ReasonCode, StockadeError
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
    IsakmpData,
    NegotiationData,
    NfaData,
    PolicyData,
)
from stockade.store.formats.numbers import EspNumbers
from stockade.store.formats.objects import (
    DEFAULT_RESPONSE_TYPE,
    IpsecObject,
    ObjectClass,
    ObjectSet,
    Reference,
    cycles,
    guid_text,
)
from stockade.store.formats.problems import Problems, is_loss
from stockade.model.reasons import Reason


def policy_set_from_objects(
    objects: ObjectSet,
    *,
    store: str = "local",
    esp_numbers: EspNumbers = EspNumbers.WINDOWS,
) -> tuple[PolicySet, tuple[Reason, ...]]:
    """The policies, filter lists and filter actions of `objects`, and what did not come over as it was
    (those of `objects.problems` first)."""
    reader = _Reader(objects, esp_numbers)
    return reader.policy_set(store), reader.problems.reasons()


class _Reader:
    """One import. Objects are converted once and shared; each remembers whether it lost something."""

    def __init__(self, objects: ObjectSet, esp_numbers: EspNumbers) -> None:
        self.problems = Problems(objects.problems)
        self._objects = {entry.reference: entry for entry in objects.objects}
        self._active = objects.active
        self._esp_numbers = esp_numbers
        self._filter_lists: dict[Reference, FilterList] = {}
        self._filter_actions: dict[Reference, FilterAction] = {}
        self._damaged: set[Reference] = set()  # objects that lost something
        self._rules_taken: set[Reference] = set()
        self._set_losses = any(is_loss(reason) for reason in objects.problems)

    def policy_set(self, store: str) -> PolicySet:
        for chain in cycles(self._objects.values()):
            self.problems.loss(
                ReasonCode.INVALID_FILE,
                "references run in a circle: " + " → ".join(str(entry) for entry in chain[:6]),
                str(chain[0]),
            )
        self._read_filter_lists()
        self._read_filter_actions()
        names = Names()
        policies = []
        for entry in self._of_class(ObjectClass.POLICY):
            policy = self._guarded(entry, lambda entry=entry: self._policy(entry, names))
            if policy is not None:
                policies.append(policy)
        self._report_leftovers(policies)
        return PolicySet(
            tuple(policies), tuple(self._filter_lists.values()), tuple(self._filter_actions.values()), store
        )
