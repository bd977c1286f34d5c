"""The chunks of a PNG that say something besides the picture: texts, times, colours, profiles.

Sources: W3C PNG Specification, third edition; ImageMagick's "Raw profile type" texts, in which
PNG files hold IPTC, and held EXIF before there was a chunk for it.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import photoshop
from pipeline.metadata import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Chunk = tuple[str, bytes]

TEXTS = ("tEXt", "zTXt", "iTXt")
COLOURS = ("cICP", "sRGB", "gAMA", "cHRM", "mDCV", "cLLI")
COMMENT = "Comment"
_KEPT = (*TEXTS, *COLOURS, "tIME", "bKGD", "sBIT")
# What holds the picture, is kept by other means, or only tells how the file was packed.
_SILENT = ("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "iCCP", "eXIf", "iDOT", "acTL", "fcTL")
_MOST_BYTES = 64 << 20
_PROFILE = "Raw profile type "
_HEX = re.compile(rb"\n[^\n]*\n\s*(\d+)\n([0-9a-fA-F\s]*)")


@dataclass(frozen=True, slots=True)
class Extras:
    """What a PNG file holds besides picture, eXIf, XMP, colour profile and resolution."""

    chunks: tuple[Chunk, ...] = ()
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    photoshop: bytes | None = None
    notes: tuple[str, ...] = ()


def extras(data: bytes) -> Extras:
    """Return what a PNG file holds besides; whatever is not kept is noted.

    The file must be sound up to IEND.
    """
    every = list(_chunks(data))
    header = next(body for kind, body in every if kind == "IHDR")
    palette = next((body for kind, body in every if kind == "PLTE"), b"")
    kept: list[Chunk] = []
    notes: list[str] = []
    profiles: dict[str, bytes] = {}
    for kind, body in every:
        if kind in TEXTS:
            _sort_text(kind, body, kept, notes, profiles)
        elif kind in _KEPT and any(kind == other for other, _ in kept):
            notes.append(f"a second PNG chunk {kind} was not kept")
        elif kind == "sBIT" and set(body) != {header[8]}:
            notes.append("PNG chunk sBIT (significant bits) was removed: all bits are used now")
        elif kind == "bKGD":
            kept += [("bKGD", colour) for colour in _background(body, header, palette)]
        elif kind in _KEPT:
            kept.append((kind, body))
        elif kind == "pHYs" and _is_ratio(body):
            notes.append("PNG chunk pHYs (a ratio of the sides of a pixel) was not kept")
        elif kind not in _SILENT and kind != "pHYs":
            notes.append(f"PNG chunk {kind} ({in_words(len(body))}) was not kept")
    resources = photoshop.parted(profiles.get("8bim", b""))
    return Extras(
        chunks=tuple(kept),
        exif=profiles.get("exif"),
        xmp=profiles.get("xmp"),
        iptc=profiles.get("iptc") or resources.iptc,
        photoshop=resources.others,
        notes=(*notes, *resources.notes),
    )


def is_ready(chunk: Chunk, *, channels: int, dtype: str) -> bytes | None:
    """Return the body of a kept chunk for a picture of other samples, None if it has no form."""
    kind, body = chunk
    if kind == "sBIT":
        depth = 16 if dtype == "uint16" else 8
        return body if set(body) == {depth} and len(body) == channels else None
    if kind == "bKGD":
        # Kept as 16-bit grey or RGB, which is scaled to the depth of the file.
        values = struct.unpack(f">{len(body) // 2}H", body)
        wanted = 1 if channels <= 2 else 3
        values = values * 3 if len(values) == 1 and wanted == 3 else values
        shift = 0 if dtype == "uint16" else 8
        return (
            struct.pack(f">{wanted}H", *(v >> shift for v in values))
            if (len(values) == wanted)
            else None
        )
    return body


def text_of(kind: str, body: bytes) -> tuple[str, str] | None:
    """Return (keyword, text) of a text chunk, None where it is damaged."""
    keyword, separator, rest = body.partition(b"\0")
    if not separator or not 1 <= len(keyword) <= 79:
        return None
    try:
        if kind == "tEXt":
            return keyword.decode("latin-1"), rest.decode("latin-1")
        if kind == "zTXt":
            return keyword.decode("latin-1"), _inflated(rest[1:]).decode("latin-1")
        packed, content = rest[0], rest[2:].split(b"\0", 2)[2]
        return keyword.decode("latin-1"), (_inflated(content) if packed else content).decode()
    except (zlib.error, ValueError, IndexError):
        return None


def text_chunk(keyword: str, text: str) -> Chunk:
    """Return a text as a chunk: tEXt where its letters are Latin-1's, else iTXt."""
    text = text.replace("\0", "\n")
    try:
        return "tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        return "iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + text.encode()


