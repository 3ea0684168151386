"""The commands about the configuration: check, show, schema, example."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dropzone import config as configuration
from dropzone.cli import render
from dropzone.cli.exits import Exit
from dropzone.cli.shared import AS_JSON, Group, now
from dropzone.cli.text import many
from dropzone.errors import ConfigError, DropzoneError, Problem

if TYPE_CHECKING:
    from dropzone.config import Config

_WARNING_DAYS = 30  # before a key ends


def key_warnings(config: Config, at: float) -> list[str]:
    """A sentence for each key that ends within 30 days of `at`, or has ended."""
    left = [(account, account.key_days_left(at)) for account in config.accounts.values()]
    return [account.key_warning(days) for account, days in left if days is not None and days <= _WARNING_DAYS]


@click.group(cls=Group)
def config() -> None:
    """Look at the configuration: check, show, schema, example.

    \b
    Example:
      dropzone config example > dropzone.yaml
      dropzone -c dropzone.yaml config check
    """


@config.command("check")
@AS_JSON
@click.pass_context
def config_check(ctx: click.Context, as_json: bool) -> None:
    """Tell every problem of the configuration at once, with line and column; also tries to read the keys.

    \b
    Example:
      dropzone -c dropzone.yaml config check
    """
    try:
        loaded, unread = ctx.obj.load_anyway()
    except ConfigError as error:
        if not as_json:
            raise
        render.json_lines(_problem(error.file, problem) for problem in error.problems)
        ctx.exit(Exit.CONFIG)
    if as_json:
        return
    for warning in key_warnings(loaded, now()):
        click.echo(f"dropzone: {warning}", err=True)
    for account in loaded.accounts.values():
        try:
            account.api_key.read()
        except DropzoneError as error:  # not a fault of the file: the key may only be readable for the daemon
            click.echo(f"note: account {account.name}: {error}", err=True)
    if unread:
        of = "the folder" if len(loaded.unmade) == 1 else "the folders"
        what = f"{of} {', '.join(loaded.unmade)}: which segments were created is not known: {unread}"
        click.echo(f"note: {render.one_line(what)}", err=True)
    for name in () if unread else loaded.unmade:
        click.echo(
            f"note: folder {name}: its segment is still to be created: dropzone segment create --folder {name}",
            err=True,
        )
    folders, accounts = len(loaded.folders) + len(loaded.unmade), len(loaded.accounts)
    click.echo(
        f"{render.one_line(str(loaded.file))}: {many(folders, 'folder')}, {many(accounts, 'account')}, no problems"
    )


def _problem(file: str, problem: Problem) -> dict[str, Any]:
    return {
        "version": 1,
        "file": file,
        "line": problem.line,
        "column": problem.column,
        "subject": problem.subject,
        "what": problem.what,
        "hint": problem.hint,
    }


@config.command("show")
@AS_JSON
@click.pass_context
def config_show(ctx: click.Context, as_json: bool) -> None:
    """Print the configuration as it is understood, with all defaults; keys only as where they come from.

    \b
    Example:
      dropzone config show
    """
    loaded = ctx.obj.load()
    if as_json:
        render.json_lines([configuration.effective(loaded)])
    else:
        click.echo(configuration.dump(loaded), nl=False)


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    \b
    Example:
      dropzone config schema > dropzone.schema.json
    """
    click.echo(json.dumps(configuration.schema(), indent=2))


@config.command("example")
def config_example() -> None:
    """Print a configuration to begin with, every key explained.

    \b
    Example:
      dropzone config example > dropzone.yaml
    """
    click.echo(configuration.example(), nl=False)
