"""Real clients against a real OpenSSH server: no file is taken before it is whole, and none is missed.

All uploads go on at the same time, throttled to some seconds each: in place, under a temporary name, killed and
resumed, killed for good, standing still in the middle. sshd has its users in a chroot and speaks nothing but SFTP with
them, as a server for partners does; rsync comes through a user with a shell. The daemon is the installed command, as a
user of its own whose only capability is CAP_LEASE; partners' files are another user's. The sandbox says what arrived.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
from scene import KEY, Scene, make_scene
from server import Server
from unprivileged import NOBODY, unprivileged

from dropzone.ledger.sqlite import SQLiteReader

PARTNER, PARTNER_GID = "games", 60  # every Debian has this user, and nothing else uses it
FOLDERS = "acme: {segment_id: 1, mode: lead}\nmarked: {segment_id: 2, mode: lead, marker: .done}"
SIZE = 1_200_000  # bytes of each file: clients and servers write up to a quarter of a megabyte at a time
RATE = 250_000  # bytes a second, about
STALL_S = 4.0  # twice the settle time
PATIENCE_S = 45.0

NEEDED = ("sshd", "sftp", "scp", "ssh-keygen", "rsync", "lftp", "curl", "setpriv")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
MISSING = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a chroot of sshd takes root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.timeout(150),
]


def content(name: str) -> bytes:
    """A canonical CSV of `SIZE` bytes, another for each name; rows so long that hardly a cut falls between two."""
    rows, size, number = ["email,varr_text\n"], 0, 0
    while size < SIZE:
        number += 1
        rows.append(f"{name.partition('.')[0]}.{number}@example.com,{'text ' * 180}{number}\n")
        size += len(rows[-1])
    return "".join(rows).encode()


@dataclass(slots=True)
class Bench:
    """The server, the daemon's folders, and what partners do."""

    at: Path
    scene: Scene
    port: int
    sent: dict[str, bytes] = field(default_factory=dict)

    @property
    def ssh(self) -> str:
        return f"ssh -F {self.at}/ssh/config"

    def inbox(self, folder: str = "acme") -> Path:
        return self.scene.config.folders[folder].path

    def local(self, name: str) -> Path:
        """The partner's own file, to be uploaded under the same name; years old, as exports are."""
        path = self.at / "local" / name
        path.write_bytes(self.sent.setdefault(name, content(name)))
        os.utime(path, (1_500_000_000, 1_500_000_000))
        return path

    def run(self, *command: str | Path) -> None:
        """A client that must be content with the server."""
        done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 0, f"{command[0]}: {done.stderr.decode()}"

    def sftp(self, *lines: str) -> list[str]:
        batch = self.at / "ssh" / f"batch-{abs(hash(lines))}"
        batch.write_text("".join(f"{line}\n" for line in lines))
        limits = ["-B", "32768", "-l", str(RATE * 8 // 1000)]
        return ["sftp", "-F", f"{self.at}/ssh/config", *limits, "-b", str(batch), "partner"]

    def lftp(self, *lines: str) -> list[str]:
        settings = (
            f"set sftp:connect-program '{self.ssh} -a -x'",
            f"set net:limit-total-rate 0:{RATE}",
            "set net:max-retries 1",
            f"open -u {PARTNER}, sftp://partner",
        )
        return ["lftp", "-c", "; ".join((*settings, *lines))]

    def curl(self, path: Path, target: str, *more: str) -> list[str]:
        key = self.at / "ssh" / "id"
        login = ["--user", f"{PARTNER}:", "--key", str(key), "--pubkey", f"{key}.pub", "--insecure"]
        address = f"sftp://127.0.0.1:{self.port}{target}"
        return ["curl", "-sS", *login, "--limit-rate", str(RATE), "-T", str(path), *more, address]

    def break_off(self, command: list[str], watched: Callable[[], Path | None]) -> None:
        """Start a client and kill it, and all that it started, in the middle of the file `watched`."""
        with self.halfway(command, watched) as process:
            os.killpg(process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def halfway(self, command: list[str], watched: Callable[[], Path | None]) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:

            def half() -> bool:
                with contextlib.suppress(FileNotFoundError):
                    path = watched()
                    return path is not None and SIZE // 4 < path.stat().st_size < SIZE * 7 // 8
                return False

            until(half)
            yield process


def until(condition: Callable[[], object]) -> None:
    """Wait for what another program does, and fail when it does not."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        threading.Event().wait(0.01)


# ---------------------------------------------------------------------------------------------------- partners


def sftp_put(bench: Bench, name: str) -> None:
    bench.run(*bench.sftp(f"put {bench.local(name)} /acme/{name}"))


def sftp_put_keeping_times(bench: Bench, name: str) -> None:
    bench.run(*bench.sftp(f"put -p {bench.local(name)} /acme/{name}"))


def sftp_put_and_rename(bench: Bench, name: str) -> None:
    bench.run(*bench.sftp(f"put {bench.local(name)} /acme/{name}.part", f"rename /acme/{name}.part /acme/{name}"))


def sftp_killed_and_resumed(bench: Bench, name: str) -> None:
    path = bench.local(name)
    bench.break_off(bench.sftp(f"put {path} /acme/{name}"), lambda: bench.inbox() / name)
    threading.Event().wait(STALL_S)
    bench.run(*bench.sftp(f"reput {path} /acme/{name}"))


def sftp_killed_for_good(bench: Bench, name: str) -> None:
    bench.break_off(bench.sftp(f"put {bench.local(name)} /acme/{name}"), lambda: bench.inbox() / name)


def sftp_standing_still(bench: Bench, name: str) -> None:
    command = bench.sftp(f"put {bench.local(name)} /acme/{name}")
    with bench.halfway(command, lambda: bench.inbox() / name) as process:
        os.killpg(process.pid, signal.SIGSTOP)
        threading.Event().wait(STALL_S)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.wait(timeout=PATIENCE_S) == 0


def scp_put(bench: Bench, name: str) -> None:
    rate = str(RATE * 8 // 1000)
    bench.run("scp", "-F", bench.at / "ssh/config", "-l", rate, bench.local(name), f"partner:/acme/{name}")


def scp_put_keeping_times(bench: Bench, name: str) -> None:
    rate = str(RATE * 8 // 1000)
    bench.run("scp", "-p", "-F", bench.at / "ssh/config", "-l", rate, bench.local(name), f"partner:/acme/{name}")


def lftp_put(bench: Bench, name: str) -> None:
    bench.run(*bench.lftp(f"put {bench.local(name)} -o /acme/{name}"))


def lftp_put_by_a_temporary_name(bench: Bench, name: str) -> None:
    bench.run(*bench.lftp("set xfer:use-temp-file yes", f"put {bench.local(name)} -o /acme/{name}"))


def lftp_killed_and_continued(bench: Bench, name: str) -> None:
    path = bench.local(name)
    bench.break_off(bench.lftp(f"put {path} -o /acme/{name}"), lambda: bench.inbox() / name)
    threading.Event().wait(STALL_S)
    bench.run(*bench.lftp(f"put -c {path} -o /acme/{name}"))


def curl_put(bench: Bench, name: str) -> None:
    bench.run(*bench.curl(bench.local(name), f"/acme/{name}"))


def curl_put_and_rename(bench: Bench, name: str) -> None:
    rename = f"-rename /acme/{name}.part /acme/{name}"
    bench.run(*bench.curl(bench.local(name), f"/acme/{name}.part", "-Q", rename))


def rsync(bench: Bench, name: str, *options: str) -> list[str]:
    rate = f"--bwlimit={RATE // 1000}"
    return ["rsync", "-e", bench.ssh, rate, *options, str(bench.local(name)), f"shell:{bench.inbox()}/{name}"]


def rsync_put(bench: Bench, name: str) -> None:
    bench.run(*rsync(bench, name))


def rsync_put_keeping_times(bench: Bench, name: str) -> None:
    bench.run(*rsync(bench, name, "--times"))


def rsync_in_place(bench: Bench, name: str) -> None:
    bench.run(*rsync(bench, name, "--inplace", "--chmod=F640"))


def rsync_killed_keeping_the_part(bench: Bench, name: str) -> None:
    """With --partial the part is renamed to the final name, and the second run completes it."""
    with bench.halfway(
        rsync(bench, name, "--partial"), lambda: next(bench.inbox().glob(f".{name}.*"), None)
    ) as process:
        process.terminate()
    threading.Event().wait(STALL_S)
    bench.run(*rsync(bench, name, "--partial"))


def sftp_with_a_marker(bench: Bench, name: str) -> None:
    """Killed, resumed much later, then the marker: nothing but that makes it ready."""
    path, marker = bench.local(name), bench.at / "local" / f"{name}.done"
    marker.touch()
    bench.break_off(bench.sftp(f"put {path} /marked/{name}"), lambda: bench.inbox("marked") / name)
    threading.Event().wait(STALL_S)
    bench.run(*bench.sftp(f"reput {path} /marked/{name}", f"put {marker} /marked/{name}.done"))


NEVER_WHOLE = {sftp_killed_for_good}
PARTNERS = [
    sftp_put,
    sftp_put_keeping_times,
    sftp_put_and_rename,
    sftp_killed_and_resumed,
    sftp_killed_for_good,
    sftp_standing_still,
    sftp_with_a_marker,
    scp_put,
    scp_put_keeping_times,
    lftp_put,
    lftp_put_by_a_temporary_name,
    lftp_killed_and_continued,
    curl_put,
    curl_put_and_rename,
    rsync_put,
    rsync_put_keeping_times,
    rsync_in_place,
    rsync_killed_keeping_the_part,
]
ids = [partner.__name__ for partner in PARTNERS]


def name_of(partner: Callable[[Bench, str], None]) -> str:
    return f"{partner.__name__.replace('_', '-')}.csv"


# ------------------------------------------------------------------------------------------------------ the bench


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder for a chroot: nobody but root may write in it or in any folder above, so it is not below /tmp."""
    above = next((path for path in map(Path, ("/run", "/srv", "/opt")) if is_roots_alone(path)), None)
    if above is None:
        pytest.skip("there is no place for a chroot")
    at = Path(tempfile.mkdtemp(prefix="dropzone-clients-", dir=above))
    at.chmod(0o755)
    yield at
    shutil.rmtree(at)


def is_roots_alone(path: Path) -> bool:
    if not path.is_dir():
        return False
    st = path.stat()
    return st.st_uid == 0 and not st.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def lay_out(at: Path, url: str) -> Scene:
    """The daemon's folders, its own user's; above the inboxes root's, as a chroot must be."""
    scene = make_scene(at, url, folders=FOLDERS)
    for path in (at / "root", at / "state", at / "key"):
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(path)], check=True)
    for above in (at / "root", at / "root/inbox"):
        os.chown(above, 0, 0)
        above.chmod(0o755)
    for folder in scene.config.folders.values():
        os.chown(folder.path, NOBODY, PARTNER_GID)
        folder.path.chmod(0o2770)
    return scene


@contextlib.contextmanager
def server(at: Path) -> Iterator[int]:
    """OpenSSH's server on a port of loopback, with one user in a chroot and one with a shell."""
    here = at / "ssh"
    here.mkdir()
    (at / "local").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(here / name)], check=True)
    shutil.copy(here / "id.pub", here / "authorized")
    (here / "sshd").write_text(f"""\
ListenAddress 127.0.0.1
Port {port}
HostKey {here}/host
PidFile none
AuthorizedKeysFile {here}/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp internal-sftp
Match User {PARTNER}
    ChrootDirectory {at}/root/inbox
    ForceCommand internal-sftp -u 027
""")
    options = f"""\
    HostName 127.0.0.1
    Port {port}
    IdentityFile {here}/id
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""
    (here / "config").write_text(f"Host partner\n    User {PARTNER}\n{options}Host shell\n    User root\n{options}")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = shutil.which("sshd", path=PATH)
    assert sshd is not None
    with (here / "log").open("wb") as log, subprocess.Popen([sshd, "-D", "-e", "-f", here / "sshd"], stderr=log) as run:
        try:
            until(lambda: b"listening" in (here / "log").read_bytes() or run.poll() is not None)
            if run.poll() is not None:
                pytest.skip(f"sshd does not start here: {(here / 'log').read_text()}")
            yield port
        finally:
            run.terminate()


@contextlib.contextmanager
def daemon(scene: Scene) -> Iterator[None]:
    """The installed command, as a user of its own in the partners' group; ends well or fails the test."""
    command = [sys.executable, "-m", "dropzone", "-c", str(scene.at / "dropzone.yaml"), "run"]
    with (scene.at / "journal").open("wb") as journal:
        process = subprocess.Popen(unprivileged(command, groups=[PARTNER_GID]), stderr=journal, cwd="/")
    try:
        until(lambda: b'"watching"' in (scene.at / "journal").read_bytes() or process.poll() is not None)
        assert process.poll() is None, (scene.at / "journal").read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)


