"""The order in which a machine is examined: what everything rests on first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dropzone.config import Config
from dropzone.errors import LedgerError, printable
from dropzone.ledger import Reader
from dropzone.operate.acting import acting_as, daemon_user
from dropzone.operate.asking import Health
from dropzone.operate.doctor.access import examine_keys, examine_reach, examine_segments
from dropzone.operate.doctor.machine import (
    examine_clock,
    examine_kernel,
    examine_ledger,
    examine_program,
    examine_trust,
)
from dropzone.operate.doctor.places import examine_folder, examine_root, examine_state
from dropzone.operate.doctor.remarks import Remark, fault, note, ok, warning
from dropzone.operate.doctor.unit import PLACES, examine_unit, find_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is examined. `ledger` is None where there is none yet, or why it cannot be read."""

    config: Config
    ledger: Reader | LedgerError | None
    health: Health
    version: str  # of this command
    units: Sequence[Path] = PLACES  # where systemd's units are
    kernel: Path = Path("/proc/sys/fs")


def examine(patient: Patient, *, now: float, online: bool) -> Iterator[Remark]:
    """All remarks, the good ones too. `online` connects to each account's address; nothing is ever sent there."""
    config = patient.config
    reader = None if isinstance(patient.ledger, LedgerError) else patient.ledger
    unit = find_unit(patient.units)
    user = daemon_user(config.state_dir, unit.last("User") if unit else "")
    yield from examine_program()
    count = len(config.folders) + len(config.unmade)
    yield ok("configuration", f"{printable(str(config.file))}: {count} folder{'s' if count != 1 else ''}, no problems")
    for name in config.unmade:
        if isinstance(patient.ledger, LedgerError):
            what = "whether its segment was created stands in the ledger, which cannot be read"
            yield note(f"folder {name}", what, "write its segment_id: into the configuration, if OptiPub has one")
            continue
        mend = f"dropzone segment create --folder {name} && dropzone init && systemctl reload dropzone"
        yield fault(f"folder {name}", "its segment is still to be created, so it is not watched", mend)
    yield from _examine_daemon(patient)
    # What is yielded from in here would let the caller act as another user, too.
    with acting_as(user) as acting:
        found = [*examine_state(config, user), *examine_root(config)]
        for folder in config.folders.values():
            found += examine_folder(folder, user, acting=acting)
        found += examine_keys(config, now, acting=acting)
        found += examine_kernel(config, patient.kernel)
    yield from found
    yield from examine_segments(config)
    yield from examine_ledger(config, patient.ledger)
    yield from examine_clock(reader, now)
    yield from examine_trust(config)
    if online:
        yield from examine_reach(config, now)
    yield from examine_unit(unit, config)


def _examine_daemon(patient: Patient) -> Iterator[Remark]:
    health = patient.health
    if not health.running:
        tell = note if patient.ledger is None else warning  # one that never ran is not missed
        yield tell("daemon", "none runs on this state folder", "systemctl start dropzone")
    elif health.unasked:
        yield note("daemon", f"it runs, but tells nothing: {health.unasked}", "ask as root")
    elif health.fault:
        yield fault("daemon", f"intake and sending pause: {health.fault}", "mend that; it goes on by itself")
    elif health.version and health.version != patient.version:
        what = f"version {health.version} runs, this command is {patient.version}"
        yield warning("daemon", what, "systemctl restart dropzone")
    elif health.outdated:
        what = "it goes by an older configuration than the file's"
        yield warning("daemon", what, "dropzone config check && systemctl reload dropzone")
    else:
        yield ok("daemon", "it runs")
