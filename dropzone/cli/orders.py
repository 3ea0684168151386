"""The orders: hold, release, retry, accept, discard on drops; pause and resume of accounts and folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import click

from dropzone import operate
from dropzone.cli import render
from dropzone.cli.completing import complete_id, complete_place
from dropzone.cli.exits import Exit
from dropzone.cli.text import below, many
from dropzone.errors import OperatorError

if TYPE_CHECKING:
    from dropzone.config import Glance
    from dropzone.drop import Drop

_ORDERS = {
    "hold": "Keep waiting drops back until they are released.",
    "release": "Let held drops go on; guards do not hold them again.",
    "retry": "Try failed, waiting or unknown drops again now. What is unknown may then reach OptiPub twice.",
    "accept": "Say that drops whose outcome is unknown are in OptiPub; they go to done/.",
    "discard": "Give drops up; they go to failed/, unsent.",
}
_HOW = """{does}

IDs may be cut short, or be the last four characters of one; - reads them from standard input; ALL, in capitals, means
every drop that the order fits.

\b
Example:
  dropzone {what} 2N23520SJ9AH
  dropzone queue --json | jq -r .id | dropzone {what} -
"""


def _order(what: str) -> click.Command:
    """The command of an order."""

    @click.command(what, help=_HOW.format(what=what, does=_ORDERS[what]), short_help=_ORDERS[what])
    @click.argument("ids", metavar="ID… | - | ALL", nargs=-1, required=True, shell_complete=complete_id(what))
    @click.option("--why", default="", metavar="TEXT", help="The reason, for the history and the log.")
    @click.option("--yes", is_flag=True, help="Do not ask back for ALL.")
    @click.pass_context
    def command(ctx: click.Context, *, ids: tuple[str, ...], why: str, yes: bool, anew: bool = False) -> None:
        from dropzone import client

        seen = ctx.obj.glance()
        refused = 0
        config = ctx.obj.load_followed() if anew else None
        for result in client.order(seen, what, _choose(seen, what, ids, yes=yes), why, anew=config):
            refused += isinstance(result, OperatorError)
            with suppress(OSError):  # whoever reads this may have seen enough; the other orders are given all the same
                if isinstance(result, OperatorError):
                    render.error(result.message, result.hint)
                else:
                    render.say(below(f"{result.id} {result.folder}: {result.state}", ""))
        ctx.exit(Exit.FAILED if refused else Exit.DONE)

    if what == "retry":
        told = "With the folder's settings of now, not those of its claim."
        click.option("--anew", is_flag=True, help=told)(command)
    return command


hold, release, retry, accept, discard = map(_order, _ORDERS)


def _choose(seen: Glance, what: str, ids: tuple[str, ...], *, yes: bool) -> list[str]:
    """The full IDs of the drops that the command line means. Raises OperatorError, before anything is ordered."""
    from dropzone.opening import open_ledger

    with closing(open_ledger(seen)) as ledger:
        if ids == ("ALL",):
            drops = operate.find_drops_for(ledger, what)
            if not drops:
                raise OperatorError(f"there is no drop to {what}", "'dropzone queue' lists what is there")
            if not yes:
                _ask_back(what, drops)
            return [drop.id for drop in drops]
        if ids == ("-",):
            # Bytes, because what comes there may be of any kind, and is then told to be no ID.
            ids = tuple(os.fsdecode(sys.stdin.buffer.read()).split())
        elif any(id == "-" or id.upper() == "ALL" for id in ids):
            raise OperatorError("- and ALL stand alone, ALL in capitals", f"Type: dropzone {what} ALL")
        return [operate.get_drop(ledger, id).id for id in ids]


def _ask_back(what: str, drops: Sequence[Drop]) -> None:
    folders = list(dict.fromkeys(drop.folder for drop in drops))
    of = folders[0] if len(folders) == 1 else many(len(folders), "folder")
    question = f"{what} {many(len(drops), 'drop')} of {of}?"
    if not sys.stdin.isatty():
        raise OperatorError(f"{question} Nobody can be asked here", "Add --yes")
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)  # the question stands there still, and the shell would write behind it
        raise
    if not agreed:
        raise OperatorError("nothing was ordered", f"Name those that are meant: dropzone {what} ID…")


# --------------------------------------------------------------------------------------------- accounts and folders

_NAMES = click.argument("names", metavar="ACCOUNT|FOLDER…", nargs=-1, required=True, shell_complete=complete_place)


@click.command()
@_NAMES
@click.option("--why", default="", metavar="TEXT", help="The reason, for `status` and `queue`.")
@click.pass_context
def pause(ctx: click.Context, names: tuple[str, ...], why: str) -> None:
    """Offer nothing more of an account or a folder until it is resumed; files are taken over and checked all the same.

    A name that both have is written as account:NAME or folder:NAME. What is being sent now is sent to its end.

    \b
    Example:
      dropzone pause acme-signups --why "wrong campaign"
    """
    _switch(ctx.obj.glance(), "pause", names, why)


@click.command()
@_NAMES
@click.pass_context
def resume(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Go on with an account or a folder at once, whether a person has paused it or dropzone itself.

    \b
    Example:
      dropzone resume main
    """
    _switch(ctx.obj.glance(), "resume", names, "")


def _switch(seen: Glance, what: str, names: tuple[str, ...], why: str) -> None:
    from dropzone import client

    for name in names:
        operate.find_place(seen, name)  # all of them are known before the first is changed
    for name in names:
        kind, found = client.switch(seen, what, name, why)
        with suppress(OSError):  # as above: the others are paused whether anybody reads this or not
            click.echo(f"{kind} {found}: {what}d")
