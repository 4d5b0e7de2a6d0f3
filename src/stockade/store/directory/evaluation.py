"""A snapshot of a directory -> which policy applies and the policy itself, ready to compile. Pure.

An object that refers to one that is not there, a blob that is cut off, references in a circle: whatever the
assigned policy loses makes it unusable, and the error names the object. Nothing is guessed, and what is
wrong with other policies of the directory is only told."""

from dataclasses import dataclass, replace
from uuid import UUID

from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.group_policy import Resultant, normal_dn, resultant
from stockade.policy.objects import Policy, PolicySet
from stockade.store.directory.snapshot import DirectoryObject, Snapshot
from stockade.store.formats.conversion.reading import policy_set_from_objects
from stockade.store.formats.objects import ObjectClass, ObjectSet, RawObject, Reference, build_objects, cycles
from stockade.store.formats.problems import Problems, is_loss, shown

DOMAIN_STORE = "domain"
CONTAINER = "CN=IP Security,CN=System"


def object_set(
    objects: tuple[DirectoryObject, ...], active: UUID | None = None, hidden: int = 0
) -> ObjectSet:
    """The IPsec objects; what cannot be read is in its problems."""
    problems = Problems()
    if hidden:
        problems.loss(
            ReasonCode.DIRECTORY_REFUSED, f"{hidden} objects are listed and may not be read", CONTAINER
        )
    raws = []
    for entry in objects:
        name = entry.dn.partition(",")[0]
        name = name[3:] if name[:3].casefold() == "cn=" else name
        if Reference.named(name) is not None:
            raws.append(RawObject(name, entry.attributes, "in the directory"))
    return ObjectSet(build_objects(raws, problems), active, problems.reasons())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`policy`: the assigned one; None where none is. `policy_set` holds it, and no other as assigned.
    `problems`: what is wrong with objects of the directory, and does not concern it."""

    resultant: Resultant
    policy_set: PolicySet
    problems: tuple[Reason, ...] = ()

    @property
    def policy(self) -> Policy | None:
        return self.policy_set.assigned


def evaluate(snapshot: Snapshot) -> Evaluation:
    """What applies. HostError DIRECTORY_UNREADABLE where a policy is assigned and cannot be used."""
    verdict = resultant(snapshot.containers, snapshot.gpos)
    winner = verdict.winner
    reference = None
    if winner is not None:
        reference = Reference.parse(winner.gpo.pointer)
        if reference is None or reference.object_class is not ObjectClass.POLICY:
            raise _unusable(
                f"it points to “{shown(winner.gpo.pointer)}”, which is no IPsec policy", winner.gpo.name
            )
        container = normal_dn(f"{CONTAINER},{snapshot.domain_dn}")
        if normal_dn(winner.gpo.pointer).partition(",")[2] != container:
            raise _unusable(
                f"it points out of this domain, to “{shown(winner.gpo.pointer)}”", winner.gpo.name
            )
    active = reference.guid if reference else None
    objects = object_set(snapshot.objects, active, snapshot.hidden)
    if winner is not None and reference is not None:
        _require_no_circle(objects, reference, winner.gpo.name)
    try:
        policy_set, problems = policy_set_from_objects(objects, store=DOMAIN_STORE, source=snapshot.domain)
    except StockadeError as error:
        if winner is None:
            return Evaluation(verdict, PolicySet(store=DOMAIN_STORE), (error.reason,))
        raise _unusable(error.reason.detail, winner.gpo.name) from None
    policies = tuple(
        replace(one, assigned=one.assigned and one.guid == active) for one in policy_set.policies
    )
    policy_set = replace(policy_set, policies=policies)
    if winner is not None and reference is not None and policy_set.assigned is None:
        raise _not_assigned(snapshot, reference, winner.gpo.name, problems)
    return Evaluation(verdict, policy_set, problems)


def _require_no_circle(objects: ObjectSet, start: Reference, gpo: str) -> None:
    """Nothing that the policy refers to may lead back to itself."""
    forward = {entry.reference: entry.forward for entry in objects.objects}
    reached, waiting = {start}, [start]
    while waiting:
        for following in forward.get(waiting.pop(), ()):
            if following not in reached:
                reached.add(following)
                waiting.append(following)
    for chain in cycles(objects.objects):
        if reached.intersection(chain):
            raise _unusable("references run in a circle: " + " → ".join(map(str, chain[:6])), gpo)


def _not_assigned(
    snapshot: Snapshot, reference: Reference, gpo: str, problems: tuple[Reason, ...]
) -> StockadeError:
    known = {Reference.parse(entry.dn) for entry in snapshot.objects}
    if reference not in known:
        why = f"its policy {reference} is not in the directory"
        if snapshot.hidden:
            why += f", or is one of {snapshot.hidden} objects that this computer may not read"
        return _unusable(why, gpo)
    losses = [str(one) for one in problems if is_loss(one)]
    why = f"its policy {reference} is damaged"
    return _unusable(f"{why}: {'; '.join(losses[:3])}" if losses else why, gpo)


def _unusable(detail: str, gpo: str) -> StockadeError:
    return error_for(ReasonCode.DIRECTORY_UNREADABLE, detail, gpo=shown(gpo))
