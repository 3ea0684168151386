"""The books of partners, ledger, folders and server, compared: what the promise says, whatever happened before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from nursery import Nursery
from scene import Scene, assert_kept
from server import Server

from dropzone.drop import (
    FINISHED,
    Accepted,
    CheckFailed,
    Discarded,
    Drop,
    Entry,
    Event,
    Lost,
    Refused,
    Released,
    Resent,
    Retried,
    State,
)
from dropzone.ledger.sqlite import SQLiteReader

# Files of ours beside the originals, which may hold the same bytes.
_COPIES = ("prepared.csv", "rejects.csv")


@dataclass(frozen=True, slots=True)
class Books:
    """Drops in the order of their claims, what happened to each, and the drops whose files OptiPub took, in order."""

    drops: Sequence[Drop]
    histories: Mapping[str, Sequence[Event]]
    taken: Sequence[str]

    def has(self, drop: Drop, *kinds: type[Event]) -> bool:
        return any(isinstance(event, kinds) for event in self.histories[drop.id])

    def count(self, drop: Drop, *kinds: type[Event]) -> int:
        return sum(isinstance(event, kinds) for event in self.histories[drop.id])


def read_books(scene: Scene, server: Server) -> Books:
    with closing(SQLiteReader(scene.config.state_dir)) as reader:
        drops = reader.find_drops()
        entries: dict[str, list[Entry]] = {drop.id: reader.history(drop.id) for drop in drops}
    histories = {id: [entry.event for entry in each] for id, each in entries.items()}
    return Books(drops, histories, [name.rsplit(".", 2)[-2] for name in server.applied()])


def come_to_rest(scene: Scene, server: Server, nursery: Nursery, journal: Path) -> None:
    """Let it run undisturbed, with somebody who looks in OptiPub for what is held, until every drop is finished."""
    config = ("-c", scene.at / "dropzone.yaml")
    for _ in range(100):
        code = nursery.run(*config, "run", "--once", journal=journal)
        assert code in (0, 3, 5), journal.read_text()[-4000:]
        books = read_books(scene, server)
        assert_doubts(books)
        held = [drop for drop in books.drops if drop.state in (State.HELD, State.UNKNOWN)]
        for order, known in (("accept", True), ("retry", False)):
            ids = [drop.id for drop in held if (drop.id in books.taken) is known]
            assert not ids or nursery.run(*config, order, *ids, journal=journal) == 0, journal.read_text()[-4000:]
        if all(drop.state in FINISHED for drop in books.drops):
            return
    pytest.fail("it never came to rest")


def assert_doubts(books: Books) -> None:
    """Held is only what may have been taken, or what ended the program twice while it was read."""
    for drop in books.drops:
        assert drop.state is not State.HELD or books.has(drop, Lost) or drop.guard == "poison", drop


def assert_promise(scene: Scene, books: Books, uploaded: Mapping[str, bytes]) -> None:
    """Once at rest: nothing lost or altered, no repeat that is not owned up to, no disorder, no file without a log."""
    drops = list(books.drops)
    assert_kept(scene, drops)
    assert_all_there(scene, books, uploaded)
    assert not [path for path in (scene.config.root / "inbox").rglob("*") if path.is_file()], "left in an inbox"
    taken = Counter(books.taken)
    assert set(taken) <= {drop.id for drop in drops}, "OptiPub has what no ledger knows of"
    for drop in drops:
        repeats = books.count(drop, Resent, Released, Retried)
        assert taken[drop.id] <= 1 + repeats, f"{drop.id} was taken {taken[drop.id]} times: {books.histories[drop.id]}"
        assert drop.state is not State.DONE or taken[drop.id], f"{drop.id} is done, and OptiPub has nothing of it"
        assert drop.state is not State.FAILED or books.has(drop, Refused, CheckFailed, Discarded), drop
        assert not taken[drop.id] or drop.state is State.DONE or books.has(drop, Lost), drop
    assert_order(books)


def assert_all_there(scene: Scene, books: Books, uploaded: Mapping[str, bytes]) -> None:
    """Each upload is one drop, and its bytes lie unaltered in one place."""
    names = Counter(drop.name.decode() for drop in books.drops)
    assert names == Counter(list(uploaded)), "an upload is no drop, or two"
    contents = Counter(path.read_bytes() for path in scene.files() if path.name not in _COPIES)
    for name, content in uploaded.items():
        assert contents[content] == 1, f"{name} lies in {contents[content]} places"


def assert_order(books: Books) -> None:
    """In each lane OptiPub took the files in the order of their claims; a person's order may have changed it."""
    by_hand = {
        drop.id
        for drop in books.drops
        if books.has(drop, Released, Retried)
        or any(isinstance(event, Accepted) and event.by for event in books.histories[drop.id])
    }
    place = {drop.id: (drop.lane, number) for number, drop in enumerate(books.drops)}
    for lane in {drop.lane for drop in books.drops}:
        order = [place[id][1] for id in books.taken if id not in by_hand and place[id][0] == lane]
        assert order == sorted(order), f"out of order in {lane}"
