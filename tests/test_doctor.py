"""The diagnosis: what can be wrong with a machine, made wrong for real, and the mend that is named for it."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from scene import KEY, Scene, make_scene
from unprivileged import as_nobody
from wire import Peer, Server, reading_the_head

from dropzone import __version__, opening
from dropzone import config as configuration
from dropzone.config import Account, Secret, Timeouts
from dropzone.errors import DropzoneError, FolderError, LedgerError
from dropzone.folders.probing import find_unreadable, mount_of, try_inotify
from dropzone.operate import Health
from dropzone.operate.acting import User, acting_as, daemon_user
from dropzone.operate.doctor import Patient, Remark, Severity, examine
from dropzone.operate.doctor.unit import NAME, find_unit
from dropzone.optipub.reaching import reach

FOLDERS = "acme: {segment_id: 1, mode: lead}\nglobex: {segment_id: 2, mode: lead}"
NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path, "http://127.0.0.1:9", folders=FOLDERS)


def patient(scene: Scene, **changes: object) -> Patient:
    """The scene on a machine without a unit and without a daemon."""
    known = Patient(
        config=scene.config,
        ledger=None,
        health=Health(running=False, steps={}),
        version=__version__,
        units=[scene.at / "units"],
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def remarks(patient: Patient, *, now: float | None = None, online: bool = False) -> list[Remark]:
    at = datetime.now(UTC).timestamp() if now is None else now
    return [remark for remark in examine(patient, now=at, online=online) if remark.subject != "clock"]


def faults(patient: Patient, **how: float) -> list[Remark]:
    return [remark for remark in remarks(patient, **how) if remark.severity is Severity.FAULT]  # type: ignore[arg-type]


def about(found: list[Remark], subject: str) -> list[Remark]:
    return [remark for remark in found if remark.subject.startswith(subject)]


def test_the_daemon_as_it_is(scene: Scene) -> None:
    """None where there was none yet is a note; none where there was one, or one that has old settings, is a warning."""
    assert [each.severity for each in about(remarks(patient(scene)), "daemon")] == [Severity.NOTE]
    damaged = LedgerError("it is damaged", "see above")
    assert [each.severity for each in about(remarks(patient(scene, ledger=damaged)), "daemon")] == [Severity.WARNING]
    old = Health(running=True, version=__version__, outdated=True, steps={})
    (found,) = about(remarks(patient(scene, health=old)), "daemon")
    assert (found.severity, "systemctl reload dropzone" in found.mend) == (Severity.WARNING, True)


def give_to_nobody(scene: Scene) -> None:
    """Make nobody the daemon's user, as `init` and a service would have it."""
    scene.at.chmod(0o755)
    for parent in scene.at.parents:
        with contextlib.suppress(PermissionError):
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    for path in [scene.at / "key", scene.config.state_dir, scene.config.root, *scene.config.root.rglob("*")]:
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)


# ------------------------------------------------------------------------------------------------------ in order


def test_a_machine_in_order_has_no_fault_and_no_warning(scene: Scene) -> None:
    """Folders made by `init`, a key of its own, no daemon yet: notes at most, and nothing is left behind by looking."""
    before = scene.files()
    found = remarks(patient(scene))
    assert [remark for remark in found if remark.severity > Severity.NOTE] == []
    assert {"folder acme", "folder globex", "inotify", "TLS", "ledger", "unit"} <= {remark.subject for remark in found}
    assert scene.files() == before


def test_every_remark_that_is_not_well_names_its_mend(scene: Scene) -> None:
    """On a machine with nearly everything wrong."""
    scene.config.folders["acme"].path.rmdir()
    (scene.config.root / "work").rmdir()
    (scene.at / "key").chmod(0o644)
    for remark in remarks(patient(scene, ledger=LedgerError("it is damaged", "Move it aside")), online=True):
        assert bool(remark.mend) or remark.severity <= Severity.NOTE, remark


# ---------------------------------------------------------------------------------------------------------- places


def test_a_missing_inbox_is_a_fault(scene: Scene) -> None:
    """It is named with the command that makes it; the other folder is well."""
    scene.config.folders["acme"].path.rmdir()
    (fault,) = faults(patient(scene))
    assert fault.subject == "folder acme"
    assert "dropzone init" in fault.mend


