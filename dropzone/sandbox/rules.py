"""What OptiPub's pages ask of a request, read as strictly as they can be read.

It alone knows the rules: the CSV, the parts of an import, the body that creates a segment. They were written
from the vendor's description and not from the client, and must stay so: a misreading shared by both sides
would pass every test. It knows no socket, no clock and nothing of earlier requests.

What comes is judged while it streams in and is never held whole. The first broken rule is kept as `reason`;
an empty reason means that nothing is wrong.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from functools import lru_cache

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

# The parser warns of malformed bodies; we keep the reason ourselves, and without any handler Python would
# print its warnings to the standard error of whoever runs the tests.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())

STATIC = "static"
DIGEST_LENGTHS = {"md5": 32, "sha256": 64, "sha512": 128}
SUPPRESSION_KINDS = ("none", *DIGEST_LENGTHS)
KINDS = (STATIC, *SUPPRESSION_KINDS)

# Bounds of our own, so that memory stays small; OptiPub documents none.
ROW_LIMIT = 4 << 20  # bytes of one row; four times what a careful client sends
FIELD_LIMIT = 64 << 10  # bytes of one field that is no file
PART_LIMIT = 100
BOUNDARY_LIMIT = 70  # RFC 2046, 5.1.1
KEPT_ROWS = 50
KEPT_CHARS = 64 << 10  # of the kept rows together
KEPT_MEMBERS = 100_000

# ----------------------------------------------------------------------------------------------------- the CSV

_TAG_COLUMNS = [f"{subject}tag-{action}" for subject in ("", "subscriber-") for action in ("add", "remove", "replace")]
_COLUMN = re.compile(rf"email|varr_[a-z0-9_]+|{'|'.join(_TAG_COLUMNS)}")
_PLAIN_COLUMN = re.compile(r"[a-z][a-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_CELL = r'(?:"[^"]*+(?:""[^"]*+)*+"|[^",]*+)'
_ROW = re.compile(rf"{_CELL}(?:,{_CELL})*+")
_NEXT_CELL = re.compile(rf"(?:^|,)({_CELL})")
_ADDRESS = r'[^\s@,"]++@[^\s@,"]++'


def split_row(row: str) -> list[str] | None:
    """The cells of one row without its line end; None where a quoted cell has something outside its quotes."""
    if '"' not in row:
        return row.split(",")
    if not _ROW.fullmatch(row):
        return None
    return [cell[1:-1].replace('""', '"') if cell[:1] == '"' else cell for cell in _NEXT_CELL.findall(row)]


@lru_cache(maxsize=64)
def _subject(kind: str) -> re.Pattern[str]:
    """What a first cell must look like in a segment of `kind`."""
    return re.compile(_subject_source(kind))


@lru_cache(maxsize=64)
def _plain_rows(kind: str, columns: int) -> re.Pattern[str]:
    """Whole rows without any quotes: row by row, 2 GiB would keep a core busy for minutes."""
    return re.compile(rf'(?:{_subject_source(kind)}(?:,[^",\n]*+){{{columns - 1}}}\n)++')


def _subject_source(kind: str) -> str:
    length = DIGEST_LENGTHS.get(kind)
    return f"[0-9a-f]{{{length}}}" if length else _ADDRESS


class Rows:
    """One CSV, judged while it comes. Memory: one row, the first rows, and at most `KEPT_MEMBERS` addresses.

    `columns` is the header (``email`` alone where there is none), `count` the rows without it, `size` the
    bytes, `first` the first rows as they came, `addresses` the first cell of every row, or None when there
    are too many to keep. After a refusal only `size` and `sha256` go on to the end of the file.
    """

    def __init__(self, kind: str, *, plain_columns: bool = False) -> None:
        self.columns: tuple[str, ...] = ()
        self.count = 0
        self.size = 0
        self.reason = ""
        self.first: list[str] = []
        self.addresses: list[str] | None = []
        self._kind = kind
        self._plain_columns = plain_columns
        self._sha256 = hashlib.sha256()
        self._lines = 0
        self._tail = b""  # what came after the last line end
        self._open: list[str] = []  # the lines so far of a row that has a line end inside its quotes
        self._open_chars = 0
        self._kept_chars = 0

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the bytes that came so far."""
        return self._sha256.hexdigest()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        self._sha256.update(piece)
        self.size += len(piece)
        if self.reason:
            return
        cut = piece.rfind(b"\n") + 1
        if cut:
            block, self._tail = self._tail + piece[:cut], piece[cut:]
            self._judge(block)
        else:
            self._tail += piece
        if len(self._tail) > ROW_LIMIT:
            self._refuse("a row is longer than the sandbox reads")

    def finish(self) -> None:
        """Judge what has no line end, and the file as a whole."""
        if self._tail and not self.reason:
            self._judge(self._tail + b"\n")
        if self._open:
            self._refuse("a quote never closes")
        if not self.columns:
            self._refuse("the file is empty")
        self._tail = b""
        self._open.clear()

    def _refuse(self, why: str) -> None:
        if not self.reason:
            self.reason = f"line {self._lines}: {why}" if self._lines else why

    def _judge(self, block: bytes) -> None:
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            return self._refuse(f"not UTF-8 {error.start} bytes later")
        if found := _CONTROL.search(text):
            return self._refuse(f"a control character, {found[0]!a}, {found.start()} characters later")
        if not self.columns:  # the pattern for plain rows needs to know how many there are
            line, _, text = text.partition("\n")
            self._line(line)
        if text and not self.reason and not self._take_plain(text):
            self._take_lines(text)
        return None

    def _take_plain(self, text: str) -> bool:
        """Take all rows of `text` at once; False, and nothing taken, where one of them needs a closer look."""
        if not self.columns or self._open or '"' in text:
            return False
        if not _plain_rows(self._kind, len(self.columns)).fullmatch(text):
            return False
        if self.addresses is None:
            count = text.count("\n")
        else:
            lines = text.split("\n")
            lines.pop()
            count = len(lines)
            self._keep(lines, lines if len(self.columns) == 1 else [line.partition(",")[0] for line in lines])
        self._lines += count
        self.count += count
        return True

    def _take_lines(self, text: str) -> None:
        for line in text[:-1].split("\n"):
            self._line(line)
            if self.reason:
                return

    def _line(self, line: str) -> None:
        self._lines += 1
        odd = line.count('"') % 2 == 1
        if not self._open and not odd:
            return self._row(line)
        self._open.append(line)
        self._open_chars += len(line) + 1
        if self._open_chars > ROW_LIMIT:
            return self._refuse("a row is longer than the sandbox reads")
        if odd and len(self._open) > 1:  # the second odd line closes what the first one opened
            row = "\n".join(self._open)
            self._open.clear()
            self._open_chars = 0
            self._row(row)
        return None

    def _row(self, row: str) -> None:
        cells = split_row(row)
        if cells is None:
            return self._refuse("characters outside the quotes of a quoted field")
        if not self.columns and self._take_header(cells):
            return None
        if self.reason:
            return None
        if len(cells) != len(self.columns):
            return self._refuse(f"{len(cells)} fields where there are {len(self.columns)} columns")
        if not _subject(self._kind).fullmatch(cells[0]):
            what = f"{self._kind} digest in lower-case hex" if self._kind in DIGEST_LENGTHS else "address"
            return self._refuse(f"the first field is no {what}")
        self.count += 1
        self._keep([row], cells[:1])
        return None

    def _take_header(self, cells: list[str]) -> bool:
        """Whether the first row was a header. A column of addresses may come without one."""
        if cells[0] == "email":
            self.columns = tuple(cells)
            self._check_header()
            return True
        if cells[0].startswith("\ufeff"):
            self._refuse("a byte order mark before the first column")
        elif len(cells) > 1:
            self._refuse("several columns, and no header that starts with email")
        else:
            self.columns = ("email",)
        return False

    def _check_header(self) -> None:
        for name in self.columns:
            if self.columns.count(name) > 1:
                return self._refuse(f"the column {name!a} stands there twice")
            if not _COLUMN.fullmatch(name) and not (self._plain_columns and _PLAIN_COLUMN.fullmatch(name)):
                return self._refuse(f"unknown column {name!a}")
        return None

    def _keep(self, rows: list[str], addresses: list[str]) -> None:
        for row in rows[: KEPT_ROWS - len(self.first)]:
            self._kept_chars += len(row)
            if self._kept_chars > KEPT_CHARS:
                break
            self.first.append(row)
        if self.addresses is not None:
            self.addresses.extend(addresses)
            if len(self.addresses) > KEPT_MEMBERS:
                self.addresses = None


