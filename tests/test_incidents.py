"""Eleven calls at three in the morning, from the operator's side: each solved with at most three commands of the docs.

Real daemon, real server, real files. What the operator does beside typing `dropzone …` is what a person would do: look
into OptiPub, call the partner, edit the configuration and reload, make room on a disk.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from console import ask, command, daemon_on
from scene import KEY, Scene, make_scene

from dropzone import config as configuration
from dropzone.drop import Drop, State
from dropzone.ledger.sqlite import SQLiteReader
from dropzone.sandbox import Sandbox

OPERATING = (Path(__file__).parents[1] / "docs" / "operating.md").read_text(encoding="utf-8")
FAST = "settle: 50ms, settle_unseen: 50ms, scan: 200ms, retry: {initial: 50ms, max: 200ms}"
ROWS = b"email\nann@example.com\nbob@example.com\n"


class Desk:
    """Where the operator sits: what was typed is counted, and must stand in the page about operating."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.typed: list[tuple[str, ...]] = []

    def type(self, *words: str, code: int | None = 0) -> str:
        """Type a command; what it said. `code` is what it must end with, None for any."""
        self.typed.append(words)
        name = " ".join(words[:2]) if words[0] in ("config", "segment") else words[0]
        assert f"dropzone {name}" in OPERATING, f"{name} is not in docs/operating.md"
        assert len(self.typed) <= 3, f"too much to type: {self.typed}"
        ended, out, err = ask(self.scene, *words)
        assert code is None or ended == code, out + err
        return out + err

    def edit(self, old: str, new: str) -> None:
        """Edit the configuration."""
        file = self.scene.at / "dropzone.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def drops(self) -> list[Drop]:
        """What the ledger has in the end."""
        with closing(SQLiteReader(self.scene.config.state_dir)) as reader:
            return reader.find_drops()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY, segments={1: "static", 2: "none"}, known_segments=True) as sandbox:
        yield sandbox


def desk(at: Path, sandbox: Sandbox, folders: str = "acme: {segment_id: 1, mode: lead}") -> Desk:
    return Desk(make_scene(at, sandbox.url, folders=folders, defaults=FAST))


def id_in(text: str) -> str:
    """The first drop ID on a screen."""
    found = re.search(r"\b[0-9A-HJKMNP-TV-Z]{12}\b", text)
    assert found, text
    return found[0]


def test_the_key_is_dead(tmp_path: Path, sandbox: Sandbox) -> None:
    """Status says which account and what to do; a new key is put where `api_key:` points, and everything goes out."""
    here = desk(tmp_path, sandbox)
    key = here.scene.at / "key"
    key.write_text("an-old-key")
    with daemon_on(here.scene) as daemon:
        here.scene.put("a.csv", ROWS)
        daemon.wait_for("not taken")
        seen = here.type("status", code=3)
        assert "account main is paused" in seen
        assert "make a new one in OptiPub and put it where the account's api_key points" in " ".join(seen.split())
        key.write_text(KEY)
        here.type("resume", "main")  # it would look at the file by itself within seconds
        daemon.wait_for("filed as done/")
        assert ask(here.scene, "pause", "main")[0] == 0
        assert ask(here.scene, "status")[0] == 0, "who paused it knows"
    assert [drop.state for drop in here.drops()] == [State.DONE]


def test_the_segment_id_is_wrong(tmp_path: Path, sandbox: Sandbox) -> None:
    """The failed drop says so; the configuration is mended, and the same file goes to the right segment."""
    here = desk(tmp_path, sandbox, "acme: {segment_id: 999, mode: lead}")
    with daemon_on(here.scene) as daemon:
        here.scene.put("a.csv", ROWS)
        daemon.wait_for("filed as failed/")
        seen = here.type("queue", "--state", "failed")
        assert "it refused the import into segment 999" in " ".join(seen.split())
        here.edit("segment_id: 999", "segment_id: 1")
        daemon.reload()
        here.type("retry", id_in(seen), "--anew")
        daemon.wait_for("filed as done/")
    assert [(each.segment, each.applied) for each in sandbox.imports] == [(999, False), (1, True)]


