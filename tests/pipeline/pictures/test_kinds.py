"""Kinds: what could be a picture is never left out, and what is not one is never a failure."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from pipeline.pictures.formats import EXTENSIONS
from pipeline.pictures.kinds import (
    HIDDEN,
    LISTED,
    LITTER,
    NOT_PICTURES,
    OURS,
    SIDECARS,
    Verdict,
    is_readable_name,
    litter,
    verdict,
)
from pipeline.pictures.signatures import is_text

JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("@eaDir", "@eaDir"),
        ("@EADIR", "@eaDir"),
        ("#recycle", "#recycle"),
        ("#snapshot", "#snapshot"),
        ("$RECYCLE.BIN", "$RECYCLE.BIN"),
        ("$Recycle.Bin", "$RECYCLE.BIN"),
        (".@__thumb", ".@__thumb"),
        ("@Recycle", "@Recycle"),
        ("._a.jpg", "._"),
        ("lost+found", "lost+found"),
        (".Trash-1000", ".Trash"),
        (".Trashes", ".Trashes"),
        ("System Volume Information", "System Volume Information"),
        ("Thumbs.db", "Thumbs.db"),
        ("THUMBS.DB", "Thumbs.db"),
        ("ehthumbs_vista.db", "ehthumbs_vista.db"),
        ("Desktop.ini", "desktop.ini"),
        (".DS_Store", ".DS_Store"),
        ("__MACOSX", "__MACOSX"),
        (".thumbnails", ".thumbnails"),
        ("Icon\r", "Icon"),
        ("a.png@SynoEAStream", "@SynoEAStream"),
        (".picasa.ini", ".picasa.ini"),
        ("Previews.lrdata", ".lrdata"),
        ("~$letter.docx", "locks of office programs"),
        (".~lock.letter.odt#", "locks of office programs"),
        (".nfs000000000012ab", ".nfs"),
    ],
)
def test_litter_is_known_by_its_name_in_any_case(name: str, label: str) -> None:
    assert litter(name) == Verdict(LITTER, label)


@pytest.mark.parametrize(
    "name", ["a.jpg", "recycle", "@home", "#1.png", "$100.png", "~a.png", "~$a.png", "_"]
)
def test_names_that_only_look_like_litter_are_kept(name: str) -> None:
    assert litter(name) is None


def test_a_hidden_name_is_counted_under_itself() -> None:
    assert litter(".git") == Verdict(HIDDEN, ".git")


@pytest.mark.parametrize("end", ["xmp", "json", "txt", "pp3", "aae", "AAE", "nfo", "url", "db"])
def test_a_sidecar_is_left_out_and_counted_by_its_extension(end: str) -> None:
    assert verdict(f"IMG_1.{end}", b"<x/>") == Verdict(SIDECARS, f".{end.lower()}")
    assert verdict(f"IMG_1.{end}", b"") == Verdict(SIDECARS, f".{end.lower()}")
    assert verdict(f"IMG_1.{end}", None) == Verdict(SIDECARS, f".{end.lower()}")


@pytest.mark.parametrize("name", ["a.txt", "a.mov", "a", "a.", "a.xyz", "a.heic", "a.jpg.bak"])
def test_a_picture_is_listed_whatever_it_is_called(name: str) -> None:
    assert verdict(name, JPEG) == LISTED


def test_the_small_picture_beside_a_film_is_a_sidecar() -> None:
    assert verdict("MVI_1.THM", JPEG) == Verdict(SIDECARS, ".thm")


@pytest.mark.parametrize(
    ("name", "head", "label"),
    [
        ("a.MOV", b"\0\0\0\x14ftypqt  ", ".mov"),
        ("a.mp4", b"", ".mp4"),
        ("clip", b"\0\0\0\x18ftypmp42", "no extension"),
        ("a.pdf", b"%PDF-1.4", ".pdf"),
        ("a.docx", b"PK\3\4", ".docx"),
        ("README", b"Read me first.\n", "no extension"),
        ("b.cue", "Grüße aus Wien\n".encode("latin-1"), ".cue"),
    ],
)
def test_films_documents_and_texts_are_not_pictures(name: str, head: bytes, label: str) -> None:
    assert verdict(name, head) == Verdict(NOT_PICTURES, label)


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIF picture"),
        ("a", b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "an AVIF picture"),
        ("a.gif", b"GIF89a", "a GIF"),
        ("noname", b"GIF89a", "a GIF"),
        ("a.tga", b"\0\0\2", "a TGA by its name"),
        ("a.nef", b"\1\2\3", "a camera raw by its name"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera raw"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a vector drawing"),
        ("a", b"<?xml version='1.0'?>\n<svg width='1'/>", "a vector drawing"),
        ("a.zip", b"PK\3\4", "a zip archive"),
        ("a.cbr", b"Rar!\x1a\7\1\0", "a RAR archive"),
        ("a.cb7", b"", "a 7z archive"),
        ("IMG_0001", b"", "empty"),
        ("FILE0001.CHK", bytes(512), "bytes of zero"),
        ("x.unknown", b"\1\2\3\4\5\6\7\x08", "unknown bytes 01 02 03 04"),
    ],
)
def test_what_could_hold_a_picture_fails_by_the_name_of_its_kind(
    name: str, head: bytes, words: str
) -> None:
    found = verdict(name, head)
    assert not found.why
    assert words in found.unread
    assert ", expected JPEG, PNG" in found.unread
    assert "; " in found.unread


@pytest.mark.parametrize("format", ["GIF", "BMP", "PPM", "JPEG2000", "DDS"])
def test_a_picture_of_another_format_is_known_without_its_extension(format: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, format)
    assert "convert it first" in verdict("picture", file.getvalue()[:512]).unread


def test_a_text_that_begins_like_a_picture_is_a_text() -> None:
    assert verdict("cars.txt", b"BM" + b"W and others, a list") == Verdict(SIDECARS, ".txt")
    assert verdict("cars", b"BMW and others, a list of cars") == Verdict(
        NOT_PICTURES, "no extension"
    )
    assert verdict("P", b"P3 is a paper size that nobody uses") == Verdict(
        NOT_PICTURES, "no extension"
    )


def test_a_lock_of_upres_is_known_by_what_it_says() -> None:
    assert verdict("lr.lock", b"upres ingest (pid 1 on host)") == Verdict(OURS, ".lock")
    assert verdict("yarn.lock", b"# yarn") == Verdict(NOT_PICTURES, ".lock")


def test_a_letter_that_is_cut_at_the_end_of_the_look_is_still_text() -> None:
    assert is_text(("é" * 300).encode()[:511])
    assert not is_text(JPEG)


def test_every_extension_that_upres_reads_promises_a_picture() -> None:
    assert all(is_readable_name(f"a{end.upper()}") for end in EXTENSIONS)
