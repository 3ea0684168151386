"""Every setting: its kind, its default and its one description.

Each class is what the program works with, complete, with the defaults filled in; its keys tell what the file may hold
(`forms`), where any of them may be missing. Which values may stand together is not known here but in `rules`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, cast, get_args

from dropzone.config import kinds
from dropzone.config.forms import (
    Field,
    Form,
    Key,
    Listing,
    Named,
    Pairs,
    Section,
    Settings,
    form_of,
    key,
    settings,
    stored,
)
from dropzone.config.kinds import Written, WrongValueError
from dropzone.config.secret import Secret
from dropzone.config.terms import DEPARTING, Hash, Mode, key_days_left
from dropzone.config.units import Share
from dropzone.config.yaml import Place
from dropzone.errors import DropzoneError

# The parts that the upload itself makes; an extra field of that name would silently win or lose against them.
OWN_FIELDS = ("file", "clear", "activeStatus", "sourceCampaign", "sourcePartner")


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


_TEXT = kinds.texts("[^\\x00-\\x1f\\x7f]{0,255}", "a text", "at most 255 characters, in one line")
_FIELD = kinds.texts(
    r"[A-Za-z][A-Za-z0-9_]{0,99}(\[[A-Za-z0-9_]{0,40}\]){0,4}",
    "the name of a form field",
    "letters, digits and '_', a letter first, as in subscriptionAction",
)
_FIELDS = Pairs(
    name=Written(read=_read_field, write=str, schema=_FIELD.schema),
    each=Written(
        read=_read_field_value,
        write=str,
        schema={
            "type": ["string", "integer"],
            "pattern": f"^{kinds.IN_ONE_LINE}$",
            "minimum": -kinds.MAX_NUMBER,
            "maximum": kinds.MAX_NUMBER,
        },
    ),
)
_COLUMNS = Pairs(
    name=Written(read=_read_column, write=str, schema={"pattern": r"\S"}),
    each=kinds.texts("[a-z0-9][a-z0-9_-]{0,99}", "a name of a column", "as in varr_firstname: a-z, 0-9, '_' and '-'"),
    noun="column",
    alike="names are compared without case and blanks around them",
)


class _Wrong:
    """Notes of which keys are wrong, and not of how."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def wrong(self, place: Place, error: WrongValueError, *, at_key: bool = False) -> None:
        del error, at_key
        self.unknown(place)

    def unknown(self, place: Place) -> None:
        self.keys.add(str(place[0]))

    def spoil(self, place: Place) -> None:
        del place


@settings
class Timeouts(Settings):
    """How long an upload may stand still."""

    connect: float = key(kinds.durations("100ms", "1h"), "Until the connection stands, TLS included.", default="10s")
    write: float = key(
        kinds.durations("100ms", "1h"), "Until the server takes the next piece of the file.", default="60s"
    )
    read: float = key(
        kinds.durations("100ms", "1h"),
        "Until the answer comes once the file has left. Too short, and accepted files count as unknown.",
        default="5m",
    )


@settings
class Account(Settings):
    """One OptiPub installation and the API key of one user there.

    `base_url` has no final slash.
    """

    name: str = stored(kinds.NAME)
    base_url: str = key(
        kinds.BASE_URL,
        "The address of OptiPub, https, without /api/3.2. Plain http is taken on loopback only.",
        example="https://publisher.example.com",
        needed=True,
    )
    api_key: Secret = key(
        kinds.SECRET,
        "Where the personal API key is found, never the key itself: {env: NAME}, a variable; {file: PATH}, which "
        "nobody but its owner may read; {credential: NAME}, systemd's LoadCredential=.",
        example={"credential": "optipub"},
        needed=True,
    )
    key_created: date | None = key(
        kinds.DATE,
        "The day on which the key was made. OptiPub's keys end after a year.",
        default=None,
        example="2026-03-01",
    )
    ca_file: Path | None = key(
        kinds.PATH,
        "A private certificate authority, PEM, to trust beside those that the machine trusts.",
        default=None,
        example="/etc/dropzone/ca.pem",
    )
    proxy: str | None = key(
        kinds.PROXY,
        "The proxy to go through, http or https. The environment's proxies are never used.",
        default=None,
        example="http://proxy.example.com:3128",
    )
    timeouts: Timeouts = key(
        Section(form=form_of(Timeouts)),
        "How long an upload may stand still before it is given up, as durations.",
        default=Timeouts(),
    )

    def key_days_left(self, now: float) -> int | None:
        """Whole days until the key's year is over, at `now` (seconds since the epoch); None where nobody said."""
        return key_days_left(self.key_created, now)

    def key_warning(self, days: int) -> str:
        """What to say of a key with so many days left."""
        when = f"ends in {days} day{'s' if days != 1 else ''}" if days > 0 else "has ended"
        return f"the API key of account {self.name} {when}: make a new one in OptiPub and set key_created"


