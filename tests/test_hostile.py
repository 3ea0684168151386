"""Hostile drops: everything that lies in an inbox and is no ordinary file, or not for long, and what becomes of it.

After each of them a good file beside it is taken and arrives, the trap is named once and not touched, nothing but good
files was sent, files outside are as they were, and no descriptor is left open.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest
from scene import KEY, Scene, Turn, make_scene
from unprivileged import as_nobody

from dropzone.drop import State
from dropzone.errors import FolderError
from dropzone.folders import Folders
from dropzone.sandbox import Sandbox
from dropzone.telemetry import Journal

ROWS = b"email\nann@example.com\n"
SECRET = b"email\nsecret@example.com\n"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="this takes root")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@dataclass(slots=True)
class Place:
    """A scene with an inbox, and a secret outside of it that nothing may read."""

    scene: Scene
    sandbox: Sandbox
    secret: Path
    sums: list[str] = field(default_factory=list)  # of the good files

    @property
    def inbox(self) -> Path:
        return self.scene.inbox

    def put(self, name: str | bytes) -> Path:
        """A good file, another one each time."""
        content = b"email\nann.%d@example.com\n" % len(self.sums)
        self.sums.append(sha256(content).hexdigest())
        return self.scene.put(name, content)

    def go(self, turn: Turn, *, looks: int = 8) -> None:
        """Let much time pass, look often, and send what was taken."""
        for _ in range(looks):
            turn.take()
        turn.send()

    def assert_unharmed(self, turn: Turn) -> None:
        """All good files arrived and nothing else; the secret is where and what it was."""
        assert sorted(each.sha256 for each in self.sandbox.imports) == sorted(self.sums)
        assert self.secret.read_bytes() == SECRET
        assert turn.faults == []


@pytest.fixture
def place(tmp_path: Path, sandbox: Sandbox) -> Place:
    sandbox.reset()
    scene = make_scene(tmp_path, sandbox.url, folders="acme: {segment_id: 1, mode: lead}")
    secret = tmp_path / "secret.csv"
    secret.write_bytes(SECRET)
    return Place(scene=scene, sandbox=sandbox, secret=secret)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --------------------------------------------------------------------------------------------- kinds of files


def link_absolute(place: Place, at: Path) -> None:
    at.symlink_to(place.secret)


def link_relative(place: Place, at: Path) -> None:
    at.symlink_to(os.path.relpath(place.secret, at.parent))


def link_dangling(place: Place, at: Path) -> None:
    at.symlink_to(place.scene.at / "nowhere")


def link_to_itself(place: Place, at: Path) -> None:
    at.symlink_to(at.name)


def link_to_a_folder(place: Place, at: Path) -> None:
    at.symlink_to(place.scene.at)


def link_to_a_process(place: Place, at: Path) -> None:
    at.symlink_to("/proc/self/environ")


def hard_link(place: Place, at: Path) -> None:
    os.link(place.secret, at)


def named_pipe(place: Place, at: Path) -> None:
    os.mkfifo(at)


def unix_socket(place: Place, at: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fsencode(at))


def folder(place: Place, at: Path) -> None:
    at.mkdir()
    (at / "inner.csv").write_bytes(SECRET)


def device(place: Place, at: Path) -> None:
    try:
        os.mknod(at, 0o20666, os.makedev(1, 5))  # /dev/zero: it never ends
    except PermissionError:
        pytest.skip("no device can be made here")


TRAPS: dict[Callable[[Place, Path], None], str] = {
    link_absolute: "not a regular file but a symbolic link",
    link_relative: "not a regular file but a symbolic link",
    link_dangling: "not a regular file but a symbolic link",
    link_to_itself: "not a regular file but a symbolic link",
    link_to_a_folder: "not a regular file but a symbolic link",
    link_to_a_process: "not a regular file but a symbolic link",
    hard_link: "it has 2 links",
    named_pipe: "not a regular file but a named pipe",
    unix_socket: "not a regular file but a socket",
    folder: "not a regular file but a folder",
    device: "not a regular file but a device",
}


@pytest.mark.parametrize("lay", TRAPS, ids=lambda lay: lay.__name__)
def test_what_is_no_plain_file_is_named_once_and_stays(place: Place, lay: Callable[[Place, Path], None]) -> None:
    """It neither hangs nor leads us out, however often it is looked at, and the good file beside it goes."""
    lay(place, place.inbox / "trap.csv")
    place.put("good.csv")
    with place.scene.turn() as turn:
        turn.start()
        place.go(turn, looks=4)  # the good file is sent; the connection may be kept
        before = open_descriptors()
        place.go(turn)
        assert open_descriptors() == before
        ((_, name, why),) = turn.left_alone
        assert name == b"trap.csv"
        assert TRAPS[lay] in why
        assert os.path.lexists(place.inbox / "trap.csv")
        place.assert_unharmed(turn)


def test_a_sparse_giant_is_held_without_being_read(place: Place) -> None:
    """A terabyte that takes no room on the disk: the folder's limit holds it in no time."""
    with (place.inbox / "giant.csv").open("wb") as file:
        file.write(ROWS)
        file.truncate(1 << 40)
        file.seek((1 << 40) - 1)
        file.write(b"\n")
    place.put("good.csv")
    with place.scene.turn() as turn:
        turn.start()
        place.go(turn)
        giant, good = sorted(turn.ledger.find_drops(), key=lambda drop: -drop.size)
        assert (giant.state, giant.guard) == (State.HELD, "max_bytes")
        assert good.state is State.DONE
        place.assert_unharmed(turn)


