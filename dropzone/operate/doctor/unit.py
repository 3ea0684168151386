"""The systemd unit with its drop-ins, read from the files: what it allows the daemon, and what it takes from it."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dropzone.config import Config
from dropzone.errors import printable
from dropzone.operate.doctor.remarks import Remark, fault, note, ok, warning

NAME = "dropzone.service"
# Where systemd looks, the later ones first: a file in /etc stands before the package's own.
PLACES = tuple(
    Path(place)
    for place in ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
)
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_LINE = 256  # bytes; the kernel reads no longer a line of "#!"
_RELOAD = "systemctl daemon-reload && systemctl restart dropzone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What the unit says: each directive of [Service] with its values, in the order of the files."""

    file: Path
    settings: dict[str, tuple[str, ...]]

    def all(self, name: str) -> tuple[str, ...]:
        """All values of a directive."""
        return self.settings.get(name, ())

    def last(self, name: str, default: str = "") -> str:
        """The value that counts where only one can."""
        return self.all(name)[-1] if self.all(name) else default

    def words(self, name: str) -> list[str]:
        """The values of a directive that is a list of words."""
        return [word for value in self.all(name) for word in value.split()]


def find_unit(places: Sequence[Path] = PLACES) -> Unit | None:
    """The unit as it is installed, its drop-ins merged in; None where there is none."""
    file = next((place / NAME for place in places if (place / NAME).is_file()), None)
    if file is None:
        return None
    drop_ins: dict[str, Path] = {}
    for place in reversed(places):  # one of the same name in an earlier place stands for the later one
        folder = place / f"{NAME}.d"
        drop_ins |= {each.name: each for each in sorted(folder.glob("*.conf"))} if folder.is_dir() else {}
    settings: dict[str, list[str]] = {}
    for each in [file, *(drop_ins[name] for name in sorted(drop_ins))]:
        _read(each, settings)
    return Unit(file=file, settings={name: tuple(values) for name, values in settings.items()})


def _read(file: Path, settings: dict[str, list[str]]) -> None:
    section, text = "", file.read_text(errors="replace").replace("\\\n", " ")
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and line[0] not in "#;":
            name, _, value = line.partition("=")
            if value.strip():
                settings.setdefault(name.strip(), []).append(value.strip())
            else:
                settings[name.strip()] = []  # an empty value forgets what came before


def examine_unit(unit: Unit | None, config: Config) -> Iterator[Remark]:
    """Whether the daemon can work as a service with this configuration."""
    if unit is None:
        mend = "install systemd/dropzone.service; its head says how"
        yield note("unit", "no dropzone.service is installed, so nothing starts the daemon after a boot", mend)
        return
    found = [*_start(unit, config), *_user(unit), *_keys(unit, config), *_writable(unit, config), *_rest(unit)]
    yield from found or [ok("unit", f"{unit.file}: it allows what this configuration needs")]


def _start(unit: Unit, config: Config) -> Iterator[Remark]:
    words = shlex.split(unit.last("ExecStart"))
    program = words[0].lstrip("@-:+!") if words else ""
    if not os.access(program, os.X_OK):
        yield fault("unit", f"ExecStart={printable(program)} is no program", f"mend it in {unit.file}; {_RELOAD}")
    elif hidden := _hidden(unit, program):
        what = f"ExecStart= needs {printable(hidden)}, which ProtectHome= hides from it"
        mend = "/usr/bin/python3 -m venv --clear /opt/dropzone; install it there again, and let ExecStart= name that"
        yield fault("unit", what, mend)
    named = next((words[at + 1] for at, word in enumerate(words[:-1]) if word in ("-c", "--config")), "")
    if named and os.path.realpath(named) != os.path.realpath(config.file):
        what = f"it starts the daemon with {printable(named)}, and this is {printable(str(config.file))}"
        yield warning("unit", what, f"dropzone -c {printable(named)} doctor")


def _hidden(unit: Unit, program: str) -> str:
    """What the program is or is run by, where that lies in somebody's home: a venv of pyenv's or uv's Python does."""
    if unit.last("ProtectHome", "no") in ("no", "false", "0", "off", "read-only"):
        return ""
    try:
        with open(program, "rb") as file:
            first = os.fsdecode(file.readline(_LINE))
    except OSError:  # who asks may run it, and not read it
        return ""
    words = first[2:].split() if first.startswith("#!") else []
    real = map(os.path.realpath, [program, *words[:1]])
    return next((path for path in real if any(Path(path).is_relative_to(home) for home in _HOMES)), "")


def _user(unit: Unit) -> Iterator[Remark]:
    name = unit.last("User")
    if not name:
        yield warning("unit", "it has no User=, so the daemon runs as root", "set User= and Group= to one of its own")
        return
    try:
        pwd.getpwnam(name)
    except KeyError:
        mend = f"useradd --system --home-dir /var/lib/dropzone --shell /usr/sbin/nologin {name}"
        yield fault("unit", f"there is no user {printable(name)}, whom User= names", mend)


