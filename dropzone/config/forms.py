"""What mappings of settings hold: which keys, each of which kind, read all at once and written back.

A class of settings tells of itself, field by field, by `key` and `stored`; its form is drawn from that (`form_of`).
Knows no setting by name, and neither YAML nor JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields, replace
from functools import cache
from typing import Any, Protocol, Self, TypeVar, dataclass_transform

from dropzone.config import kinds
from dropzone.config.kinds import SPOILED, Notes, WrongValueError
from dropzone.config.yaml import Place, is_blank
from dropzone.values import value

_T = TypeVar("_T")


class Kind(Protocol):
    """One kind of value: a `Written`, or something that holds others."""

    @property
    def schema(self) -> dict[str, Any]:
        """What it looks like in the file, as JSON Schema."""

    @property
    def takes_none(self) -> bool:
        """Whether None is one of its values, and written as a word."""

    def take(self, written: object, place: Place, notes: Notes) -> Any:
        """What is `written` at `place` means; SPOILED where it is wrong, which `notes` are told."""

    def write(self, value: Any) -> object:
        """The reverse, in texts, numbers, lists and mappings."""


@value
class Key:
    """A key of the file. `needed`: it has no default, or none that would do. `example` is as one writes it."""

    description: str
    example: object = None
    needed: bool = False


@value
class Field:
    """A field of a class of settings: its kind, its default (MISSING: none), and its key, if the file has it."""

    kind: Kind
    default: Any
    key: Key | None


class Settings:
    """What all classes of settings share."""

    __slots__ = ()

    def having(self, **changes: object) -> Self:
        """The same with these values, which nobody checks; itself where they are its own already."""
        if all(getattr(self, name) == value for name, value in changes.items()):
            return self
        return replace(self, **changes)  # type: ignore[type-var]


@value
class Form:
    """A mapping of settings. `model` is the class of what comes of it, None where nothing does."""

    title: str
    description: str
    fields: Mapping[str, Field]
    model: type[Settings] | None = None

    @property
    def keys(self) -> dict[str, Key]:
        """What the file may have."""
        return {name: field.key for name, field in self.fields.items() if field.key}

    @property
    def defaults(self) -> dict[str, Any]:
        """Each field's default, None where it has none."""
        return {
            name: None if field.default is MISSING else field.default
            for name, field in self.fields.items()
            if field.key
        }

    def read(self, values: Mapping[str, object], place: Place, notes: Notes, *, stored: bool = False) -> dict[str, Any]:
        """What is right of `values`, by its names and nothing else: no default, sections as mappings again.

        `stored` is what `write` made: it has all fields, and may hold None for what nobody has set.
        """
        found = {}
        for name, written in values.items():
            at = (*place, name)
            field = self.fields.get(name)
            if field is None or not (field.key or stored):
                notes.unknown(at)
                notes.spoil(at)
            elif written is None and field.default is None:
                continue
            elif (taken := field.kind.take(written, at, notes)) is SPOILED:
                notes.spoil(at)
            else:
                found[name] = taken
        return found

    def missing(self, values: Mapping[str, object]) -> set[str]:
        """The fields without a default for which there is nothing in `values`; of a section as ``section.field``."""
        missing = {name for name, field in self.fields.items() if field.default is MISSING} - values.keys()
        for name, inside in values.items():
            field = self.fields.get(name)
            if field and isinstance(field.kind, Section) and isinstance(inside, dict):
                missing |= {f"{name}.{each}" for each in field.kind.form.missing(inside)}
        return missing

    def over(self, name: str, default: Any, own: Any) -> Any:
        """What `own` of the file means for a field where `default` was meant without it: of a section, key by key."""
        kind = self.fields[name].kind
        if not isinstance(kind, Section) or not isinstance(own, dict):
            return own
        return kind.form.made(own) if default is None else default.having(**own)

    def made(self, values: Mapping[str, Any]) -> Any:
        """A value of `model` from what `read` gave; every field must have a value or a default."""
        assert self.model is not None
        return self.model(**{name: self.over(name, self.fields[name].default, own) for name, own in values.items()})

    def write(self, settings: Settings) -> dict[str, Any]:
        """All fields of `settings`, which is a value of `model`, as they are written; None for what nobody has set."""
        values = ((name, field.kind, getattr(settings, name)) for name, field in self.fields.items())
        return {
            name: kind.write(value) if value is not None or kind.takes_none else None for name, kind, value in values
        }


# --------------------------------------------------------------------------------------- classes of settings


def key(
    kind: Kind, description: str, *, default: object = MISSING, example: object = None, needed: bool = False
) -> Any:
    """A field that is a key of the file. `default` as one writes it there, or the value; None: nobody has set it."""
    note = Key(description=description, example=example, needed=needed)
    if isinstance(kind, kinds.Written) and default is not None and default is not MISSING:
        default = kind.read(default)
    if default == {}:
        return field(default_factory=dict, metadata={_KIND: kind, _KEY: note})
    return field(default=default, metadata={_KIND: kind, _KEY: note})


def stored(kind: Kind) -> Any:
    """A field that is no key of the file, and yet kept with the others in the ledger."""
    return field(metadata={_KIND: kind})


_KIND, _KEY = "kind", "key"  # of what a field notes


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field, key, stored))
def settings(cls: type[_T]) -> type[_T]:
    """Make `cls` a class of settings: a `value` whose fields can be made by `key` and `stored`."""
    return value(cls)


