"""What may stand in the column of the addresses: an address, or for a suppress folder with a `hash` its digest.

A digest is taken over the trimmed, lower-case address in UTF-8 and written in lower-case hexadecimal, as OptiPub asks
for. An address that goes into a hashed segment as it is would be stored in the clear by somebody who hashes addresses
in order not to do that: hence the leak.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from dropzone.sheet.rules import DIGEST_DIGITS, Fault, Repair, Rule, is_address, mask, why_no_address

_HEX = re.compile("[0-9A-Fa-f]+")
_DIGEST_LENGTHS = frozenset({*DIGEST_DIGITS.values(), 40})  # 40: SHA-1, which no segment takes but partners hand over


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What stands in the column of the addresses: `text` is what is sent, `key` is the same for the same addressee."""

    text: str
    key: str
    repair: Repair | None = None


def read_entry(value: str, kind: str, *, hash_plain: bool) -> Entry | Fault:
    """The entry that `value` (trimmed, without quotes) is for a segment of this `kind` of hash, or what is wrong.

    `kind` is ``none`` where addresses are wanted; they go out as they came. A fault's place is the start of `value`.
    """
    if not value:
        return Fault(Rule.NO_ADDRESS, 0)
    if kind == "none":
        return _address(value)
    if "@" not in value:
        return _digest(value, kind)
    if not hash_plain:
        return Fault(Rule.LEAK, 0, {"masked": mask(value), "hash": kind})
    address = _address(value)
    if isinstance(address, Fault):
        return address
    digest = hashlib.new(kind, address.key.encode(), usedforsecurity=False).hexdigest()
    return Entry(text=digest, key=digest, repair=Repair.HASHED)


def is_entry(text: str) -> bool:
    """Whether `text` is meant as an address or a digest, right or wrong, and so cannot be the name of a column."""
    return "@" in text or _is_digest(text)


def _is_digest(text: str) -> bool:
    return len(text) in _DIGEST_LENGTHS and _HEX.fullmatch(text) is not None


def _address(value: str) -> Entry | Fault:
    if is_address(value):
        return Entry(text=value, key=value.lower())
    if _is_digest(value):
        return Fault(Rule.DIGEST_FOR_ADDRESS, 0, {"found": len(value)})
    return Fault(Rule.ADDRESS, 0, {"masked": mask(value), "why": why_no_address(value)})


def _digest(value: str, kind: str) -> Entry | Fault:
    expected = DIGEST_DIGITS[kind]
    if len(value) != expected:
        return Fault(Rule.DIGEST_LENGTH, 0, {"found": len(value), "hash": kind, "expected": expected})
    if not _HEX.fullmatch(value):
        return Fault(Rule.DIGEST_ALPHABET, 0, {"hash": kind})
    lowered = value.lower()
    return Entry(text=lowered, key=lowered, repair=Repair.LOWERED if lowered != value else None)
