"""Workers that know a store, for tests in which a run's own ones would only take time."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.compute.cluster import Client


@contextmanager
def known_to(client: Client, store: dict[str, str]) -> Iterator[None]:
    """Let workers have what names a store in their environment, while the block is running."""
    from pipeline.compute.worker import on_every_worker

    def name_store() -> None:
        os.environ.update(store)

    def forget_store() -> None:
        for name in store:
            os.environ.pop(name, None)

    on_every_worker(client, "store", name_store)
    try:
        yield
    finally:
        on_every_worker(client, "store", forget_store)