@cache
def form_of(model: type[Settings]) -> Form:
    """What a class of settings tells of itself."""
    told = {}
    for each in fields(model):  # type: ignore[arg-type]
        default = each.default_factory() if callable(each.default_factory) else each.default
        if kind := each.metadata.get(_KIND):
            told[each.name] = Field(kind=kind, default=default, key=each.metadata.get(_KEY))
    return Form(title=model.__name__, description=(model.__doc__ or "").partition("\n")[0], fields=told, model=model)


# ------------------------------------------------------------------------------------------- what holds others


def _mapping(written: object, notes: Notes, place: Place, *, may_be_blank: bool) -> dict[str, object] | None:
    """`written`, which must be a mapping. One whose keys are all commented out is blank, and often no mistake."""
    if isinstance(written, dict):
        return written
    if is_blank(written) and may_be_blank:
        return {}
    what = "has no value" if is_blank(written) else f"must be a mapping, not {kinds.shown(written)}"
    example = "" if is_blank(written) else ": 'key: value'"
    notes.wrong(place, kinds.wrong(what, f"its keys go below it, indented{example}"))
    return None


@value
class Section:
    """A mapping with the keys of a form."""

    form: Form
    takes_none: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        inside = {"$ref": f"#/$defs/{self.form.title}"}
        # Without a value it is one whose keys are all commented out, which a key that is needed cannot be.
        needed = any(key.needed for key in self.form.keys.values())
        return inside if needed else {"anyOf": [inside, {"type": "null"}]}

    def take(self, written: object, place: Place, notes: Notes) -> Any:
        found = _mapping(written, notes, place, may_be_blank=True)
        return SPOILED if found is None else self.form.read(found, place, notes)

    def write(self, value: Settings) -> object:
        return self.form.write(value)


@value
class Named:
    """Several mappings of one form, each by a name."""

    form: Form
    takes_none: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        inside = {"$ref": f"#/$defs/{self.form.title}"}
        return {
            "type": "object",
            "minProperties": 1,
            "patternProperties": {kinds.NAME.schema["pattern"]: inside},
            "additionalProperties": False,
        }

    def take(self, written: object, place: Place, notes: Notes) -> Any:
        mappings = _mapping(written, notes, place, may_be_blank=False)
        if mappings is None:
            return SPOILED
        found = {}
        for name, inside in mappings.items():
            at = (*place, name)
            right = kinds.NAME.take(name, at, notes, at_key=True) is not SPOILED
            values = _mapping(inside, notes, at, may_be_blank=False)
            read = None if values is None else self.form.read(values, at, notes)
            if read is None or not right:
                notes.spoil(at)
            else:
                found[name] = read
        return found

    def write(self, value: Mapping[str, Settings]) -> object:
        return {name: self.form.write(each) for name, each in value.items()}


@value
class Pairs:
    """A mapping of texts to values of one kind each. `noun` is what a name names, `alike` why two names may be one."""

    name: kinds.Written
    each: kinds.Written
    noun: str = "name"
    alike: str = ""
    takes_none: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        names = self.name.schema["pattern"]
        return {
            "type": ["object", "null"],
            "patternProperties": {names: self.each.schema},
            "additionalProperties": False,
        }

    def take(self, written: object, place: Place, notes: Notes) -> Any:
        pairs = _mapping(written, notes, place, may_be_blank=True)
        if pairs is None:
            return SPOILED
        found, spelled = {}, dict[object, str]()
        for key, inside in pairs.items():
            at = (*place, key)
            name, value = self.name.take(key, at, notes, at_key=True), self.each.take(inside, at, notes)
            if name is SPOILED or value is SPOILED:
                notes.spoil(at)
            elif spelled.setdefault(name, key) != key:  # which of the two won would depend on their order
                both = f"{kinds.shown(spelled[name])} and {kinds.shown(key)}"
                notes.wrong(place, kinds.wrong(f"{both} are one {self.noun}", self.alike))
                return SPOILED
            else:
                found[name] = value
        return found

    def write(self, value: Mapping[str, Any]) -> object:
        return {self.name.write(key): self.each.write(each) for key, each in value.items()}


@value
class Listing:
    """A list of values of one kind, or with an error in one of them, nothing."""

    each: kinds.Written
    at_least: int = 0
    takes_none: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        few = {"minItems": self.at_least} if self.at_least else {}
        return {"type": "array", "items": self.each.schema, **few}

    def take(self, written: object, place: Place, notes: Notes) -> Any:
        if not isinstance(written, list | tuple):
            notes.wrong(place, _no_list(written))
            return SPOILED
        if len(written) < self.at_least:
            notes.wrong(place, kinds.wrong("is empty", "at least one is needed"))
            return SPOILED
        taken = tuple(self.each.take(each, (*place, at), notes) for at, each in enumerate(written))
        return SPOILED if SPOILED in taken else taken

    def write(self, value: tuple[Any, ...]) -> object:
        return [self.each.write(each) for each in value]


def _no_list(written: object) -> WrongValueError:
    if isinstance(written, str):
        return kinds.wrong("must be a list, not one text", f'write ["{written}"]' if len(written) < 60 else "")
    what = "has no value" if is_blank(written) else f"must be a list, not {kinds.shown(written)}"
    return kinds.wrong(what, 'as in ["*.csv"]')
