"""A machine that gives no more threads: what is done then, and what is not done twice."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import PATIENCE_S, kit_on
from scene import KEY, make_scene

from dropzone.daemon import ENVIRONMENT_S
from dropzone.drop import State
from dropzone.errors import NoThreadError
from dropzone.folders import system
from dropzone.folders.system import sync_all
from dropzone.sandbox import Sandbox
from dropzone.sheet.behind import Behind
from dropzone.threads import Pool


class Machine:
    """How many more threads of pools called `name` it gives; all others as many as they like."""

    def __init__(self, name: str, left: int) -> None:
        self._name = name
        self.left = left
        self._start = threading.Thread.start

    def start(self, thread: threading.Thread) -> None:
        if thread.name.startswith(self._name):
            if not self.left:
                message = "can't start new thread"
                raise RuntimeError(message)
            self.left -= 1
        self._start(thread)


@contextlib.contextmanager
def machine(name: str, left: int = 0) -> Iterator[Machine]:
    limited = Machine(name, left)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: limited.start(thread))  # noqa: PLW0108 - a bound method would get no thread
        yield limited


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


def test_what_found_no_thread_is_never_done() -> None:
    """Not even by a thread that is free later: whoever wanted it has been told, and does something else by then."""
    done: list[str] = []
    end = threading.Event()
    with Pool(2, "few") as pool:
        with machine("few", 1):
            first = pool.submit(end.wait, PATIENCE_S)
            with pytest.raises(NoThreadError, match="no further thread"):
                pool.submit(done.append, "ghost")
        end.set()
        assert first.result(PATIENCE_S)
        pool.submit(done.append, "after").result(PATIENCE_S)
    assert done == ["after"]


def test_what_another_thread_has_taken_up_by_then_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes free right when the machine refuses a further one: nobody is told that it was not done."""
    free, taken = threading.Event(), threading.Event()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if not thread.name.startswith("few"):
            return start(thread)
        free.set()
        taken.wait(PATIENCE_S)
        message = "can't start new thread"
        raise RuntimeError(message)

    with Pool(2, "few") as pool:
        first = pool.submit(free.wait, PATIENCE_S)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        pool.submit(taken.set).result(PATIENCE_S)
        assert first.result(PATIENCE_S)


def test_what_goes_wrong_in_a_thread_is_told_to_who_waits_for_it() -> None:
    """As `concurrent.futures` does it, with the same error."""
    with Pool(1, "few") as pool, pytest.raises(ValueError, match="invalid literal"):
        pool.submit(int, "x").result(PATIENCE_S)


def test_slow_work_that_finds_no_thread_is_done_at_once() -> None:
    """And else aside."""
    by: list[str] = []
    note = lambda: by.append(threading.current_thread().name)  # noqa: E731
    with machine("few"), Pool(1, "few") as pool:
        pool.do(note)
    with Pool(1, "few") as pool:
        pool.do(note)
    assert by == [threading.current_thread().name, "few_0"]


def test_syncs_that_find_no_thread_are_made_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is made, and each error is told of the one that has it."""
    files = [os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT) for name in "abc"]
    os.close(files[1])
    monkeypatch.setattr(system, "_crew", system._crew)
    system._renew_crew()  # as in a child of ours: without the threads that are there from before
    with machine("sync"):
        first, second, third = sync_all(files)
    assert (first, third) == (None, None)
    assert isinstance(second, OSError)
    for fd in (files[0], files[2]):
        os.close(fd)


def test_steps_behind_a_check_that_find_no_thread_are_done_in_order() -> None:
    """The check takes longer, and its result is the same."""
    done: list[int] = []
    with machine("behind"), Behind(beside=True) as behind:
        for n in range(5):
            behind.do(lambda n=n: done.append(n))  # type: ignore[misc]
        behind.finish()
    assert done == list(range(5))


def test_lanes_share_the_threads_that_there_are(tmp_path: Path, sandbox: Sandbox) -> None:
    """One of three: the files go one after the other, and nobody is alarmed."""
    folders = "\n".join(f"f{n}: {{segment_id: {n}, mode: lead}}" for n in (1, 2, 3))
    scene = make_scene(tmp_path, sandbox.url, folders=folders)
    for folder in scene.config.folders:
        scene.put(f"{folder}.csv", b"email\nann@example.com\n", folder=folder)
    with kit_on(scene) as kit, machine("lane", 1):
        kit.daemon.start()
        kit.settle()
        assert set(kit.states().values()) == {State.DONE}
        assert kit.most_at_once == 1
        assert not kit.told("intake and sending pause")
    assert len(sandbox.imports) == 3


def test_without_any_thread_sending_pauses_and_heals(tmp_path: Path, sandbox: Sandbox) -> None:
    """A fault of the machine like a full disk: one alert, no file is judged, sent once there is one."""
    scene = make_scene(tmp_path, sandbox.url)
    scene.put("a.csv", b"email\nann@example.com\n")
    with kit_on(scene) as kit:
        with machine("lane"):
            kit.daemon.start()
            kit.settle()
            for _ in range(3):
                kit.after(ENVIRONMENT_S)
            assert kit.states() == {"a.csv": State.QUEUED}
            assert "TasksMax=" in kit.daemon.fault
            assert len(kit.told("intake and sending pause")) == 1
        kit.after(ENVIRONMENT_S)
        assert kit.states() == {"a.csv": State.DONE}
        assert kit.daemon.fault == ""
    assert len(sandbox.imports) == 1


def test_the_deletion_of_old_files_waits_for_a_thread(tmp_path: Path, sandbox: Sandbox) -> None:
    """A minute later it is tried again, and nothing else waits for it."""
    scene = make_scene(
        tmp_path, sandbox.url, folders="acme: {segment_id: 1, mode: lead, retention: {done: 1d, failed: 1d}}"
    )
    kept: list[str] = []
    with kit_on(scene, keep=lambda _: kept.append(threading.current_thread().name)) as kit:
        with machine("keeping"):
            kit.daemon.start()
            kit.turn()
            assert kept == []
        kit.after(60.0)
        kit.daemon._keeper.join()
    assert kept == ["keeping"]
