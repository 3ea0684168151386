"""What the exit codes mean: one table, printed by ``dropzone --help``."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    LEFT_OVER = 3
    CONFIG = 4
    TEMPORARY = 5
    PAUSED = 6
    ANOTHER = 7
    NO_DAEMON = 8
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "failed",
    Exit.USAGE: "wrong usage",
    Exit.LEFT_OVER: "finished, but files failed or are held",
    Exit.CONFIG: "the configuration is invalid",
    Exit.TEMPORARY: "temporary: the API cannot be reached, or asks to wait",
    Exit.PAUSED: "the account or the folder is paused",
    Exit.ANOTHER: "another instance runs on this state folder",
    Exit.NO_DAEMON: "no daemon runs",
    Exit.INTERRUPTED: "interrupted",
}


def table() -> str:
    """The table as text, one code per line."""
    return "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())
