"""A class that is quickly made is the same dataclass in all but its price."""

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Generic, TypeVar

import pytest

from stockade.model.quickly_made import quickly_made

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Slow:
    first: int
    second: str = "two"
    third: tuple[int, ...] = (3,)
    fourth: bytes = field(default=b"4", init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError("negative")


@quickly_made
@dataclass(frozen=True, slots=True)
class Quick:
    first: int
    second: str = "two"
    third: tuple[int, ...] = (3,)
    fourth: bytes = field(default=b"4", init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError("negative")


@quickly_made
@dataclass(frozen=True, slots=True)
class Of(Generic[T]):
    value: T
    more: int = 0


@quickly_made
@dataclass(frozen=True, slots=True)
class Pair:
    one: int
    two: int


class Under(Pair):
    __slots__ = ()


CALLS = [
    ((1,), {}),
    ((1, "b", (3, 4)), {}),
    ((), {"first": 2, "third": ()}),
]


@pytest.mark.parametrize(("arguments", "words"), CALLS)
def test_it_is_made_of_the_same_arguments(arguments, words):
    slow, quick = Slow(*arguments, **words), Quick(*arguments, **words)
    assert dataclasses.astuple(quick) == dataclasses.astuple(slow)
    assert repr(quick).replace("Quick", "Slow") == repr(slow)
    assert type(quick) is Quick


def test_it_refuses_what_the_dataclass_refuses():
    for wrong in (lambda: Quick(), lambda: Quick(1, 2, 3, 4), lambda: Quick(1, fourth=b"")):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="negative"):
        Quick(-1)


def test_nothing_can_be_changed_afterwards():
    quick = Quick(1)
    for change in (lambda: setattr(quick, "first", 2), lambda: delattr(quick, "first")):
        with pytest.raises(FrozenInstanceError):
            change()
    with pytest.raises((AttributeError, TypeError)):
        quick.seventh = 7
    assert quick == Quick(1)


@pytest.mark.parametrize(
    "odd", [field(default_factory=list), field(default=4, kw_only=True)], ids=["factory", "keyword"]
)
def test_fields_that_no_such_class_has_are_refused(odd):
    """Better no class than one that shares a list among all its objects."""
    namespace = {"__annotations__": {"one": int, "odd": list}, "odd": odd}
    with pytest.raises(TypeError, match="odd: neither"):
        quickly_made(dataclass(frozen=True, slots=True)(type("Odd", (), namespace)))


def test_copies_are_of_the_same_class_and_equal():
    pair = Pair(1, 2)
    for made in (
        replace(pair, one=1),
        copy.copy(pair),
        copy.deepcopy(pair),
        pickle.loads(pickle.dumps(pair)),
    ):
        assert type(made) is Pair
        assert (made, hash(made)) == (pair, hash(pair))


def test_a_class_under_it_keeps_its_own_class():
    under = Under(1, two=2)
    assert type(under) is Under
    assert (under.one, under.two) == (1, 2)


def test_generic_classes_can_be_quickly_made():
    assert (Of(1).value, Of(2, more=3).more) == (1, 3)


def test_the_signature_stays():
    assert list(inspect.signature(Quick).parameters) == ["first", "second", "third"]


def test_a_class_with_a_dictionary_is_refused():
    @dataclass(frozen=True)
    class Loose:
        one: int

    with pytest.raises(TypeError, match="slots"):
        quickly_made(Loose)
