"""The machine: the kernel's limits, the clock, and the libraries that the promise rests on."""

from __future__ import annotations

import os
import platform
import shlex
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

from dropzone.config import Config
from dropzone.drop import State
from dropzone.errors import DropzoneError, FolderError, LedgerError
from dropzone.folders import Folders
from dropzone.folders.probing import clock_is_kept, try_inotify
from dropzone.ledger import Reader
from dropzone.operate.doctor.remarks import Remark, fault, note, of_error, ok, warning

_KERNEL = Path("/proc/sys/fs")
_SPARE_WATCHES = 1_000
_QUEUE = 16_384  # events; the kernel's own default


def examine_kernel(config: Config, kernel: Path = _KERNEL) -> Iterator[Remark]:
    """What watching and leases need of the kernel; `kernel` is where its limits can be read."""
    needed = len(config.folders) + _SPARE_WATCHES
    watches, events = _number(kernel / "inotify/max_user_watches"), _number(kernel / "inotify/max_queued_events")
    try:
        try_inotify()
    except FolderError as error:
        mend = "sysctl -w fs.inotify.max_user_instances=1024; and put that line into /etc/sysctl.d/90-dropzone.conf"
        yield warning("inotify", f"{error.message}: files are found by the scan only", mend)
    else:
        if watches is not None and watches < needed:
            mend = f"sysctl -w fs.inotify.max_user_watches={max(65_536, 2 * needed)}"
            yield warning("inotify", f"a user may have {watches:,} watches, {needed:,} are wanted", mend)
        elif events is not None and events < _QUEUE:
            what = f"only {events:,} events are kept, so a burst is found by the scan"
            yield note("inotify", what, f"sysctl -w fs.inotify.max_queued_events={_QUEUE}")
        else:
            yield ok("inotify", f"{watches:,} watches a user" if watches else "works")
    if _number(kernel / "leases-enable") == 0:
        what = "the kernel gives no leases, so nobody can tell whether a client still has a file open"
        yield warning("leases", what, "sysctl -w fs.leases-enable=1")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def examine_clock(ledger: Reader | None, now: float) -> Iterator[Remark]:
    """Whether due times and windows can be believed."""
    latest = ledger.latest_at() if ledger else None
    if latest is not None and latest > now + 60:
        what = f"it is {latest - now:,.0f} s behind the newest entry of the ledger: it was set back"
        yield fault("clock", what, "set it right: timedatectl set-ntp true; then look with: date -u")
        return
    match clock_is_kept():
        case True:
            yield ok("clock", "kept right by something")
        case False:
            what = "nothing keeps it right, so due times, windows and the end of keys may be wrong one day"
            yield warning("clock", what, "apt install systemd-timesyncd; timedatectl set-ntp true")
        case None:
            yield note("clock", "the kernel does not say whether something keeps it right")


def examine_ledger(config: Config, ledger: Reader | LedgerError | None) -> Iterator[Remark]:
    """The ledger: whole, and the one that knew what lies in work/."""
    from dropzone.ledger.sqlite import LIBRARY

    release = f"SQLite {LIBRARY}, one writer"
    match ledger:
        case None:
            yield note("ledger", f"there is none yet ({release})", "it is made by the first: dropzone run")
            return
        case LedgerError():
            yield of_error("ledger", ledger)
            return
        case _:
            pass
    if complaint := ledger.find_damage():
        yield fault("ledger", f"it is damaged: {complaint}", "see 'the ledger is damaged' in docs/operating.md")
        return
    yield ok("ledger", f"whole ({release})")
    folders = Folders()
    for base in sorted({folder.base for folder in config.folders.values()}):
        try:
            mark = folders.read_mark(base)
        except FolderError:
            continue  # told with the folder
        if (mark.ledger and mark.ledger != ledger.id) or mark.written > ledger.written:
            whose = "another ledger" if mark.ledger != ledger.id else "a newer state of this ledger"
            what = f"{base / 'work'} belongs to {whose}: what lies there is held as 'no record'"
            yield fault(
                "ledger", what, "put the right ledger back into state_dir, or look: dropzone queue --state held"
            )
    lost = [drop for drop in ledger.find_drops(states=[State.QUEUED, State.HELD]) if folders.where_is(drop) is None]
    if lost:
        what = f"{len(lost)} drop{'s' if len(lost) > 1 else ''} without a file in work/, {lost[0].id} the first"
        yield fault(
            "ledger", what, f"look: dropzone show {lost[0].id}; without its file: dropzone discard {lost[0].id}"
        )


def examine_program() -> Iterator[Remark]:
    """The interpreter and the engine for CSVs."""
    from dropzone.sheet import engine

    yield ok("Python", platform.python_version())
    name, cores = engine(), len(os.sched_getaffinity(0))
    if "RE2" in name:
        yield ok("CSV engine", f"{name}, {cores} core{'s' if cores > 1 else ''}")
    else:
        mend = f"{shlex.quote(f'{sys.prefix}/bin/pip')} install 'dropzone[fast]'"  # another pip is not this program's
        yield note("CSV engine", f"{name}: large files take several times as long", mend)


def examine_trust(config: Config) -> Iterator[Remark]:
    """Whether certificates can be judged: the machine's authorities, and the accounts' own."""
    from dropzone.optipub.tls import tls_context

    paths = ssl.get_default_verify_paths()
    has_file = bool(paths.cafile and Path(paths.cafile).is_file())
    has_folder = bool(paths.capath and Path(paths.capath).is_dir() and any(Path(paths.capath).iterdir()))
    secure = [account for account in config.accounts.values() if account.base_url.startswith("https:")]
    if has_file or has_folder:
        yield ok("TLS", f"{ssl.OPENSSL_VERSION}, authorities in {paths.cafile if has_file else paths.capath}")
    elif any(account.ca_file is None for account in secure):
        yield fault("TLS", "this machine trusts no certificate authority", "apt install ca-certificates")
    for account in config.accounts.values():
        try:
            tls_context(account)
        except DropzoneError as error:
            yield of_error(f"account {account.name}", error)
