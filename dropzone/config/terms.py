"""OptiPub's own terms, as far as settings are about them: the modes of an import, and how long a key lives.

Without the models, because the ledger and the questions to it need no more than this.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

Mode = Literal["subscribe", "unsubscribe", "lead", "suppress"]
Hash = Literal["none", "md5", "sha256", "sha512"]

DEPARTING = frozenset({"unsubscribe", "suppress"})  # the modes that take people off a list
KEY_DAYS = 365  # OptiPub's keys end after a year


def key_days_left(created: date | None, now: float) -> int | None:
    """Whole days until the year of a key made on `created` is over, at `now` (seconds since the epoch).

    None where nobody said when it was made.
    """
    if created is None:
        return None
    return KEY_DAYS - int(now // 86_400 - (created.toordinal() - date(1970, 1, 1).toordinal()))