# ------------------------------------------------------------------------------------------- the multipart body


class Form:
    """The body of an import as it streams in; the bytes of its file part go to `rows`.

    `parts` names every part in the order of arrival, `fields` holds those that are no file. Reads names as PHP
    does: a `filename*=` parameter is not understood, so a part that has only that one is no file.
    """

    def __init__(self, content_type: str, rows: Rows) -> None:
        self.rows = rows
        self.parts: list[str] = []
        self.fields: list[tuple[str, str]] = []
        self.filename: str | None = None
        self.content_type: str | None = None
        self.reason = ""
        self._ended = False
        self._in_file = False
        self._headers: dict[str, bytes] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._value = bytearray()
        self._parser = self._open(content_type)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the body, cut anywhere."""
        if self._parser is None:
            return
        try:
            self._parser.write(piece)
        except FormParserError as error:
            self._parser = None
            self._refuse(f"the multipart body is malformed: {error}")

    def finish(self) -> None:
        """Judge the body as a whole; nothing comes after this."""
        if not self._ended:
            self._refuse("the multipart body does not end with its boundary")
        if self.content_type is not None:
            self.rows.finish()

    def _open(self, content_type: str) -> MultipartParser | None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 0 < len(boundary) <= BOUNDARY_LIMIT:
            self._refuse("the request is no multipart/form-data with a boundary")
            return None
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_part,
                "on_part_data": self._take_part,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def _refuse(self, why: str) -> None:
        if not self.reason:
            self.reason = why

    def _take_header_name(self, source: bytes, start: int, end: int) -> None:
        self._header_name += source[start:end]

    def _take_header_value(self, source: bytes, start: int, end: int) -> None:
        self._header_value += source[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_part(self) -> None:
        disposition, options = parse_options_header(self._headers.get("content-disposition"))
        name = options.get(b"name", b"").decode("latin-1")
        if disposition != b"form-data" or not name:
            self._refuse("a part without a name")
        if len(self.parts) == PART_LIMIT:
            self._refuse("more parts than the sandbox reads")
        self._in_file = name == "file" and "file" not in self.parts and b"filename" in options
        if name == "file":
            self._check_file(options)
        elif b"filename" in options:
            self._refuse(f"{name!a} is a file")
        if len(self.parts) < PART_LIMIT:
            self.parts.append(name)

    def _check_file(self, options: Mapping[bytes, bytes]) -> None:
        if "file" in self.parts:
            return self._refuse("two parts are called 'file'")
        if b"filename" not in options:
            return self._refuse("the file part has no file name")
        self.filename = options[b"filename"].decode("latin-1")
        self.content_type = self._headers.get("content-type", b"").decode("latin-1")
        if not self.filename or not (self.filename.isascii() and self.filename.isprintable()):
            return self._refuse("the file name is not plain ASCII")
        if parse_options_header(self.content_type)[0] != b"text/csv":
            return self._refuse("the file part is not declared text/csv")
        return None

    def _take_part(self, source: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.rows.feed(source[start:end])
        elif len(self._value) + end - start > FIELD_LIMIT:
            self._refuse("a field is longer than the sandbox reads")
        else:
            self._value += source[start:end]

    def _end_part(self) -> None:
        if not self._in_file and len(self.fields) < PART_LIMIT:
            self.fields.append((self.parts[-1], self._value.decode(errors="backslashreplace")))
        self._value.clear()
        self._in_file = False

    def _end(self) -> None:
        self._ended = True


def import_problem(form: Form, kind: str) -> str:
    """Why OptiPub would not take this finished form for a segment of `kind`; empty when it would."""
    missing = "" if "file" in form.parts else "there is no file part"
    return form.reason or missing or _fields_problem(form.fields, kind) or form.rows.reason


_STATUSES = {"1": "subscribe", "0": "unsubscribe", "null": "lead"}
_SOURCES = ("sourceCampaign", "sourcePartner")


def mode_of(fields: list[tuple[str, str]], kind: str) -> str:
    """What an import asks for: subscribe, unsubscribe, lead or suppress; empty where its status is none of these."""
    return _STATUSES.get(dict(fields).get("activeStatus", "null"), "") if kind == STATIC else "suppress"


def _fields_problem(fields: list[tuple[str, str]], kind: str) -> str:
    values = dict(fields)
    names = [name for name, _ in fields]
    for name in ("clear", "activeStatus", *_SOURCES):
        if names.count(name) > 1:
            return f"{name} is given twice"
        if kind != STATIC and name != "clear" and name in values:
            return f"{name} is not for a suppression segment"
    if values.get("clear") not in ("0", "1"):
        return "clear must be 0 or 1"
    if values.get("activeStatus", "null") not in _STATUSES:
        return "activeStatus must be 1, 0, null or absent"
    return _source_problem(values)


def _source_problem(values: dict[str, str]) -> str:
    for name in _SOURCES:
        if not re.fullmatch("[0-9]+", values.get(name, "0"), re.ASCII):
            return f"{name} must be an integer"
        if values.get("activeStatus") == "1" and name not in values:
            return f"activeStatus=1 needs {name}"
    return ""


# --------------------------------------------------------------------------------------------- a segment's body

_REQUIRED = ("name", "description", "publication_id", "type", "is_suppression", "suppression_type")
_OPTIONAL = ("auto_responder_id", "redirect_url")


def segment_problem(document: object) -> str:
    """Why OptiPub would not create a segment from this JSON; empty when it would."""
    if not isinstance(document, dict):
        return "the body is no JSON object"
    for name in _REQUIRED:
        if name not in document:
            return f"{name} is missing"
    for name in document:
        if name not in (*_REQUIRED, *_OPTIONAL):
            return f"unknown field {name!a}"
    return _segment_type_problem(document) or _suppression_problem(document)


def _segment_type_problem(document: dict[str, object]) -> str:
    for name in ("name", "description", "redirect_url"):
        if not isinstance(document.get(name, ""), str):
            return f"{name} must be a string"
    for name in ("publication_id", "auto_responder_id"):
        if type(document.get(name, 0)) is not int:  # isinstance would take true for 1
            return f"{name} must be an integer"
    if not document["name"]:
        return "name is empty"
    if document["type"] != "static":
        return "type must be static"
    return ""


def _suppression_problem(document: dict[str, object]) -> str:
    suppression, kind = document["is_suppression"], document["suppression_type"]
    if type(suppression) is not bool:
        return "is_suppression must be true or false"
    if kind is None:
        return "a suppression segment needs a suppression_type" if suppression else ""
    if kind not in SUPPRESSION_KINDS:
        return f"suppression_type must be null or one of {', '.join(SUPPRESSION_KINDS)}"
    return "" if suppression else "is_suppression must be true where suppression_type is given"