@dataclass(slots=True)
class Outcome:
    """What came of all uploads."""

    bench: Bench
    clients: dict[str, Future[None]]
    arrived: list[str]  # SHA-256 of each import
    drops: dict[str, list[int]]  # name -> the size of each drop
    left: set[str]  # names in the inboxes at the end
    journal: str


@pytest.fixture(scope="module")
def outcome(place: Path) -> Iterator[Outcome]:
    """All partners at once; then all is looked at."""
    with Server(KEY) as sandbox, server(place) as port:
        bench = Bench(at=place, scene=lay_out(place, sandbox.url), port=port)
        whole = len(PARTNERS) - len(NEVER_WHOLE)
        with daemon(bench.scene), ThreadPoolExecutor(len(PARTNERS)) as pool:
            clients = {name_of(partner): pool.submit(partner, bench, name_of(partner)) for partner in PARTNERS}
            for client in clients.values():
                client.exception(timeout=PATIENCE_S * 2)
            failed = sum(client.exception() is not None for client in clients.values())
            end = time.monotonic() + 15.0
            until(lambda: len(sandbox.imports()) >= whole - failed or time.monotonic() > end)
        reader = SQLiteReader(bench.scene.config.state_dir)
        drops: dict[str, list[int]] = {}
        for drop in reader.find_drops():
            drops.setdefault(os.fsdecode(drop.name), []).append(drop.size)
        reader.close()
        yield Outcome(
            bench=bench,
            clients=clients,
            arrived=[str(each["sha256"]) for each in sandbox.imports()],
            drops=drops,
            left={path.name for folder in bench.scene.config.folders.values() for path in folder.path.iterdir()},
            journal=(place / "journal").read_text(),
        )


@pytest.mark.parametrize("partner", PARTNERS, ids=ids)
def test_each_upload_is_taken_once_and_whole(outcome: Outcome, partner: Callable[[Bench, str], None]) -> None:
    """The client is content, one drop was made of the file, and exactly its bytes arrived, once."""
    name = name_of(partner)
    outcome.clients[name].result()
    source = outcome.bench.sent[name]
    if partner in NEVER_WHOLE:
        assert name not in outcome.drops
        assert name in outcome.left
        return
    assert outcome.drops.get(name) == [len(source)], outcome.journal
    assert outcome.arrived.count(sha256(source).hexdigest()) == 1
    assert name not in outcome.left


def test_nothing_else_arrived_or_stayed(outcome: Outcome) -> None:
    """No part of a file was taken for one, no marker is left, and only the upload that was cut off lies there."""
    sources = {sha256(source).hexdigest() for source in outcome.bench.sent.values()}
    assert set(outcome.arrived) <= sources
    assert outcome.left == {name_of(partner) for partner in NEVER_WHOLE}
    assert '"level": "error"' not in outcome.journal
