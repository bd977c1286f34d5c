"""Kinds of small images: which go into a stack, what it is called, how many share a chunk."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import ArchiveError
from pipeline.storage.zarr_metadata import DTYPES

STACKS_FOLDER = "@stacks"
"""Where the stacks of an archive are: no item's path begins so."""

LEAST_MEMBERS = 16
"""From how many images of one size on these go into a stack."""

_SMALL_PIXELS = 256 * 256
_CHUNK_PIXELS = 2**21
_CHUNK_MEMBERS = 1024
_ID = re.compile(rf"stacks/(\d+)x(\d+)x(\d+)-({'|'.join(DTYPES)})/", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What the images of a stack have in common."""

    channels: int
    height: int
    width: int
    dtype: str

    @classmethod
    def of(cls, stack: str) -> Kind:
        """Return the kind of LR images that the stack of this id is for.

        Raises:
            ArchiveError: if it is not the id of a stack.
        """
        found = _ID.fullmatch(stack)
        if found is None:
            raise ArchiveError(
                f"{stack!r} is not a stack, expected an id as stacks/3x218x178-uint8/"
            )
        channels, height, width, dtype = found.groups()
        return cls(int(channels), int(height), int(width), dtype)

    @property
    def is_small(self) -> bool:
        """Return whether such images go into stacks."""
        return self.height * self.width <= _SMALL_PIXELS

    @property
    def stack(self) -> str:
        """Return the id of their stack; it ends with a slash, which the id of no item does."""
        return f"stacks/{self.channels}x{self.height}x{self.width}-{self.dtype}/"

    @property
    def chunk_members(self) -> int:
        """Return how many of them make up a chunk."""
        return max(1, min(_CHUNK_MEMBERS, _CHUNK_PIXELS // (self.height * self.width)))


def is_stack_id(name: str) -> bool:
    """Return whether `name` is the id that a stack can have."""
    return _ID.fullmatch(name) is not None


def stack_folder(stack: str) -> str:
    """Return the name of the folder of a stack.

    Raises:
        ArchiveError: if it is not the id of a stack.
    """
    Kind.of(stack)
    return stack.split("/")[1]


def stack_of(name: str) -> str:
    """Return the id of the stack whose folder is called `name`, if it can be one."""
    return f"stacks/{name}/"
