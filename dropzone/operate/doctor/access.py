"""The accounts: whether the daemon's user can read their keys, how old these are, and whether OptiPub is reached."""

from __future__ import annotations

from collections.abc import Iterator

from dropzone.config import Account, Config, Folder
from dropzone.errors import DropzoneError
from dropzone.operate.doctor.remarks import Remark, fault, note, of_error, ok, warning

_WARN_DAYS = 30
_CERTIFICATE_DAYS = 14


def examine_keys(config: Config, now: float, *, acting: bool) -> Iterator[Remark]:
    """Whether each key is there, ours alone, and young enough. Never a word of the key itself."""
    for account in config.accounts.values():
        subject = f"account {account.name}"
        yield _key(subject, account, acting=acting)
        yield from _age(subject, account, now)


def examine_segments(config: Config) -> Iterator[Remark]:
    """Two accounts may be two users of one installation: there the same number is the same segment."""
    first: dict[tuple[str, int], Folder] = {}
    for folder in config.folders.values():
        installation = config.accounts[folder.account].base_url.lower()
        other = first.setdefault((installation, folder.segment_id), folder)
        if other.account != folder.account:
            what = f"segment {folder.segment_id} of {installation} is fed by account {other.account} too ({other.name})"
            mend = "give both the same account: otherwise their files keep no order, and may contradict"
            yield warning(f"folder {folder.name}", what, mend)


def _key(subject: str, account: Account, *, acting: bool) -> Remark:
    secret = account.api_key
    if secret.source == "credential" and secret.stamp() is None:
        return note(subject, f"{secret} is seen by the service only; what the unit says of it stands below")
    if not acting:
        return note(subject, f"whether the daemon can read {secret} was not tried", "ask as root, or as that user")
    try:
        secret.read()
    except DropzoneError as error:
        return of_error(subject, error)
    return ok(subject, f"its key is in {secret}")


def _age(subject: str, account: Account, now: float) -> Iterator[Remark]:
    days = account.key_days_left(now)
    if days is None:
        what = "nobody has said when its key was made, so nobody is warned before it ends"
        yield note(subject, what, "set key_created: to that day")
        return
    mend = "make a new key in OptiPub, put it where api_key: points, and set key_created:"
    if account.api_key.source == "credential":
        mend += "; then systemctl restart dropzone"
    if days <= 0:
        yield fault(subject, "its key is more than a year old: OptiPub does not know it any more", mend)
    elif days <= _WARN_DAYS:
        yield warning(subject, f"its key ends in {days} days", mend)
    else:
        yield ok(subject, f"its key has {days} days left")


def examine_reach(config: Config, now: float) -> Iterator[Remark]:
    """Whether each account's address answers and proves itself; no request is sent, and no key."""
    from dropzone.optipub.reaching import reach

    for account in config.accounts.values():
        subject = f"account {account.name}"
        try:
            reached = reach(account, now=now)
        except DropzoneError as error:
            yield of_error(subject, error)
            continue
        days = reached.certificate_days
        secure = f", {reached.tls}, certificate good for {days} days" if days is not None else ", without TLS"
        yield ok(subject, f"{account.base_url} answers at {reached.address} in {reached.seconds * 1000:.0f} ms{secure}")
        if days is not None and days < _CERTIFICATE_DAYS:
            what = f"the certificate of {account.base_url} ends in {days} days: then nothing is sent"
            yield warning(subject, what, "tell whoever runs that server")
