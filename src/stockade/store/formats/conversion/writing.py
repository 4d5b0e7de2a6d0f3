"""`PolicySet` -> `ObjectSet`: an export to what Windows reads.

GUIDs that the policy model does not have (main-mode settings, the default response's negotiation policy,
single filters) follow from those that it has, so that an export of the same policies gives the same objects.
What the form cannot hold (AES, SHA-2, elliptic curves …) is a loss that names its object; who writes a file
decides whether losses are allowed."""

from collections import defaultdict
from uuid import uuid5

from stockade.model.reasons import ReasonCode
from stockade.policy.objects import DEFAULT_RESPONSE_METHODS, Policy, PolicySet, Rule
from stockade.store.formats.conversion.actions import write_filter_action, write_offers
from stockade.store.formats.conversion.filters import write_filters
from stockade.store.formats.conversion.main_mode import write_main_mode
from stockade.store.formats.conversion.rules import write_rule
from stockade.store.formats.ipsec_data import PolicyData
from stockade.store.formats.numbers import EspNumbers
from stockade.store.formats.objects import (
    ACTION_NEGOTIATE,
    DEFAULT_RESPONSE_TYPE,
    IpsecObject,
    ObjectClass,
    ObjectSet,
    Reference,
)
from stockade.store.formats.problems import Problems

_LARGEST = 0xFFFF_FFFF


def objects_from_policy_set(
    policy_set: PolicySet, *, with_secrets: bool, esp_numbers: EspNumbers = EspNumbers.WINDOWS
) -> ObjectSet:
    """The objects; `problems` of the result says what they cannot hold. Pre-shared keys stand in them in
    clear, as Windows has it, so they are left out (a loss each) unless `with_secrets`."""
    writer = _Writer(policy_set, with_secrets, esp_numbers)
    return writer.objects()


class _Writer:
    def __init__(self, policy_set: PolicySet, with_secrets: bool, esp_numbers: EspNumbers) -> None:
        self._set = policy_set
        self._with_secrets = with_secrets
        self._esp_numbers = esp_numbers
        self._problems = Problems()
        self._owners: dict[Reference, list[Reference]] = defaultdict(list)

    def objects(self) -> ObjectSet:
        made: list[IpsecObject] = []
        for policy in self._set.policies:
            made += self._policy(policy)
        for action in self._set.filter_actions:
            reference = Reference(ObjectClass.NEGOTIATION_POLICY, action.guid)
            made.append(
                write_filter_action(action, tuple(self._owners[reference]), self._esp_numbers, self._problems)
            )
        for filter_list in self._set.filter_lists:
            reference = Reference(ObjectClass.FILTER, filter_list.guid)
            made.append(
                IpsecObject(
                    ObjectClass.FILTER,
                    filter_list.guid,
                    filter_list.name,
                    filter_list.description,
                    write_filters(filter_list, self._problems).encode(),
                    changed=filter_list.modified,
                    owners=tuple(self._owners[reference]),
                )
            )
        assigned = self._set.assigned
        return ObjectSet(tuple(made), assigned.guid if assigned else None, self._problems.reasons())

    def _policy(self, policy: Policy) -> list[IpsecObject]:
        where = f"policy “{policy.name}”"
        own = Reference(ObjectClass.POLICY, policy.guid)
        isakmp = IpsecObject(
            ObjectClass.ISAKMP_POLICY,
            uuid5(policy.guid, ObjectClass.ISAKMP_POLICY),
            data=write_main_mode(policy, where, self._problems).encode(),
            changed=policy.modified,
            owners=(own,),
        )
        rules: list[IpsecObject] = []
        others: list[IpsecObject] = []
        for rule in policy.rules:
            made = self._rule(rule, own, where)
            if made:
                rules.append(made[0])
                others += made[1:]
        entry = IpsecObject(
            ObjectClass.POLICY,
            policy.guid,
            policy.name,
            policy.description,
            PolicyData(min(policy.polling_minutes * 60, _LARGEST)).encode(),
            changed=policy.modified,
            isakmp_policy=isakmp.reference,
            rules=tuple(rule.reference for rule in rules),
        )
        return [entry, isakmp, *rules, *others]

    def _rule(self, rule: Rule, policy: Reference, where: str) -> list[IpsecObject]:
        """The rule, and for the default response its negotiation policy."""
        label = f"{where}, rule “{rule.name}”" if rule.name else f"{where}, the default response rule"
        own = Reference(ObjectClass.NFA, rule.guid)
        others: list[IpsecObject] = []
        filters: tuple[Reference, ...] = ()
        if rule.is_default_response:
            others = [self._response(rule, own, label)]
            negotiation = others[0].reference
        else:
            action = self._set.filter_action(rule.filter_action)
            filter_list = self._set.filter_list(rule.filter_list)
            if action is None or filter_list is None:
                missing = rule.filter_list if action else rule.filter_action
                self._problems.loss(ReasonCode.MISSING_OBJECT, f"“{missing}”", label)
                return []
            negotiation = Reference(ObjectClass.NEGOTIATION_POLICY, action.guid)
            filters = (Reference(ObjectClass.FILTER, filter_list.guid),)
            for reference in (negotiation, *filters):
                self._owners[reference].append(own)
        data = write_rule(rule, with_secrets=self._with_secrets, where=label, problems=self._problems)
        entry = IpsecObject(
            ObjectClass.NFA,
            rule.guid,
            rule.name,
            rule.description,
            data.encode(),
            changed=rule.modified,
            owners=(policy,),
            negotiation_policy=negotiation,
            filters=filters,
        )
        return [entry, *others]

    def _response(self, rule: Rule, own: Reference, label: str) -> IpsecObject:
        data = write_offers(
            rule.response_methods or DEFAULT_RESPONSE_METHODS,
            soft=False,
            session_pfs=rule.response_session_pfs,
            where=label,
            reading=self._esp_numbers,
            problems=self._problems,
        )
        return IpsecObject(
            ObjectClass.NEGOTIATION_POLICY,
            uuid5(rule.guid, ObjectClass.NEGOTIATION_POLICY),
            data=data.encode(),
            changed=rule.modified,
            owners=(own,),
            negotiation_type=DEFAULT_RESPONSE_TYPE,
            negotiation_action=ACTION_NEGOTIATE,
        )
