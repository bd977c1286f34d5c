"""What a file that upres does not read is by its first bytes, in words.

What belongs here: signatures. Not: those of formats that are read (`formats`), names, and what
follows for the file (`kinds`).
"""

from __future__ import annotations

import codecs
import re

from pipeline.pictures.raws import raw_magic

HEAD_BYTES = 512
"""How much of a file is looked at: up to the signature of a tar."""

_SIGNATURES = (
    (b"GIF8", "a GIF"),
    (b"8BPS", "a Photoshop document"),
    (b"gimp xcf", "a GIMP picture"),
    (b"\0\0\0\x0cjP", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\0\0\0\x0cJXL", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"II\xbc", "a JPEG XR"),
    (b"v/1\x01", "an OpenEXR"),
    (b"#?RADIANCE", "a Radiance picture"),
    (b"#?RGBE", "a Radiance picture"),
    (b"DDS ", "a DDS texture"),
    (b"qoif", "a QOI"),
    (b"\x8aMNG", "a FLIF, BPG or MNG"),
    (b"icns", "an icon"),
    (b"farbfeld", "a farbfeld picture"),
    (b"SIMPLE  =", "a FITS picture"),
    (b"\x59\xa6\x6a\x95", "a Sun raster"),
    (b"\x0a\x05\x01", "a PCX"),
    (b"\x0a\x03\x01", "a PCX"),
    (b"\xb1\x68\xde\x3a", "a DCX"),
    (b"SDPX", "a DPX"),
    (b"XPDS", "a DPX"),
    (b"\xd7\xcd\xc6\x9a", "a vector drawing"),
    (b"\xabKTX", "a KTX texture"),
    (b"BLP", "a BLP texture"),
    (b"P7 332", "an XV thumbnail"),
    (b"\xc5\xd0\xd3\xc6", "an EPS drawing"),
    (b"%!PS-Adobe", "an EPS drawing"),
)
_PACKED_SIGNATURES = (
    (b"PK\3\4", "a zip archive"),
    (b"PK\5\6", "a zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
)
_OTHER_SIGNATURES = (
    (b"%PDF", "a PDF"),
    (b"ID3", "sound"),
    (b"OggS", "sound or a film"),
    (b"fLaC", "sound"),
    (b"\x1aE\xdf\xa3", "a film"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document"),
    (b"{\\rtf", "a document"),
    (b"SQLite format 3\0", "a database"),
    (b"\x7fELF", "a program"),
    (b"bplist00", "a property list"),
    (b"\x89HDF", "an HDF5 file"),
    (b"FORM", "an IFF picture or sound"),
    (b"RIFF", "RIFF data, sound or a film"),
    (b"\0\5\x16\7", "what macOS keeps about a file (AppleDouble), without the file itself"),
    (b"\0\5\x16\0", "what macOS keeps about a file (AppleSingle)"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2")
_NETPBM = re.compile(
    rb"P(?:[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s|7\s+(?:#[^\n]*\n\s*)*WIDTH |[Ff]\s+\d+ \d+\s)"
)
_SVG = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]", re.DOTALL
)


def _start(head: bytes, signatures: tuple[tuple[bytes, str], ...]) -> str:
    return next((words for start, words in signatures if head.startswith(start)), "")


def _boxed(head: bytes) -> str:
    """Return what a file in boxes (ISO base media) is; "" for others."""
    if head[4:8] in (b"moov", b"mdat", b"wide") and head[0] == 0:
        return "a film"
    if head[4:8] != b"ftyp":
        return ""
    size = int.from_bytes(head[:4])
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return "an AVIF picture"
    return "a HEIF picture" if brands & set(_HEIF_BRANDS) else "a film"


def strange_picture(head: bytes) -> str:
    """Return what picture bytes are that upres does not read; "" where they are none for sure."""
    if kind := raw_magic(head):
        return f"a camera raw ({kind})"
    boxed = _boxed(head)
    return (boxed if boxed != "a film" else "") or _start(head, _SIGNATURES)


def weak_picture(head: bytes) -> str:
    """Return the same for signatures so short that a text may begin with them too."""
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return "a BMP"
    if _SVG.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "a vector drawing"
    return "a Netpbm picture" if _NETPBM.match(head) else ""


def _by_layout(head: bytes) -> str:
    """Return what a picture is whose kind has no mark at its start, or too short a one."""
    if head[:4] in (b"\0\0\1\0", b"\0\0\2\0") and head[4:5] != b"\0":
        return "an icon" if head[2] == 1 else "a cursor"
    if head[4:6] in (b"\x11\xaf", b"\x12\xaf"):
        return "a FLIC animation"
    if head.startswith(b"\x01\xda"):
        return "an SGI picture"
    if head[:18].lower().startswith((b"#define", b"/* xpm */")):
        return "an X bitmap"
    return "a TGA" if _is_targa(head) else ""


def _is_targa(head: bytes) -> bool:
    """Return whether the header is one of a TGA, which has no mark: map, kind, size, depth."""
    if len(head) < 18 or head[1] > 1 or head[2] not in (1, 2, 3, 9, 10, 11):
        return False
    sides = head[12:14], head[14:16]
    return all(any(side) for side in sides) and head[16] in (8, 15, 16, 24, 32)


def packed(head: bytes) -> str:
    """Return what kind of archive or packed file bytes begin; "" for others."""
    return _start(head, _PACKED_SIGNATURES) or (
        "a tar archive" if head[257:262] == b"ustar" else ""
    )


def other(head: bytes) -> str:
    """Return what a film, sound, document or program is by its first bytes; "" for others."""
    if head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"WAVE"):
        return "a film" if head[8:12] == b"AVI " else "sound"
    return ("a film" if _boxed(head) == "a film" else "") or _start(head, _OTHER_SIGNATURES)


_CONTROL = bytes(set(range(32)) - set(b"\t\n\f\r\x1b") | {127})


def is_text(head: bytes) -> bool:
    """Tell whether bytes begin like text in UTF-8, UTF-16 or an older encoding."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return len(head) % 2 == 0 and head.count(b"\0") * 4 > len(head)
    if head.translate(None, _CONTROL) != head:
        return False
    foreign = sum(byte >= 0x80 for byte in head)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        # Older encodings: letters with accents among plain ones.
        return foreign * 4 < len(head)
    return True


def described(head: bytes, *, called: str = "") -> str:
    """Say in words what a file is that upres does not read, such as "the file is a GIF".

    `called` is what it is by its name, for formats without a signature.
    """
    if not head:
        return "the file is empty (0 bytes)"
    if head.startswith(b"version https://git-lfs"):
        return "the file is a Git LFS pointer, not the picture itself (run `git lfs pull`)"
    words = strange_picture(head) or weak_picture(head)
    if not words and called:
        return f"the file is {called} by its name"
    words = words or packed(head) or other(head) or _by_layout(head)
    if words:
        return f"the file is {words}"
    if re.match(rb"\s*<(!doctype html|html|head|body)", head, re.IGNORECASE):
        return "the file is text (a web page, perhaps of a failed download)"
    if is_text(head):
        return "the file is text"
    if not any(head):
        return f"the file starts with {len(head)} bytes of zero; it was lost or never written"
    return f"the file starts with the unknown bytes {head[:8].hex(' ')}"
