"""What errors of a ledger say: the place without its secrets, the cause, and the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import LedgerError, UsageError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from pipeline.storage.store import BucketPlace, Place

MOVE_AWAY = "move the file away, and the next `upres upscale` rebuilds it from the archive"
FREE_SPACE = "free some space there, then repeat the command; what was recorded stays"
START_SERVER = "start the database again, then repeat the command; what was recorded stays"
GRANT_ACCESS = "let this user read and write the file and its folder"

_SERVER_GONE = ("Connection refused", "server closed the connection", "terminating connection")


def without_secrets(url: sa.URL) -> str:
    """Return the URL without its secrets: the password, and whatever follows the "?"."""
    return url.set(query={}).render_as_string(hide_password=True)


def not_opened(url: sa.URL, error: BaseException) -> LedgerError:
    """Return the error of a ledger that cannot be opened."""
    return LedgerError(f"ledger {without_secrets(url)} cannot be opened: {explain(error)}")


def not_in_bucket(place: BucketPlace) -> UsageError:
    """Return the error of something in a bucket whose ledger has no place yet."""
    return UsageError(
        f"{place} is in a bucket, which cannot hold the ledger; name a place for it with "
        "--ledger postgresql://USER@HOST/DATABASE or --ledger sqlite:////PATH"
    )


def is_elsewhere(place: Place, url: str) -> UsageError:
    """Return the error of a job or dataset that has its ledger at `url`, without a password."""
    return UsageError(f"{place} has its ledger at {url}; leave --ledger out")


def explain(error: BaseException) -> str:
    """Return the cause in one line, and the next step where one is known."""
    text = str(error)
    cause = text.splitlines()[0] if text else type(error).__name__
    if "file is not a database" in text or "malformed" in text:
        return f"{cause}; {MOVE_AWAY}"
    if "readonly database" in text or "unable to open database file" in text:
        return f"{cause}; {GRANT_ACCESS}"
    if "disk is full" in text:
        return f"No space left on device ({cause}); {FREE_SPACE}"
    if "No space left on device" in text:
        return f"{cause}; {FREE_SPACE}"
    if any(sign in text for sign in _SERVER_GONE):
        return f"{cause}; {START_SERVER}"
    return cause