def test_a_missing_state_folder_and_root_are_faults(scene: Scene) -> None:
    """Both, and then each folder; with the way to make them."""
    for path in (scene.config.state_dir, scene.config.root):
        path.rename(path.with_suffix(".gone"))
    found = faults(patient(scene))
    assert about(found, "state_dir")
    assert about(found, "root")
    assert all("dropzone init" in remark.mend for remark in found)


@as_root
def test_what_the_daemons_user_may_do_is_tried_as_that_user(scene: Scene) -> None:
    """Root asks, nobody is the daemon: it is nobody's rights that count, and root has its own back afterwards."""
    give_to_nobody(scene)
    assert faults(patient(scene)) == []
    inbox = scene.config.folders["acme"].path
    os.chown(inbox, 0, 0)
    inbox.chmod(0o2755)
    (fault,) = faults(patient(scene))
    assert fault.subject == "folder acme"
    assert f"cannot take files from {inbox}" in fault.what
    assert f"chmod g+rwxs {inbox}" in fault.mend
    assert os.geteuid() == 0
    (inbox / "root may").touch()


@as_root
def test_a_state_folder_that_the_daemon_may_not_enter_or_write_is_a_fault(scene: Scene) -> None:
    """As `init` or `run` of root's leaves it: the mend gives all of it to the daemon's user, and then all is well."""
    give_to_nobody(scene)
    install(scene, UNIT, paths=f"[Service]\nReadWritePaths={scene.at}\n")
    state = scene.config.state_dir
    (state / "lock").touch(0o640)  # root's
    (fault,) = faults(patient(scene))
    assert "nobody may not write lock in it" in fault.what
    assert fault.mend == f"chown -R nobody: {state}"
    os.chown(state, 0, 0)
    (fault,) = faults(patient(scene))
    assert (fault.subject, fault.mend) == (f"state_dir {state}", f"chown -R nobody: {state}")
    for path in (state, state / "lock"):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    assert faults(patient(scene)) == []
    mark = scene.config.root / "work" / ".ledger"
    mark.touch(0o640)  # root's, too
    assert {fault.mend for fault in faults(patient(scene))} == {f"chown -R nobody: {mark.parent}"}
    os.chown(mark, NOBODY.pw_uid, NOBODY.pw_gid)
    assert faults(patient(scene)) == []


@as_root
def test_an_unreadable_file_of_a_partner_is_a_fault(scene: Scene) -> None:
    """A 0600 upload of another user: named, escaped, with the chmod; what no folder takes is not looked at."""
    give_to_nobody(scene)
    for name in ("secret\n.csv", "temporary.part"):
        path = scene.put(name, b"email\n")
        path.chmod(0o600)
    (fault,) = faults(patient(scene))
    assert "1 file in it cannot be read: secret\\x0a.csv" in fault.what
    assert fault.mend.startswith("chmod g+r ")


@as_root
def test_a_key_that_the_daemon_cannot_read_is_a_fault(scene: Scene) -> None:
    """Root could; the daemon's user cannot."""
    give_to_nobody(scene)
    os.chown(scene.at / "key", 0, 0)
    (fault,) = faults(patient(scene))
    assert fault.subject == "account main"
    assert "cannot be read" in fault.what


def test_modes_that_let_others_in_are_warnings(scene: Scene) -> None:
    """Each with its chmod: who may look at lists, who may write into an inbox, whose files we may not read."""
    inbox = scene.config.folders["acme"].path
    inbox.chmod(0o777)
    (scene.config.root / "done" / "acme").chmod(0o755)
    scene.config.state_dir.chmod(0o755)
    mends = {remark.mend for remark in remarks(patient(scene)) if remark.severity is Severity.WARNING}
    root = scene.config.root
    assert mends == {
        f"chmod g+s {inbox}",
        f"chmod o-w {inbox}",
        f"chmod o= {root}/done/acme",
        f"chmod o= {scene.config.state_dir}",
    }


def test_a_probe_whose_way_is_blocked_leaves_nothing_behind(scene: Scene) -> None:
    """done/ of a folder is missing: the fault names it, and no probe lies about."""
    (scene.config.root / "done" / "acme").rmdir()
    before = scene.files()
    (fault,) = faults(patient(scene))
    assert "done/acme" in fault.what
    assert scene.files() == before


def test_mounts_are_told_apart() -> None:
    """A local file system and the kernel's own: type, point and whether writers are known there."""
    proc = mount_of(Path("/proc"))
    assert (proc.type, proc.point, proc.local) == ("proc", "/proc", False)


