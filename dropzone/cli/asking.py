"""The commands that only ask: status, queue, show, why, plan, check."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import click

from dropzone import operate, receipt
from dropzone.cli import render
from dropzone.cli.completing import complete_folder, complete_id
from dropzone.cli.exits import Exit
from dropzone.cli.shared import AS_JSON, now, repeat, watching
from dropzone.config import key_days_left
from dropzone.drop import FINISHED, State
from dropzone.errors import OperatorError


@click.command()
@watching
@AS_JSON
@click.pass_context
def status(ctx: click.Context, watch: bool, every: float, as_json: bool) -> None:
    """Tell how everything stands: the daemon, the accounts, and a line for each folder.

    A folder's line: drops that wait and since when, drops that a person must look at, drops that failed within a day,
    when the next one is due, when OptiPub last took a file, and how many rows it had.

    Ends with 3 where a person must do something: look at held drops, renew a key, mend the machine. With 8 where no
    daemon runs.

    \b
    Example:
      dropzone status
      dropzone status --watch
    """
    from dropzone.wiring import ask_health, open_ledger

    seen = ctx.obj.glance()
    with closing(open_ledger(seen)) as ledger:

        def look() -> operate.Overview:
            accounts = {name: key_days_left(created, now()) for name, created in seen.accounts.items()}
            return operate.overview(ledger, folders=seen.folders, accounts=accounts, health=ask_health(seen), now=now())

        if watch and not as_json:
            repeat(lambda: (render.status(look(), now()), False), every_s=every)
        overview = look()
    if as_json:
        render.json_lines(render.status_members(overview))
    else:
        render.say(render.status(overview, now()))
    if not overview.health.running:
        ctx.exit(Exit.NO_DAEMON)
    ctx.exit(Exit.LEFT_OVER if overview.needs_somebody else Exit.DONE)


@click.command()
@click.option("--folder", metavar="NAME", shell_complete=complete_folder, help="Only this folder.")
@click.option(
    "--state", type=click.Choice([state.value for state in State]), help="Only this state, finished ones too."
)
@click.option("--newest", type=click.IntRange(1, 10**9), metavar="N", help="Only the N that were taken over last.")
@click.option("--ages", is_flag=True, help="Count them by folder and age instead of listing them.")
@watching
@AS_JSON
@click.pass_context
def queue(
    ctx: click.Context,
    folder: str | None,
    state: str | None,
    newest: int | None,
    ages: bool,
    watch: bool,
    every: float,
    as_json: bool,
) -> None:
    """List the drops that are not finished: state, age, tries, next try, and why they wait.

    \b
    Example:
      dropzone queue --state held
      dropzone queue --ages
      dropzone queue --json | jq -r .id
    """
    from dropzone.wiring import ask_health, open_ledger

    seen = ctx.obj.glance()
    if folder is not None:
        operate.check_folder(folder, seen.folders)
    states = [State(state)] if state else operate.OPEN_STATES
    with closing(open_ledger(seen)) as ledger:

        def look(health: operate.Health) -> list[operate.Queued]:
            return operate.queue(ledger, states=states, folder=folder, newest=newest or -1, steps=health.steps)

        def lines(health: operate.Health) -> Iterable[str]:
            drops = look(health)
            return render.ages(operate.ages(drops, now())) if ages else render.queue(drops, now())

        if watch and not as_json:
            repeat(lambda: (lines(ask_health(seen)), False), every_s=every)
        health = ask_health(seen)
        if not as_json:
            render.say(lines(health))
            if not health.running and FINISHED.isdisjoint(states):
                render.no_daemon("nothing is taken over and nothing is sent")
        elif ages:
            render.json_lines(map(render.ages_member, operate.ages(look(health), now())))
        else:
            render.json_lines(map(render.queue_member, look(health)))


@click.command()
@click.argument("id", shell_complete=complete_id())
@watching
@AS_JSON
@click.pass_context
def show(ctx: click.Context, id: str, watch: bool, every: float, as_json: bool) -> None:
    """Tell everything about one drop: facts, history, attempts, bad rows, where the file is.

    The ID may be cut short at its end, or be its last four characters, as the journal has them. With --watch it ends
    by itself when the drop is finished.

    \b
    Example:
      dropzone show 2N23520SJ9AH
      dropzone show J9AH --watch
    """
    from dropzone.wiring import ask_health, open_ledger

    seen = ctx.obj.glance()
    with closing(open_ledger(seen)) as ledger:

        def look() -> operate.Shown:
            return operate.show(ledger, id, health=ask_health(seen))

        def lines() -> tuple[Iterable[str], bool]:
            shown = look()
            return render.show(shown), shown.drop.state in FINISHED

        if watch and not as_json:
            repeat(lines, every_s=every)
        elif as_json:
            render.json_lines([render.show_member(look())])
        else:
            render.say(render.show(look()))


@click.command()
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=click.Path(path_type=Path))
@AS_JSON
@click.pass_context
def why(ctx: click.Context, paths: tuple[Path, ...], as_json: bool) -> None:
    """Tell why a file was or was not picked up: its folder, what it waits for since when, what would change it.

    PATH is any path in or near an inbox, also that of a file that has left, or one in work/, done/ or failed/.

    \b
    Example:
      dropzone why /srv/dropzone/inbox/acme-signups/signups.csv
    """
    from dropzone import wiring

    findings, health = wiring.why(ctx.obj.path, [_absolute(path) for path in paths])
    if as_json:
        render.json_lines(map(render.finding_member, findings))
        return
    waits = any(finding.standing in ("waiting", "ready") for finding in findings)
    for finding in findings:
        render.say(render.finding(finding, now()))
    if waits and not health.running:
        render.no_daemon("nothing is taken over")
    if health.outdated:
        render.error("the daemon goes by an older configuration than the file's", render.RELOAD)


def _absolute(path: Path) -> Path:
    """`path` from the root on, for the daemon has another place. A ``..`` stays: it may lead out of a link."""
    try:
        return path.absolute()
    except FileNotFoundError as error:
        hint = "Change into one that is there, or write the path from / on"
        raise OperatorError("the directory that this is asked in is gone", hint) from error


@click.command()
@click.option("--folder", metavar="NAME", shell_complete=complete_folder, help="Only this folder.")
@AS_JSON
@click.pass_context
def plan(ctx: click.Context, folder: str | None, as_json: bool) -> None:
    """Tell what lies in the inboxes and what would happen to each file: fields, guards, problems; sends nothing.

    Ends with 3 where a file would fail or be held, or cannot be taken at all.

    \b
    Example:
      dropzone plan
      dropzone plan --folder acme-signups
    """
    from dropzone.operate import trying
    from dropzone.wiring import find_ledger, inboxes

    trouble = False
    with find_ledger(ctx.obj.glance()) as ledger:
        looked = inboxes(ctx.obj.path, ledger, folder)
        for each in trying.plan(looked, ledger, now=now(), progress=lambda path, size: render.progress(size)):
            trouble |= bool(each.inbox.fault) or any(render.is_trouble(file) for file in each.files)
            if as_json:
                render.json_lines(render.plan_members(each))
            else:
                render.say(render.plan(each))
    ctx.exit(Exit.LEFT_OVER if trouble else Exit.DONE)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--folder",
    "folder_name",
    required=True,
    metavar="NAME",
    shell_complete=complete_folder,
    help="Read it as this folder would.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the prepared copy to this file; whole only where this ends with 0.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr which engine reads it.")
@AS_JSON
@click.pass_context
def check(ctx: click.Context, file: Path, folder_name: str, out: Path | None, verbose: bool, as_json: bool) -> None:
    """Read a CSV as a folder would and tell its problems as file:line:column; sends nothing.

    \b
    Example:
      dropzone check signups.csv --folder acme-signups
      dropzone check signups.csv --folder acme-signups --out prepared.csv
    """
    from dropzone.operate import trying

    loaded, unread = ctx.obj.load_anyway()
    if unread and folder_name in loaded.unmade:
        raise unread
    folder = trying.get_folder(loaded, folder_name)
    if verbose:
        from dropzone.sheet import engine

        click.echo(f"{render.one_line(str(file))}: patterns run by {engine()}", err=True)
    report = trying.check(file, folder, out=out, progress=render.progress(file.stat().st_size))
    if as_json:
        render.json_lines([receipt.report_as_dict(report) | {"file": render.one_line(str(file))}])
    else:
        render.say(render.check(str(file), report))
    ctx.exit(Exit.FAILED if report.refused else Exit.DONE)
