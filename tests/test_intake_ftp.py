"""Real clients against a real vsftpd, plain and with TLS: no file is taken before it is whole, and none is missed.

As with the OpenSSH server (`test_intake_clients`), all uploads go on at the same time, throttled: in place, under a
temporary name, killed and resumed (APPE, REST), killed for good, standing still in the middle. Partners are anonymous:
a password would need a PAM service of the machine. What they upload is another user's than the daemon's all the same.
"""

from __future__ import annotations

import contextlib
import ftplib
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from partners import (
    PARTNER,
    PATH,
    PATIENCE_S,
    RATE,
    SIZE,
    STALL_S,
    Bench,
    Outcome,
    curl_put,
    free_port,
    is_half_there,
    lay_out,
    lftp_killed_and_continued,
    lftp_put,
    lftp_put_by_a_temporary_name,
    missing,
    name_of,
    roots_own_place,
    see_through,
    serving,
    until,
)
from scene import KEY
from server import Server

MISSING = missing("vsftpd", "lftp", "curl", "setpriv")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="a chroot of vsftpd takes root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"),
    pytest.mark.timeout(150),
]


@dataclass(slots=True, kw_only=True)
class FTPBench(Bench):
    """Clients of vsftpd's."""

    port: int
    tls_port: int

    def curl(self, path: Path, target: str, *more: str) -> list[str]:
        address = f"ftp://127.0.0.1:{self.port}{target}"
        return ["curl", "-sS", "--limit-rate", str(RATE), "-T", str(path), *more, address]

    def curl_tls(self, path: Path, target: str, *more: str) -> list[str]:
        address = f"ftp://127.0.0.1:{self.tls_port}{target}"
        trust = ["--ssl-reqd", "--cacert", f"{self.at}/ftp/ca.pem"]
        return ["curl", "-sS", *trust, "--limit-rate", str(RATE), "-T", str(path), *more, address]

    def lftp(self, *lines: str) -> list[str]:
        return self._lftp(self.port, "set ftp:ssl-allow no", *lines)

    def lftp_tls(self, *lines: str) -> list[str]:
        settings = (
            "set ftp:ssl-force yes",
            "set ftp:ssl-allow-anonymous yes",
            "set ftp:ssl-protect-data yes",
            f"set ssl:ca-file {self.at}/ftp/ca.pem",
        )
        return self._lftp(self.tls_port, *settings, *lines)

    def _lftp(self, port: int, *lines: str) -> list[str]:
        settings = (f"set net:limit-total-rate 0:{RATE}", "set net:max-retries 1", f"open ftp://127.0.0.1:{port}")
        return ["lftp", "-c", "; ".join((*lines[:-1], *settings, lines[-1]))]


# ---------------------------------------------------------------------------------------------------- partners


def curl_put_and_rename(bench: FTPBench, name: str) -> None:
    rename = ["-Q", f"-RNFR {name}.part", "-Q", f"-RNTO {name}"]
    bench.run(*bench.curl(bench.local(name), f"/acme/{name}.part", *rename))


def curl_killed_and_appended(bench: FTPBench, name: str) -> None:
    path = bench.local(name)
    bench.break_off(bench.curl(path, f"/acme/{name}"), lambda: bench.inbox() / name)
    threading.Event().wait(STALL_S)
    bench.run(*bench.curl(path, f"/acme/{name}", "-C", "-"))


def curl_killed_for_good(bench: FTPBench, name: str) -> None:
    bench.break_off(bench.curl(bench.local(name), f"/acme/{name}"), lambda: bench.inbox() / name)


def curl_with_a_marker(bench: FTPBench, name: str) -> None:
    """Killed, resumed much later, then the marker: nothing but that makes it ready."""
    path, marker = bench.local(name), bench.at / "local" / f"{name}.done"
    marker.touch()
    bench.break_off(bench.curl(path, f"/marked/{name}"), lambda: bench.inbox("marked") / name)
    threading.Event().wait(STALL_S)
    bench.run(*bench.curl(path, f"/marked/{name}", "-C", "-"))
    bench.run(*bench.curl(marker, f"/marked/{name}.done"))


def lftp_standing_still(bench: FTPBench, name: str) -> None:
    command = bench.lftp(f"put {bench.local(name)} -o /acme/{name}")
    bench.stand_still(command, lambda: bench.inbox() / name)


