"""What the program says while it runs: one line per thing that happened, on stderr.

In the journal (or any pipe) each line is a JSON object, which no file name can forge; on a terminal it is a plain
sentence with everything hostile escaped. Sinks get committed events and can change nothing. Never a renderer of
`structlog.dev`: it prints raw control characters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

from dropzone import receipt
from dropzone.bare import without
from dropzone.drop import CheckFailed, Deferred, Drop, Event, Filed, Lost, Postponed, Refused, Withheld
from dropzone.errors import printable

with without("rich"):
    import structlog

_WARNINGS = (Postponed, CheckFailed, Withheld, Refused, Deferred, Lost)


class Journal:
    """Writes the lines. Thread-safe; one per program."""

    def __init__(self, stream: TextIO | None = None, *, plain: bool | None = None) -> None:
        stream = stream or sys.stderr
        plain = stream.isatty() if plain is None else plain
        processors: list[Callable[..., Any]] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _in_order,
            _plain_line if plain else structlog.processors.JSONRenderer(ensure_ascii=True),
        ]
        self._log = structlog.BoundLogger(structlog.WriteLogger(stream), processors, {})
        self.lines_lost = 0

    def say(self, what: str, /, **facts: object) -> None:
        """Something worth knowing."""
        self._write("info", what, **facts)

    def warn(self, what: str, /, **facts: object) -> None:
        """Something that somebody may have to act on."""
        self._write("warning", what, **facts)

    def event(self, drop: Drop, event: Event) -> None:
        """The sink for committed events."""
        self._write(
            "warning" if isinstance(event, _WARNINGS) or (isinstance(event, Filed) and event.changed) else "info",
            receipt.tell(event),
            event_kind=type(event).__name__,
            drop=drop.id,
            folder=drop.folder,
            state=drop.state.value,
        )

    def left_alone(self, folder: str, name: bytes, why: str) -> None:
        """A file (or, without a name, a folder) that is not taken over, and why; comes once for each reason."""
        self._write("warning", "left alone", folder=folder, name=printable(name), why=why)

    def fault(self, drop: Drop, error: Exception) -> None:
        """An unexpected error around one drop, with its traceback."""
        self._write("error", "unexpected error", drop=drop.id, folder=drop.folder, exc_info=error)

    def _write(self, level: str, what: str, /, **facts: object) -> None:
        try:
            getattr(self._log, level)(what, **facts)
        except (OSError, ValueError):  # whoever reads has gone, or the disk is full: no reason to leave files lying
            self.lines_lost += 1


def _in_order(_: object, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """When, how bad and what first: that is how `journalctl` is read."""
    first = {name: entry.pop(name) for name in ("timestamp", "level", "event") if name in entry}
    return first | dict(entry)


def _plain_line(_: object, level: str, entry: MutableMapping[str, Any]) -> str:
    time = str(entry.pop("timestamp", ""))[11:19]
    entry.pop("level", None)
    entry.pop("event_kind", None)
    entry.pop("state", None)
    trace = entry.pop("exception", "")
    text = printable(str(entry.pop("event", "")))
    facts = "  ".join(f"{name}={printable(str(value))}" for name, value in entry.items())
    mark = "" if level in ("info", "debug") else "! "
    line = f"{time} {mark}{text}" + (f"  [{facts}]" if facts else "")
    return line + "".join(f"\n    {printable(part)}" for part in str(trace).splitlines())
