"""What would become of files: reads them as their folders would, asks the guards, and sends nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from dropzone import policy
from dropzone.drop import Drop, Report, Skipped, apply, make_id
from dropzone.errors import OperatorError, printable
from dropzone.ledger import Reader
from dropzone.operate.asking import Finding, Inbox, check_folder
from dropzone.values import value

if TYPE_CHECKING:  # the models are slow to load, and a plan may need none
    from dropzone.config import Config, Folder


def get_folder(config: Config, name: str) -> Folder:
    """The folder called `name`. Raises OperatorError that lists what there is, or says how its segment is made."""
    if name in config.unmade:
        hint = f"Type: dropzone segment create --folder {name}"
        raise OperatorError(f"the segment of folder {name} is still to be created", hint)
    check_folder(name, list(config.folders))
    return config.folders[name]


def check(
    file: Path, folder: Folder, *, out: Path | None = None, progress: Callable[[int], None] | None = None
) -> Report:
    """Read `file` as `folder` would, sending nothing; `out` gets the prepared copy. Raises OperatorError.

    `out` may not be `file` itself, by whatever name. What a file that is refused leaves in it is not whole.
    """
    if out is not None and _is_same(out, file):  # opening it for the copy would empty it before it is read
        hint = "Name another file for the prepared copy"
        raise OperatorError(f"{printable(str(out))} is the file that is to be read", hint)
    with _Copy(out or Path(os.devnull)) as prepared:
        return _read(file, folder, prepared, progress, flags=0)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.is_file() and one.samefile(other)
    except OSError:  # whoever opens them says what is wrong with them
        return False


# A partner may exchange the file for a link or a pipe between our look and our reading.
_WARY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


def _read(
    file: Path, folder: Folder, prepared: _Copy | _Digest, progress: Callable[[int], None] | None, *, flags: int
) -> Report:
    from dropzone import sheet  # the engine: a plan that finds nothing to read does not wait for it

    def opener(path: str, mode: int) -> int:
        return os.open(path, mode | flags | os.O_CLOEXEC)

    try:
        with open(file, "rb", opener=opener) as source, open(os.devnull, "wb") as rejects:
            compressed = os.fsencode(file.name).lower().endswith(b".gz")
            return sheet.check(
                source, prepared, rejects, folder, compressed=compressed, progress=progress, cores=sheet.cores()
            )
    except OSError as error:
        raise _unusable(file, error) from error


class _Copy:
    """The file that takes the prepared copy. What is wrong with it is not said of the file that is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._translated():
            self._file = path.open("wb")

    def write(self, piece: bytes) -> None:
        with self._translated():
            self._file.write(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._translated():  # what is in the buffer is written now
            self._file.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unusable(self._path, error) from error


def _unusable(path: Path, error: OSError) -> OperatorError:
    hint = "Make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Is the path right?"
    return OperatorError(f"cannot use {printable(str(path))}: {error.strerror}", hint)


# --------------------------------------------------------------------------------------------------------- a plan

Outcome = Literal["sent", "spared", "held", "refused", "waits", "left"]


@value
class Planned:
    """What would become of one file, and why; `report` is what reading it found, if it was read.

    ``sent``, ``spared`` (there is no need to), ``held``, ``refused``; ``waits`` while it is not ready, ``left`` alone.
    """

    finding: Finding
    outcome: Outcome
    why: str
    report: Report | None = None


@value
class FolderPlan:
    """What would become of the files in one inbox, by name."""

    inbox: Inbox
    files: tuple[Planned, ...]


class _Digest:
    """A sink that keeps nothing of the prepared copy but its digest."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, piece: bytes) -> int:
        self._hash.update(piece)
        return len(piece)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


Progress = Callable[[Path, int], Callable[[int], None] | None]


def plan(
    inboxes: Iterable[Inbox], ledger: Reader | None, *, now: float, progress: Progress = lambda path, size: None
) -> Iterator[FolderPlan]:
    """What would happen now to each of the files in `inboxes`. Reads files, moves and sends none."""
    for inbox in inboxes:
        yield FolderPlan(
            inbox=inbox, files=tuple(_planned(inbox, each, ledger, now, progress) for each in inbox.findings)
        )


def _planned(inbox: Inbox, finding: Finding, ledger: Reader | None, now: float, progress: Progress) -> Planned:
    if finding.standing != "ready" and not finding.unread:
        return _unread(finding)
    from dropzone.config import Folder  # and all that reading takes: most of the time nothing has to be read
    from dropzone.operate.finding import Looker

    folder = Folder.from_settings(inbox.settings)
    if finding.unread:
        finding = Looker(ledger, now=now).look(folder, os.fsencode(finding.path.name))
    return _read_through(folder, finding, ledger, now, progress) if finding.standing == "ready" else _unread(finding)


def _unread(finding: Finding) -> Planned:
    return Planned(finding=finding, outcome="waits" if finding.standing == "waiting" else "left", why=finding.what)


def _read_through(folder: Folder, finding: Finding, ledger: Reader | None, now: float, progress: Progress) -> Planned:
    drop = _pretend(folder, finding, now)
    if withheld := policy.guard_unread(drop, folder):
        return Planned(finding=finding, outcome="held", why=withheld.why)
    prepared = _Digest()
    try:
        report = _read(finding.path, folder, prepared, progress(finding.path, drop.size), flags=_WARY)
    except OperatorError as error:  # gone while we looked
        return Planned(finding=finding, outcome="left", why=error.message)
    outcome, why = _judged(drop, folder, report, prepared.digest, ledger, now)
    return Planned(finding=finding, outcome=outcome, why=why, report=report)


def _pretend(folder: Folder, finding: Finding, now: float) -> Drop:
    """The drop that the file would be if it were taken over now."""
    claimed = policy.claimed(folder, os.fsencode(finding.path.name), finding.size or 0, base=folder.base)
    return apply(None, claimed, id=make_id(now), at=now)


def _judged(
    drop: Drop, folder: Folder, report: Report, digest: str, ledger: Reader | None, now: float
) -> tuple[Outcome, str]:
    """The same questions in the same order as for a drop, answered by the same functions."""
    if report.guard:
        return "held", report.refused
    facts = ledger.segment_facts(folder.account, folder.segment_id, folder.name) if ledger else None
    if withheld := policy.guard(drop, folder, report, policy.Past(last_rows=facts.rows if facts else 0)):
        return "held", f"{withheld.guard}: {withheld.why}"
    if report.refused:
        return "refused", report.refused
    accepted = ledger.find_accepted(folder.account, folder.segment_id, digest) if ledger else []
    pairs = [(each, policy.settings_of(each)) for each in accepted]
    last = ledger.last_accepted(folder.account, folder.segment_id) if ledger else None

    def joined_since(first: Drop) -> bool:
        return ledger is not None and policy.have_joined(ledger.taken_since(first))

    known = policy.duplicate(drop, folder, pairs, last, joined_since, now=now)
    if known is not None:
        return "spared" if isinstance(known, Skipped) else "held", known.why
    rows = f"{report.good_rows:,} row{'s' if report.good_rows != 1 else ''}"
    return "sent", f"{rows}{f', without {report.bad_rows:,} bad ones' if report.bad_rows else ''}"