def test_a_state_folder_on_another_kind_of_file_system_is_refused(scene: Scene) -> None:
    """Anything that is not known to be local counts as a network: here the kernel's own /proc."""
    moved = scene.config.having(state_dir=Path("/proc/self"))
    found = about(faults(patient(replace(scene, config=moved))), "state_dir")
    assert "SQLite on a network file system" in found[0].what


# --------------------------------------------------------------------------------------------------------- machine


def test_a_kernel_that_allows_too_little_is_told(scene: Scene, tmp_path: Path) -> None:
    """Few watches, a short queue of events, no leases: each with the sysctl."""
    kernel = tmp_path / "fs"
    (kernel / "inotify").mkdir(parents=True)
    (kernel / "inotify/max_user_watches").write_text("10\n")
    (kernel / "leases-enable").write_text("0\n")
    found = remarks(patient(scene, kernel=kernel))
    (watches,) = about(found, "inotify")
    assert "sysctl -w fs.inotify.max_user_watches=" in watches.mend
    assert about(found, "leases")[0].mend == "sysctl -w fs.leases-enable=1"
    (kernel / "inotify/max_user_watches").write_text("99999\n")
    (kernel / "inotify/max_queued_events").write_text("16\n")
    assert "max_queued_events" in about(remarks(patient(scene, kernel=kernel)), "inotify")[0].mend


def test_a_clock_behind_the_ledger_is_a_fault(scene: Scene) -> None:
    """The newest event lies ahead: due times cannot be believed."""
    scene.put("a.csv", b"email\nann@example.com\n")
    with scene.turn() as turn:
        turn.start()
        turn.take()
    with opening.find_ledger(scene.config) as ledger:
        found = examine(patient(scene, ledger=ledger), now=scene.clock.wall - 3600, online=False)
        (clock,) = [remark for remark in found if remark.subject == "clock"]
        assert clock.severity is Severity.FAULT
        assert "set back" in clock.what
        found = examine(patient(scene, ledger=ledger), now=scene.clock.wall, online=False)
        assert next(remark.severity for remark in found if remark.subject == "clock") < Severity.FAULT


def test_a_ledger_that_is_damaged_another_one_or_without_its_files_is_told(scene: Scene) -> None:
    """By reading all of it, by the mark in work/, and by looking for each open drop's file."""
    scene.put("a.csv", b"email\nann@example.com\n")
    with scene.turn() as turn:
        turn.start()
        (drop,) = turn.take()
        assert drop.state == "queued"
    with opening.find_ledger(scene.config) as ledger:
        assert about(faults(patient(scene, ledger=ledger)), "ledger") == []
        (scene.config.root / "work" / ".ledger").write_text("another\n")
        assert "belongs to another ledger" in about(faults(patient(scene, ledger=ledger)), "ledger")[0].what
        (scene.config.root / "work" / drop.id / "original").unlink()
        assert f"dropzone discard {drop.id}" in about(faults(patient(scene, ledger=ledger)), "ledger")[1].mend
    damage(scene.config.state_dir / "ledger.db")
    with opening.find_ledger(scene.config) as ledger, contextlib.suppress(LedgerError):
        assert "damaged" in about(faults(patient(scene, ledger=ledger)), "ledger")[0].what


def damage(path: Path) -> None:
    """Overwrite the middle of every page but the first."""
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content), 4096):
        content[start + 8 : start + 2000] = b"\xff" * 1992
    path.write_bytes(content)


# ----------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("age", "severity"), [(10, Severity.OK), (340, Severity.WARNING), (400, Severity.FAULT), (None, Severity.NOTE)]
)
def test_the_age_of_a_key(scene: Scene, age: int | None, severity: Severity) -> None:
    """A year at most; a month before its end it is a warning, and without a date a note."""
    made = (datetime.now(UTC) - timedelta(days=age)).date() if age is not None else None
    account = scene.config.accounts["main"].having(key_created=made)
    config = scene.config.having(accounts={"main": account})
    found = about(remarks(patient(replace(scene, config=config))), "account main")
    assert found[-1].severity is severity


def test_no_remark_holds_the_key(scene: Scene) -> None:
    """Whatever is wrong with it."""
    for mode in (0o600, 0o644, 0o000):
        (scene.at / "key").chmod(mode)
        assert KEY not in repr(remarks(patient(scene), online=True))


