"""The command line: words, exit codes, and nothing else. What commands do is in `client`, `operate` and `daemon`.

Somebody waits for each answer, and most of the wait is for modules to load; so of the commands' own only that one is
loaded whose command was typed.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

import click

from dropzone import __version__
from dropzone.cli import render
from dropzone.cli.exits import Exit, table
from dropzone.cli.shared import Context, Group
from dropzone.cli.text import colour
from dropzone.errors import ConfigError, DropzoneError, LockedError

_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what a disk says that takes no more of an answer

_HOMES = {
    "asking": ("status", "queue", "show", "why", "plan", "check"),
    "care": ("doctor", "prune"),
    "orders": ("hold", "release", "retry", "accept", "discard", "pause", "resume"),
    "running": ("run", "init", "sandbox", "demo"),
    "segments": ("segment",),
    "settings": ("config",),
    "teaching": ("completion", "man"),
}


class _Commands(MutableMapping[str, click.Command]):
    """All commands by name, each imported from its module when it is first asked for."""

    def __init__(self) -> None:
        self._homes = {name: home for home, names in _HOMES.items() for name in names}
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            command: click.Command = getattr(import_module(f"dropzone.cli.{self._homes[name]}"), name)
            self._loaded[name] = command
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __setitem__(self, name: str, command: click.Command) -> None:
        raise TypeError("a command has its place in the table of this module")

    def __delitem__(self, name: str) -> None:
        raise TypeError("a command has its place in the table of this module")


class _Group(Group):
    """Turns our errors into one sentence, its mend and an exit code; nothing else is caught."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(render.one_line(problem.at(error.file)), err=True)
            render.error(error.message, error.hint)
            ctx.exit(Exit.CONFIG)
        except DropzoneError as error:
            render.error(error.message, error.hint)
            ctx.exit(Exit.ANOTHER if isinstance(error, LockedError) else Exit.FAILED)
        except BrokenPipeError:  # `dropzone queue | head`: the reader has seen enough
            _give_up_output()
            ctx.exit(Exit.DONE)


@click.group(
    cls=_Group,
    commands=_Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes:\n" + table(),
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.option(
    "-c",
    "--config",
    "named",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file; else $DROPZONE_CONFIG, ./dropzone.yaml, /etc/dropzone/dropzone.yaml.",
)
@click.pass_context
def cli(ctx: click.Context, named: Path | None) -> None:
    """Hands CSV files that partners drop into folders to OptiPub segments, and can say what became of each.

    \b
    Example:
      dropzone demo                    see it work, with a pretend OptiPub
      dropzone -c dropzone.yaml init   make the folders
      dropzone -c dropzone.yaml run    watch them
    """
    ctx.obj = Context(named)
    ctx.color = colour()


def _open_streams() -> None:
    """Open what whoever started us has closed (``2>&-``), or the ledger would get the number of standard error.

    What the terminal's locale has no character for is written as an escape: the answer matters more than its dots.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - the lowest number that is free, until the end
    if isinstance(sys.stdout, TextIOWrapper):  # standard error does so by itself
        sys.stdout.reconfigure(errors="backslashreplace")


def _give_up_output() -> None:
    """What is still in the buffer would break again at the interpreter's end, and make the exit code 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_usage(error: click.ClickException) -> None:
    """One sentence and how it is used, as for other errors; without any word the whole help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    message = error.format_message().strip().removesuffix(".")
    usage = error.ctx.get_usage() if isinstance(error, click.UsageError) and error.ctx else ""
    render.error(message[:1].lower() + message[1:], " ".join(usage.split()))


def main(argv: list[str] | None = None) -> NoReturn:
    """The console script. Ends the process with one of the codes in `exits`."""
    _open_streams()
    try:
        # Outside its standalone mode click hands the code of ctx.exit() back instead of raising it.
        code = cli.main(args=argv, prog_name="dropzone", standalone_mode=False)
    except click.ClickException as error:  # wrong usage
        _tell_usage(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(Exit.INTERRUPTED)
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITTEN:
            raise  # a fault of ours, to be seen whole: no module lets one of a file through
        _give_up_output()
        with suppress(OSError):
            render.error(f"the answer cannot be written: {error.strerror}", "Is the disk full?")
        code = Exit.FAILED
    gc.freeze()  # the interpreter's end would look through all modules for garbage, three times
    sys.exit(code or Exit.DONE)
