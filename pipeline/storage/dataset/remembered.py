"""What a dataset in a bucket remembers besides itself: where its lock and ledgers are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.errors import DatasetError, StoreError

if TYPE_CHECKING:
    from pipeline.storage.store import BucketPlace

_FILE = "about/ledger.json"


def read_ledger_url(dataset: BucketPlace) -> str:
    """Return the URL that was written, "" if none was.

    Raises:
        DatasetError: if what says so is damaged.
    """
    try:
        return str(json.loads((dataset / _FILE).read_bytes())["ledger"])
    except FileNotFoundError:
        return ""
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{dataset / _FILE} is damaged ({type(error).__name__}: {error}); delete it, and run "
            "`upres prepare` again with --ledger"
        ) from error


def write_ledger_url(dataset: BucketPlace, url: str) -> None:
    """Write the URL, which has no password, unless it is there already."""
    if read_ledger_url(dataset) != url:
        (dataset / _FILE).write_bytes(json.dumps({"ledger": url}, indent=2).encode())
