"""Members of a chunk: which images a chunk of a stack holds, in a file beside their pixels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArchiveError, StoreError
from pipeline.storage.atomic import write_atomic
from pipeline.storage.disk import make_folders, numbered_files, remove_tree
from pipeline.storage.store import BucketPlace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.storage.store import Place

MEMBERS = "members"
"""Name of the folder with these files, in that of the stack."""

SIZE = "size"
"""What a member of a mixed stack has besides provenance: its (height, width) in pixels."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Which images a chunk holds: provenance by place; `facts` are those that all share."""

    facts: Mapping[str, Any]
    members: Mapping[int, Mapping[str, Any]]

    def size_of(self, place: int) -> tuple[int, int]:
        """Return (height, width) of an image of a mixed stack."""
        height, width = self.members[place][SIZE]
        return height, width

    @property
    def sha256(self) -> str:
        """Return the content hash of all members."""
        return content_sha256((place, str(m["sha256"])) for place, m in self.members.items())


def content_sha256(members: Iterable[tuple[int, str]]) -> str:
    """Return one hash of the places and the content hashes of the members of a chunk."""
    return hashlib.sha256(json.dumps(sorted(members)).encode()).hexdigest()


def mend_chunk(members: Place) -> str:
    """Return what to do about a damaged chunk of LR, by the file that says what it holds."""
    return f"delete {members}, and the next `upres upscale` or `ingest` reads its pictures again"


def read_chunk(file: Place, *, mixed: bool) -> Chunk | None:
    """Return what a file of members says, None where there is none.

    Where the stack is `mixed`, each member has a size.

    Raises:
        ArchiveError: if it is damaged.
        StoreError: if it is in a bucket that does not answer.
    """
    try:
        found = json.loads(file.read_bytes())
        members = {
            int(place): {
                **member,
                "item": str(member["item"]),
                "sha256": str(member["sha256"]),
                **({SIZE: _size(*member[SIZE])} if mixed else {}),
            }
            for place, member in found["members"].items()
        }
        return Chunk(dict(found["facts"]), members)
    except FileNotFoundError:
        return None
    except StoreError:
        raise  # Nobody knows whether it is damaged: what is, is deleted.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(
            f"{file} is damaged ({type(error).__name__}: {error}); delete it and ingest again"
        ) from error


def _size(height: int, width: int) -> tuple[int, int]:
    if min(height, width) < 1:
        raise ValueError(f"size is {height}x{width}, expected at least 1x1")
    return int(height), int(width)


def members_file(folder: Place, number: int) -> Place:
    """Return the file of the members of a chunk, in the folder of its stack."""
    return folder / MEMBERS / f"{number}.json"


def members_files(folder: Place) -> Iterator[tuple[int, Place]]:
    """Yield the number and the file of each chunk of a stack, oldest first."""
    return numbered_files(folder / MEMBERS, ".json")


def write_chunk(file: Place, chunk: Chunk) -> None:
    """Say what a chunk holds; durable when this returns."""
    make_folders(file.parent)
    members = {str(place): dict(m) for place, m in sorted(chunk.members.items())}
    content = {"facts": dict(chunk.facts), "members": members}
    write_atomic(file, json.dumps(content).encode())


def remove_whatever(path: Place) -> None:
    """Remove a file, a folder that stands in its place, or nothing."""
    if isinstance(path, BucketPlace):
        path.unlink()
    elif path.is_dir():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
