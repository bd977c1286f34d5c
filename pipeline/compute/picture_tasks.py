"""What ingesting and surveying have in common: the pictures of a source, some in each task.

How they are shared out, and the rows by which the ledger knows what became of each. Nothing here
decodes a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pipeline.storage.ledger import INGESTED, REJECTED, VANISHED, ItemRow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from typing import Self

_PICTURES_A_TASK = 32
_BYTES_A_TASK = 4 * 2**20


class ListedPicture(Protocol):
    """A picture as a source lists it."""

    @property
    def item(self) -> str:
        """Return its id."""

    @property
    def address(self) -> str:
        """Return where it is."""

    @property
    def size_bytes(self) -> int:
        """Return how large its file is."""


Listed = TypeVar("Listed", bound=ListedPicture)


@dataclass(frozen=True, slots=True)
class PictureTask(Generic[Listed]):
    """Some pictures to look at on a worker."""

    pictures: tuple[Listed, ...]

    def one_by_one(self) -> Iterator[Self]:
        """Yield a task for each picture."""
        for picture in self.pictures:
            yield replace(self, pictures=(picture,))


def small_groups(pictures: Iterable[Listed]) -> Iterator[tuple[Listed, ...]]:
    """Yield groups of few pictures or few bytes that hold each picture once, in their order."""
    group: list[Listed] = []
    size_bytes = 0
    for picture in pictures:
        size_bytes += picture.size_bytes
        if group and (len(group) == _PICTURES_A_TASK or size_bytes > _BYTES_A_TASK):
            yield tuple(group)
            group, size_bytes = [], picture.size_bytes
        group.append(picture)
    if group:
        yield tuple(group)


def ingested_row(picture: ListedPicture) -> ItemRow:
    """Return the row of a picture that can be used, by what its listing says."""
    return ItemRow(
        item=picture.item,
        state=INGESTED,
        source=picture.address,
        size_bytes=picture.size_bytes,
    )


def rejected_row(row: ItemRow, error: BaseException, message: str | None = None) -> ItemRow:
    """Return the row of a picture that cannot be used, with the reason."""
    return replace(
        row,
        state=REJECTED,
        error=type(error).__name__,
        message=str(error) if message is None else message,
    )


def vanished_rows(
    known: Mapping[str, ItemRow], listed: Collection[str], reason: str
) -> list[ItemRow]:
    """Return the rows of known items that are not listed any more; `reason` follows their source.

    Of those that vanished before nothing is returned: what is recorded of them stays.
    """
    return [
        replace(row, state=VANISHED, message=f"{row.source} {reason}")
        for item, row in known.items()
        if item not in listed and row.state != VANISHED
    ]
