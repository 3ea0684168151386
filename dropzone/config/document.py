"""What is made from the settings for people and editors: the example, the JSON Schema, and what is in force.

All of it is drawn from the fields in `model`; a key that is added there appears here by itself.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from datetime import date
from typing import Any, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from dropzone.config.model import (
    AccountKeys,
    Config,
    Create,
    Defaults,
    File,
    Folder,
    FolderKeys,
    Guards,
    Model,
    Retention,
    Retry,
    Timeouts,
)
from dropzone.config.rules import KEYS_OF_MODE, NO_DEFAULTS
from dropzone.config.yaml import plain

# ------------------------------------------------------------------------------------------------- what is in force


def effective(config: Config) -> dict[str, Any]:
    """`config` as the file would say it with every default written out, in texts, numbers, lists and mappings.

    Loading it again gives the same configuration. Of a secret there is only the source. Keys that a folder's mode
    does not know, and keys that have no value, are left out.
    """
    top = config.model_dump(mode="json", include={"root", "state_dir", "concurrency"})
    accounts = {name: _written(account) for name, account in config.accounts.items()}
    drafts = {name: unmade.draft for name, unmade in config.unmade.items()}
    folders = {name: _folder(folder) for name, folder in (config.folders | drafts).items()}
    return {**top, "accounts": accounts, "folders": folders}


def dump(config: Config) -> str:
    """`effective` as the text of a configuration file."""
    return _to_yaml(effective(config))


def _folder(folder: Folder) -> dict[str, Any]:
    other_modes = {key for key, mode in KEYS_OF_MODE.items() if mode != folder.mode}
    return {key: value for key, value in _written(folder).items() if key not in other_modes}


def _written(model: Model) -> dict[str, Any]:
    missing = {"segment_id"} if getattr(model, "segment_id", 0) is None else set()  # still to be created
    return _present(model.model_dump(mode="json", exclude={"name", "base"} | missing))


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
    raw = File.model_json_schema()
    parts = raw["$defs"]
    for key in NO_DEFAULTS:
        del parts["Defaults"]["properties"][key]
    del parts["Defaults"]["anyOf"]
    for model in (AccountKeys, Create, Defaults, FolderKeys, Guards, Retention, Retry, Timeouts):
        _write_defaults(parts[model.__name__]["properties"], model)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_tidied(raw)}


def _write_defaults(properties: dict[str, Any], model: type[Model]) -> None:
    """Puts each default as the file would have it, where pydantic gives the value that the program has."""
    written = model().model_dump(mode="json")
    for key, part in properties.items():
        if "default" in part:
            part["default"] = written[key]


def _tidied(node: Any) -> Any:
    """Without what pydantic adds and the file does not know: titles, null for a missing key, names of other forms."""
    if isinstance(node, list):
        return [_tidied(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if isinstance(node.get("title"), str):
        del node["title"]
    if "default" in node and node["default"] is None:
        del node["default"]
    if "patternProperties" in node:
        node["additionalProperties"] = False
    if choices := [choice for choice in node.get("anyOf", []) if choice != {"type": "null"}]:
        node.pop("anyOf")
        node.update(choices[0] if len(choices) == 1 else {"anyOf": choices})
    return {key: _tidied(value) for key, value in node.items()}


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
    short = "\n".join(_short(_SHORT, File, "", told))
    rest = "\n".join(f"#{line}" for line in _rest(File, "", told))
    return f"{_HEAD}\n{short}\n{_REST}{rest}\n"


def _short(values: dict[str, Any], model: type[Model], indent: str, told: set[str]) -> Iterator[str]:
    for key, value in values.items():
        field = model.model_fields[key]
        if isinstance(value, dict) and model is File:
            yield ""
        yield from _told(field, indent, told)
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


def _rest(model: type[Model], indent: str, told: set[str]) -> Iterator[str]:
    defaults = model().model_dump(mode="json")
    for key, field in model.model_fields.items():
        match _inside(field):
            case inside, named if key != "defaults":
                deeper = f"{indent}    " if named else f"{indent}  "
                about = list(_told(field, indent, told))
                if keys := list(_rest(inside, deeper, told)):
                    yield from about
                    if defaults[key] is None and not named:  # a section that is not there unless it is wanted
                        yield f"{indent}{key}:{_EXAMPLE}"
                        yield from map(_as_example, keys)
                        continue
                    yield f"{indent}{key}:"
                    yield from [f"{indent}  NAME:"] if named else []
                    yield from keys
            case None if field.description not in told:
                value = field.examples[0] if field.examples else defaults[key]
                yield from _told(field, indent, told)
                yield f"{indent}{key}: {_inline(value)}{_EXAMPLE if field.examples else ''}"


_EXAMPLE = "  # an example"


def _as_example(line: str) -> str:
    return line if line.lstrip().startswith("#") or line.endswith(_EXAMPLE) else line + _EXAMPLE


def _told(field: FieldInfo, indent: str, told: set[str]) -> list[str]:
    """The description of `field` as comment lines, the first time that it is asked for."""
    text = field.description or ""
    if text in told:
        return []
    told.add(text)
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _inside(field: FieldInfo) -> tuple[type[Model], bool] | None:
    """The model of a section's keys, and whether the section holds several of them by name. None for a value."""
    return _model_in(field.annotation, named=False)


def _model_in(annotation: Any, *, named: bool) -> tuple[type[Model], bool] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation, named
    named = named or get_origin(annotation) is dict
    found = (_model_in(part, named=named) for part in get_args(annotation))
    return next(filter(None, found), None)


def _inline(value: object) -> str:
    return _to_yaml(value, flow=True).removesuffix("...\n").strip()  # "..." ends a document of one word
