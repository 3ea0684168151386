"""What is made from the settings for people and editors: the example, the JSON Schema, and what is in force.

All of it is drawn from the fields in `model`; a key that is added there appears here by itself.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING
from datetime import date
from typing import Any

import yaml

from dropzone.config.forms import Field, Form, Key, Named, Section, Settings, form_of
from dropzone.config.model import FILE, FOLDER, Account, Config, Folder
from dropzone.config.rules import KEYS_OF_MODE, NO_DEFAULTS
from dropzone.config.yaml import plain

# ------------------------------------------------------------------------------------------------- what is in force


def effective(config: Config) -> dict[str, Any]:
    """`config` as the file would say it with every default written out, in texts, numbers, lists and mappings.

    Loading it again gives the same configuration. Of a secret there is only the source. Keys that a folder's mode
    does not know, and keys that have no value, are left out.
    """
    top = {name: FILE.fields[name].kind.write(getattr(config, name)) for name in ("root", "state_dir", "concurrency")}
    accounts = {name: _written(form_of(Account), account) for name, account in config.accounts.items()}
    drafts = {name: unmade.draft for name, unmade in config.unmade.items()}
    folders = {name: _folder(folder) for name, folder in (config.folders | drafts).items()}
    return {**top, "accounts": accounts, "folders": folders}


def dump(config: Config) -> str:
    """`effective` as the text of a configuration file."""
    return _to_yaml(effective(config))


def _folder(folder: Folder) -> dict[str, Any]:
    other_modes = {key for key, mode in KEYS_OF_MODE.items() if mode != folder.mode}
    return {key: value for key, value in _written(FOLDER, folder).items() if key not in other_modes}


def _written(form: Form, settings: Settings) -> dict[str, Any]:
    written = form.write(settings)
    return _present({key: written[key] for key in form.keys})


def _present(values: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that have no value, in sections too."""
    return {
        key: _present(value) if isinstance(value, dict) else value for key, value in values.items() if value is not None
    }


class _Dumper(yaml.SafeDumper):
    """Quotes every text that our reader would take for something else; PyYAML alone leaves `y` as it is."""


_SIMPLE = re.compile(r"https?://[A-Za-z0-9._:/-]+|[A-Za-z0-9/][A-Za-z0-9 ._/%+-]*")


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if _SIMPLE.fullmatch(text) and isinstance(plain(text), str) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _to_yaml(value: object, *, flow: bool = False) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=1000)


# ------------------------------------------------------------------------------------------------- for editors


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the file. What depends on several keys, such as consent, is not in it."""
    parts = {form.title: _schema_of(form) for form in _forms_in(FILE)}
    for key in NO_DEFAULTS:
        del parts["Defaults"]["properties"][key]
    parts["Folder"]["anyOf"] = [{"required": ["segment_id"]}, {"required": ["create"]}]
    file = parts.pop("File")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **file, "$defs": parts}


def _forms_in(form: Form) -> Iterator[Form]:
    """A form, and those of its sections."""
    yield form
    for key in form.keys:
        if inside := _inside(form.fields[key]):
            yield from _forms_in(inside[0])


def _schema_of(form: Form) -> dict[str, Any]:
    needed = [name for name, key in form.keys.items() if key.needed]
    return {
        "type": "object",
        "description": form.description,
        "additionalProperties": False,
        "properties": {name: _property(form.fields[name], key) for name, key in form.keys.items()},
        **({"required": needed} if needed else {}),
    }


def _property(field: Field, key: Key) -> dict[str, Any]:
    about: dict[str, Any] = {"description": key.description}
    if key.example is not None:
        about["examples"] = [key.example]
    if (default := _default(field)) is not None:
        about["default"] = default
    return field.kind.schema | about


def _default(field: Field) -> object:
    """A field's default as the file would have it; None where it has none."""
    if field.default is MISSING or (field.default is None and not field.kind.takes_none):
        return None
    return field.kind.write(field.default)


# ------------------------------------------------------------------------------------------------- the example

_WIDTH = 110

