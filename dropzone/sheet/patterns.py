r"""Whole rows as one pattern: what the fast tiers take without looking at single rows.

A pattern takes a row only if reading it exactly (`rows`, `digests`) would find nothing wrong and come to the same
result. It may well leave valid rows alone, which are then read exactly: an address outside of ASCII, a newline in
quotes, an unusual length. That is the whole proof that nothing is missed, and it is tried on random files.

There are two engines. RE2 (google-re2), where it is installed, never goes back over a character, and has no looking
ahead. Python's own `re` has that, but must be kept from going back: hence all the possessive quantifiers. Each has its
own spelling of the few pieces that differ; which rows they leave alone may differ, results do not.

The text is UTF-8 with lone surrogates for bytes that do not decode (`text`), so it is enough to know bytes: C2 80 to
C2 9F are the control characters C1, and ED A0 to ED BF begin a surrogate. Both engines see bytes, not characters.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from dropzone.sheet.lines import Pattern
from dropzone.sheet.rules import ATOM, DIGEST_DIGITS

try:
    import re2
except ImportError:  # the extra `fast` is not installed
    re2 = None

# Beyond ASCII: any byte but the two that may begin what is forbidden, and these two where they do not.
_WIDE = r"\xc2[\xa0-\xbf]|\xed[\x80-\x9f]"
_ALNUM = "A-Za-z0-9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What rows a pattern is for: `width` cells between delimiters, the one of the addresses at `entry` (from 0).

    `kind` is ``address``, or the kind of digest. A `loose` pattern takes what can be put right, too: blanks around
    cells, upper case in a digest.
    """

    delimiter: str
    width: int
    entry: int
    kind: str
    loose: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A library that runs patterns, and its spelling of what libraries spell differently.

    `many` is any number of bytes of a class or of other sequences, `trimmed` the same without a blank at either end.
    `ended` is a cell and what ends it, of which most have bytes of a class alone, and can be read in one way only;
    `again` is one or more rows. An engine that is not `trusted` takes nothing, and every row is read exactly.
    """

    name: str
    compile: Callable[[bytes], Pattern]
    many: Callable[[str, str], str]
    trimmed: Callable[[str, str], str]
    ended: Callable[[str, str, str], str]
    again: Callable[[str], str]
    address: str
    trusted: bool = True


def _compile_re2(pattern: bytes) -> Pattern:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes as they are
    options.longest_match = True
    options.log_errors = False
    compiled = re2.compile(pattern, options)
    # Where bad rows make runs short, what the module wraps round a match takes a tenth of the time (measured). If it
    # wraps something else one day, it is asked as anybody asks it.
    try:
        match, anchor = compiled._regexp.Match, re2._Anchor.ANCHOR_START  # noqa: SLF001
        known = match(anchor, b"\0", 0, 1)[0][1] == -1  # no row begins like that
    except (AttributeError, TypeError, LookupError):
        known = False
    return (lambda text, start, stop: match(anchor, text, start, stop)[0][1]) if known else _ends(compiled.match)


def _compile_re(pattern: bytes) -> Pattern:
    return _ends(re.compile(pattern).match)


def _ends(match: Callable[[bytes, int, int], re.Match[bytes] | None]) -> Pattern:
    def end(text: bytes, start: int, stop: int) -> int:
        found = match(text, start, stop)
        return found.end() if found else -1

    return end


def _counted_address() -> str:
    """An address by counting, for an engine that cannot look ahead: each way to stay within 64 and 254 characters."""
    locals_ = ((64, 0), (31, 1), (20, 2), (12, 4))  # characters of a part, dots
    local = "|".join(rf"[{ATOM}]{{1,{most}}}(?:\.[{ATOM}]{{1,{most}}}){{0,{dots}}}" for most, dots in locals_)
    label, short = (rf"[{_ALNUM}](?:[{_ALNUM}-]{{0,{most}}}[{_ALNUM}])?" for most in (59, 18))
    last = rf"[A-Za-z](?:[{_ALNUM}-]{{0,18}}[{_ALNUM}])?"
    return rf"(?:{local})@(?:(?:{label}\.){{1,2}}|(?:{short}\.){{3,7}}){last}"


def _foreseen_address() -> str:
    """An address by looking ahead: for the lengths, and for the last dot, which a letter has to follow.

    Groups in groups take several times as long as what they match, so the domain is one row of letters and digits, with
    a dot or hyphens between them.
    """
    local = rf"(?=[^@\n]{{1,64}}+@)[{ATOM}]++(?:\.[{ATOM}]++)*+"
    last = rf"\.[A-Za-z][{_ALNUM}-]{{0,62}}+(?![{_ALNUM}.-])"
    return rf"{local}@(?=[{_ALNUM}.-]{{1,61}}{last})[{_ALNUM}]++(?:(?:\.|-++)[{_ALNUM}]++)*+"


_RE2 = Engine(
    name="RE2",
    compile=_compile_re2,
    many=lambda chars, others: rf"(?:{chars}|{others})*",
    trimmed=lambda chars, others: rf"(?:(?:{chars}|{others})(?:(?:{chars}|{others}| )*(?:{chars}|{others}))?)?",
    ended=lambda _, cell, end: cell + end,
    again=lambda row: rf"(?:{row})+",
    address=_counted_address(),
)
_RE = Engine(
    name="re",
    compile=_compile_re,
    many=lambda chars, others: rf"{chars}*+(?:(?:{others}){chars}*+)*+",
    trimmed=lambda chars, others: rf"(?! )(?:{chars}++|{others}| )*+(?<! )",
    ended=lambda chars, cell, end: rf"(?>{chars}*+{end}|{cell}{end})",
    again=lambda row: rf"(?:{row})++",
    address=_foreseen_address(),
    # Older ones mismatch possessive groups in one another: 3.11.2, as in Debian 12, took wrong rows (seen).
    trusted=sys.version_info >= (3, 11, 5),
)
ENGINES = {engine.name: engine for engine in ((_RE2, _RE) if re2 else (_RE,))}


def best() -> Engine:
    """The fastest engine that is installed."""
    return next(iter(ENGINES.values()))


def engine() -> str:
    """What runs the patterns here, in words for `doctor` and `check -v`."""
    name = best().name
    if not best().trusted:
        return "none, for re of Python before 3.11.5 is not exact (RE2 is: install dropzone[fast])"
    return "RE2" if name == "RE2" else f"Python's {name} (RE2 is faster: install dropzone[fast])"


@lru_cache(maxsize=32)  # folders with different columns take turns in a daemon
def rows(shape: Shape, engine: Engine) -> Pattern:
    """The pattern for one or more rows of this shape, each with its line end."""
    delimiter, behind = _escaped(shape.delimiter), shape.width - shape.entry - 1
    cell = _cell(shape, engine, delimiter)
    # Each cell for itself: counted groups take `re` half as long again.
    row = cell * shape.entry + _entry(shape, engine)
    if behind:
        row += delimiter + cell * (behind - 1) + _cell(shape, engine, r"\n")
    else:
        row += r"\n"
    return engine.compile(engine.again(row).encode("ascii"))


def _cell(shape: Shape, engine: Engine, end: str) -> str:
    """A cell that is not the address, in quotes or without any, and what ends it."""
    quoted = '"' + engine.many(r'[^\x00-\x08\x0a-\x1f"\x7f\xc2\xed]', f'{_WIDE}|""') + '"'
    # Neither quotes nor the delimiter nor a control character; a blank neither, which is added where it may stand.
    chars = rf'[^\x00-\x20"\x7f\xc2\xed{_escaped(shape.delimiter)}]'
    if shape.loose:
        blanks = engine.many(_blank(shape), _blank(shape))
        cell = f"{blanks}(?:{quoted}{blanks}|{engine.many(chars, f'{_WIDE}|{_blank(shape)}')})"
    else:
        cell = f"(?:{quoted}|{engine.trimmed(chars, _WIDE)})"
    return engine.ended(chars, cell, end)


def _entry(shape: Shape, engine: Engine) -> str:
    """The cell of the address or digest."""
    digits = "0-9A-Fa-f" if shape.loose else "0-9a-f"
    entry = engine.address if shape.kind == "address" else f"[{digits}]{{{DIGEST_DIGITS[shape.kind]}}}"
    cell = f'(?:"{entry}"|{entry})'
    if not shape.loose:
        return cell
    blanks = engine.many(_blank(shape), _blank(shape))
    return f"{blanks}{cell}{blanks}"


def _blank(shape: Shape) -> str:
    return "[ ]" if shape.delimiter == "\t" else r"[ \t]"


def _escaped(delimiter: str) -> str:
    return rf"\x{ord(delimiter):02x}"