@settings
class Guards(Settings):
    """Limits that hold a file back until somebody has looked; a file is never refused for them."""

    min_rows: int = key(kinds.counts(0), "Fewer good rows than this hold the file.", default=1)
    max_rows: int | None = key(
        kinds.or_none(kinds.counts(1)), "More good rows than this hold the file; none is no limit.", default="none"
    )
    max_bytes: int = key(
        kinds.sizes(1),
        "A larger file is held, in bytes or as 64KiB, 20MiB, 2GiB; a .gz counts unpacked.",
        default="2GiB",
    )
    max_shrink: Share | None = key(
        kinds.or_none(kinds.shares("100%")),
        "With clear: true, a file that lost more than this share of the rows of the folder's last accepted file "
        "is held; none switches it off.",
        default="50%",
    )
    max_growth: Share | None = key(
        kinds.or_none(kinds.shares("999999%")),
        "A file that grew by more than this share of the rows of the folder's last accepted file is held; none "
        "switches it off.",
        default="none",
    )
    max_files_per_hour: int | None = key(
        kinds.or_none(kinds.counts(1)),
        "Of more files than this within an hour, the further ones are held; none is no limit.",
        default="none",
    )


@settings
class Retry(Settings):
    """Delays between attempts that were surely not taken."""

    initial: float = key(
        kinds.durations("10ms", "1d"), "About the first delay; each further one is about twice as long.", default="5s"
    )
    max: float = key(kinds.durations("10ms", "7d"), "No delay is longer than this.", default="15m")


@settings
class Retention(Settings):
    """How long finished files are kept."""

    done: float | None = key(
        kinds.or_none(kinds.durations("1d", "3660d")),
        "Files in done/ and their logs are deleted after so long; none keeps them for ever.",
        default="none",
    )
    failed: float | None = key(
        kinds.or_none(kinds.durations("1d", "3660d")),
        "Files in failed/, their logs and rejects likewise.",
        default="none",
    )


@settings
class Create(Settings):
    """A segment that is to be created once, by `dropzone segment create`."""

    name: str | None = key(
        _TEXT,
        "What the segment is called; the folder's name where nothing else is said.",
        default=None,
        example="Leads of Acme",
    )
    description: str = key(_TEXT, "What OptiPub shows beside the name.", default="")
    publication_id: int = key(
        kinds.counts(1),
        "Needed: the publication whose subscriptions an import into the segment changes.",
        example=7,
        needed=True,
    )
    auto_responder_id: int | None = key(
        kinds.counts(1), "Fires when somebody is added; not for suppression segments.", default=None, example=22
    )
    redirect_url: str | None = key(
        kinds.WEB_ADDRESS, "The segment's redirect address.", default=None, example="https://www.example.com/thanks"
    )


