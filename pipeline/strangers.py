"""What a file is that upres does not read, in words: by its first bytes."""

from __future__ import annotations

from pipeline.raws import raw_magic

_STARTS = {
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "an EPS",
    b"8BPS": "a Photoshop document",
    b"PK\3\4": "a zip archive (give it as the source itself)",
    b"\x1f\x8b": "gzip data (give a .tar.gz as the source itself)",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\0": "xz data",
    b"\x28\xb5\x2f\xfd": "Zstandard data",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\0\0\0\x0cjP": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\0\0\0\x0cJXL": "a JPEG XL",
    b"\xff\x0a": "a JPEG XL",
    b"v/1\x01": "an OpenEXR",
    b"#?RADIANCE": "a Radiance HDR",
    b"#?RGBE": "a Radiance HDR",
    b"DDS ": "a DDS texture",
    b"icns": "an icon (ICNS)",
    b"qoif": "a QOI",
    b"farbfeld": "a farbfeld",
    b"gimp xcf": "a GIMP document",
    b"SIMPLE  =": "a FITS",
    b"\x01\xda": "an SGI picture",
    b"\x59\xa6\x6a\x95": "a Sun raster",
    b"\x0a\x05\x01": "a PCX",
    b"\x0a\x03\x01": "a PCX",
    b"\xb1\x68\xde\x3a": "a DCX",
    b"SDPX": "a DPX",
    b"XPDS": "a DPX",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"\xd0\xcf\x11\xe0": "an Office or FlashPix document",
    b"FORM": "an IFF picture or sound",
    b"\x1aE\xdf\xa3": "a film (Matroska or WebM)",
    b"\0\5\x16\7": "an AppleDouble file, which macOS leaves beside others",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "an HDF5",
    b"BLP": "a BLP texture",
    b"\xabKTX": "a KTX texture",
    b"P7 332": "an XV thumbnail",
    b"RIFF": "RIFF data (sound or a film, not WebP)",
    b"version https://git-lfs": "a git-lfs pointer; fetch the file itself with git lfs pull",
    b"bplist00": "an Apple property list",
}
_TEXTS = {
    b"<svg": "an SVG drawing",
    b"<!doctype html": "an HTML page, perhaps of a failed download",
    b"<html": "an HTML page, perhaps of a failed download",
    b"#define": "an XBM or C source",
    b"/* xpm */": "an XPM",
    b"<?xml": "XML",
}
_BRANDS = {
    b"avif": "an AVIF",
    b"avis": "an AVIF animation",
    b"heic": "a HEIC (HEIF)",
    b"heix": "a HEIC (HEIF)",
    b"hevc": "a HEIC animation",
    b"heim": "a HEIC (HEIF)",
    b"heis": "a HEIC (HEIF)",
    b"mif1": "a HEIF",
    b"msf1": "a HEIF animation",
    b"jxl ": "a JPEG XL",
}


def describe(data: bytes) -> str:
    """Say in words what bytes are that are none of the formats that upres reads."""
    if not data:
        return "the file is empty (0 bytes)"
    if kind := raw_magic(data):
        return f"the file is a camera raw ({kind}); develop it first, for instance to 16-bit TIFF"
    for start, words in _STARTS.items():
        if data.startswith(start):
            return f"the file is {words}"
    if data[4:8] == b"ftyp":
        return f"the file is {_BRANDS.get(data[8:12], 'a film (MP4 or QuickTime)')}"
    head = data[:512]
    if not any(head):
        return f"the file starts with {len(head)} bytes of zero; it was lost or never written"
    return f"the file {_by_layout(data) or _text(head) or _unknown(data)}"


def _unknown(data: bytes) -> str:
    return f"starts with the unknown bytes {data[:8].hex(' ')}"


def _by_layout(data: bytes) -> str | None:
    """Return what a file is whose kind has no mark at its start, or too short a one."""
    if data[:1] == b"P" and data[1:2] in b"1234567Ff" and data[2:3].isspace():
        return "is a Netpbm picture (PBM, PGM, PPM, PAM or PFM)"
    if data.startswith(b"BM") and len(data) >= 18 and data[15:18] == b"\0\0\0":
        return "is a BMP"
    if data[:4] in (b"\0\0\1\0", b"\0\0\2\0") and data[4:5] != b"\0":
        return "is an icon (ICO)" if data[2] == 1 else "is a cursor (CUR)"
    if data[4:6] in (b"\x11\xaf", b"\x12\xaf"):
        return "is a FLIC animation"
    if data[257:262] == b"ustar":
        return "is a tar archive (give it as the source itself)"
    if data[-18:-2] == b"TRUEVISION-XFILE" or _is_targa(data):
        return "is a TGA"
    return None


def _is_targa(data: bytes) -> bool:
    """Return whether the header is one of a TGA, which has no mark: map, kind, size, depth."""
    if len(data) < 18 or data[1] > 1 or data[2] not in (1, 2, 3, 9, 10, 11):
        return False
    sides = data[12:14], data[14:16]
    return all(any(side) for side in sides) and data[16] in (8, 15, 16, 24, 32)


def _text(head: bytes) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for mark, words in _TEXTS.items():
        if start.startswith(mark):
            return f"is {words}"
    if b"<svg" in start:
        return "is an SVG drawing"
    if head.isascii() and all(byte >= 32 or byte in b"\t\n\f\r" for byte in head):
        return "is text"
    return None
