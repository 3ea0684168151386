"""From the file to the configuration: reads it, has each value checked, and puts what is wrong into plain words."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dropzone.config import rules, yaml
from dropzone.config.findings import Findings
from dropzone.config.kinds import shown
from dropzone.config.model import (
    AccountKeys,
    Config,
    Create,
    Defaults,
    File,
    FolderKeys,
    Guards,
    Model,
    Retention,
    Retry,
    Timeouts,
)
from dropzone.config.yaml import Odd, Place, is_blank
from dropzone.errors import ConfigError, Problem, printable

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def load(path: Path) -> Config:
    """The configuration in the file `path`, with all defaults filled in. Reads no secret and no folder.

    Raises `ConfigError` with everything that is wrong, each problem at its line and column; never anything else.
    """
    name = printable(str(path))
    findings = Findings(yaml.parse(_content(path, name)))
    config = _resolved(findings, Path(os.path.abspath(path)))  # a reload may come from another folder
    if config is None:
        raise ConfigError(name, findings.problems())
    return config


def _content(path: Path, name: str) -> bytes:
    try:
        return yaml.read(path)
    except (OSError, ValueError) as error:  # a path with a NUL in it is a ValueError
        why = error.strerror if isinstance(error, OSError) else str(error)
        hint = "'dropzone config example' prints one to begin with" if isinstance(error, FileNotFoundError) else ""
        problem = Problem(line=0, column=0, what=f"cannot be read: {why}", hint=hint)
        raise ConfigError(name, (problem,)) from None


def _resolved(findings: Findings, file: Path) -> Config | None:
    match findings.document.root:
        case dict() as values:
            return rules.resolve(_checked(values, findings), file, findings)
        case yaml.REFUSED:
            return None
        case Odd(kind="blank"):
            findings.refuse((), "is empty", "'dropzone config example' prints one to begin with")
        case _:
            findings.refuse((), "must be a mapping: lines of the form 'key: value'", "as in 'root: /srv/dropzone'")
    return None


def _checked(values: dict[str, object], findings: Findings) -> File:
    """The keys that are right in themselves. Each wrong one is noted and cut out, so that the others still count."""
    while True:
        try:
            return File.model_validate(values)
        except ValidationError as error:
            for found in error.errors(include_url=False):
                _note(found, findings)
                _cut(values, found["loc"], findings)


def _cut(values: dict[str, object], loc: Place, findings: Findings) -> None:
    """Removes the innermost key on the way to `loc`; what is wrong in a list takes the list along."""
    holder, depth = values, 0
    for step, key in enumerate(loc[:-1]):
        inner = holder.get(str(key))
        if not isinstance(inner, dict) or loc[step + 1] not in inner:
            break
        holder, depth = inner, step + 1
    holder.pop(str(loc[depth]), None)
    findings.spoiled.add(loc[: depth + 1])


# ------------------------------------------------------------------------------------------------- in plain words


def _note(found: ErrorDetails, findings: Findings) -> None:
    value = found["input"]
    unknown = found["type"] == "extra_forbidden"
    is_name = found["loc"][-1] == "[key]" and not unknown
    place = found["loc"][:-1] if is_name else found["loc"]
    if any(refused[: len(place)] == place for refused in findings.document.refused):
        return  # the reader of YAML said already what is wrong there
    if found["type"] == "too_short" and value:
        return  # what makes the list short was told already
    what, hint = _unknown_key(place) if unknown else _explained(found, value)
    findings.refuse(place, what, hint, at_key=unknown or is_name)


def _explained(found: ErrorDetails, value: object) -> tuple[str, str]:
    context: dict[str, Any] = found.get("ctx", {})
    match found["type"]:
        case "dropzone":
            return context["what"], context["hint"]
        case "literal_error":
            return _not_among(value, context["expected"])
        case "bool_type":
            return _not_flag(value)
        case "model_type" | "dict_type":
            if is_blank(value):
                return "has no value", "its keys go below it, indented"
            return f"must be a mapping, not {shown(value)}", "its keys go below it, indented: 'key: value'"
        case "too_short":
            return "is empty", "at least one is needed"
        case _:
            return found["msg"], ""


def _not_among(value: object, expected: str) -> tuple[str, str]:
    if is_blank(value):
        return "has no value", f"it must be {expected}"
    choices = expected.replace("'", "").replace(" or ", ", ").split(", ")
    close = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"must be {expected}, not {shown(value)}", f"did you mean {close[0]}?" if close else ""


def _not_flag(value: object) -> tuple[str, str]:
    if is_blank(value):
        return "has no value", "it must be true or false"
    word = value.text if isinstance(value, Odd) else str(value)
    meant = _FLAGS.get(word.lower())
    return f"must be true or false, not {shown(value)}", f"write {meant}, without quotes" if meant else ""


_FLAGS = dict.fromkeys(("true", "yes", "on", "y", "1"), "true") | dict.fromkeys(
    ("false", "no", "off", "n", "0"), "false"
)


def _unknown_key(place: Place) -> tuple[str, str]:
    key = str(place[-1])
    home, model = _home(place[:-1])
    what = f"is no key of {home}"
    if others := [other for other, its in _HOMES.items() if key in its.model_fields]:
        return what, f"it belongs to {others[0]}"
    if close := get_close_matches(key, model.model_fields, n=1):
        return what, f"did you mean {close[0]}?"
    return what, "'dropzone config example' shows all keys"


_HOMES: dict[str, type[Model]] = {
    "the top level": File,
    "an account": AccountKeys,
    "a folder": FolderKeys,
    "defaults": Defaults,
    "timeouts": Timeouts,
    "guards": Guards,
    "retry": Retry,
    "retention": Retention,
    "create": Create,
}


def _home(place: Place) -> tuple[str, type[Model]]:
    """What holds the key at `place`, in words, and its keys."""
    match place:
        case ():
            home = "the top level"
        case ("accounts", _):
            home = "an account"
        case ("folders", _):
            home = "a folder"
        case _:
            home = str(place[-1])
    return home, _HOMES[home]
