r"""From the bytes of a file to its text: unpacking, decoding, line ends, and a window that is bounded in memory.

This alone knows encodings, gzip and how much of a file may be in memory. It knows quotes only to say how far a row
may reach; what a row means is `rows`'s.

- A byte order mark decides the encoding (UTF-8, UTF-16); without one the folder's `encoding` does. Nothing is guessed
  from the text: charset detectors guess wrong on exactly the short lists of names that partners send (seen).
- A byte that does not decode becomes one lone surrogate, U+DC00 + byte, in its place: it can be found by position,
  never passes for text, and comes out again as the byte it was (`as_bytes`).
- CRLF and CR are read as LF, inside quotes too.
- Positions are counted in characters of the decoded text, the byte order mark not counted; lines are physical ones.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from dropzone.config import Folder
from dropzone.sheet.rules import KEPT_OF_LONG_LINE, ROW_LIMIT, Fault, Refusal, Repair, Rule, refusal

CHUNK = 1 << 16  # bytes read at a time; the result does not depend on it

_UNDECODED = "dropzone.undecoded"
_UNDECODABLE = re.compile("[\udc00-\udcff]")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SIGNATURES = (
    (b"\x1f\x8b", Rule.GZIP),
    (b"PK\x03\x04", Rule.ZIP),
    (codecs.BOM_UTF32_LE, Rule.WIDE),  # begins like UTF-16's mark, so it is asked for first
    (codecs.BOM_UTF32_BE, Rule.WIDE),
)
_UTF_8 = ("utf-8", "utf-8-sig")
_HEAD = max(len(start) for start, _ in _SIGNATURES)


class Source(Protocol):
    """What a file has to offer to be read: no seeking, no size."""

    def read(self, size: int, /) -> bytes: ...


def _swap(error: UnicodeError) -> tuple[str | bytes, int]:
    """The codec error handler behind lone surrogates. Python's surrogateescape cannot do it for UTF-16's low bytes."""
    if isinstance(error, UnicodeEncodeError):
        return bytes(ord(char) - 0xDC00 for char in error.object[error.start : error.end]), error.end
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_UNDECODED, _swap)


def as_bytes(text: str) -> bytes:
    """`text` as UTF-8, its undecodable bytes as they came."""
    return text.encode("utf-8", _UNDECODED)


# ----------------------------------------------------------------------------------------------- bytes to text


class _Counted:
    """A source that tells how far it has been read, and always gives as much as is asked for while it can."""

    def __init__(self, source: Source, progress: Callable[[int], None]) -> None:
        self._source = source
        self._progress = progress
        self.count = 0

    def read(self, size: int, /) -> bytes:
        pieces = []
        while size and (piece := self._source.read(size)):
            pieces.append(piece)
            size -= len(piece)
            self.count += len(piece)
        self.tell_progress()
        return b"".join(pieces)

    def tell_progress(self) -> None:
        self._progress(self.count)

    def seek(self, position: int, /) -> int:
        """There for gzip's types only: gzip seeks when it is asked to rewind, which nobody does here."""
        raise NotImplementedError(position)