def test_the_partner_sends_semicolons(tmp_path: Path, sandbox: Sandbox) -> None:
    """The reason is that of the header; with `delimiter: auto` the check is content, and so is OptiPub."""
    here = desk(tmp_path, sandbox)
    with daemon_on(here.scene) as daemon:
        here.scene.put("a.csv", b"email;varr_city\nann@example.com;Bern\n")
        daemon.wait_for("filed as failed/")
        seen = here.type("queue", "--state", "failed")
        (drop,) = here.drops()
        here.edit("mode: lead", "mode: lead, delimiter: auto")
        filed = str(here.scene.config.root / str(drop.path))
        assert "would be sent" in here.type("check", filed, "--folder", "acme")
        daemon.reload()
        here.type("retry", id_in(seen), "--anew")
        daemon.wait_for("filed as done/")
    assert sandbox.imports[-1].columns == ("email", "varr_city")


def test_half_a_file(tmp_path: Path, sandbox: Sandbox) -> None:
    """The upload broke off: held as incomplete and not sent; the partner uploads again, and the half is given up."""
    here = desk(tmp_path, sandbox, "acme: {segment_id: 1, mode: lead, hold_tail: 200ms}")
    with daemon_on(here.scene) as daemon:
        here.scene.put("a.csv", b"email,varr_a\nann@example.com,x\nbob@exam")
        daemon.wait_for("held (incomplete)")
        seen = here.type("queue", "--state", "held")
        assert "the upload was cut off" in " ".join(seen.split())
        here.scene.put("a.csv", b"email,varr_a\nann@example.com,x\nbob@example.com,y\n")
        daemon.wait_for("filed as done/")
        here.type("discard", id_in(seen))
        daemon.wait_for("filed as failed/")
    assert [each.rows for each in sandbox.imports] == [2]


def test_a_full_load_that_is_far_too_short(tmp_path: Path, sandbox: Sandbox) -> None:
    """It would have emptied the list: held with both figures; the partner says that it is meant so."""
    here = desk(tmp_path, sandbox, "dnm: {segment_id: 2, mode: suppress, hash: none, clear: true}")
    with daemon_on(here.scene) as daemon:
        here.scene.put("1.csv", b"email\n" + b"".join(b"u%d@example.com\n" % number for number in range(10)))
        daemon.wait_for("filed as done/")
        here.scene.put("2.csv", ROWS)
        daemon.wait_for("held (max_shrink)")
        seen = here.type("status", code=3)
        assert "1 drop waits for a person" in seen
        seen = here.type("queue", "--state", "held")
        assert "2 rows would replace the 10 rows" in " ".join(seen.split())
        here.type("release", id_in(seen))
        daemon.wait_for("filed as done/")
    assert [each.rows for each in sandbox.imports] == [10, 2]


def test_optipub_is_away_for_a_day(tmp_path: Path, sandbox: Sandbox) -> None:
    """Everything waits and says why; when it is back nothing has to be done, or `resume` has it done at once."""
    here = desk(tmp_path, sandbox)
    sandbox.close()
    with daemon_on(here.scene) as daemon:
        for number in range(3):
            here.scene.put(f"{number}.csv", ROWS + b"u%d@example.com\n" % number)
        for _ in range(5):
            daemon.wait_for("not taken")
        seen = here.type("status")
        assert "account main is broken" in seen
        assert "refuses connections" in seen
        sandbox.start()
        here.type("resume", "main")
        for _ in range(3):
            daemon.wait_for("filed as done/")
    assert [drop.state for drop in here.drops()] == [State.DONE] * 3
    assert len(sandbox.imports) == 3


def test_the_answer_was_lost(tmp_path: Path, sandbox: Sandbox) -> None:
    """Held, with the name to look for; it is found in OptiPub, and so it is not sent a second time."""
    here = desk(tmp_path, sandbox)
    sandbox.fault("lost_answer")
    with daemon_on(here.scene) as daemon:
        here.scene.put("a.csv", ROWS)
        daemon.wait_for("held (unknown)")
        seen = here.type("queue", "--state", "held")
        id = id_in(seen)
        assert f"Look in OptiPub for an import of acme.{id}.csv" in " ".join(seen.split())
        assert [each.filename for each in sandbox.imports] == [f"acme.{id}.csv"]  # the operator looks
        here.type("accept", id)
        daemon.wait_for("filed as done/")
    assert len(sandbox.imports) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A root on a file system of its own, of two mebibytes."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0755", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can only be mounted by root, where the kernel lets it")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_disk_is_full(tmp_path: Path, sandbox: Sandbox, small_disk: Path) -> None:
    """No file is judged; status names the fault, doctor what to do; with room again the file goes its way."""
    here = desk(tmp_path, sandbox)
    here.edit(f"root: {tmp_path}/root", f"root: {small_disk}/root")
    here.scene.config = configuration.load(here.scene.at / "dropzone.yaml")
    assert ask(here.scene, "init")[0] == 0
    filler = small_disk / "filler"
    with daemon_on(here.scene) as daemon:
        here.scene.put("a.csv", ROWS)
        with filler.open("wb") as out:
            out.truncate(4 << 20)
            os.posix_fallocate(out.fileno(), 0, os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize)
        daemon.wait_for("the machine is at fault")
        seen = here.type("status", code=None)
        assert "intake and sending pause" in seen
        assert "No space left on device" in " ".join(seen.split())
        told = here.type("doctor", code=1)
        assert "make room" in told
        filler.unlink()
    with daemon_on(here.scene) as daemon:  # it would go on by itself within a minute
        sandbox.wait_for(applied=1, timeout_s=30)
        daemon.wait_for("filed as done/")
    assert [drop.state for drop in here.drops()] == [State.DONE]


