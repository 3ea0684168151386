"""Every setting: what the file may say, its default, its documentation, and which settings may stand together.

It alone knows the form of the configuration file. It refuses to know what the settings do: no folder is looked into,
no secret is read, nothing is connected to. What is wrong in a file is told all at once, each with line and column.
"""

from __future__ import annotations

from dropzone.config.document import dump, effective, example, schema
from dropzone.config.loading import load
from dropzone.config.model import DEPARTING, Account, Config, Folder, Guards, Retry, Timeouts
from dropzone.config.secret import Secret
from dropzone.config.units import Share

__all__ = [
    "DEPARTING",
    "Account",
    "Config",
    "Folder",
    "Guards",
    "Retry",
    "Secret",
    "Share",
    "Timeouts",
    "dump",
    "effective",
    "example",
    "load",
    "schema",
]
