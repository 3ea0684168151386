"""Libraries without their extras: what is hidden is found by nobody, and by everybody afterwards."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from dropzone.bare import without


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "an_extra.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "an_extra", raising=False)
    return "an_extra"


def test_an_extra_is_hidden_for_a_block_only(extra: str) -> None:
    """In the block it is as if it were not installed; behind it, it is there, also where the block broke off."""

    def find() -> None:
        importlib.import_module(extra)

    with pytest.raises(ModuleNotFoundError, match=extra), without(extra):
        find()
    find()


def test_an_extra_that_is_loaded_stays_loaded(extra: str) -> None:
    """Who has it keeps it: nothing would be saved, and a second copy might come into being."""
    loaded = importlib.import_module(extra)
    with without(extra):
        assert importlib.import_module(extra) is loaded
    assert sys.modules[extra] is loaded


def test_the_daemon_carries_nothing_to_draw_with() -> None:
    """Neither the journal nor the client brings rich or pygments along, and who draws has it all the same."""
    probe = (
        "import sys\n"
        "import dropzone.telemetry, dropzone.optipub.segments\n"
        "print(*{'rich', 'pygments'} & {name.split('.')[0] for name in sys.modules})\n"
        "from rich.console import Console\n"
        "Console(file=sys.stdout).print('drawn')\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\ndrawn\n", "")
