"""The problems found in one file, each at its line and column. Knows the file's marks, and no rule."""

from __future__ import annotations

from dropzone.config.yaml import MAX_PROBLEMS, TOO_MANY, Document, Mark, Place, Places, subject
from dropzone.errors import Problem


class TooManyError(Exception):
    """Enough was found. Stays in this package."""


class Findings:
    """Collects problems, so that all are told at once, each one once, up to as many as anybody can mend in one go."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.spoiled = Places()  # refused already: what depends on them cannot be judged
        self._problems = dict.fromkeys(document.problems)  # the order of finding, without repetitions
        self._is_full = False

    def refuse(self, place: Place, what: str, hint: str = "", *, at_key: bool = False) -> None:
        """Note that `place` is wrong. It is shown at its value, or at its key; a missing one at what should hold it.

        Raises TooManyError where nothing further needs to be looked for.
        """
        marks = self.document.keys if at_key or place not in self.document.values else self.document.values
        mark = self._mark(marks, place)
        problem = Problem(line=mark.line, column=mark.column, what=what, hint=hint, subject=subject(place))
        if problem not in self._problems and len(self._problems) >= MAX_PROBLEMS:
            self._is_full = True
            raise TooManyError
        self._problems[problem] = None

    def is_spoiled(self, place: Place) -> bool:
        """Whether `place`, or something around it, was refused already."""
        return self.spoiled.any_around(place)

    def has_spoiled(self, place: Place) -> bool:
        """Whether something in `place` was refused already."""
        return self.spoiled.any_in(place)

    def problems(self) -> tuple[Problem, ...]:
        """All of them, in the order of the file."""
        told = sorted(self._problems, key=lambda problem: (problem.line, problem.column))
        what, hint = TOO_MANY
        return (*told, Problem(line=0, column=0, what=what, hint=hint)) if self._is_full else tuple(told)

    def _mark(self, marks: dict[Place, Mark], place: Place) -> Mark:
        while place:
            if place in marks:
                return marks[place]
            place, marks = place[:-1], self.document.keys
        return Mark(0, 0)
