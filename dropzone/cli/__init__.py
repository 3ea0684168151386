"""The command line: words, exit codes, and nothing else. What commands do is in `operate`, `daemon` and `wiring`."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import click

from dropzone import __version__, receipt
from dropzone import config as configuration
from dropzone.cli import orders, render
from dropzone.cli.exits import Exit, table
from dropzone.config import Config
from dropzone.drop import State
from dropzone.errors import ConfigError, DropzoneError, OperatorError, Problem

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of text.")


class _Context:
    """What every command shares: which configuration was named."""

    def __init__(self, named: Path | None) -> None:
        self._named = named

    @property
    def path(self) -> Path:
        from dropzone.wiring import find_config

        return find_config(self._named)

    def load(self) -> Config:
        return configuration.load(self.path)


class _Group(click.Group):
    """Turns our errors into one sentence, its mend and an exit code; nothing else is caught."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(render.printable_problem(problem.at(error.file)), err=True)
            render.error(error.message, error.hint)
            ctx.exit(Exit.CONFIG)
        except DropzoneError as error:
            render.error(error.message, error.hint)
            ctx.exit(Exit.ANOTHER if type(error).__name__ == "LockedError" else Exit.FAILED)
        except BrokenPipeError:  # `dropzone queue | head`: the reader has seen enough
            # What is still in the buffer would break again at the interpreter's end, and make the exit code 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(Exit.DONE)