def test_the_ledger_is_damaged(tmp_path: Path, sandbox: Sandbox) -> None:
    """The daemon ends, and sends nothing; moved away as the page says, what lay in work/ waits for a look."""
    here = desk(tmp_path, sandbox)
    state = here.scene.config.state_dir
    sandbox.fault("lost_answer")
    with daemon_on(here.scene) as daemon:
        here.scene.put("a.csv", ROWS)
        daemon.wait_for("held (unknown)")
        here.scene.put("cut.csv", b"email\n")
        daemon.wait_for("held (min_rows)")
    taken, short = (drop.id for drop in here.drops())
    ledger = state / "ledger.db"
    ledger.write_bytes(ledger.read_bytes()[:4096] + b"\xff" * (ledger.stat().st_size - 4096))
    here.scene.put("new.csv", b"email\ncy@example.com\n")
    ended = subprocess.run(command(here.scene, "run"), capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "Nothing is sent without it" in ended.stderr
    assert len(sandbox.imports) == 1
    assert "the ledger" in here.type("doctor", code=1)
    section = OPERATING.partition("## The ledger is damaged")[2]
    for step in re.findall(r"^    ((?:mkdir|mv) .*)$", section, re.MULTILINE):
        subprocess.run(["sh", "-c", step.replace("/var/lib/dropzone", str(state))], check=True)
    with daemon_on(here.scene) as daemon:
        daemon.wait_for("filed as done/")  # what came since
        seen = here.type("queue", "--state", "held")
        assert taken in seen
        assert short in seen
        assert "the ledger that knew this file is gone" in " ".join(seen.split())
        assert {drop.guard for drop in here.drops() if drop.state is State.HELD} == {"no record"}
        here.type("accept", taken)
        daemon.wait_for("filed as done/")
    assert [each.first[0] for each in sandbox.imports] == ["ann@example.com", "cy@example.com"]


def test_the_daemon_does_not_run(tmp_path: Path, sandbox: Sandbox) -> None:
    """Status says so (8); the configuration names its mistake with line and column; mended, it starts and delivers."""
    here = desk(tmp_path, sandbox)
    here.edit("mode: lead", "mode: leed")
    here.scene.put("a.csv", ROWS)
    assert "there is no ledger" in here.type("status", code=1)  # it has never run
    told = here.type("config", "check", code=4)
    assert re.search(r"dropzone\.yaml:\d+:\d+: folders\.acme\.mode: .*did you mean lead\?", told)
    here.edit("mode: leed", "mode: lead")
    here.type("config", "check")
    with daemon_on(here.scene) as daemon:
        daemon.wait_for("filed as done/")
    assert len(sandbox.imports) == 1


@pytest.mark.parametrize(
    ("name", "says", "mended"),
    [
        ("list.txt", "`include` allows only *.csv, *.csv.gz", "list.csv"),
        ("list.csv.filepart", "unfinished files", "list.csv"),
        ("2026/list.csv", "nothing below it is looked at", "list.csv"),
    ],
)
def test_my_file_is_not_picked_up(tmp_path: Path, sandbox: Sandbox, name: str, says: str, mended: str) -> None:
    """`why` names the rule and what would change it; done so, the file is taken, and `why` knows its drop."""
    here = desk(tmp_path, sandbox)
    with daemon_on(here.scene) as daemon:
        path = here.scene.inbox / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(ROWS)
        seen = here.type("why", str(path))
        assert says in " ".join(seen.split())
        path.rename(here.scene.inbox / mended)
        daemon.wait_for("filed as done/")
        seen = here.type("why", str(here.scene.inbox / mended))
        (drop,) = here.drops()
        assert drop.id in seen
        assert json.loads(ask(here.scene, "show", drop.id, "--json")[1])["state"] == "done"
