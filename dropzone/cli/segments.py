"""The command that has segments created."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from dropzone.cli import render
from dropzone.cli.completing import complete_account, complete_unmade
from dropzone.cli.exits import Exit
from dropzone.cli.shared import AS_JSON, Group
from dropzone.errors import LaterError, OperatorError

if TYPE_CHECKING:
    from dropzone.config import Account, Config, Unmade
    from dropzone.optipub.segments import Wanted


@click.group(cls=Group)
def segment() -> None:
    """Have segments created in OptiPub.

    \b
    Example:
      dropzone segment create --folder acme-leads
    """


@segment.command("create")
@click.option(
    "--folder",
    metavar="NAME",
    shell_complete=complete_unmade,
    help="The one that this folder's create: asks for; its id is remembered.",
)
@click.option("--all-missing", is_flag=True, help="Those of all folders with create: that have none yet.")
@click.option("--name", metavar="TEXT", help="What a segment of no folder is called.")
@click.option("--publication-id", type=click.IntRange(1), metavar="ID", help="Whose subscriptions its imports change.")
@click.option("--description", default="", metavar="TEXT", help="What OptiPub shows beside the name.")
@click.option(
    "--suppression",
    type=click.Choice(["none", "md5", "sha256", "sha512"]),
    help="Make it a suppression segment, its addresses hashed so; without it, it is a static one.",
)
@click.option("--auto-responder-id", type=click.IntRange(1), metavar="ID", help="Fires when somebody is added.")
@click.option("--redirect-url", default="", metavar="URL", help="Its redirect address.")
@click.option(
    "--account", metavar="NAME", shell_complete=complete_account, help="Whose it is; needed where there are several."
)
@click.option("--again", is_flag=True, help="Ask for it although it was asked for before: somebody has looked.")
@AS_JSON
@click.pass_context
def create(
    ctx: click.Context,
    folder: str | None,
    all_missing: bool,
    name: str | None,
    publication_id: int | None,
    description: str,
    suppression: str | None,
    auto_responder_id: int | None,
    redirect_url: str,
    account: str | None,
    again: bool,
    as_json: bool,
) -> None:
    """Create a static or a suppression segment, once; print its id and the lines for the configuration.

    It is asked for once: where the answer is lost, nobody asks again before somebody has looked (--again).

    \b
    Example:
      dropzone segment create --name "Leads of Acme" --publication-id 7
      dropzone segment create --name "Do not mail" --publication-id 7 --suppression sha256
      dropzone segment create --all-missing
    """
    from dropzone.client import create_segment
    from dropzone.operate.creating import wanted_for
    from dropzone.optipub.segments import Wanted

    config = ctx.obj.load()
    if sum((folder is not None, all_missing, name is not None)) != 1:
        raise click.UsageError("Give one of --folder, --all-missing and --name.", ctx)
    chosen: list[tuple[str, Account, Wanted]]
    if name is not None:
        if publication_id is None:
            raise click.UsageError("--name needs --publication-id.", ctx)
        wanted = Wanted(
            name=name,
            publication_id=publication_id,
            description=description,
            suppression=suppression,
            auto_responder_id=auto_responder_id,
            redirect_url=redirect_url,
        )
        chosen = [("", _account(config, account), wanted)]
    else:
        unmade = config.unmade if all_missing else {folder: _unmade(config, str(folder))}
        chosen = [(str(name), config.accounts[each.draft.account], wanted_for(each)) for name, each in unmade.items()]
    failed: list[OperatorError] = []
    for of_folder, of_account, wanted in chosen:
        try:
            id = create_segment(config, of_account, wanted, again=again)
        except OperatorError as error:  # the others are created all the same
            failed.append(error)
            render.error(error.message, error.hint)
            continue
        with suppress(BrokenPipeError):  # whoever reads this may have seen enough
            if as_json:
                render.json_lines([_member(id, wanted, of_account, of_folder)])
            else:
                render.say(_created(id, wanted, of_folder))
    if not chosen and not as_json:
        click.echo("Every folder has its segment.")
    later = all(isinstance(error, LaterError) for error in failed)
    ctx.exit(Exit.DONE if not failed else Exit.TEMPORARY if later else Exit.FAILED)


def _account(config: Config, name: str | None) -> Account:
    if name is None and len(config.accounts) == 1:
        return next(iter(config.accounts.values()))
    if name not in config.accounts:
        what = f"no account is called {name}" if name else "there are several accounts"
        raise OperatorError(render.one_line(what), f"--account is one of {', '.join(config.accounts)}")
    return config.accounts[name]


def _unmade(config: Config, name: str) -> Unmade:
    if name in config.unmade:
        return config.unmade[name]
    if name in config.folders:
        what = f"folder {name} has its segment: {config.folders[name].segment_id}"
        raise OperatorError(what, "For another one give --name and --publication-id")
    known = ", ".join(config.unmade) or "none has create: without a segment"
    raise OperatorError(f"no folder is called {render.one_line(name)}", f"To be created: {known}")


def _member(id: int, wanted: Wanted, account: Account, folder: str) -> dict[str, Any]:
    return {"version": 1, "id": id, "name": wanted.name, "account": account.name, "folder": folder or None}


def _created(id: int, wanted: Wanted, folder: str) -> Iterator[str]:
    yield f"segment {id} was created: {render.one_line(wanted.name)}"
    if folder:
        yield f"Folder {folder} is to feed it. Type: dropzone init && systemctl reload dropzone"
        return
    yield "folders:"
    yield "  NAME:"
    yield f"    segment_id: {id}"
    if wanted.suppression is None:
        yield "    mode: subscribe  # or unsubscribe, or lead"
        yield "    source_campaign: CAMPAIGN"
        yield "    source_partner: PARTNER"
    else:
        yield "    mode: suppress"
        yield f"    hash: {wanted.suppression}"
