"""The commands that run something: run and what it needs first, and a pretend OptiPub to try it with."""

from __future__ import annotations

import click

from dropzone.cli.exits import Exit
from dropzone.errors import OperatorError


@click.command()
@click.option("--once", is_flag=True, help="Deal with everything that is there now, then exit (for cron).")
@click.pass_context
def run(ctx: click.Context, once: bool) -> None:
    """Watch the folders and send what becomes ready, until stopped (SIGTERM drains, SIGHUP reloads).

    \b
    Example:
      dropzone -c /etc/dropzone/dropzone.yaml run
      dropzone run --once || mail -s "dropzone: look" ops@example.com </dev/null
    """
    from dropzone.opening import load
    from dropzone.telemetry import Journal
    from dropzone.wiring import running

    path = ctx.obj.path
    with running(path, load(path), Journal()) as daemon:
        daemon.run(once=once)
        if once:
            left = daemon.left_over()
            waiting = Exit.PAUSED if left.paused else Exit.TEMPORARY if left.waiting else Exit.DONE
            ctx.exit(Exit.LEFT_OVER if left.failed else waiting)


@click.command()
@click.pass_context
def init(ctx: click.Context) -> None:
    """Make the folders that the configuration names, with the modes they need.

    \b
    Example:
      dropzone -c dropzone.yaml init
    """
    from dropzone.opening import lay_out

    made = lay_out(ctx.obj.load())
    for path in made:
        click.echo(f"made {path}")
    click.echo("Everything was there." if not made else f"{len(made)} folders made.")


@click.command()
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
    if not number.isdecimal() or len(number) > 18 or kind not in ("none", "md5", "sha256", "sha512"):
        raise OperatorError(f"{text!r} is no segment", "Write it as ID:HASH, say 100792:sha256")
    return int(number), kind


@click.command()
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
