"""Every setting: what the file may say, its default, its documentation, and which settings may stand together.

It alone knows the form of the configuration file. It refuses to know what the settings do: no folder is looked into,
no secret is read, nothing is connected to. What is wrong in a file is told all at once, each with line and column.

What is named here is imported when it is first asked for: a question to the ledger (`glance`) needs none of the models,
and loading is most of what it waits for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropzone.config.document import dump, effective, example, schema
    from dropzone.config.glancing import Glance, glance
    from dropzone.config.loading import load
    from dropzone.config.model import Account, Config, Create, Folder, Guards, Retention, Retry, Timeouts, Unmade
    from dropzone.config.secret import Secret
    from dropzone.config.terms import DEPARTING, key_days_left
    from dropzone.config.units import Share

_HOMES = {
    "document": ("dump", "effective", "example", "schema"),
    "glancing": ("Glance", "glance"),
    "loading": ("load",),
    "model": ("Account", "Config", "Create", "Folder", "Guards", "Retention", "Retry", "Timeouts", "Unmade"),
    "secret": ("Secret",),
    "terms": ("DEPARTING", "key_days_left"),
    "units": ("Share",),
}

__all__ = [
    "DEPARTING",
    "Account",
    "Config",
    "Create",
    "Folder",
    "Glance",
    "Guards",
    "Retention",
    "Retry",
    "Secret",
    "Share",
    "Timeouts",
    "Unmade",
    "dump",
    "effective",
    "example",
    "glance",
    "key_days_left",
    "load",
    "schema",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"dropzone.config.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
