"""Every setting: its kind, its default and its one description.

Two forms of each: the `…Keys` are what the file may hold, where any key may be missing; `Config`, `Account` and
`Folder` are what the program works with, complete, with the defaults filled in. Which values may stand together is
not known here but in `rules`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dropzone.config import kinds, units
from dropzone.config.kinds import Written
from dropzone.config.secret import Secret
from dropzone.config.terms import DEPARTING, Hash, Mode, key_days_left
from dropzone.config.units import Share
from dropzone.config.yaml import is_blank
from dropzone.errors import DropzoneError

# A plugin of pydantic's that somebody has installed beside us is not to see the settings. And to look for one is to
# read what every installed package says of itself.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# The parts that the upload itself makes; an extra field of that name would silently win or lose against them.
OWN_FIELDS = ("file", "clear", "activeStatus", "sourceCampaign", "sourcePartner")


_BaseUrl = Annotated[str, kinds.BASE_URL]
_Secret = Annotated[Secret, kinds.SECRET]
_Name = Annotated[str, kinds.NAME]
_Path = Annotated[Path, kinds.PATH]
_Positive = Annotated[int, kinds.counts(1)]


def _or_empty(value: object) -> object:
    """A section whose keys are all commented out is an empty section, not a mistake."""
    return {} if is_blank(value) else value


_Section = BeforeValidator(_or_empty)


class Model(BaseModel):
    """What all settings share: fixed once read, no silent conversions, no unknown keys, no values in tracebacks."""

    # Only the file's form is ever validated in most runs, so the others' validators are built when first asked for.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class Timeouts(Model):
    """How long an upload may stand still."""

    connect: Annotated[float, kinds.durations("100ms", "1h")] = Field(
        default=units.read_duration("10s"), description="Until the connection stands, TLS included."
    )
    write: Annotated[float, kinds.durations("100ms", "1h")] = Field(
        default=units.read_duration("60s"), description="Until the server takes the next piece of the file."
    )
    read: Annotated[float, kinds.durations("100ms", "1h")] = Field(
        default=units.read_duration("300s"),
        description="Until the answer comes once the file has left. Too short, and accepted files count as unknown.",
    )


class AccountKeys(Model):
    """One OptiPub installation and the API key of one user there."""

    model_config = ConfigDict(json_schema_extra={"required": ["base_url", "api_key"]})

    base_url: _BaseUrl | None = Field(
        default=None,
        description="The address of OptiPub, https, without /api/3.2. Plain http is taken on loopback only.",
        examples=["https://publisher.example.com"],
    )
    api_key: _Secret | None = Field(
        default=None,
        description="Where the personal API key is found, never the key itself: {env: NAME}, a variable; {file: PATH}, "
        "which nobody but its owner may read; {credential: NAME}, systemd's LoadCredential=.",
        examples=[{"credential": "optipub"}],
    )
    key_created: Annotated[date, kinds.DATE] | None = Field(
        default=None,
        description="The day on which the key was made. OptiPub's keys end after a year.",
        examples=["2026-03-01"],
    )
    ca_file: _Path | None = Field(
        default=None,
        description="A private certificate authority, PEM, to trust beside those that the machine trusts.",
        examples=["/etc/dropzone/ca.pem"],
    )
    proxy: Annotated[str, kinds.PROXY] | None = Field(
        default=None,
        description="The proxy to go through, http or https. The environment's proxies are never used.",
        examples=["http://proxy.example.com:3128"],
    )
    timeouts: Annotated[Timeouts, _Section] = Field(
        default=Timeouts.model_construct(),
        description="How long an upload may stand still before it is given up, as durations.",
    )


class Account(AccountKeys):
    """An account as the program uses it. `base_url` has no final slash."""

    name: str
    base_url: _BaseUrl
    api_key: _Secret

    def key_days_left(self, now: float) -> int | None:
        """Whole days until the key's year is over, at `now` (seconds since the epoch); None where nobody said."""
        return key_days_left(self.key_created, now)

    def key_warning(self, days: int) -> str:
        """What to say of a key with so many days left."""
        when = f"ends in {days} day{'s' if days != 1 else ''}" if days > 0 else "has ended"
        return f"the API key of account {self.name} {when}: make a new one in OptiPub and set key_created"