def ftplib_broken_off_and_restarted(bench: FTPBench, name: str) -> None:
    """The data connection is reset in the middle; the rest comes by REST and STOR over a new one."""
    path = bench.local(name)
    with ftplib.FTP() as ftp:  # noqa: S321 - it is what partners have
        ftp.connect("127.0.0.1", bench.port, timeout=PATIENCE_S)
        ftp.login()
        data = ftp.transfercmd(f"STOR /acme/{name}")
        data.sendall(path.read_bytes()[: SIZE // 2])
        until(lambda: is_half_there(bench.inbox() / name))
        data.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        data.close()
        with contextlib.suppress(ftplib.Error):
            ftp.voidresp()
        threading.Event().wait(STALL_S)
        there = ftp.size(f"/acme/{name}")
        assert there
        with path.open("rb") as rest:
            rest.seek(there)
            ftp.storbinary(f"STOR /acme/{name}", rest, rest=there)


def curl_tls_put(bench: FTPBench, name: str) -> None:
    bench.run(*bench.curl_tls(bench.local(name), f"/acme/{name}"))


def curl_tls_put_and_rename(bench: FTPBench, name: str) -> None:
    rename = ["-Q", f"-RNFR {name}.part", "-Q", f"-RNTO {name}"]
    bench.run(*bench.curl_tls(bench.local(name), f"/acme/{name}.part", *rename))


def lftp_tls_put(bench: FTPBench, name: str) -> None:
    bench.run(*bench.lftp_tls(f"put {bench.local(name)} -o /acme/{name}"))


def lftp_tls_killed_and_begun_again(bench: FTPBench, name: str) -> None:
    """The server removes what was cut, so the whole comes once more."""
    path, there = bench.local(name), bench.inbox() / name
    bench.break_off(bench.lftp_tls(f"put {path} -o /acme/{name}"), lambda: there)
    until(lambda: not there.exists())
    bench.run(*bench.lftp_tls(f"put {path} -o /acme/{name}"))


NEVER_WHOLE = {curl_killed_for_good}
PARTNERS = [
    curl_put,
    curl_put_and_rename,
    curl_killed_and_appended,
    curl_killed_for_good,
    curl_with_a_marker,
    lftp_put,
    lftp_put_by_a_temporary_name,
    lftp_killed_and_continued,
    lftp_standing_still,
    ftplib_broken_off_and_restarted,
    curl_tls_put,
    curl_tls_put_and_rename,
    lftp_tls_put,
    lftp_tls_killed_and_begun_again,
]


# ------------------------------------------------------------------------------------------------------ the bench


@contextlib.contextmanager
def servers(at: Path) -> Iterator[tuple[int, int]]:
    """Two of them on ports of loopback: plain, and with TLS for whatever is said."""
    here = at / "ftp"
    (here / "empty").mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(here / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(here / "server.pem")
    ports = free_port(), free_port()
    secure = f"""\
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
rsa_cert_file={here}/server.pem
strict_ssl_read_eof=YES
delete_failed_uploads=YES
"""
    with serving_ftp(at, "plain", ports[0], ""), serving_ftp(at, "tls", ports[1], secure):
        yield ports


@contextlib.contextmanager
def serving_ftp(at: Path, name: str, port: int, more: str) -> Iterator[None]:
    """One vsftpd, whose anonymous user may do what a partner may."""
    file = at / "ftp" / f"{name}.conf"
    file.write_text(f"""\
background=NO
listen=YES
listen_address=127.0.0.1
listen_port={port}
secure_chroot_dir={at}/ftp/empty
anonymous_enable=YES
no_anon_password=YES
ftp_username={PARTNER}
anon_root={at}/root/inbox
anon_umask=027
write_enable=YES
anon_upload_enable=YES
anon_other_write_enable=YES
xferlog_enable=YES
vsftpd_log_file={at}/ftp/{name}.log
{more}""")
    vsftpd = shutil.which("vsftpd", path=PATH)
    assert vsftpd is not None

    def is_up() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as probe:
            return probe.recv(4).startswith(b"220")
        return False

    with serving([vsftpd, file], at / "ftp" / f"{name}.out", is_up):
        yield


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    """All partners at once; then all is looked at."""
    with roots_own_place() as at, Server(KEY) as sandbox, servers(at) as (port, tls_port):
        bench = FTPBench(at=at, scene=lay_out(at, sandbox.url), port=port, tls_port=tls_port)
        yield see_through(bench, sandbox, PARTNERS, whole=len(PARTNERS) - len(NEVER_WHOLE))


@pytest.mark.parametrize("partner", PARTNERS, ids=lambda partner: partner.__name__)
def test_each_upload_is_taken_once_and_whole(outcome: Outcome, partner: Callable[[FTPBench, str], None]) -> None:
    """The client is content, one drop was made of the file, and exactly its bytes arrived, once."""
    if partner in NEVER_WHOLE:
        outcome.assert_left_alone(name_of(partner))
    else:
        outcome.assert_taken_once_and_whole(name_of(partner))


def test_nothing_else_arrived_or_stayed(outcome: Outcome) -> None:
    """No part of a file was taken for one, no marker is left, and only the upload that was cut off lies there."""
    outcome.assert_nothing_else({name_of(partner) for partner in NEVER_WHOLE})
