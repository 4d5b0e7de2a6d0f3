"""The dynamic store: objects in the memory of the agent, gone when it stops (`netsh ipsec dynamic`).

The agent holds a `DynamicMemory`; the command line reads its content as JSON, changes it as a whole and sends
it back with the version that it read. If somebody else was faster the agent says STORE_BUSY and nothing is
lost."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from stockade.model.filters import Action
from stockade.model.reasons import ReasonCode, error_for
from stockade.policy.dynamic import (
    DynamicRule,
    DynamicSet,
    MainModePolicyObject,
    PfsGroup,
    QuickModePolicyObject,
)
from stockade.policy.objects import ConnectionType
from stockade.store.json_form import (
    Form,
    address_form,
    address_of,
    authentication,
    authentication_form,
    filter_form,
    filter_of,
    flag,
    items,
    main_mode_form,
    main_mode_methods,
    member,
    number,
    quick_mode_form,
    quick_mode_methods,
    record,
    text,
)

MAXIMUM_OBJECTS = 20_000  # policies and rules together: it is all sent at once


class DynamicMemory:
    """What the agent holds. `version` differs after every change."""

    def __init__(self) -> None:
        self._objects = DynamicSet()
        self._version = 1

    @property
    def version(self) -> int:
        return self._version

    def read(self) -> DynamicSet:
        return self._objects

    def require_version(self, version: int) -> None:
        """HostError STORE_BUSY where somebody changed it since `version`."""
        if version != self._version:
            raise error_for(
                ReasonCode.STORE_BUSY, "somebody else changed the dynamic policy meanwhile", store="dynamic"
            )

    def replace(self, objects: DynamicSet) -> None:
        """Put `objects` in the place of what is there."""
        check_dynamic(objects)
        self._objects = objects
        self._version += 1


def check_dynamic(objects: DynamicSet) -> None:
    """CallerError where the objects do not fit together: a name twice, a rule with an unknown policy, too
    many."""
    count = len(objects.main_mode_policies) + len(objects.quick_mode_policies) + len(objects.rules)
    if count > MAXIMUM_OBJECTS:
        raise error_for(
            ReasonCode.INVALID_POLICY, f"{count} dynamic objects; at most {MAXIMUM_OBJECTS} are kept"
        )
    main_modes = [entry.name.casefold() for entry in objects.main_mode_policies]
    quick_modes = [entry.name.casefold() for entry in objects.quick_mode_policies]
    for names in (main_modes, quick_modes):
        if len(set(names)) != len(names):
            raise error_for(ReasonCode.NAME_EXISTS, "two dynamic policies of one kind have the same name")
    for rule in objects.rules:
        wanted = ((rule.main_mode_policy, main_modes), (rule.quick_mode_policy, quick_modes))
        for name, names in wanted:
            if name and name.casefold() not in names:
                raise error_for(
                    ReasonCode.UNKNOWN_NAME, f"there is no dynamic policy “{name}”", rule=rule.name
                )


# -- JSON


def dynamic_form(objects: DynamicSet, *, with_keys: bool) -> dict[str, Form]:
    """The objects as JSON; pre-shared keys only `with_keys`."""
    return {
        "main_mode_policies": [
            {
                "guid": str(entry.guid),
                "name": entry.name,
                "modified": entry.modified.isoformat(),
                "methods": main_mode_form(entry.methods),
                "main_mode_minutes": entry.main_mode_minutes,
                "quick_modes_per_main_mode": entry.quick_modes_per_main_mode,
                "soft_expiration_minutes": entry.soft_expiration_minutes,
            }
            for entry in objects.main_mode_policies
        ],
        "quick_mode_policies": [
            {
                "guid": str(entry.guid),
                "name": entry.name,
                "modified": entry.modified.isoformat(),
                "methods": quick_mode_form(entry.methods),
                "soft": entry.soft,
                "pfs_group": entry.pfs_group.value,
            }
            for entry in objects.quick_mode_policies
        ],
        "rules": [
            {
                "guid": str(rule.guid),
                "modified": rule.modified.isoformat(),
                "filter": filter_form(rule.filter),
                "main_mode_policy": rule.main_mode_policy,
                "quick_mode_policy": rule.quick_mode_policy,
                "action_inbound": rule.action_inbound.value,
                "action_outbound": rule.action_outbound.value,
                "authentication": authentication_form(rule.authentication, with_keys=with_keys),
                "tunnel_endpoint": address_form(rule.tunnel_endpoint),
                "connection_type": rule.connection_type.value,
            }
            for rule in objects.rules
        ],
    }


def dynamic_of(form: Form) -> DynamicSet:
    """The objects in JSON with keys. ValueError where it is not such a form."""
    fields = record(form)
    return DynamicSet(
        tuple(_main_mode_policy(record(entry)) for entry in items(member(fields, "main_mode_policies"))),
        tuple(_quick_mode_policy(record(entry)) for entry in items(member(fields, "quick_mode_policies"))),
        tuple(_rule(record(entry)) for entry in items(member(fields, "rules"))),
    )


def _identity(form: Mapping[str, Form]) -> tuple[UUID, datetime]:
    return UUID(text(member(form, "guid"))), datetime.fromisoformat(text(member(form, "modified")))


def _main_mode_policy(form: Mapping[str, Form]) -> MainModePolicyObject:
    return MainModePolicyObject(
        text(member(form, "name")),
        main_mode_methods(member(form, "methods")),
        number(member(form, "main_mode_minutes")),
        number(member(form, "quick_modes_per_main_mode")),
        number(member(form, "soft_expiration_minutes")),
        *_identity(form),
    )


def _quick_mode_policy(form: Mapping[str, Form]) -> QuickModePolicyObject:
    return QuickModePolicyObject(
        text(member(form, "name")),
        quick_mode_methods(member(form, "methods")),
        flag(member(form, "soft")),
        PfsGroup(text(member(form, "pfs_group"))),
        *_identity(form),
    )


def _rule(form: Mapping[str, Form]) -> DynamicRule:
    return DynamicRule(
        filter_of(member(form, "filter")),
        text(member(form, "main_mode_policy")),
        text(member(form, "quick_mode_policy")),
        Action(text(member(form, "action_inbound"))),
        Action(text(member(form, "action_outbound"))),
        authentication(member(form, "authentication")),
        address_of(member(form, "tunnel_endpoint")),
        ConnectionType(text(member(form, "connection_type"))),
        *_identity(form),
    )
