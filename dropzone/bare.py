"""Importing a library without the extra that it takes along wherever it finds it.

structlog and httpx bring rich and pygments along, for consoles of their own, only because they are there. The daemon
draws nothing, and would carry them for years: four megabytes, and a third of the time that loading the two takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(extra: str) -> Iterator[None]:
    """What is imported in this block does not find `extra`, as if it were not installed; afterwards it is found again.

    Where it is loaded already it costs nothing more, and is found. For imports, which come before any threads.
    """
    if extra in sys.modules:
        yield
        return
    # How the import system itself says that there is none.
    sys.modules[extra] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[extra]
