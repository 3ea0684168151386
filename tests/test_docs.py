"""The documentation: complete, true to the commands, and typed as it can be typed."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from console import ask
from scene import KEY, Scene, make_scene

from dropzone import config as configuration
from dropzone.cli import cli
from dropzone.cli.exits import MEANINGS
from dropzone.cli.manual import commands, page
from dropzone.cli.render import MARKS
from dropzone.drop import State
from dropzone.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
ALL = "\n".join(TEXTS.values())


def fenced(kind: str) -> Iterator[tuple[str, str]]:
    """Each fenced block of one kind, with the page that it stands on."""
    for name, text in TEXTS.items():
        for block in re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield name, block


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# -------------------------------------------------------------------------------------------------- complete


def test_every_command_is_documented() -> None:
    """Somewhere in README or docs/, as it is typed; and all options in the man page, which is that of the commands."""
    written = re.sub(r"`(?=[a-z])", "`dropzone ", ALL)  # README's table leaves the first word out
    for words, _ in commands(cli):
        shown = " ".join(words)
        assert f"dropzone {shown}" in written or f"`{words[-1]}`" in TEXTS["README.md"], shown
    assert (ROOT / "docs" / "dropzone.1").read_text(encoding="utf-8") == page(cli), "make docs writes it"


def test_every_exit_code_is_documented() -> None:
    """With a row of its own in docs/operating.md, to which README leads."""
    table = TEXTS["operating.md"].partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == {code.value for code in MEANINGS}
    assert "(docs/operating.md#exit-codes)" in TEXTS["README.md"]


def test_every_state_is_documented_with_its_mark() -> None:
    """In the table of docs/operating.md, with the mark that `queue` has for it."""
    table = TEXTS["operating.md"].partition("## States")[2].partition("\n## ")[0]
    rows = {state: mark for mark, state in re.findall(r"^\| `(.)` \| `(\w+)` \|", table, re.MULTILINE)}
    assert rows == {state.value: MARKS[state] for state in State}


def test_every_key_is_documented() -> None:
    """In config.example.yaml, which the fields themselves make."""
    assert (ROOT / "config.example.yaml").read_text(encoding="utf-8") == configuration.example()


def test_readme_is_no_book() -> None:
    """Long matter goes to docs/, and every page there can be found from README or from another."""
    assert len(TEXTS["README.md"].splitlines()) < 250
    for each in PAGES[1:]:
        assert each.name in ALL.replace(TEXTS[each.name], ""), each.name


# ------------------------------------------------------------------------------------------------------- true


def typed() -> Iterator[tuple[str, str]]:
    """Every line that starts with the command, in code blocks and between backticks; comments and pipes cut off."""
    for name, text in TEXTS.items():
        plain = without_fences(text)
        blocks = re.findall(r"(?:^|\n)((?:    .*\n)+)", plain)
        lines = [line.strip() for block in blocks for line in block.splitlines()]
        lines += [" ".join(found.split()) for found in re.findall(r"`(dropzone [^`]+)`", plain)]
        for line in lines:
            for part in re.split(r"\||;|&&|>|#", line):
                words = part.strip().removeprefix("sudo ")
                if words.startswith("dropzone "):
                    yield name, words


@pytest.mark.parametrize(("page", "line"), sorted(set(typed())))
def test_every_command_line_of_the_docs_can_be_typed(page: str, line: str) -> None:
    """The command exists, and it has each of the options."""
    words = iter(shlex.split(line)[1:])
    command: click.Command = cli
    options = {"-h", "--help"}
    for word in words:
        if word in ("-c", "--config"):
            next(words)
        elif isinstance(command, click.Group) and not word.startswith("-"):
            assert word in command.commands, f"{page}: {line}"
            command = command.commands[word]
        elif word.startswith("-") and word != "-":
            options |= {name for parameter in command.params for name in parameter.opts}
            assert word.partition("=")[0] in options, f"{page}: {line} has no {word}"


@pytest.mark.parametrize(("page", "block"), list(fenced("yaml")), ids=lambda value: str(value)[:20])
def test_every_yaml_block_is_a_right_configuration(page: str, block: str, tmp_path: Path) -> None:
    """As it stands, with whatever a block leaves out filled in."""
    text = block
    if "folders:" not in text:
        text += "folders: {acme: {segment_id: 1, mode: lead}}\n"
    if "accounts:" not in text:
        text = "accounts: {main: {base_url: https://a.example.com, api_key: {env: KEY}}}\n" + text
    if "root:" not in text:
        text = "root: /srv/dropzone\nstate_dir: /var/lib/dropzone\n" + text
    (tmp_path / "dropzone.yaml").write_text(text)
    configuration.load(tmp_path / "dropzone.yaml")


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files of this checkout, and headings in them."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text(encoding="utf-8")), target


def test_each_module_that_readme_names_exists() -> None:
    """The table "where do I look" names files and names in them."""
    table = TEXTS["README.md"].partition("## Where do I look")[2].partition("\nOn disk")[0]
    for path in re.findall(r"`((?:dropzone|tests)/[\w/.]*)`", table):
        assert (ROOT / path).exists(), path


# ------------------------------------------------------------------------------------------------- shapes of JSON


@pytest.fixture
def lived(tmp_path: Path) -> Iterator[Scene]:
    """A scene with something of everything in it."""
    folders = (
        "acme: {segment_id: 1, mode: lead, retention: {done: 1d}}\n"
        "new: {create: {publication_id: 7}, mode: lead}\ndnm: {segment_id: 2, mode: lead}"
    )
    with Sandbox(key=KEY) as sandbox:
        scene = make_scene(tmp_path, sandbox.url, folders=folders, defaults="settle: 0s")
        scene.put("good.csv", b"email\nann@example.com\n")
        scene.put("bad.csv", b"email\nnobody\n")
        sandbox.fault("lost_answer", segment=2)
        scene.put("lost.csv", b"email\nann@example.com\n", folder="dnm")
        scene.settle()
        (day,) = (scene.config.root / "done" / "acme").iterdir()
        day.rename(day.with_name("2001-02-03"))
        scene.put("next.csv", b"email\nann@example.com\n")
        yield scene


def documented(heading: str) -> set[str]:
    """The members that docs/json.md has under a heading."""
    part = TEXTS["json.md"].partition(f"### `dropzone {heading} --json`\n")[2].partition("\n### ")[0]
    first = re.findall(r"^\| (.*?) \|", part, re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


SHAPES: dict[str, list[str]] = {
    "status": ["status"],
    "queue": ["queue"],
    "queue --ages": ["queue", "--ages"],
    "show ID": ["show", "{id}"],
    "why PATH": ["why", "{file}", "{old}"],
    "plan": ["plan"],
    "check FILE": ["check", "{file}", "--folder", "acme"],
    "doctor": ["doctor"],
    "segment create": ["segment", "create", "--folder", "new"],
    "prune": ["prune", "--dry-run"],
}


@pytest.mark.parametrize("heading", SHAPES)
def test_the_members_of_each_shape_are_the_documented_ones(lived: Scene, heading: str) -> None:
    """What a command prints with --json, and docs/json.md, member by member; each with a version."""
    id = json.loads(ask(lived, "queue", "--json")[1].splitlines()[0])["id"]
    places = {"{id}": id, "{file}": str(lived.inbox / "next.csv"), "{old}": str(lived.inbox / "good.csv")}
    words = [places.get(word, word) for word in SHAPES[heading]]
    lines = [json.loads(line) for line in ask(lived, *words, "--json")[1].splitlines()]
    assert lines
    found: set[str] = set().union(*lines)
    known = documented(heading)
    if heading == "show ID":
        known |= documented("queue")
    assert found == known
    assert all(line["version"] == 1 for line in lines)


def test_the_shape_of_problems_in_a_configuration(lived: Scene) -> None:
    """Of a wrong file; a right one has none."""
    file = lived.at / "dropzone.yaml"
    file.write_text(file.read_text() + "nonsense: 1\n")
    (line,) = ask(lived, "config", "check", "--json")[1].splitlines()
    problem: dict[str, Any] = json.loads(line)
    assert set(problem) == documented("config check")


def test_every_heading_of_shapes_is_tried() -> None:
    """No shape is documented that no test looks at, and none that no command has."""
    headings = re.findall(r"^### `dropzone (.*) --json`$", TEXTS["json.md"], re.MULTILINE)
    assert set(headings) == {*SHAPES, "config check", "config show"}
    for words, command in commands(cli):
        if any("--json" in parameter.opts for parameter in command.params):
            assert any(heading.startswith(" ".join(words)) for heading in headings), words


def test_text_blocks_of_readme_were_printed(lived: Scene) -> None:
    """The transcript is that of a demonstration: its last line says that every file ended where it should."""
    ((_, transcript),) = fenced("text")
    assert textwrap.dedent(transcript).splitlines()[-1].startswith("Every file ended where it should: ")
