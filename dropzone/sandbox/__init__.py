"""A pretend OptiPub on loopback, for trying things out and for tests; with faults on request.

It was written from the vendor's description alone and imports nothing of the client, so that the two can
disagree. Like the real one it answers a failure with a bare 302; what was wrong stands in its state:

    POST   /api/3.2/messages/segments               create a segment
    POST   /api/3.2/messages/segments/{id}/import   import a CSV
    GET    /sandbox/state                           what arrived and what became of it, newest last
    DELETE /sandbox/state                           forget it (not the faults)
    GET    /sandbox/segments/{id}                   members and subscriptions, while they are few
    POST   /sandbox/faults                          one fault or a list of them; `faults` has the kinds
    DELETE /sandbox/faults                          forget those that wait

The paths under ``/sandbox/`` ask for no key: it listens on loopback only, and holds nothing but trials.

`rules` knows what OptiPub asks for, `faults` what can be asked to go wrong, `memory` what happened, `server`
the wire; this file puts them together.
"""

from __future__ import annotations

import ipaddress
import shlex
import signal
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TextIO

from dropzone.errors import DropzoneError, printable
from dropzone.sandbox.faults import Fault
from dropzone.sandbox.memory import Import, Memory, Other
from dropzone.sandbox.server import Server

__all__ = ["DEFAULT_KEY", "Fault", "Import", "Other", "Sandbox", "serve"]

DEFAULT_KEY = "sandbox-key"
_KEY_VARIABLE = "OPTIPUB_SANDBOX_KEY"