def test_two_accounts_that_feed_one_segment(scene: Scene) -> None:
    """The same number is the same segment only where both are of one installation."""
    main = scene.config.accounts["main"]
    acme = scene.config.folders["acme"]
    folders = {"acme": acme, "two": acme.having(name="two", account="other")}
    for url, severities in ((main.base_url.upper(), [Severity.WARNING]), ("https://other.example.com", [])):
        accounts = {"main": main, "other": main.having(name="other", base_url=url)}
        config = scene.config.having(accounts=accounts, folders=folders)
        found = [each for each in remarks(patient(replace(scene, config=config))) if "main too" in each.what]
        assert [each.severity for each in found] == severities
        assert [each.subject for each in found] == ["folder two"] * len(severities)


# ---------------------------------------------------------------------------------------------------------- online


def account(url: str, **changes: object) -> Account:
    return Account(name="main", base_url=url, api_key=Secret(source="env", name="K"), **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def listening(context: ssl.SSLContext | None = None, answer: bytes = b"") -> Iterator[tuple[int, list[bytes]]]:
    """A server that takes one connection, says `answer`, and keeps what it was sent."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                line, _ = server.accept()
                with line:
                    line.settimeout(20)
                    if answer:
                        heard.append(line.recv(4096))
                        line.sendall(answer)
                    with context.wrap_socket(line, server_side=True) if context else line as spoken:
                        heard.append(spoken.recv(4096))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], heard
        finally:
            server.close()
            thread.join(20)


def test_reaching_by_tls_sends_nothing(tmp_path: Path) -> None:
    """The handshake with a private authority, its version and the days of the certificate; not one byte follows."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with listening(context) as (port, heard):
        reached = reach(account(f"https://localhost:{port}", ca_file=tmp_path / "ca.pem"), now=0.0)
    assert reached.tls == "TLSv1.3"
    assert reached.certificate_days is not None
    assert heard == [b""]


def test_a_certificate_that_nobody_vouches_for_is_told_with_its_mend() -> None:
    """In the words of a failed upload."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with listening(context) as (port, _), pytest.raises(DropzoneError) as raised:
        reach(account(f"https://localhost:{port}"), now=0.0)
    assert "is not valid" in raised.value.message
    assert "ca_file" in raised.value.hint


def test_an_address_that_refuses_or_does_not_exist_is_told(scene: Scene) -> None:
    """Nothing listens there; no such name."""
    (fault,) = about(faults(patient(scene), online=True), "account main")
    assert "refuses connections" in fault.what
    with pytest.raises(DropzoneError, match=r"no address is known for nowhere\.invalid"):
        reach(account("https://nowhere.invalid"), now=0.0)


def test_reaching_goes_through_the_proxy() -> None:
    """It is asked to connect, and a refusal is told with what it said."""
    with listening(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n") as (port, heard):
        proxied = account("https://optipub.example.com", proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(DropzoneError, match="403 Forbidden"):
            reach(proxied, now=0.0)
    assert heard[0].startswith(b"CONNECT optipub.example.com:443 HTTP/1.1\r\n")


def test_reaching_through_a_proxy_ends_in_the_same_handshake(tmp_path: Path) -> None:
    """The proxy lets us through; the certificate is that of the server behind it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("optipub.example.com").configure_cert(context)
    with listening(context, b"HTTP/1.1 200 Connection established\r\n\r\n") as (port, heard):
        proxied = account("https://optipub.example.com", proxy=f"http://127.0.0.1:{port}", ca_file=tmp_path / "ca.pem")
        reached = reach(proxied, now=0.0)
    assert reached.tls == "TLSv1.3"
    assert heard[1] == b""


def test_a_proxy_that_is_spoken_to_by_tls_lets_through(tmp_path: Path) -> None:
    """Its own certificate is verified first; the handshake with the server behind it is inside."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(outer)

    inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(inner)

    def script(peer: Peer) -> None:
        peer.head()
        peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = inner.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                peer.say(outgoing.read())
                if not (piece := peer.socket.recv(65536)):
                    return
                incoming.write(piece)
        peer.say(outgoing.read())
        ended.set()

    ended = threading.Event()
    with Server(script, tls=outer) as server:
        proxy = f"https://localhost:{server.port}"
        found = reach(account("https://127.0.0.1:9", proxy=proxy, ca_file=tmp_path / "ca.pem"), now=0.0)
        assert server.heads[0].startswith(b"CONNECT 127.0.0.1:9 HTTP/1.1")
        assert ended.wait(20.0)
    assert found.tls == "TLSv1.3"
    assert found.certificate_days is not None


def test_a_proxy_that_says_nothing_is_told(tmp_path: Path) -> None:
    """It takes the connection, hears where it is to connect to, and hangs up."""
    with Server(reading_the_head(lambda peer: None)) as server:
        proxied = account("https://optipub.example.com", proxy=server.url)
        with pytest.raises(DropzoneError, match=r"does not connect to optipub\.example\.com:443: nothing"):
            reach(proxied, now=0.0)


def test_a_server_that_hangs_up_in_the_handshake_is_told() -> None:
    """It speaks no TLS, say."""
    with Server(lambda peer: None) as server, pytest.raises(DropzoneError, match=r"127\.0\.0\.1"):
        reach(account(server.url.replace("http:", "https:")), now=0.0)


def test_a_machine_without_descriptors_cannot_watch() -> None:
    """The kernel's own words, as for the limits of inotify."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(FolderError, match="Too many open files"):
            try_inotify()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try_inotify()


@as_root
def test_which_files_of_an_inbox_this_user_may_not_read(tmp_path: Path) -> None:
    """What is gone by now, or no file, is nobody's fault."""
    for name in ("open.csv", "shut.csv"):
        (tmp_path / name).touch()
    (tmp_path / "shut.csv").chmod(0o600)
    (tmp_path / "folder.csv").mkdir()
    names = [b"open.csv", b"shut.csv", b"gone.csv", b"folder.csv"]
    with as_nobody(owns=[tmp_path]):
        assert find_unreadable(tmp_path, names) == [b"shut.csv"]


def test_a_server_that_does_not_shake_hands_is_not_waited_for(tmp_path: Path) -> None:
    """It takes the connection and says nothing: told within the time that a connection may take."""
    with Server(Peer.hold) as server:
        silent = account(server.url.replace("http:", "https:"), timeouts=Timeouts(connect=0.2))
        with pytest.raises(DropzoneError, match=r"no connection to 127\.0\.0\.1:\d+ within 0\.2 s"):
            reach(silent, now=0.0)


def test_a_certificate_that_ends_soon_is_a_warning(scene: Scene, tmp_path: Path) -> None:
    """Then nothing would be sent any more; whoever runs the server has to be told in time."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ends = datetime.now(UTC) + timedelta(days=5)
    authority.issue_cert("localhost", not_after=ends).configure_cert(context)
    with listening(context) as (port, _):
        secure = account(f"https://localhost:{port}", ca_file=tmp_path / "ca.pem")
        config = scene.config.having(accounts={"main": secure})
        found = about(remarks(patient(replace(scene, config=config)), online=True), "account main")
    assert found[-1].severity is Severity.WARNING
    assert "ends in 4 days" in found[-1].what


def test_a_machine_that_trusts_no_authority(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An account by https without a ca_file of its own can then be no one's."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    config = scene.config.having(accounts={"main": account("https://optipub.example.com")})
    assert about(faults(patient(replace(scene, config=config))), "TLS")[0].mend == "apt install ca-certificates"
    broken = account("https://optipub.example.com", ca_file=scene.at / "dropzone.yaml")
    config = scene.config.having(accounts={"main": broken})
    assert any("it holds no certificate" in remark.what for remark in faults(patient(replace(scene, config=config))))


def test_a_server_that_answers_without_tls_on_loopback(scene: Scene) -> None:
    """As the sandbox does: reached, and no certificate to speak of."""
    with listening() as (port, heard):
        config = scene.config.having(accounts={"main": account(f"http://127.0.0.1:{port}")})
        found = about(remarks(patient(replace(scene, config=config)), online=True), "account main")
    assert "without TLS" in found[-1].what
    assert heard == [b""]


# ------------------------------------------------------------------------------------------------------------ unit

UNIT = (Path(__file__).parent.parent / "systemd" / NAME).read_text()


def install(scene: Scene, text: str, **drop_ins: str) -> Path:
    """The unit as it would lie in /etc, for this scene's paths and a user that exists."""
    place = scene.at / "units"
    (place / f"{NAME}.d").mkdir(parents=True)
    text = text.replace("/opt/dropzone/bin/dropzone", "/bin/sh").replace("User=dropzone", "User=nobody")
    (place / NAME).write_text(text.replace("/etc/dropzone/dropzone.yaml", str(scene.at / "dropzone.yaml")))
    for name, content in drop_ins.items():
        (place / f"{NAME}.d" / f"{name}.conf").write_text(content)
    return place


def unit_remarks(scene: Scene) -> list[Remark]:
    return about(remarks(patient(scene)), "unit")


def test_the_shipped_unit_needs_its_paths_opened(scene: Scene) -> None:
    """A root elsewhere is read-only in it: each folder and the state folder with the drop-in that opens them."""
    install(scene, UNIT)
    found = unit_remarks(scene)
    assert all(remark.severity is Severity.FAULT for remark in found)
    assert {remark.what for remark in found} >= {
        f"state_dir {scene.config.state_dir} is read-only in it",
        f"folder acme: {scene.config.folders['acme'].path} is read-only in it",
    }
    assert all("ReadWritePaths=" in remark.mend for remark in found)


def test_a_drop_in_mends_it(scene: Scene) -> None:
    """Read as systemd reads it: added to the unit, in order."""
    install(scene, UNIT, paths=f"[Service]\nReadWritePaths={scene.at}\n")
    (remark,) = unit_remarks(scene)
    assert remark.severity is Severity.OK


def test_two_entries_are_two_mounts(scene: Scene) -> None:
    """Inbox and work/ listed one by one: no rename goes across, and the mend lists both as one."""
    root = scene.config.root
    install(
        scene,
        UNIT,
        paths=f"[Service]\nReadWritePaths={scene.at}/state\nReadWritePaths={root}/inbox\nReadWritePaths={root}\n",
    )
    found = unit_remarks(scene)
    assert "on two mounts" in found[0].what
    assert f"ReadWritePaths={root};" in found[0].mend


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("User=dropzone", "User=no-such-user", "useradd --system"),
        ("User=dropzone", "", "set User="),
        ("AmbientCapabilities=CAP_LEASE", "", "AmbientCapabilities=CAP_LEASE"),
        ("RestartPreventExitStatus=4", "", "RestartPreventExitStatus=4"),
        ("ExecStart=/opt/dropzone/bin/dropzone", "ExecStart=/nowhere/dropzone", "mend it in"),
        ("-c /etc/dropzone/dropzone.yaml", "-c /etc/another.yaml", "dropzone -c /etc/another.yaml doctor"),
    ],
)
def test_what_a_unit_may_lack(scene: Scene, old: str, new: str, says: str) -> None:
    """Each line of it that the daemon needs, taken away."""
    assert old in UNIT
    install(scene, UNIT.replace(old, new), paths=f"[Service]\nReadWritePaths={scene.at}\n")
    assert any(says in remark.mend for remark in unit_remarks(scene))


