"""A window over the text of a file: whole rows in sight, memory bounded, everything passed once.

This alone knows how much of a file may be in memory, and how far a row may reach: it knows quotes for that, and what a
row means is `rows`'s. Offsets are in bytes, limits in characters, as the rules have them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from dropzone.sheet.hashes import line_counter
from dropzone.sheet.rules import KEPT_OF_LONG_LINE, ROW_LIMIT, Fault, Refusal, Rule, refusal
from dropzone.sheet.text import Text, bytes_of, text_of

_UNDECODABLE = re.compile("[\udc00-\udcff]")
_EMPTY = re.compile(rb"\n++")
_PLAIN = re.compile(rb'[^\x00-\x08\x0b-\x1f"\x7f-\xff\n]*+\n')
_WIDEST = 4  # bytes of a character


class Pattern(Protocol):
    """A compiled pattern for whole rows with their line ends, as many as come."""

    def __call__(self, text: bytes, start: int, stop: int, /) -> int:
        """Where the rows end that begin at `start`, looking no further than `stop`; -1 if it takes none."""


class Peek(NamedTuple):
    """What comes next, without its line end.

    `first` is the physical line number `line`. `whole` goes on to where the quote that is open at its end can close at
    the earliest; where none is open, or none can close, it is the same. Of a line over the limit (`long`) both hold
    only the beginning.
    """

    line: int
    first: str
    whole: str
    long: bool = False


class Lines:
    """A window that moves over the text once, forward, and always shows a whole row or the proof that it is too long.

    It holds at most as many bytes as `limit` characters can take, and a piece more. Looking costs nothing: `run`,
    `take` and `skip` alone move on, so a row that turns out to end earlier than its quotes promised is given back by
    not taking it.
    """

    def __init__(self, text: Text, *, limit: int = ROW_LIMIT, line: int = 1) -> None:
        self.limit = limit  # characters of a row
        self._kept = min(KEPT_OF_LONG_LINE, limit)
        self.line = line  # the number of the physical line that comes next
        self.passed = 0  # bytes of the text before it
        self.refused = False  # whether the pattern that took what came last did not want that line
        self._source = text
        self._pieces = text.pieces()
        self._text = b""
        self._at = 0  # where in `_text` that line begins
        self._count: Callable[[int, int], int] | None = None  # the line ends between two places in it, once needed
        self._reach: int | None = None  # bytes that the next `limit` characters take, once somebody asked
        self._ended = False
        self._refusal: Refusal | None = None

    def more(self) -> bool:
        """Whether anything comes before the text's `stop`; if so, a physical line is in sight, or one over the limit.

        Raises `Refusal` where the text cannot go on.
        """
        if self._source.stop_at is not None and self.passed >= self._source.stop_at:
            return False
        while self._text.find(b"\n", self._at) < 0 and self._grow():
            pass
        if self._at < len(self._text):
            return True
        if self._refusal:
            raise self._refusal
        return False

    def skip_empty(self) -> int:
        """Move past the empty lines that come next, as many as are in sight; how many they were."""
        if not self._text.startswith(b"\n", self._at):
            return 0
        found = _EMPTY.match(self._text, self._at, self._end(len(self._text)))
        if found is None:  # what is in sight is not for us to read
            return 0
        count = found.end() - self._at
        self._move(found.end(), count)
        return count

    def tell_progress(self) -> None:
        """Tell how far it is, for who takes long over what is in sight."""
        self._source.tell_progress()

    def run(self, pattern: Pattern) -> bytes:
        """Move past as many of the rows in sight as `pattern` takes, and give them; empty if it takes none.

        No row in it is over the limit: all together are not. Afterwards `refused` tells whether the next one was in
        sight, so that asking the same pattern for it is in vain.
        """
        sight = self._end(self.limit + 1)
        end = pattern(self._text, self._at, sight)
        if end < 0:
            return b""
        rows = self._text[self._at : end]
        self.refused = self._text.find(b"\n", end, sight) >= 0
        self._count = self._count or line_counter(self._text)
        self._move(end, self._count(self._at, end))
        return rows

    def plain(self) -> str | None:
        """The row that comes next, if it is one line for sure, in sight with its end, and of harmless characters alone.

        These are ASCII without control characters and quotes. None says nothing: `peek` has to be asked.
        """
        found = _PLAIN.match(self._text, self._at, self._end(self.limit + 1))
        return self._text[self._at : found.end() - 1].decode("ascii") if found else None

    def take_plain(self, text: str) -> None:
        """Move past `text`, which `plain` gave, and the line end behind it."""
        self._move(self._at + len(text) + 1, 1)

    def peek(self) -> Peek | None:
        """What comes next, or None at the end of the text. Raises `Refusal` where the text cannot go on."""
        if not self.more():
            return None
        end = self._line_end(0)
        if end is None:
            first = _chars(self._text[self._at : self._at + _WIDEST * self._kept], self._kept)
            return Peek(line=self.line, first=first, whole=first, long=True)
        first = whole = self._ahead(end)
        if self._odd(0, end) and (closing := self._closing_end(end)):
            whole = self._ahead(closing)
        return Peek(line=self.line, first=first, whole=whole)

    def take(self, text: str) -> bool:
        """Move past `text`, which comes next, and the line end behind it; False where the file ends without one."""
        end = self._at + (len(text) if text.isascii() else len(bytes_of(text)))
        ended = end < len(self._text)
        self._pass(end + ended)
        return ended

    def skip(self) -> Fault | None:
        """Move past a line over the limit; the first undecodable byte in it, or None.

        A line of 200 MB goes through the window piece by piece and leaves nothing behind.
        """
        undecodable, passed = None, 0
        while self._at < len(self._text):
            end = self._text.find(b"\n", self._at)
            part = text_of(self._text[self._at : end if end >= 0 else None])
            undecodable = undecodable or self.find_undecodable(part, passed)
            self._pass(end + 1 if end >= 0 else len(self._text), passed)
            if end >= 0:
                break
            passed += len(part)
            self._grow()
        return undecodable

    def find_undecodable(self, text: str, passed: int = 0) -> Fault | None:
        """The first undecodable byte of `text`, which begins `passed` characters into its row; None if all is text."""
        if text.isascii() or not (found := _UNDECODABLE.search(text)):
            return None
        facts = {"byte": ord(found[0]) - 0xDC00, "encoding": self._source.encoding}
        return Fault(Rule.UNDECODABLE, passed + found.start(), facts)

    # --------------------------------------------------------------------------------------------- moving on

    def _pass(self, end: int, passed: int = 0) -> None:
        """Leave what stands before `end` behind; `passed` characters of the line were left behind already."""
        nul = self._text.find(b"\0", self._at, end)
        if nul >= 0:
            line = self.line + self._text.count(b"\n", self._at, nul)
            start = self._text.rfind(b"\n", self._at, nul) + 1
            before = text_of(self._text[start or self._at : nul])
            raise refusal(Rule.NUL, line, len(before) + 1 + (0 if start else passed))
        self._move(end, self._text.count(b"\n", self._at, end))

    def _end(self, reach: int) -> int:
        """Where in sight `reach` bytes end, or what is to be read, if that is earlier."""
        end = min(len(self._text), self._at + reach)
        stop = self._source.stop_at
        return end if stop is None else min(end, self._at + stop - self.passed)

    def _move(self, end: int, lines: int) -> None:
        self.passed += end - self._at
        self._at = end
        self.line += lines
        self._reach = None

    def _grow(self) -> bool:
        """Have more of the text in sight, if there is more and the longest row may need it.

        A row that does not fit is asked for in steps that double, so that each byte is moved about twice.
        """
        rest = len(self._text) - self._at
        if self._ended or rest > _WIDEST * self.limit:
            return False
        parts, size = [self._text[self._at :]], rest
        while size <= min(2 * rest, _WIDEST * self.limit) and not self._ended:
            parts.append(self._next_piece())
            size += len(parts[-1])
        self._text, self._at = b"".join(parts), 0
        self._count = None
        return True

    def _next_piece(self) -> bytes:
        try:
            piece = next(self._pieces, None)
        except Refusal as found:
            # What was read before it comes first: so the outcome does not depend on how much is read at a time.
            self._refusal = found
            piece = None
        self._ended = piece is None
        return piece or b""

    # -------------------------------------------------------------------------- looking ahead, from where we are

    def _ahead(self, end: int) -> str:
        return text_of(self._text[self._at : self._at + end])

    def _line_end(self, start: int) -> int | None:
        """How far away the physical line ends that begins `start` bytes ahead; None where the row is over the limit."""
        end = self._text.find(b"\n", self._at + start, self._at + self.limit + 1)
        if end < 0:  # so many bytes may still be fewer characters
            while self._grow():
                pass
            end = self._text.find(b"\n", self._at + start, self._at + self._limit_reach() + 1)
        if end >= 0:
            return end - self._at
        rest = len(self._text) - self._at
        return rest if self._ended and rest <= self._limit_reach() else None

    def _limit_reach(self) -> int:
        if self._reach is None:
            ahead = self._text[self._at : self._at + _WIDEST * self.limit]
            ascii_only = ahead[: self.limit].isascii()
            self._reach = self.limit if ascii_only else len(bytes_of(_chars(ahead, self.limit)))
        return self._reach

    def _odd(self, start: int, end: int) -> bool:
        return self._text.count(b'"', self._at + start, self._at + end) % 2 == 1

    def _closing_end(self, end: int) -> int | None:
        """The end of the next line with an odd number of quotes; None where none comes within the limit.

        In a well-formed row every quote has its pair, so a quote that is open at the end of a line can only be closed
        on a line with an odd number of them: up to there the row must reach, and there it may end.

        This stays linear however often it comes to nothing. Only a line with an odd number of quotes makes us look
        ahead, and looking ahead stops at the next such line, so the stretches looked over never overlap but in that
        last line.
        """
        while (following := self._line_end(end + 1)) is not None and following > end:
            start, end = end + 1, following
            if self._odd(start, end):
                return end
        return None


def _chars(piece: bytes, most: int) -> str:
    """The first characters of `piece`, whose last one may be cut."""
    return codecs.utf_8_decode(piece, "surrogatepass", False)[0][:most]  # noqa: FBT003