# ------------------------------------------------------------------------------------------------------ names

NAMES = {
    "a newline that forges a line": b'a\n{"level": "info", "event": "forged"}.csv',
    "a carriage return": b"a\rforged.csv",
    "an escape sequence": b"\x1b[2J\x1b[31mred.csv",
    "a title for the terminal": b"\x1b]0;title\x07.csv",
    "C1 controls": b"\xc2\x9b31m.csv",
    "no UTF-8": b"caf\xe9\xff\xfe.csv",
    "half a character": b"\xe2\x82.csv",
    "right to left": "\u202evsc.exe.csv".encode(),
    "a zero width space": "a\u200bb.csv".encode(),
    "a line separator": "a\u2028b.csv".encode(),
    "255 bytes": b"x" * 251 + b".csv",
    "255 bytes of characters": "ü".encode() * 125 + b"x.csv",
    "a leading dash": b"-rf.csv",
    "a leading double dash": b"--config=x.csv",
    "dots": b"a...csv",
    "a shell's words": b"$(reboot) `id` ;&|<>'\".csv",
    "a format": b"%s%n{0}{drop.__class__}.csv",
    "blanks": b"  .csv",
    "a backslash": b"a\\..\\..\\b.csv",
    "markup": b"<script>alert(1)<!script>.csv",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_is_taken_and_none_forges_a_line(place: Place, name: bytes) -> None:
    """Kept as bytes, sent and filed under a harmless name; the journal has one line for each thing that happened."""
    place.put(name)
    with place.scene.turn() as turn:
        turn.start()
        place.go(turn, looks=1)
        (drop,) = turn.ledger.find_drops()
        assert (drop.name, drop.state) == (name, State.DONE)
        place.assert_unharmed(turn)
        filed = [path.name for path in place.scene.files() if "done" in path.parts]
        assert all(each.isprintable() and len(os.fsencode(each)) < 200 for each in filed)
        assert "\n" not in str(place.sandbox.imports[0].filename)
        for plain in (False, True):
            stream = io.StringIO()
            journal = Journal(stream, plain=plain)
            for each, event in turn.events:
                journal.event(each, event)
            journal.left_alone("acme", name, "a reason")
            lines = stream.getvalue().splitlines()
            assert len(lines) == len(turn.events) + 1
            assert all(line.isprintable() for line in lines)
            if not plain:
                assert all(json.loads(line) for line in lines)
        log = next(path for path in place.scene.files() if path.suffix == ".log").read_text()
        assert all(line.isprintable() for line in log.splitlines())


def test_names_that_only_look_alike_are_different_files(place: Place) -> None:
    """Case twins, composed and decomposed letters: each is a drop of its own, and none replaces another."""
    alike = ["list.csv", "LIST.csv", "List.CSV", "\u00e9t\u00e9.csv", "e\u0301te\u0301.csv"]
    for name in alike:
        place.put(name)
    with place.scene.turn() as turn:
        turn.start()
        place.go(turn, looks=1)
        assert sorted(os.fsdecode(drop.name) for drop in turn.ledger.find_drops()) == sorted(alike)
        place.assert_unharmed(turn)


# ------------------------------------------------------------------------------------------------------- races

_libc = ctypes.CDLL(None, use_errno=True)
_EXCHANGE = 2


def exchange(one: Path, other: Path) -> None:
    """Swap two names atomically, as a partner with a shell could ten thousand times a second."""
    if _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), _EXCHANGE) != 0:
        number = ctypes.get_errno()
        if number != errno.ENOENT:  # one of the two was claimed by now
            raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("bait", ["link", "hard link", "file"])
