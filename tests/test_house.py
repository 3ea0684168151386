"""The house rules that no tool keeps: who may import whom, which library, which words; and that the rules can bite.

Everything is read from the source with `ast`, so that an import inside a function or under `TYPE_CHECKING` counts like
any other. Each rule is a function from a tree of files to its complaints: none for ours, some for the small bad trees
below.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A rank may import lower ranks, never its own; the modules of one package may import each other, without a cycle.
RANKS = {
    "__init__": -1,  # the version: everybody may ask for it, it may ask nobody
    "bare": -1,  # how libraries are imported
    "values": -1,
    "errors": 0,
    "threads": 1,
    "drop": 1,
    "config": 1,
    "account": 2,
    "places": 2,
    "policy": 2,
    "progress": 2,
    "readiness": 2,
    "sheet": 2,
    "receipt": 2,
    "folders": 3,
    "control": 3,
    "ledger": 3,
    "optipub": 3,
    "watch": 3,
    "telemetry": 3,
    "notify": 3,
    "adoption": 4,
    "keeping": 4,
    "lanes": 4,
    "gates": 4,
    "pipeline": 5,
    "intake": 5,
    "alarms": 5,
    "service": 4,
    "bases": 6,
    "operate": 6,
    "daemon": 7,
    "answering": 8,
    "sandbox": 7,
    "web": 7,
    "opening": 7,
    "client": 8,
    "wiring": 9,
    "cli": 10,
    "__main__": 11,
}

# Narrower than the ranks. The sandbox is written from the API's documentation alone: what it shared with the client
# they would get wrong together, and no test would see it.
MAY_IMPORT = {"sandbox": {"__init__", "errors"}}

# Who may import which library. What stands here not at all may be imported by nobody; the standard library is free
# but for what is named here.
OWNERS = {
    "click": {"cli"},
    "ctypes": {"folders"},
    "httpx": {"optipub"},
    "numpy": {"sheet"},
    "python_multipart": {"sandbox"},
    "re2": {"sheet"},
    "rich": {"cli"},
    "sqlite3": {"ledger"},
    "structlog": {"telemetry"},
    "tenacity": {"drop"},
    "watchdog": {"watch"},
    "yaml": {"config"},
}

# What a reading command imports, and what it must not wait for: a quarter of a second is all it has.
READERS = (
    *("drop", "config", "sheet", "receipt", "readiness", "places", "folders", "ledger", "operate", "opening", "client"),
    "cli",
)
SLOW = {"httpx", "watchdog", "structlog", "numpy"}

# Words that say nothing about dropzone. The design has one word for each thing that it is about.
EMPTY_WORDS = {"job", "task", "item", "record", "process", "manager", "handler", "util", "helper", "data"}
# Names that a library calls or passes, and that nobody here chose.
FORCED_NAMES = {"process_request", "process_request_thread"}

MAX_LINES = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file of the package. `name` is dotted; the name of a package stands for its ``__init__``."""

    name: str
    source: str
    tree: ast.Module

    @property
    def subject(self) -> str:
        """The part of the name that has a rank: ``ledger`` for ``dropzone.ledger.sqlite``."""
        return subject(self.name)


Modules = dict[str, Module]


def subject(name: str) -> str:
    """The first part of a dotted name below the package, ``__init__`` for the package itself."""
    return [*name.split("."), "__init__"][1]