class Text:
    """The text of one file in pieces, with LF line ends. `repairs` gets what had to be put right for that.

    `bytes_read` is how much of the source was taken so far (packed bytes, for a packed one), `encoding` what it is in.
    """

    def __init__(
        self,
        source: Source,
        folder: Folder,
        repairs: Counter[Repair],
        *,
        compressed: bool,
        progress: Callable[[int], None],
        chunk: int,
    ) -> None:
        self.encoding = folder.encoding
        self._counted = _Counted(source, progress)
        self._limit = folder.guards.max_bytes
        self._compressed = compressed
        self._repairs = repairs
        self._chunk = chunk

    @property
    def bytes_read(self) -> int:
        return self._counted.count

    def pieces(self) -> Iterator[str]:
        """The text, in order. Raises `Refusal` where the file turns out to be none, damaged or too big."""
        chunks = self._unpacked() if self._compressed else self._plain()
        return self._with_lf(self._decoded(self._bounded(chunks)))

    def _plain(self) -> Iterator[bytes]:
        return iter(lambda: self._counted.read(self._chunk), b"")

    def _unpacked(self) -> Iterator[bytes]:
        """One chunk at a time, so that a gzip bomb costs no memory; `_bounded` ends it before it costs much time."""
        stream = gzip.GzipFile(fileobj=self._counted, mode="rb")
        try:
            while chunk := stream.read(self._chunk):
                self._counted.tell_progress()  # a bomb reads next to nothing, and must be cancellable all the same
                yield chunk
        except EOFError as error:
            raise refusal(Rule.BROKEN_GZIP, why="it ends too early") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise refusal(Rule.BROKEN_GZIP, why="it is damaged, or no gzip at all") from error

    def _bounded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        total = 0
        for chunk in chunks:
            total += len(chunk)
            if total > self._limit:
                raise refusal(Rule.TOO_BIG, limit=self._limit, unpacked=" when unpacked" if self._compressed else "")
            yield chunk

    def _decoded(self, chunks: Iterator[bytes]) -> Iterator[str]:
        head = b""
        while len(head) < _HEAD and (chunk := next(chunks, b"")):
            head += chunk
        decoder = codecs.getincrementaldecoder(self._encoding(head))(_UNDECODED)
        mark = next((mark for mark, _ in _MARKS if head.startswith(mark)), b"")
        for chunk in chain([head[len(mark) :]], chunks):
            yield self._noted(decoder.decode(chunk))
        yield self._noted(decoder.decode(b"", final=True))

    def _encoding(self, head: bytes) -> str:
        """Which encoding a file that starts with `head` is in. Raises `Refusal` for what is no text at all."""
        for signature, rule in _SIGNATURES:
            if head.startswith(signature):
                raise refusal(rule, 1, 1)
        if len(head) > 1 and (head[0] == 0) != (head[1] == 0):
            raise refusal(Rule.WIDE, 1, 1)
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                self._repairs[Repair.MARK] = 1
                self._repairs[Repair.ENCODING] += encoding != "utf-8"
                self.encoding = encoding
        return self.encoding

    def _noted(self, text: str) -> str:
        """`text`; that it reads otherwise in UTF-8 than in the file is a repair."""
        if not text.isascii() and codecs.lookup(self.encoding).name not in _UTF_8:
            self._repairs[Repair.ENCODING] = 1
        return text

    def _with_lf(self, texts: Iterator[str]) -> Iterator[str]:
        """Every CRLF and CR as LF. A CR at the end of a piece waits for the next one: an LF may follow."""
        held = ""
        for piece in texts:
            text = held + piece
            held = "\r" if text.endswith("\r") else ""
            yield self._lf(text.removesuffix("\r"))
        yield self._lf(held)

    def _lf(self, text: str) -> str:
        crlf = text.count("\r\n")
        self._repairs[Repair.CRLF] += crlf
        self._repairs[Repair.CR] += text.count("\r") - crlf
        return text.replace("\r\n", "\n").replace("\r", "\n")


