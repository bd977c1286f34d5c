"""PNG: every text and every chunk that stays true is there again, the others are noted."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.pictures.files import read_picture, write_picture
from pipeline.pictures.metadata.metadata import Metadata
from pipeline.pictures.metadata.png_chunks import profile_chunk, text_chunk, text_of
from pipeline.pictures.picture import Picture
from tests.examples import examples
from tests.pipeline.pictures.test_files import chunk, exif_with_orientation

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = (
    (b"tEXt", b"parameters\0a tree\nSteps: 40"),
    (b"tEXt", b"Comment\0one"),
    (b"tEXt", b"Comment\0two"),
    (b"tEXt", b"Copyright\0\xa9 me"),
    (b"tEXt", b"Empty\0"),
    (b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 40_000)),
    (b"iTXt", b"Title\0\0\0de-DE\0Titel\0B\xc3\xa4ume"),
    (b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress("ein Bäumchen".encode())),
)


def png(*chunks: tuple[bytes, bytes], mode: str = "RGB", behind: bytes = b"") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 6)).save(file, "PNG")
    data = file.getvalue()
    end = data.rindex(b"IDAT") - 4
    return data[:end] + b"".join(chunk(*c) for c in chunks) + data[end:] + behind


def again(path: Path, data: bytes, format: str = "png", repeat: int = 2) -> tuple[str, ...]:
    picture = read_picture(data, name="a.png")
    pixels = picture.pixels.repeat(repeat, 1).repeat(repeat, 2)
    larger = Picture(pixels=pixels, metadata=picture.metadata)
    return (*picture.metadata.notes, *write_picture(path, larger, format=format))


def test_texts_of_every_kind_come_back_byte_for_byte(tmp_path: Path) -> None:
    assert again(tmp_path / "a.png", png(*TEXTS)) == ()
    data = (tmp_path / "a.png").read_bytes()
    places = [data.index(chunk(*text)) for text in TEXTS]
    assert places == sorted(places), "in their order"


@pytest.mark.parametrize("format", ["jpeg", "tiff", "webp"])
def test_texts_without_a_place_are_noted_by_their_keywords(tmp_path: Path, format: str) -> None:
    (note,) = again(tmp_path / "a", png(*TEXTS), format)
    comment = "" if format == "jpeg" else "Comment, "
    keywords = f"parameters, {comment}Copyright, Empty, workflow, Title, prompt"
    assert note.startswith(f"PNG text {keywords}: ")
    if format == "jpeg":
        comments = read_picture((tmp_path / "a").read_bytes(), name="a").metadata.comments
        assert comments == (b"one", b"two")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ((b"tEXt", b"no separator"), "text 'no separator' is damaged"),
        ((b"zTXt", b"packed\0\0" + zlib.compress(b"x" * 999)[:9]), "text 'packed' is damaged"),
        ((b"iTXt", b"utf\0\0\0\0\0\xff"), "text 'utf' is damaged"),
        ((b"iTXt", b"short\0"), "text 'short' is damaged"),
        ((b"iTXt", b"XML:com.adobe.xmp\0"), "the XMP is damaged"),
        ((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0broken"), "the XMP is damaged"),
        ((b"tIME", b"\1"), "tIME is damaged"), ((b"gAMA", b""), "gAMA is damaged"),
        ((b"bKGD", b"\1"), "bKGD is damaged"), ((b"hIST", b"\0\1"), "hIST"),
        ((b"sPLT", b"a\0\x08"), "sPLT"), ((b"sBIT", b"\5\6\5"), "sBIT (significant bits)"),
        ((b"caBX", bytes(2000)), "caBX (2 KB)"), ((b"iCCP", b"x\0\0broken"), "profile is damaged"),
        ((b"pHYs", struct.pack(">IIB", 2, 1, 0)), "pHYs (the shape of a pixel)"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_no_longer_true_is_noted(
    tmp_path: Path, bad: tuple[bytes, bytes], words: str
) -> None:
    notes = again(tmp_path / "a.png", png(TEXTS[0], bad))
    assert len(notes) == 1
    assert words in notes[0]
    assert chunk(*TEXTS[0]) in (tmp_path / "a.png").read_bytes()
    assert chunk(*bad) not in (tmp_path / "a.png").read_bytes()


def test_a_note_never_holds_what_a_terminal_would_obey(tmp_path: Path) -> None:
    hostile = (b"tEXt", b"a\x1b]0;owned\x07\nb\0text")
    (note,) = again(tmp_path / "a.tif", png(hostile), "tiff")
    assert note == "PNG text a?]0;owned??b: TIFF has no place for it"
    (note,) = again(tmp_path / "a.png", png((b"tEXt", b"\x1b[31m no text")))
    assert note == "PNG text '\\x1b[31m no text' is damaged and was not kept"


def test_data_behind_the_last_chunk_is_noted(tmp_path: Path) -> None:
    assert again(tmp_path / "a.png", png(behind=b"PK\3\4" * 500)) == (
        "data after the picture: 2 KB, not kept",
    )
    assert again(tmp_path / "a.png", png(behind=bytes(99))) == ()


@pytest.mark.parametrize(
    ("mode", "stored", "written"),
    [
        ("RGB", struct.pack(">3H", 1, 2, 255), struct.pack(">3H", 1, 2, 255)),
        ("L", struct.pack(">H", 77), struct.pack(">H", 77)),
        ("1", struct.pack(">H", 1), struct.pack(">H", 255)),
        ("LA", struct.pack(">H", 77), struct.pack(">H", 77)),
    ],
)
def test_a_background_is_of_the_depth_that_is_written(
    tmp_path: Path, mode: str, stored: bytes, written: bytes
) -> None:
    assert again(tmp_path / "a.png", png((b"bKGD", stored), mode=mode)) == ()
    assert chunk(b"bKGD", written) in (tmp_path / "a.png").read_bytes()


def test_the_background_of_a_palette_becomes_its_colour(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([9, 8, 7, 1, 2, 3])
    file = io.BytesIO()
    image.save(file, "PNG")
    data = file.getvalue()
    at = data.index(b"IDAT") - 4
    data = data[:at] + chunk(b"bKGD", b"\1") + data[at:]
    assert again(tmp_path / "a.png", data) == ()
    assert chunk(b"bKGD", struct.pack(">3H", 1, 2, 3)) in (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("name", ["exif", "APP1"])
def test_exif_in_a_text_is_read_as_exif(tmp_path: Path, name: str) -> None:
    kind, body = profile_chunk(name, b"Exif\0\0" + exif_with_orientation(6))
    picture = read_picture(png((kind.encode(), body)), name="a.png")
    assert picture.pixels.shape == (3, 8, 6), "turned, as by its eXIf"
    assert picture.metadata.exif == exif_with_orientation(1)
    assert picture.metadata.chunks == ()


def test_a_profile_of_an_absurd_length_stays_a_text(tmp_path: Path) -> None:
    text = b"Raw profile type exif\0\nexif\n" + b"9" * 5000 + b"\n4949\n"
    assert again(tmp_path / "a.png", png((b"tEXt", text))) == ()
    assert chunk(b"tEXt", text) in (tmp_path / "a.png").read_bytes()


def test_a_profile_in_a_text_that_is_cut_off_stays_a_text(tmp_path: Path) -> None:
    _, body = profile_chunk("iptc", b"8BIM" + bytes(200))
    text = zlib.decompress(body.split(b"\0\0", 1)[1])[:-40]
    cut = (b"zTXt", body.split(b"\0\0")[0] + b"\0\0" + zlib.compress(text))
    assert again(tmp_path / "a.png", png(cut)) == ()
    assert chunk(*cut) in (tmp_path / "a.png").read_bytes()


@examples(60)
@given(st.text(max_size=30))
def test_any_comment_becomes_a_text_that_reads_the_same(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert text_of(*text_chunk("Comment", text)) == ("Comment", text.replace("\0", "\n"))


def test_colours_stand_before_the_pixels(tmp_path: Path) -> None:
    metadata = Metadata(format="png", mode="RGB", chunks=(("gAMA", struct.pack(">I", 45455)),))
    pixels = np.zeros((3, 4, 4), np.uint8)
    write_picture(tmp_path / "a.png", Picture(pixels=pixels, metadata=metadata), format="png")
    data = (tmp_path / "a.png").read_bytes()
    assert 0 < data.index(b"gAMA") < data.index(b"IDAT")
