# ruff: noqa: E501 - tables of odd pieces of text, as they come
"""Small files that are as mean as we can make them, and folders to read them by; all by chance, from one seed."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
from dataclasses import dataclass
from random import Random
from typing import Any

from dropzone.config import Folder

_ADDRESSES = [
    "a@b.co", "A@B.co", "b@b.co", "jane.doe+tag@mail.example.co.uk", "o'hara!#$%&*/=?^_`{|}~-@example.com",
    "1@2.x3", "x@xn--mller-kva.example", "a@b--c.com", "a@b.c-d", "ü@b.co", "Ü@b.co", "jane@müller.example", "用户@例子.公司",
    "\u212a@b.co", "k@b.co", "İ@b.co", "a" * 64 + "@example.com", "a" * 31 + "." + "b" * 32 + "@b.co",
    "a.b.c.d.e.f@b.co", "a@" + "b" * 63 + ".com", "a@" + "b" * 60 + "." + "c" * 61 + ".co", "a@" + ".".join("bcdefghij") + ".k",
    "a@" + ".".join(["b" * 61] * 4) + ".comx", "a" * 20 + ".b." + "c" * 20 + "@" + "d" * 19 + ".x.y.z.com",
]  # fmt: skip
_NO_ADDRESSES = [
    "", "jane", "jane@", "@b.co", "jane@doe@b.co", "jane@b", "jane doe@b.co", "a..b@b.co", ".a@b.co", "a.@b.co",
    "a@.com", "a@b.com.", "a@b..co", "a@-b.co", "a@b-.co", "a@b.co-", "a@127.0.0.1", "a@b.1", "a@b.1a", "a@b_c.com",
    "a" * 65 + "@b.co", "a@" + "b" * 64 + ".com", "a@" + "b." * 130 + "com", "a@" + ".".join(["b" * 61] * 4) + ".comxy",
    "a@b.co\u00a0", "\ufeffa@b.co", "a@b.co\u200b", "<a@b.co>", "a@b.co;b@b.co", "a" * 32 + "." + "b" * 32 + "@b.co",
    "a(b@b.co", "a@b,co",
]  # fmt: skip
_WORDS = [
    "", "", "x", "Ann", "Lou Ann", "1,5", "a;b", "a\tb", " ", "\t", "  ", "Zoë", "\u00a0x", "x\u0085", "😀", "€",
    "\ud7ff", "\ue000", "-", "=1+1", "'", "x" * 30, "\u2028", "a@b.co", "Ü" * 12, "x\na@b.co,x\nc@b.co,1",
    "\x7f", "\x9f", "\xa0", "ß",
]  # fmt: skip
_ODD = [
    '"', '""', '"""', ",", ";", "\t", " ", "\n", "\r", "\r\n", "\n\n", ",,\n", '"\n', '\n"', "\x07", "\x1f", "\x80", '" ',
    ' "', '",', ',"', "é", "\ufeff", "\x0b", "\x0c", "\x1c", "\x85",
]  # fmt: skip
_BYTES = [
    b"\xff", b"\x80", b"\xc3", b"\xc2", b"\xed\xa0\x80", b"\xed\xb2\x80", b"\xf0\x9f", b"\xe2\x82",
    b"\0", b"\xef\xbb\xbf", b"\xc0\x80",
]  # fmt: skip
_HASHES: list[dict[str, Any]] = [
    {"mode": "suppress", "hash": "none"},
    *(
        {"mode": "suppress", "hash": kind, "hash_plain": plain}
        for kind in ("md5", "sha256", "sha512")
        for plain in (False, True)
    ),
]
_MODES: list[dict[str, Any]] = [
    {"mode": "lead"},
    {"mode": "unsubscribe"},
    {"mode": "subscribe", "source_campaign": 1, "source_partner": 2},
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file, its folder, and how it is read."""

    number: int
    content: bytes
    keys: dict[str, Any]
    compressed: bool
    chunk: int
    row_limit: int

    @property
    def folder(self) -> Folder:
        """The folder that `keys` say."""
        place = {"name": "acme", "base": "/srv", "path": "/srv/inbox/acme", "account": "main", "segment_id": 1}
        return Folder.from_settings(json.dumps({**place, "mode": "lead", **self.keys}))


def mean(seed: int) -> Case:
    """The file and folder of one number; the same for the same number."""
    chance = Random(seed)
    keys = _keys(chance)
    encoding, mark = chance.choice(
        [("utf-8", b"")] * 6
        + [("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE)]
        + [(keys.get("encoding", "utf-8"), b"")]
    )
    delimiter = (
        chance.choice(",,,,;\t")
        if keys["delimiter"] == "auto"
        else {"tab": "\t"}.get(keys["delimiter"], keys["delimiter"])
    )
    text = _text(chance, keys, delimiter)
    content = mark + text.encode(encoding, "surrogatepass" if encoding == "utf-8" else "ignore")
    content = _damaged(chance, content)
    compressed = chance.random() < 0.1
    if compressed:
        content = gzip.compress(content, 1)
        if chance.random() < 0.1:
            content = content[: chance.randrange(len(content))]
    return Case(
        number=seed,
        content=content,
        keys=keys,
        compressed=compressed,
        chunk=chance.choice([1, 2, 3, 5, 7, 11, 16, 17, 31, 64, 100, 256, 1 << 10, 1 << 16]),
        row_limit=chance.choice([1 << 20, 1 << 20, 1 << 20, 12, 25, 40, 64, 90]),
    )


def _keys(chance: Random) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "delimiter": chance.choice([",", ",", ",", "auto", ";", "tab"]),
        "unknown_columns": chance.choice(["reject", "prefix", "keep", "drop"]),
        "repeats": chance.choice(["keep", "keep", "last", "refuse"]),
        "bad_rows": chance.choice([0, 1, 3, "30%", "100%", "100%"]),
    }
    keys |= chance.choice([*_HASHES, *_MODES, *_MODES])
    if chance.random() < 0.2:
        keys["rename"] = {"E-Mail": "email", "name": "varr_name"}
    if chance.random() < 0.15:
        keys["encoding"] = chance.choice(["cp1252", "iso8859-15", "utf-8-sig", "shift_jis", "utf-8", "latin-1"])
    if chance.random() < 0.05:
        keys["guards"] = {"max_bytes": chance.randrange(1, 400)}
    return keys


def _text(chance: Random, keys: dict[str, Any], delimiter: str) -> str:
    names = _names(chance)
    end = chance.choice(["\n", "\n", "\n", "\r\n", "\r", None])
    entries = _entries(chance, keys)
    calm = chance.choice([0.0, 0.0, 0.02, 0.1, 0.4])  # how often something odd happens
    lines = [_header(chance, names, delimiter)] if names else []
    column = next((index for index, name in enumerate(names) if name.strip(' "').lower() in ("email", "e-mail")), 0)
    style = chance.choice([0.0, 0.0, 0.3, 1.0]), chance.choice([0.0, 0.0, 0.3])  # quotes, blanks
    for _ in range(chance.choice([0, 1, 3, 8, 20, 40])):
        cells = [
            _cell(chance, chance.choice(_WORDS if chance.random() < 0.5 else _WORDS[:5]), delimiter, style)
            for _ in names or [""]
        ]
        cells[column] = _cell(chance, chance.choice(entries), delimiter, style)
        line = delimiter.join(cells)
        if chance.random() < calm:
            line = _odd(chance, line, delimiter)
        lines.append(line)
    if chance.random() < 0.2:
        lines.insert(
            chance.randrange(len(lines) + 1), chance.choice(["", " ", delimiter, "\t", ", ,", delimiter * 2 + " "])
        )
    text = "".join(line.replace("\n", end or "\n") + (end or chance.choice(["\n", "\r\n", "\r"])) for line in lines)
    return text if chance.random() < 0.7 else text.removesuffix(end or "\n")


def _names(chance: Random) -> list[str]:
    known = ["varr_a", "varr_name", "tag-add", "VARR_B", " varr_c ", '"varr_d"']
    unknown = ["name", "First Name", "", "varr_a", "x\u00e9", "varr_-"]
    names = chance.sample(known, chance.choice([0, 0, 1, 1, 2, 4]))
    if chance.random() < 0.25:
        names += chance.sample(unknown, chance.choice([1, 2]))
    email = chance.choice(["email"] * 8 + ["Email", '"email"', " email", "E-Mail", "mail"])
    names.insert(0 if chance.random() < 0.6 else chance.randrange(len(names) + 1), email)
    return [] if chance.random() < 0.05 else names


def _header(chance: Random, names: list[str], delimiter: str) -> str:
    return delimiter.join(names)


def _entries(chance: Random, keys: dict[str, Any]) -> list[str]:
    """What stands in the column of the addresses of one file: mostly one kind, and mostly good."""
    kind = keys.get("hash", "none")
    addresses = chance.sample(_ADDRESSES, chance.choice([1, 3, 10])) + [
        f"{chance.randrange(30)}@b.co" for _ in range(8)
    ]
    digests = [hashlib.new(kind if kind != "none" else "md5", word.encode()).hexdigest() for word in addresses[:6]]
    digests += [digest.upper() for digest in digests[:2]] if chance.random() < 0.5 else []
    wanted = addresses if kind == "none" or (keys.get("hash_plain") and chance.random() < 0.6) else digests
    rare = [*addresses[:3], *digests[:3], *chance.sample(_NO_ADDRESSES, 3), digests[0][1:], digests[0][1:] + "g"]
    return wanted * 12 + rare if chance.random() < 0.4 else wanted


def _cell(chance: Random, word: str, delimiter: str, style: tuple[float, float]) -> str:
    quotes, blanks = style
    if chance.random() < quotes or (chance.random() < 0.97 and any(char in word for char in (delimiter, '"', "\n"))):
        if chance.random() < 0.1:
            word += chance.choice(['"', "\n", delimiter, " "])
        word = '"' + word.replace('"', '""') + '"'
    if chance.random() < blanks:
        blank = [" ", "  ", "\t"]
        word = chance.choice(["", *blank]) + word + chance.choice(["", *blank])
    return word


def _odd(chance: Random, line: str, delimiter: str) -> str:
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(line) + 1)
        match chance.randrange(4):
            case 0:
                line = line[:at] + chance.choice(_ODD) + line[at:]
            case 1:
                line = line[:at] + line[at + 1 :]
            case 2:
                line = line + delimiter + chance.choice(_WORDS)
            case _:
                line = line[:at] + chance.choice(_ODD + _WORDS) + line[at + 1 :]
    return line


def _damaged(chance: Random, content: bytes) -> bytes:
    if chance.random() < 0.12:
        for _ in range(chance.choice([1, 1, 3])):
            at = chance.randrange(len(content) + 1)
            piece = chance.choice(_BYTES[:-3] if chance.random() < 0.9 else _BYTES)
            content = content[:at] + piece + content[at + chance.choice([0, 0, 1]) :]
    return content
