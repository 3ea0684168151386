"""How long the long tests go on: a little in `make test`, far longer in `make soak`, by one factor for all of them."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("DROPZONE_SOAK", "0"))  # 0: no soak; 1: what `make soak` does; 0.1: a tenth of it


def times(usually: int, *, soak: int) -> int:
    """How often: `usually` in `make test`, `soak` times the factor in `make soak`."""
    return max(1, round(soak * FACTOR)) if FACTOR else usually