_HEAD = """\
# yaml-language-server: $schema=dropzone.schema.json
#
# The configuration of dropzone. 'dropzone config check' reads it and names everything that is wrong in it; editors
# do so while you type, once they have the schema:  dropzone config schema > dropzone.schema.json
#
# Durations are written as 300ms 2s 15m 24h 90d, sizes as 64KiB 20MiB 2GiB, shares as 1%.
"""

_SHORT: dict[str, Any] = {
    "root": "/srv/dropzone",
    "state_dir": "/var/lib/dropzone",
    "accounts": {
        "main": {
            "base_url": "https://publisher.example.com",
            "api_key": {"credential": "optipub"},
            "key_created": date(2026, 3, 1),
        }
    },
    "defaults": {"settle": "2s"},
    "folders": {
        "acme-signups": {"segment_id": 100789, "mode": "subscribe", "source_campaign": 90, "source_partner": 9},
        "acme-optouts": {"segment_id": 100790, "mode": "unsubscribe"},
        "acme-leads": {"segment_id": 100791, "mode": "lead"},
        "do-not-mail": {
            "segment_id": 100792,
            "mode": "suppress",
            "hash": "sha256",
            "clear": True,
            "guards": {"min_rows": 1000, "max_shrink": "20%"},
        },
    },
}

_REST = """
# ---- Every other key, with its default ----
#
# Take the first # of a line away where you need it, and move the line to its place above. What is said for the
# folder NAME, but for its path and spool, can also stand under 'defaults:', for all folders.

"""


def example() -> str:
    """The text of config.example.yaml: a short configuration that works, then every other key with its default."""
    told: set[str] = set()  # descriptions: each is given once
    short = "\n".join(_short(_SHORT, FILE, "", told))
    rest = "\n".join(f"#{line}" for line in _rest(FILE, "", told))
    return f"{_HEAD}\n{short}\n{_REST}{rest}\n"


def _short(values: dict[str, Any], form: Form, indent: str, told: set[str]) -> Iterator[str]:
    for key, value in values.items():
        field = form.fields[key]
        if isinstance(value, dict) and form is FILE:
            yield ""
        yield from _told(form.keys[key], indent, told)
        match _inside(field):
            case inside, True:
                yield f"{indent}{key}:"
                for name, keys in value.items():
                    yield f"{indent}  {name}:"
                    yield from _short(keys, inside, f"{indent}    ", told)
            case inside, False if key == "defaults":
                yield f"{indent}{key}:"
                yield from _short(value, inside, f"{indent}  ", told)
            case _:
                yield f"{indent}{key}: {_inline(value)}"


def _rest(form: Form, indent: str, told: set[str]) -> Iterator[str]:
    for name, key in form.keys.items():
        field = form.fields[name]
        match _inside(field):
            case inside, named if name != "defaults":
                deeper = f"{indent}    " if named else f"{indent}  "
                about = list(_told(key, indent, told))
                if keys := list(_rest(inside, deeper, told)):
                    yield from about
                    if field.default is None:  # a section that is not there unless it is wanted
                        yield f"{indent}{name}:{_EXAMPLE}"
                        yield from map(_as_example, keys)
                        continue
                    yield f"{indent}{name}:"
                    yield from [f"{indent}  NAME:"] if named else []
                    yield from keys
            case None if key.description not in told:
                value = _default(field) if key.example is None else key.example
                yield from _told(key, indent, told)
                yield f"{indent}{name}: {_inline(value)}{'' if key.example is None else _EXAMPLE}"


_EXAMPLE = "  # an example"


def _as_example(line: str) -> str:
    return line if line.lstrip().startswith("#") or line.endswith(_EXAMPLE) else line + _EXAMPLE


def _told(key: Key, indent: str, told: set[str]) -> list[str]:
    """The description of `key` as comment lines, the first time that it is asked for."""
    text = key.description
    if text in told:
        return []
    told.add(text)
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _inside(field: Field) -> tuple[Form, bool] | None:
    """The form of a section's keys, and whether the section holds several of them by name. None for a value."""
    kind = field.kind
    return (kind.form, isinstance(kind, Named)) if isinstance(kind, Section | Named) else None


def _inline(value: object) -> str:
    return _to_yaml(value, flow=True).removesuffix("...\n").strip()  # "..." ends a document of one word
