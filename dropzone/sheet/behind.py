"""What may be done a little later than the reading: in order, by a thread of its own where there is a core for it.

Reading goes on meanwhile, because patterns, writing, checksums and numpy all let go of the interpreter while they work.
What goes wrong there is raised here, at the next step or at the end, and nothing is done after it.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue
from threading import Thread
from typing import Self

from dropzone.sheet.repeats import Sink

_WAITING = 4  # steps that may wait: about as many chunks of a file are in memory
_AT_ONCE = 1 << 17  # bytes written in one step; more, where that is how they come

Step = Callable[[], object]


class Behind:
    """Steps that are done one after the other behind the caller; at once without `beside`, and so is the first one.

    Leaving it as a context ends what is under way, and drops what still waits.
    """

    def __init__(self, *, beside: bool) -> None:
        self._beside = beside
        self._begun = False
        self._waiting: Queue[Step | None] = Queue(_WAITING)
        self._thread: Thread | None = None
        self._failure: BaseException | None = None
        self._left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        if self._thread:
            self._waiting.put(None)
            self._thread.join()

    def do(self, step: Step) -> None:
        """Have `step` done after all that came before. Raises what went wrong in one of those."""
        if not self._begun:  # with a small file it ends here, and needs no thread
            self._begun = self._beside
            step()
            return
        if self._thread is None:
            self._thread = Thread(target=self._run, name="behind", daemon=True)
            self._thread.start()
        self._raise()
        self._waiting.put(step)

    def finish(self) -> None:
        """Wait until all is done. Raises what went wrong."""
        self._waiting.join()
        self._raise()

    def _raise(self) -> None:
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        while step := self._waiting.get():
            try:
                if not (self._failure or self._left):
                    step()
            except BaseException as failure:  # noqa: BLE001 - it is raised where somebody waits for it
                self._failure = failure
            finally:
                self._waiting.task_done()


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
