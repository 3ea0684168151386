"""The commands that tell shells and `man` of all the others: completion, man."""

from __future__ import annotations

import click

from dropzone.cli.manual import page
from dropzone.cli.shells import SHELLS, script


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options, IDs, folders and accounts.

    \b
    Example:
      dropzone completion bash > /etc/bash_completion.d/dropzone
      dropzone completion zsh > /usr/local/share/zsh/site-functions/_dropzone
      dropzone completion fish > ~/.config/fish/completions/dropzone.fish
    """
    click.echo(script(ctx.find_root().command, shell))


@click.command()
@click.pass_context
def man(ctx: click.Context) -> None:
    """Print the man page.

    \b
    Example:
      dropzone man | man -l -
      dropzone man > /usr/local/share/man/man1/dropzone.1
    """
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    click.echo(page(root), nl=False)
