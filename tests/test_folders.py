"""The layout on disk: claim, adopt, prepare, file, bring back; on real folders, with what partners may do to them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from scene import Scene, make_scene
from unprivileged import NOBODY, as_nobody

from dropzone.config import Folder
from dropzone.drop import Drop, State, make_id
from dropzone.errors import FolderError
from dropzone.folders import Claim, Folders, Mark, Wanted, system
from dropzone.folders.filing import ToFile
from dropzone.folders.inbox import _readable, opened_inbox, read_marker
from dropzone.folders.system import is_local, sync_all
from dropzone.places import Verdict, where_is
from dropzone.readiness import Look, Seen

AT = 1_795_400_000.0  # 2026-11-23T05:33:20Z


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path, "http://127.0.0.1:1")


@pytest.fixture
def folder(scene: Scene) -> Folder:
    return scene.config.folders["acme"]


@pytest.fixture
def folders() -> Folders:
    return Folders()


def claim(folders: Folders, folder: Folder, name: bytes, look: Look | None = None) -> Claim | None:
    look = look or folders.look(folder, name)
    assert look is not None
    claims, faults = folders.claim(folder, [Wanted(id=make_id(AT), name=name, seen=Seen(look))])
    assert not faults
    return claims[0] if claims else None


def look_of(folders: Folders, folder: Folder, name: bytes) -> Look:
    look = folders.look(folder, name)
    assert look is not None
    return look


def drop_of(made: Claim, *, state: State = State.ACCEPTED) -> Drop:
    return Drop(
        id=made.id,
        folder=made.folder,
        name=made.name,
        account="main",
        segment_id=7,
        lane="main/7",
        base=str(made.base),
        settings="{}",
        size=made.size,
        claimed_at=AT,
        state=state,
        due_at=AT,
        changed_at=AT,
        verdict_at=AT,
    )


def taken(scene: Scene, folders: Folders, folder: Folder, name: bytes = b"a.csv", content: bytes = b"email\n") -> Drop:
    scene.put(name, content)
    made = claim(folders, folder, name)
    assert made is not None
    return drop_of(made)


def file_one(folders: Folders, drop: Drop, verdict: Verdict, log: str) -> str:
    """File it; the path relative to its base. Raises what is wrong."""
    (found,) = folders.file_all([ToFile(drop=drop, verdict=verdict, log=log)])
    if isinstance(found, FolderError):
        raise found
    return found


def test_init_makes_the_folders_with_their_modes(scene: Scene) -> None:
    """Inboxes are setgid and group-writable, work/ is ours alone, and everything is there only once."""
    root = scene.config.root
    assert stat.S_IMODE((root / "inbox/acme").stat().st_mode) == 0o2770
    assert stat.S_IMODE((root / "work").stat().st_mode) == 0o700
    assert (root / "done/acme").is_dir()
    assert (root / "failed/acme").is_dir()
    assert Folders().lay_out(scene.config, inboxes=True) == []


def test_a_claim_is_one_rename_into_work(scene: Scene, folders: Folders, folder: Folder) -> None:
    """The very same file lies in work/ID afterwards, and its origin is written beside it."""
    inode = scene.put("a.csv", b"email\n").stat().st_ino
    made = claim(folders, folder, b"a.csv")
    assert made is not None
    place = scene.config.root / "work" / made.id
    assert (place / "original").stat().st_ino == inode
    assert (place / "origin").readlink() == Path("acme/a.csv")
    assert list(scene.inbox.iterdir()) == []


def test_a_claim_of_what_has_changed_or_gone_takes_nothing(scene: Scene, folders: Folders, folder: Folder) -> None:
    """A look that is no longer true costs nothing, and leaves nothing in work/."""
    path = scene.put("a.csv", b"email\n")
    look = folders.look(folder, b"a.csv")
    path.write_bytes(b"email\nmore@example.com\n")
    assert claim(folders, folder, b"a.csv", look) is None
    assert path.exists()
    look = folders.look(folder, b"a.csv")
    path.unlink()
    assert claim(folders, folder, b"a.csv", look) is None
    assert list((scene.config.root / "work").iterdir()) == []


def test_a_claim_is_refused_while_somebody_writes(scene: Scene, folders: Folders, folder: Folder) -> None:
    """The lease is asked again at the claim: a writer that came after the look keeps the file where it is."""
    path = scene.put("a.csv", b"email\n")
    look = folders.look(folder, b"a.csv")
    with path.open("ab"):
        assert claim(folders, folder, b"a.csv", look) is None
    assert claim(folders, folder, b"a.csv", look) is not None


def test_a_file_swapped_for_a_link_between_look_and_claim_is_left_alone(
    scene: Scene, folders: Folders, folder: Folder, tmp_path: Path
) -> None:
    """A partner who exchanges the file for a link to a secret gets nothing read and nothing moved."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = scene.put("a.csv", b"email\n")
    look = folders.look(folder, b"a.csv")
    path.unlink()
    path.symlink_to(secret)
    assert claim(folders, folder, b"a.csv", look) is None
    assert path.is_symlink()
    assert secret.read_text() == "secret"


