"""What lies in inboxes: what stands about one path, and what would become of each file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dropzone import receipt
from dropzone.cli.render.printing import marked, one_line, stamp
from dropzone.cli.text import age, below, size
from dropzone.errors import printable
from dropzone.operate import Finding

if TYPE_CHECKING:  # loads the folders and the settings, which most commands do without
    from dropzone.operate.trying import FolderPlan, Planned

_STANDINGS = {
    "ignored": ("-", None),
    "unfit": ("!", "red"),
    "waiting": ("·", None),
    "ready": ("+", "green"),
    "taken": (">", "cyan"),
    "missing": ("?", "magenta"),
    "inbox": ("+", "green"),
    "outside": ("?", "magenta"),
}


def finding(found: Finding, now: float) -> Iterator[str]:
    """What stands about one path, and what would change it."""
    mark, colour = _STANDINGS[found.standing]
    size_of = f", {size(found.size)}" if found.size is not None else ""
    yield from marked(mark, colour, f"{printable(str(found.path))}{size_of}: {found.standing}")
    if found.folder:
        yield from below(printable(found.folder), "     folder   ")
    if found.since is not None:
        changed = "taken" if found.standing == "taken" else "changed"
        yield f"     {changed:<8} {receipt.stamp(found.since)}, {age(now - found.since)} ago"
    yield from below(receipt.harmless(found.what), "     why      ")
    if found.until is not None:
        yield f"     until    {receipt.stamp(found.until)}, in {age(found.until - now)}, if nothing changes"
    if found.reason:
        yield from below(receipt.harmless(found.reason), "     reason   ")
    if found.change:
        yield from below(one_line(found.change), "     mend     ")


def finding_member(found: Finding) -> dict[str, Any]:
    """The JSON form of what stands about one path."""
    return {
        "version": 1,
        "path": printable(str(found.path)),
        "folder": found.folder,
        "standing": found.standing,
        "what": receipt.harmless(found.what),
        "change": one_line(found.change),
        "since": stamp(found.since),
        "until": stamp(found.until),
        "size": found.size,
        "id": found.id,
        "state": found.state,
    }


# --------------------------------------------------------------------------------------------------------- a plan

_OUTCOMES = {
    "sent": ("+", "green"),
    "spared": ("+", None),
    "held": ("!", "yellow"),
    "refused": ("x", "red"),
    "waits": ("·", None),
    "left": ("-", None),
}


def is_trouble(planned: Planned) -> bool:
    """Whether somebody would have to do something about the file."""
    return planned.outcome in ("held", "refused") or planned.finding.standing == "unfit"


def plan(of: FolderPlan) -> Iterator[str]:
    """One folder: where its files go and with which fields, then each file and what would become of it."""
    inbox = of.inbox
    fields = ", ".join(f"{one_line(name)}={one_line(value)}" for name, value in inbox.fields)
    for line in below(f"{inbox.folder}: {inbox.mode} into segment {inbox.segment_id} of {inbox.account}", "", "  "):
        yield click.style(line, bold=True)
    yield from below(f"with {fields}", "  ")
    if inbox.fault:
        yield from below(f"{one_line(inbox.fault)}. {one_line(inbox.mend)}", "  ! ")
        return
    for file in of.files:
        mark, colour = _OUTCOMES[file.outcome]
        if file.finding.standing == "unfit":
            mark, colour = "!", "red"
        name = printable(file.finding.path.name)
        yield from marked(mark, colour, f"{name}, {size(file.finding.size or 0)}: {file.outcome}", "  ")
        yield from below(receipt.harmless(file.why), "       ")
        for problem in file.report.problems[:_PLANNED_PROBLEMS] if file.report and file.outcome != "sent" else ():
            yield from below(one_line(problem.at(name)), "       ")
    if not of.files:
        yield "  nothing there"


_PLANNED_PROBLEMS = 3


def plan_members(of: FolderPlan) -> Iterator[dict[str, Any]]:
    """The JSON form: one object for each file, and one without a file for a folder that cannot be looked into."""
    inbox = of.inbox
    common = {
        "version": 1,
        "folder": inbox.folder,
        "account": inbox.account,
        "segment_id": inbox.segment_id,
        "mode": inbox.mode,
        "fields": dict(inbox.fields),
    }
    if inbox.fault:
        yield common | {"path": None, "size": None, "outcome": "left", "why": one_line(inbox.fault), "report": None}
    for file in of.files:
        yield common | {
            "path": printable(str(file.finding.path)),
            "size": file.finding.size,
            "outcome": file.outcome,
            "why": receipt.harmless(file.why),
            "report": receipt.report_as_dict(file.report) if file.report else None,
        }
