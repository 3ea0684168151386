"""The man page, made from the commands themselves. Knows roff, and what --help knows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from dropzone import __version__
from dropzone.cli.exits import MEANINGS

_FILES = {
    "./dropzone.yaml, /etc/dropzone/dropzone.yaml": "The configuration, unless -c or $DROPZONE_CONFIG names another.",
    "{root}/inbox/FOLDER": "What partners write into.",
    "{root}/work": "What was taken over; nobody else's.",
    "{root}/done/FOLDER/DATE, {root}/failed/FOLDER/DATE": "What has ended, each file with its log.",
    "{state_dir}/ledger.db": "What was promised to OptiPub; on a local disk.",
    "{state_dir}/control.sock": "Where a running daemon takes orders.",
}
_VARIABLES = {
    "DROPZONE_CONFIG": "The configuration file.",
    "NO_COLOR": "Where it is set, nothing is coloured.",
    "CREDENTIALS_DIRECTORY": "Where systemd has put the keys of accounts with api_key: {credential: NAME}.",
}


def page(group: click.Group) -> str:
    """The page as roff source."""
    return "\n".join(_lines(group)) + "\n"


def _lines(group: click.Group) -> Iterator[str]:
    yield f'.TH DROPZONE 1 "" "dropzone {__version__}" "User commands"'
    yield ".SH NAME"
    yield r"dropzone \- hand CSV files that partners drop into folders to OptiPub segments"
    yield ".SH SYNOPSIS"
    yield r".B dropzone"
    yield r"[\fB\-c\fR \fIFILE\fR] \fICOMMAND\fR [\fIARGUMENT\fR ...]"
    yield ".SH DESCRIPTION"
    yield from _help(group)
    yield ".SH OPTIONS"
    yield from _options(group)
    yield ".SH COMMANDS"
    for words, command in commands(group):
        yield f".SS {_escape('dropzone ' + ' '.join(words))}{_usage(command)}"
        yield from _help(command)
        yield from _options(command)
    yield ".SH EXIT STATUS"
    for code, meaning in MEANINGS.items():
        yield from _term(str(code.value), meaning)
    yield ".SH ENVIRONMENT"
    for name, meaning in _VARIABLES.items():
        yield from _term(name, meaning)
    yield ".SH FILES"
    for name, meaning in _FILES.items():
        yield from _term(name, meaning)


def commands(group: click.Group, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below `group` by its words, groups left out, in the order of their names."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)
        else:
            yield (*words, name), command


def _usage(command: click.Command) -> str:
    pieces = [
        _escape(parameter.make_metavar(click.Context(command)))
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    return "".join(f" {piece}" for piece in pieces)


def _help(command: click.Command) -> Iterator[str]:
    """Paragraphs; those that click is told not to wrap stay as they are."""
    for number, paragraph in enumerate(inspect.cleandoc(command.help or "").split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b\n"):
            yield ".nf"
            yield from (_escape(line) for line in paragraph[2:].splitlines())
            yield ".fi"
        else:
            yield _escape(" ".join(paragraph.split()))


def _options(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        record = parameter.get_help_record(click.Context(command))
        if record is not None and isinstance(parameter, click.Option):
            yield from _term(*record)


def _term(term: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_escape(term)}"
    yield _escape(meaning)


def _escape(text: str) -> str:
    """`text` as roff prints it literally: backslashes, hyphens, and dots and quotes at the start of a line."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...")
    return re.sub(r"^([.'])", r"\\&\1", text)