def test_a_file_swapped_during_the_rename_goes_back(scene: Scene, folder: Folder) -> None:
    """What was renamed is compared with what was opened; another file goes back to its name."""
    path = scene.put("a.csv", b"email\n")

    def swap(step: str) -> None:
        if step == "claim: rename":
            path.unlink()
            path.write_bytes(b"another\n")

    folders = Folders(step=swap)
    assert claim(folders, folder, b"a.csv") is None
    assert path.read_bytes() == b"another\n"


@pytest.mark.parametrize(
    "name",
    [
        b"a b.csv",
        b"-rf.csv",
        b"new\nline.csv",
        b"esc\x1b[31m.csv",
        b"caf\xe9.csv",
        "größe.csv".encode(),
        b"\xe2\x80\xaedlrow.csv",
        b"x" * 251 + b".csv",
        b"$(reboot).csv",
        b"%s%n.csv",
        b"a.CSV",
        b"a.csv.gz",
    ],
)
def test_hostile_names_go_through_the_whole_life(scene: Scene, folders: Folders, folder: Folder, name: bytes) -> None:
    """Any name can be claimed, adopted and filed; the filed name is harmless, short and carries the ID."""
    drop = taken(scene, folders, folder, name)
    (orphan,) = folders.orphans(folder.base, lambda _: False)
    assert orphan.name == name
    path = file_one(folders, drop, "done", "the log\n")
    filed = Path(drop.base) / path
    assert filed.read_bytes() == b"email\n"
    assert drop.id in filed.name
    assert filed.name.isprintable()
    assert len(os.fsencode(filed.name)) < 200
    assert filed.name.endswith((".csv", ".csv.gz"))


def test_what_is_no_plain_file_is_not_opened(scene: Scene, folders: Folders, folder: Folder) -> None:
    """Pipes, sockets, links and folders show what they are in the look; opening them neither hangs nor follows."""
    os.mkfifo(scene.inbox / "pipe.csv")
    (scene.inbox / "dir.csv").mkdir()
    (scene.inbox / "link.csv").symlink_to("/etc/passwd")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fsencode(scene.inbox / "sock.csv"))
        with folders.inbox(folder) as inbox:
            kinds = {name: inbox.look(name) for name in inbox.names()}
    assert len(kinds) == 4
    assert not any(look is None or stat.S_ISREG(look.mode) for look in kinds.values())
    with folders.inbox(folder) as inbox, pytest.raises(FolderError, match=r"link\.csv"):
        inbox.probe(b"link.csv", look_of(folders, folder, b"link.csv"))


