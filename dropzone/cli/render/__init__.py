"""How results look: lines of text for people, JSON members for programs.

Each function gives lines and prints nothing, so that the same lines can be printed once or kept on a screen; only
`printing` prints. Whatever a partner or a server chose (names, reasons, cells) goes through `printable` or `harmless`
before it is in a line.
"""

from __future__ import annotations

from dropzone.cli.render.checks import check, progress
from dropzone.cli.render.glance import status, status_members
from dropzone.cli.render.history import show, show_member
from dropzone.cli.render.inboxes import finding, finding_member, is_trouble, plan, plan_members
from dropzone.cli.render.printing import RELOAD, error, json_lines, no_daemon, one_line, say
from dropzone.cli.render.waiting import MARKS, ages, ages_member, far, queue, queue_member

__all__ = [
    "MARKS",
    "RELOAD",
    "ages",
    "ages_member",
    "check",
    "error",
    "far",
    "finding",
    "finding_member",
    "is_trouble",
    "json_lines",
    "no_daemon",
    "one_line",
    "plan",
    "plan_members",
    "progress",
    "queue",
    "queue_member",
    "say",
    "show",
    "show_member",
    "status",
    "status_members",
]
