"""The second tier: rows that are valid but written differently, put right many at a time.

Knows how a run of rows, all of one shape and all valid, becomes canonical, and counts what it repairs. It asks no row
anything: each step is one call for the whole run. What is valid is `patterns`'s business, and what canonical means is
said by `rows` and `header`; that both come to the same is tried on random files.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Protocol, cast

from dropzone.sheet.header import Header
from dropzone.sheet.rules import Repair

# Stands for a delimiter in quotes while cells are split and moved: no run has one, for a NUL refuses the file.
_HIDDEN = b"\0"


class Hashed(Protocol):
    """A text that was hashed."""

    @property
    def digest_size(self) -> int: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...


New = Callable[[bytes], Hashed]


class Rewrite:
    """Makes runs of one layout canonical. `digest` names the hash of which the addresses are to be replaced, if any."""

    def __init__(self, header: Header, *, digest: str | None, lower: bool) -> None:
        self._delimiter = header.dialect.delimiter.encode()
        self._width = len(header.names)
        self._order = header.order
        self._blanks = header.dialect.blanks.encode()
        self._entries = _hashing(digest) if digest else _lowered if lower else None
        separator = b"[" + re.escape(self._delimiter) + b"\n]"
        cell = b"[^" + re.escape(self._delimiter) + b"\n]"
        # Both begin with the blank itself, of which there are few: `re` jumps from one to the next.
        blanks = [bytes([each]) for each in self._blanks]
        begins = [each + b"(?<!" + cell + each + b")[" + self._blanks + b"]*+" for each in blanks]
        self._leading = dict(zip(blanks, map(re.compile, begins), strict=True))
        self._trailing = {each: re.compile(each + b"(?=" + separator + b")") for each in blanks}
        self._with_comma = re.compile(b"(" + separator + b')((?!")[^,' + self._delimiter + b"\n]*+," + cell + b"*+)")

    def __call__(self, run: bytes, repairs: Counter[Repair]) -> bytes:
        """`run`, canonical; `repairs` gets what that took."""
        text = self._hide(run) if b'"' in run else run
        if self._order != tuple(range(self._width)):
            text = self._reordered(text)
        text = self._trimmed(text, repairs)
        if self._delimiter != b",":
            text = self._with_commas(text, repairs)
        if self._entries:
            text = self._entries(text, repairs)
        return text.replace(_HIDDEN, self._delimiter)

    def _hide(self, run: bytes) -> bytes:
        """`run`, the delimiters in quotes hidden. Two quotes in quotes only end them and begin them anew."""
        parts = run.split(b'"')
        parts[1::2] = b'"'.join(parts[1::2]).replace(self._delimiter, _HIDDEN).split(b'"')
        return b'"'.join(parts)

    def _reordered(self, text: bytes) -> bytes:
        """The columns that are written, in their order."""
        cells = text[:-1].replace(b"\n", self._delimiter).split(self._delimiter)
        columns = [cells[index :: self._width] for index in self._order]
        return b"\n".join(map(self._delimiter.join, zip(*columns, strict=True))) + b"\n"

    def _trimmed(self, text: bytes, repairs: Counter[Repair]) -> bytes:
        """No blanks around the cells; a cell counts once, whether it had some on one side or on both."""
        blanks = [blank for blank in self._leading if blank in text]
        if any(self._trailing[blank].search(text) for blank in blanks):
            return self._stripped(text, repairs)
        for blank in blanks:
            text, count = self._leading[blank].subn(b"", text)
            repairs[Repair.BLANKS] += count
        return text

    def _stripped(self, text: bytes, repairs: Counter[Repair]) -> bytes:
        """The same, cell by cell; a line end is a cell meanwhile. Three times as slow, but so are all other ways."""
        line_end = self._delimiter + b"\n" + self._delimiter
        cells = text.replace(b"\n", line_end).split(self._delimiter)
        stripped = [cell.strip(self._blanks) for cell in cells]
        repairs[Repair.BLANKS] += sum(map(bytes.__ne__, cells, stripped))
        return self._delimiter.join(stripped).replace(line_end, b"\n")

    def _with_commas(self, text: bytes, repairs: Counter[Repair]) -> bytes:
        """Commas between the cells, and quotes round those that hold one."""
        if b"," in text:
            quoted, count = self._with_comma.subn(rb'\1"\2"', b"\n" + text)
            text = quoted[1:]
            repairs[Repair.QUOTED] += count
        return text.replace(self._delimiter, b",")


def _split_entries(text: bytes) -> tuple[list[bytes], list[bytes]]:
    """The first cell of each row, and what follows it."""
    parted = [row.partition(b",") for row in text[:-1].split(b"\n")]
    return [first for first, _, _ in parted], [comma + rest for _, comma, rest in parted]


def _lowered(text: bytes, repairs: Counter[Repair]) -> bytes:
    """Digests in lower case."""
    entries, rests = _split_entries(text)
    lowered = [entry.lower() for entry in entries]
    repairs[Repair.LOWERED] += sum(map(bytes.__ne__, entries, lowered))
    return b"\n".join(map(bytes.__add__, lowered, rests)) + b"\n"


def _constructor(kind: str) -> New:
    """Python's own implementation, where it has one under a name of its own; else what `hashlib` has.

    For texts as short as an address OpenSSL's takes up to twice as long, for what it sets up each time (measured).
    """
    for module in (f"_{kind}", "_sha2"):
        with suppress(ImportError, AttributeError):
            return cast("New", getattr(import_module(module), kind))
    return cast("New", getattr(hashlib, kind))


def _hashing(kind: str) -> Callable[[bytes, Counter[Repair]], bytes]:
    new = _constructor(kind)
    size = new(b"").digest_size

    def hashed(text: bytes, repairs: Counter[Repair]) -> bytes:
        """Digests in place of addresses, in quotes where these were."""
        repairs[Repair.HASHED] += text.count(b"\n")
        if b"," not in text and b'"' not in text:  # nothing but addresses: all of them in one go
            digests = b"".join([new(entry).digest() for entry in text[:-1].lower().split(b"\n")])
            return digests.hex("\n", size).encode() + b"\n"
        entries, rests = _split_entries(text)
        written = [
            b'"' + new(entry[1:-1].lower()).hexdigest().encode() + b'"'
            if entry.startswith(b'"')
            else new(entry.lower()).hexdigest().encode()
            for entry in entries
        ]
        return b"\n".join(map(bytes.__add__, written, rests)) + b"\n"

    return hashed
