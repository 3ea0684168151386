"""Values behave as the frozen dataclasses that they are told to be."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from typing import Any

import pytest

from dropzone.values import value


@value
class Point:
    """Two fields, one with a default."""

    x: int
    y: tuple[int, ...] = ()


@value
class Other:
    """The same fields under another name."""

    x: int
    y: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """What a dataclass makes of them."""

    x: int
    y: tuple[int, ...] = ()


def test_a_value_is_what_a_frozen_dataclass_is() -> None:
    """Fields, defaults, text, equality, hash, copies with a change, and matching."""
    point = Point(x=1)
    assert repr(point) == repr(Plain(x=1)).replace("Plain", "Point") == "Point(x=1, y=())"
    assert point == Point(x=1, y=())
    assert point != Point(x=2)
    assert {point: 1}[Point(x=1)] == 1
    assert (replace(point, y=(2,)), asdict(point)) == (Point(x=1, y=(2,)), {"x": 1, "y": ()})
    assert [(field.name, field.default) for field in fields(Point)] == [
        (field.name, field.default) for field in fields(Plain)
    ]
    match point:
        case Point(x=1, y=()):
            pass
        case _:
            pytest.fail("it does not match itself")


def test_a_default_can_be_made_for_each_value() -> None:
    """What can be changed is no value's but its own, and a required field may stand behind it."""

    @value
    class Named:
        names: dict[str, str] = field(default_factory=dict)
        of: int

    one, other = Named(of=1), Named(of=1)
    assert one == other == Named(of=1, names={})
    assert one.names is not other.names
    assert Named(of=2, names={"a": "b"}).names == {"a": "b"}
    with pytest.raises(TypeError):
        Named()  # type: ignore[call-arg]


def test_values_of_two_kinds_are_never_equal() -> None:
    """An answer that was accepted is not one that was refused because both have a status."""
    both: set[object] = {Point(x=1), Other(x=1)}
    assert len(both) == 2
    assert not both & {Plain(x=1)}


@pytest.mark.parametrize("name", ["x", "z"])
def test_a_value_cannot_be_changed(name: str) -> None:
    """Neither a field nor anything new, and nothing of it can be taken away."""
    point = Point(x=1)
    with pytest.raises(FrozenInstanceError, match=f"Point.{name} cannot be changed"):
        setattr(point, name, 2)
    with pytest.raises(FrozenInstanceError, match=f"Point.{name} cannot be changed"):
        delattr(point, name)
    assert not hasattr(point, "__dict__")


def test_fields_are_named_and_all_of_them_given() -> None:
    """By position, too few and unknown ones are refused by Python itself."""
    kind: Any = Point
    for wrong in (lambda: kind(1), kind, lambda: kind(x=1, z=2)):
        with pytest.raises(TypeError):
            wrong()


def test_values_survive_pipes_and_copies() -> None:
    """A check in another interpreter sends its report back."""
    point = Point(x=1, y=(2, 3))
    assert pickle.loads(pickle.dumps(point)) == copy.deepcopy(point) == copy.copy(point) == point  # noqa: S301
