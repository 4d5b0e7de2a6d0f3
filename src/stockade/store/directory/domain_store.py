"""The directory as a store of the command language: `netsh ipsec static set store location=domain`.

A directory has no transactions. A change is planned whole before anything is written (`writing`), the
container is compared with what was read (uSNChanged of every object) right before the first step, each
object again before it is changed, and what was done is taken back where a step fails. Between that look and
the change lies one round trip: who changes the same object within it is not noticed.

A policy that a group policy object assigns is not deleted: computers would look for it in vain."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.group_policy import normal_dn
from stockade.policy.memory_store import MemoryTransaction
from stockade.policy.objects import PolicySet
from stockade.store.directory.assignment import Assignment, Directory, assign, assignments, unassign
from stockade.store.directory.evaluation import CONTAINER, DOMAIN_STORE, object_set
from stockade.store.directory.ldap import Scope
from stockade.store.directory.reading import domain_name, read_ipsec_objects
from stockade.store.directory.snapshot import DirectoryObject
from stockade.store.directory.writing import (
    MANY_VALUED,
    AddObject,
    ChangeObject,
    Present,
    RemoveObject,
    Step,
    Values,
    object_dn,
    plan,
)
from stockade.store.formats.conversion.reading import policy_set_and_damage
from stockade.store.formats.objects import ObjectClass, Reference
from stockade.store.formats.problems import is_loss

Stamps = Mapping[Reference, str]


class DomainStore:
    """`connect` is called when the directory is first needed. `tell` hears what of the directory cannot be
    read, once each; `publish`: told of a group policy object that changed (its GUID and its new version)."""

    def __init__(
        self,
        connect: Callable[[], Directory],
        tell: Callable[[Reason], None],
        publish: Callable[[str, int], None],
    ) -> None:
        self._connect, self._tell, self._publish = connect, tell, publish
        self._directory: Directory | None = None
        self._domain_dn = ""
        self._told: set[Reason] = set()

    @property
    def name(self) -> str:
        return DOMAIN_STORE

    @property
    def directory(self) -> Directory:
        if self._directory is None:
            directory = self._connect()
            root = directory.search("", Scope.BASE, ["defaultNamingContext"])
            self._domain_dn = root[0].text("defaultNamingContext") if root else ""
            if not self._domain_dn:
                raise error_for(
                    ReasonCode.DIRECTORY_UNREADABLE,
                    "it is no domain controller: it names no domain",
                    controller=directory.controller,
                )
            self._directory = directory
        return self._directory

    @property
    def domain(self) -> str:
        """Its name. The errors of the connection."""
        assert self.directory
        return domain_name(self._domain_dn)

    @property
    def _container(self) -> str:
        return f"{CONTAINER},{self._domain_dn}"

    def read(self) -> PolicySet:
        """HostError DIRECTORY_UNREACHABLE, DIRECTORY_REFUSED, DIRECTORY_UNREADABLE."""
        return self._load()[1]

    def version(self) -> int:
        directory = self.directory
        rows = directory.search(self._container, Scope.ONE, ["uSNChanged"])
        stamps = sorted((normal_dn(row.dn), row.text("uSNChanged")) for row in rows)
        return int.from_bytes(hashlib.sha256(repr(stamps).encode()).digest()[:7], "big")

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        """Errors at its end: those of `plan`, STORE_BUSY where somebody else changed an object meanwhile, and
        those of the connection; then what was written is taken back."""
        present, before, stamps = self._load()
        change = MemoryTransaction(before)
        yield change
        if not change.changed:
            return
        _refuse_assigned(change.read())
        steps = plan(present, before, change.read())
        if not steps:
            return
        self._require_not_assigned(steps)
        self._require_unchanged(stamps)
        _Writer(self.directory, self._container, stamps).run(steps)

    # ---- group policy objects
    def assign(self, policy: str, gpo: str) -> None:
        """Assign the policy in a group policy object, by its name or GUID. CallerError UNKNOWN_NAME."""
        directory = self.directory
        wanted = self.read().policy(policy)
        if wanted is None:
            raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no policy “{policy}”", store=self.name)
        dn = object_dn(Reference(ObjectClass.POLICY, wanted.guid), self._container)
        guid, version = assign(directory, self._domain_dn, gpo, dn, wanted.name, wanted.description)
        self._publish(guid, version)

    def unassign(self, policy: str, gpo: str) -> None:
        """Take the assignment away. CallerError UNKNOWN_NAME also where it assigns another policy."""
        directory = self.directory
        wanted = self.read().policy(policy)
        if wanted is None:
            raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no policy “{policy}”", store=self.name)
        dn = object_dn(Reference(ObjectClass.POLICY, wanted.guid), self._container)
        guid, version = unassign(directory, self._domain_dn, gpo, dn)
        self._publish(guid, version)

    def assignments(self) -> tuple[Assignment, ...]:
        """All group policy objects that assign an IPsec policy, with the name of that policy."""
        directory = self.directory
        return assignments(directory, self._domain_dn)

    # ---- reading
    def _load(self) -> tuple[Present, PolicySet, Stamps]:
        directory = self.directory
        entries, hidden = read_ipsec_objects(directory, self._domain_dn)
        if hidden:
            raise error_for(
                ReasonCode.DIRECTORY_REFUSED,
                f"{hidden} objects of {CONTAINER} are listed and may not be read by this account",
                controller=directory.controller,
            )
        objects = object_set(entries)
        policy_set, problems, damaged = policy_set_and_damage(
            objects, store=DOMAIN_STORE, source=domain_name(self._domain_dn)
        )
        for problem in problems:
            if is_loss(problem) and problem not in self._told:
                self._told.add(problem)
                self._tell(problem)
        named: dict[Reference, DirectoryObject] = {}
        for entry in entries:
            reference = Reference.parse(entry.dn)
            if reference is not None:
                named[reference] = entry
        understood = {entry.reference: entry for entry in objects.objects}
        return Present(self._container, named, understood, damaged), policy_set, _stamps(entries)

    # ---- writing
    def _require_unchanged(self, stamps: Stamps) -> None:
        rows = self.directory.search(self._container, Scope.ONE, ["uSNChanged"])
        found = {
            reference: row.text("uSNChanged")
            for row in rows
            if (reference := Reference.parse(row.dn)) is not None
        }
        if found != stamps:
            differing = next(iter(sorted({*found.items()} ^ {*stamps.items()})))[0]
            raise _changed_meanwhile(differing)

    def _require_not_assigned(self, steps: Sequence[Step]) -> None:
        going = {
            normal_dn(object_dn(step.reference, self._container)): step.reference
            for step in steps
            if isinstance(step, RemoveObject) and step.reference.object_class is ObjectClass.POLICY
        }
        if not going:
            return
        for one in self.assignments():
            if normal_dn(one.policy_dn) in going:
                raise error_for(
                    ReasonCode.IN_USE,
                    f"the policy is assigned by the group policy object “{one.gpo}”",
                    expected=f'set policy name=… assign=no gponame="{one.gpo}"',
                    store=DOMAIN_STORE,
                )


def _refuse_assigned(objects: PolicySet) -> None:
    policy = objects.assigned
    if policy is not None:
        raise error_for(
            ReasonCode.INVALID_POLICY,
            "in a domain a policy is assigned in a group policy object",
            policy=policy.name,
            expected="set policy name=… assign=yes gponame=…",
        )


def _stamps(entries: Sequence[DirectoryObject]) -> Stamps:
    found = {}
    for entry in entries:
        reference = Reference.parse(entry.dn)
        if reference is not None:
            found[reference] = str(next(iter(entry.attributes.get("usnchanged", ())), ""))
    return found


def _changed_meanwhile(reference: Reference) -> StockadeError:
    return error_for(
        ReasonCode.STORE_BUSY,
        f"somebody else has changed {reference} meanwhile; nothing is applied",
        store=DOMAIN_STORE,
        object=str(reference),
    )


class _Writer:
    """Does the steps, and takes back what it did where one fails."""

    def __init__(self, directory: Directory, container: str, stamps: Stamps) -> None:
        self._directory, self._container = directory, container
        self._stamps = dict(stamps)

    def run(self, steps: Sequence[Step]) -> None:
        done: list[Step] = []
        try:
            for step in steps:
                self._require_same(step)
                self._do(step)
                done.append(step)
        except StockadeError as error:
            self._take_back(done, error)
            raise

    def _require_same(self, step: Step) -> None:
        if isinstance(step, AddObject):
            return
        stamp = self._stamp(step.reference)
        if stamp != self._stamps.get(step.reference):
            raise _changed_meanwhile(step.reference)

    def _stamp(self, reference: Reference) -> str | None:
        rows = self._directory.search(object_dn(reference, self._container), Scope.BASE, ["uSNChanged"])
        return rows[0].text("uSNChanged") if rows else None

    def _do(self, step: Step) -> None:
        dn = object_dn(step.reference, self._container)
        if isinstance(step, RemoveObject):
            self._directory.delete(dn)
            return
        if isinstance(step, AddObject):
            self._directory.add(dn, step.attributes)
        elif step.attributes:
            self._change(dn, step.attributes)
        else:
            self._touch(dn)
        self._stamps[step.reference] = self._stamp(step.reference) or ""

    def _change(self, dn: str, attributes: Mapping[str, tuple[Values, Values]]) -> None:
        single = {name: new for name, (_, new) in attributes.items() if name not in MANY_VALUED}
        many = {name: pair for name, pair in attributes.items() if name in MANY_VALUED}
        self._directory.modify(
            dn,
            single,
            {name: _texts(new) for name, (_, new) in many.items() if new},
            {name: _texts(old) for name, (old, _) in many.items() if old},
        )

    def _touch(self, dn: str) -> None:
        """A new whenChanged. Writing a value over itself is no change to a directory; the type of the data,
        which nobody reads, is another one for a moment (both are in use)."""
        kept = self._directory.search(dn, Scope.BASE, ["ipsecDataType"])[0].text("ipsecDataType") or "256"
        self._directory.modify(dn, {"ipsecDataType": ("598" if kept == "256" else "256",)})
        self._directory.modify(dn, {"ipsecDataType": (kept,)})

    def _take_back(self, done: list[Step], error: StockadeError) -> None:
        """Raises where that fails as well."""
        for step in reversed(done):
            try:
                self._do(_inverse(step))
            except StockadeError as second:
                reason = error.reason
                raise error_for(
                    reason.code,
                    f"{reason.detail}; and what was written before could not be taken back"
                    f" ({second.reason.detail}): look at {step.reference}",
                    **{**dict(reason.facts), "written": str(len(done))},
                ) from None


def _inverse(step: Step) -> Step:
    if isinstance(step, AddObject):
        return RemoveObject(step.reference, step.attributes)
    if isinstance(step, RemoveObject):
        return AddObject(step.reference, step.attributes)
    return ChangeObject(step.reference, {name: (new, old) for name, (old, new) in step.attributes.items()})


def _texts(values: Values) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