class Guards(Model):
    """Limits that hold a file back until somebody has looked; a file is never refused for them."""

    min_rows: Annotated[int, kinds.counts(0)] = Field(default=1, description="Fewer good rows than this hold the file.")
    max_rows: Annotated[int | None, kinds.or_none(kinds.counts(1))] = Field(
        default=None, description="More good rows than this hold the file; none is no limit."
    )
    max_bytes: Annotated[int, kinds.sizes(1)] = Field(
        default=units.read_size("2GiB"),
        description="A larger file is held, in bytes or as 64KiB, 20MiB, 2GiB; a .gz counts unpacked.",
    )
    max_shrink: Annotated[Share | None, kinds.or_none(kinds.shares("100%"))] = Field(
        default=Share.percent("50%"),
        description="With clear: true, a file that lost more than this share of the rows of the folder's last accepted "
        "file is held; none switches it off.",
    )
    max_growth: Annotated[Share | None, kinds.or_none(kinds.shares("999999%"))] = Field(
        default=None,
        description="A file that grew by more than this share of the rows of the folder's last accepted file is held; "
        "none switches it off.",
    )
    max_files_per_hour: Annotated[int | None, kinds.or_none(kinds.counts(1))] = Field(
        default=None, description="Of more files than this within an hour, the further ones are held; none is no limit."
    )


class Retry(Model):
    """Delays between attempts that were surely not taken."""

    initial: Annotated[float, kinds.durations("10ms", "1d")] = Field(
        default=units.read_duration("5s"), description="About the first delay; each further one is about twice as long."
    )
    max: Annotated[float, kinds.durations("10ms", "7d")] = Field(
        default=units.read_duration("15m"), description="No delay is longer than this."
    )


class Retention(Model):
    """How long finished files are kept."""

    done: Annotated[float | None, kinds.or_none(kinds.durations("1d", "3660d"))] = Field(
        default=None, description="Files in done/ and their logs are deleted after so long; none keeps them for ever."
    )
    failed: Annotated[float | None, kinds.or_none(kinds.durations("1d", "3660d"))] = Field(
        default=None, description="Files in failed/, their logs and rejects likewise."
    )


_Text = Annotated[str, kinds.texts("[^\\x00-\\x1f\\x7f]{0,255}", "a text", "at most 255 characters, in one line")]


class Create(Model):
    """A segment that is to be created once, by `dropzone segment create`."""

    model_config = ConfigDict(json_schema_extra={"required": ["publication_id"]})

    name: _Text | None = Field(
        default=None,
        description="What the segment is called; the folder's name where nothing else is said.",
        examples=["Leads of Acme"],
    )
    description: _Text = Field(default="", description="What OptiPub shows beside the name.")
    publication_id: _Positive | None = Field(
        default=None,
        description="Needed: the publication whose subscriptions an import into the segment changes.",
        examples=[7],
    )
    auto_responder_id: _Positive | None = Field(
        default=None, description="Fires when somebody is added; not for suppression segments.", examples=[22]
    )
    redirect_url: Annotated[str, kinds.WEB_ADDRESS] | None = Field(
        default=None, description="The segment's redirect address.", examples=["https://www.example.com/thanks"]
    )


def _as_tuple(value: object) -> object:
    if isinstance(value, tuple):
        return value
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str):
        raise kinds.wrong("must be a list, not one text", f'write ["{value}"]' if len(value) < 60 else "")
    if is_blank(value):
        raise kinds.wrong("has no value", 'as in ["*.csv"]')
    raise kinds.wrong(f"must be a list, not {kinds.shown(value)}", 'as in ["*.csv"]')


_Names = tuple[Annotated[str, kinds.PATTERN], ...]


def _read_column(value: object) -> str:
    """A partner's name of a column as the header's names are compared: trimmed, in lower case."""
    text = kinds.text_of(value, "the name of a column").strip().lower()
    if not text:
        raise kinds.wrong("is empty", "write the partner's name of the column")
    return text


def _read_field(value: object) -> str:
    """A part of the form. PHP cuts a name at its first bracket, so `clear[0]` would replace `clear`."""
    name = kinds.text_of(value, "the name of a form field")
    if name.partition("[")[0].lower() in {own.lower() for own in OWN_FIELDS}:
        raise kinds.wrong(f"dropzone sends the field {kinds.shown(name)} itself", "remove it here; its own key sets it")
    return str(_FIELD.read(name))


def _read_field_value(value: object) -> str:
    if isinstance(value, bool):
        raise kinds.wrong(f"must be a text or a whole number, not {kinds.shown(value)}", "write 1 or 0, or use quotes")
    return str(value) if isinstance(value, int) else kinds.text_of(value, "a text or a whole number")


