"""Kinds of small images: which go into a stack, what it is called, how many share a chunk.

A stack holds images of one size, or it is mixed: then each image is in the upper left corner of a
box that all its images fit into, and its member says how large it is itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pipeline.errors import ArchiveError
from pipeline.storage.zarr_metadata import DTYPES

STACKS_FOLDER = "@stacks"
"""Where the stacks of an archive are: no item's path begins so."""

BOX_STEPS_PX = (1, 64, 256)
"""Sides of boxes are multiples of these: of 1, they are the image's own; the last take the rest."""

LEAST_MEMBERS = 16
"""From how many images of one kind on these go into a stack."""

_SMALL_PIXELS = 256 * 256
_CHUNK_PIXELS = 2**21
_CHUNK_MEMBERS = 1024
_BOX_PIXELS = 2 * _SMALL_PIXELS
_MIXED = "-mixed"
_ID = re.compile(rf"stacks/(\d+)x(\d+)x(\d+)-({'|'.join(DTYPES)})({_MIXED})?/", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What the images of a stack have in common."""

    channels: int
    height: int
    width: int
    dtype: str
    mixed: bool = False
    """Whether height and width are those of a box: the images have sizes of their own."""

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
        channels, height, width, dtype, mixed = found.groups()
        return cls(int(channels), int(height), int(width), dtype, mixed is not None)

    @property
    def is_small(self) -> bool:
        """Return whether such images go into stacks."""
        return self.height * self.width <= _SMALL_PIXELS

    @property
    def stack(self) -> str:
        """Return the id of their stack; it ends with a slash, which the id of no item does."""
        mixed = _MIXED if self.mixed else ""
        return f"stacks/{self.channels}x{self.height}x{self.width}-{self.dtype}{mixed}/"

    def boxed(self, step_px: int) -> Kind | None:
        """Return the kind of stack that takes such images in boxes of multiples of `step_px`.

        None for images so long and narrow that most of their box would be empty.
        """
        if step_px == 1:
            return self
        height, width = (-(-side // step_px) * step_px for side in (self.height, self.width))
        if height * width > _BOX_PIXELS:
            return None
        return replace(self, height=height, width=width, mixed=True)

    def takes(self, other: Kind) -> bool:
        """Return whether a stack of this kind has room for an image of another."""
        if not self.mixed:
            return self == other
        alike = (self.channels, self.dtype) == (other.channels, other.dtype)
        return alike and other.height <= self.height and other.width <= self.width

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
