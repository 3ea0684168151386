"""What would become of a file: reads it as its folder would, and sends nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dropzone import sheet
from dropzone.config import Config, Folder
from dropzone.drop import Report
from dropzone.errors import OperatorError, printable
from dropzone.operate.asking import check_folder


def get_folder(config: Config, name: str) -> Folder:
    """The folder called `name`. Raises OperatorError that lists what there is."""
    check_folder(name, list(config.folders))
    return config.folders[name]


def check(
    file: Path, folder: Folder, *, out: Path | None = None, progress: Callable[[int], None] | None = None
) -> Report:
    """Read `file` as `folder` would, sending nothing; `out` gets the prepared copy. Raises OperatorError."""
    try:
        with file.open("rb") as source, _sink(out) as prepared, _sink(None) as rejects:
            compressed = os.fsencode(file.name).lower().endswith(b".gz")
            return sheet.check(source, prepared, rejects, folder, compressed=compressed, progress=progress)
    except OSError as error:
        where = error.filename or file
        raise OperatorError(f"cannot use {printable(str(where))}: {error.strerror}", "Is the path right?") from error


def _sink(out: Path | None) -> BinaryIO:
    return out.open("wb") if out else open(os.devnull, "wb")