@settings
class Folder(Settings):
    """One watched folder and the segment that its files go to.

    Complete: the defaults are filled in. `base` holds its work/, done/ and failed/. Made by `load`, or by
    `from_settings` from what `settings_json` wrote.
    """

    path: Path = key(
        kinds.PATH,
        "The folder that the partner writes into; {root}/inbox/NAME where nothing else is said.",
        example="/home/acme/upload",
    )
    spool: Path | None = key(
        kinds.PATH,
        "Where this folder's work/, done/ and failed/ are when path is on another file system than root.",
        default=None,
        example="/home/acme/.dropzone",
    )
    account: str = key(kinds.NAME, "Which of the accounts; needed where there are several.", example="main")
    include: tuple[str, ...] = key(
        Listing(each=kinds.PATTERN, at_least=1),
        "Which file names are taken, in upper or lower case; * and ? as in a shell.",
        default=("*.csv", "*.csv.gz"),
    )
    ignore: tuple[str, ...] = key(
        Listing(each=kinds.PATTERN),
        "File names that are never taken, beside the temporary names of common clients, which are known.",
        default=(),
    )

    settle: float = key(
        kinds.durations("0s", "1d"),
        "How long a file must be quiet before it is taken. Raise it to twice the longest pause of a client that "
        "closes the file in between.",
        default="2s",
    )
    settle_unseen: float = key(
        kinds.durations("0s", "1d"),
        "The same for a file that only a scan found, so that nobody knows when it last moved. Where nobody can "
        "tell whether a client still has it open (network file systems), at least 30 s.",
        default="10s",
    )
    hold_tail: float = key(
        kinds.durations("0s", "7d"),
        "How long a file whose last line has no end is waited for: a broken upload looks like that.",
        default="5m",
    )
    final_newline: Literal["optional", "required"] = key(
        kinds.choice("optional", "required"),
        "required: a file whose last line has no end is never taken; optional: it is, after hold_tail.",
        default="optional",
    )
    marker: Literal["none", ".done", ".md5", ".sha256"] = key(
        kinds.choice("none", ".done", ".md5", ".sha256"),
        ".done: a file is taken only once x.csv.done lies beside x.csv; .md5, .sha256: only once x.csv.sha256 "
        "does and fits. What it says goes with its file.",
        default="none",
    )
    empty: Literal["hold", "refuse", "ignore"] = key(
        kinds.choice("hold", "refuse", "ignore"),
        "A file without a single byte is held until somebody has looked, refused, or left where it is.",
        default="hold",
    )
    stall_alert: float = key(
        kinds.durations("1s", "30d"),
        "A file that has not grown for so long and still is not ready is reported, once.",
        default="15m",
    )
    scan: float = key(
        kinds.durations("100ms", "1h"),
        "How often the folder is looked through, whatever the file system did or did not report. On network file "
        "systems every 5 s at least.",
        default="15s",
    )

    segment_id: int = key(kinds.counts(1), "The OptiPub segment that the files are imported into.", example=100789)
    create: Create | None = key(
        Section(form=form_of(Create)),
        "Instead of segment_id: the segment is created once, by 'dropzone segment create --folder NAME', and its "
        "id remembered in the ledger.",
        default=None,
    )
    mode: Mode = key(
        kinds.choice(*get_args(Mode)),
        "What an import does: subscribe, unsubscribe, lead, or suppress for a suppression segment.",
        example="subscribe",
    )
    clear: bool = key(
        kinds.FLAG, "Empty the segment before each import: for full lists, never for additions.", default=False
    )
    hash: Hash | None = key(
        kinds.choice(*get_args(Hash)),
        "suppress only, and needed there: how the segment's addresses are hashed, none, md5, sha256 or sha512. It"
        " must be the segment's own.",
        default=None,
        example="sha256",
    )
    hash_plain: bool = key(
        kinds.FLAG,
        "suppress only: hash plain addresses before they are sent; without it, a file that holds one is refused.",
        default=False,
    )
    source_campaign: int | None = key(
        kinds.counts(1), "subscribe only, and needed there: the campaign's id.", default=None, example=90
    )
    source_partner: int | None = key(
        kinds.counts(1), "subscribe only, and needed there: the partner's id.", default=None, example=9
    )
    extra_fields: dict[str, str] = key(
        _FIELDS,
        "Further fields to send with each import, as OptiPub's reference names them.",
        default={},
        example={"subscriptionAction": "create_only"},
    )

    encoding: str = key(
        kinds.ENCODING,
        "The encoding of files that are neither UTF-8 nor UTF-16 with its mark, such as cp1252.",
        default="utf-8",
    )
    delimiter: Literal[",", ";", "tab", "auto"] = key(
        kinds.choice(",", ";", "tab", "auto"),
        'What separates the cells: ",", ";", tab, or auto where the header proves it.',
        default=",",
    )
    rename: dict[str, str] = key(
        _COLUMNS,
        "The partner's names of columns and ours, compared without case.",
        default={},
        example={"First Name": "varr_firstname"},
    )
    unknown_columns: Literal["reject", "prefix", "keep", "drop"] = key(
        kinds.choice("reject", "prefix", "keep", "drop"),
        "Columns that OptiPub's guide does not name: reject the file, prefix them with varr_, keep or drop them.",
        default="reject",
    )
    bad_rows: int | Share = key(
        kinds.count_or_share(kinds.counts(0), kinds.shares("100%")),
        "Up to so many bad rows, or to a share such as 1%, the good ones go and the bad ones stay in a "
        ".rejects.csv; with more the file is refused.",
        default=0,
    )
    repeats: Literal["keep", "last", "refuse"] = key(
        kinds.choice("keep", "last", "refuse"),
        "Repeated addresses: keep all, send the last of each, or refuse the file.",
        default="keep",
    )

    guards: Guards = key(
        Section(form=form_of(Guards)),
        "Limits that hold a file back until somebody has looked. Defaults are merged key by key.",
        default=Guards(),
    )
    retry: Retry = key(
        Section(form=form_of(Retry)),
        "The delays after an attempt that was surely not taken. Defaults are merged key by key.",
        default=Retry(),
    )
    retention: Retention = key(
        Section(form=form_of(Retention)),
        "How long finished files are kept, as 90d. What was accepted is remembered for duplicates all the same. "
        "Defaults are merged key by key.",
        default=Retention(),
    )
    on_unknown: float | None = key(
        kinds.RESENDING,
        "What happens where OptiPub may have taken a file but its answer was lost: hold it until somebody has "
        "looked, resend it (twice at most), or {resend_within: 10m} of the first such attempt, then hold. By "
        "default unsubscribe and suppress: resend; lead: within 30m; subscribe: within 10m, and never once an "
        "unsubscribe or suppress file of the account was sent in between; with clear: true or a column that "
        "replaces tags: within 2m.",
        default=None,
        example="hold",
    )
    order_group: str | None = key(
        kinds.NAME,
        "Folders of an account with the same group are sent one file after the other, oldest first, as those of "
        "one segment always are: say sign-ups and opt-outs of one list.",
        default=None,
        example="acme",
    )
    strict_order: bool = key(
        kinds.FLAG, "Later files wait for a held one too, not only for one that is to be tried again.", default=False
    )
    supersede: bool = key(
        kinds.FLAG,
        "For full lists: once a newer file of the folder has passed its check, older ones that still wait go to "
        "done/ unsent.",
        default=False,
    )
    duplicates: Literal["skip", "hold", "send"] = key(
        kinds.choice("skip", "hold", "send"),
        "A file with the same content as one that was accepted for the segment within duplicates_within: skip it "
        "(it goes to done/ unsent), hold it, or send it again.",
        default="skip",
    )
    duplicates_within: float = key(
        kinds.durations("1s", "366d"), "How long an accepted file counts for duplicates.", default="24h"
    )
    alarm_after: float = key(
        kinds.durations("1s", "366d"),
        "A file that still waits to be sent so long after it was taken over raises an alarm, once a day.",
        default="24h",
    )

    name: str = stored(kinds.NAME)
    base: Path = stored(kinds.PATH)

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

    def settings_json(self) -> str:
        """All settings as one line of JSON, in the form that the file has. The ledger keeps it with each drop."""
        return json.dumps(FOLDER.write(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_settings(cls, text: str) -> Folder:
        """The folder that `settings_json` wrote. Raises `DropzoneError` when it is none."""
        notes = _Wrong()
        try:
            stored = json.loads(text)
        except (ValueError, RecursionError):
            stored = None
        if isinstance(stored, dict):
            notes.keys.update(FOLDER.missing(stored))
            values = FOLDER.read(stored, (), notes, stored=True)
            if not notes.keys:
                return cast(Folder, FOLDER.made(values))
        hint = "They were written by another version of dropzone, or the ledger is damaged"
        keys = ", ".join(sorted(notes.keys)) or "no JSON"
        raise DropzoneError(f"the stored settings of a folder cannot be read: {keys}", hint)


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


@settings
class Config(Settings):
    """A configuration that is right: what `load` returns."""

    root: Path = key(
        kinds.PATH,
        "Where inbox/, work/, done/ and failed/ are, on one file system.",
        example="/srv/dropzone",
        needed=True,
    )
    state_dir: Path = key(
        kinds.PATH,
        "Where the ledger is: on a local disk, never on a network file system.",
        example="/var/lib/dropzone",
        needed=True,
    )
    concurrency: int = key(
        kinds.counts(1, 64),
        "How many drops are sent at the same time. Those of one segment always go one after the other.",
        default=4,
    )
    accounts: dict[str, Account] = key(
        Named(form=form_of(Account)), "The OptiPub accounts by a name of your choice.", needed=True
    )
    folders: dict[str, Folder] = key(
        Named(form=form_of(Folder)), "The watched folders by name; each feeds one segment.", needed=True
    )

    file: Path
    crc: int  # of the file's content when it was read: whether it was changed since
    unmade: dict[str, Unmade]  # folders whose segment is still to be created: nothing is taken over there

    @property
    def lanes(self) -> dict[tuple[str, int], str]:
        """The lane of each (account, segment): of the folders that share one it is the same."""
        return {(folder.account, folder.segment_id): folder.lane for folder in self.folders.values()}

    def with_segments(self, ids: Mapping[str, int]) -> Config:
        """The same with the segments of these folders (name to id) created, as far as they were still to be."""
        made = {name: unmade.made(ids[name]) for name, unmade in self.unmade.items() if name in ids}
        left = {name: unmade for name, unmade in self.unmade.items() if name not in ids}
        return self.having(folders=self.folders | made, unmade=left)


# ------------------------------------------------------------------------------------------- the file's mappings

FOLDER = form_of(Folder)
DEFAULTS = Form(
    title="Defaults",
    description="Keys of a folder for all folders that do not have them. Keys of one mode count where that mode is.",
    fields={name: field for name, field in FOLDER.fields.items() if field.key},
)
_TOP = form_of(Config).fields
FILE = Form(
    title="File",
    description="The configuration file of dropzone.",
    fields={
        **{name: _TOP[name] for name in ("root", "state_dir", "concurrency", "accounts")},
        "defaults": Field(
            kind=Section(form=DEFAULTS),
            default=None,
            key=Key(
                description="Any key of a folder except path, spool, segment_id and create, for all folders that do "
                "not have it. A key of one mode, such as source_partner, counts for the folders of that mode."
            ),
        ),
        "folders": _TOP["folders"],
    },
)
