"""The exception tree, and what a problem is: where, what, and how to mend it.

    DropzoneError               a person can act on it: one sentence and a mend
    ├── ConfigError             the configuration is wrong; carries every problem at once
    ├── LedgerError             the ledger cannot be read or written
    ├── FolderError             a folder or a file in it refuses us
    ├── LockedError             another dropzone has the state folder
    ├── NoThreadError           the machine gives no further thread
    └── OperatorError           an order or a question that cannot be carried out
        └── LaterError          … as it is now: the same may work later
    IllegalEvent                a bug: an event that the table of `drop.py` lacks
    Cancelled                   not an error: a long step was asked to stop

Modules that talk to a library translate its exceptions into these at their edge, so nothing above
them ever catches an `OSError`, an `sqlite3.Error` or an httpx exception.
"""

from __future__ import annotations

import errno
import os

from dropzone.values import value

# Errors of the machine, not of a file: they pause the work and judge nothing (no space, quota, read-only,
# I/O error, too many open files here or on the system).
ENVIRONMENT_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


@value
class Problem:
    """One thing that is wrong, in a form a compiler would print: ``file:line:column: subject: what``.

    `line` and `column` count from 1, in characters; 0 means "the whole file" or "the whole line".
    `subject` is the setting (``folders.acme.mode``) or the CSV column (``email``) concerned, or empty.
    `hint` says what would be right.
    """

    line: int
    column: int
    what: str
    hint: str = ""
    subject: str = ""

    def at(self, file: str) -> str:
        """``FILE:LINE:COLUMN: SUBJECT: WHAT (HINT)``, without the parts that are unknown."""
        place = file
        if self.line:
            place += f":{self.line}"
            if self.column:
                place += f":{self.column}"
        subject = f" {self.subject}:" if self.subject else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}:{subject} {self.what}{hint}"


class DropzoneError(Exception):
    """Something a person can act on: `message` says what happened, `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class ConfigError(DropzoneError):
    """The configuration cannot be used. `problems` holds all of them, in the order of the file."""

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        count = len(problems)
        super().__init__(
            f"{file}: {count} problem{'s' if count != 1 else ''}",
            "Mend the lines named and run 'dropzone config check'",
        )
        self.file = file
        self.problems = problems


class LedgerError(DropzoneError):
    """The ledger cannot be opened, read or written. Nothing is sent while this lasts."""


class FolderError(DropzoneError):
    """An operation on a folder or file failed. `environment` is True where the machine is at fault, not the file."""

    def __init__(self, op: str, path: str | bytes, cause: OSError | str, hint: str = "") -> None:
        why = cause if isinstance(cause, str) else (cause.strerror or str(cause))
        super().__init__(f"cannot {op} {printable(path)}: {why}", hint)
        self.op = op
        self.path = path
        self.errno = cause.errno if isinstance(cause, OSError) else None

    @property
    def environment(self) -> bool:
        return self.errno in ENVIRONMENT_ERRNOS


class LockedError(DropzoneError):
    """Another dropzone has this state folder."""


class NoThreadError(DropzoneError):
    """The machine gives no further thread; what it was wanted for is not done, and will not be."""


class OperatorError(DropzoneError):
    """A question or an order from the command line that cannot be carried out as given."""


class LaterError(OperatorError):
    """The same may work later, as it was given: OptiPub cannot be reached, or asks to wait."""


class IllegalEvent(Exception):
    """An event that the table of transitions lacks for this state. A bug, never a condition to handle."""


class Cancelled(Exception):
    """A check was asked to stop (shutdown, or the drop was discarded). What it did is thrown away."""


def printable(name: str | bytes) -> str:
    """`name` as one harmless line: control characters, undecodable bytes and odd spaces come out as escapes.

    Partners choose names; a newline or a terminal escape in one must never reach a log or a screen.
    """
    text = name if isinstance(name, str) else os.fsdecode(name)
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(char) for char in text)


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
