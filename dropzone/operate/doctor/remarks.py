"""What a diagnosis consists of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from dropzone.errors import DropzoneError


class Severity(IntEnum):
    """How bad it is. A fault keeps files from being delivered; a warning may do so one day; a note is worth knowing."""

    OK = 0
    NOTE = 1
    WARNING = 2
    FAULT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing that was looked at: `subject` is what, `what` how it is, `mend` what to type where it is not right."""

    subject: str
    severity: Severity
    what: str
    mend: str = ""


def ok(subject: str, what: str) -> Remark:
    """It is right."""
    return Remark(subject=subject, severity=Severity.OK, what=what)


def note(subject: str, what: str, mend: str = "") -> Remark:
    """It works, but somebody may want to know."""
    return Remark(subject=subject, severity=Severity.NOTE, what=what, mend=mend)


def warning(subject: str, what: str, mend: str) -> Remark:
    """It works now, and may not one day."""
    return Remark(subject=subject, severity=Severity.WARNING, what=what, mend=mend)


def fault(subject: str, what: str, mend: str) -> Remark:
    """It keeps files from being delivered."""
    return Remark(subject=subject, severity=Severity.FAULT, what=what, mend=mend)


def of_error(subject: str, error: DropzoneError, mend: str = "") -> Remark:
    """An error that was met by trying."""
    return fault(subject, error.message, error.hint or mend)
