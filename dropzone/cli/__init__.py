"""The command line: words, exit codes, and nothing else. What commands do is in `operate`, `daemon` and `wiring`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from dropzone import __version__
from dropzone.cli import asking, care, orders, render, segments, settings
from dropzone.cli.completing import SHELLS
from dropzone.cli.exits import Exit, table
from dropzone.cli.shared import Context
from dropzone.cli.text import colour
from dropzone.errors import ConfigError, DropzoneError, OperatorError


class _Group(click.Group):
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
    ctx.obj = Context(named)
    ctx.color = colour()


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
    from dropzone.wiring import load, running

    path = ctx.obj.path
    config = load(path)
    journal = Journal()
    with running(path, config, journal) as daemon:
        daemon.run(once=once)
        if once:
            left = daemon.left_over()
            waiting = Exit.PAUSED if left.paused else Exit.TEMPORARY if left.waiting else Exit.DONE
            ctx.exit(Exit.LEFT_OVER if left.failed else waiting)


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


asking.add_to(cli)
orders.add_to(cli)
settings.add_to(cli)
care.add_to(cli)
segments.add_to(cli)


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


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options, IDs, folders and accounts.

    \b
    Example:
      dropzone completion bash > /etc/bash_completion.d/dropzone
      dropzone completion zsh > /usr/local/share/zsh/site-functions/_dropzone
      dropzone completion fish > ~/.config/fish/completions/dropzone.fish
    """
    from dropzone.cli.completing import script

    click.echo(script(cli, shell))


@cli.command()
def man() -> None:
    """Print the man page.

    \b
    Example:
      dropzone man | man -l -
      dropzone man > /usr/local/share/man/man1/dropzone.1
    """
    from dropzone.cli.manual import page

    click.echo(page(cli), nl=False)


def _open_streams() -> None:
    """Open what whoever started us has closed (``2>&-``), or the ledger would get the number of standard error."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - the lowest number that is free, until the end


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
    sys.exit(code or Exit.DONE)
