"""What a picture file says besides its pixels, as one value, and as JSON in an archive.

Bytes stay as the file held them: what depends on the pixels is made true when a file is written
(`pipeline.pictures.metadata.travel`). Not here: how a format stores any of it.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_BLOCKS = ("icc", "exif", "xmp", "xmp_extended", "iptc", "photoshop")
_PAIRS = ("dpi", "value_range")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MOST_NOTE = 4000
KEYS = ("format", "mode", *_BLOCKS, *_PAIRS, "comments", "chunks", "notes")
"""Names under which the provenance of an item holds its metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a picture file says besides its pixels.

    `mode` is the file's own ("1", "L", "P", "LA", "RGB", "RGBA", "I;16", "RGB;16", "F", ...), which
    the pixels may have left: palettes are resolved, 1-bit becomes 8-bit. `exif` is a TIFF structure
    without the "Exif" prefix; its orientation is already applied to the pixels and reset to 1. Of a
    TIFF it holds all tags that do not describe the file's layout, GeoTIFF's among them.
    `dpi` is (horizontal, vertical). `value_range` is what 0 and 1 of floating point pixels are in
    the file, where that is something else.
    """

    format: str
    mode: str
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    value_range: tuple[float, float] | None = None
    xmp_extended: bytes | None = None
    """The second part of the XMP of a JPEG, reassembled."""
    iptc: bytes | None = None
    """IPTC-IIM records."""
    photoshop: bytes | None = None
    """Photoshop's image resources, without the IPTC among them."""
    comments: tuple[bytes, ...] = ()
    """Comments of a JPEG."""
    chunks: tuple[tuple[str, bytes], ...] = ()
    """(type, body) of the chunks of a PNG that are none of the above: texts, colours, times."""
    notes: tuple[str, ...] = ()
    """One sentence for each thing in the file that is not kept."""


def to_json(metadata: Metadata) -> dict[str, Any]:
    """Return the metadata as JSON values, bytes in base64; what is not there has no key."""
    values: dict[str, Any] = {"format": metadata.format, "mode": metadata.mode}
    for name in _BLOCKS:
        content = getattr(metadata, name)
        if content is not None:
            values[name] = _text(content)
    for name in _PAIRS:
        pair = getattr(metadata, name)
        if pair is not None:
            values[name] = list(pair)
    if metadata.comments:
        values["comments"] = [_text(comment) for comment in metadata.comments]
    if metadata.chunks:
        values["chunks"] = [[kind, _text(body)] for kind, body in metadata.chunks]
    if metadata.notes:
        values["notes"] = list(metadata.notes)
    return values


def from_json(values: Mapping[str, Any]) -> Metadata:
    """Return what `to_json` gave; more keys may stand beside its own."""
    blocks = {name: base64.b64decode(values[name]) for name in _BLOCKS if values.get(name)}
    return Metadata(
        format=values["format"],
        mode=values["mode"],
        comments=tuple(map(base64.b64decode, values.get("comments", ()))),
        chunks=tuple((kind, base64.b64decode(body)) for kind, body in values.get("chunks", ())),
        notes=tuple(values.get("notes", ())),
        dpi=_pair(values.get("dpi")),
        value_range=_pair(values.get("value_range")),
        **blocks,
    )


def _pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return (values[0], values[1]) if values else None


def plain(notes: Iterable[str]) -> tuple[str, ...]:
    """Return notes as single lines that no terminal takes for commands, whatever a file holds."""
    return tuple(_CONTROLS.sub("?", note)[:_MOST_NOTE] for note in notes)


def in_words(size_bytes: int) -> str:
    """Return a size for people: "512 bytes", "12 KB", "2.1 MB"."""
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1000:.0f} KB"
    return f"{size_bytes / 1_000_000:.1f} MB"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def listed(names: Iterable[str], most: int = 200) -> str:
    """Return names as a note lists them; of very many only the first."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
