"""What an operator can ask and order, as functions that return frozen results. Words are the command line's.

    asking      the ledger: `overview`, `queue`, `show`         light: what most commands load
    ordering    `order` on drops                                light
    trying      `check` and `plan`: what would become of files  loads the CSV engine once one is read
    finding     `why` about one path, what lies in the inboxes  loads the folders
    doctor      what is wrong with the machine, and its mend

The light ones are named here; the others are imported by whoever needs them.
"""

from __future__ import annotations

from dropzone.operate.asking import (
    AGES,
    OPEN_STATES,
    AccountStatus,
    Ages,
    Finding,
    FolderStatus,
    Health,
    Inbox,
    Overview,
    Queued,
    Shown,
    ages,
    check_folder,
    get_drop,
    overview,
    queue,
    show,
)
from dropzone.operate.ordering import ORDERS, find_drops_for, find_place, order, switch

__all__ = [
    "AGES",
    "OPEN_STATES",
    "ORDERS",
    "AccountStatus",
    "Ages",
    "Finding",
    "FolderStatus",
    "Health",
    "Inbox",
    "Overview",
    "Queued",
    "Shown",
    "ages",
    "check_folder",
    "find_drops_for",
    "find_place",
    "get_drop",
    "order",
    "overview",
    "queue",
    "show",
    "switch",
]
