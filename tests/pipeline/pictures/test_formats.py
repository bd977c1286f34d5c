"""The table of formats: it is true, nothing contradicts it, and one entry adds a format."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import ImageCms

from pipeline.errors import PictureError
from pipeline.jobs.export.names import CHOICES
from pipeline.pictures.files import encode_picture, read_picture
from pipeline.pictures.formats import (
    BY_NAME,
    EXTENSIONS,
    FORMATS,
    READ,
    SUFFIXES,
    UNBOUNDED,
    WRITTEN,
    Block,
    Format,
    recognised,
)
from pipeline.pictures.kinds import called, is_readable_name
from pipeline.pictures.metadata.metadata import Metadata, in_words
from pipeline.pictures.metadata.target import Target
from pipeline.pictures.metadata.travel import fitted
from pipeline.pictures.picture import WHITE, Picture
from tests.pipeline.pictures.test_files import exif_with_orientation, noise

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

EXAMPLES: dict[Block, dict[str, Any]] = {
    Block.ICC: {"icc": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()},
    Block.EXIF: {"exif": exif_with_orientation(1)},
    Block.EXIF_TAGS: {"exif": exif_with_orientation(1)},
    Block.XMP: {"xmp": b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'},
    Block.CAPTIONS: {"iptc": b"\x1c\x02\x05\0\x07Harbour"},
    Block.RESOLUTION: {"dpi": (300.0, 300.0)},
    Block.COMMENTS: {"comments": (b"in the evening",)},
    Block.CHUNKS: {"chunks": (("tEXt", b"Title\0Harbour"), ("gAMA", b"\0\0\xb1\x8f"))},
}
INSTEAD = {
    Block.EXIF: Block.EXIF_TAGS, Block.EXIF_TAGS: Block.EXIF, Block.COMMENTS: Block.CHUNKS,
}  # fmt: skip
"""What holds the same in other formats."""

each_format = pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)


def encoded(format: Format, pixels: Any, **metadata: Any) -> tuple[bytes, tuple[str, ...]]:
    known = Metadata(**{"format": "none", "mode": "RGB", **metadata})
    return encode_picture(Picture(pixels=pixels, metadata=known), name="a", format=format.name)


# The table itself


def test_no_two_formats_share_a_name_or_an_extension() -> None:
    assert len(BY_NAME) == len({format.title for format in FORMATS}) == len(FORMATS)
    assert len(EXTENSIONS) == sum(len(format.extensions) for format in FORMATS)
    assert all(EXTENSIONS[SUFFIXES[format.name]] == format.name for format in FORMATS)


@each_format
def test_a_file_is_recognised_by_its_own_signature_alone(format: Format) -> None:
    data, _ = encoded(format, noise(3))
    assert recognised(data) is format
    assert [other for other in FORMATS if other.signature.match(data)] == [format]
    assert recognised(b"\0" + data) is None


@each_format
def test_files_of_every_extension_are_listed_and_called_nothing_else(format: Format) -> None:
    assert all(is_readable_name(f"a{end.upper()}") for end in format.extensions)
    assert not any(called(f"a{end}") for end in format.extensions)


@each_format
def test_a_format_holds_the_channels_and_depths_that_it_says_and_no_others(format: Format) -> None:
    for channels, dtype in itertools.product((1, 2, 3, 4), WHITE):
        pixels = noise(channels, dtype)
        if channels not in format.channels or dtype not in format.dtypes:
            with pytest.raises(PictureError, match=f"{format.name.upper()} cannot hold 9 x 13"):
                encoded(format, pixels)
            continue
        back = read_picture(encoded(format, pixels)[0], name="a").pixels
        assert back.dtype == dtype
        if channels <= 2 and not format.has_grey:
            assert all((back[at] == back[0]).all() for at in (1, 2)), "equal RGB"
            back = back[[0, *range(3, len(back))]]
        assert np.array_equal(back, pixels) is not format.loses


@each_format
def test_a_side_that_is_too_long_is_refused_before_the_encoder_sees_it(format: Format) -> None:
    channels, dtype = format.channels[0], format.dtypes[0]
    assert format.holds((channels, 1, format.side_px), dtype)
    assert not format.holds((channels, 1, format.side_px + 1), dtype)


@each_format
@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.name.lower())
def test_a_file_carries_what_the_table_says_and_the_rest_is_noted(
    format: Format, block: Block
) -> None:
    example = EXAMPLES[block]
    data, notes = encoded(format, noise(3), **example)
    back = read_picture(data, name="a").metadata
    if format.most(block):
        assert notes == ()
        assert all(getattr(back, name) for name in example)
    elif format.most(INSTEAD.get(block, block)):
        assert notes == ()
    else:
        assert notes
        assert all(f"{format.title} has no place for" in note for note in notes)
        assert not any(getattr(back, name) for name in example)


def test_what_is_larger_than_its_place_is_not_kept_but_noted() -> None:
    bounds = dict.fromkeys((Block.ICC, Block.EXIF, Block.XMP, Block.COMMENTS), 100)
    narrow = replace(BY_NAME["webp"], carries=bounds)
    target = Target(
        format=narrow, width=9, height=13, channels=3, dtype="uint8", thumbnail=lambda most: b""
    )
    large = {
        "icc": bytes(101),
        "exif": exif_with_orientation(1) + bytes(101),
        "xmp": b'<x:xmpmeta xmlns:x="adobe:ns:meta/">' + b"<x:a/>" * 20 + b"</x:xmpmeta>",
        "comments": (b"c" * 101, b"c"),
    }
    kept, notes = fitted(Metadata(format="webp", mode="RGB", **large), target)
    assert (kept.icc, kept.xmp, kept.comments) == (None, None, (b"c",))
    assert kept.exif is None or len(kept.exif) <= 100
    assert "the XMP of 168 bytes is too large for WebP, and was not kept" in notes
    assert "the colour profile of 101 bytes is too large for WebP: not kept" in notes
    assert "a comment of 101 bytes is too large for WebP, and was not kept" in notes


# What is derived from it


def test_what_is_read_is_named_in_messages_in_one_order() -> None:
    *titles, last = sorted(format.title for format in FORMATS)
    assert f"{', '.join(titles)} or {last}" == READ
    with pytest.raises(PictureError, match=rf"^a\.gif: the file is a GIF, expected {READ}; "):
        read_picture(b"GIF89a" + bytes(90), name="a.gif")


def test_an_export_may_ask_for_every_format_that_is_written() -> None:
    assert ("same", *WRITTEN) == CHOICES
    assert sorted(WRITTEN) == sorted(format.name for format in FORMATS if format.writer)


def test_starting_the_command_line_loads_no_codec() -> None:
    script = (
        "import sys, flows.cli; print({'PIL', 'imagecodecs', 'tifffile', 'numpy', 'torch'} "
        "& set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"


def test_the_documents_show_the_table_as_it_is() -> None:
    texts = [document.read_text() for document in DOCUMENTS]
    for rows in (rows_of_formats(), rows_of_metadata()):
        (place,) = [text for text in texts if rows[0] in text]
        block = place[place.index(rows[0]) :].split("\n\n")[0].splitlines()
        assert block == rows
    for document in (ROOT / "README.md", ROOT / "docs" / "archivist.md"):
        assert all(format.title in document.read_text() for format in FORMATS), document


def table_rows(*rows: Iterable[str]) -> list[str]:
    head, *lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return [head, "|---" * (head.count("|") - 1) + "|", *lines]


def rows_of_formats() -> list[str]:
    """Return what each format is, as the documents show it."""
    depths = {"uint8": "8 bits", "uint16": "16 bits", "float32": "float32"}
    rows = [("format", "`--format`", "extensions", "pixels", "longest side", "written")]
    for format in sorted(FORMATS, key=lambda format: format.title):
        kinds = ["grey", "RGB"] if format.has_grey and 1 in format.channels else ["RGB"]
        kinds += ["with or without alpha"] if 4 in format.channels else []
        written = "with loss" if format.loses else "without loss"
        cells = (
            format.title,
            f"`{format.name}`" if format.writer else "",
            ", ".join(f"`{end}`" for end in format.extensions),
            f"{', '.join(kinds)}; {', '.join(depths[dtype] for dtype in format.dtypes)}",
            f"{format.side_px:,}",
            written if format.writer else "not",
        )
        rows.append(cells)
    return table_rows(*rows)


def rows_of_metadata() -> list[str]:
    """Return what each format has a place for, as the documents show it."""
    formats = sorted(FORMATS, key=lambda format: format.title)
    rows = [("what a file holds besides pixels", *(format.title for format in formats))]
    for block in Block:
        most = [format.most(block) for format in formats]
        bounds = [("no", "yes")[n > 0] if n in (0, UNBOUNDED) else in_words(n) for n in most]
        rows.append((block, *bounds))
    return table_rows(*rows)


# Adding one

CODEC = """
import numpy as np

