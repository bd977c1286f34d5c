"""Events for TensorBoard: the figures of a training, as its reader takes them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.storage.store import Place


class Events:
    """Writes events into a folder. In a bucket it puts the file again with what it grew by."""

    def __init__(self, folder: Place, *, first_step: int) -> None:
        self._place = folder if isinstance(folder, BucketPlace) else None
        self._spool = tempfile.TemporaryDirectory(prefix="upres-events-") if self._place else None
        self._folder = Path(self._spool.name) if self._spool else Path(str(folder))
        # What a training wrote from this step on before, it repeats.
        self._writer = SummaryWriter(str(self._folder), purge_step=first_step)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of a step, and leave nothing of them in memory."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        if self._place is not None:
            for file in self._folder.iterdir():
                (self._place / file.name).write_bytes(file.read_bytes())

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        if self._spool is not None:
            self._spool.cleanup()
