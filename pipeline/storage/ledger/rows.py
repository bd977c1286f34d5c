"""The rows of a ledger as values, and the words for their states."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Row = TypeVar("Row")

INGEST, EXPORT = "ingest", "export"
INGESTED, REJECTED, VANISHED = "ingested", "rejected", "vanished"
DONE, FAILED = "done", "failed"
LR, SR = "lr", "sr"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRow:
    """One item: ingested (with its facts), rejected (with the reason), or vanished."""

    item: str
    state: str
    error: str = ""
    message: str = ""
    source: str = ""
    sha256: str = ""
    size_bytes: int = 0
    channels: int = 0
    height: int = 0
    width: int = 0
    dtype: str = ""
    fingerprint: str = ""
    units: int = 0
    stack: str = ""
    """Id of the stack that the item is in, at `place` of `chunk`; "" for an image of its own."""
    chunk: int = 0
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """The last outcome of one unit: a tile of an item, or a chunk of a stack."""

    item: str
    """Id of the item, or of the stack."""
    number: int
    """Which of its tiles, or which of its chunks."""
    fingerprint: str
    state: str
    error: str = ""
    message: str = ""
    worker: str = ""
    seconds: float = 0.0
    run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """The sums that one tile's score is made of; `kind` says what was compared with what."""

    item: str
    tile: int
    kind: str
    fingerprint: str
    error_total: float
    error_count: int
    ssim_total: float
    ssim_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """A file that the job exported, as it was when it was written last; or a folder it made.

    What differs from this at `path` is not the job's, unless its content is `coming_sha256`.
    """

    path: str
    item: str
    """"" for a folder that the job made."""
    asked: str
    """The format that was asked for; `format` is what that came to."""
    format: str
    made_of: str
    """Everything besides the format that decides the bytes of the file."""
    size_bytes: int = 0
    mtime_ns: str = ""
    sha256: str = ""
    """"" where a first file is on its way."""
    coming_sha256: str = ""
    """Content of the file that is being put there; "" once it is known to be there."""
    adopted: bool = False
    """Whether it was there already, with the very bytes: perhaps another job's, so it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """Whether an item of this content is for a network that restores, and why."""

    item: str
    sha256: str
    worn: bool
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRow:
    """The file or object that an item came from, and the hash of what was read."""

    item: str
    etag: str
    """Of an object in a bucket; of a file its stamp."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SealRow:
    """The stamp that the metadata of an image had, and what it said then."""

    archive: str
    """`LR` or `SR`."""
    item: str
    stamp: str
    says: str
    """The content of an LR image, the fingerprint of an SR image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGoRow:
    """An item whose pixels in one archive of the job were deleted, as nothing needs them."""

    archive: str
    """`LR` or `SR`."""
    item: str
    says: str
    """Which pixels these were: the content of an LR image, the fingerprint of an SR image.

    Of an SR image in a stack it is the fingerprint that the image would have by itself.
    """
    facts: str = "{}"
    """How SR pixels were made, in JSON: what their provenance said, without the files' metadata."""
    deleted: bool = False
    """Whether they are deleted by now; False where that may have been interrupted."""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence on something in an item's file that a stage, ingest or export, did not keep."""

    item: str
    stage: str
    note: str


def maker(kind: type[Row], names: tuple[str, ...]) -> Callable[[Sequence[Any]], Row]:
    """Return what makes a row of one of these classes of its values, which have these names.

    It fills the slots itself: a frozen class takes three times as long, and there are millions.

    Raises:
        TypeError: if these are not the names of all its fields.
    """
    if sorted(names) != sorted(field.name for field in fields(kind)):  # type: ignore[arg-type]
        raise TypeError(f"{kind.__name__} has other fields than {', '.join(names)}")
    slots = [getattr(kind, name).__set__ for name in names]

    def make(values: Sequence[Any]) -> Row:
        row = object.__new__(kind)
        for put, value in zip(slots, values, strict=True):
            put(row, value)
        return row

    return make


def says(let_go: Mapping[str, LetGoRow], item: str) -> str | None:
    """Return which pixels of an item were let go, None where none were."""
    row = let_go.get(item)
    return None if row is None else row.says


class ItemCount(NamedTuple):
    """How far one item is: `done` and `failed` count units under the item's present fingerprint."""

    item: str
    state: str
    units: int
    done: int
    failed: int
    error: str = ""
    message: str = ""
    stack: str = ""
    chunk: int = 0

    @property
    def pending(self) -> int:
        """Return how many units are neither done nor failed."""
        return self.units - self.done - self.failed
