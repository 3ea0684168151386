"""``dropzone demo``: a pretend OptiPub, a real daemon in a process of its own, and a few files, good and bad.

Nothing in it is played back: the files lie in real folders, travel through a real socket, and what is printed comes
from the daemon's journal, the ledger and the disk. It ends with 0 only if every file ended where it should.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

from dropzone import config as configuration
from dropzone import operate
from dropzone.cli import render
from dropzone.cli.text import colour
from dropzone.config import Config
from dropzone.drop import FINISHED, Drop, State
from dropzone.opening import lay_out, open_ledger
from dropzone.sandbox import Import, Sandbox

_PATIENCE_S = 9.0

_CONFIG = """\
root: {at}/root
state_dir: {at}/state
accounts:
  main:
    base_url: {url}
    api_key: {{file: {at}/key}}
defaults:
  settle: 300ms                 # a partner's upload would get 2s
  settle_unseen: 500ms
  scan: 1s
  retry: {{initial: 500ms, max: 1s}}
folders:
  acme-signups: {{segment_id: 100789, mode: subscribe, source_campaign: 90, source_partner: 9, delimiter: auto}}
  acme-optouts: {{segment_id: 100790, mode: unsubscribe}}
  acme-leads: {{segment_id: 100791, mode: lead}}
  do-not-mail: {{segment_id: 100792, mode: suppress, hash: sha256, hash_plain: true, clear: true}}
  globex-signups: {{segment_id: 100793, mode: subscribe, source_campaign: 91, source_partner: 12, on_unknown: hold}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """One file of the demonstration: what it is there to show, and where it has to end."""

    folder: str
    name: str
    content: bytes
    shows: str
    ends: State = State.DONE


_FILES = (
    _Given(
        folder="acme-signups",
        name="signups.csv",
        content=b'email,varr_firstname,tag-add\nann@example.com,Ann,"News,Offers"\nbob@example.com,Bob,News\n',
        shows="sign-ups: subscribe",
    ),
    _Given(
        folder="acme-optouts",
        name="optouts.csv",
        content=b"email\ncarol@example.com\n",
        shows="opt-outs: unsubscribe; the API asks to come back later first",
    ),
    _Given(
        folder="acme-leads",
        name="leads.csv",
        content=b"email,varr_source\ndave@example.com,fair\n",
        shows="leads",
    ),
    _Given(
        folder="do-not-mail",
        name="do-not-mail.csv",
        content=b"email\nErin@Example.com\nfrank@example.com\n",
        shows="a do-not-mail list: replaces the segment, every address sent as its SHA-256 only",
    ),
    _Given(
        folder="acme-signups",
        name="Export (2).csv",
        content='\ufeffvarr_firstname;Email\r\n "Grace" ;grace@example.com\r\nZoë; zoe@example.com \r\n'.encode(),
        shows="an export with semicolons, a BOM, CRLF, blanks round quotes and the address last: repaired",
    ),
    _Given(
        folder="acme-leads",
        name="broken.csv",
        content=b'email,varr_source\nheidi@example.com,fair\nivan.example.com,fair\njudy@example.com,"fair" x\n',
        shows="two bad rows: refused, nothing of it is sent",
        ends=State.FAILED,
    ),
    _Given(
        folder="globex-signups",
        name="globex.csv",
        content=b"email\nmallory@example.com\n",
        shows="the connection breaks before the answer: nobody can know, so it is held",
        ends=State.HELD,
    ),
)


_WHAT_TO_READ = """\
What to read there: the first lines say what became of the file and why; 'Bad rows' names line, column and reason, so
that the partner can mend them (addresses are masked; the rows as they came are in the .rejects.csv beside it); 'What
happened' is the whole history, kept in the ledger; 'What to do' is for whoever reads it."""


def play(*, keep: bool = False) -> int:
    """Play the demonstration; 0 if every file ended where it should."""
    at = Path(tempfile.mkdtemp(prefix="dropzone-demo-"))
    try:
        with Sandbox(segments={100792: "sha256"}, on_import=_tell_import) as sandbox:
            sandbox.fault("lost_answer", segment=100793)
            sandbox.fault("status", segment=100790, status=503, headers={"Retry-After": "1"})
            return _play(at, sandbox)
    finally:
        if keep:
            click.echo(f"\nThe folders stay: dropzone -c {at}/dropzone.yaml queue")
        else:
            shutil.rmtree(at)


def _play(at: Path, sandbox: Sandbox) -> int:
    (at / "key").write_text(sandbox.key)
    (at / "key").chmod(0o600)
    (at / "dropzone.yaml").write_text(_CONFIG.format(at=at, url=sandbox.url))
    config = configuration.load(at / "dropzone.yaml")
    lay_out(config)
    _title(
        f"A pretend OptiPub listens on {sandbox.url}, and a daemon watches {len(config.folders)} folders in {at}/root"
    )
    command = [sys.executable, "-m", "dropzone", "-c", str(at / "dropzone.yaml"), "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:  # noqa: S603
        assert daemon.stderr is not None
        watching = threading.Event()
        journal = threading.Thread(target=_tell_journal, args=(daemon.stderr, watching), daemon=True)
        journal.start()
        try:
            watching.wait(_PATIENCE_S)
            _title(f"Partners upload {len(_FILES)} files")
            for given in _FILES:
                _upload(config, given)
            drops = _wait_for_the_end(config)
        finally:
            daemon.send_signal(signal.SIGTERM)
            ended = daemon.wait()
            journal.join()
    _look_round(config, drops, ended)
    return _verdict(drops, ended)


def _upload(config: Config, given: _Given) -> None:
    """As a good client does it: write under a name that nobody takes, then rename."""
    inbox = config.folders[given.folder].path
    click.echo(f"   {given.folder}/{given.name}: {given.shows}")
    part = inbox / f"{given.name}.part"
    part.write_bytes(given.content)
    part.rename(inbox / given.name)


def _wait_for_the_end(config: Config) -> list[Drop]:
    """The drops, once each is finished or held, or when patience ends."""
    end = time.monotonic() + _PATIENCE_S
    drops: list[Drop] = []
    while time.monotonic() < end:
        ledger = open_ledger(config)
        drops = ledger.find_drops()
        ledger.close()
        if len(drops) == len(_FILES) and all(drop.state in FINISHED | {State.HELD} for drop in drops):
            break
        time.sleep(0.05)
    return drops


def _tell_journal(lines: IO[str], watching: threading.Event) -> None:
    """Say what the daemon's journal says, as sentences; set `watching` once it says so itself."""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            click.echo(f"   {line.rstrip()}")
            continue
        if entry["event"] == "watching":
            watching.set()
        where = f"{entry['folder']} {entry['drop'][-4:]}: " if "drop" in entry else ""
        warns = entry["level"] == "warning"
        told = f"   {entry['timestamp'][11:23]}  {where}{entry['event']}"
        click.secho(told, fg="yellow" if warns else None, color=colour())


def _tell_import(arrived: Import) -> None:
    answer = f"answered {arrived.status}" if arrived.status else "and the connection broke"
    fields = " ".join(f"{name}={value}" for name, value in arrived.fields)
    click.secho(
        f"   {' ' * 12}  OptiPub got {arrived.rows} rows for {arrived.segment} ({fields}), {answer}",
        fg="cyan",
        color=colour(),
    )


def _look_round(config: Config, drops: Iterable[Drop], ended: int) -> None:
    _title(f"The daemon was asked to stop (SIGTERM) and ended with {ended}. 'dropzone queue' now says")
    ledger = open_ledger(config)
    try:
        render.say(render.queue(operate.queue(ledger), time.time()))
    finally:
        ledger.close()
    for drop in drops:
        if drop.state is State.HELD:
            click.echo(f"   (look in OptiPub, then: dropzone accept {drop.id}, or dropzone retry {drop.id})")
    _title("The folders: originals as they came, each with its log")
    for path in sorted(config.root.rglob("*")):
        if path.is_file() and path.name != ".ledger":
            click.echo(f"   {path.relative_to(config.root)}")
    refused = next((drop for drop in drops if drop.state is State.FAILED and drop.path), None)
    if refused and refused.path:
        log = (config.root / refused.path).with_suffix(".log")
        _title(f"One log, {log.relative_to(config.root)}")
        click.echo("".join(f"   {line}" for line in log.read_text().splitlines(keepends=True)))
        click.echo(_WHAT_TO_READ)


def _verdict(drops: Iterable[Drop], ended: int) -> int:
    states = {(drop.folder, os.fsdecode(drop.name)): drop.state for drop in drops}
    wrong = [given for given in _FILES if states.get((given.folder, given.name)) is not given.ends]
    for given in wrong:
        state = states.get((given.folder, given.name))
        click.secho(f"{given.folder}/{given.name} should be {given.ends}, but is {state or 'not taken over'}", fg="red")
    if wrong or ended:
        return 1
    counts = [
        f"{sum(1 for drop in drops if drop.state is state)} {state}" for state in (State.DONE, State.FAILED, State.HELD)
    ]
    _title(f"Every file ended where it should: {', '.join(counts)}")
    return 0


def _title(text: str) -> None:
    click.secho(f"\n{text}", bold=True)
