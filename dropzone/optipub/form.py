"""The multipart form of an import: its documented parts, and a body of exactly the announced length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, assert_never

from dropzone.config import Folder
from dropzone.errors import DropzoneError, FolderError


def fields_of(folder: Folder) -> Iterator[tuple[str, str]]:
    """The fields beside the file, exactly those that the mode is documented with, in the documented order."""
    yield "clear", "1" if folder.clear else "0"
    match folder.mode:
        case "subscribe":
            if folder.source_campaign is None or folder.source_partner is None:
                hint = "Set source_campaign and source_partner in the folder"
                raise DropzoneError(f"folder {folder.name} subscribes without a campaign or a partner", hint)
            yield "activeStatus", "1"
            yield "sourceCampaign", str(folder.source_campaign)
            yield "sourcePartner", str(folder.source_partner)
        case "unsubscribe":
            yield "activeStatus", "0"
        case "lead":
            yield "activeStatus", "null"  # the word, as the vendor's guide writes it
        case "suppress":
            pass
        case _:
            assert_never(folder.mode)
    yield from folder.extra_fields.items()


def build_form(folder: Folder, filename: str, boundary: str) -> tuple[bytes, bytes]:
    """What stands before the bytes of the file, and what after them."""
    # PHP reads the body: it does not understand `filename*=`, so the name is plain ASCII.
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
    head += "Content-Type: text/csv\r\n\r\n"
    tail = "".join(
        f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="{_escape(name)}"\r\n\r\n{_lines(value)}'
        for name, value in fields_of(folder)
    )
    try:
        return head.encode("ascii"), f"{tail}\r\n--{boundary}--\r\n".encode()
    except UnicodeEncodeError as error:
        hint = "Write the folder's extra_fields with characters that UTF-8 has"
        raise DropzoneError(f"folder {folder.name} has a field that cannot be sent: {error.reason}", hint) from error


def _lines(text: str) -> str:
    return re.sub(r"\r\n|\r|\n", "\r\n", text)


def _escape(name: str) -> str:
    # As HTML forms have it (multipart/form-data encoding algorithm); backslashes would be read as themselves.
    return _lines(name).replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


class Body:
    """The request's body in pieces, of exactly the announced length or not to its end."""

    def __init__(self, form: tuple[bytes, bytes], payload: BinaryIO, size: int, name: str, piece: int) -> None:
        self.length = len(form[0]) + size + len(form[1])
        self.size = size
        self.sent = 0  # bytes of the file that the kernel has
        self.whole = False  # the kernel has everything
        self.progress: Callable[[int], None] | None = None
        self._form = form
        self._payload = payload
        self._name = name
        self._piece = piece

    def __iter__(self) -> Iterator[bytes]:
        # A small file goes out with its framing as one piece: one write, one packet where it fits.
        before, after = self._form
        while not self.whole:
            rest = self.size - self.sent
            last = rest <= self._piece
            count = rest if last else self._piece
            # One byte more than the last piece may have: a file that grew has to be noticed before the request is
            # complete, because complete it would be imported as it was announced, cut in the middle of a row.
            piece = self._take(count + 1 if last else count)
            if len(piece) != count:
                what = "longer" if len(piece) > count else "shorter"
                raise FolderError("read", self._name, f"it is {what} than the {self.size:,} bytes that were prepared")
            # Alone it goes as it is: to copy each piece into a new one took a tenth of an upload's CPU time (measured).
            yield b"".join((before, piece, after if last else b"")) if before or last else piece
            # Only now, when the next piece is asked for, has this one left. A write that failed never comes back here.
            before, self.sent, self.whole = b"", self.sent + count, last
            if self.progress:
                self.progress(self.sent)

    def _take(self, count: int) -> bytes:
        """`count` bytes, fewer only at the end: a single read of an unbuffered file may give less."""
        taken = b""
        try:
            while len(taken) < count and (more := self._payload.read(count - len(taken))):
                taken = taken + more if taken else more
        except OSError as error:
            raise FolderError("read", self._name, error) from error
        return taken
