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

from dropzone.sheet.header import Header
from dropzone.sheet.rules import Repair

# Stands for a delimiter in quotes while cells are split and moved: no run has one, for a NUL refuses the file.
_HIDDEN = b"\0"


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
        blank = b"[" + self._blanks + b"]"
        self._around = re.compile(b"(?<=" + separator + b")" + blank + b"++|" + blank + b"++(?=" + separator + b")")
        self._on_both_sides = re.compile(
            separator + blank + b"++(?!" + separator + b")" + cell + b"*+(?<=" + blank + b")"
        )
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
        if not any(bytes([blank]) in text for blank in self._blanks):
            return text
        both = len(self._on_both_sides.findall(b"\n" + text))
        trimmed, sides = self._around.subn(b"", b"\n" + text)
        repairs[Repair.BLANKS] += sides - both
        return trimmed[1:]

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


def _hashing(kind: str) -> Callable[[bytes, Counter[Repair]], bytes]:
    new: Callable[[bytes], hashlib._Hash] = getattr(hashlib, kind)

    def hashed(text: bytes, repairs: Counter[Repair]) -> bytes:
        """Digests in place of addresses, in quotes where these were."""
        entries, rests = _split_entries(text.lower() if b"," not in text else text)
        repairs[Repair.HASHED] += len(entries)
        digests = [
            b'"' + new(entry[1:-1].lower()).hexdigest().encode() + b'"'
            if entry.startswith(b'"')
            else new(entry.lower()).hexdigest().encode()
            for entry in entries
        ]
        return b"\n".join(map(bytes.__add__, digests, rests)) + b"\n"

    return hashed
