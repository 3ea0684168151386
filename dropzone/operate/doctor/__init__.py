"""What is wrong with this machine for dropzone, before it costs a file: each remark with the mend to type.

    places    folders, rights (read *and* rename), file systems, space
    machine   kernel limits, clock, SQLite, the engine, trust in certificates
    access    accounts and their keys; with `online` also whether OptiPub can be reached, sending nothing
    unit      what the systemd unit allows and forbids

What it says of rights holds for the daemon's user, also where root asks.
"""

from __future__ import annotations

from dropzone.operate.doctor.examining import Patient, examine
from dropzone.operate.doctor.remarks import Remark, Severity

__all__ = ["Patient", "Remark", "Severity", "examine"]