_FIELD = kinds.texts(
    r"[A-Za-z][A-Za-z0-9_]{0,99}(\[[A-Za-z0-9_]{0,40}\]){0,4}",
    "the name of a form field",
    "letters, digits and '_', a letter first, as in subscriptionAction",
)
_Column = Annotated[str, Written(_read_column, str, {"type": "string", "minLength": 1})]
_OurColumn = Annotated[
    str,
    kinds.texts("[a-z0-9][a-z0-9_-]{0,99}", "a name of a column", "as in varr_firstname: a-z, 0-9, '_' and '-'"),
]
_Field = Annotated[str, Written(_read_field, str, _FIELD.schema)]
_FieldValue = Annotated[str, Written(_read_field_value, str, {"type": ["string", "integer"]})]


def _distinct_columns(value: object) -> object:
    """Refuses two spellings of one column: which of them won would depend on their order."""
    if isinstance(value, dict):
        seen: dict[str, str] = {}
        for key in value:
            name = key.strip().lower() if isinstance(key, str) else key
            if name in seen:
                raise kinds.wrong(
                    f"{kinds.shown(seen[name])} and {kinds.shown(key)} are one column",
                    "names are compared without case and blanks around them",
                )
            seen[name] = key
    return _or_empty(value)


class FolderKeys(Model):
    """One watched folder and the segment that its files go to."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["segment_id"]}, {"required": ["create"]}]})

    path: _Path | None = Field(
        default=None,
        description="The folder that the partner writes into; {root}/inbox/NAME where nothing else is said.",
        examples=["/home/acme/upload"],
    )
    spool: _Path | None = Field(
        default=None,
        description="Where this folder's work/, done/ and failed/ are when path is on another file system than root.",
        examples=["/home/acme/.dropzone"],
    )
    account: _Name | None = Field(
        default=None, description="Which of the accounts; needed where there are several.", examples=["main"]
    )
    include: Annotated[_Names, Field(min_length=1), BeforeValidator(_as_tuple)] = Field(
        default=("*.csv", "*.csv.gz"),
        description="Which file names are taken, in upper or lower case; * and ? as in a shell.",
    )
    ignore: Annotated[_Names, BeforeValidator(_as_tuple)] = Field(
        default=(),
        description="File names that are never taken, beside the temporary names of common clients, which are known.",
    )

    settle: Annotated[float, kinds.durations("0s", "1d")] = Field(
        default=units.read_duration("2s"),
        description="How long a file must be quiet before it is taken. Raise it to twice the longest pause of a client "
        "that closes the file in between.",
    )
    settle_unseen: Annotated[float, kinds.durations("0s", "1d")] = Field(
        default=units.read_duration("10s"),
        description="The same for a file that only a scan found, so that nobody knows when it last moved. Where nobody "
        "can tell whether a client still has it open (network file systems), at least 30 s.",
    )
    hold_tail: Annotated[float, kinds.durations("0s", "7d")] = Field(
        default=units.read_duration("300s"),
        description="How long a file whose last line has no end is waited for: a broken upload looks like that.",
    )
    final_newline: Literal["optional", "required"] = Field(
        default="optional",
        description="required: a file whose last line has no end is never taken; optional: it is, after hold_tail.",
    )
    marker: Literal["none", ".done", ".md5", ".sha256"] = Field(
        default="none",
        description=".done: a file is taken only once x.csv.done lies beside x.csv; .md5, .sha256: only once "
        "x.csv.sha256 does and fits. What it says goes with its file.",
    )
    empty: Literal["hold", "refuse", "ignore"] = Field(
        default="hold",
        description="A file without a single byte is held until somebody has looked, refused, or left where it is.",
    )
    stall_alert: Annotated[float, kinds.durations("1s", "30d")] = Field(
        default=units.read_duration("15m"),
        description="A file that has not grown for so long and still is not ready is reported, once.",
    )
    scan: Annotated[float, kinds.durations("100ms", "1h")] = Field(
        default=units.read_duration("15s"),
        description="How often the folder is looked through, whatever the file system did or did not report. On "
        "network file systems every 5 s at least.",
    )

    segment_id: _Positive | None = Field(
        default=None, description="The OptiPub segment that the files are imported into.", examples=[100789]
    )
    create: Annotated[Create | None, BeforeValidator(_or_empty)] = Field(
        default=None,
        description="Instead of segment_id: the segment is created once, by 'dropzone segment create --folder NAME', "
        "and its id remembered in the ledger.",
    )
    mode: Mode | None = Field(
        default=None,
        description="What an import does: subscribe, unsubscribe, lead, or suppress for a suppression segment.",
        examples=["subscribe"],
    )
    clear: bool = Field(
        default=False, description="Empty the segment before each import: for full lists, never for additions."
    )
    hash: Hash | None = Field(
        default=None,
        description="suppress only, and needed there: how the segment's addresses are hashed, "
        "none, md5, sha256 or sha512. It must be the segment's own.",
        examples=["sha256"],
    )
    hash_plain: bool = Field(
        default=False,
        description="suppress only: hash plain addresses before they are sent; without it, a file that holds one is "
        "refused.",
    )
    source_campaign: _Positive | None = Field(
        default=None, description="subscribe only, and needed there: the campaign's id.", examples=[90]
    )
    source_partner: _Positive | None = Field(
        default=None, description="subscribe only, and needed there: the partner's id.", examples=[9]
    )
    extra_fields: Annotated[dict[_Field, _FieldValue], _Section] = Field(
        default={},
        description="Further fields to send with each import, as OptiPub's reference names them.",
        examples=[{"subscriptionAction": "create_only"}],
    )

    encoding: Annotated[str, kinds.ENCODING] = Field(
        default="utf-8",
        description="The encoding of files that are neither UTF-8 nor UTF-16 with its mark, such as cp1252.",
    )
    delimiter: Literal[",", ";", "tab", "auto"] = Field(
        default=",", description='What separates the cells: ",", ";", tab, or auto where the header proves it.'
    )
    rename: Annotated[dict[_Column, _OurColumn], BeforeValidator(_distinct_columns)] = Field(
        default={},
        description="The partner's names of columns and ours, compared without case.",
        examples=[{"First Name": "varr_firstname"}],
    )
    unknown_columns: Literal["reject", "prefix", "keep", "drop"] = Field(
        default="reject",
        description="Columns that OptiPub's guide does not name: reject the file, prefix them with varr_, keep or drop "
        "them.",
    )
    bad_rows: Annotated[int | Share, kinds.count_or_share(kinds.counts(0), kinds.shares("100%"))] = Field(
        default=0,
        description="Up to so many bad rows, or to a share such as 1%, the good ones go and the bad ones stay in a "
        ".rejects.csv; with more the file is refused.",
    )
    repeats: Literal["keep", "last", "refuse"] = Field(
        default="keep", description="Repeated addresses: keep all, send the last of each, or refuse the file."
    )

    guards: Annotated[Guards, _Section] = Field(
        default=Guards.model_construct(),
        description="Limits that hold a file back until somebody has looked. Defaults are merged key by key.",
    )
    retry: Annotated[Retry, _Section] = Field(
        default=Retry.model_construct(),
        description="The delays after an attempt that was surely not taken. Defaults are merged key by key.",
    )
    retention: Annotated[Retention, _Section] = Field(
        default=Retention.model_construct(),
        description="How long finished files are kept, as 90d. What was accepted is remembered for duplicates all the "
        "same. Defaults are merged key by key.",
    )
    on_unknown: Annotated[float, kinds.RESENDING] | None = Field(
        default=None,
        description="What happens where OptiPub may have taken a file but its answer was lost: hold it until somebody "
        "has looked, resend it (twice at most), or {resend_within: 10m} of the first such attempt, then hold. By "
        "default unsubscribe and suppress: resend; lead: within 30m; subscribe: within 10m, and never once an "
        "unsubscribe or suppress file of the account was sent in between; with clear: true or a column that replaces "
        "tags: within 2m.",
        examples=["hold"],
    )
    order_group: _Name | None = Field(
        default=None,
        description="Folders of an account with the same group are sent one file after the other, oldest first, as "
        "those of one segment always are: say sign-ups and opt-outs of one list.",
        examples=["acme"],
    )
    strict_order: bool = Field(
        default=False, description="Later files wait for a held one too, not only for one that is to be tried again."
    )
    supersede: bool = Field(
        default=False,
        description="For full lists: once a newer file of the folder has passed its check, older ones that still wait "
        "go to done/ unsent.",
    )
    duplicates: Literal["skip", "hold", "send"] = Field(
        default="skip",
        description="A file with the same content as one that was accepted for the segment within duplicates_within: "
        "skip it (it goes to done/ unsent), hold it, or send it again.",
    )
    duplicates_within: Annotated[float, kinds.durations("1s", "366d")] = Field(
        default=units.read_duration("24h"), description="How long an accepted file counts for duplicates."
    )
    alarm_after: Annotated[float, kinds.durations("1s", "366d")] = Field(
        default=units.read_duration("24h"),
        description="A file that still waits to be sent so long after it was taken over raises an alarm, once a day.",
    )


class Defaults(FolderKeys):
    """Keys of a folder for all folders that do not have them. Keys of one mode count where that mode is."""


class Folder(FolderKeys):
    """A folder as the program uses it, complete: the defaults are filled in.

    `base` holds its work/, done/ and failed/. Made by `load`, or by `from_settings` from what `settings_json` wrote.
    """

    name: str
    base: _Path
    path: _Path
    account: str
    segment_id: _Positive
    mode: Mode

    @property
    def lane(self) -> str:
        """Drops of one lane go out one after the other: those of one segment, or order group, of one account."""
        return f"{self.account}/{f'group {self.order_group}' if self.order_group else self.segment_id}"

    @property
    def departs(self) -> bool:
        """Whether its files take people off a list."""
        return self.mode in DEPARTING

    @property
    def parameters(self) -> tuple[object, ...]:
        """What an import says beside the file: two with the same content and the same of these do the same."""
        fields = tuple(sorted(self.extra_fields.items()))
        return self.mode, self.clear, self.hash, self.source_campaign, self.source_partner, fields

    def having(self, **changes: object) -> Folder:
        """The folder with these values, which nobody checks; itself where they are its own already.

        A thousand of them share one set of their keys, where `model_copy` gives each its own: two kilobytes.
        """
        if all(getattr(self, key) == value for key, value in changes.items()):
            return self
        return Folder.model_construct(self.model_fields_set, **dict(self) | changes)

    def settings_json(self) -> str:
        """All settings as one line of JSON, in the form that the file has. The ledger keeps it with each drop."""
        return self.model_dump_json()

    @classmethod
    def from_settings(cls, text: str) -> Folder:
        """The folder that `settings_json` wrote. Raises `DropzoneError` when it is none."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            keys = ", ".join(sorted({str(part["loc"][0]) for part in error.errors(include_url=False) if part["loc"]}))
            hint = "They were written by another version of dropzone, or the ledger is damaged"
            raise DropzoneError(f"the stored settings of a folder cannot be read: {keys or 'no JSON'}", hint) from None


