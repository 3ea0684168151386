"""The problems found in one file, each at its line and column. Knows the file's marks, and no rule."""

from __future__ import annotations

from dropzone.config.yaml import Document, Mark, Place, subject
from dropzone.errors import Problem


class Findings:
    """Collects problems, so that all are told at once, each one once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.spoiled: set[Place] = set()  # refused already: what depends on them cannot be judged
        self._problems = dict.fromkeys(document.problems)  # the order of finding, without repetitions

    def refuse(self, place: Place, what: str, hint: str = "", *, at_key: bool = False) -> None:
        """Note that `place` is wrong. It is shown at its value, or at its key; a missing one at what should hold it."""
        marks = self.document.keys if at_key or place not in self.document.values else self.document.values
        mark = self._mark(marks, place)
        problem = Problem(line=mark.line, column=mark.column, what=what, hint=hint, subject=subject(place))
        self._problems[problem] = None

    def is_spoiled(self, place: Place) -> bool:
        """Whether `place`, or something around it, was refused already."""
        return bool(self.spoiled) and any(place[:length] in self.spoiled for length in range(1, len(place) + 1))

    def has_spoiled(self, place: Place) -> bool:
        """Whether something in `place` was refused already."""
        return any(spoiled[: len(place)] == place for spoiled in self.spoiled)

    def problems(self) -> tuple[Problem, ...]:
        """All of them, in the order of the file."""
        return tuple(sorted(self._problems, key=lambda problem: (problem.line, problem.column)))

    def _mark(self, marks: dict[Place, Mark], place: Place) -> Mark:
        while place:
            if place in marks:
                return marks[place]
            place, marks = place[:-1], self.document.keys
        return Mark(0, 0)