def read(root: Path) -> Modules:
    """Every module of the package ``dropzone`` in `root`."""
    found = {}
    for file in sorted((root / "dropzone").rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = file.read_text()
        found[name] = Module(name=name, source=source, tree=ast.parse(source))
    return found


def imports(module: Module, modules: Modules) -> Iterator[str]:
    """The dotted names of what `module` imports, wherever in the file it does so."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                origin = _absolute(module.name, source, level, modules)
                for name in names:
                    below = f"{origin}.{name.name}"  # `from dropzone import drop` is about dropzone.drop
                    yield below if below in modules else origin
            case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=arguments):
                yield from (
                    text.value for text in arguments if isinstance(text, ast.Constant) and isinstance(text.value, str)
                )


def _absolute(importer: str, source: str | None, level: int, modules: Modules) -> str:
    if level == 0:
        return source or ""
    is_package = any(name.startswith(f"{importer}.") for name in modules)
    base = importer.split(".")
    base = base[: len(base) - level + is_package]
    return ".".join([*base, source] if source else base)


def _ours(module: Module, modules: Modules) -> Iterator[str]:
    return (name for name in imports(module, modules) if name.split(".")[0] == "dropzone")


# ---------------------------------------------------------------------------------------------------- the rules


def rule_ranks(root: Path) -> list[str]:
    """Every module has a rank, and imports lower ranks only."""
    modules = read(root)
    complaints = []
    for module in modules.values():
        if module.subject not in RANKS:
            complaints.append(f"{module.name} has no rank")
            continue
        for target in {subject(name) for name in _ours(module, modules)} - {module.subject}:
            here, there = RANKS[module.subject], RANKS.get(target)
            if there is None:
                complaints.append(f"{module.name} imports {target}, which has no rank")
            elif there >= here:
                complaints.append(f"{module.name} (rank {here}) imports {target} (rank {there})")
            elif target not in MAY_IMPORT.get(module.subject, RANKS):
                complaints.append(f"{module.name} may not import {target}")
    return complaints


def rule_no_cycles(root: Path) -> list[str]:
    """No module imports itself over a detour, within a package neither."""
    modules = read(root)
    graph = {name: {*_ours(module, modules)} - {name} for name, module in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["a cycle: " + " <- ".join(error.args[1])]
    return []


def rule_libraries(root: Path) -> list[str]:
    """A library is imported where it belongs, and nowhere else."""
    modules = read(root)
    free = sys.stdlib_module_names - OWNERS.keys() | {"dropzone"}
    return [
        f"{module.name} imports {library}"
        for module in modules.values()
        for library in sorted({name.split(".")[0] for name in imports(module, modules)} - free)
        if module.subject not in OWNERS.get(library, ())
    ]


def rule_reading_is_light(root: Path) -> list[str]:
    """Importing what the reading commands import does not bring HTTP, watching and logging with it."""
    names = [name for name in (f"dropzone.{reader}" for reader in READERS) if name in read(root)]
    probe = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(name)\n"
        "    print(name, *(set(sys.modules) - before))\n"
    )
    # Not measured: the small bad trees are called dropzone too, and would stand in the coverage report.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-c", probe, *names], cwd=root, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return [done.stderr]
    seen = (line.split() for line in done.stdout.splitlines())
    return [f"importing {name} imports {slow}" for name, *loaded in seen for slow in sorted(SLOW.intersection(loaded))]


def rule_words(root: Path) -> list[str]:
    """No public name is one of the words that say nothing, or has one as a part."""
    return [
        f"{module.name}: {name}"
        for module in read(root).values()
        for name in [*module.name.split("."), *_public_names(module.tree)]
        if name not in FORCED_NAMES and EMPTY_WORDS.intersection(_words(name))
    ]


def _public_names(tree: ast.Module) -> Iterator[str]:
    """Classes, functions, their parameters, the fields of classes and the constants of the module."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name):
                yield from _public([name, *_targets(node.body)])
            case ast.FunctionDef(name=name, args=arguments) | ast.AsyncFunctionDef(name=name, args=arguments):
                parameters = [one.arg for one in ast.walk(arguments) if isinstance(one, ast.arg)]
                yield from _public([name, *parameters] if _public([name]) else [])
    yield from _public(_targets(tree.body))


def _targets(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield name


def _public(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


def _words(name: str) -> set[str]:
    """``JobQueue`` and ``job_queue`` are job and queue; a plural counts as its singular."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
    return words | {word.removesuffix(ending) for word in words for ending in ("s", "es")}


def rule_docstrings(root: Path) -> list[str]:
    """Every module says what it alone knows."""
    return [f"{module.name} has no docstring" for module in read(root).values() if not ast.get_docstring(module.tree)]


def rule_tests_say_what_they_prove(root: Path) -> list[str]:
    """Every test has a docstring: the sentence that is false when it fails."""
    return [
        f"{file.name}: {node.name} has no docstring"
        for file in sorted((root / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if not ast.get_docstring(node)
    ]


def rule_one_catch_all(root: Path) -> list[str]:
    """At most one place in the package, the one around a drop, catches whatever comes."""
    places = [
        f"{module.name}:{node.lineno}"
        for module in read(root).values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler | ast.Call) and _catches_all(node)
    ]
    return [f"{place} catches everything, one of {len(places)}" for place in places] if len(places) > 1 else []


def _catches_all(node: ast.ExceptHandler | ast.Call) -> bool:
    match node:
        case ast.ExceptHandler(type=None):
            return True
        case ast.ExceptHandler(type=caught, body=body):
            # To tidy up and let it go on, whatever it was, is no catch.
            return _names_all(caught) and not (isinstance(body[-1], ast.Raise) and body[-1].exc is None)
        case ast.Call(func=ast.Attribute(attr="suppress") | ast.Name(id="suppress"), args=caught):
            return any(_names_all(one) for one in caught)
        case _:
            return False


def _names_all(caught: ast.AST | None) -> bool:
    all_of_them = {"Exception", "BaseException"}
    return caught is not None and any(
        isinstance(node, ast.Name) and node.id in all_of_them for node in ast.walk(caught)
    )


def rule_length(root: Path) -> list[str]:
    """A module that grows past this becomes a folder of its subject."""
    lengths = {module.name: len(module.source.splitlines()) for module in read(root).values()}
    return [f"{name} has {length} lines" for name, length in lengths.items() if length > MAX_LINES]


# Put together here, so that this file does not name what it forbids.
ADDRESSES = [
    re.escape("pypi" + ".org"),
    re.escape("python" + "hosted.org"),
    r"https?://\S+/" + r"simple\b",
    "--" + "(extra-)?index-url",
    "--" + "find-links",
    "--" + "trusted-host",
]
# Where the documentation itself installs things: a checkout there would find itself in every second file.
DOCUMENTED = {Path("/srv/dropzone"), Path("/opt/dropzone"), Path("/var/lib/dropzone")}


def rule_no_place_of_its_own(root: Path) -> list[str]:
    """No file names a package registry, or the folders of the machine that it was written on."""
    folders = {root, Path.home()} - DOCUMENTED - {Path("/")}
    forbidden = re.compile("|".join([*ADDRESSES, *map(_mention, folders)]))
    return [
        f"{file.relative_to(root)}:{number}: {found[0]}"
        for file in _files(root)
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1)
        if (found := forbidden.search(line))
    ]


def _mention(folder: Path) -> str:
    # Not as the tail of another path ({root}/root); and of a single word like /app only what lies below it.
    return r"(?<![\w.})\]>])" + re.escape(str(folder)) + (r"\b" if len(folder.parts) > 2 else "/")


def _files(root: Path) -> list[Path]:
    """What git keeps or would keep; outside a checkout (a source archive), everything."""
    git = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
        found = [root / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = [
            file for file in root.rglob("*") if not any(part.startswith(".") for part in file.relative_to(root).parts)
        ]
    return [file for file in found if file.is_file()]


RULES: list[Callable[[Path], list[str]]] = [
    rule_ranks,
    rule_no_cycles,
    rule_libraries,
    rule_reading_is_light,
    rule_words,
    rule_docstrings,
    rule_tests_say_what_they_prove,
    rule_one_catch_all,
    rule_length,
    rule_no_place_of_its_own,
]


def _name(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize("rule", RULES, ids=_name)
def test_the_house_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    """The package as it stands gives no rule a reason to complain."""
    assert rule(ROOT) == []


# --------------------------------------------------------------------------------------------- the rules can bite

HOLDS = "'''It knows nothing.'''\n"
CATCH = "try:\n    pass\nexcept Exception:\n    pass\n"

# rule, files of a bad tree, what the complaint must name
BREACHES: list[tuple[Callable[[Path], list[str]], dict[str, str], str]] = [
    (
        rule_ranks,
        {"drop.py": "from dropzone import pipeline", "pipeline.py": ""},
        "drop (rank 1) imports pipeline (rank 5)",
    ),
    (rule_ranks, {"drop.py": "import dropzone.config", "config.py": ""}, "drop (rank 1) imports config (rank 1)"),
    (
        rule_ranks,
        {"drop.py": "def f():\n    from dropzone.ledger.sqlite import x", "ledger/sqlite.py": ""},
        "imports ledger",
    ),
    (
        rule_ranks,
        {"errors.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dropzone.drop import Drop"},
        "imports drop",
    ),
    (
        rule_ranks,
        {"ledger/__init__.py": "from ..pipeline import x", "ledger/a.py": "", "pipeline.py": ""},
        "imports pipeline",
    ),
    (rule_ranks, {"ledger/a.py": "from ..pipeline import x", "pipeline.py": ""}, "imports pipeline"),
    (rule_ranks, {"drop.py": "import importlib\nimportlib.import_module('dropzone.daemon')"}, "imports daemon"),
    (
        rule_ranks,
        {"sandbox.py": "from dropzone import config", "config.py": ""},
        "dropzone.sandbox may not import config",
    ),
    (rule_ranks, {"things.py": ""}, "dropzone.things has no rank"),
    (rule_ranks, {"cli.py": "from dropzone.things import x"}, "imports things, which has no rank"),
    (rule_ranks, {"__init__.py": "from dropzone import errors", "errors.py": ""}, "dropzone (rank -1) imports errors"),
    (
        rule_no_cycles,
        {"sheet/a.py": "from dropzone.sheet import b", "sheet/b.py": "from .a import x"},
        "dropzone.sheet.b",
    ),
    (
        rule_no_cycles,
        {"ledger/__init__.py": "from .a import x", "ledger/a.py": "from dropzone.ledger import y"},
        "cycle",
    ),
    (rule_libraries, {"pipeline.py": "import httpx"}, "dropzone.pipeline imports httpx"),
    (rule_libraries, {"cli/queue.py": "def f():\n    import sqlite3"}, "dropzone.cli.queue imports sqlite3"),
    (rule_libraries, {"sheet.py": "from ctypes.util import find_library"}, "dropzone.sheet imports ctypes"),
    (rule_libraries, {"sheet.py": "import polars"}, "dropzone.sheet imports polars"),
    (
        rule_reading_is_light,
        {"operate.py": "import httpx", "../httpx.py": ""},
        "importing dropzone.operate imports httpx",
    ),
    (
        rule_reading_is_light,
        {"cli/__init__.py": "import dropzone.watch", "watch.py": "import watchdog", "../watchdog.py": ""},
        "watchdog",
    ),
    (rule_reading_is_light, {"cli/__init__.py": "1 / 0"}, "ZeroDivisionError"),
    (rule_words, {"drop.py": "class JobQueue: ..."}, "dropzone.drop: JobQueue"),
    (rule_words, {"drop.py": "class Drop:\n    def find_items(self): ..."}, "find_items"),
    (rule_words, {"drop.py": "def send(data): ..."}, "dropzone.drop: data"),
    (rule_words, {"drop.py": "class Drop:\n    processes: int"}, "processes"),
    (rule_words, {"drop.py": "HTTP_HANDLER = 1"}, "HTTP_HANDLER"),
    (rule_words, {"utils.py": ""}, "dropzone.utils: utils"),
    (rule_docstrings, {"drop.py": "x = 1"}, "dropzone.drop has no docstring"),
    (rule_tests_say_what_they_prove, {"../tests/test_x.py": "class TestX:\n    def test_y(self): ..."}, "test_y"),
    (rule_one_catch_all, {"drop.py": CATCH, "daemon.py": CATCH}, "dropzone.daemon:3 catches everything, one of 2"),
    (rule_one_catch_all, {"drop.py": CATCH + CATCH.replace(" Exception", "")}, "dropzone.drop:7"),
    (
        rule_one_catch_all,
        {"drop.py": CATCH + CATCH.replace("Exception", "(OSError, BaseException) as error")},
        "dropzone.drop:7",
    ),
    (rule_one_catch_all, {"drop.py": CATCH + "with contextlib.suppress(Exception): ..."}, "dropzone.drop:5"),
    (rule_length, {"drop.py": "x = 1\n" * 601}, "dropzone.drop has 601 lines"),
    (rule_no_place_of_its_own, {"drop.py": "# see https://" + "pypi" + ".org/project/x"}, "dropzone/drop.py:1"),
    (rule_no_place_of_its_own, {"../Makefile": "\tpip install " + "--" + "index-url=x"}, "Makefile:1"),
    (rule_no_place_of_its_own, {"drop.py": "# HERE/tests"}, "dropzone/drop.py:1"),
    (rule_no_place_of_its_own, {"drop.py": f"KEY = '{Path.home()}/key'"}, "dropzone/drop.py:1"),
]


@pytest.mark.parametrize(("rule", "files", "complaint"), BREACHES, ids=lambda value: _name(value) or "")
def test_each_rule_sees_its_breach(
    rule: Callable[[Path], list[str]], files: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    """A small tree that breaks one rule gets a complaint that names the place."""
    _plant(tmp_path, files)
    assert complaint in "\n".join(rule(tmp_path))


@pytest.mark.parametrize("rule", RULES, ids=_name)
def test_no_rule_complains_about_what_is_allowed(rule: Callable[[Path], list[str]], tmp_path: Path) -> None:
    """What comes close to a breach and is none passes: downward and sibling imports, private names, one catch-all."""
    allowed = {
        "__init__.py": HOLDS + "__version__ = '1'",
        "errors.py": HOLDS + "x = 1\n" + CATCH,
        "drop.py": HOLDS + "from dropzone import __version__\nfrom .errors import x",
        "ledger/__init__.py": HOLDS,
        "ledger/a.py": HOLDS + "import sqlite3\nfrom dropzone.ledger import b",
        "ledger/b.py": HOLDS + "class Row:\n    def _task(self, item): ...\n    def processed(self): ...\n",
        "folders.py": HOLDS
        + "try:\n    pass\nexcept BaseException:\n    raise\n# {root}/root/x and work/"
        + "\n" * 590,
        "__main__.py": HOLDS + "from dropzone.cli import main",
        "cli/__init__.py": HOLDS + "def main():\n    import dropzone.wiring",
        "wiring.py": HOLDS,
    }
    _plant(tmp_path, allowed)
    assert rule(tmp_path) == []


def _plant(root: Path, files: dict[str, str]) -> None:
    for name, text in ({"__init__.py": ""} | files).items():
        file = root / "dropzone" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("HERE", str(root)))
