"""The unit as systemd reads it: no complaint, little exposure, and the directives that dropzone's promise hangs on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "dropzone.service"
COMMAND = "/opt/dropzone/bin/dropzone"
MAX_EXPOSURE = 1.3


def _analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        env=os.environ | {"LC_ALL": "C", "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def _version() -> int:
    if not shutil.which("systemd-analyze"):
        return 0
    found = re.match(r"systemd (\d+)", _analyze("--version"))
    return int(found[1]) if found else 0


needs_systemd = pytest.mark.skipif(_version() < 250, reason="systemd-analyze 250 or newer is not installed")
needs_kill = pytest.mark.skipif(not os.access("/bin/kill", os.X_OK), reason="/bin/kill (procps) is not installed")


def complaints(text: str, folder: Path) -> str:
    """What `systemd-analyze verify` says about the unit `text`: nothing, if it is sound."""
    # verify wants to see the command; where dropzone is not installed, any other stands in for it.
    stand_in = shutil.which("true") or "/bin/true"
    unit = folder / UNIT.name
    unit.write_text(text.replace(COMMAND, stand_in))
    # Without the option it also complains about units of the host that this one only names.
    return _analyze("verify", "--recursive-errors=no", unit)


def exposure(text: str, folder: Path) -> float:
    """The overall exposure that `systemd-analyze security` gives the unit `text`, from 0 (none) to 10."""
    unit = folder / UNIT.name
    unit.write_text(text)
    report = _analyze("security", "--offline=true", unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert found, report
    return float(found[1])


def directives() -> list[tuple[str, str]]:
    """Each ``Name=value`` of the unit, in order; a name may come several times."""
    lines = (line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


@needs_systemd
@needs_kill
def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    """`systemd-analyze verify` is silent about the unit as it is shipped."""
    assert complaints(UNIT.read_text(), tmp_path) == ""


@needs_systemd
@needs_kill
@pytest.mark.parametrize(
    ("sound", "broken", "complaint"),
    [
        ("KillMode=mixed", "KillMode=both", "Failed to parse kill mode"),
        ("RestartSec=10s", "RestartSecs=10s", "RestartSecs"),
        ("/bin/kill", "/bin/no-such-kill", "/bin/no-such-kill is not executable"),
    ],
)
def test_systemd_would_complain_about_a_mistake(sound: str, broken: str, complaint: str, tmp_path: Path) -> None:
    """A wrong value, an unknown directive and a missing command are each seen by the check above."""
    assert complaint in complaints(UNIT.read_text().replace(sound, broken), tmp_path)


@needs_systemd
def test_exposure_stays_low(tmp_path: Path) -> None:
    """`systemd-analyze security` rates the unit at 1.3 or less, with CAP_LEASE as its only capability."""
    assert exposure(UNIT.read_text(), tmp_path) <= MAX_EXPOSURE


@needs_systemd
@pytest.mark.parametrize("directive", ["MemoryDenyWriteExecute", "PrivateMounts", "NoNewPrivileges", "ProtectHome"])
def test_exposure_sees_a_directive_that_is_gone(directive: str, tmp_path: Path) -> None:
    """Taking one protection away raises the figure over the limit, so the limit guards each of them."""
    weaker = re.sub(rf"(?m)^{directive}=.*\n", "", UNIT.read_text())
    assert exposure(weaker, tmp_path) > MAX_EXPOSURE


def test_only_the_capability_for_leases() -> None:
    """The service holds CAP_LEASE, can get nothing else, and keeps its user namespace, where the lease works."""
    unit = dict(directives())
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] == "CAP_LEASE"
    assert unit["PrivateUsers"] == "no"


def test_the_whole_root_is_one_mount() -> None:
    """One writable path holds inbox/, work/, done/ and failed/: a second one would be a mount of its own."""
    mounts = re.compile(r"(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec|Bind|BindReadOnly)Paths|TemporaryFileSystem")
    assert [(name, value) for name, value in directives() if mounts.fullmatch(name)] == [
        ("ReadWritePaths", "/srv/dropzone")
    ]


def test_an_invalid_configuration_is_not_restarted() -> None:
    """Exit code 4 leaves the unit failed for somebody to see; every other failure is tried again without end."""
    unit = dict(directives())
    assert unit["RestartPreventExitStatus"] == "4"
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == ("on-failure", "0")