def test_an_inbox_replaced_by_a_link_is_an_error_not_a_way_out(
    scene: Scene, folders: Folders, folder: Folder, tmp_path: Path
) -> None:
    """Every component is opened without following links."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret.csv").write_text("x")
    scene.inbox.rmdir()
    scene.inbox.symlink_to(elsewhere)
    with pytest.raises(FolderError, match="acme"):
        folders.look(folder, b"secret.csv")


def test_orphans_are_found_and_empty_remains_removed(scene: Scene, folders: Folders, folder: Folder) -> None:
    """What a crash between rename and row leaves is found; what a crash before the rename leaves goes away."""
    drop = taken(scene, folders, folder)
    (scene.config.root / "work" / make_id(AT + 1)).mkdir()
    (scene.config.root / "work" / "not-ours").mkdir()
    (orphan,) = folders.orphans(folder.base, lambda _: False)
    assert (orphan.id, orphan.folder, orphan.name, orphan.size) == (drop.id, "acme", b"a.csv", 6)
    assert sorted(path.name for path in (scene.config.root / "work").iterdir()) == [drop.id, "not-ours"]
    assert folders.orphans(folder.base, lambda id: id == drop.id) == []


def test_the_bench_writes_digests_and_notices_a_writer(scene: Scene, folders: Folders, folder: Folder) -> None:
    """The prepared copy is digested as it is written; a client that still writes to the original is noticed."""
    drop = taken(scene, folders, folder)
    with folders.bench(drop) as bench:
        assert bench.source.read() == b"email\n"
        bench.prepared.write(b"email\na@b.co\n")
        assert bench.disturbed() == ""
        with (Path(drop.base) / "work" / drop.id / "original").open("ab") as late:
            assert "still has the file open" in bench.disturbed()
            late.write(b"more\n")
        assert "changed" in bench.disturbed()
    with folders.prepared(drop) as (payload, size):
        assert (payload.read(), size) == (b"email\na@b.co\n", 13)
    assert bench.prepared.digest == hashlib.sha256(b"email\na@b.co\n").hexdigest()


def test_filing_puts_log_and_rejects_beside_the_file(scene: Scene, folders: Folders, folder: Folder) -> None:
    """done/FOLDER/DATE/STEM.ID.csv with .log and .rejects.csv, and nothing stays in work/."""
    drop = taken(scene, folders, folder, b"Sign ups (1).csv")
    with folders.bench(drop) as bench:
        bench.rejects.write(b"line,reason,email\n")
    path = file_one(folders, drop, "failed", "what happened\n")
    assert path == f"failed/acme/2026-11-23/Sign_ups__1_.{drop.id}.csv"
    there = sorted(each.name for each in (Path(drop.base) / path).parent.iterdir())
    stem = f"Sign_ups__1_.{drop.id}"
    assert there == [f"{stem}.csv", f"{stem}.log", f"{stem}.rejects.csv"]
    assert ((Path(drop.base) / path).with_suffix(".log")).read_text() == "what happened\n"
    assert [each.name for each in (scene.config.root / "work").iterdir()] == []
    assert where_is(drop) == Path(drop.base) / path


def test_filing_again_finds_everything_in_place(scene: Scene, folders: Folders, folder: Folder) -> None:
    """After a crash before the row, filing runs again: same path, same log."""
    drop = taken(scene, folders, folder)
    path = file_one(folders, drop, "done", "first\n")
    assert file_one(folders, drop, "done", "second\n") == path
    assert (Path(drop.base) / path).with_suffix(".log").read_text() == "first\n"


def test_filing_never_replaces_and_a_lost_file_is_an_error(scene: Scene, folders: Folders, folder: Folder) -> None:
    """A name that is taken is an error, not a victim; so is a file that is nowhere."""
    drop = taken(scene, folders, folder)
    target = scene.config.root / "done/acme/2026-11-23"
    target.mkdir()
    (target / f"a.{drop.id}.csv").write_text("somebody else's")
    with pytest.raises(FolderError, match="exists"):
        file_one(folders, drop, "done", "log\n")
    assert (target / f"a.{drop.id}.csv").read_text() == "somebody else's"
    with pytest.raises(FolderError, match="No such file"):
        file_one(folders, replace(drop, id=make_id(AT + 5)), "done", "log\n")


def test_bringing_back_a_failed_file(scene: Scene, folders: Folders, folder: Folder) -> None:
    """The file returns to work/ID, its old log goes, and doing it twice is harmless."""
    drop = taken(scene, folders, folder)
    filed = replace(drop, path=file_one(folders, drop, "failed", "log\n"))
    folders.bring_back(filed)
    folders.bring_back(filed)
    assert list((scene.config.root / "failed/acme/2026-11-23").iterdir()) == []
    assert (scene.config.root / "work" / drop.id / "original").read_bytes() == b"email\n"
    assert where_is(filed) == scene.config.root / "work" / drop.id / "original"


def test_unfinished_checks_are_counted(scene: Scene, folders: Folders, folder: Folder) -> None:
    """Each start that was never ended counts; an end clears them."""
    drop = taken(scene, folders, folder)
    assert [folders.begin_check(drop) for _ in range(3)] == [0, 1, 2]
    folders.end_check(drop)
    assert folders.begin_check(drop) == 0


def test_the_mark_of_a_ledger(scene: Scene, folders: Folders, folder: Folder) -> None:
    """work/ remembers which ledger knows it."""
    assert folders.read_mark(folder.base) == Mark()
    folders.write_mark(folder.base, Mark(ledger="one", written=7))
    folders.write_mark(folder.base, Mark(ledger="two", written=3))
    assert folders.read_mark(folder.base) == Mark(ledger="two", written=3)
    (folder.base / "work" / ".ledger").write_text("one\n")  # as an earlier version wrote it
    assert folders.read_mark(folder.base) == Mark(ledger="one")


def test_faults_of_a_folder_are_named_with_their_mend(scene: Scene, folders: Folders, folder: Folder) -> None:
    """A missing inbox is told with what to do; a folder that is right has no fault."""
    assert folders.find_fault(folder) is None
    scene.inbox.rmdir()
    fault = folders.find_fault(folder)
    assert fault is not None
    assert "dropzone init" in fault.hint


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system at /dev/shm")  # noqa: S108
def test_an_inbox_on_another_mount_is_refused_with_the_mend(scene: Scene, folders: Folders, folder: Folder) -> None:
    """A rename cannot cross mounts; the answer is a spool of its own."""
    away = folder.having(path=Path("/dev/shm"))  # noqa: S108
    fault = folders.find_fault(away)
    assert fault is not None
    assert "spool:" in fault.hint


def test_a_kernel_without_openat2_finds_the_same(tmp_path: Path) -> None:
    """One component at a time: the same directory, and no link followed in any place."""
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for way in (system.open_path, system._open_stepwise):
        fd = way(deep)
        assert os.fstat(fd).st_ino == deep.stat().st_ino
        os.close(fd)
        for wrong in (tmp_path / "link" / "b", tmp_path / "link", tmp_path / "none"):
            with pytest.raises(OSError, match=r"Too many levels|Not a directory|No such file"):
                way(wrong)


@pytest.mark.skipif(os.geteuid() != 0, reason="as root every folder is open; the child is not root")
def test_an_inbox_below_a_folder_that_may_only_be_passed(tmp_path: Path) -> None:
    """Homes and chroots have the mode 0711: to pass is enough, only the inbox itself is read."""
    inbox = tmp_path / "home" / "upload"
    inbox.mkdir(parents=True)
    os.chown(inbox, NOBODY, NOBODY)
    inbox.parent.chmod(0o711)

    with as_nobody(owns=[tmp_path]):
        for way in (system.open_path, system._open_stepwise):
            os.close(way(inbox))


def test_init_puts_an_inbox_right_that_was_made_by_hand(scene: Scene) -> None:
    """Setgid and writable for the group are added; what is allowed beyond that stays."""
    scene.inbox.chmod(0o755)
    assert Folders().lay_out(scene.config, inboxes=False) == []
    assert Folders().lay_out(scene.config, inboxes=True) == [scene.inbox]
    assert stat.S_IMODE(scene.inbox.stat().st_mode) == 0o2775
    assert Folders().lay_out(scene.config, inboxes=True) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="as root every file is open; inside it is not root")
@pytest.mark.parametrize(
    ("name", "mode", "owner", "typed"),
    [
        ("a b.csv", 0o600, 1, "chgrp 65534 -- '{inbox}/a b.csv' && chmod g+r -- '{inbox}/a b.csv'"),
        ("a.csv", 0o600, NOBODY, "chmod g+r -- {inbox}/a.csv"),
        ("a\nb.csv", 0o600, NOBODY, "find {inbox} -maxdepth 1 -inum {ino} -exec chmod g+r {{}} +"),
        ("b.csv", 0o040, 1, "chgrp 65534 -- {inbox}/b.csv"),
        ("own.csv", 0o040, None, "chmod u+r -- {inbox}/own.csv"),
    ],
)
def test_the_command_that_makes_a_file_readable(
    tmp_path: Path, name: str, mode: int, owner: int | None, typed: str
) -> None:
    """Group, mode or both; a name that could do harm in a shell is not in it."""
    scene = make_scene(tmp_path, "http://127.0.0.1:1")
    path = scene.put(name, b"email\n")
    os.chown(path, *((NOBODY, NOBODY) if owner is None else (1, owner)))
    path.chmod(mode)
    folders, folder = Folders(), scene.config.folders["acme"]
    os.chown(scene.inbox, NOBODY, NOBODY)
    with as_nobody(owns=[tmp_path]), folders.inbox(folder) as inbox:
        look = inbox.look(os.fsencode(name))
        assert look is not None
        with pytest.raises(FolderError) as raised:
            inbox.probe(os.fsencode(name), look)
    wanted = typed.format(inbox=scene.inbox, ino=path.stat().st_ino)
    assert raised.value.hint.startswith(f"Type: {wanted}; and let")


@pytest.mark.skipif(os.geteuid() != 0, reason="as root every folder is open; inside it is not root")
@pytest.mark.parametrize(
    ("mode", "owner", "group", "typed"),
    [
        (0o500, NOBODY, NOBODY, "chmod u+rwx {inbox}"),
        (0o555, 1, 1, "chgrp 65534 {inbox} && chmod g+rwxs {inbox}"),
        (0o555, 1, NOBODY, "chmod g+rwxs {inbox}"),
    ],
)
def test_the_command_that_makes_an_inbox_work(tmp_path: Path, mode: int, owner: int, group: int, typed: str) -> None:
    """To list is not enough: files have to be moved out of it."""
    scene = make_scene(tmp_path, "http://127.0.0.1:1")
    for place in (scene.config.root / "work", *scene.config.root.glob("[df]*/acme")):
        os.chown(place, NOBODY, NOBODY)
    os.chown(scene.inbox, owner, group)
    scene.inbox.chmod(mode)
    with as_nobody(owns=[tmp_path]):
        fault = Folders().find_fault(scene.config.folders["acme"])
    assert fault is not None
    assert fault.op == "take files from"
    assert fault.hint == f"Type: {typed.format(inbox=scene.inbox)}"


def test_a_results_folder_that_is_missing_is_no_fault_and_work_is_one(
    scene: Scene, folders: Folders, folder: Folder
) -> None:
    """The one is made when it is needed, without the other nothing goes."""
    (scene.config.root / "done/acme").rmdir()
    assert folders.find_fault(folder) is None
    (scene.config.root / "work").rmdir()
    fault = folders.find_fault(folder)
    assert fault is not None
    assert "dropzone init" in fault.hint


def test_a_file_that_cannot_be_read_for_another_reason_than_its_mode(scene: Scene, folder: Folder) -> None:
    """An access list or a security module: said so, instead of a command that changes nothing. Gone: no word."""
    scene.put("a.csv", b"email\n")
    with opened_inbox(folder) as inbox:
        assert "an ACL" in _readable(folder, b"a.csv", inbox.fd)
        assert _readable(folder, b"gone.csv", inbox.fd) == ""


def test_a_marker_that_is_no_file_holds_nothing(scene: Scene, folder: Folder) -> None:
    """Exchanged for a folder, a link or nothing after it was seen."""
    (scene.inbox / "folder").mkdir()
    (scene.inbox / "link").symlink_to("/etc/passwd")
    with opened_inbox(folder) as inbox:
        assert [read_marker(inbox.fd, name) for name in (b"folder", b"link", b"none")] == [b"", b"", b""]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="there is no /sys")
def test_a_file_system_that_is_not_known_as_local_is_not_believed(folder: Folder) -> None:
    """Neither what its leases say nor that a folder has not changed."""
    with opened_inbox(folder) as inbox:
        assert inbox.is_local
        assert inbox.listing() is not None
    with opened_inbox(folder.having(path=Path("/sys/kernel"))) as inbox:
        assert not inbox.is_local
        assert inbox.listing() is None


def test_a_descriptor_that_tells_no_file_system_is_not_believed() -> None:
    """Nothing is known of it, so nothing is taken for granted."""
    assert not is_local(-1)


def test_a_check_may_end_twice(scene: Scene, folders: Folders, folder: Folder) -> None:
    """What cuts it off between its end and the row has it ended once more."""
    drop = taken(scene, folders, folder)
    assert folders.begin_check(drop) == 0
    folders.end_check(drop)
    folders.end_check(drop)
    assert folders.begin_check(drop) == 0
    assert folders.begin_check(drop) == 1


def test_a_file_that_goes_while_it_is_filed_is_told(scene: Scene, folders: Folders, folder: Folder) -> None:
    """Its log may lie there by then, but it is not called filed."""
    drop = taken(scene, folders, folder)
    (scene.config.root / "work" / drop.id / "original").unlink()
    with pytest.raises(FolderError, match="cannot file"):
        file_one(folders, drop, "done", "log\n")


def test_what_is_not_ours_in_work_stays_there(scene: Scene, folders: Folders, folder: Folder) -> None:
    """Somebody has laid it beside the original: the drop is filed, and its folder keeps the rest."""
    drop = taken(scene, folders, folder)
    place = scene.config.root / "work" / drop.id
    (place / "notes.txt").write_text("look at this one")
    file_one(folders, drop, "done", "log\n")
    assert [path.name for path in place.iterdir()] == ["notes.txt"]


def spoiled(path: Path) -> None:
    """From here on the descriptor that is open on `path` cannot be synced, as on a disk that is broken."""
    reading, writing = os.pipe()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if link.readlink() == path:
                os.dup2(writing, int(link.name))
    os.close(reading)
    os.close(writing)


def test_a_file_that_cannot_be_synced_is_not_taken(scene: Scene, folder: Folder) -> None:
    """Its bytes might not outlive a power cut; the file beside it is taken."""
    bad, good = scene.put("bad.csv", b"email\n"), scene.put("good.csv", b"email\n")

    def step(name: str) -> None:
        if name == "claim: make work/ID" or not bad.exists():
            return
        spoiled(bad)

    folders = Folders(step=step)
    ready = [
        Wanted(id=make_id(AT + n), name=path.name.encode(), seen=Seen(look_of(folders, folder, path.name.encode())))
        for n, path in enumerate((bad, good))
    ]
    claims, faults = folders.claim(folder, ready)
    assert [claim.name for claim in claims] == [b"good.csv"]
    assert [name for name, _ in faults] == [b"bad.csv"]
    assert bad.exists()


@pytest.mark.parametrize("at", ["claim: sync folder", "file: sync target and work/ID"])
def test_a_folder_that_cannot_be_synced_is_an_error(scene: Scene, folder: Folder, at: str) -> None:
    """The rename might not outlive a power cut, so nobody may go on as if it did."""

    def step(name: str) -> None:
        if name == at:
            spoiled(scene.config.root / ("work" if at.startswith("claim") else "done/acme/2026-11-23"))

    folders = Folders(step=step)
    scene.put("a.csv", b"email\n")
    wanted = Wanted(id=make_id(AT), name=b"a.csv", seen=Seen(look_of(folders, folder, b"a.csv")))
    if at.startswith("claim"):
        with pytest.raises(FolderError, match="cannot sync"):
            folders.claim(folder, [wanted])
        return
    (made,), _ = folders.claim(folder, [wanted])
    with pytest.raises(FolderError, match="cannot file"):
        file_one(folders, drop_of(made), "done", "log\n")


def test_a_child_of_ours_syncs_with_threads_of_its_own(tmp_path: Path) -> None:
    """A fork takes no thread along: waiting for those of the parent would never end."""
    files = [os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT) for name in "abc"]
    assert sync_all(files) == [None] * 3
    child = os.fork()
    if child == 0:
        os._exit(0 if sync_all(files) == [None] * 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(files[1])
    first, second, third = sync_all(files)
    assert (first, third) == (None, None)
    assert isinstance(second, OSError)
    for fd in (files[0], files[2]):
        os.close(fd)


def test_several_are_filed_at_once(scene: Scene, folders: Folders, folder: Folder) -> None:
    """Each where it belongs, and what keeps one of them keeps none of the others."""
    drops = [taken(scene, folders, folder, b"%d.csv" % n) for n in range(3)]
    lost = replace(drops[1], id=make_id(AT + 5))
    wanted = [ToFile(drop=drop, verdict="done", log=f"{drop.id}\n") for drop in (drops[0], lost, drops[2])]
    first, second, third = folders.file_all(wanted)
    assert isinstance(second, FolderError)
    for drop, path in ((drops[0], first), (drops[2], third)):
        assert isinstance(path, str)
        assert (Path(drop.base) / path).with_suffix(".log").read_text() == f"{drop.id}\n"
    assert folders.file_all([]) == []
