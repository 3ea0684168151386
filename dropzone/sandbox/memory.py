"""What the sandbox remembers: what arrived, what became of it, what its segments hold, which faults wait.

It alone knows this, under one lock, and can be waited on. It knows no socket and judges nothing: a verdict is
handed to it. It stands for what a person would see in OptiPub, which no client can ask for.

Memory is bounded: `KEPT_IMPORTS` arrivals, and members of a segment only while they are few.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dropzone.sandbox.faults import Call, Fault
from dropzone.sandbox.rules import KEPT_MEMBERS, KINDS, STATIC, split_row

KEPT_IMPORTS = 20_000
KEPT_OTHERS = 1_000
KEPT_PER_SEGMENT = 10
FIRST_CREATED_ID = 200_001  # apart from the ids that people put into their configuration
DEFAULT_PUBLICATION = 1

Verdict = Literal["accepted", "refused", "fault", "incomplete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import as it arrived, and what became of it.

    `applied` says whether it took place; `verdict` is ``accepted`` (as documented), ``refused`` (by a rule,
    `reason` says which), ``fault`` (a fault on request decided) or ``incomplete`` (the client left before the
    end of its body). `status` is None where no answer was given. Times are seconds since the epoch; `at` is
    the moment when the head of the request was there, `read_at` when its body was.
    """

    number: int
    at: float
    read_at: float
    segment: int
    kind: str
    mode: str
    headers: tuple[tuple[str, str], ...]
    parts: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    filename: str | None
    content_type: str | None
    columns: tuple[str, ...]
    rows: int
    first: tuple[str, ...]  # the first rows as they came
    sha256: str  # of the file part as far as it came
    file_bytes: int
    bytes: int  # of the request's body as far as it came
    verdict: Verdict
    reason: str
    applied: bool
    status: int | None
    fault: str  # its kind, or empty

    def as_json(self) -> dict[str, Any]:
        """The form of ``GET /sandbox/state``."""
        document = {name: getattr(self, name) for name in self.__slots__}
        document["first_rows"] = [split_row(row) or [row] for row in document.pop("first")]
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """A request that was no import: a segment to create, or something that the API does not have."""

    at: float
    method: str
    path: str
    status: int | None
    reason: str
    fault: str = ""

    def as_json(self) -> dict[str, Any]:
        """The form of ``GET /sandbox/state``."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True, kw_only=True)
class _Segment:
    id: int
    kind: str
    publication_id: int = DEFAULT_PUBLICATION
    name: str = ""
    # None once there were too many to keep; a cleared segment is known again.
    members: dict[str, None] | None = field(default_factory=dict)
    imports: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT_PER_SEGMENT))

    def take(self, addresses: list[str] | None, *, clear: bool) -> None:
        if clear:
            self.members = {}
        if addresses is None or self.members is None:
            self.members = None
            return
        self.members.update(dict.fromkeys(addresses))
        if len(self.members) > KEPT_MEMBERS:
            self.members = None

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "publication_id": self.publication_id,
            "name": self.name,
            "members": None if self.members is None else len(self.members),
            "last_imports": list(self.imports),
        }


_SUBSCRIPTIONS = {"subscribe": "active", "unsubscribe": "inactive", "lead": "lead"}


class Memory:
    """Everything remembered. Each method is one step under the lock; `changed` wakes whoever waits."""

    def __init__(self, declared: Mapping[int, str], *, known_segments: bool) -> None:
        for number, kind in declared.items():
            if kind not in KINDS:
                raise ValueError(f"segment {number}: {kind!a} is none of {', '.join(KINDS)}")
        self._declared = dict(declared)
        self._known_segments = known_segments
        self._changed = threading.Condition()
        self._faults: list[Fault] = []
        self._forget()

    def _forget(self) -> None:
        self._segments = {number: _Segment(id=number, kind=kind) for number, kind in self._declared.items()}
        # By publication: what its subscribers were last asked to be; None once there were too many to keep.
        self._subscriptions: dict[int, dict[str, str] | None] = {}
        self._imports: deque[Import] = deque(maxlen=KEPT_IMPORTS)
        self._others: deque[Other] = deque(maxlen=KEPT_OTHERS)
        self._numbers = 0
        self._requests = 0
        self._refused = 0
        self._applied = 0
        self._disconnects = 0
        self._errors: list[str] = []

    # ------------------------------------------------------------------------------------------------- requests

    def arrive(self, call: Call | None, segment: int | None = None) -> Fault | None:
        """Count a request whose head is there; the fault that is to be done to it, which is used up by this."""
        with self._changed:
            self._requests += 1
            self._changed.notify_all()
            for index, fault in enumerate(self._faults):
                if fault.call == call and fault.segment in (None, segment):
                    self._use_up(index, fault)
                    return fault
            return None

    def _use_up(self, index: int, fault: Fault) -> None:
        if fault.times is None:
            return
        if fault.times > 1:
            self._faults[index] = replace(fault, times=fault.times - 1)
        else:
            del self._faults[index]

    def kind_of(self, segment: int) -> str | None:
        """What kind of segment this is; None where it does not exist and is not made on first use."""
        with self._changed:
            known = self._segments.get(segment)
        return known.kind if known else None if self._known_segments else STATIC

    def settle(self, arrived: Import, addresses: list[str] | None) -> Import:
        """Remember an import under its number, and do to the segment what it asks for if it is `applied`."""
        with self._changed:
            self._numbers += 1
            self._refused += arrived.verdict == "refused"
            arrived = replace(arrived, number=self._numbers)
            self._imports.append(arrived)
            if arrived.applied:
                self._apply(arrived, addresses)
            self._changed.notify_all()
            return arrived

    def _apply(self, arrived: Import, addresses: list[str] | None) -> None:
        self._applied += 1
        segment = self._segments.setdefault(arrived.segment, _Segment(id=arrived.segment, kind=arrived.kind))
        segment.imports.append(arrived.number)
        segment.take(addresses, clear=("clear", "1") in arrived.fields)
        asked = _SUBSCRIPTIONS.get(arrived.mode)
        if asked:
            self._subscribe(segment.publication_id, addresses, asked)

    def _subscribe(self, publication: int, addresses: list[str] | None, asked: str) -> None:
        known = self._subscriptions.setdefault(publication, {})
        if known is None or addresses is None:
            self._subscriptions[publication] = None
            return
        known.update(dict.fromkeys(addresses, asked))
        if len(known) > KEPT_MEMBERS:
            self._subscriptions[publication] = None

    def create(self, document: Mapping[str, Any]) -> int:
        """Make the segment that a checked body asks for; its id."""
        with self._changed:
            number = max([FIRST_CREATED_ID - 1, *self._segments]) + 1
            self._segments[number] = _Segment(
                id=number,
                kind=document["suppression_type"] or STATIC,
                publication_id=document["publication_id"],
                name=document["name"],
            )
            return number

    def note(self, other: Other) -> None:
        """Remember a request that was no import."""
        with self._changed:
            self._refused += bool(other.reason)
            self._others.append(other)
            self._changed.notify_all()

    def note_disconnect(self) -> None:
        """A client left without waiting for its answer, or never spoke our protocol."""
        with self._changed:
            self._disconnects += 1
            self._changed.notify_all()

    def note_error(self, error: BaseException) -> None:
        """An error of the sandbox itself, or of a hook."""
        with self._changed:
            self._errors.append(repr(error))
            self._changed.notify_all()

    # --------------------------------------------------------------------------------------------------- faults

    def add_faults(self, faults: list[Fault]) -> None:
        """Put these behind those that wait; the first that fits a request is done to it."""
        with self._changed:
            self._faults.extend(faults)

    def clear_faults(self) -> None:
        """Forget the faults that wait."""
        with self._changed:
            self._faults.clear()

    # -------------------------------------------------------------------------------------------------- looking

    @property
    def imports(self) -> tuple[Import, ...]:
        """The imports in the order of arrival."""
        with self._changed:
            return tuple(self._imports)

    def state(self) -> dict[str, Any]:
        """Everything as JSON, version 1. Members may be added in later versions, never changed."""
        with self._changed:
            imports, others = tuple(self._imports), tuple(self._others)
            document = {
                "version": 1,
                "requests": self._requests,
                "refused": self._refused,
                "applied": self._applied,
                "disconnects": self._disconnects,
                "errors": list(self._errors),
                "faults": [fault.as_json() for fault in self._faults],
                "segments": [self._segments[number].as_json() for number in sorted(self._segments)],
            }
        # Not under the lock: with thousands of imports this takes long enough to hold up those that arrive.
        document["imports"] = [arrived.as_json() for arrived in imports]
        document["others"] = [other.as_json() for other in others]
        return document

    def segment(self, number: int) -> dict[str, Any] | None:
        """One segment with its members, and what the subscribers of its publication were last asked to be.

        None where there is no such segment; null members or subscriptions where there were too many to keep.
        """
        with self._changed:
            segment = self._segments.get(number)
            if segment is None:
                return None
            subscriptions = self._subscriptions.get(segment.publication_id, {})
            return segment.as_json() | {
                "members": None if segment.members is None else list(segment.members),
                "subscriptions": None if subscriptions is None else dict(subscriptions),
            }

    def reset(self) -> None:
        """Forget everything but the faults and the segments declared at the start; numbers begin at 1 again."""
        with self._changed:
            self._forget()

    def wait_for(self, wanted: Mapping[str, int], timeout_s: float) -> dict[str, int]:
        """Wait until each count reached what is wanted of it, at most `timeout_s`; the counts as they are then."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(count >= wanted[name] for name, count in self._counts().items()), timeout_s
            )
            return self._counts()

    def _counts(self) -> dict[str, int]:
        return {
            "imports": self._numbers,
            "applied": self._applied,
            "requests": self._requests,
            "disconnects": self._disconnects,
        }
