"""Originals: the pictures that patches are cut from, wherever they are.

A picture file, an item of an archive, or a pair: an HR file and its LR versions, matched by name.
Here belongs listing and reading them as 8-bit pixels. What is cut from them does not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.dataset.extract import luma8
from pipeline.dataset.likeness import check_alike
from pipeline.dataset.pairs import paired
from pipeline.degradation.apply import crop_to_multiple
from pipeline.errors import PictureError, SourceError, UsageError
from pipeline.geometry import Rect, Span
from pipeline.pictures.codecs.srgb import to_srgb
from pipeline.pictures.files import read_picture
from pipeline.pictures.metadata.exif import copyright_of
from pipeline.pictures.metadata.metadata import Metadata, from_json
from pipeline.pictures.picture import WHITE
from pipeline.recipes.preparing import SRGB, STORED
from pipeline.sources.listing import Listing, list_source
from pipeline.storage.archive import Archive
from pipeline.storage.archive_group import is_archive
from pipeline.storage.store import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from pipeline.sources.source_file import SourceFile
    from pipeline.storage.store import Place

    Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """One picture to cut patches from; small and picklable."""

    item: str
    address: str
    size_bytes: int = 0
    file: SourceFile | None = None
    """The file, or None for an item of an archive."""
    archive_dir: Place | None = None
    lr: Mapping[str, SourceFile] = field(default_factory=dict)
    """LR versions that came with it, by the name of the degradation."""
    doubts: Mapping[str, str] = field(default_factory=dict)
    """Why it has no LR file of a version, where names leave open which it is."""

    @property
    def place(self) -> Place:
        """Return where it is: its file, or its archive."""
        return self.archive_dir or place_of(self.address)

    def contents(self) -> dict[str, bytes]:
        """Return the bytes of its files: HR under "", LR versions under their names.

        Raises:
            SourceError: if one cannot be read.
        """
        hr = {} if self.file is None else {"": self.file.read()}
        return hr | {name: file.read() for name, file in self.lr.items()}

    def sha256(self, contents: Mapping[str, bytes]) -> str:
        """Return one content hash of all its files; that of the HR file where it is alone.

        Raises:
            ArchiveError: if its archive does not hold it any more.
        """
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        if self.archive_dir is not None:
            image = Archive.open(self.archive_dir).image(self.item)
            hashes[""] = str(image.provenance.get("sha256", ""))
        if list(hashes) == [""]:
            return hashes[""]
        return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pixels of one original, uint8 ``(c, h, w)``; `copyright` is what its EXIF says."""

    hr: Pixels
    lr: Mapping[str, Pixels]
    copyright: str = ""
    colour: str = ""
    """What was done about ICC profiles; "" where all colours are sRGB, or stay as stored."""


def list_originals(
    source: str, pairs: Mapping[str, str], *, scale: int, names: str = ""
) -> Listing[Original]:
    """Return every picture at `source`, sorted by item, and what was left out there.

    `pairs` are sources of LR versions, by the name of the degradation; whose their files are, says
    `pipeline.dataset.pairs`. `names` is as for `list_source`.

    Raises:
        SourceError: if there is nothing at a source.
        UsageError: if an archive is given LR versions.
    """
    if is_archive(place_of(source)):
        if pairs:
            raise UsageError(f"{source} is an archive, but --lr pairs files; give a folder as SRC")
        return Listing(tuple(_of_archive(place_of(source).absolute())))
    files = list_source(source, names=names)
    found = {n: paired(files, list_source(src, names=names), scale) for n, src in pairs.items()}
    originals = tuple(
        Original(
            item=file.item,
            address=file.address,
            size_bytes=file.size_bytes,
            file=file,
            lr={n: of.partners[file.item] for n, of in found.items() if file.item in of.partners},
            doubts={n: of.doubts[file.item] for n, of in found.items() if file.item in of.doubts},
        )
        for file in files
    )
    return Listing(originals, files.left_out, files.notes)


