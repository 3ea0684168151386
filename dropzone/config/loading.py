"""From the file to the configuration: reads it, has each value checked, and puts what is wrong into plain words."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from dropzone.config import rules, yaml
from dropzone.config.findings import Findings, TooManyError
from dropzone.config.forms import Form, form_of
from dropzone.config.kinds import WrongValueError, find_close
from dropzone.config.model import (
    DEFAULTS,
    FILE,
    FOLDER,
    Account,
    Config,
    Create,
    Guards,
    Retention,
    Retry,
    Timeouts,
)
from dropzone.config.yaml import Odd, Place
from dropzone.errors import ConfigError, Problem, printable


def load(path: Path) -> Config:
    """The configuration in the file `path`, with all defaults filled in. Reads no secret and no folder.

    Raises `ConfigError` with everything that is wrong, up to a thousand problems, each at its line and column; never
    anything else.
    """
    name = printable(str(path))
    findings = Findings(yaml.parse(_content(path, name)))
    with contextlib.suppress(TooManyError):
        config = _resolved(findings, Path(os.path.abspath(path)))  # a reload may come from another folder
        if config is not None:
            return config
    raise ConfigError(name, findings.problems())


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
            return rules.resolve(FILE.read(values, (), _Notes(findings)), file, findings)
        case yaml.REFUSED:
            return None
        case Odd(kind="blank"):
            findings.refuse((), "is empty", "'dropzone config example' prints one to begin with")
        case _:
            findings.refuse((), "must be a mapping: lines of the form 'key: value'", "as in 'root: /srv/dropzone'")
    return None


class _Notes:
    """Puts into findings what is wrong with the values, each in its own place."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def wrong(self, place: Place, error: WrongValueError, *, at_key: bool = False) -> None:
        # The reader of YAML may have said already what is wrong there.
        if not self._findings.document.refused.any_in(place):
            self._findings.refuse(place, error.what, error.hint, at_key=at_key)

    def unknown(self, place: Place) -> None:
        self.wrong(place, WrongValueError(*_unknown_key(place)), at_key=True)

    def spoil(self, place: Place) -> None:
        self._findings.spoiled.add(place)


def _unknown_key(place: Place) -> tuple[str, str]:
    key = str(place[-1])
    home, form = _home(place[:-1])
    what = f"is no key of {home}"
    if others := [other for other, its in _HOMES.items() if key in its.keys]:
        return what, f"it belongs to {others[0]}"
    if close := find_close(key, form.keys):
        return what, f"did you mean {close}?"
    return what, "'dropzone config example' shows all keys"


_HOMES = {
    "the top level": FILE,
    "an account": form_of(Account),
    "a folder": FOLDER,
    "defaults": DEFAULTS,
    "timeouts": form_of(Timeouts),
    "guards": form_of(Guards),
    "retry": form_of(Retry),
    "retention": form_of(Retention),
    "create": form_of(Create),
}


def _home(place: Place) -> tuple[str, Form]:
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
