"""What is tried on the rows of one layout, in which order: the fast tiers, from the header and the folder's settings.

1. rows that are valid and canonical already: one pattern, copied as they are
2. rows that are valid but written differently: one pattern, then put right many at a time
3. one row, exactly: no pattern takes it, and only then it costs what a row costs in Python (`rows`)
"""

from __future__ import annotations

from dataclasses import dataclass

from dropzone.config import Folder
from dropzone.sheet.header import Header
from dropzone.sheet.lines import Pattern
from dropzone.sheet.patterns import Engine, Shape, rows
from dropzone.sheet.rewrite import Rewrite


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A pattern, and what makes its rows canonical (None: they are). `hashes` says whether that replaces addresses."""

    pattern: Pattern
    rewrite: Rewrite | None
    hashes: bool


def tiers(header: Header, folder: Folder, engine: Engine) -> tuple[Tier, ...]:
    """The tiers for the rows behind this header, the fastest first."""
    if not engine.trusted:
        return ()
    kinds = _kinds(folder)
    as_written = header.dialect.delimiter == "," and header.order == tuple(range(len(header.names)))
    canonical = [
        Tier(pattern=_pattern(header, kind, engine, loose=False), rewrite=None, hashes=False)
        for kind, digest in kinds
        if as_written and not digest
    ]
    loose = [
        Tier(
            pattern=_pattern(header, kind, engine, loose=True),
            rewrite=Rewrite(header, digest=digest, lower=kind != "address"),
            hashes=digest is not None,
        )
        for kind, digest in kinds
    ]
    return (*canonical, *loose)


def _kinds(folder: Folder) -> list[tuple[str, str | None]]:
    """What may stand in the column of the addresses, and the hash of which it is to be replaced by its digest."""
    kind = folder.hash or "none"
    if kind == "none":
        return [("address", None)]
    return [(kind, None), ("address", kind)] if folder.hash_plain else [(kind, None)]


def _pattern(header: Header, kind: str, engine: Engine, *, loose: bool) -> Pattern:
    delimiter, entry = header.dialect.delimiter, header.order[0]
    return rows(Shape(delimiter=delimiter, width=len(header.names), entry=entry, kind=kind, loose=loose), engine)
