"""What an administrator changed -> the steps that bring it into the directory ([MS-GPIPSEC] §2.2.1, §3.1.5).
Pure.

    add      filters, negotiation policies, main-mode settings  │ nothing refers to them yet
    change   those that are there                               │
    add      rules, then policies                               │ whole when they appear
    change   rules, then policies (references)                  │
    change   owners (back-links: nothing is found by them)
    touch    the policies of what was changed                   │ Windows looks at their whenChanged only
    remove   policies, rules, what only they had                │ nothing refers to them any more

So no reference ever points to what is not there, and who reads in between finds the old policy or the new
one of each object. Windows adds a policy before its parts and links it last; the result is the same.

Only what differs is written: what this version does not know of an object, or cannot say of it, stays as it
is there. What would have to be rewritten from something that did not come over whole is refused."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid5

from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.objects import PolicySet
from stockade.store.directory.snapshot import DirectoryObject, Value
from stockade.store.formats.conversion.writing import objects_from_policy_set
from stockade.store.formats.objects import (
    DEFAULT_RESPONSE_TYPE,
    IpsecObject,
    ObjectClass,
    Reference,
    guid_text,
)
from stockade.store.formats.problems import is_loss

_LEAVES = (ObjectClass.FILTER, ObjectClass.NEGOTIATION_POLICY, ObjectClass.ISAKMP_POLICY)
_ORDER = (*_LEAVES, ObjectClass.NFA, ObjectClass.POLICY)
OWNERS = "ipsecOwnersReference"
MANY_VALUED = frozenset({OWNERS, "ipsecNFAReference", "ipsecFilterReference"})

Values = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class AddObject:
    """A new object, with its attributes."""

    reference: Reference
    attributes: Mapping[str, Values] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChangeObject:
    """`attributes`: the values that go and those that come. Both empty: the object is written as it is, so
    that its time of change is new."""

    reference: Reference
    attributes: Mapping[str, tuple[Values, Values]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RemoveObject:
    """An object that goes. `attributes`: what it held, so that it can be put back."""

    reference: Reference
    attributes: Mapping[str, Values] = field(repr=False)


Step = AddObject | ChangeObject | RemoveObject


def object_dn(reference: Reference, container: str) -> str:
    return f"CN={reference},{container}"


def attributes_of(entry: IpsecObject, container: str) -> dict[str, Values]:
    """The attributes of an object as a directory holds them; those without a value are left out."""
    found: dict[str, Values] = {
        "objectClass": ("top", "ipsecBase", entry.object_class.value),
        "ipsecID": (guid_text(entry.guid),),
        "ipsecDataType": (str(entry.data_type),),
        "ipsecData": (entry.data,),
    }
    for name, text in (("ipsecName", entry.name), ("description", entry.description)):
        if text:
            found[name] = (text,)
    for name, references in (
        (OWNERS, entry.owners),
        ("ipsecNFAReference", entry.rules),
        ("ipsecFilterReference", entry.filters),
        ("ipsecISAKMPReference", (entry.isakmp_policy,)),
        ("ipsecNegotiationPolicyReference", (entry.negotiation_policy,)),
    ):
        named = tuple(object_dn(one, container) for one in references if one is not None)
        if named:
            found[name] = named
    for name, guid in (
        ("iPSECNegotiationPolicyType", entry.negotiation_type),
        ("iPSECNegotiationPolicyAction", entry.negotiation_action),
    ):
        if guid is not None:
            found[name] = (guid_text(guid),)
    return found


@dataclass(frozen=True, slots=True)
class Present:
    """What a directory holds: `entries` as they were read, `objects` as they were understood, `damaged`:
    those of them that did not come over whole."""

    container: str
    entries: Mapping[Reference, DirectoryObject]
    objects: Mapping[Reference, IpsecObject]
    damaged: frozenset[Reference] = frozenset()

    def values(self, reference: Reference, name: str) -> Values:
        return tuple(self.entries[reference].attributes.get(name.casefold(), ()))


def plan(present: Present, before: PolicySet, after: PolicySet) -> tuple[Step, ...]:
    """The steps, in their order. `before`: what the administrator saw. CallerError NOT_EXPRESSIBLE and the
    like for what a directory cannot hold, INVALID_POLICY for what cannot be changed from here, IN_USE."""
    return _Planner(present, before, after).steps()


class _Planner:
    def __init__(self, present: Present, before: PolicySet, after: PolicySet) -> None:
        self._present = present
        self._before, known = self._objects(before)
        self._after, problems = self._objects(after)
        for problem in problems:
            if is_loss(problem) and problem not in known:
                raise error_for(problem.code, problem.detail, **dict(problem.facts))

    def _objects(self, policy_set: PolicySet) -> tuple[dict[Reference, IpsecObject], tuple[Reason, ...]]:
        """What a policy set becomes; objects that it has no GUIDs for keep those of the directory."""
        made = objects_from_policy_set(policy_set, with_secrets=True)
        names: dict[Reference, Reference] = {}
        for entry in self._present.objects.values():
            if entry.object_class is ObjectClass.POLICY and entry.isakmp_policy is not None:
                self._rename(names, entry.isakmp_policy, entry.guid)
            elif entry.object_class is ObjectClass.NFA and entry.negotiation_policy is not None:
                found = self._present.objects.get(entry.negotiation_policy)
                if found is not None and found.negotiation_type == DEFAULT_RESPONSE_TYPE:
                    self._rename(names, found.reference, entry.guid)
        renamed = (_renamed(entry, names) for entry in made.objects)
        return {entry.reference: entry for entry in renamed}, made.problems

    def _rename(self, names: dict[Reference, Reference], real: Reference, owner: UUID) -> None:
        """Not where several have it: it would be changed for all of them."""
        users = sum(real in entry.forward for entry in self._present.objects.values())
        if users == 1:
            names[Reference(real.object_class, uuid5(owner, real.object_class))] = real

    def steps(self) -> tuple[Step, ...]:
        added = [one for reference, one in self._after.items() if reference not in self._before]
        gone = [one for reference, one in self._before.items() if reference not in self._after]
        changed = [
            (self._before[reference], one)
            for reference, one in self._after.items()
            if reference in self._before and self._before[reference] != one
        ]
        removed = self._removed(gone)
        for entry in added:
            if entry.reference in self._present.entries:
                raise error_for(
                    ReasonCode.NAME_EXISTS,
                    f"the directory has an object {entry.reference}, which cannot be read",
                    object=str(entry.reference),
                )
        changes = {new.reference: self._change(old, new) for old, new in changed}
        return (
            *self._additions(added, _LEAVES),
            *_of(changes, _LEAVES, owners=False),
            *self._additions(added, (ObjectClass.NFA,)),
            *self._additions(added, (ObjectClass.POLICY,)),
            *_of(changes, (ObjectClass.NFA,), owners=False),
            *_of(changes, (ObjectClass.POLICY,), owners=False),
            *self._new_owners(added),
            *_of(changes, _ORDER, owners=True),
            *self._touched(changes, removed),
            *removed,
        )

    # ---- what is new
    def _additions(self, added: Iterable[IpsecObject], classes: tuple[ObjectClass, ...]) -> Iterator[Step]:
        for entry in added:
            if entry.object_class in classes:
                yield AddObject(
                    entry.reference, attributes_of(replace(entry, owners=()), self._present.container)
                )

    def _new_owners(self, added: Iterable[IpsecObject]) -> Iterator[Step]:
        for entry in added:
            if entry.owners:
                values = attributes_of(entry, self._present.container)[OWNERS]
                yield ChangeObject(entry.reference, {OWNERS: ((), values)})

    # ---- what is changed
    def _change(self, old: IpsecObject, new: IpsecObject) -> ChangeObject:
        reference = new.reference
        container = self._present.container
        was, becomes = attributes_of(old, container), attributes_of(new, container)
        differing = [name for name in {**was, **becomes} if was.get(name) != becomes.get(name)]
        if set(differing) - {OWNERS}:
            self._require_whole(reference, data="ipsecData" in differing)
        found: dict[str, tuple[Values, Values]] = {}
        for name in differing:
            if reference not in self._present.entries:
                continue  # owners of what several rules have: a back-link of a rule that is no object
            there = self._present.values(reference, name)
            if name not in MANY_VALUED:
                found[name] = (there, becomes.get(name, ()))
                continue
            held = {_folded(value): value for value in there}
            goes = [held.get(_folded(value)) for value in _less(was.get(name, ()), becomes.get(name, ()))]
            comes = [
                value
                for value in _less(becomes.get(name, ()), was.get(name, ()))
                if _folded(value) not in held
            ]
            found[name] = (tuple(value for value in goes if value is not None), tuple(comes))
        return ChangeObject(reference, {name: pair for name, pair in found.items() if pair[0] != pair[1]})

    def _require_whole(self, reference: Reference, *, data: bool) -> None:
        present = self._present
        entry = present.objects.get(reference)
        if entry is None:
            raise _not_from_here(f"{reference} stands for something that several policies or rules share")
        if data and reference in present.damaged and reference.object_class is not ObjectClass.POLICY:
            raise _not_from_here(f"{entry.label} holds something that cannot be read, and that would be lost")
        if reference.object_class is ObjectClass.NFA and len(entry.filters) > 1:
            raise _not_from_here(f"{entry.label} is one rule with {len(entry.filters)} filter lists")

    def _touched(self, changes: Mapping[Reference, ChangeObject], removed: list[Step]) -> Iterator[Step]:
        """The policies that have something of what was changed."""
        parts = {reference for reference, one in changes.items() if set(one.attributes) - {OWNERS}}
        removals = {one.reference for one in removed if isinstance(one, RemoveObject)}
        for entry in self._present.objects.values():
            if entry.object_class is not ObjectClass.POLICY or entry.reference in (parts | removals):
                continue
            rules = [self._present.objects.get(rule) for rule in entry.rules]
            has = {*entry.forward, *(part for rule in rules if rule is not None for part in rule.forward)}
            if not has.isdisjoint(parts):
                yield ChangeObject(entry.reference, {})

    # ---- what goes
    def _removed(self, gone: Iterable[IpsecObject]) -> list[Step]:
        objects = self._present.objects
        going: dict[Reference, None] = {}
        for entry in gone:
            if entry.object_class is ObjectClass.POLICY:
                self._with_parts(entry.reference, going)
        for entry in gone:
            if entry.reference in going:
                continue
            real = objects.get(entry.reference)
            if real is not None:
                self._require_whole(entry.reference, data=False)
                going[entry.reference] = None
            elif entry.object_class is ObjectClass.NFA and not self._belongs_to(entry, going):
                raise _not_from_here(f"rule “{entry.name}” is one of several of one object of the directory")
        self._require_unused(going)
        steps: list[Step] = list(self._lost_owners(going))
        for object_class in (ObjectClass.POLICY, ObjectClass.NFA, *_LEAVES):
            for reference in going:
                if reference.object_class is object_class:
                    steps.append(RemoveObject(reference, self._held(reference)))
        return steps

    def _with_parts(self, policy: Reference, going: dict[Reference, None]) -> None:
        """A policy, its rules and its main-mode settings, but for what another one has as well."""
        objects = self._present.objects
        going[policy] = None
        entry = objects[policy]
        for part in (entry.isakmp_policy, *entry.rules):
            if part not in objects or part is None:
                continue
            if any(part in one.forward for one in objects.values() if one.reference not in going):
                continue
            going[part] = None
            response = objects[part].negotiation_policy
            found = objects.get(response) if response is not None else None
            if found is not None and found.negotiation_type == DEFAULT_RESPONSE_TYPE and not found.name:
                users = [one for one in objects.values() if found.reference in one.forward]
                if all(one.reference in going for one in users):
                    going[found.reference] = None

    def _belongs_to(self, rule: IpsecObject, going: Mapping[Reference, None]) -> bool:
        return any(owner in going for owner in rule.owners)

    def _require_unused(self, going: Mapping[Reference, None]) -> None:
        """Nothing that stays may refer to what goes; what an administrator saw may not be all there is."""
        for entry in self._present.objects.values():
            if entry.reference in going:
                continue
            now = self._after.get(entry.reference)
            was = self._before.get(entry.reference)
            let_go = set(was.forward) - set(now.forward) if was is not None and now is not None else set()
            for reference in entry.forward:
                if reference in going and reference not in let_go:
                    raise error_for(
                        ReasonCode.IN_USE,
                        f"{self._present.objects[reference].label} is used by {entry.label}",
                        object=str(reference),
                        user=str(entry.reference),
                    )

    def _lost_owners(self, going: Mapping[Reference, None]) -> Iterator[Step]:
        """Back-links of what stays to what goes, where no change of ours takes them away."""
        names = {_folded(object_dn(reference, self._present.container)) for reference in going}
        for reference in self._present.objects:
            if reference in going:
                continue
            lost = tuple(
                value for value in self._present.values(reference, OWNERS) if _folded(value) in names
            )
            was, now = self._before.get(reference), self._after.get(reference)
            if was is not None and now is not None:
                taken = {
                    _folded(object_dn(one, self._present.container)) for one in {*was.owners} - {*now.owners}
                }
                lost = tuple(value for value in lost if _folded(value) not in taken)
            if lost:
                yield ChangeObject(reference, {OWNERS: (lost, ())})

    def _held(self, reference: Reference) -> dict[str, Values]:
        skipped = {"whenchanged", "usnchanged"}
        values = self._present.entries[reference].attributes
        kept: dict[str, Values] = {name: tuple(one) for name, one in values.items() if name not in skipped}
        return {**kept, "objectClass": ("top", "ipsecBase", reference.object_class.value)}


def _of(
    changes: Mapping[Reference, ChangeObject], classes: tuple[ObjectClass, ...], *, owners: bool
) -> Iterator[Step]:
    """The changes of these classes: of their owners only, or of all else."""
    for object_class in classes:
        for reference, change in changes.items():
            kept = {name: pair for name, pair in change.attributes.items() if (name == OWNERS) is owners}
            if reference.object_class is object_class and kept:
                yield ChangeObject(reference, kept)


def _renamed(entry: IpsecObject, names: Mapping[Reference, Reference]) -> IpsecObject:
    def real(reference: Reference | None) -> Reference | None:
        return None if reference is None else names.get(reference, reference)

    return replace(
        entry,
        guid=names.get(entry.reference, entry.reference).guid,
        isakmp_policy=real(entry.isakmp_policy),
        negotiation_policy=real(entry.negotiation_policy),
        changed=None,
        place="",
    )


def _less(values: Values, others: Values) -> list[Value]:
    known = {_folded(value) for value in others}
    return [value for value in values if _folded(value) not in known]


def _folded(value: Value) -> Value:
    return value if isinstance(value, bytes) else value.casefold().replace(", ", ",")


def _not_from_here(detail: str) -> StockadeError:
    return error_for(
        ReasonCode.INVALID_POLICY,
        f"{detail}; it is left as it is in the directory",
        expected="change it with the tool that made it, or make a new one",
    )
