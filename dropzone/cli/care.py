"""The commands that look after the machine: doctor, prune."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from dropzone import __version__
from dropzone.cli import render
from dropzone.cli.exits import Exit
from dropzone.cli.render.printing import marked
from dropzone.cli.shared import AS_JSON, now
from dropzone.cli.text import Column, Row, below, many, size, table
from dropzone.errors import LedgerError, printable

if TYPE_CHECKING:
    from dropzone.folders.expiring import Old
    from dropzone.ledger import Reader
    from dropzone.operate.doctor import Remark


@click.command()
@click.option("--online", is_flag=True, help="Also connect to OptiPub, by TLS and without sending anything.")
@AS_JSON
@click.pass_context
def doctor(ctx: click.Context, online: bool, as_json: bool) -> None:
    """Examine this machine: rights, file systems, limits, clock, ledger, keys, TLS, unit; each fault with its mend.

    Best asked as root, who can try what the daemon's user may do. Ends with 1 where something keeps files from being
    delivered, with 3 where there are warnings only.

    \b
    Example:
      dropzone -c /etc/dropzone/dropzone.yaml doctor --online
    """
    from dropzone.client import ask_health
    from dropzone.opening import find_ledger, followed
    from dropzone.operate.doctor import Patient, Severity, examine

    loaded, _ = ctx.obj.load_anyway()  # what is wrong with the ledger is told among the rest
    config = followed(loaded)
    health = ask_health(config)

    def examined(ledger: Reader | LedgerError | None) -> list[Remark]:
        patient = Patient(config=config, ledger=ledger, health=health, version=__version__)
        return list(examine(patient, now=now(), online=online))

    try:
        with find_ledger(config) as ledger:
            remarks = examined(ledger)
    except LedgerError as error:
        remarks = examined(error)
    if as_json:
        render.json_lines(map(_member, remarks))
    else:
        render.say(_lines(remarks))
    worst = max(remark.severity for remark in remarks)
    code = {Severity.FAULT: Exit.FAILED, Severity.WARNING: Exit.LEFT_OVER}
    ctx.exit(code.get(worst, Exit.DONE))


_MARKS = {"OK": ("+", "green"), "NOTE": ("-", None), "WARNING": ("!", "yellow"), "FAULT": ("x", "red")}


def _lines(remarks: Sequence[Remark]) -> Iterator[str]:
    for remark in remarks:
        mark, colour = _MARKS[remark.severity.name]
        yield from marked(mark, colour, render.one_line(f"{remark.subject}: {remark.what}"))
        if remark.mend:
            for line in below(render.one_line(remark.mend)):
                yield click.style(line, bold=True)
    counts = Counter(remark.severity.name for remark in remarks)
    told = f"{many(counts['FAULT'], 'fault')}, {many(counts['WARNING'], 'warning')}"
    yield f"{told}, {many(len(remarks), 'thing')} looked at"


def _member(remark: Remark) -> dict[str, Any]:
    return {
        "version": 1,
        "subject": render.one_line(remark.subject),
        "severity": remark.severity.name.lower(),
        "what": render.one_line(remark.what),
        "mend": render.one_line(remark.mend),
    }


@click.command()
@click.option("--dry-run", is_flag=True, help="Tell what would go, and delete nothing.")
@AS_JSON
@click.pass_context
def prune(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """Delete what done/ and failed/ keep longer than `retention:` says; the daemon does so by itself once a day.

    Without `retention:` nothing is ever deleted. Of a drop whose files are gone the row stays, so that duplicates are
    known; its history goes with the files.

    \b
    Example:
      dropzone prune --dry-run
    """
    from dropzone import client
    from dropzone.keeping import find_expired

    config = ctx.obj.load_followed()
    found = list(find_expired(config, now=now()))
    with suppress(BrokenPipeError):  # whoever reads this may have seen enough; the files go all the same
        if as_json:
            render.json_lines(map(_old_member, found))
        else:
            render.say(_old_lines(found, dry_run=dry_run))
    if found and not dry_run:
        client.prune(config)
    ctx.exit(Exit.DONE)


_OLD = (
    Column(heading="FOLDER", least=8),
    Column(heading="KIND"),
    Column(heading="DATE"),
    Column(heading="DROPS", right=True),
    Column(heading="SIZE", right=True),
)


def _old_lines(found: Sequence[Old], *, dry_run: bool) -> Iterator[str]:
    if not found:
        yield "Nothing is kept longer than it should be."
        return
    places = dict.fromkeys((old.folder, old.verdict, old.place.name) for old in found)
    rows = []
    for place in places:
        olds = [old for old in found if (old.folder, old.verdict, old.place.name) == place]
        rows.append(Row(cells=(*place, str(len(olds)), size(sum(old.size for old in olds)))))
    yield from table(_OLD, rows)
    what = "would be deleted" if dry_run else "are deleted"
    yield f"{many(len(found), 'drop')}, {size(sum(old.size for old in found))}: their files {what}"


def _old_member(old: Old) -> dict[str, Any]:
    return {
        "version": 1,
        "id": old.id,
        "folder": old.folder,
        "verdict": old.verdict,
        "date": old.place.name,
        "files": [printable(name) for name in old.names],
        "size": old.size,
    }
