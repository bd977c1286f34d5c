"""What a machine has found out about itself, in the cache of its user.

What belongs here: keeping values of JSON by a key, in one small file of all processes of the user.
Nothing that a result depends on: whoever asks can find it out again, so a file that cannot be read
counts as empty, and is written over.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobBusyError
from pipeline.storage.atomic import write_atomic
from pipeline.storage.locks import hold

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

_WAIT_S, _TURN_S = 60.0, 0.1
_FORMAT = 1
_MOST_KEPT = 256


def cache_file(name: str) -> Path | None:
    """Return the file of that name, by the XDG convention; None for a user without a home."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = folder if folder.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "upres" / f"{name}.json"


def kept(file: Path) -> dict[str, Any]:
    """Return all that a file keeps, nothing where it cannot be read as one of ours."""
    try:
        document = json.loads(file.read_bytes())
        if document["format"] == _FORMAT:
            return dict(document["kept"])
    except FileNotFoundError:
        pass
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        logger.info("%s cannot be read (%s); it is written again", file, error)
    return {}


def keep(file: Path, key: str, value: Any) -> None:
    """Add a value to a file that is held `alone`; the oldest goes where it keeps very many.

    Raises:
        OSError: if it cannot be written.
    """
    others = [(name, one) for name, one in kept(file).items() if name != key]
    values = dict([*others[1 - _MOST_KEPT :], (key, value)])
    document = {"format": _FORMAT, "kept": values}
    write_atomic(file, json.dumps(document, indent=1).encode())


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold a file by a lock beside it, once those who hold it let go; its folder is made.

    Raises:
        JobBusyError: if they do not within a minute.
        OSError, OccupiedError: if no lock can be written there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + _WAIT_S
    with ExitStack() as holding:
        while True:
            try:
                holding.enter_context(hold(file.with_suffix(".lock"), file, "a measurement"))
                break
            except JobBusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(_TURN_S)
        yield