def _keys(unit: Unit, config: Config) -> Iterator[Remark]:
    loaded = {value.partition(":")[0]: value.partition(":")[2] for value in unit.all("LoadCredential")}
    for account in config.accounts.values():
        secret = account.api_key
        if secret.source == "credential":
            yield from _credential(secret.name, loaded, account.name)
        elif secret.source == "env" and not _has_variable(unit, secret.name):
            what = f"account {account.name} reads {secret}, which the unit does not set"
            yield fault(
                "unit", what, f"better: api_key: {{credential: optipub}}; else EnvironmentFile=. Then {_RELOAD}"
            )


def _credential(name: str, loaded: dict[str, str], account: str) -> Iterator[Remark]:
    if name not in loaded:
        mend = f"systemctl edit dropzone: [Service] LoadCredential={name}:/etc/dropzone/{name}.key; {_RELOAD}"
        yield fault("unit", f"account {account} wants the credential {name}, which the unit does not load", mend)
        return
    source = Path(loaded[name] or f"/etc/credstore/{name}")
    try:
        facts = source.stat()
    except PermissionError:
        yield note("unit", f"the key of account {account} in {source} cannot be looked at", "ask as root")
        return
    except OSError as error:
        mend = f"install -m 0600 /dev/stdin {source}   # paste the key, then Ctrl-D"
        yield fault("unit", f"the key of account {account} is not in {source}: {error.strerror}", mend)
        return
    if not facts.st_size:
        yield fault("unit", f"{source} is empty", f"install -m 0600 /dev/stdin {source}   # paste the key, then Ctrl-D")
    elif facts.st_mode & 0o077:
        yield warning("unit", f"others than its owner can read the key in {source}", f"chmod 600 {source}")


def _has_variable(unit: Unit, name: str) -> bool:
    return (
        bool(unit.all("EnvironmentFile"))
        or any(word.startswith(f"{name}=") for value in unit.all("Environment") for word in shlex.split(value))
        or name in unit.words("PassEnvironment")
    )


def _writable(unit: Unit, config: Config) -> Iterator[Remark]:
    """What the unit makes read-only or hides, and what it puts on mounts of their own."""
    strict = unit.last("ProtectSystem") == "strict"
    opened = [Path(word.lstrip("-+")) for word in unit.words("ReadWritePaths")]
    states = [Path("/var/lib") / word.partition(":")[0] for word in unit.words("StateDirectory")]
    if strict and not any(config.state_dir.is_relative_to(place) for place in [*opened, *states]):
        what = f"state_dir {config.state_dir} is read-only in it"
        yield fault("unit", what, f"systemctl edit dropzone: [Service] ReadWritePaths={config.state_dir}; {_RELOAD}")
    for folder in config.folders.values():
        both = Path(os.path.commonpath([folder.path, folder.base]))
        homes = [place for place in (folder.path, folder.base) if any(place.is_relative_to(home) for home in _HOMES)]
        if homes and unit.last("ProtectHome", "no") not in ("no", "false", "0"):
            what = f"folder {folder.name}: {homes[0]} is hidden in it by ProtectHome="
            yield fault("unit", what, f"systemctl edit dropzone: [Service] ProtectHome=no; {_RELOAD}")
        mounts = [
            next((place for place in opened if wanted.is_relative_to(place)), None)
            for wanted in (folder.path, folder.base)
        ]
        if strict and None in mounts:
            what = f"folder {folder.name}: {folder.path if mounts[0] is None else folder.base} is read-only in it"
            yield fault("unit", what, f"systemctl edit dropzone: [Service] ReadWritePaths={both}; {_RELOAD}")
        elif strict and mounts[0] != mounts[1]:
            what = f"folder {folder.name}: its inbox and its work/ are on two mounts in it, so no rename goes across"
            yield fault("unit", what, f"list them as one: [Service] ReadWritePaths={both}; {_RELOAD}")


def _rest(unit: Unit) -> Iterator[Remark]:
    if unit.last("User") and "CAP_LEASE" not in unit.words("AmbientCapabilities"):
        what = "without CAP_LEASE nobody can tell whether a client still has a file open: each waits 30 s more"
        yield warning("unit", what, f"systemctl edit dropzone: [Service] AmbientCapabilities=CAP_LEASE; {_RELOAD}")
    if "4" not in unit.words("RestartPreventExitStatus"):
        what = "with an invalid configuration it is started again and again"
        yield note("unit", what, f"systemctl edit dropzone: [Service] RestartPreventExitStatus=4; {_RELOAD}")
