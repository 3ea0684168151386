"""Segments that dropzone has created: what is asked for, what each answer means, and nothing asked for twice."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import ask, command
from scene import KEY, Scene, make_scene
from wire import Peer, Server, reading_it_all

from dropzone import opening
from dropzone.errors import OperatorError
from dropzone.ledger import SegmentNote
from dropzone.ledger.sqlite import SQLiteLedger
from dropzone.optipub.answers import Answer, Break, Offer
from dropzone.optipub.segments import Created, NotCreated, Unclear, Wanted, read_created
from dropzone.sandbox import Sandbox

ROWS = b"email\nann@example.com\n"
FOLDERS = """\
acme: {segment_id: 1, mode: lead}
leads: {create: {publication_id: 7, name: "Leads of Acme", description: "Since 2026"}, mode: lead}
dnm: {create: {publication_id: 7}, mode: suppress, hash: sha256}
"""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@pytest.fixture
def scene(tmp_path: Path, sandbox: Sandbox) -> Scene:
    return make_scene(tmp_path, sandbox.url, folders=FOLDERS, defaults="settle: 20ms, settle_unseen: 20ms, scan: 100ms")


def created(sandbox: Sandbox) -> list[dict[str, object]]:
    return [each for each in sandbox.state()["segments"] if each["id"] > 200_000]


CREATE = ("segment", "create")
BY_NAME = (*CREATE, "--name", "Leads", "--publication-id", "7")


# -------------------------------------------------------------------------------------------------------- by name


def test_a_static_segment_is_created_with_the_lines_to_paste(scene: Scene, sandbox: Sandbox) -> None:
    """OptiPub gets exactly the documented fields; its id and the YAML are printed."""
    words = ("--description", "A list", "--auto-responder-id", "22", "--redirect-url", "https://a.example.com")
    code, out, err = ask(scene, *BY_NAME, *words)
    assert (code, err) == (0, "")
    assert out.startswith("segment 200001 was created: Leads\n")
    assert "    segment_id: 200001\n    mode: subscribe" in out
    (segment,) = created(sandbox)
    assert (segment["kind"], segment["name"], segment["publication_id"]) == ("static", "Leads", 7)


def test_a_suppression_segment_has_its_hash(scene: Scene, sandbox: Sandbox) -> None:
    """And so have the lines to paste."""
    code, out, _ = ask(scene, *BY_NAME, "--suppression", "md5")
    assert code == 0
    assert "    mode: suppress\n    hash: md5\n" in out
    assert created(sandbox)[0]["kind"] == "md5"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--name", " ", "--publication-id", "7"), "needs a name"),
        (("--name", "x" * 256, "--publication-id", "7"), "too long"),
        (("--name", "x\ny", "--publication-id", "7"), "control characters"),
        ((*BY_NAME[2:], "--suppression", "md5", "--auto-responder-id", "2"), "no auto responder"),
        ((*BY_NAME[2:], "--redirect-url", "javascript:x"), "no http address"),
        ((*BY_NAME[2:], "--redirect-url", "https://a.example.com/\x1b[31m"), "control characters"),
        ((*BY_NAME[2:], "--account", "other"), "no account is called other"),
    ],
)
def test_what_the_guide_rules_out_is_never_sent(
    scene: Scene, sandbox: Sandbox, words: tuple[str, ...], says: str
) -> None:
    """One sentence, 1, and no request."""
    code, out, err = ask(scene, *CREATE, *words)
    assert (code, out) == (1, "")
    assert says in err
    assert sandbox.state()["requests"] == 0


@pytest.mark.parametrize(
    "words", [(), ("--name", "x"), ("--name", "x", "--folder", "leads"), ("--folder", "a", "--all-missing")]
)
def test_which_segment_must_be_clear(scene: Scene, words: tuple[str, ...]) -> None:
    """Exactly one of the three ways, and a publication for a name."""
    assert ask(scene, *CREATE, *words)[0] == 2


def test_several_accounts_must_be_told_apart(scene: Scene) -> None:
    """Named, or refused with what there is."""
    file = scene.at / "dropzone.yaml"
    text = file.read_text().replace("defaults: {", "defaults: {account: main, ")
    main = text[text.index("  main:") : text.index("defaults:")]
    file.write_text(text.replace("defaults:", main.replace("main:", "second:") + "defaults:", 1))
    assert "--account is one of main, second" in ask(scene, *BY_NAME)[2]
    assert ask(scene, *BY_NAME, "--account", "second")[0] == 0


def test_the_same_is_not_created_twice_by_accident(scene: Scene, sandbox: Sandbox) -> None:
    """It says which one it is, and how to have another."""
    assert ask(scene, *BY_NAME)[0] == 0
    code, _, err = ask(scene, *BY_NAME)
    assert code == 1
    assert "it is 200001" in err
    assert "--again" in err
    assert len(created(sandbox)) == 1
    assert ask(scene, *BY_NAME, "--again")[0] == 0
    assert len(created(sandbox)) == 2


# ------------------------------------------------------------------------------------------------- a lost answer


def test_a_server_that_says_nothing_may_have_made_it(tmp_path: Path) -> None:
    """It has the whole request: waited for as long as an answer may take, then somebody has to look."""
    with Server(reading_it_all(Peer.hold)) as server:
        scene = make_scene(tmp_path, server.url, account=["timeouts: {connect: 2s, write: 2s, read: 300ms}"])
        code, _, err = ask(scene, *BY_NAME)
    assert code == 1
    assert "gave no whole answer within 0.3 s, after the whole request had left" in err
    assert len(server.bodies) == 1


@pytest.mark.parametrize("fault", ["lost_answer", "bad_json", "cut_body"])
def test_after_a_lost_answer_nobody_asks_again_without_looking(scene: Scene, sandbox: Sandbox, fault: str) -> None:
    """It may exist: said at once and the next time; only --again asks anew, which may make a second one."""
    sandbox.fault(fault, call="create")
    for _ in range(2):
        code, out, err = ask(scene, *CREATE, "--folder", "leads")
        assert (code, out) == (1, "")
        assert "write its id as segment_id" in err
        assert len(created(sandbox)) == 1
    assert "the answer is not known" in err
    assert ask(scene, *CREATE, "--folder", "leads", "--again")[0] == 0
    assert len(created(sandbox)) == 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"kind": "status", "status": 422, "body": '{"message": "No such publication."}'}, "No such publication."),
        ({"kind": "status", "status": 503}, "it is busy"),
        ({"kind": "status", "status": 307, "headers": {"Location": "https://x.example.com/"}}, "not the right address"),
        ({"kind": "login_redirect"}, "does not know the key"),
    ],
)
def test_what_was_surely_not_created_can_be_asked_for_again(
    scene: Scene, sandbox: Sandbox, fault: dict[str, object], says: str
) -> None:
    """The reason and the mend; the next time nothing is in the way."""
    sandbox.fault(**fault, call="create")  # type: ignore[arg-type]
    code, _, err = ask(scene, *BY_NAME)
    assert code == (5 if fault.get("status") == 503 else 1)
    assert says in err
    assert KEY not in err
    assert created(sandbox) == []
    assert ask(scene, *BY_NAME)[0] == 0


def test_a_server_that_is_away_was_not_asked(scene: Scene, sandbox: Sandbox) -> None:
    """Nothing left this machine, so nothing is in the way later."""
    sandbox.close()
    code, _, err = ask(scene, *BY_NAME)
    assert code == 5
    assert "refuses connections" in err
    sandbox.start()
    assert ask(scene, *BY_NAME)[0] == 0


def test_without_a_key_or_a_state_folder_nothing_is_asked_for(scene: Scene, sandbox: Sandbox) -> None:
    """Both are told, and neither leaves a note that would be in the way."""
    (scene.at / "key").rename(scene.at / "key.gone")
    assert ask(scene, *BY_NAME)[0] == 1
    (scene.at / "key.gone").rename(scene.at / "key")
    scene.config.state_dir.rename(scene.at / "gone")
    assert "dropzone init" in ask(scene, *BY_NAME)[2]
    assert sandbox.state()["requests"] == 0
    (scene.at / "gone").rename(scene.config.state_dir)
    assert ask(scene, *BY_NAME)[0] == 0


# -------------------------------------------------------------------------------------------------------- folders


def test_a_folder_is_fed_once_its_segment_exists(scene: Scene, sandbox: Sandbox) -> None:
    """Before: nothing is taken over there, and that is said. After: like any other, with the id from the ledger."""
    path = scene.config.root / "inbox" / "leads"
    path.mkdir()
    assert set(opening.load(scene.at / "dropzone.yaml").unmade) == {"leads", "dnm"}
    done = subprocess.run(command(scene, "run", "--once"), capture_output=True, check=False)
    assert b"dropzone segment create --folder leads" in done.stderr
    mends = [json.loads(line)["mend"] for line in ask(scene, "doctor", "--json")[1].splitlines()]
    assert "dropzone segment create --folder dnm && dropzone init && systemctl reload dropzone" in mends
    code, out, _ = ask(scene, *CREATE, "--folder", "leads")
    assert code == 0
    assert "Folder leads is to feed it. Type: dropzone init && systemctl reload dropzone" in out
    loaded = opening.load(scene.at / "dropzone.yaml")
    assert loaded.folders["leads"].segment_id == 200001
    assert set(loaded.unmade) == {"dnm"}
    (path / "a.csv").write_bytes(ROWS)
    done = subprocess.run(command(scene, "run", "--once"), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert [each.segment for each in sandbox.imports] == [200001]
    code, _, err = ask(scene, *CREATE, "--folder", "leads")
    assert code == 1
    assert "folder leads has its segment: 200001" in err


def test_all_that_are_missing_are_created(scene: Scene, sandbox: Sandbox) -> None:
    """One that is refused does not keep from the others; at the end there is nothing left to do."""
    sandbox.fault("status", status=422, call="create")
    code, out, err = ask(scene, *CREATE, "--all-missing", "--json")
    assert code == 1
    assert "Leads of Acme" in err
    (member,) = [json.loads(line) for line in out.splitlines()]
    assert member == {"version": 1, "id": 200001, "name": "dnm", "account": "main", "folder": "dnm"}
    assert created(sandbox)[0]["kind"] == "sha256"
    assert ask(scene, *CREATE, "--all-missing")[0] == 0
    assert ask(scene, *CREATE, "--all-missing")[1] == "Every folder has its segment.\n"
    assert "To be created: none" in ask(scene, *CREATE, "--folder", "nobody")[2]


def test_nothing_to_create_is_nothing_to_read_for_a_program(scene: Scene, sandbox: Sandbox) -> None:
    """The sentence that all folders have theirs is for people."""
    assert ask(scene, *CREATE, "--all-missing")[0] == 0
    assert ask(scene, *CREATE, "--all-missing", "--json") == (0, "", "")


def test_a_reader_that_has_seen_enough_keeps_from_no_segment(scene: Scene, sandbox: Sandbox) -> None:
    """`dropzone segment create --all-missing | head -1`: the second is created as well as the first."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:  # noqa: PTH123
        done = subprocess.run(
            command(scene, *CREATE, "--all-missing"), stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [each["name"] for each in created(sandbox)] == ["Leads of Acme", "dnm"]


def test_which_one_nobody_can_tell_of_is_named(scene: Scene, sandbox: Sandbox) -> None:
    """Of several that are asked for: whoever looks in OptiPub has to know for what."""
    sandbox.fault("lost_answer", call="create")
    code, out, err = ask(scene, *CREATE, "--all-missing")
    assert (code, out.startswith("segment 200002 was created: dnm")) == (1, True)
    assert "nobody can tell whether the segment 'Leads of Acme' was created" in err


def test_a_folder_without_its_segment_is_not_unknown(scene: Scene) -> None:
    """Whoever checks a file as it would, or plans, is told what to type; shells complete its name there."""
    (scene.at / "a.csv").write_bytes(ROWS)
    for words in (("check", str(scene.at / "a.csv")), ("plan",)):
        code, out, err = ask(scene, *words, "--folder", "leads")
        assert (code, out) == (1, "")
        assert err.startswith("dropzone: the segment of folder leads is still to be created\n")
        assert "dropzone segment create --folder leads" in err


def test_a_damaged_ledger_keeps_nobody_from_looking(scene: Scene, sandbox: Sandbox) -> None:
    """What it alone knows is said to be unknown; `doctor` has it among its faults, a file and the rest are checked."""
    (scene.config.state_dir / "ledger.db").write_bytes(b"no database, " * 1000)
    (scene.at / "a.csv").write_bytes(ROWS)
    code, out, err = ask(scene, "doctor")
    assert (code, err) == (1, "")
    assert "x  ledger: " in out
    assert "folder leads: whether its segment was created stands in the ledger" in out
    assert "segment create" not in out  # it would be another one
    code, out, err = ask(scene, "config", "check")
    assert (code, "no problems" in out) == (0, True)
    assert err.startswith("note: the folders leads, dnm: which segments were created is not known: the ledger")
    assert ask(scene, "check", str(scene.at / "a.csv"), "--folder", "acme")[0] == 0
    code, out, err = ask(scene, "check", str(scene.at / "a.csv"), "--folder", "leads")
    assert (code, out, "is damaged" in err) == (1, "", True)


def test_a_running_daemon_writes_the_note(scene: Scene, sandbox: Sandbox) -> None:
    """It has the ledger; the id is remembered through it, and a reload takes the folder up."""
    with subprocess.Popen(command(scene, "run"), stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr
        assert any('"watching"' in line for line in daemon.stderr)
        try:
            code, _, err = ask(scene, *CREATE, "--folder", "leads")
            assert (code, err) == (0, "")
            (scene.config.root / "inbox" / "leads").mkdir()
            (scene.config.root / "inbox" / "leads" / "a.csv").write_bytes(ROWS)
            daemon.send_signal(signal.SIGHUP)
            sandbox.wait_for(applied=1, timeout_s=30)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.stderr.read()
    assert [each.segment for each in sandbox.imports] == [200001]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for somebody else")
def test_what_root_writes_belongs_to_the_daemons_user(scene: Scene) -> None:
    """Created before the first run: the ledger is the daemon's, who could not open it otherwise."""
    nobody = pwd.getpwnam("nobody")
    os.chown(scene.config.state_dir, nobody.pw_uid, nobody.pw_gid)
    for parent in [scene.at, *scene.at.parents]:
        parent.chmod(parent.stat().st_mode | 0o011)
    assert ask(scene, *BY_NAME)[0] == 0
    assert {path.name: path.stat().st_uid for path in scene.config.state_dir.iterdir()} == {
        "ledger.db": nobody.pw_uid,
        "lock": nobody.pw_uid,
    }


# --------------------------------------------------------------------------------------------------- pure meanings

OFFER = Offer(
    account="main",
    base_url="https://optipub.example.com",
    segment_id=0,
    filename="",
    size=10,
    sent=10,
    whole=True,
    at=0.0,
    wait_s=0.0,
    key=KEY,
)
GOOD = b'{"error": false, "data": {"id": 100789, "name": "x"}, "message": "Created segment."}'


@pytest.mark.parametrize(
    ("signal", "kind"),
    [
        (Answer(status=201, body=GOOD), Created),
        (Answer(status=201, body=GOOD, whole=False), Unclear),
        (Answer(status=201, body=GOOD.replace(b"100789", b"true")), Unclear),
        (Answer(status=201, body=GOOD.replace(b"100789", b"-1")), Unclear),
        (Answer(status=201, body=GOOD.replace(b"100789", b'"7"')), Unclear),
        (Answer(status=201, body=b'{"error": true}'), NotCreated),
        (Answer(status=201, body=b"[" * 100_000), Unclear),
        (Answer(status=200, body=GOOD), Unclear),
        (Answer(status=500), Unclear),
        (Answer(status=401), NotCreated),
        (Answer(status=403), NotCreated),
        (Answer(status=302, location="/segments"), NotCreated),
        (Answer(status=302, location="/login"), NotCreated),
        (Answer(status=301, location="https://www.example.com"), NotCreated),
        (Answer(status=429), NotCreated),
        (Break(what="it broke"), Unclear),
    ],
)
def test_each_answer_has_one_meaning(signal: Answer | Break, kind: type) -> None:
    """Only an id in JSON is a segment; what may have been created is never called a no."""
    outcome = read_created(signal, OFFER)
    assert type(outcome) is kind
    if isinstance(outcome, Created):
        assert outcome.id == 100789


def test_no_answer_repeats_the_key() -> None:
    """Whatever a server sends back."""
    for status in (201, 401, 403, 422, 500, 503):
        assert KEY not in repr(read_created(Answer(status=status, body=f"Bearer {KEY}".encode()), OFFER))


def test_the_request_is_the_documented_one() -> None:
    """A type that is always static, and no field that was not asked for."""
    assert json.loads(Wanted(name="x", publication_id=7).body()) == {
        "name": "x",
        "description": "",
        "publication_id": 7,
        "type": "static",
        "is_suppression": False,
        "suppression_type": None,
    }
    with pytest.raises(OperatorError, match="numbers from 1 on"):
        Wanted(name="x", publication_id=0).check()
    with pytest.raises(OperatorError, match="no hash type"):
        Wanted(name="x", publication_id=1, suppression="crc").check()


def test_notes_of_segments_survive_and_can_be_forgotten(tmp_path: Path) -> None:
    """By account and name, whatever characters the name has."""
    ledger = SQLiteLedger(tmp_path)
    for name in ("a/b", "ä 100%", ""):
        ledger.note_segment("main", name, SegmentNote(by="ann", at=1.0))
        ledger.note_segment("main", name, SegmentNote(by="bob", at=2.0, id=5))
    ledger.note_segment("main", "", None)
    ledger.close()
    ledger = SQLiteLedger(tmp_path)
    assert ledger.segment_notes() == {("main", name): SegmentNote(by="bob", at=2.0, id=5) for name in ("a/b", "ä 100%")}
    ledger.close()
