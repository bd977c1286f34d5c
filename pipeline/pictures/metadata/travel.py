"""What travels along: a picture's metadata, made true of other pixels and fitted to a format.

Three steps, in this order: `upright` when a file is read, `enlarged` when its picture becomes
larger, `fitted` when it is written. What a step cannot keep is a note, one sentence each; broken
metadata is kept as it is or dropped with a note, and never costs a picture.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.pictures.formats import Block
from pipeline.pictures.metadata import colour, exif_values, geotiff, photoshop, png_chunks, xmp
from pipeline.pictures.metadata import exif as exif_tree
from pipeline.pictures.metadata.metadata import in_words, listed, plain
from pipeline.pictures.metadata.travel_xmp import fit_xmp, turned_xmp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.pictures.metadata.metadata import Metadata
    from pipeline.pictures.metadata.target import Target


def upright(metadata: Metadata, turn: int, *, width: int, height: int) -> Metadata:
    """Return metadata for the pixels turned upright from EXIF orientation `turn`.

    `width` and `height` are those of the stored picture. The orientation in the EXIF is 1 then.
    """
    if not 2 <= turn <= 8:
        return metadata
    notes: list[str] = []
    exif = metadata.exif
    if exif is not None:
        exif = exif_values.upright(exif, turn, width=width, height=height)
    if exif is not None and geotiff.holds_map(exif):
        exif = exif_tree.without(exif, geotiff.TAGS)
        notes.append("the place on the ground (GeoTIFF) was removed: the picture was turned")
    resources = photoshop.without_paths(metadata.photoshop) if metadata.photoshop else None
    if resources != metadata.photoshop:
        notes.append("Photoshop's paths were removed: the picture was turned")
    packet, extended = (
        turned_xmp(part, turn, (width, height), notes) if part else None
        for part in (metadata.xmp, metadata.xmp_extended)
    )
    dpi = metadata.dpi
    return replace(
        metadata,
        exif=exif,
        xmp=packet,
        xmp_extended=extended,
        photoshop=resources,
        dpi=(dpi[1], dpi[0]) if dpi and turn >= 5 else dpi,
        notes=(*metadata.notes, *notes),
    )


def enlarged(metadata: Metadata, scale: int) -> Metadata:
    """Return metadata for the pixels of a picture `scale` times as large.

    The resolution stays, so a print grows with the picture.
    """
    exif = exif_values.enlarged(metadata.exif, scale) if metadata.exif else None
    packet, extended = metadata.xmp, metadata.xmp_extended
    with suppress(ValueError):  # `fitted` notes it.
        packet = xmp.enlarged(packet, scale) if packet else None
        extended = xmp.enlarged(extended, scale) if extended else None
    return replace(metadata, exif=exif, xmp=packet, xmp_extended=extended)


def fitted(metadata: Metadata, target: Target) -> tuple[Metadata, tuple[str, ...]]:
    """Return what the target holds of the metadata, made true of its pixels, and notes.

    Raises:
        PictureError: if the target's format cannot say what the colours mean.
    """
    notes: list[str] = []
    metadata = _fit_places(metadata, target, notes)
    metadata = _fit_exif(metadata, target, notes)
    metadata = fit_xmp(metadata, target, notes)
    metadata = _fit_colours(metadata, target, notes)
    metadata = _fit_captions(metadata, target, notes)
    metadata = _fit_texts(metadata, target, notes)
    return replace(metadata, dpi=_fitted_dpi(metadata, target), notes=()), plain(notes)


def _fit_places(metadata: Metadata, target: Target, notes: list[str]) -> Metadata:
    """Return metadata without EXIF and XMP, where the target has no place for them at all."""
    name = target.format.title
    if metadata.exif and not (target.carries(Block.EXIF) or target.carries(Block.EXIF_TAGS)):
        notes.append(f"EXIF ({in_words(len(metadata.exif))}): {name} has no place for it")
        metadata = replace(metadata, exif=None)
    if metadata.xmp and not target.carries(Block.XMP):
        notes.append(f"XMP ({in_words(len(metadata.xmp))}): {name} has no place for it")
        metadata = replace(metadata, xmp=None, xmp_extended=None)
    return metadata


def _fit_exif(metadata: Metadata, target: Target, notes: list[str]) -> Metadata:
    exif = metadata.exif
    if exif is None:
        return metadata
    as_tags = target.carries(Block.EXIF_TAGS)
    if not exif_tree.is_sound(exif):
        is_kept = "not kept" if as_tags else "kept as it is"
        notes.append(f"the EXIF is damaged, and was {is_kept}")
    if as_tags and metadata.format != target.format.name:
        notes += exif_tree.lost_in_tiff(exif)
    thumbnail = None if as_tags else target.thumbnail
    exif, more = exif_values.resized(
        exif, width=target.width, height=target.height, thumbnail=thumbnail
    )
    notes += more
    most_bytes = target.format.most(Block.EXIF)
    if not as_tags and len(exif) > most_bytes:
        exif, more = exif_values.resized(
            exif, width=target.width, height=target.height, thumbnail=None
        )
        notes += more
        shrunk, more = exif_tree.shrunk(exif, most_bytes)
        notes += more
        return replace(metadata, exif=shrunk)
    return replace(metadata, exif=exif)


def _fit_colours(metadata: Metadata, target: Target, notes: list[str]) -> Metadata:
    """Return metadata whose profile says what a PNG's chunks say, where these have no place."""
    icc, name = metadata.icc, target.format.title
    is_grey = target.channels <= 2
    if not target.carries(Block.CHUNKS):
        chunks = png_chunks.colours_of(metadata.chunks)
        said = colour.said_by(chunks, icc, grey=is_grey and target.format.has_grey)
        notes += said.notes
        icc = said.icc
    if not target.format.has_grey and is_grey and icc and icc[16:20] == b"GRAY":
        icc = colour.grey_as_rgb(icc)
        if icc is None:
            notes.append(f"the colour profile is one of grey, which {name} does not hold: not kept")
    if icc and not target.carries(Block.ICC):
        notes.append(f"the colour profile ({in_words(len(icc))}): {name} has no place for it")
        icc = None
    if icc and len(icc) > target.format.most(Block.ICC):
        notes.append(
            f"the colour profile of {in_words(len(icc))} is too large for {name}: not kept"
        )
        icc = None
    return replace(metadata, icc=icc)