@dataclass(frozen=True, slots=True)
class Unmade:
    """A folder whose segment does not exist yet: all its settings but that one are in `draft`."""

    create: Create
    draft: Folder

    @property
    def segment_name(self) -> str:
        """What the segment is to be called."""
        return self.create.name or self.draft.name

    def made(self, segment_id: int) -> Folder:
        """The folder once its segment exists."""
        return self.draft.having(segment_id=segment_id)


class TopKeys(Model):
    """What concerns the whole installation."""

    root: _Path | None = Field(
        default=None,
        description="Where inbox/, work/, done/ and failed/ are, on one file system.",
        examples=["/srv/dropzone"],
    )
    state_dir: _Path | None = Field(
        default=None,
        description="Where the ledger is: on a local disk, never on a network file system.",
        examples=["/var/lib/dropzone"],
    )
    concurrency: Annotated[int, kinds.counts(1, 64)] = Field(
        default=4,
        description="How many drops are sent at the same time. Those of one segment always go one after the other.",
    )


class File(TopKeys):
    """The configuration file of dropzone."""

    model_config = ConfigDict(json_schema_extra={"required": ["root", "state_dir", "accounts", "folders"]})

    accounts: dict[_Name, AccountKeys] | None = Field(
        default=None, description="The OptiPub accounts by a name of your choice."
    )
    defaults: Annotated[Defaults, _Section] = Field(
        default=Defaults.model_construct(),
        description="Any key of a folder except path, spool, segment_id and create, for all folders that do not have "
        "it. A key of one mode, such as source_partner, counts for the folders of that mode.",
    )
    folders: dict[_Name, FolderKeys] | None = Field(
        default=None, description="The watched folders by name; each feeds one segment."
    )


class Config(TopKeys):
    """A configuration that is right: what `load` returns."""

    file: Path
    crc: int  # of the file's content when it was read: whether it was changed since
    root: _Path
    state_dir: _Path
    accounts: dict[str, Account]
    folders: dict[str, Folder]
    unmade: dict[str, Unmade]  # folders whose segment is still to be created: nothing is taken over there

    def with_segments(self, ids: Mapping[str, int]) -> Config:
        """The same with the segments of these folders (name to id) created, as far as they were still to be."""
        made = {name: unmade.made(ids[name]) for name, unmade in self.unmade.items() if name in ids}
        left = {name: unmade for name, unmade in self.unmade.items() if name not in ids}
        return self.model_copy(update={"folders": self.folders | made, "unmade": left})
