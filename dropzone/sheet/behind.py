"""What may be done a little later than the reading: in order, by a thread of its own where there is a core for it.

Reading goes on meanwhile, because patterns, writing, checksums and numpy all let go of the interpreter while they work.
What goes wrong there is raised here, at the next step or at the end, and nothing is done after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self

from dropzone.errors import NoThreadError
from dropzone.sheet.source import Sink
from dropzone.threads import Pool

_WAITING = 2  # steps that may wait: about as many chunks of a file are in memory
_AT_ONCE = 1 << 17  # bytes written in one step; more, where that is how they come

Step = Callable[[], object]


class Behind:
    """Steps that are done one after the other behind the caller; at once without `beside`, and so is the first one.

    Leaving it as a context ends what is under way, and drops what still waits.
    """

    def __init__(self, *, beside: bool) -> None:
        self._beside = beside
        self._begun = False
        self._broken = False
        self._pool: Pool | None = None
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def do(self, step: Step) -> None:
        """Have `step` done after all that came before. Raises what went wrong in one of those."""
        if not self._begun:  # with a small file it ends here, and needs no thread
            self._begun = self._beside
            step()
            return
        self._pool = self._pool or Pool(1, "behind")
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        try:
            self._waiting.append(self._pool.submit(self._take, step))
        except NoThreadError:
            self.finish()
            step()

    def finish(self) -> None:
        """Wait until all is done. Raises what went wrong."""
        while self._waiting:
            self._waiting.popleft().result()

    def _take(self, step: Step) -> None:
        """Do one step, unless an earlier one has failed, of which its own result tells."""
        if not self._broken:
            self._broken = True
            step()
            self._broken = False


class Later:
    """A sink that is written to behind the caller. What was given to it is there after `flush` and `finish`."""

    def __init__(self, sink: Sink, behind: Behind) -> None:
        self._sink = sink
        self._behind = behind
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, piece: bytes, /) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Hand over what was kept back until it was worth a step."""
        pieces, self._pieces, self._size = self._pieces, [], 0
        self._behind.do(lambda: self._sink.write(pieces[0] if len(pieces) == 1 else b"".join(pieces)))
