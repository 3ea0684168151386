"""How far what is under way has come: a board that workers write to and whoever wants to know reads. Memory only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from dropzone.values import value


@value
class Step:
    """One step of one drop: `done` of `total` bytes, begun `seconds` ago."""

    what: Literal["check", "upload"]
    total: int
    done: int = 0
    began: float = 0.0  # monotonic
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Bytes per second so far; 0 while nothing is done."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until it is through at this rate, or None while nobody can say."""
        return max(0, self.total - self.done) / self.rate if self.rate else None


class Board:
    """What is under way, by drop ID. Thread-safe: each drop has one writer, and a step is replaced as a whole."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._steps: dict[str, Step] = {}

    def begin(self, id: str, what: Literal["check", "upload"], total: int) -> Callable[[int], None]:
        """The drop begins a step of `total` bytes; returns what is to be told how many are done."""
        step = self._steps[id] = Step(what=what, total=total, began=self._monotonic())

        def tell(done: int) -> None:
            self._steps[id] = replace(step, done=done)

        return tell

    def end(self, id: str) -> None:
        """Nothing of the drop is under way any more."""
        self._steps.pop(id, None)

    def steps(self) -> dict[str, Step]:
        """Everything that is under way now."""
        now = self._monotonic()
        return {id: replace(step, seconds=now - step.began) for id, step in list(self._steps.items())}