def test_a_name_that_is_swapped_all_the_time_gives_nothing_away(place: Place, bait: str) -> None:
    """While we look, open and rename, the name is now a good file, now a way to the secret; only good files leave."""
    name, other = place.inbox / "a.csv", place.inbox / ".other"
    if bait == "link":
        other.symlink_to(place.secret)
    elif bait == "hard link":
        os.link(place.secret, other)
    else:
        other.write_bytes(ROWS)
    name.write_bytes(ROWS)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            exchange(name, other)

    with place.scene.turn() as turn:
        turn.start()
        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            for _ in range(150):
                turn.intake.hear("acme", b"a.csv")
                turn.scene.clock.move(15.0)
                turn.intake.tick()
        finally:
            over.set()
            swapper.join()
        place.go(turn, looks=2)
        assert all(drop.state is State.DONE for drop in turn.ledger.find_drops())
        assert {each.sha256 for each in place.sandbox.imports} <= {sha256(ROWS).hexdigest()}
        assert place.secret.read_bytes() == SECRET


def test_an_inbox_replaced_by_a_link_leads_nowhere(place: Place) -> None:
    """The folder above is writable for somebody hostile: nothing behind the link is listed, read or moved."""
    elsewhere = place.scene.at / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.csv").write_bytes(SECRET)
    place.inbox.rename(place.scene.at / "away")
    place.inbox.symlink_to(elsewhere)
    with place.scene.turn() as turn:
        turn.start()
        turn.intake.hear("acme", b"a.csv")
        place.go(turn)
        ((_, name, why),) = turn.left_alone
        assert name == b""
        assert f"cannot open {place.inbox}" in why
        assert (elsewhere / "a.csv").read_bytes() == SECRET
        place.inbox.unlink()
        (place.scene.at / "away").rename(place.inbox)
        place.put("good.csv")
        place.go(turn)
        place.assert_unharmed(turn)


def test_a_file_that_grows_for_ever_is_never_taken(place: Place) -> None:
    """Somebody writes a byte now and then: it waits, costs nothing, and after a day somebody hears of it."""
    grower = place.scene.put("grower.csv", ROWS)
    place.put("good.csv")
    with place.scene.turn() as turn:
        turn.start()
        with grower.open("ab") as file:
            for _ in range(2500):
                file.write(b"x@example.com\n")
                file.flush()
                place.scene.clock.move(40.0)
                turn.intake.tick()
        turn.send()
        assert [drop.name for drop in turn.ledger.find_drops()] == [b"good.csv"]
        ((_, name, why),) = turn.left_alone
        assert name == b"grower.csv"
        assert "not ready after a day" in why
        place.assert_unharmed(turn)


# ------------------------------------------------------------------------------------------------------- rights


@ROOT
def test_a_file_that_nobody_else_may_read_is_told_with_the_very_command(tmp_path: Path) -> None:
    """Mode 0600 of another user: the sentence can be pasted; once the mode is right, the file is taken at once."""
    with as_nobody(owns=[tmp_path]):
        scene = make_scene(tmp_path, "http://127.0.0.1:1", folders="acme: {segment_id: 1, mode: lead}")
    scene.put("a.csv", ROWS).chmod(0o600)  # root's; the inbox gives it its group
    with as_nobody():
        turn = Turn(scene)
        turn.start()
        for _ in range(8):
            assert turn.take() == []
        ((_, name, why),) = turn.left_alone
        assert name == b"a.csv"
    command = why.partition("Type: ")[2].partition(";")[0]
    assert command == f"chmod g+r -- {scene.inbox}/a.csv"
    subprocess.run(["sh", "-c", command], check=True)
    with as_nobody():
        turn.intake.hear("acme", b"a.csv")  # a change of the mode is an event
        turn.intake.tick()
        scene.clock.move(30.0)
        assert [drop.name for drop in turn.intake.tick()] == [b"a.csv"]
        turn.close()


