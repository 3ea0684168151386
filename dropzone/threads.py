"""Pools of threads, and what becomes of work for which the machine gives no thread.

Each thread counts against a limit of the service, of its user and of the machine (`TasksMax=`, `ulimit -u`). Python
tells of a thread that cannot be started when the work for it waits in the pool already, where another thread may still
take it up: whoever did it otherwise then would do it twice.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from dropzone.errors import NoThreadError

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class Pool(ThreadPoolExecutor):
    """At most `size` threads, made when first needed; called `name` also in `top -H`, `ps -L` and /proc."""

    def __init__(self, size: int, name: str) -> None:
        super().__init__(size, thread_name_prefix=name, initializer=partial(_say_name, name))

    def submit(self, fn: Callable[_Given, _Made], /, *args: _Given.args, **kwargs: _Given.kwargs) -> Future[_Made]:
        """Have it done; raises NoThreadError."""
        outcome: Future[_Made] = Future()
        try:
            super().submit(_carry_out, outcome, partial(fn, *args, **kwargs))
        except RuntimeError as error:
            if outcome.cancel():
                hint = "Raise the limit of the service (TasksMax=), of its user (ulimit -u) or of the container"
                raise NoThreadError("the machine gives no further thread", hint) from error
        return outcome

    def do(self, work: Callable[[], object]) -> None:
        """Have it done; at once, where the machine gives no thread."""
        try:
            self.submit(work)
        except NoThreadError:
            work()


def _carry_out(outcome: Future[_Made], work: Callable[[], _Made]) -> None:
    if not outcome.set_running_or_notify_cancel():
        return
    try:
        made = work()
    except BaseException as error:
        outcome.set_exception(error)  # for whoever waits for it
        raise
    else:
        outcome.set_result(made)


def _say_name(name: str) -> None:
    with contextlib.suppress(OSError):  # no /proc: then they are not seen there either
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
