"""What a shell can be told about words that are not finished: IDs of drops, folders, accounts.

It is asked at each press of a key, so it never complains: where nothing can be read, nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing

import click
from click.shell_completion import CompletionItem, get_completion_class

from dropzone import operate
from dropzone.cli.shared import Context
from dropzone.errors import DropzoneError, printable

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_DROPZONE_COMPLETE"
_MOST = 50  # a longer list is of no use on a screen

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _context(ctx: click.Context) -> Context:
    # The group's own function has not run, so it has not left its object here.
    return Context(ctx.find_root().params.get("named"))


def complete_folder(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the configured folders."""
    return _names(incomplete, lambda: _context(ctx).glance().folders)


def complete_account(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the configured accounts."""
    return _names(incomplete, lambda: _context(ctx).glance().accounts)


def complete_place(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of accounts and folders."""
    return _names(incomplete, lambda: [*_context(ctx).glance().accounts, *_context(ctx).glance().folders])


def _names(incomplete: str, names: Callable[[], Iterable[str]]) -> list[CompletionItem]:
    try:
        return [CompletionItem(name) for name in names() if name.startswith(incomplete)]
    except DropzoneError:
        return []


def complete_id(order: str = "") -> Completer:
    """IDs of drops that `order` could be given for; without one, of what is not finished, then of all."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from dropzone.wiring import open_ledger

        wanted = incomplete.upper()
        try:
            with closing(open_ledger(_context(ctx).glance())) as ledger:
                drops = (
                    operate.find_drops_for(ledger, order) if order else ledger.find_drops(states=operate.OPEN_STATES)
                )
                found = [drop for drop in drops if drop.id.startswith(wanted)]
                if not found and wanted and not order:
                    found = ledger.find_drops(prefix=wanted, limit=_MOST)
        except DropzoneError:
            return []
        return [
            CompletionItem(drop.id, help=f"{drop.state} {printable(drop.folder)}: {printable(drop.name)}")
            for drop in found[:_MOST]
        ]

    return complete


def script(group: click.Command, shell: str) -> str:
    """What makes `shell` complete the command line of `group`."""
    kind = get_completion_class(shell)
    assert kind is not None  # the command takes these three only
    return kind(group, {}, "dropzone", VARIABLE).source()