def test_a_program_in_somebodys_home_is_hidden(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A venv elsewhere whose Python is pyenv's: the service could not start it. With ProtectHome=no it can."""
    home, program = scene.at / "home", scene.at / "dropzone"
    (home / "pyenv").mkdir(parents=True)
    (home / "pyenv" / "python3").touch(0o755)
    (scene.at / "python3").symlink_to(home / "pyenv" / "python3")
    program.write_text(f"#!{scene.at / 'python3'}\n")
    program.chmod(0o755)
    monkeypatch.setattr("dropzone.operate.doctor.unit._HOMES", (home,))
    place = install(scene, UNIT, paths=f"[Service]\nReadWritePaths={scene.at}\nExecStart=\nExecStart={program} run\n")
    (remark,) = unit_remarks(scene)
    assert f"needs {home / 'pyenv' / 'python3'}, which ProtectHome= hides" in remark.what
    assert "/usr/bin/python3 -m venv" in remark.mend
    (place / f"{NAME}.d" / "homes.conf").write_text("[Service]\nProtectHome=no\n")
    assert unit_remarks(scene)[0].severity is Severity.OK


def test_a_credential_that_the_unit_does_not_load(scene: Scene) -> None:
    """Not named; named, and its file missing, empty, or open to all; and at last all is well."""
    text = (scene.at / "dropzone.yaml").read_text().replace(f"{{file: {scene.at}/key}}", "{credential: optipub}")
    (scene.at / "dropzone.yaml").write_text(text)
    scene = replace(scene, config=configuration.load(scene.at / "dropzone.yaml"))
    key = scene.at / "unit.key"
    place = install(scene, UNIT, paths=f"[Service]\nReadWritePaths={scene.at}\nLoadCredential=\n")
    assert "which the unit does not load" in unit_remarks(scene)[0].what
    (place / f"{NAME}.d" / "paths.conf").write_text(
        f"[Service]\nReadWritePaths={scene.at}\nLoadCredential=\nLoadCredential=optipub:{key}\n"
    )
    assert f"is not in {key}" in unit_remarks(scene)[0].what
    key.touch(0o600)
    assert f"{key} is empty" in unit_remarks(scene)[0].what
    key.write_text(KEY)
    key.chmod(0o644)
    assert unit_remarks(scene)[0].mend == f"chmod 600 {key}"
    key.chmod(0o600)
    assert unit_remarks(scene)[0].severity is Severity.OK


def test_a_variable_that_the_unit_does_not_set(scene: Scene) -> None:
    """A key from the environment is not in a service's own, unless the unit says so."""
    config = scene.config.having(accounts={"main": account("https://optipub.example.com")})
    place = install(scene, UNIT, paths=f"[Service]\nReadWritePaths={scene.at}\n")
    assert "which the unit does not set" in about(unit_remarks(replace(scene, config=config)), "unit")[0].what
    (place / f"{NAME}.d" / "key.conf").write_text('[Service]\nEnvironment="K=1"\n')
    assert unit_remarks(replace(scene, config=config))[0].severity is Severity.OK


def test_upload_folders_in_homes_are_hidden(scene: Scene) -> None:
    """ProtectHome= of the shipped unit; told with the way to open them."""
    folder = scene.config.folders["acme"].having(path=Path("/home/acme/upload"))
    config = scene.config.having(folders={"acme": folder})
    install(scene, UNIT, paths=f"[Service]\nReadWritePaths={scene.at} /home/acme\n")
    assert any("ProtectHome=no" in remark.mend for remark in unit_remarks(replace(scene, config=config)))


def test_a_unit_in_etc_stands_before_the_packages_own(tmp_path: Path) -> None:
    """And a drop-in of the same name in /etc stands for that of the package."""
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    for place, user in ((etc, "ann"), (usr, "bob")):
        (place / f"{NAME}.d").mkdir(parents=True)
        (place / f"{NAME}.d" / "a.conf").write_text(f"[Service]\nGroup={user}\n")
    (usr / NAME).write_text("[Unit]\nUser=no\n[Service]\n# User=no\nUser=bob\nExecStart=/bin/sh \\\n  -c x\n")
    unit = find_unit([etc, usr])
    assert unit is not None
    assert (unit.last("User"), unit.all("Group")) == ("bob", ("ann",))
    (etc / NAME).write_text("[Service]\nUser=ann\n")
    unit = find_unit([etc, usr])
    assert unit is not None
    assert unit.last("User") == "ann"


# ----------------------------------------------------------------------------------------------------------- daemon


def test_the_daemon_by_its_own_word(scene: Scene) -> None:
    """A fault of the machine is one here; another version is a warning; one that cannot be asked is a note."""
    running = Health(running=True, version=__version__, steps={})
    for health, severity in (
        (running, Severity.OK),
        (replace(running, fault="disk full"), Severity.FAULT),
        (replace(running, version="0.0.1"), Severity.WARNING),
        (replace(running, unasked="you may not"), Severity.NOTE),
    ):
        assert about(remarks(patient(scene, health=health)), "daemon")[0].severity is severity


@as_root
def test_acting_as_somebody_else_is_for_a_moment_only(tmp_path: Path) -> None:
    """The unit's user before the owner of the state folder; who has no name is called by a number."""
    user = daemon_user(tmp_path, "nobody")
    groups = os.getgroups()
    with acting_as(user) as acting:
        assert acting
        assert os.geteuid() == NOBODY.pw_uid
        with acting_as(User(name="root", uid=0, gid=0, groups=())) as again:
            assert not again
    assert (os.geteuid(), os.getgroups()) == (0, groups)
    assert daemon_user(tmp_path / "missing", "no-such-user").name == "uid 0"


@as_root
def test_an_owner_without_a_name_is_the_daemons_user_all_the_same(tmp_path: Path) -> None:
    """A container has a number where a machine has a user: what root tries and makes there is that number's."""
    number = 4_000_001
    os.chown(tmp_path, number, number)
    user = daemon_user(tmp_path)
    assert (user.name, user.uid, user.groups) == (f"uid {number}", number, (number,))
    with acting_as(user):
        assert (os.geteuid(), os.getegid()) == (number, number)
