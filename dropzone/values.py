"""Values: frozen classes of keyword-only fields, made in a fraction of the time that a frozen dataclass takes.

A dataclass compiles six functions for each class, a millisecond in all. A question to the ledger waits for forty such
classes, and that was half of what importing the command line took beside its libraries (48 ms, 25 with these). Here a
class gets the one function that differs, its ``__init__``, and that with its first value: most of the forty have none
in a question. The others are shared and go by the fields. It still is a dataclass: `replace`, `fields`, `asdict` and
`match` know it. So this is for modules that questions load, and a plain dataclass is as good elsewhere.
"""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, NoReturn, TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def value(cls: type[_T]) -> type[_T]:
    """Make `cls` a value: as ``@dataclass(frozen=True, slots=True, kw_only=True)``; of `field()` default factories."""
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True, kw_only=True)(cls)
    made.__init__ = _first
    made.__setattr__ = made.__delattr__ = _refuse
    made.__eq__, made.__hash__, made.__repr__, made.__reduce__ = _eq, _hash, _repr, _reduce
    kind: type[_T] = made
    return kind


def _first(self: Any, *wrong: object, **given: object) -> None:
    """The ``__init__`` of a class that has no value yet: makes the right one, which takes over."""
    kind: Any = type(self)
    kind.__init__ = _init_of(kind)
    kind.__init__(self, *wrong, **given)


def _init_of(cls: Any) -> Any:
    names = [each.name for each in fields(cls)]
    defaults = {each.name: each.default for each in fields(cls) if each.default is not MISSING}
    makers = {each.name: each.default_factory for each in fields(cls) if each.default_factory is not MISSING}
    optional = defaults | dict.fromkeys(makers, MISSING)
    given = ", ".join(f"{name}=_defaults[{name!r}]" if name in optional else name for name in names)
    made = "".join(f"\n    if {name} is _missing: {name} = _makers[{name!r}]()" for name in makers)
    sets = "".join(f"\n    _set_{name}(self, {name})" for name in names)  # its slot: no look-up by name, each time
    scope: dict[str, Any] = {f"_set_{name}": getattr(cls, name).__set__ for name in names}
    scope |= {"_defaults": optional, "_makers": makers, "_missing": MISSING}
    exec(f"def __init__(self, *, {given}) -> None:{made}{sets}", scope)  # noqa: S102 - as `dataclass` does; of our own names
    return scope["__init__"]


def _told(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self.__slots__)


def _refuse(self: object, name: str, *_: object) -> NoReturn:
    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")


def _eq(self: object, other: object) -> bool:
    return _told(self) == _told(other) if type(other) is type(self) else NotImplemented


def _hash(self: object) -> int:
    return hash(_told(self))


def _repr(self: Any) -> str:
    told = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({told})"


def _reduce(self: object) -> tuple[Any, ...]:
    return _again, (type(self), _told(self))


def _again(kind: type[Any], told: tuple[Any, ...]) -> Any:
    return kind(**dict(zip(kind.__slots__, told, strict=True)))
