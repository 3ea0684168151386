"""The table of answers from end to end: what becomes of the file, of its account, and what a person reads of it.

The cases are those of `answers.py`: real servers by script, certificates and proxies. What event each one means is
asked in `test_optipub.py`; here it has gone through pipeline and ledger.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from answers import CASES, NOW, offered
from scene import make_scene

from dropzone import receipt
from dropzone.account import Condition
from dropzone.drop import Accepted, Deferred, Lost, Refused, State

STATES = {Accepted: State.DONE, Refused: State.FAILED, Deferred: State.QUEUED, Lost: State.HELD}
CONDITIONS = {
    "none": Condition.READY,
    "breaker": Condition.READY,
    "wait": Condition.WAITING,
    "pause": Condition.PAUSED,
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("name", CASES)
def test_each_answer_ends_in_its_state(name: str, authority: trustme.CA, tmp_path: Path) -> None:
    """State, counted attempts, the account's condition and until when, and the sentence in the log."""
    case = CASES[name]
    with offered(case, authority, tmp_path) as (url, lines, _):
        scene = make_scene(tmp_path, url, account=lines)
        scene.clock.wall = NOW - 45.0
        scene.put("a.csv", case.content)
        with scene.turn() as turn:
            turn.start()
            (drop,) = turn.take()
            scene.clock.wall = NOW
            turn.pipeline.run(drop.id)
            (drop,) = turn.ledger.find_drops()
            facts = turn.ledger.account_facts("main")
            history = turn.ledger.history(drop.id)
    event = next(entry.event for entry in history if type(entry.event) in STATES)
    assert type(event) is case.kind
    assert (drop.state, drop.tries, drop.attempts) == (STATES[case.kind], 1, case.counted)
    assert facts.condition is CONDITIONS[case.effect]
    assert facts.failures == (case.effect == "breaker")
    if case.effect in ("wait", "pause"):
        assert facts.until > NOW
        assert case.due_s is None or facts.until == pytest.approx(NOW + case.due_s)
        assert case.words in facts.why
    elif case.kind is Deferred:
        assert drop.due_at > NOW
    if case.kind is Lost:
        assert (drop.guard, drop.blocks) == ("unknown", False)
    assert case.words in receipt.render_log(drop, history)
    if case.status is not None:
        assert isinstance(event, Accepted | Refused | Deferred | Lost)
        assert event.status == case.status