class Sandbox:
    """A pretend OptiPub on threads of its own, from `start` to `close`; also a context manager.

    `port` 0 takes a free one and keeps it: after `close`, `start` comes back at the same address with the same
    memory, as a server does after an outage. `keys` are accepted beside `key`. `tls` is the certificate chain
    and the key, as PEM files. `segments` declares ids with their kind (``static``, ``none``, ``md5``,
    ``sha256``, ``sha512``); all others are static ones that exist, or with `known_segments` do not.
    `plain_columns` takes ``first_name`` where otherwise ``varr_first_name`` is needed. `on_import` and
    `on_other` are told of each request on its connection's thread, once its fate is settled and before its
    answer leaves.
    """

    def __init__(
        self,
        port: int = 0,
        key: str = DEFAULT_KEY,
        *,
        host: str = "127.0.0.1",
        keys: Sequence[str] = (),
        tls: tuple[str | Path, str | Path] | None = None,
        segments: Mapping[int, str] | None = None,
        known_segments: bool = False,
        plain_columns: bool = False,
        on_import: Callable[[Import], None] | None = None,
        on_other: Callable[[Other], None] | None = None,
    ) -> None:
        if not _is_loopback(host):
            raise DropzoneError(f"the sandbox listens on loopback only, not on {printable(host)}", "Use 127.0.0.1")
        if not all(each and each.isascii() and each.isprintable() for each in (key, *keys)):
            raise DropzoneError("a key of the sandbox is empty or not printable ASCII", "Choose another one")
        self.host = host
        self.port = port
        self.key = key
        self._keys = (key, *keys)
        self._tls = tls
        self._plain_columns = plain_columns
        self._on_import = on_import
        self._on_other = on_other
        self._memory = Memory(segments or {}, known_segments=known_segments)
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """The `base_url` for an account, without a slash at its end. The port is known from `start` on."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def start(self) -> Self:
        """Listen. Raises DropzoneError where the port is taken or the certificate cannot be read."""
        if self._server is None:
            self._server = self._listen(_tls_context(*self._tls) if self._tls else None)
            self.port = self._server.server_address[1]
        return self

    def _listen(self, tls: ssl.SSLContext | None) -> Server:
        try:
            return Server(
                (self.host, self.port),
                self._memory,
                self._keys,
                tls=tls,
                plain_columns=self._plain_columns,
                on_import=self._on_import,
                on_other=self._on_other,
            )
        except (OSError, OverflowError) as error:
            message = f"the sandbox cannot listen on {self.host}:{self.port}: {error}"
            raise DropzoneError(message, "Give another port, or 0 for any free one") from error

    def close(self) -> None:
        """Stop listening, end every connection where it stands, and return when all threads have ended."""
        server, self._server = self._server, None
        if server:
            server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --------------------------------------------------------------------------------------------- going wrong

    def fault(self, kind: str, **settings: Any) -> None:
        """Ask for a fault, in the words of `dropzone.sandbox.faults`. Raises ValueError where there is no such."""
        self._memory.add_faults([Fault.read({"kind": kind, **settings})])

    def clear_faults(self) -> None:
        """Forget the faults that wait."""
        self._memory.clear_faults()

    # ------------------------------------------------------------------------------------------------- looking

    @property
    def imports(self) -> tuple[Import, ...]:
        """The imports in the order of arrival, up to the last 20,000."""
        return self._memory.imports

    def state(self) -> dict[str, Any]:
        """What ``GET /sandbox/state`` shows."""
        return self._memory.state()

    def segment(self, number: int) -> dict[str, Any] | None:
        """What ``GET /sandbox/segments/{id}`` shows; None where there is no such segment yet."""
        return self._memory.segment(number)

    def reset(self) -> None:
        """Forget everything but the faults and the declared segments."""
        self._memory.reset()

    def wait_for(
        self,
        *,
        imports: int = 0,
        applied: int = 0,
        requests: int = 0,
        disconnects: int = 0,
        timeout_s: float = 10.0,
    ) -> None:
        """Return once so many imports were settled, so many applied, so many requests begun, so many clients gone.

        Counted since the start or the last reset. Raises TimeoutError, which says what there was instead, after
        `timeout_s` seconds.
        """
        wanted = {"imports": imports, "applied": applied, "requests": requests, "disconnects": disconnects}
        there = self._memory.wait_for(wanted, timeout_s)
        if any(there[name] < count for name, count in wanted.items()):
            raise TimeoutError(f"waited {timeout_s:g} s for {_counted(wanted)}; there were {_counted(there)}")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _tls_context(certificate: str | Path, key: str | Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise DropzoneError(
            f"the sandbox cannot use {printable(str(certificate))}: {error}", "Give PEM files"
        ) from error
    return context


# ----------------------------------------------------------------------------------------------- in the foreground


@dataclass(frozen=True, slots=True)
class _Voice:
    """Prints; each line at once, because it is read while things happen."""

    out: TextIO

    def say(self, line: str) -> None:
        self.out.write(line + "\n")  # in one piece: print writes the line end apart, and connections have threads
        self.out.flush()

    def tell_import(self, arrived: Import) -> None:
        answer = f"answered {arrived.status}" if arrived.status else "not answered"
        fault = f" by the fault {arrived.fault}" if arrived.fault else ""
        because = f": {arrived.reason}" if arrived.reason else ""
        self.say(
            f"{_clock(arrived.at)} import {arrived.number} into {arrived.segment} ({arrived.mode or 'no mode'}),"
            f" {printable(arrived.filename or 'no file')}, {arrived.rows} rows, {arrived.file_bytes} bytes:"
            f" {'applied' if arrived.applied else 'not applied'}, {answer}{fault}{printable(because)}"
        )

    def tell_other(self, other: Other) -> None:
        because = f": {other.reason}" if other.reason else ""
        self.say(
            f"{_clock(other.at)} {printable(other.method)} {printable(other.path)}:"
            f" answered {other.status or 'nothing'}{printable(because)}"
        )


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%SZ}"


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    key: str = DEFAULT_KEY,
    *,
    keys: Sequence[str] = (),
    tls: tuple[str | Path, str | Path] | None = None,
    segments: Mapping[int, str] | None = None,
    known_segments: bool = False,
    out: TextIO | None = None,
) -> int:
    """Run a sandbox in the foreground until SIGINT or SIGTERM; the exit code, 0. For the main thread only.

    Prints its address, its key and the YAML for an account first, then a line for each request. Raises
    DropzoneError where it cannot start.
    """
    voice = _Voice(out or sys.stdout)
    ending = {signal.SIGINT, signal.SIGTERM}
    # Blocked and fetched, not handled: a handler runs between any two steps, and one that came before there was
    # anything to stop would be lost. The threads that start from here on inherit the block.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        with Sandbox(
            port,
            key,
            host=host,
            keys=keys,
            tls=tls,
            segments=segments,
            known_segments=known_segments,
            on_import=voice.tell_import,
            on_other=voice.tell_other,
        ) as sandbox:
            _introduce(sandbox, voice, tls)
            signal.sigwait(ending)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    voice.say("stopped")
    return 0


def _introduce(sandbox: Sandbox, voice: _Voice, tls: tuple[str | Path, str | Path] | None) -> None:
    lines = [
        f"pretend OptiPub at {sandbox.url}, key {sandbox.key}; Ctrl-C ends it, {sandbox.url}/sandbox/state looks in",
        f"# in the shell: export {_KEY_VARIABLE}={shlex.quote(sandbox.key)}",
        "accounts:",
        "  sandbox:",
        f"    base_url: {sandbox.url}",
        f"    api_key: {{env: {_KEY_VARIABLE}}}",
    ]
    if tls:
        lines.append(f"    # ca_file: the authority that signed {printable(str(tls[0]))}")
    # All at once: whoever has read the first line may send a request, whose line must not stand among these.
    voice.say("\n".join(lines))
