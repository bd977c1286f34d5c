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

from pipeline.pictures.metadata import photoshop
from pipeline.pictures.metadata.metadata import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Chunk = tuple[str, bytes]

TEXTS = ("tEXt", "zTXt", "iTXt")
COLOURS = ("cICP", "sRGB", "gAMA", "cHRM", "mDCV", "cLLI")
COMMENT = "Comment"
_SIZES = {
    "cICP": (4,), "sRGB": (1,), "gAMA": (4,), "cHRM": (32,), "mDCV": (24,), "cLLI": (8,),
    "tIME": (7,), "bKGD": (2, 6), "sBIT": (1, 2, 3, 4),
}  # fmt: skip
"""Chunks that are kept, and how many bytes they have."""
# What holds the picture, is kept by other means, or only says how the file was packed.
_SILENT = ("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "iCCP", "eXIf", "iDOT", "acTL", "fcTL")
_MOST_BYTES, _CHECKED_BYTES = 64 << 20, 1 << 20
_XMP = b"XML:com.adobe.xmp\0"
_PROFILE = "Raw profile type "
_HEX = re.compile(rb"\n[^\n]*\n\s*(\d{1,9})\n([0-9a-fA-F\s]*)")


@dataclass(frozen=True, slots=True)
class Extras:
    """What a PNG file holds besides picture, eXIf, colour profile and resolution."""

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
    header = next(body for kind, body, _ in every if kind == "IHDR")
    palette = next((body for kind, body, _ in every if kind == "PLTE"), b"")
    kept: list[Chunk] = []
    notes: list[str] = []
    profiles: dict[str, bytes] = {}

    def _sort_chunk(kind: str, body: bytes) -> None:
        note = _complaint(kind, body, header, {other for other, _ in kept})
        if note:
            notes.append(note)
        else:
            kept.append((kind, body))

    for kind, body, _ in every:
        if kind in TEXTS:
            _sort_text(kind, body, kept, notes, profiles)
        elif kind == "pHYs":
            notes += ["PNG chunk pHYs (the shape of a pixel) was not kept"] * _is_ratio(body)
        elif kind not in _SILENT:
            _sort_chunk(kind, _background(body, header, palette) if kind == "bKGD" else body)
    behind = data[every[-1][2] :]
    if behind.strip(b"\0\r\n "):
        notes.append(f"data after the picture: {in_words(len(behind))}, not kept")
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
        if len(values) == 3 and channels <= 2:
            return None
        values = values * 3 if len(values) == 1 and channels >= 3 else values
        shift = 0 if dtype == "uint16" else 8
        return struct.pack(f">{len(values)}H", *(value >> shift for value in values))
    return body


def text_of(kind: str, body: bytes, *, most_bytes: int = _MOST_BYTES) -> tuple[str, str] | None:
    """Return (keyword, text) of a text chunk, None where it is damaged.

    Of a packed text that is longer, the first `most_bytes` are read.
    """
    keyword, separator, rest = body.partition(b"\0")
    if not separator or not 1 <= len(keyword) <= 79:
        return None
    try:
        if kind == "tEXt":
            return keyword.decode("latin-1"), rest.decode("latin-1")
        if kind == "zTXt":
            return keyword.decode("latin-1"), _inflated(rest[1:], most_bytes).decode("latin-1")
        packed, content = rest[0], rest[2:].split(b"\0", 2)[2]
        if packed:
            content = _inflated(content, most_bytes)
        errors = "ignore" if packed and len(content) == most_bytes else "strict"
        return keyword.decode("latin-1"), content.decode(errors=errors)
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


def _chunks(data: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Yield (type, body, where it ends) of each chunk up to IEND, bodies of IDAT left empty."""
    at, kind = 8, ""
    while kind != "IEND":
        size, name = struct.unpack_from(">I4s", data, at)
        kind = name.decode("latin-1")
        body = b"" if kind == "IDAT" else data[at + 8 : at + 8 + size]
        at += 12 + size
        yield kind, body, at


def _sort_text(
    kind: str, body: bytes, kept: list[Chunk], notes: list[str], profiles: dict[str, bytes]
) -> None:
    """Put a text where it belongs: among the texts, the profiles, or what is not kept."""
    if kind == "iTXt" and body.startswith(_XMP):
        _sort_xmp(body, notes, profiles)
        return
    # Enough to notice damage; files of many texts that are packed tightly must not cost hours.
    most_bytes = _MOST_BYTES if body.startswith(_PROFILE.encode()) else _CHECKED_BYTES
    found = text_of(kind, body, most_bytes=most_bytes)
    if found is None:
        keyword = body.partition(b"\0")[0][:79].decode("latin-1")
        notes.append(f"PNG text {keyword!r} is damaged and was not kept")
        return
    profile = _profile(*found)
    if profile is None:
        kept.append((kind, body))
    elif profile[0] in profiles:
        notes.append(f"a second profile in the PNG text {found[0]!r} was not kept")
    else:
        profiles.setdefault(*profile)


def _sort_xmp(body: bytes, notes: list[str], profiles: dict[str, bytes]) -> None:
    """Put a chunk with XMP, whose bytes may be no UTF-8, among the profiles, the first alone."""
    parts = body[len(_XMP) + 2 :].split(b"\0", 2)
    try:
        content = _inflated(parts[2], _MOST_BYTES) if body[len(_XMP)] else parts[2]
    except (zlib.error, IndexError):
        notes.append("the XMP is damaged, and was not kept")
        return
    if "xmp" in profiles:
        notes.append(f"a second XMP packet ({in_words(len(content))}) was not kept")
    elif content:
        profiles["xmp"] = content


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


def _complaint(kind: str, body: bytes, header: bytes, kept: set[str]) -> str | None:
    """Return why a chunk is not kept, None if it is."""
    if kind not in _SIZES:
        return f"PNG chunk {kind} ({in_words(len(body))}) was not kept"
    if kind in kept:
        return f"a second PNG chunk {kind} was not kept"
    if len(body) not in _SIZES[kind]:
        return f"PNG chunk {kind} is damaged, and was not kept"
    depth = 8 if header[9] == 3 else header[8]
    if kind == "sBIT" and set(body) != {depth}:
        return "PNG chunk sBIT (significant bits) was removed: all bits are used now"
    return None


def _background(body: bytes, header: bytes, palette: bytes) -> bytes:
    """Return the background as 16-bit grey or RGB, nothing if it is damaged."""
    depth, colour = header[8], header[9]
    top = 2**depth - 1
    if colour == 3 and len(body) == 1 and 3 * body[0] + 3 <= len(palette):
        return struct.pack(">3H", *(257 * v for v in palette[3 * body[0] : 3 * body[0] + 3]))
    if len(body) != (2 if colour in (0, 4) else 6) or colour == 3:
        return b""
    values = struct.unpack(f">{len(body) // 2}H", body)
    return struct.pack(f">{len(values)}H", *(min(v, top) * 65535 // top for v in values))


def _is_ratio(body: bytes) -> bool:
    return len(body) == 9 and body[8] != 1 and body[:4] != body[4:8]


def _inflated(data: bytes, most_bytes: int) -> bytes:
    """Return what zlib data holds, at most that many bytes of it.

    Raises:
        zlib.error: if it is damaged or cut off before.
    """
    inflater = zlib.decompressobj()
    content = inflater.decompress(data, most_bytes)
    if not inflater.eof and len(content) < most_bytes:
        raise zlib.error("the data is cut off")
    return content