def profile_chunk(name: str, content: bytes) -> Chunk:
    """Return bytes as a text that says them in hexadecimal, which exiftool and others read."""
    digits = content.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\n{name}\n{len(content):8}\n{lines}\n"
    return "zTXt", f"{_PROFILE}{name}".encode() + b"\0\0" + zlib.compress(text.encode())


def packed(chunk: Chunk) -> bytes:
    """Return the bytes of a chunk."""
    kind, body = chunk[0].encode("ascii"), chunk[1]
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def colours_of(chunks: Iterable[Chunk]) -> Mapping[str, bytes]:
    """Return the chunks that say what the colours mean, by type, the first of each."""
    found: dict[str, bytes] = {}
    for kind, body in chunks:
        if kind in COLOURS:
            found.setdefault(kind, body)
    return found


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Yield (type, body) of each chunk up to IEND, bodies of IDAT left empty."""
    at, kind = 8, ""
    while kind != "IEND":
        size, name = struct.unpack_from(">I4s", data, at)
        kind = name.decode("latin-1")
        yield kind, b"" if kind == "IDAT" else data[at + 8 : at + 8 + size]
        at += 12 + size


def _sort_text(
    kind: str, body: bytes, kept: list[Chunk], notes: list[str], profiles: dict[str, bytes]
) -> None:
    """Put a text where it belongs: among the texts, the profiles, or what is not kept."""
    if body.startswith(b"XML:com.adobe.xmp\0"):
        return
    found = text_of(kind, body)
    if found is None:
        keyword = body.partition(b"\0")[0][:79].decode("latin-1")
        notes.append(f"PNG text {keyword!r} is damaged and was not kept")
        return
    profile = _profile(*found)
    if profile is None:
        kept.append((kind, body))
    else:
        profiles.setdefault(*profile)


def _profile(keyword: str, text: str) -> tuple[str, bytes] | None:
    """Return (what it is, its bytes) of a text that holds a profile in hexadecimal."""
    if not keyword.startswith(_PROFILE):
        return None
    match = _HEX.match(text.encode("latin-1", "replace"))
    content = (
        bytes.fromhex(match[2].decode())
        if match and len(b"".join(match[2].split())) % 2 == 0
        else b""
    )
    if not match or len(content) != int(match[1]):
        return None
    if content.startswith(b"Exif\0\0"):
        return "exif", content[6:]
    if content.startswith((b"II*\0", b"MM\0*")):
        return "exif", content
    if content.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        return "xmp", content[29:]
    if content.startswith(b"\x1c"):
        return "iptc", content
    if content.startswith(photoshop.JPEG_HEADER):
        return "8bim", content[len(photoshop.JPEG_HEADER) :]
    return ("8bim", content) if content.startswith(b"8BIM") else None


def _background(body: bytes, header: bytes, palette: bytes) -> Iterator[bytes]:
    """Yield the background as 16-bit grey or RGB, unless it is damaged."""
    depth, colour = header[8], header[9]
    top = 2**depth - 1
    if colour == 3 and len(body) == 1 and 3 * body[0] + 3 <= len(palette):
        yield struct.pack(">3H", *(257 * v for v in palette[3 * body[0] : 3 * body[0] + 3]))
    elif len(body) == (2 if colour in (0, 4) else 6) and colour != 3:
        values = struct.unpack(f">{len(body) // 2}H", body)
        yield struct.pack(f">{len(values)}H", *(min(v, top) * 65535 // top for v in values))


def _is_ratio(body: bytes) -> bool:
    return len(body) == 9 and body[8] != 1 and body[:4] != body[4:8]


def _inflated(data: bytes) -> bytes:
    """Return what zlib data holds.

    Raises:
        zlib.error: if it is damaged, cut off, or too large.
    """
    inflater = zlib.decompressobj()
    content = inflater.decompress(data, _MOST_BYTES)
    if not inflater.eof:
        raise zlib.error("the data is cut off or too large")
    return content
