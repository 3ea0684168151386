"""Which settings may stand together, and what a folder's settings are once the defaults are merged in.

Consent is the reason for most of it: a list imported with the wrong mode, hash or segment mails people who have left,
or no longer suppresses them. Such a mistake is an error when the file is read, not a surprise at night. Nothing is
looked up here but where symbolic links lead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from dropzone.config.findings import Findings
from dropzone.config.forms import Form, form_of
from dropzone.config.kinds import find_close
from dropzone.config.model import FILE, FOLDER, Account, Config, Create, Folder, Unmade
from dropzone.config.yaml import Place, cut, subject
from dropzone.errors import printable
from dropzone.values import value

# Keys that only one mode knows: in another mode they would not be sent, and whoever wrote them expects that they are.
KEYS_OF_MODE = {
    "source_campaign": "subscribe",
    "source_partner": "subscribe",
    "hash": "suppress",
    "hash_plain": "suppress",
}
# What the rules compare. Where one of them is wrong in itself it counts as unknown, not as its default.
_JUDGED = ("path", "spool", "account", "segment_id", "mode", "clear", "hash", "hash_plain", "order_group", "supersede")
NO_DEFAULTS = ("path", "spool", "segment_id", "create")  # two folders cannot share them


Keys = dict[str, Any]  # what was written and is right in itself, by key; sections as such mappings again


@value
class _Entry:
    """One folder between the file and the program: its own keys, and the values with the defaults merged in."""

    name: str
    own: Keys
    defaults: Keys
    values: Keys

    def place(self, *keys: str) -> Place:
        return ("folders", self.name, *keys)

    def origin(self, *keys: str) -> Place:
        """Where the value of a key was written: in the folder, else in the defaults, else where it is missing."""
        if not _is_written(self.own, keys) and _is_written(self.defaults, keys):
            return ("defaults", *keys)
        return self.place(*keys)


def resolve(keys: Keys, file: Path, findings: Findings) -> Config | None:
    """The complete configuration from what is right in `file`, or None when there are findings."""
    _check_present(("root", "state_dir", "accounts", "folders"), keys, FILE, (), findings)
    for name, account in keys.get("accounts", {}).items():
        _check_present(("base_url", "api_key"), account, form_of(Account), ("accounts", name), findings)
    for key in keys.get("defaults", {}).keys() & NO_DEFAULTS:
        findings.refuse(("defaults", key), "cannot be a default", "write it in each folder", at_key=True)
    accounts = _account_names(findings)
    entries = [_merged(name, own, keys, accounts, findings) for name, own in keys.get("folders", {}).items()]
    for entry in entries:
        if "create" not in entry.own and not findings.is_spoiled(entry.place("create")):
            _check_present(("segment_id",), entry.own, FOLDER, entry.place(), findings)
        _check_create(entry, findings)
        _check_mode(entry, findings)
        _check_account(entry, accounts, findings)
        _check_limits(entry, findings)
    _check_segments(entries, findings)
    _check_areas(keys, entries, findings)
    return None if findings.problems() else _built(keys, file, entries, findings.document.crc)


def _built(keys: Keys, file: Path, entries: list[_Entry], crc: int) -> Config:
    folders, unmade = {}, {}
    for entry in entries:
        base = entry.values["spool"] or keys["root"]
        if "create" not in entry.own:
            folders[entry.name] = Folder(**entry.values, name=entry.name, base=base)
        else:
            create = form_of(Create).made(entry.own["create"])
            draft = Folder(**entry.values | {"create": create}, name=entry.name, base=base)
            unmade[entry.name] = Unmade(create, draft)
    accounts = {name: form_of(Account).made(account | {"name": name}) for name, account in keys["accounts"].items()}
    top = {name: keys[name] for name in ("root", "state_dir", "concurrency") if name in keys}
    return Config(**top, accounts=accounts, folders=folders, unmade=unmade, file=file, crc=crc)


# ------------------------------------------------------------------------------------------------- merging


def _merged(name: str, own: Keys, keys: Keys, accounts: list[str], findings: Findings) -> _Entry:
    defaults = keys.get("defaults", {})
    values = FOLDER.defaults
    mode = own.get("mode", defaults.get("mode"))
    for key in defaults.keys() - set(NO_DEFAULTS):
        if KEYS_OF_MODE.get(key, mode) == mode:  # a key of one mode is a default for the folders of that mode
            values[key] = FOLDER.over(key, values[key], defaults[key])
    for key in own.keys() - {"create"}:
        values[key] = FOLDER.over(key, values[key], own[key])
    spoiled = {key for key in _JUDGED if findings.is_spoiled(("folders", name, key))}
    values |= dict.fromkeys(spoiled)
    if own.get("hash") == "none" and "hash_plain" not in own:
        values["hash_plain"] = False  # a default for the folders that hash, not for this one
    if values["path"] is None and "root" in keys and "path" not in spoiled:
        values["path"] = keys["root"] / "inbox" / name
    if values["account"] is None and len(accounts) == 1 and "account" not in spoiled:
        values["account"] = accounts[0]
    return _Entry(name=name, own=own, defaults=defaults, values=values)


def _is_written(keys: Keys, path: tuple[str, ...]) -> bool:
    first, *rest = path
    if first not in keys:
        return False
    return not rest or _is_written(keys[first], tuple(rest))


def _account_names(findings: Findings) -> list[str]:
    """All names, also those of accounts that are wrong in themselves: a folder that names one is not wrong for it."""
    return [str(place[1]) for place in findings.document.keys if len(place) == 2 and place[0] == "accounts"]


# ------------------------------------------------------------------------------------------------- one folder


def _check_present(wanted: tuple[str, ...], keys: Keys, form: Form, at: Place, findings: Findings) -> None:
    for key in wanted:
        place = (*at, key)
        value = keys.get(key)
        if value == {} and not findings.has_spoiled(place):
            findings.refuse(place, "is empty", "at least one is needed; 'dropzone config example' shows how")
        elif value is None and not findings.is_spoiled(place):
            findings.refuse(place, "is missing", _as_in(form, key))


def _as_in(form: Form, key: str) -> str:
    match form.keys[key].example:
        case None:
            return "'dropzone config example' shows how"
        case dict() as example:
            inner = ", ".join(f"{name}: {value}" for name, value in example.items())
            return f"as in '{key}: {{{inner}}}'"
        case example:
            return f"as in '{key}: {example}'"


def _check_mode(entry: _Entry, findings: Findings) -> None:
    mode = entry.values["mode"]
    if mode is None:
        if not findings.is_spoiled(entry.place("mode")) and not findings.is_spoiled(("defaults", "mode")):
            findings.refuse(entry.place("mode"), "is missing", "subscribe, unsubscribe, lead or suppress")
        return
    for key, needed in KEYS_OF_MODE.items():
        if key in entry.own and mode != needed:
            what = f"means nothing with mode {mode}, only with {needed}"
            findings.refuse(entry.place(key), what, "remove it, or correct the mode", at_key=True)
    if mode == "subscribe":
        _check_needed(entry, "source_campaign", "a subscribe import names its campaign", findings)
        _check_needed(entry, "source_partner", "a subscribe import names its partner", findings)
    if mode == "suppress":
        _check_needed(entry, "hash", "none, md5, sha256 or sha512, as the suppression segment was made", findings)
        if entry.values["hash"] == "none" and entry.values["hash_plain"]:
            what = "cannot be with hash: none, which takes plain addresses as they are"
            findings.refuse(entry.origin("hash_plain"), what, "remove it, or name the segment's hash")


def _check_create(entry: _Entry, findings: Findings) -> None:
    create = entry.own.get("create")
    if create is None:
        return
    if "segment_id" in entry.own:
        what = "means nothing beside segment_id: that segment is there already"
        findings.refuse(entry.place("create"), what, "keep one of the two", at_key=True)
    if "publication_id" not in create and not findings.has_spoiled(entry.place("create")):
        findings.refuse(entry.place("create", "publication_id"), "is missing", "as in 'publication_id: 7'")
    if "auto_responder_id" in create and entry.values["mode"] == "suppress":
        what = "means nothing with mode suppress: nobody is added to a list"
        findings.refuse(entry.place("create", "auto_responder_id"), what, "remove it", at_key=True)


def _check_needed(entry: _Entry, key: str, hint: str, findings: Findings) -> None:
    if entry.values[key] is None and not any(map(findings.is_spoiled, (entry.place(key), ("defaults", key)))):
        findings.refuse(entry.place(key), f"is missing, and mode {entry.values['mode']} needs it", hint)


def _check_account(entry: _Entry, accounts: list[str], findings: Findings) -> None:
    name = entry.values["account"]
    if name is None:
        if len(accounts) > 1 and not any(map(findings.is_spoiled, (entry.place("account"), ("defaults", "account")))):
            what = "is missing, and there are several accounts"
            findings.refuse(entry.place("account"), what, f"one of {_listed(accounts)}")
    elif name not in accounts and accounts:
        close = find_close(name, accounts)
        hint = f"did you mean {close}?" if close else f"there is {_listed(accounts)}"
        findings.refuse(entry.origin("account"), f"no account is called {name}", hint)


_LISTED = 20  # names in one sentence


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(map(cut, names[:_LISTED])) + more


def _check_limits(entry: _Entry, findings: Findings) -> None:
    guards, retry = entry.values["guards"], entry.values["retry"]
    if guards.max_rows is not None and guards.max_rows < guards.min_rows:
        what = f"is less than min_rows, {guards.min_rows}: every file would be held"
        findings.refuse(entry.origin("guards", "max_rows"), what)
    taken, left = (frozenset(map(str.lower, entry.values[key])) for key in ("include", "ignore"))
    if taken <= left:
        what = "has all that include has: no file would ever be taken"
        findings.refuse(entry.origin("ignore"), what, "remove it from one of the two")
    if entry.values["supersede"] and entry.values["clear"] is False:
        what = "would lose rows: without clear, files add up"
        findings.refuse(entry.origin("supersede"), what, "remove it, or set clear: true")
    if retry.max < retry.initial:
        findings.refuse(entry.origin("retry", "max"), "is shorter than the first delay, retry.initial")


# ------------------------------------------------------------------------------------------------- one segment


def _check_segments(entries: list[_Entry], findings: Findings) -> None:
    lanes: dict[tuple[str, int], list[_Entry]] = {}
    for entry in entries:
        account, segment_id = entry.values["account"], entry.values["segment_id"]
        if account is not None and segment_id is not None:
            lanes.setdefault((account, segment_id), []).append(entry)
    for sharing in lanes.values():
        for entry in sharing[1:]:
            _check_kind(sharing[0], entry, findings)
            _check_order(sharing[0], entry, findings)
        clearing = [entry for entry in sharing if entry.values["clear"]]
        for entry in clearing[1:]:
            what = f"folder {clearing[0].name} clears this segment too: each would wipe the other's rows"
            findings.refuse(entry.place("clear"), what, "keep it in one of them, or give each a segment of its own")


def _check_kind(first: _Entry, other: _Entry, findings: Findings) -> None:
    """A segment is for suppression or it is not, and has one hash; what was made otherwise is a wrong id somewhere."""
    segment_id = first.values["segment_id"]
    modes = (first.values["mode"], other.values["mode"])
    hint = f"one of the two is wrong: {subject(first.place('segment_id'))} or this"
    if None not in modes and modes[0] != modes[1] and "suppress" in modes:
        what = f"folder {first.name} imports into segment {segment_id} with mode {modes[0]}, this one with {modes[1]}"
        findings.refuse(other.place("segment_id"), what, hint)
    hashes = (first.values["hash"], other.values["hash"])
    if None not in hashes and hashes[0] != hashes[1]:
        what = f"folder {first.name} has segment {segment_id} with hash {hashes[0]}, this one with {hashes[1]}"
        findings.refuse(other.place("hash"), what, hint)


def _check_order(first: _Entry, other: _Entry, findings: Findings) -> None:
    """Files of one segment are sent one after the other, so its folders cannot be in different groups."""
    groups = (first.values["order_group"], other.values["order_group"])
    if groups[0] != groups[1]:
        what = f"folder {first.name} feeds this segment too, with {groups[0] or 'no order_group'}"
        findings.refuse(other.origin("order_group"), what, "give both the same order_group, or none")


# ------------------------------------------------------------------------------------------------- places on disk


@value
class _Area:
    """A part of the disk that belongs to one purpose. `path` is free of symbolic links, as far as it exists."""

    path: str
    kind: Literal["inbox", "own", "state"]
    label: str
    place: Place


def _check_areas(keys: Keys, entries: list[_Entry], findings: Findings) -> None:
    """Refuses areas that overlap: a partner could forge results, or we would take our own files for a partner's."""
    taken: dict[str, _Area] = {}
    areas = list(_areas(keys, entries))
    for area in areas:
        if (other := taken.setdefault(area.path, area)) is not area:
            _refuse_overlap(area, other, findings)
    for area in areas:
        for around in _parents(area.path):
            if around in taken and not (area.kind == "own" and taken[around].kind == "state"):
                _refuse_overlap(area, taken[around], findings)


