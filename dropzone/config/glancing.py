"""The few settings that a question needs: where the ledger is, and what folders and accounts are called.

Judges nothing, and so does not wait for the models that judge. It has a second use: after a bad edit of the file, while
the daemon goes on with the old settings, the queue can still be asked.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from dropzone.config import yaml
from dropzone.config.yaml import Odd
from dropzone.values import value


@value
class Glance:
    """What stands in the file, as far as it can be understood without judging it."""

    state_dir: Path
    crc: int  # of the file's content, as `Config` has it
    folders: tuple[str, ...]
    accounts: dict[str, date | None]  # name to `key_created`


def glance(path: Path) -> Glance | None:
    """What a question needs of the file `path`; None where it does not say so much, and `load` will tell why."""
    try:
        document = yaml.parse(yaml.read(path))
    except (OSError, ValueError):
        return None
    root = document.root
    state_dir = root.get("state_dir") if isinstance(root, dict) else None
    # A `..` is settled when the file is judged, here it may lead through a link.
    if not isinstance(root, dict) or not isinstance(state_dir, str) or not state_dir.startswith("/"):
        return None
    folders, accounts = (keys if isinstance(keys := root.get(name), dict) else {} for name in ("folders", "accounts"))
    return Glance(
        state_dir=Path(state_dir),
        crc=document.crc,
        folders=tuple(map(str, folders)),
        accounts={str(name): _key_created(keys) for name, keys in accounts.items()},
    )


def _key_created(keys: object) -> date | None:
    written = keys.get("key_created") if isinstance(keys, dict) else None
    text = written.text if isinstance(written, Odd) else written
    try:
        return date.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