def _fit_captions(metadata: Metadata, target: Target, notes: list[str]) -> Metadata:
    """Return metadata without IPTC and Photoshop's resources, where the target has no place."""
    name = target.format.title
    if not target.carries(Block.CAPTIONS):
        blocks = {"IPTC captions": metadata.iptc, "Photoshop's image resources": metadata.photoshop}
        notes += [
            f"{what} ({in_words(len(block))}): {name} has no place for them"
            for what, block in blocks.items()
            if block
        ]
        metadata = replace(metadata, iptc=None, photoshop=None)
    if target.carries(Block.RESOLUTION):
        return metadata
    in_exif = exif_values.dpi_of(metadata.exif) if metadata.exif else None
    # Pillow says 72 where a JPEG says nothing.
    if metadata.dpi and metadata.dpi != (72, 72) and in_exif is None:
        across, down = metadata.dpi
        dpi = f"{across:.4g}" if across == down else f"{across:.4g} x {down:.4g}"
        notes.append(f"the resolution ({dpi} dpi): {name} has no place for it")
    return metadata


def _fitted_dpi(metadata: Metadata, target: Target) -> tuple[float, float] | None:
    """Return the resolution; where EXIF is the file's own tags, that of the EXIF counts too."""
    if metadata.dpi is None and metadata.exif and target.carries(Block.EXIF_TAGS):
        return exif_values.dpi_of(metadata.exif)
    return metadata.dpi


def _fit_texts(metadata: Metadata, target: Target, notes: list[str]) -> Metadata:
    """Return comments, texts and the other chunks of a PNG as the target stores them."""
    if target.carries(Block.CHUNKS):
        return _as_chunks(metadata, target, notes)
    if target.carries(Block.COMMENTS):
        return _as_comments(metadata, target, notes)
    name = target.format.title
    if metadata.comments:
        texts = ", ".join(repr(_decoded(comment)[:60]) for comment in metadata.comments[:3])
        notes.append(f"JPEG comment {texts}: {name} has no place for it")
    _note_chunks(metadata.chunks, name, notes)
    return replace(metadata, comments=(), chunks=())


def _as_chunks(metadata: Metadata, target: Target, notes: list[str]) -> Metadata:
    chunks: list[png_chunks.Chunk] = []
    for chunk in metadata.chunks:
        body = png_chunks.is_ready(chunk, channels=target.channels, dtype=target.dtype)
        if body is None:
            notes.append(f"PNG chunk {chunk[0]} does not fit the new pixels, and was not kept")
        else:
            chunks.append((chunk[0], body))
    chunks += [
        png_chunks.text_chunk(png_chunks.COMMENT, _decoded(comment))
        for comment in metadata.comments
    ]
    if block := photoshop.joined(metadata.iptc, metadata.photoshop):
        chunks.append(png_chunks.profile_chunk("iptc", block))
    return replace(metadata, chunks=tuple(chunks), comments=(), iptc=None, photoshop=None)


def _as_comments(metadata: Metadata, target: Target, notes: list[str]) -> Metadata:
    comments = list(metadata.comments)
    rest: list[png_chunks.Chunk] = []
    for kind, body in metadata.chunks:
        text = png_chunks.text_of(kind, body) if kind in png_chunks.TEXTS else None
        if text and text[0] == png_chunks.COMMENT:
            comments.append(text[1].encode())
        else:
            rest.append((kind, body))
    name, most_bytes = target.format.title, target.format.most(Block.COMMENTS)
    _note_chunks(rest, name, notes)
    notes += [
        f"a comment of {in_words(len(comment))} is too large for {name}, and was not kept"
        for comment in comments
        if len(comment) > most_bytes
    ]
    fitting = tuple(comment for comment in comments if len(comment) <= most_bytes)
    return replace(metadata, comments=fitting, chunks=())


def _note_chunks(chunks: Iterable[png_chunks.Chunk], name: str, notes: list[str]) -> None:
    """Note the chunks of a PNG that another format has no place for."""
    chunks = list(chunks)
    keywords = [
        body.partition(b"\0")[0].decode("latin-1") for k, body in chunks if k in png_chunks.TEXTS
    ]
    if keywords:
        notes.append(f"PNG text {listed(dict.fromkeys(keywords))}: {name} has no place for it")
    said_by_profile = ("cICP", "sRGB", "gAMA", "cHRM")
    others = [kind for kind, _ in chunks if kind not in (*png_chunks.TEXTS, *said_by_profile)]
    if others:
        notes.append(f"PNG chunk {listed(others)}: {name} has no place for it")


def _decoded(comment: bytes) -> str:
    """Return a comment as text: UTF-8, or else Latin-1."""
    comment = comment.rstrip(b"\0")
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")
