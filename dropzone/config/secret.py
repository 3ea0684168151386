"""Where an API key comes from, and how it is read. The value itself is kept nowhere: not here, not in any `repr`."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from dropzone.errors import DropzoneError, printable
from dropzone.values import value

MAX_LENGTH = 4096  # characters; the server takes no header line near that
# Where systemd has put the credentials of the service while it runs: root, who types a command, finds them there.
SERVICE = Path("/run/credentials/dropzone.service")


@value
class Secret:
    """One secret by its source: the variable, the file or the systemd credential that is called `name`."""

    source: Literal["env", "file", "credential"]
    name: str

    def __str__(self) -> str:
        match self.source:
            case "env":
                return f"the environment variable {self.name}"
            case "file":
                return f"the file {printable(self.name)}"
            case "credential":
                return f"the credential {self.name}"

    def read(self) -> str:
        """The secret as it stands there now, without one final line end.

        Raises `DropzoneError`, never with the value in it, when there is none, when a file is open to group or others,
        or when it is no key: empty, too long, or with blanks or anything but printable ASCII in it.
        """
        value = self._from_environment() if self.source == "env" else self._from_file()
        value = value.removesuffix("\n").removesuffix("\r")
        if not value:
            raise DropzoneError(f"{self} is empty", "Put the API key there")
        if len(value) > MAX_LENGTH:
            raise DropzoneError(f"{self} holds more than {MAX_LENGTH} characters", "Put nothing but the API key there")
        if not all("!" <= char <= "~" for char in value):
            what = "blanks, line breaks or characters outside of ASCII"
            raise DropzoneError(f"{self} holds {what}", "Put nothing but the API key there, in one line")
        return value

    def stamp(self) -> tuple[int, int, int] | None:
        """What changes when somebody replaces the file: (mtime in ns, size, inode). None where there is no file."""
        path = self._path()
        try:
            facts = path.stat() if path else None
        except OSError:
            return None
        return (facts.st_mtime_ns, facts.st_size, facts.st_ino) if facts else None

    def _path(self) -> Path | None:
        match self.source:
            case "env":
                return None
            case "file":
                return Path(self.name)
            case "credential":
                folder = os.environ.get("CREDENTIALS_DIRECTORY") or (SERVICE if os.path.isdir(SERVICE) else None)
                return Path(folder, self.name) if folder else None

    def _from_environment(self) -> str:
        if (value := os.environ.get(self.name)) is None:
            raise DropzoneError(f"{self} is not set", f"Set {self.name}, or name a file: api_key: {{file: /etc/…}}")
        return value

    def _from_file(self) -> str:
        if (path := self._path()) is None:
            hint = (
                "A shell finds it while the service runs. The service itself: add "
                f"'LoadCredential={self.name}:/etc/…' to the unit; without systemd, name an env or a file instead"
            )
            raise DropzoneError(f"{self} is not there: CREDENTIALS_DIRECTORY is not set", hint)
        try:
            # Without waiting: a FIFO in this place would hold the daemon up until somebody writes into it.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                self._check(os.fstat(descriptor))
                content = file.read(MAX_LENGTH + 3)
        except OSError as error:
            hint = "It must exist and be readable for the user that dropzone runs as"
            raise DropzoneError(f"{self} cannot be read: {error.strerror}", hint) from None
        return content.decode("latin-1")  # whatever is not ASCII is refused next, without a word of what it was

    def _check(self, facts: os.stat_result) -> None:
        if not stat.S_ISREG(facts.st_mode):
            raise DropzoneError(f"{self} is no file", "Name a file that holds nothing but the API key")
        # A credential is systemd's: it guards the folder, and for an unprivileged user its file shows a group right.
        if self.source == "file" and facts.st_mode & 0o077:
            what = f"can be read by others than its owner (mode {stat.S_IMODE(facts.st_mode):04o})"
            raise DropzoneError(f"{self} {what}", f"chmod 600 {printable(self.name)}")