@click.group(
    cls=_Group,
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
    ctx.obj = _Context(named)
    ctx.color = render.colour()


@cli.command()
@click.option("--once", is_flag=True, help="Deal with everything that is there now, then exit (for cron).")
@click.pass_context
def run(ctx: click.Context, once: bool) -> None:
    """Watch the folders and send what becomes ready, until stopped (SIGTERM drains, SIGHUP reloads).

    \b
    Example:
      dropzone -c /etc/dropzone/dropzone.yaml run
      dropzone run --once || mail -s "dropzone: look" ops@example.com </dev/null
    """
    from dropzone.telemetry import Journal
    from dropzone.wiring import running

    path = ctx.obj.path
    config = configuration.load(path)
    journal = Journal()
    with running(path, config, journal) as daemon:
        daemon.run(once=once)
        if once:
            left = daemon.left_over()
            waiting = Exit.PAUSED if left.paused else Exit.TEMPORARY if left.waiting else Exit.DONE
            ctx.exit(Exit.LEFT_OVER if left.failed else waiting)


def _key_warnings(config: Config) -> list[str]:
    """What to say of keys that end within 30 days."""
    left = [(account, account.key_days_left(time.time())) for account in config.accounts.values()]
    return [account.key_warning(days) for account, days in left if days is not None and days <= 30]


@cli.command()
@click.pass_context
def init(ctx: click.Context) -> None:
    """Make the folders that the configuration names, with the modes they need.

    \b
    Example:
      dropzone -c dropzone.yaml init
    """
    from dropzone.wiring import lay_out

    made = lay_out(ctx.obj.load())
    for path in made:
        click.echo(f"made {path}")
    click.echo("Everything was there." if not made else f"{len(made)} folders made.")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--folder", "folder_name", required=True, metavar="NAME", help="Read it as this folder would.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the prepared copy to this file.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr which engine reads it.")
@_AS_JSON
@click.pass_context
def check(ctx: click.Context, file: Path, folder_name: str, out: Path | None, verbose: bool, as_json: bool) -> None:
    """Read a CSV as a folder would and tell its problems as file:line:column; sends nothing.

    \b
    Example:
      dropzone check signups.csv --folder acme-signups
    """
    from dropzone import operate

    folder = operate.get_folder(ctx.obj.load(), folder_name)
    if verbose:
        from dropzone.sheet import engine

        click.echo(f"{file}: patterns run by {engine()}", err=True)
    report = operate.check(file, folder, out=out, progress=render.progress(file.stat().st_size))
    if as_json:
        render.json_lines([receipt.report_as_dict(report) | {"file": render.printable_problem(str(file))}])
    else:
        render.check(str(file), report)
    ctx.exit(Exit.FAILED if report.refused else Exit.DONE)


@cli.command()
@click.option("--folder", metavar="NAME", help="Only this folder.")
@click.option(
    "--state", type=click.Choice([state.value for state in State]), help="Only this state, finished ones too."
)
@_AS_JSON
@click.pass_context
def queue(ctx: click.Context, folder: str | None, state: str | None, as_json: bool) -> None:
    """List the drops that are not finished: state, age, tries, next try, and why they wait.

    \b
    Example:
      dropzone queue --state held
      dropzone queue --json | jq -r .id
    """
    from dropzone import operate
    from dropzone.wiring import open_ledger

    config = ctx.obj.load()
    if folder is not None:
        operate.get_folder(config, folder)
    states = [State(state)] if state else operate.OPEN_STATES
    with closing(open_ledger(config)) as ledger:
        lines = operate.queue(ledger, states=states, folder=folder)
    if as_json:
        render.json_lines(receipt.as_dict(line.drop) | {"due_at": receipt.stamp(line.due_at)} for line in lines)
    else:
        render.queue(lines, time.time())


@cli.command()
@click.argument("id")
@_AS_JSON
@click.pass_context
def show(ctx: click.Context, id: str, as_json: bool) -> None:
    """Tell everything about one drop: facts, history, attempts, bad rows, where the file is. The ID may be cut short.

    \b
    Example:
      dropzone show 2N23520SJ9AH
    """
    from dropzone import operate
    from dropzone.wiring import open_ledger

    with closing(open_ledger(ctx.obj.load())) as ledger:
        shown = operate.show(ledger, id)
    if as_json:
        events = [receipt.event_as_dict(entry) for entry in shown.history]
        attempts = [render.attempt(attempt) for attempt in shown.attempts]
        path = render.printable_problem(str(shown.path)) if shown.path else None
        members = {"events": events, "attempts_made": attempts, "file": path}
        render.json_lines([receipt.as_dict(shown.drop) | members])
    else:
        render.show(shown)


orders.add_to(cli)


@cli.group()
def config() -> None:
    """Look at the configuration: check, show, schema, example.

    \b
    Example:
      dropzone config example > dropzone.yaml
      dropzone -c dropzone.yaml config check
    """


@config.command("check")
@_AS_JSON
@click.pass_context
def config_check(ctx: click.Context, as_json: bool) -> None:
    """Tell every problem of the configuration at once, with line and column; also tries to read the keys.

    \b
    Example:
      dropzone -c dropzone.yaml config check
    """
    try:
        loaded = ctx.obj.load()
    except ConfigError as error:
        if not as_json:
            raise
        render.json_lines(_problem(error.file, problem) for problem in error.problems)
        ctx.exit(Exit.CONFIG)
    if as_json:
        return
    for warning in _key_warnings(loaded):
        click.echo(f"dropzone: {warning}", err=True)
    for account in loaded.accounts.values():
        try:
            account.api_key.read()
        except DropzoneError as error:  # not a fault of the file: the key may only be readable for the daemon
            click.echo(f"note: account {account.name}: {error}", err=True)
    click.echo(f"{loaded.file}: {len(loaded.folders)} folders, {len(loaded.accounts)} accounts, no problems")


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
@_AS_JSON
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


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; loopback only.")
@click.option("--port", default=8899, show_default=True, help="The port; 0 takes a free one.")
@click.option("--key", default="sandbox-key", show_default=True, help="The API key it accepts.")
@click.option(
    "--suppression",
    multiple=True,
    metavar="ID:HASH",
    help="A suppression segment and its hash (none, md5, sha256, sha512); may be repeated.",
)
@click.pass_context
def sandbox(ctx: click.Context, host: str, port: int, key: str, suppression: tuple[str, ...]) -> None:
    """Run a pretend OptiPub on this machine, with faults on request.

    \b
    Example:
      dropzone sandbox --suppression 100792:sha256
      curl -X POST localhost:8899/sandbox/faults -d '{"kind": "lost_answer", "times": 1}'
      curl localhost:8899/sandbox/state
    """
    from dropzone.sandbox import serve

    segments = dict(_suppression(text) for text in suppression)
    ctx.exit(serve(host=host, port=port, key=key, segments=segments))


def _suppression(text: str) -> tuple[int, str]:
    number, _, kind = text.partition(":")
    if not number.isdecimal() or kind not in ("none", "md5", "sha256", "sha512"):
        raise OperatorError(f"{text!r} is no segment", "Write it as ID:HASH, say 100792:sha256")
    return int(number), kind


@cli.command()
@click.option("--keep", is_flag=True, help="Leave the folders of the demonstration for looking around.")
@click.pass_context
def demo(ctx: click.Context, keep: bool) -> None:
    """See it work: a pretend OptiPub, a real daemon and a few files, good and bad; ends by itself in seconds.

    \b
    Example:
      dropzone demo
    """
    from dropzone.cli.demo import play

    ctx.exit(play(keep=keep))


def _open_streams() -> None:
    """Open what whoever started us has closed (``2>&-``), or the ledger would get the number of standard error."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - the lowest number that is free, until the end


def main(argv: list[str] | None = None) -> NoReturn:
    """The console script. Ends the process with one of the codes in `exits`."""
    _open_streams()
    try:
        # Outside its standalone mode click hands the code of ctx.exit() back instead of raising it.
        code = cli.main(args=argv, prog_name="dropzone", standalone_mode=False)
    except click.ClickException as error:  # wrong usage
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(Exit.INTERRUPTED)
    sys.exit(code or Exit.DONE)