# ------------------------------------------------------------------------------------------------- the window


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
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

    It holds at most `ROW_LIMIT` characters twice and one piece more. Looking costs nothing: `take` alone moves on, so
    a row that turns out to end earlier than its quotes promised is given back by not taking it.
    """

    def __init__(self, text: Text) -> None:
        self._source = text
        self._pieces = text.pieces()
        self._text = ""
        self._at = 0  # where in `_text` the line begins that comes next
        self._ended = False
        self._refusal: Refusal | None = None
        self._line = 1

    def peek(self) -> Peek | None:
        """What comes next, or None at the end of the text. Raises `Refusal` where the text cannot go on."""
        self._fill()
        if self._at == len(self._text):
            if self._refusal:
                raise self._refusal
            return None
        end = self._line_end(self._at)
        if end is None:
            first = self._text[self._at : self._at + KEPT_OF_LONG_LINE]
            return Peek(line=self._line, first=first, whole=first, long=True)
        first = whole = self._text[self._at : end]
        if self._odd(self._at, end) and (closing := self._closing_end(end)):
            whole = self._text[self._at : closing]
        return Peek(line=self._line, first=first, whole=whole)

    def take(self, size: int) -> bool:
        """Move past `size` characters and the line end behind them; False where the file ends without one."""
        end = self._at + size
        ended = end < len(self._text)
        self._pass(end + ended)
        return ended

    def skip(self) -> Fault | None:
        """Move past a line over the limit; the first undecodable byte in it, or None.

        A line of 200 MB goes through the window piece by piece and leaves nothing behind.
        """
        undecodable, passed = None, 0
        while self._at < len(self._text):
            end = self._text.find("\n", self._at)
            part = self._text[self._at : end if end >= 0 else None]
            undecodable = undecodable or self.find_undecodable(part, passed)
            self._pass(self._at + len(part) + (end >= 0), passed)
            if end >= 0:
                break
            passed += len(part)
            self._fill()
        return undecodable

    def find_undecodable(self, text: str, passed: int = 0) -> Fault | None:
        """The first undecodable byte of `text`, which begins `passed` characters into its row; None if all is text."""
        if not (found := _UNDECODABLE.search(text)):
            return None
        facts = {"byte": ord(found[0]) - 0xDC00, "encoding": self._source.encoding}
        return Fault(Rule.UNDECODABLE, passed + found.start(), facts)

    def _pass(self, end: int, passed: int = 0) -> None:
        """Leave what stands before `end` behind; `passed` characters of the line were left behind already."""
        nul = self._text.find("\0", self._at, end)
        if nul >= 0:
            line = self._line + self._text.count("\n", self._at, nul)
            start = self._text.rfind("\n", self._at, nul)
            raise refusal(Rule.NUL, line, nul - start if start >= 0 else nul - self._at + 1 + passed)
        self._line += self._text.count("\n", self._at, end)
        self._at = end

    def _fill(self) -> None:
        """Have more than `ROW_LIMIT` characters ahead, or all that there are.

        Up to twice as much is taken at a time, so that each character is moved about once.
        """
        if self._ended or len(self._text) - self._at > ROW_LIMIT:
            return
        parts = [self._text[self._at :]]
        size = len(parts[0])
        while size <= 2 * ROW_LIMIT and not self._ended:
            piece = self._next_piece()
            parts.append(piece)
            size += len(piece)
        self._text, self._at = "".join(parts), 0

    def _next_piece(self) -> str:
        try:
            piece = next(self._pieces, None)
        except Refusal as found:
            # What was read before it comes first: so the outcome does not depend on how much is read at a time.
            self._refusal = found
            piece = None
        self._ended = piece is None
        return piece or ""

    def _line_end(self, start: int) -> int | None:
        """Where the physical line ends that begins at `start`; None where that is over the limit of the row at hand."""
        limit = self._at + ROW_LIMIT
        end = self._text.find("\n", start, limit + 1)
        if end >= 0:
            return end
        return len(self._text) if self._ended and len(self._text) <= limit else None

    def _odd(self, start: int, end: int) -> bool:
        return self._text.count('"', start, end) % 2 == 1

    def _closing_end(self, end: int) -> int | None:
        """The end of the next line with an odd number of quotes; None where none comes within the limit.

        In a well-formed row every quote has its pair, so a quote that is open at the end of a line can only be closed
        on a line with an odd number of them: up to there the row must reach, and there it may end.

        This stays linear however often it comes to nothing. Only a line with an odd number of quotes makes us look
        ahead, and looking ahead stops at the next such line, so the stretches looked over never overlap but in that
        last line.
        """
        while end < len(self._text):
            start = end + 1
            following = self._line_end(start)
            if following is None:
                return None
            end = following
            if self._odd(start, end):
                return end
        return None
