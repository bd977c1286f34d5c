"""What the arrays and groups of an archive have in common: names, codec, and their metadata.

Metadata is read here before Zarr sees it: whatever is wrong with it gets a reason of ours.

Sources: Zarr v3 core specification; OME-Zarr (NGFF) 0.5.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import zarr

from pipeline.errors import ArchiveError, UnreadableError
from pipeline.storage.disk import holds_below

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarr.storage import StorePath

    from pipeline.storage.store import Place

LEVEL = "0"
"""Name of the full-size array of an image or a stack."""

PROVENANCE_KEY = "upres"
METADATA = "zarr.json"
DTYPES = ("uint8", "uint16", "float32")

CHECK_DISK = "check the disk or the store, and who may read it; then run the same command again"
"""What to do where the fault is not in the archive."""


def read_metadata(folder: Place) -> dict[str, Any]:
    """Return what the ``zarr.json`` of a folder says.

    Raises:
        ArchiveError: if it is missing or damaged; the message completes "the item ...".
        UnreadableError: if the disk does not say.
    """
    path = folder / METADATA
    name = f"{folder.name}/{METADATA}"
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArchiveError(f"is damaged: {name} is missing") from error
    except (IsADirectoryError, ValueError, RecursionError) as error:
        reason = type(error).__name__
        raise ArchiveError(f"is damaged: {name} cannot be read ({reason})") from error
    except OSError as error:
        raise UnreadableError(f"cannot be read: {name}: {error.strerror or error}") from error
    if not isinstance(found, dict):
        raise ArchiveError(f"is damaged: {name} holds {type(found).__name__}, expected an object")
    return found


def read_provenance(folder: Place) -> Mapping[str, Any]:
    """Return the provenance in the metadata of an item's folder.

    Raises:
        ArchiveError: if there is none; the message completes "the item ...".
    """
    metadata = read_metadata(folder)
    if metadata.get("node_type") != "group":
        raise ArchiveError(f"is damaged: it is {metadata.get('node_type')!r}, expected a group")
    attributes = metadata.get("attributes", {})
    if not isinstance(attributes, dict):
        raise ArchiveError(f"is damaged: attributes are {type(attributes).__name__}, not an object")
    provenance = attributes.get(PROVENANCE_KEY)
    if not isinstance(provenance, dict):
        raise ArchiveError("is incomplete: it has no provenance")
    return provenance


def open_array(place: StorePath, folder: Place, *, axes: str = "cyx") -> zarr.Array[Any]:
    """Open the full-size array of an image, or (`axes` "ncyx") of a stack.

    Raises:
        ArchiveError: if it has other axes or another dtype; the message completes "the item ...".
    """
    metadata = read_metadata(folder)
    try:
        array = zarr.Array.from_dict(place, metadata)
        shape, dtype, side = array.shape, str(array.dtype), array.shards or array.chunks
    except Exception as error:  # Zarr fails on damaged metadata in as many ways as it has fields.
        raise ArchiveError(
            f"is damaged: {folder.name}/{METADATA} describes no array ({type(error).__name__})"
        ) from error
    if len(shape) != len(axes) or dtype not in DTYPES or min(*shape, *side) < 1:
        raise ArchiveError(
            f"is {dtype} {shape}, expected ({', '.join(axes)}) of {' | '.join(DTYPES)}"
        )
    # An all-black tile is written too: then a shard's existence is proof of its tile.
    return array.with_config({"write_empty_chunks": True})


def describe(name: str, *, axes: str = "cyx") -> dict[str, Any]:
    """Return the OME-Zarr 0.5 description of an array with one level.

    The images of a stack are steps in time to it, which is the one kind of axis that may stand
    before channels: viewers show a slider.
    """
    kinds = {"n": "time", "c": "channel"}
    level = {
        "path": LEVEL,
        "coordinateTransformations": [{"type": "scale", "scale": [1.0] * len(axes)}],
    }
    named = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    return {"version": "0.5", "multiscales": [{"name": name, "axes": named, "datasets": [level]}]}


def holds_metadata(folder: Place) -> bool:
    """Return whether any folder inside `folder` has Zarr metadata."""
    return holds_below(folder, METADATA)
