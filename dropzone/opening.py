"""What a command opens first: the configuration, with the segments that were created for it, and the ledger.

Imports of heavy parts stand inside the functions: asking the queue must not cost the loading of all settings.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dropzone import config as configuration
from dropzone.errors import ConfigError, FolderError, Problem, printable

if TYPE_CHECKING:
    from dropzone.config import Config, Glance
    from dropzone.ledger import Reader

# Where the configuration is looked for when neither -c nor DROPZONE_CONFIG names it.
CONFIG_PLACES = (Path("dropzone.yaml"), Path("/etc/dropzone/dropzone.yaml"))


def find_config(named: Path | None) -> Path:
    """The configuration file to use. Raises ConfigError where there is none."""
    if named is None and os.environ.get("DROPZONE_CONFIG"):
        named = Path(os.environ["DROPZONE_CONFIG"])
    if named is not None:
        return named
    found = next(filter(_is_there, CONFIG_PLACES), None)
    if found is None:
        places = " or ".join(map(str, CONFIG_PLACES))
        hint = "Name one with -c FILE; 'dropzone config example' prints one to begin with"
        problem = Problem(line=0, column=0, what="there is no configuration", hint=hint)
        raise ConfigError(places, (problem,))
    return found


def _is_there(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # whoever reads it says so in words
        return True


def glance(path: Path) -> Glance:
    """What a question needs of the configuration in `path`. Raises ConfigError where not even that can be read."""
    seen = configuration.glance(path)
    if seen is not None:
        return seen
    config = configuration.load(path)
    accounts = {name: account.key_created for name, account in config.accounts.items()}
    folders = tuple(config.folders)
    return configuration.Glance(state_dir=config.state_dir, crc=config.crc, folders=folders, accounts=accounts)


def load(path: Path) -> Config:
    """The configuration in `path`, with the segments that were created for its folders. Raises ConfigError."""
    config = configuration.load(path)
    if not config.unmade:
        return config
    with find_ledger(config) as ledger:
        notes = ledger.segment_notes() if ledger else {}
    ids = {}
    for name, unmade in config.unmade.items():
        note = notes.get((unmade.draft.account, unmade.segment_name))
        if note and note.id is not None:
            ids[name] = note.id
    return config.with_segments(ids)


def followed(config: Config) -> Config:
    """`config` with the symbolic links in the operator's own paths followed, once and now.

    From here on every component is opened without following any, because a partner may exchange one for a link. The
    inboxes themselves, which partners write into, are not followed even here. Raises FolderError where a link leads
    through a name that the ledger cannot keep.
    """

    @cache
    def follow(path: Path) -> Path:
        real = os.path.realpath(path)
        if not _is_text(real):
            hint = "Rename the folder that is not in UTF-8 on the way, or name another place"
            raise FolderError("use", str(path), f"it leads to {printable(real)}, which is not in UTF-8", hint)
        return Path(real)

    root = follow(config.root)

    def inbox(path: Path) -> Path:
        if path.is_relative_to(config.root):
            return root / path.relative_to(config.root)
        return follow(path.parent) / path.name

    folders = {
        name: folder.having(path=inbox(folder.path), base=follow(folder.base))
        for name, folder in config.folders.items()
    }
    return config.having(root=root, folders=folders)


def _is_text(path: str) -> bool:
    """Whether it is UTF-8, as all that the file can say is; a link may lead anywhere."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def open_ledger(config: Config | Glance) -> Reader:
    """The ledger, for reading only. Raises LedgerError where there is none yet."""
    from dropzone.ledger.sqlite import SQLiteReader

    return SQLiteReader(config.state_dir)


@contextlib.contextmanager
def find_ledger(config: Config | Glance) -> Iterator[Reader | None]:
    """The ledger, for reading only; None where none was made yet. Raises LedgerError where it cannot be read."""
    from dropzone.ledger.sqlite import FILE_NAME

    try:
        os.stat(config.state_dir / FILE_NAME)
    except FileNotFoundError:
        yield None
        return
    except OSError:  # whoever opens it says so in words
        pass
    with contextlib.closing(open_ledger(config)) as ledger:
        yield ledger


def lay_out(config: Config) -> list[Path]:
    """Make the directories that the configuration asks for, inboxes too; returns those that were missing."""
    from dropzone.folders import Folders

    made = [*make_missing(config.state_dir, 0o700), *make_missing(config.root, 0o755)]
    return made + Folders().lay_out(followed(config), inboxes=True)


def make_missing(path: Path, mode: int) -> list[Path]:
    """Make a directory of the operator's own where it is missing; what was made. Raises FolderError."""
    if os.path.isdir(path):  # `Path.is_dir` raises where the way to it is closed
        return []
    try:
        path.mkdir(parents=True)
        path.chmod(mode)
    except OSError as error:
        raise FolderError("make", str(path), error, "Run 'dropzone init' as a user who may") from error
    return [path]
