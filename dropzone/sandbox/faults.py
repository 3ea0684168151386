"""What the sandbox can be asked to do wrong, and in which words.

It alone knows the kinds of faults and their settings; what a kind does to a connection is the server's business.

    kind            what the client meets                                            applied over here
    status          the answer `status`, `headers`, `body` to a request read whole   no
    login_redirect  a redirect to the login page, as for a dead key                  no
    bad_json        201 with a body that is no JSON                                  yes
    cut_body        201 whose body ends before its declared length                   yes
    wrong_length    201 whose declared length is shorter than its body               yes
    drop_before     the connection reset before any of the body was read             never
    drop_during     the connection reset after `after_bytes` of the body             never
    drop_after      the connection closed without an answer to a whole request       no
    lost_answer     the same, but the import took place                              yes
    slow            the usual answer; late with `seconds`, or with `stall_after` too
                    after a pause in reading                                         yes
    early           the answer `status` after `after_bytes` of the body, then close  never

`seconds` goes with every kind: so long it waits before the answer, or before it ends the connection; with
`stall_after` it waits while reading instead, once that many bytes came. `applied: true` or `false` overrides
the last column where it does not say never. An import that the rules refuse is not applied whatever a fault says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

Kind = Literal[
    "status",
    "login_redirect",
    "bad_json",
    "cut_body",
    "wrong_length",
    "drop_before",
    "drop_during",
    "drop_after",
    "lost_answer",
    "slow",
    "early",
]
Call = Literal["import", "create"]

_APPLIED = frozenset({"bad_json", "cut_body", "wrong_length", "lost_answer", "slow"})
_CUT_SHORT = frozenset({"drop_before", "drop_during", "early"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing to do wrong, `times` times (None: until it is cleared), to requests of `segment` (None: of any).

    `call` is ``import`` or ``create``. `reset` ends drop_after and lost_answer with a reset instead of an
    orderly close. Use `Fault.read` to build one: it checks everything.
    """

    kind: Kind
    times: int | None = 1
    segment: int | None = None
    call: Call = "import"
    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    after_bytes: int = 0
    seconds: float = 0.0
    stall_after: int | None = None
    applied: bool | None = None
    reset: bool = False

    @property
    def applies(self) -> bool:
        """Whether an import that the rules allow takes place all the same."""
        if self.applied is not None and not self.cuts_short:
            return self.applied
        return self.kind in _APPLIED

    @property
    def cuts_short(self) -> bool:
        """Whether the body is not read to its end, so that nothing can be said about it."""
        return self.kind in _CUT_SHORT

    @property
    def resets(self) -> bool:
        """Whether a connection without an answer ends with a reset rather than an orderly close."""
        return self.reset or self.kind in ("drop_before", "drop_during")

    def reads(self, length: int) -> int:
        """How many bytes of a body of `length` are read."""
        if self.kind == "drop_before":
            return 0
        return min(length, self.after_bytes) if self.cuts_short else length

    def as_json(self) -> dict[str, Any]:
        """The form that `read` takes."""
        return asdict(self) | {"headers": dict(self.headers)}

    @classmethod
    def read(cls, document: object) -> Self:
        """The fault that a JSON object describes. Raises ValueError, in words, where it describes none."""
        if not isinstance(document, Mapping):
            raise ValueError("a fault is a JSON object")  # noqa: TRY004 -- it came over the wire, no caller is to blame
        for name, value in document.items():
            _check_type(name, value)
        if document.get("kind") not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}")
        _check_values(document)
        headers = tuple(document.get("headers", {}).items())
        return cls(**{**document, "headers": headers})


_TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "times": (int, type(None)),
    "segment": (int, type(None)),
    "call": (str,),
    "status": (int,),
    "headers": (dict,),
    "body": (str,),
    "after_bytes": (int,),
    "seconds": (int, float),
    "stall_after": (int, type(None)),
    "applied": (bool, type(None)),
    "reset": (bool,),
}


def _check_type(name: object, value: object) -> None:
    if name not in _TYPES:
        raise ValueError(f"a fault has no {name!a}; it has {', '.join(_TYPES)}")
    if type(value) not in _TYPES[str(name)]:  # exact: true would pass for 1 otherwise
        raise ValueError(f"{name} must be {' or '.join(kind.__name__ for kind in _TYPES[str(name)])}")


def _check_values(document: Mapping[str, Any]) -> None:
    if document.get("call", "import") not in get_args(Call):
        raise ValueError(f"call must be one of {', '.join(get_args(Call))}")
    if not 200 <= document.get("status", 200) <= 599:
        raise ValueError("status must lie between 200 and 599")
    for name, least in (("times", 1), ("after_bytes", 0), ("seconds", 0), ("stall_after", 0)):
        value = document.get(name)
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"{name} must be {least} or more")
    for pair in document.get("headers", {}).items():
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() for text in pair):
            raise ValueError("headers must be printable ASCII strings")