@ROOT
@pytest.mark.parametrize(
    ("mode", "what"),
    [(0o1777, "it is sticky"), (0o555, "may not both read it"), (0o333, "may not both")],
)
def test_an_inbox_that_cannot_work_is_told_with_its_mend(tmp_path: Path, mode: int, what: str) -> None:
    """Sticky, not writable, not readable, all of another user: the fault names the command."""
    scene = make_scene(tmp_path, "http://127.0.0.1:1", folders="acme: {segment_id: 1, mode: lead}")
    subprocess.run(["chown", "-R", "65534:65534", str(tmp_path)], check=True)
    os.chown(scene.inbox, 1, 1)
    scene.inbox.chmod(mode)

    with as_nobody(owns=[tmp_path]):
        fault = Folders().find_fault(scene.config.folders["acme"])
    assert fault is not None
    assert what in str(fault) or "Permission denied" in str(fault)
    assert str(scene.inbox) in fault.hint


@ROOT
def test_an_inbox_that_may_be_listed_but_not_looked_into_keeps_no_neighbour(tmp_path: Path) -> None:
    """Its `x` is missing, as after `chmod -R 660`: it is told, the other folder goes on, and so does it once mended."""
    folders = "acme: {segment_id: 1, mode: lead}\nglobex: {segment_id: 2, mode: lead}"
    scene = make_scene(tmp_path, "http://127.0.0.1:1", folders=folders)
    subprocess.run(["chown", "-R", "65534:65534", str(tmp_path)], check=True)
    for folder in ("acme", "globex"):
        scene.put("a.csv", ROWS, folder=folder).chmod(0o644)
    scene.inbox.chmod(0o660)
    with as_nobody(owns=[tmp_path]), scene.turn() as turn:
        turn.start()
        assert [drop.folder for drop in turn.take()] == ["globex"]
        ((folder, name, why),) = turn.left_alone
        assert (folder, name) == ("acme", b"a.csv")
        assert "cannot look at" in why
        scene.inbox.chmod(0o770)
        scene.clock.move(60.0)
        assert [drop.folder for drop in turn.take()] == ["acme"]


def has_chattr(at: Path) -> bool:
    probe = at / "probe"
    probe.touch()
    able = subprocess.run(["chattr", "+i", str(probe)], capture_output=True, check=False).returncode == 0
    subprocess.run(["chattr", "-i", str(probe)], capture_output=True, check=False)
    probe.unlink()
    return able


@ROOT
@pytest.mark.parametrize(("flag", "what"), [("+i", "file"), ("+a", "file"), ("+i", "folder"), ("+a", "folder")])
def test_what_is_immutable_is_not_taken_and_not_sent(place: Place, flag: str, what: str) -> None:
    """Not even root may rename it: named once, no drop, nothing left in work/; without the flag it goes."""
    if not has_chattr(place.scene.at):
        pytest.skip("this file system has no immutable files")
    path = place.put("a.csv")
    locked = path if what == "file" else place.inbox
    subprocess.run(["chattr", flag, str(locked)], check=True)
    try:
        with place.scene.turn() as turn:
            turn.start()
            place.go(turn)
            ((_, name, why),) = turn.left_alone
            assert name == b"a.csv"
            assert "Operation not permitted" in why
            assert turn.ledger.find_drops() == []
            assert list((place.scene.config.root / "work").glob("[0-9A-Z]*")) == []
            subprocess.run(["chattr", flag.replace("+", "-"), str(locked)], check=True)
            place.go(turn)
            place.assert_unharmed(turn)
    finally:
        subprocess.run(["chattr", flag.replace("+", "-"), str(locked)], capture_output=True, check=False)


