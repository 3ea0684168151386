"""What commands share: which configuration was named, and options that mean the same everywhere."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dropzone.cli.text import colour
from dropzone.errors import LedgerError

if TYPE_CHECKING:
    from dropzone.config import Config, Glance

_CANNOT_GO_BACK = ("dumb", "unknown", "")
_WHOLE = 1000  # characters; no sentence has so many
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of text.")


class _Period(click.FloatRange):
    """Seconds. Comparing finds nothing wrong with what is no number, and nobody can wait for so long."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        return self.fail(f"{value} is no number of seconds", param, ctx) if math.isnan(seconds) else seconds


def watching(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--watch`` and ``--every`` to a command that can be repeated."""
    period = _Period(0.1, 3600)
    for option in (
        click.option("--every", type=period, default=1.0, metavar="SECONDS", help="How often --watch looks; 1."),
        click.option("-w", "--watch", is_flag=True, help="Look again and again, until Ctrl-C."),
    ):
        command = option(command)
    return command


class Group(click.Group):
    """Commands, each with the whole first sentence of what it does, where click cuts it at the edge of the screen."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(_WHOLE)) for name, command in commands if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Context:
    """Which configuration was named; read when a command needs it."""

    def __init__(self, named: Path | None) -> None:
        self._named = named

    @property
    def path(self) -> Path:
        """The configuration file. Raises ConfigError where there is none."""
        from dropzone.opening import find_config

        return find_config(self._named)

    def load(self) -> Config:
        """The whole configuration. Raises ConfigError."""
        from dropzone.opening import load

        return load(self.path)

    def load_followed(self) -> Config:
        """The same, with its places as the daemon has them: the links in the operator's own paths followed."""
        from dropzone.opening import followed

        return followed(self.load())

    def load_anyway(self) -> tuple[Config, LedgerError | None]:
        """The same, and why the ledger cannot be read, if it cannot: then nobody knows the segments that it knows."""
        from dropzone import config as configuration

        try:
            return self.load(), None
        except LedgerError as error:
            return configuration.load(self.path), error

    def glance(self) -> Glance:
        """What a question needs of it. Raises ConfigError where not even that can be read."""
        from dropzone.opening import glance

        return glance(self.path)


def repeat(lines: Callable[[], tuple[Iterable[str], bool]], *, every_s: float) -> None:
    """Show what `lines` gives, again every `every_s` seconds, until Ctrl-C or until it says that this is the end.

    On a terminal it stays in its place, cut to the screen. In a pipe, and on a terminal that cannot go back, it is
    printed anew, with an empty line between.
    """
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in _CANNOT_GO_BACK:
        _reprint(lines, every_s)
        return
    # Only here, because loading it takes as long as answering.
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=colour() is False, highlight=False, markup=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            shown, ended = lines()
            text = Text.from_ansi("\n".join(shown), no_wrap=True, overflow="ellipsis")
            live.update(text, refresh=True)
            if ended:
                return
            _pause(every_s)


def _reprint(lines: Callable[[], tuple[Iterable[str], bool]], every_s: float) -> None:
    while True:
        shown, ended = lines()
        click.echo("\n".join(shown))
        if ended:
            return
        _pause(every_s)
        click.echo()


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def now() -> float:
    """The time for people, in seconds since the epoch."""
    return time.time()