from pipeline.pictures.metadata.metadata import Metadata


def read_ppm(data, max_pixels):
    kind, width, height, _, rest = data.split(maxsplit=4)
    channels = 3 if kind == b"P6" else 1
    pixels = np.frombuffer(rest, np.uint8).reshape(int(height), int(width), channels)
    return np.moveaxis(pixels, 2, 0), Metadata(format="ppm", mode="RGB")


def write_ppm(file, pixels, metadata, quality):
    _, height, width = pixels.shape
    file.write(b"P6 %d %d 255\\n" % (width, height))
    for strip in pixels:
        file.write(np.moveaxis(strip, 0, 2).tobytes())
"""

ENTRIES = '''
    Format(
        name="ppm", title="PPM", extensions=(".ppm",), signature=re.compile(rb"P6\\s"),
        reader="ppm:read_ppm", writer="ppm:write_ppm",
        channels=(3,), dtypes=("uint8",), side_px=1000, carries={},
    ),
    Format(
        name="pgm", title="PGM", extensions=(".pgm",), signature=re.compile(rb"P5\\s"),
        reader="ppm:read_ppm", writer=None,
        channels=(1,), dtypes=("uint8",), side_px=1000, carries={},
    ),
)
"""All of them'''

USE = """
import json
import numpy as np
from click.testing import CliRunner
from flows.cli import main
from pipeline.errors import PictureError
from pipeline.jobs.export.names import file_names
from pipeline.pictures.files import encode_picture, read_picture
from pipeline.pictures.kinds import verdict
from pipeline.pictures.metadata.metadata import Metadata, in_words
from pipeline.pictures.picture import Picture

pixels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
carried = {"icc": b"i" * 99, "exif": b"e" * 99, "xmp": b"x" * 99, "dpi": (300.0, 300.0)}
metadata = Metadata(format="none", mode="RGB", **carried)
data, notes = encode_picture(Picture(pixels=pixels, metadata=metadata), name="a", format="ppm")
try:
    encode_picture(Picture(pixels=pixels[:1], metadata=metadata), name="a", format="pgm")
except PictureError as error:
    refusal = str(error)
try:
    read_picture(b"no picture", name="a.ppm")
except PictureError as error:
    unread = str(error)
print(json.dumps({
    "same": bool((read_picture(data, name="a.ppm").pixels == pixels).all()),
    "grey": read_picture(b"P5 2 1 255\\n\\x07\\x09", name="a.pgm").pixels.tolist(),
    "notes": notes,
    "refusal": refusal,
    "unread": unread,
    "verdicts": [repr(verdict(name, b"")) for name in ("a.ppm", "a.PGM")],
    "names": list(file_names(["a.ppm", "b.jpg", "c.pgm"], format="ppm").values()),
    "help": CliRunner().invoke(main, ["export", "--help"]).output,
}))
"""


def test_one_file_and_one_entry_add_a_format(tmp_path: Path) -> None:
    for package in ("models", "pipeline", "flows"):
        unused = shutil.ignore_patterns("weights", "photos", "__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=unused)
    (tmp_path / "pipeline/pictures/codecs/ppm.py").write_text(CODEC)
    table = tmp_path / "pipeline/pictures/formats.py"
    before = table.read_text()
    assert before.count(')\n"""All of them') == 1
    table.write_text(before.replace(')\n"""All of them', ENTRIES))
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["same"]
    assert said["grey"] == [[[7, 9]]]
    assert said["notes"] == [
        "EXIF (99 bytes): PPM has no place for it",
        "XMP (99 bytes): PPM has no place for it",
        "the colour profile (99 bytes): PPM has no place for it",
        "the resolution (300 dpi): PPM has no place for it",
    ]
    known = ", ".join(sorted([*WRITTEN, "ppm"]))
    assert said["refusal"] == f"format is 'pgm', expected one of {known}"
    *titles, last = sorted([*(format.title for format in FORMATS), "PGM", "PPM"])
    assert f"expected {', '.join(titles)} or {last}" in said["unread"]
    assert "by its name" not in said["unread"]
    assert said["verdicts"] == ["Verdict(why='', label='', unread='')"] * 2
    assert said["names"] == ["a.ppm", "b.ppm", "c.ppm"]
    assert f"[{'|'.join(CHOICES)}|ppm]" in said["help"]
