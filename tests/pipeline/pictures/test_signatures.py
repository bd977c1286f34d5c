"""A file that is not read is called what it is."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from pipeline.errors import PictureError
from pipeline.pictures.files import decode_picture
from pipeline.pictures.signatures import HEAD_BYTES, described


def saved(format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (17, 9), (1, 2, 3)).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("BMP", "a BMP"),
        ("GIF", "a GIF"),
        ("PPM", "a Netpbm picture"),
        ("TGA", "a TGA"),
        ("ICO", "an icon"),
        ("DDS", "a DDS texture"),
        ("PCX", "a PCX"),
        ("SGI", "an SGI picture"),
        ("JPEG2000", "a JPEG 2000"),
        ("AVIF", "an AVIF"),
        ("QOI", "a QOI"),
    ],
)
def test_pictures_of_other_formats_are_named(format: str, words: str) -> None:
    with pytest.raises(PictureError, match=rf"^a\.x: the file is {words}.*expected JPEG, PNG"):
        decode_picture(saved(format), name="a.x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (bytes(5000), "512 bytes of zero"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "a vector drawing"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a vector drawing"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIF picture"),
        (b"\0\0\0\x18ftypmp42" + bytes(50), "a film"),
        (b"\0\5\x16\7" + bytes(80), "AppleDouble"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\0" + bytes(250), "a tar archive"),
        (b"some notes\n", "text"),
        (b"\x12\x34\x56\x78\x9a\xbc\xde\xf0", "the unknown bytes 12 34 56"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, words: str) -> None:
    assert words in described(data[:HEAD_BYTES])