def decode(
    original: Original,
    contents: Mapping[str, bytes],
    *,
    channels: int,
    scale: int,
    pairs: Iterable[str],
    colour: str = STORED,
) -> Pictures:
    """Return the pixels of an original, with the LR versions `pairs` that come with it.

    With `colour` "srgb", pictures of another ICC profile are converted; with "stored", none are.

    With these, HR is cropped to a multiple of the scale.

    uint16 is rounded to 8 bits, RGB becomes grey by BT.601 luma and grey RGB, as `channels` asks.

    Raises:
        PictureError: if a file is not a picture, is transparent or float32, or the LR is of another
            size than the HR's divided by the scale.
        SourceError: if an LR version is missing.
    """
    item = original.item
    if original.file is None:
        pixels, metadata = _of_item(original)
    else:
        picture = read_picture(contents[""], name=item)
        pixels, metadata = picture.pixels, picture.metadata
    done: dict[str, None] = {}
    hr = develop(pixels, metadata, done, colour=colour, channels=channels, name=item)
    lr = {}
    for name in pairs:
        if name in original.doubts:
            raise SourceError(f"{item} has no LR picture {name!r}: {original.doubts[name]}")
        if name not in original.lr:
            raise SourceError(
                f"{item} has no partner of its own among the LR pictures of {name!r}, expected one "
                f"called {PurePosixPath(item).stem} or {PurePosixPath(item).stem}x{scale}; add it, "
                "or rename one"
            )
        file = original.lr[name]
        found = read_picture(contents[name], name=file.item)
        lr[name] = develop(
            found.pixels, found.metadata, done, colour=colour, channels=channels, name=file.item
        )
        _check_size(lr[name], hr, scale=scale, name=file.item)
    owner = copyright_of(metadata.exif) if metadata else ""
    return Pictures(crop_to_multiple(hr, scale) if lr else hr, lr, owner, ", ".join(done))


def check_pairs(pictures: Pictures, original: Original, *, scale: int) -> None:
    """Make sure that each LR version of an original shows what its HR picture shows.

    Raises:
        PictureError: if one clearly does not, as `likeness.check_alike`.
    """
    for name, pixels in pictures.lr.items():
        check_alike(pictures.hr, pixels, scale=scale, name=original.lr[name].item)


def develop(
    pixels: NDArray[Any],
    metadata: Metadata | None,
    done: dict[str, None],
    *,
    colour: str,
    channels: int,
    name: str,
) -> Pixels:
    """Return ``(c, h, w)`` of one file as uint8 with 1 or 3 channels, without alpha.

    What became of its colours is added to what was `done`.

    Raises:
        PictureError: if the picture is float32, or is transparent anywhere.
    """
    found = _eight_bits(pixels, name=name)
    if colour == SRGB and metadata is not None and metadata.icc:
        found, words = to_srgb(found, metadata.icc)
        done |= {words: None} if words else {}
    return _in_channels(found, channels)


def _eight_bits(pixels: NDArray[Any], *, name: str) -> Pixels:
    if pixels.dtype not in (np.uint8, np.uint16):
        raise PictureError(f"{name} is {pixels.dtype}, expected 8 or 16 bits; convert it first")
    if len(pixels) in (2, 4):
        if (pixels[-1] != WHITE[pixels.dtype.name]).any():
            raise PictureError(f"{name} is transparent in places; flatten it first")
        pixels = pixels[:-1]
    if len(pixels) not in (1, 3):
        raise PictureError(f"{name} has {len(pixels)} channels, expected grey or RGB")
    if pixels.dtype == np.uint16:
        white = WHITE["uint16"]
        rounded = (pixels.astype(np.uint32) * WHITE["uint8"] + white // 2) // white
        pixels = rounded.astype(np.uint8)
    return pixels


def _in_channels(pixels: Pixels, channels: int) -> Pixels:
    if len(pixels) == channels:
        return pixels
    grey = luma8(pixels)[np.newaxis]
    return grey if channels == 1 else np.repeat(grey, 3, axis=0)


def _check_size(lr: Pixels, hr: Pixels, *, scale: int, name: str) -> None:
    wanted = tuple(side // scale for side in hr.shape[1:])
    if lr.shape[1:] != wanted:
        turned = lr.shape[1:] == wanted[::-1]
        raise PictureError(
            f"{name} is {lr.shape[1]}x{lr.shape[2]} px, expected {wanted[0]}x{wanted[1]} px: the "
            f"HR picture's sides divided by {scale}"
            f"{'; it looks turned by 90 degrees, perhaps by its EXIF alone' if turned else ''}"
        )


def _of_archive(path: Place) -> Iterable[Original]:
    archive = Archive.open(path)
    for item, found in archive.survey():
        size = 0 if isinstance(found, Exception) else int(found.provenance.get("size_bytes", 0))
        yield Original(item=item, address=str(path), size_bytes=size, archive_dir=path)


def _of_item(original: Original) -> tuple[NDArray[Any], Metadata | None]:
    """Return the pixels of an archive's item, and what its file said."""
    archive_dir = original.archive_dir
    if archive_dir is None:
        raise SourceError(f"{original.item} has neither a file nor an archive")
    image = Archive.open(archive_dir).image(original.item)
    height, width = image.size
    pixels = image.read(Rect(Span(0, height), Span(0, width)))
    told = any(image.provenance.get(name) for name in ("exif", "icc"))
    return pixels, from_json(image.provenance) if told else None
