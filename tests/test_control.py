"""The control socket as a wire: who may ask, how much, how long, and that nobody has to wait for somebody else."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dropzone import control
from dropzone.control import ASKERS, REQUEST_BYTES, Control, ask
from dropzone.errors import OperatorError

Serve = Callable[[control.Obey], Control]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(obey: control.Obey) -> Control:
            server = Control(tmp_path, obey)
            stack.callback(server.close)
            return server

        yield start


def echo(request: dict[str, Any], by: str) -> dict[str, Any]:
    return {"echo": request["say"]}


def caller(at: Path, sent: bytes = b"") -> socket.socket:
    """A connection on which so much was sent, and nothing more is."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(at / control.NAME))  # waits where the kernel has no room for it yet
    connection.settimeout(20.0)
    connection.sendall(sent)
    return connection


def test_who_says_nothing_keeps_nobody_waiting(tmp_path: Path, serve: Serve) -> None:
    """More silent callers than there are places, some with half a request: who asks in earnest is answered at once."""
    serve(echo)
    with contextlib.ExitStack() as stack:
        for number in range(2 * ASKERS):
            stack.enter_context(caller(tmp_path, b'{"say": ' if number % 2 else b""))
        began = time.monotonic()
        assert ask(tmp_path, {"say": 1}) == {"echo": 1}
        assert time.monotonic() - began < control._REQUEST_S


def test_the_one_who_asks_the_longest_loses_the_place(tmp_path: Path, serve: Serve) -> None:
    """With all places taken the first of the silent ones is told so; the others keep theirs."""
    serve(echo)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(caller(tmp_path, b"{")) for _ in range(ASKERS + 1)]
        assert b"not understood" in silent[0].recv(4096)
        silent[-1].sendall(b'"say": 2}\n')
        assert json.loads(silent[-1].recv(4096)) == {"echo": 2}


def test_a_request_must_come_in_time_however_it_comes(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then does not stretch the time that there is for all of them."""
    monkeypatch.setattr(control, "_REQUEST_S", 0.3)
    serve(echo)
    with caller(tmp_path) as slow:
        slow.settimeout(0.02)
        began, answer = time.monotonic(), b""
        while not answer and time.monotonic() - began < 20.0:
            with contextlib.suppress(OSError):  # it hung up, or has not answered yet
                slow.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = slow.recv(4096)
    assert b"not understood" in answer


def test_a_request_without_an_end_is_cut_off(tmp_path: Path, serve: Serve) -> None:
    """What is longer than any request is answered without being read on."""
    serve(echo)
    with caller(tmp_path) as endless:
        sent = threading.Thread(target=lambda: _pour(endless))
        sent.start()
        assert b"not understood" in endless.recv(4096)
        endless.shutdown(socket.SHUT_RDWR)
        sent.join()
    assert ask(tmp_path, {"say": "x" * (REQUEST_BYTES // 2)}) == {"echo": "x" * (REQUEST_BYTES // 2)}


def _pour(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"x" * 65536)


def test_an_order_that_takes_long_keeps_nobody_waiting(tmp_path: Path, serve: Serve) -> None:
    """The loop may be busy with a disk: others ask meanwhile; with all places so taken a further one is told so."""
    begun, go_on = threading.Semaphore(0), threading.Event()

    def obey(request: dict[str, Any], by: str) -> dict[str, Any]:
        if request["say"] == "long":
            begun.release()
            go_on.wait(20.0)
        return {"echo": request["say"]}

    def ask_long() -> dict[str, Any] | None:
        # The place of one who has the answer is free a moment later, once its thread has ended.
        while "too much at once" in str(answer := ask(tmp_path, {"say": "long"})):
            pass
        return answer

    serve(obey)
    with ThreadPoolExecutor(ASKERS) as pool:
        try:
            waiting = [pool.submit(ask_long) for _ in range(ASKERS - 1)]
            for _ in waiting:
                assert begun.acquire(timeout=20.0)
            assert ask(tmp_path, {"say": "short"}) == {"echo": "short"}
            waiting.append(pool.submit(ask_long))
            assert begun.acquire(timeout=20.0)
            refused = ask(tmp_path, {"say": "short"})
            assert refused is not None
            assert "too much at once" in refused["error"]
        finally:
            go_on.set()
        assert [each.result() for each in waiting] == [{"echo": "long"}] * ASKERS


def test_hundreds_at_once_are_all_answered(tmp_path: Path, serve: Serve) -> None:
    """Also those for whom the kernel has no room at first."""
    serve(echo)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda number: ask(tmp_path, {"say": number}), range(500)))
    told = [answer for answer in answers if answer and "echo" in answer]
    assert [answer["echo"] for answer in told] == [
        number for number, answer in enumerate(answers) if answer and "echo" in answer
    ]
    assert all(answer and ("echo" in answer or "at once" in answer["error"]) for answer in answers)
    assert len(told) > 250


def test_who_takes_no_answer_is_forgotten(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer too long for the kernel's buffer, and nobody who reads it: the thread goes, the next one is served."""
    monkeypatch.setattr(control, "_REQUEST_S", 0.2)
    server = serve(lambda request, by: {"echo": "x" * request["say"]})
    with caller(tmp_path, b'{"say": 3000000}\n'):
        assert ask(tmp_path, {"say": 1}) == {"echo": "x"}
        for thread in list(server._threads):
            thread.join(20.0)
            assert not thread.is_alive()


def places(thread: threading.Thread) -> set[str]:
    """The names of the functions that `thread` is in."""
    frame, names = sys._current_frames().get(thread.ident or 0), set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


def test_without_room_for_files_it_goes_on_listening(tmp_path: Path, serve: Serve) -> None:
    """A process that may open no more files cannot take a caller; once it can, the same caller is answered."""
    server = serve(echo)
    taken = []
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            connection.connect(str(tmp_path / control.NAME))
            connection.sendall(b'{"say": 3}\n')
            end = time.monotonic() + 20.0
            while "wait" not in places(server._thread):  # until it has met it, and goes on all the same
                assert time.monotonic() < end
        finally:
            for fd in taken:
                os.close(fd)
        connection.settimeout(20.0)
        assert json.loads(connection.recv(4096)) == {"echo": 3}


def test_a_daemon_that_ends_leaves_no_caller_behind(tmp_path: Path) -> None:
    """Closing tells those who have not asked yet, waits for what is being obeyed, and then nobody listens."""
    begun, go_on = threading.Event(), threading.Event()

    def obey(request: dict[str, Any], by: str) -> dict[str, Any]:
        begun.set()
        go_on.wait(20.0)
        return {"done": True}

    server = Control(tmp_path, obey)
    with ThreadPoolExecutor(2) as pool, caller(tmp_path, b"{") as silent:
        asked = pool.submit(ask, tmp_path, {})
        assert begun.wait(20.0)
        closed = pool.submit(server.close)
        assert b"not understood" in silent.recv(4096)
        assert not closed.done()
        go_on.set()
        assert asked.result() == {"done": True}
        closed.result(20.0)
    assert ask(tmp_path, {}) is None


def test_a_daemon_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    """Somebody listens there and never takes a call, or hangs up: one sentence in the time that was given."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / control.NAME))
        deaf.listen(0)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                filling = stack.enter_context(socket.socket(socket.AF_UNIX))
                filling.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filling.connect(str(tmp_path / control.NAME))
            with pytest.raises(OperatorError, match="did not answer"):
                ask(tmp_path, {}, timeout_s=0.2)
