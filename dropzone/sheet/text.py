r"""From the bytes of a file to its text: unpacking, decoding, line ends.

This alone knows encodings and gzip. What comes out is always UTF-8 with LF, in pieces of whole characters, so nobody
else has to ask what went in; for a file that is both already it costs one look at each piece.

- A byte order mark decides the encoding (UTF-8, UTF-16); without one the folder's `encoding` does. Nothing is guessed
  from the text: charset detectors guess wrong on exactly the short lists of names that partners send (seen).
- A byte that does not decode becomes one lone surrogate, U+DC00 + byte, in its place, in the three bytes that UTF-8
  would have for it: it can be found by position, never passes for text, and comes out again as the byte it was
  (`as_bytes`). `text_of` and `bytes_of` are the way from these bytes to strings and back.
- CRLF and CR are read as LF, inside quotes too.
- Positions are counted in characters of the decoded text, the byte order mark not counted; lines are physical ones.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

from dropzone.config import Folder
from dropzone.sheet.rules import Repair, Rule, refusal
from dropzone.sheet.source import Counted, Source

CHUNK = 1 << 18  # bytes read at a time; the result does not depend on it

_UNDECODED = "dropzone.undecoded"
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


def text_of(piece: bytes) -> str:
    """The characters of a piece of a `Text`, what did not decode as lone surrogates."""
    return piece.decode("utf-8", "surrogatepass")


def bytes_of(text: str) -> bytes:
    """`text` as a `Text` has it."""
    return text.encode("utf-8", "surrogatepass")


# ----------------------------------------------------------------------------------------------- bytes to text


class Text:
    """The text of one file in pieces, with LF line ends. `repairs` gets what had to be put right for that.

    `bytes_read` is how much of the source was taken so far (packed bytes, for a packed one), `encoding` what it is in.

    Of a part of a file, `start` is where in the file the source begins and `encoding` what the file is in; `stop` is
    how many bytes of the source are meant. Both are behind a line end. What lies behind the stop can still be seen, but
    its repairs do not count. `stop_at` is where in the text the stop is, once it is in sight.
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
        start: int = 0,
        encoding: str = "",
    ) -> None:
        self.encoding = encoding or folder.encoding
        self.stop: int | None = None
        self.stop_at: int | None = None
        self._beyond: Counter[Repair] = Counter()
        self._start = start
        self._given = 0
        self._counted = Counted(source, progress)
        self._folder = folder
        self._compressed = compressed
        self._repairs = repairs
        self.chunk = chunk

    @property
    def bytes_read(self) -> int:
        return self._counted.count

    def tell_progress(self) -> None:
        """Tell it once more, for who waits for something else."""
        self._counted.tell_progress()

    def go_on(self) -> None:
        """Take what lies behind the stop for a part of the text, too."""
        self.stop = self.stop_at = None
        self._repairs.update(self._beyond)

    def pieces(self) -> Iterator[bytes]:
        """The text, in order, cut between characters. Raises `Refusal` where it is none, damaged or too big."""
        chunks = self._unpacked() if self._compressed else self._plain()
        for piece in self._with_lf(self._decoded(self._bounded(chunks))):
            self._given += len(piece)
            if self.bytes_read == self.stop:
                self.stop_at = self._given
            yield piece

    def again(self, source: Source, start: int = 0) -> Iterator[bytes]:
        """The pieces of this text, or of what begins `start` bytes into the file, from a source that gives it anew.

        What is repaired does not count this time, and `progress` is told what it was told last.
        """
        text = Text(
            source,
            self._folder,
            Counter(),
            compressed=self._compressed,
            progress=lambda _: self.tell_progress(),
            chunk=self.chunk,
            start=start,
            encoding=self.encoding,
        )
        return text.pieces()

    def _plain(self) -> Iterator[bytes]:
        return iter(lambda: self._counted.read(self._until_stop()), b"")

    def _until_stop(self) -> int:
        """How much to read next: a stop lies between two chunks."""
        left = (self.stop or 0) - self.bytes_read
        return min(left, self.chunk) if left > 0 else self.chunk

    def _unpacked(self) -> Iterator[bytes]:
        """One chunk at a time, so that a gzip bomb costs no memory; `_bounded` ends it before it costs much time."""
        stream = gzip.GzipFile(fileobj=self._counted, mode="rb")
        try:
            while chunk := stream.read(self.chunk):
                self._counted.tell_progress()  # a bomb reads next to nothing, and must be cancellable all the same
                yield chunk
        except EOFError as error:
            raise refusal(Rule.BROKEN_GZIP, why="it ends too early") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise refusal(Rule.BROKEN_GZIP, why="it is damaged, or no gzip at all") from error

    def _bounded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        total = self._start
        for chunk in chunks:
            total += len(chunk)
            if total > self._folder.guards.max_bytes:
                raise refusal(
                    Rule.TOO_BIG,
                    limit=self._folder.guards.max_bytes,
                    unpacked=" when unpacked" if self._compressed else "",
                )
            yield chunk

    def _decoded(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        head = b""
        while len(head) < _HEAD and (chunk := next(chunks, b"")):
            head += chunk
        encoding = self._encoding(head)
        mark = next((mark for mark, _ in _MARKS if not self._start and head.startswith(mark)), b"")
        pieces = chain([head[len(mark) :]], chunks)
        return self._checked(pieces) if codecs.lookup(encoding).name == "utf-8" else self._recoded(pieces, encoding)

    def _checked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """UTF-8 as it came, but for what does not decode; a character that is cut waits for its other half."""
        rest = b""
        for chunk in chunks:
            piece, rest = _utf_8(rest + chunk, final=False)
            yield piece
        yield _utf_8(rest, final=True)[0]

    def _recoded(self, chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
        decoder = codecs.getincrementaldecoder(encoding)(_UNDECODED)
        for chunk in chunks:
            yield self._noted(decoder.decode(chunk))
        yield self._noted(decoder.decode(b"", final=True))

    def _encoding(self, head: bytes) -> str:
        """Which encoding a file that starts with `head` is in. Raises `Refusal` for what is no text at all."""
        if self._start:  # the beginning of the file has been looked at, and what begins a part means nothing
            return self.encoding
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

    def _noted(self, text: str) -> bytes:
        """`text` in UTF-8; that it reads otherwise there than in the file is a repair."""
        if not text.isascii() and codecs.lookup(self.encoding).name not in _UTF_8:
            self._repairs[Repair.ENCODING] = 1
        return bytes_of(text)

    def _with_lf(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Every CRLF and CR as LF. A CR at the end of a piece waits for the next one: an LF may follow."""
        held = b""
        for piece in pieces:
            text = held + piece
            held = b"\r" if text.endswith(b"\r") else b""
            yield self._lf(text.removesuffix(b"\r"))
        yield self._lf(held)

    def _lf(self, text: bytes) -> bytes:
        if b"\r" not in text:
            return text
        crlf = text.count(b"\r\n")
        counted = self._repairs if self.stop is None or self.bytes_read <= self.stop else self._beyond
        counted[Repair.CRLF] += crlf
        counted[Repair.CR] += text.count(b"\r") - crlf
        return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _utf_8(chunk: bytes, *, final: bool) -> tuple[bytes, bytes]:
    """The whole characters of `chunk`, and the beginning of one at its end; strict first: nearly all is text."""
    if chunk.isascii():
        return chunk, b""
    try:
        used = codecs.utf_8_decode(chunk, "strict", final)[1]
    except UnicodeDecodeError:
        text, used = codecs.utf_8_decode(chunk, _UNDECODED, final)
        return bytes_of(text), chunk[used:]
    return (chunk, b"") if used == len(chunk) else (chunk[:used], chunk[used:])
