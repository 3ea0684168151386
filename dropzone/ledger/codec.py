"""How events are written down in a ledger: JSON objects that name their kind, and back.

Members may be added to events later; what an old row lacks gets the default, what a newer row has too much is left
out, so that a downgrade can still read the history.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import Any, get_args

from dropzone.drop import Event, Report
from dropzone.errors import Problem

KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}
_NAMES: dict[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in fields(kind)) for kind in (*KINDS.values(), Report, Problem)
}


def encode(event: Event) -> str:
    """`event` as one line of ASCII JSON; bytes go through os.fsdecode and back unharmed."""
    return _encoder.encode(_plain(event))


def _plain(value: Any) -> Any:
    """What JSON has no form for: bytes as text, our values as objects. Not `asdict`, which copies all of it first."""
    if isinstance(value, bytes):
        return os.fsdecode(value)
    return {name: getattr(value, name) for name in _NAMES[type(value)]}


_encoder = json.JSONEncoder(default=_plain, separators=(",", ":"))


def decode(kind: str, body: str) -> Event:
    """The event that `encode` wrote as `body`. Raises KeyError for a kind that this version does not know."""
    return _build(KINDS[kind], json.loads(body))


def _build(kind: type[Event], values: dict[str, Any]) -> Event:
    if "name" in values:
        values["name"] = os.fsencode(values["name"])
    if values.get("report") is not None:
        values["report"] = _report(values["report"])
    return kind(**_known(kind, values))


def _report(values: dict[str, Any]) -> Report:
    values["columns"] = tuple(values["columns"])
    values["repairs"] = tuple((what, count) for what, count in values["repairs"])
    for name in ("problems", "repeats"):
        values[name] = tuple(Problem(**_known(Problem, problem)) for problem in values[name])
    return Report(**_known(Report, values))


def _known(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    names = _NAMES[kind]
    return {name: value for name, value in values.items() if name in names}
