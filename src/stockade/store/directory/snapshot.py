"""What was read of a directory at one time: the facts that decide which policy applies, and the IPsec
objects, before anything of them is believed. It has a form in JSON, so a process can hand it to another and
an agent can keep it.

It can hold pre-shared keys (a directory has them in clear), so its file is for its owner only and it is not
shown."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from uuid import UUID

from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.policy.group_policy import Container, ContainerKind, GpoLink, GroupPolicyObject

FORMAT = 1
MAXIMUM_BYTES = 64 << 20
_OF_A_CONTROLLER = frozenset({"usnchanged", "whenchanged"})
Value = str | bytes


@dataclass(frozen=True, slots=True)
class DirectoryObject:
    """An entry of the container of IPsec objects. `attributes`: names in small letters; ipsecData as bytes,
    everything else as text."""

    dn: str
    attributes: Mapping[str, tuple[Value, ...]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`read`: Unix time. `target`: DN of the computer, or of the organizational unit that was asked about.
    `containers`: from the weakest on. `hidden`: how many entries of the IPsec container are listed to us
    and not shown. `stamp`: what the controller says of the times of change of all IPsec objects; while it
    says the same they need not be read (`unchanged`: they were not, and are those of the look before)."""

    read: float
    domain: str
    domain_dn: str
    target: str
    controller: str = ""
    site: str = ""
    containers: tuple[Container, ...] = ()
    gpos: tuple[GroupPolicyObject, ...] = ()
    objects: tuple[DirectoryObject, ...] = field(default=(), repr=False)
    hidden: int = 0
    stamp: str = ""
    unchanged: bool = False

    def with_objects_of(self, before: "Snapshot") -> "Snapshot":
        """Whole again: where the objects were not read, those that were there before."""
        if not self.unchanged:
            return self
        return replace(self, objects=before.objects, hidden=before.hidden, unchanged=False)

    def same_content(self, other: "Snapshot") -> bool:
        """Equal but for when and from whom it was read."""
        return _content(self) == _content(other)


def _content(one: Snapshot) -> tuple[object, ...]:
    # Each controller counts updates for itself.
    objects = tuple(
        (entry.dn, {name: value for name, value in entry.attributes.items() if name not in _OF_A_CONTROLLER})
        for entry in one.objects
    )
    return (one.domain_dn, one.target, one.site, one.containers, one.gpos, objects, one.hidden)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """As JSON."""
    form = {
        "format": FORMAT,
        **{
            name: getattr(snapshot, name)
            for name in (
                "read",
                "domain",
                "domain_dn",
                "target",
                "controller",
                "site",
                "hidden",
                "stamp",
                "unchanged",
            )
        },
        "containers": [asdict(one) for one in snapshot.containers],
        "gpos": [{**asdict(one), "guid": str(one.guid) if one.guid else None} for one in snapshot.gpos],
        "objects": [
            {
                "dn": one.dn,
                "attributes": {
                    name: [_encoded(value) for value in values] for name, values in one.attributes.items()
                },
            }
            for one in snapshot.objects
        ],
    }
    return json.dumps(form, ensure_ascii=False, separators=(",", ":")).encode()


def _encoded(value: Value) -> object:
    return value if isinstance(value, str) else {"b": base64.b64encode(value).decode("ascii")}


def decode_snapshot(data: bytes) -> Snapshot:
    """HostError DIRECTORY_UNREADABLE where it is damaged or of another format."""
    if len(data) > MAXIMUM_BYTES:
        raise _damaged(f"{len(data)} bytes; at most {MAXIMUM_BYTES} are read")
    try:
        form = json.loads(data)
        if form["format"] != FORMAT:
            raise _damaged(f"its format is {form['format']}, {FORMAT} expected")
        domain, domain_dn, target, controller, site = (
            _text(form[name]) for name in ("domain", "domain_dn", "target", "controller", "site")
        )
        return Snapshot(
            float(form["read"]),
            domain,
            domain_dn,
            target,
            controller,
            site,
            tuple(_container(one) for one in form["containers"]),
            tuple(_gpo(one) for one in form["gpos"]),
            tuple(_object(one) for one in form["objects"]),
            int(form["hidden"]),
            _text(form.get("stamp", "")),
            bool(form.get("unchanged", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise _damaged(f"it cannot be read ({type(error).__name__})") from None


def _damaged(detail: str) -> StockadeError:
    return error_for(ReasonCode.DIRECTORY_UNREADABLE, f"the copy of the directory: {detail}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _container(form: dict[str, object]) -> Container:
    links = form["links"]
    if not isinstance(links, list):
        raise TypeError
    return Container(
        _text(form["dn"]),
        ContainerKind(_text(form["kind"])),
        tuple(GpoLink(_text(one["gpo"]), bool(one["disabled"]), bool(one["enforced"])) for one in links),
        bool(form["blocks_inheritance"]),
    )


def _gpo(form: dict[str, object]) -> GroupPolicyObject:
    texts = ("dn", "name", "why_not_permitted", "wmi_filter", "pointer", "pointer_name")
    switches = ("readable", "computer_disabled", "supported", "permitted", "has_extension")
    guid = form["guid"]
    facts: dict[str, object] = {name: _text(form[name]) for name in texts}
    facts |= {name: bool(form[name]) for name in switches}
    return GroupPolicyObject(**facts, guid=UUID(_text(guid)) if guid else None)  # type: ignore[arg-type]


def _object(form: dict[str, object]) -> DirectoryObject:
    attributes = form["attributes"]
    if not isinstance(attributes, dict):
        raise TypeError
    return DirectoryObject(
        _text(form["dn"]),
        {_text(name): tuple(map(_decoded, values)) for name, values in attributes.items()},
    )


def _decoded(value: object) -> Value:
    if isinstance(value, dict):
        return base64.b64decode(value["b"], validate=True)
    return _text(value)
