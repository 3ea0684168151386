"""What a shell can be told about words that are not finished: IDs of drops, folders, accounts.

It is asked at each press of a key, so it never complains: where nothing can be read, nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING

import click

from dropzone import operate
from dropzone.cli.shared import Context
from dropzone.errors import DropzoneError, printable

if TYPE_CHECKING:  # every command has these functions, and only a shell calls them
    from click.shell_completion import CompletionItem

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_MOST = 50  # a longer list is of no use on a screen


def _context(ctx: click.Context) -> Context:
    # The group's own function has not run, so it has not left its object here.
    return Context(ctx.find_root().params.get("named"))


def complete_folder(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the configured folders."""
    return _names(incomplete, lambda: _context(ctx).glance().folders)


def complete_unmade(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the folders whose segment is still to be created."""
    return _names(incomplete, lambda: _context(ctx).load().unmade)


def complete_account(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the configured accounts."""
    return _names(incomplete, lambda: _context(ctx).glance().accounts)


def complete_place(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of accounts and folders; with their kind where both have one of that name, or the kind is typed."""

    def names() -> Iterable[str]:
        seen = _context(ctx).glance()
        kinds = [("account", name) for name in seen.accounts] + [("folder", name) for name in seen.folders]
        both = set(seen.accounts) & set(seen.folders)
        return [f"{kind}:{name}" if name in both or ":" in incomplete else name for kind, name in kinds]

    return _names(incomplete, names)


def _names(incomplete: str, names: Callable[[], Iterable[str]]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    try:
        return [CompletionItem(name) for name in names() if name.startswith(incomplete)]
    except DropzoneError:
        return []


def complete_id(order: str = "") -> Completer:
    """IDs of drops that `order` could be given for; without one, of what is not finished, then of all."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from dropzone.opening import open_ledger

        wanted = incomplete.upper()
        try:
            with closing(open_ledger(_context(ctx).glance())) as ledger:
                drops = (
                    operate.find_drops_for(ledger, order) if order else ledger.find_drops(states=operate.OPEN_STATES)
                )
                found = [drop for drop in drops if drop.id.startswith(wanted)]
                if not found and wanted and not order:
                    found = ledger.find_drops(prefix=wanted)
        except DropzoneError:
            return []
        # With the last one: shells complete what all that is offered have in common.
        shown = found if len(found) <= _MOST else [*found[: _MOST - 1], found[-1]]
        return [
            CompletionItem(drop.id, help=f"{drop.state} {printable(drop.folder)}: {printable(drop.name)}")
            for drop in shown
        ]

    return complete