# ------------------------------------------------------------------------------------------- file systems, mounts


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mounts something on a folder; unmounted at the end."""
    mounted: list[str] = []

    def mount(*arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
        mounted.append(arguments[-1])

    yield mount
    for at in reversed(mounted):
        subprocess.run(["umount", "-l", at], capture_output=True, check=False)


@ROOT
def test_a_full_disk_takes_nothing_and_loses_nothing(
    tmp_path: Path, sandbox: Sandbox, mount: Callable[..., None]
) -> None:
    """A claim needs room for its row and its place in work/: without it the file stays, and goes when there is room."""
    sandbox.reset()
    mount("-t", "tmpfs", "-o", "size=2m,nr_inodes=200", "dropzone-test", str(tmp_path))
    scene = make_scene(tmp_path, sandbox.url, folders="acme: {segment_id: 1, mode: lead}")
    scene.put("a.csv", ROWS)
    with scene.turn() as turn:
        turn.start()
        filler: list[Path] = []
        with contextlib.suppress(OSError):
            while True:
                filler.append(tmp_path / f"filler-{len(filler)}")
                filler[-1].touch()
        for _ in range(3):
            with pytest.raises(FolderError) as raised:
                turn.take()
            assert raised.value.environment
        assert [path.name for path in scene.inbox.iterdir()] == ["a.csv"]
        assert turn.left_alone == []
        for path in filler:
            path.unlink(missing_ok=True)
        turn.adoption.adopt(scene.config.root, scene.config, trusted=True)
        turn.take()
        turn.send()
        assert [drop.state for drop in turn.ledger.find_drops()] == [State.DONE]
        assert len(sandbox.imports) == 1


@ROOT
def test_a_file_system_that_turns_read_only_takes_nothing(
    tmp_path: Path, sandbox: Sandbox, mount: Callable[..., None]
) -> None:
    """As after an error of the disk: the machine's fault, no file's; it goes on once it may write again."""
    sandbox.reset()
    scene = make_scene(tmp_path, sandbox.url, folders="acme: {segment_id: 1, mode: lead}")
    mount("--bind", str(scene.config.root), str(scene.config.root))
    scene.put("a.csv", ROWS)
    with scene.turn() as turn:
        turn.start()
        mount("-o", "remount,ro,bind", str(scene.config.root))
        with pytest.raises(FolderError) as raised:
            turn.take()
        assert raised.value.environment
        mount("-o", "remount,rw,bind", str(scene.config.root))
        turn.take()
        turn.send()
        assert [drop.state for drop in turn.ledger.find_drops()] == [State.DONE]


@ROOT
@pytest.mark.parametrize("part", ["inbox/acme", "work", "done/acme", "failed/acme"])
def test_a_bind_mount_of_the_same_file_system_is_seen_at_the_start(
    place: Place, part: str, mount: Callable[..., None]
) -> None:
    """A rename into it fails with EXDEV although the device is the same: found by mount, with the mend."""
    elsewhere = place.scene.at / "elsewhere"
    elsewhere.mkdir()
    at = place.scene.config.root / part
    mount("--bind", str(elsewhere), str(at))
    assert at.stat().st_dev == place.scene.config.root.stat().st_dev
    fault = Folders().find_fault(place.scene.config.folders["acme"])
    assert fault is not None
    assert fault.op == "use"
    assert "another mount" in str(fault)
    assert "spool:" in fault.hint


@ROOT
def test_a_mount_over_the_inbox_while_we_run_stops_nobody_else(
    place: Place, mount: Callable[..., None], tmp_path: Path
) -> None:
    """Files there cannot be renamed to us: named with the mend, left there; when it is gone all goes on."""
    with place.scene.turn() as turn:
        turn.start()
        mount("-t", "tmpfs", "-o", "size=1m", "dropzone-test", str(place.inbox))
        place.scene.put("over.csv", ROWS)
        place.go(turn)
        ((_, name, why),) = turn.left_alone
        assert name == b"over.csv"
        assert "spool:" in why
        assert [path.name for path in place.inbox.iterdir()] == ["over.csv"]
        subprocess.run(["umount", str(place.inbox)], check=True)
        place.put("good.csv")
        place.go(turn)
        place.assert_unharmed(turn)


# ------------------------------------------------------------------------------------------------------- floods


def test_a_flood_of_traps_and_junk_keeps_no_neighbour_waiting(tmp_path: Path, sandbox: Sandbox) -> None:
    """Thousands of links, cut files and temporary names in one folder: the other folder's file is taken at once."""
    sandbox.reset()
    folders = "acme: {segment_id: 1, mode: lead}\nglobex: {segment_id: 2, mode: lead}"
    scene = make_scene(tmp_path, sandbox.url, folders=folders)
    flood = scene.config.folders["acme"].path
    for number in range(1000):
        (flood / f"link-{number}.csv").symlink_to("/etc/passwd")
        (flood / f"cut-{number}.csv").write_bytes(b"email\nann@exam")
        (flood / f"x-{number}.csv.part").write_bytes(ROWS)
    with scene.turn() as turn:
        turn.start()
        turn.intake.tick()
        scene.put("good.csv", ROWS, folder="globex")
        turn.intake.hear("globex", b"good.csv")
        turn.intake.tick()
        scene.clock.move(2.0)
        assert [drop.name for drop in turn.intake.tick()] == [b"good.csv"]
        told = len(turn.left_alone)
        for _ in range(10):
            scene.clock.move(15.0)
            turn.intake.tick()
        assert len({name for _, name, _ in turn.left_alone}) == len(turn.left_alone) == 1000
        assert told == 1000
