"""Frozen dataclasses whose making costs a tenth.

The constructor of a frozen dataclass writes each field by `object.__setattr__`, found anew by name: some
tenths of a microsecond a field, where a plain store takes hundredths. A handshake makes a hundred such
objects of five hundred fields, which was a tenth of all that it cost.

    object.__new__ ─▶ class := its twin, which is not frozen ─▶ stores ─▶ class := the frozen one ─▶ check

Nobody sees the twin: the constructor does not return before the object has its own class again. Comparison,
hash, `repr`, `replace`, copies and the refusal of later stores are those of the dataclass.
"""

import dataclasses
from collections.abc import Iterable
from typing import TypeVar

C = TypeVar("C")
_set_class = object.__dict__["__class__"].__set__


def quickly_made(cls: type[C]) -> type[C]:
    """Above `@dataclass(frozen=True, slots=True)`: the same class with a constructor that is cheap. For
    classes that are made by the thousand; `TypeError` for a class that is not of this kind, and for fields
    that no such class has yet: with a default factory, or by keyword only."""
    if not dataclasses.is_dataclass(cls) or "__slots__" not in cls.__dict__ or cls.__dictoffset__:
        raise TypeError(f"{cls.__name__} is no dataclass with slots alone")
    slow = cls.__dict__["__init__"]
    names: dict[str, object] = {"_set_class": _set_class, "_slow": slow, "_cls": cls}
    names["_twin"] = _twin_of(cls)
    exec(_source(dataclasses.fields(cls), hasattr(cls, "__post_init__"), names), names)  # noqa: S102, made of field names, as the dataclass's own
    made = names["__init__"]
    for name in ("__module__", "__qualname__", "__doc__", "__annotations__"):
        setattr(made, name, getattr(slow, name, None))
    type.__setattr__(cls, "__init__", made)
    return cls


def _twin_of(cls: type[object]) -> type[object]:
    namespace: dict[str, object] = {
        "__slots__": cls.__dict__["__slots__"],
        "__setattr__": object.__setattr__,  # a base may be frozen itself
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
    }
    if "__orig_bases__" in cls.__dict__:
        namespace["__orig_bases__"] = cls.__dict__["__orig_bases__"]
    return type(cls.__name__, cls.__bases__, namespace)


def _source(fields: Iterable["dataclasses.Field[object]"], checks: bool, names: dict[str, object]) -> str:
    """The constructor, with the defaults that it needs put into `names`."""
    parameters: list[str] = []
    handed: list[str] = []
    stores: list[str] = []
    for field in fields:
        if field.kw_only or field.default_factory is not dataclasses.MISSING:
            raise TypeError(f"{field.name}: neither default factories nor keywords alone")
        name, default = field.name, ""
        if field.default is not dataclasses.MISSING:
            default = f"_default_{name}"
            names[default] = field.default
        if field.init:
            parameters.append(f"{name}={default}" if default else name)
            handed.append(f"{name}={name}")
            stores.append(f"    self.{name} = {name}")
        elif default:
            stores.append(f"    self.{name} = {default}")
    lines = [
        f"def __init__({', '.join(['self', *parameters])}):",
        "    if self.__class__ is not _cls:",  # made by a class under it, whose class it keeps
        f"        _slow({', '.join(['self', *handed])})",
        "        return",
        "    _set_class(self, _twin)",
        *stores,
        "    self.__class__ = _cls",
        *(["    self.__post_init__()"] if checks else []),
    ]
    return "\n".join(lines)
