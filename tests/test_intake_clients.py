"""Real clients against a real OpenSSH server: no file is taken before it is whole, and none is missed.

All uploads go on at the same time, throttled to some seconds each: in place, under a temporary name, killed and
resumed, killed for good, standing still in the middle. sshd has its users in a chroot and speaks nothing but SFTP with
them, as a server for partners does; rsync comes through a user with a shell.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from partners import (
    PARTNER,
    PATH,
    RATE,
    STALL_S,
    Bench,
    Outcome,
    curl_put,
    free_port,
    lay_out,
    lftp_killed_and_continued,
    lftp_put,
    lftp_put_by_a_temporary_name,
    missing,
    name_of,
    roots_own_place,
    see_through,
    serving,
)
from scene import KEY
from server import Server

MISSING = missing("sshd", "sftp", "scp", "ssh-keygen", "rsync", "lftp", "curl", "setpriv")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a chroot of sshd takes root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"),
    pytest.mark.timeout(150),
]


@dataclass(slots=True, kw_only=True)
class SSHBench(Bench):
    """Clients of OpenSSH's server."""

    port: int

    @property
    def ssh(self) -> str:
        return f"ssh -F {self.at}/ssh/config"

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


# ---------------------------------------------------------------------------------------------------- partners


def sftp_put(bench: SSHBench, name: str) -> None:
    bench.run(*bench.sftp(f"put {bench.local(name)} /acme/{name}"))


def sftp_put_keeping_times(bench: SSHBench, name: str) -> None:
    bench.run(*bench.sftp(f"put -p {bench.local(name)} /acme/{name}"))


def sftp_put_and_rename(bench: SSHBench, name: str) -> None:
    bench.run(*bench.sftp(f"put {bench.local(name)} /acme/{name}.part", f"rename /acme/{name}.part /acme/{name}"))


def sftp_as_winscp_does(bench: SSHBench, name: str) -> None:
    """Version 3's own rename, which OpenSSH's server makes a link and an unlink: for a moment it has two names."""
    part = f"/acme/{name}.filepart"
    bench.run(*bench.sftp(f"put -p {bench.local(name)} {part}", f"rename -l {part} /acme/{name}"))


def sftp_killed_and_resumed(bench: SSHBench, name: str) -> None:
    path = bench.local(name)
    bench.break_off(bench.sftp(f"put {path} /acme/{name}"), lambda: bench.inbox() / name)
    threading.Event().wait(STALL_S)
    bench.run(*bench.sftp(f"reput {path} /acme/{name}"))


def sftp_killed_for_good(bench: SSHBench, name: str) -> None:
    bench.break_off(bench.sftp(f"put {bench.local(name)} /acme/{name}"), lambda: bench.inbox() / name)


def sftp_standing_still(bench: SSHBench, name: str) -> None:
    command = bench.sftp(f"put {bench.local(name)} /acme/{name}")
    bench.stand_still(command, lambda: bench.inbox() / name)


def scp_put(bench: SSHBench, name: str) -> None:
    rate = str(RATE * 8 // 1000)
    bench.run("scp", "-F", bench.at / "ssh/config", "-l", rate, bench.local(name), f"partner:/acme/{name}")


def scp_put_keeping_times(bench: SSHBench, name: str) -> None:
    rate = str(RATE * 8 // 1000)
    bench.run("scp", "-p", "-F", bench.at / "ssh/config", "-l", rate, bench.local(name), f"partner:/acme/{name}")


def curl_put_and_rename(bench: SSHBench, name: str) -> None:
    rename = f"-rename /acme/{name}.part /acme/{name}"
    bench.run(*bench.curl(bench.local(name), f"/acme/{name}.part", "-Q", rename))


def rsync(bench: SSHBench, name: str, *options: str) -> list[str]:
    rate = f"--bwlimit={RATE // 1000}"
    return ["rsync", "-e", bench.ssh, rate, *options, str(bench.local(name)), f"shell:{bench.inbox()}/{name}"]


def rsync_put(bench: SSHBench, name: str) -> None:
    bench.run(*rsync(bench, name))


def rsync_put_keeping_times(bench: SSHBench, name: str) -> None:
    bench.run(*rsync(bench, name, "--times"))


def rsync_in_place(bench: SSHBench, name: str) -> None:
    bench.run(*rsync(bench, name, "--inplace", "--chmod=F640"))


def rsync_killed_keeping_the_part(bench: SSHBench, name: str) -> None:
    """With --partial the part is renamed to the final name, and the second run completes it."""
    with bench.halfway(
        rsync(bench, name, "--partial"), lambda: next(bench.inbox().glob(f".{name}.*"), None)
    ) as process:
        process.terminate()
    threading.Event().wait(STALL_S)
    bench.run(*rsync(bench, name, "--partial"))


def sftp_with_a_marker(bench: SSHBench, name: str) -> None:
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
    sftp_as_winscp_does,
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


# ------------------------------------------------------------------------------------------------------ the bench


@contextlib.contextmanager
def server(at: Path) -> Iterator[int]:
    """OpenSSH's server on a port of loopback, with one user in a chroot and one with a shell."""
    here = at / "ssh"
    here.mkdir()
    port = free_port()
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
    with serving(
        [sshd, "-D", "-e", "-f", here / "sshd"], here / "log", lambda: b"listening" in (here / "log").read_bytes()
    ):
        yield port


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    """All partners at once; then all is looked at."""
    with roots_own_place() as at, Server(KEY) as sandbox, server(at) as port:
        bench = SSHBench(at=at, scene=lay_out(at, sandbox.url), port=port)
        yield see_through(bench, sandbox, PARTNERS, whole=len(PARTNERS) - len(NEVER_WHOLE))


@pytest.mark.parametrize("partner", PARTNERS, ids=ids)
def test_each_upload_is_taken_once_and_whole(outcome: Outcome, partner: Callable[[SSHBench, str], None]) -> None:
    """The client is content, one drop was made of the file, and exactly its bytes arrived, once."""
    if partner in NEVER_WHOLE:
        outcome.assert_left_alone(name_of(partner))
    else:
        outcome.assert_taken_once_and_whole(name_of(partner))


def test_nothing_else_arrived_or_stayed(outcome: Outcome) -> None:
    """No part of a file was taken for one, no marker is left, and only the upload that was cut off lies there."""
    outcome.assert_nothing_else({name_of(partner) for partner in NEVER_WHOLE})