def _areas(keys: Keys, entries: list[_Entry]) -> Iterator[_Area]:
    bases: dict[str, Place] = {}
    if "root" in keys:
        bases[os.path.realpath(keys["root"])] = ("root",)
    for entry in entries:
        if (spool := entry.values["spool"]) is not None:
            bases.setdefault(os.path.realpath(spool), entry.place("spool"))
    for base, place in bases.items():
        for name in ("work", "done", "failed"):
            path = os.path.join(base, name)
            yield _Area(
                path=os.path.realpath(path),
                kind="own",
                label=f"{printable(path)}, which is dropzone's own",
                place=place,
            )
    if "state_dir" in keys:
        yield _Area(path=os.path.realpath(keys["state_dir"]), kind="state", label="state_dir", place=("state_dir",))
    for entry in entries:
        if (inbox := entry.values["path"]) is not None:
            label = f"the path of folder {entry.name}, {printable(str(inbox))}"
            yield _Area(path=os.path.realpath(inbox), kind="inbox", label=label, place=entry.place("path"))


def _refuse_overlap(inner: _Area, outer: _Area, findings: Findings) -> None:
    hint = "choose another place"
    if inner.path == outer.path:
        findings.refuse(inner.place, f"is also {outer.label}", hint)
    elif inner.kind == "own" and outer.kind == "inbox":
        findings.refuse(outer.place, f"has {inner.label}, inside it", hint)
    else:
        findings.refuse(inner.place, f"lies inside {outer.label}", hint)


def _parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent
