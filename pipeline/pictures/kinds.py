"""What becomes of a file, by its name and its first bytes: it is listed, or left out.

What belongs here: the names of litter, sidecars and formats. Not: what bytes are (`signatures`),
nor reading files (`sources`).

A file is left out only where its name or its content says that it is not a picture; whatever could
be one is listed, and fails with its reason. What is left out is counted under one of the reasons
below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.pictures.formats import EXTENSIONS, READ, recognised
from pipeline.pictures.signatures import (
    described,
    is_text,
    other,
    packed,
    strange_picture,
    weak_picture,
)

LITTER = "litter"
"""What systems and network storage leave in folders: thumbnails, bins, snapshots."""
HIDDEN = "hidden"
SIDECARS = "sidecars"
"""What programs write about pictures."""
NOT_PICTURES = "not_pictures"
"""Films, sound, documents, texts, programs."""
OURS = "of_upres"
"""Jobs, archives, datasets, trainings, and the files that are beside them."""
REPEATED = "repeated_folders"
"""Folders that are listed already under another name."""
SPECIAL = "special"
"""Sockets, pipes and devices."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a file.

    It is left out and counted under (`why`, `label`), or, with `unread`, is listed and fails for
    that reason; without either it is listed and read.
    """

    why: str = ""
    label: str = ""
    unread: str = ""


LISTED = Verdict()

# Names

_LITTER = {
    name.lower(): name
    for name in (
        # Network storage: Synology, QNAP, NetApp, Netatalk.
        *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", ".@__thumb"),
        *("@tmp", "@sharebin", "@sharesnap", "~snapshot", ".snapshot", ".zfs", ".streams"),
        *(".AppleDouble", ".AppleDB", ".AppleDesktop", "Network Trash Folder", "Temporary Items"),
        "TheVolumeSettingsFolder",
        # Windows.
        *("$RECYCLE.BIN", "RECYCLER", "System Volume Information", "desktop.ini", "Thumbs.db"),
        *("Thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db"),
        # macOS.
        *(".DS_Store", "__MACOSX", "Icon\r", ".Spotlight-V100", ".fseventsd", ".Trashes"),
        *(".TemporaryItems", ".DocumentRevisions-V100", ".apdisk", ".localized"),
        # Linux and picture programs.
        *("lost+found", ".Trash", ".thumbnails", ".directory", ".nomedia", ".xvpics"),
        *("Picasa.ini", ".picasa.ini", ".picasaoriginals", "ZbThumbnail.info", "pspbrwse.jbf"),
    )
}
_LITTER_BY_PATTERN = (
    (re.compile(r"\._."), "._"),
    (re.compile(r"\.trash-\d+$", re.IGNORECASE), ".Trash"),
    (re.compile(r".*@syno(eastream|resource)$", re.IGNORECASE), "@SynoEAStream"),
    (re.compile(r"\.(nfs|fuse_hidden|smbdelete)[0-9a-f]{4}", re.IGNORECASE), ".nfs"),
    (
        re.compile(r"~\$.+\.(doc|dot|xls|ppt|pps|pub|vsd|rtf)\w?$|\.~lock\..*#$", re.IGNORECASE),
        "locks of office programs",
    ),
    (re.compile(r".*\.lrdata$", re.IGNORECASE), ".lrdata"),
)


def litter(name: str) -> Verdict | None:
    """Return why a file or folder of this name is left out wherever it is; None if it is not."""
    low = name.lower()
    known = _LITTER.get(low)
    if known is None and (low[0] in ".~" or low.endswith((".lrdata", "stream", "resource"))):
        known = next((label for of, label in _LITTER_BY_PATTERN if of.match(name)), None)
    if known is not None:
        return Verdict(LITTER, known.strip())
    return Verdict(HIDDEN, name) if low[0] == "." else None


def awaited(name: str) -> str | None:
    """Return the name of the file that iCloud keeps elsewhere and `name` stands for, else None."""
    found = re.fullmatch(r"\.(.+)\.icloud", name) if name.startswith(".") else None
    return found[1] if found else None


def extension(name: str) -> str:
    """Return the extension of a name in lower case, with its dot; "" where there is none."""
    stem, _, end = name.rpartition(".")
    return f".{end.lower()}" if stem and end else ""


def _ends(text: str) -> frozenset[str]:
    return frozenset(f".{end}" for end in text.split())


def _by_end(table: dict[str, str]) -> dict[str, str]:
    """Return what files are by their extensions, of words and the extensions that they are for."""
    ends = {end: words for words, text in table.items() for end in _ends(text)}
    return {end: words for end, words in ends.items() if end not in EXTENSIONS}


_PICTURES = _by_end(
    {
        "a HEIF picture": "heic heif hif heics heifs",
        "an AVIF picture": "avif avifs",
        "a GIF": "gif",
        "a BMP": "bmp dib rle",
        "a Photoshop document": "psd psb",
        "a GIMP picture": "xcf",
        "a layered drawing": "kra ora afphoto afdesign clip sai procreate pdn",
        "an Illustrator drawing": "ai",
        "an EPS drawing": "eps epsf",
        "a vector drawing": "svg svgz cdr wmf emf",
        "an icon": "ico cur icns",
        "a TGA": "tga vda icb vst",
        "a DDS texture": "dds ktx ktx2",
        "a JPEG 2000": "jp2 j2k jpx jpf jpc j2c jpm",
        "a JPEG XL": "jxl",
        "a JPEG XR": "jxr wdp hdp",
        "a JPEG-LS": "jls",
        "an OpenEXR": "exr",
        "a Radiance picture": "hdr rgbe pic",
        "a Netpbm picture": "pnm pbm pgm ppm pam pfm",
        "a PCX": "pcx dcx",
        "a QOI": "qoi",
        "an X bitmap": "xbm xpm xwd",
        "an SGI picture": "sgi bw rgb rgba",
        "a Sun raster": "ras",
        "a PICT": "pict pct",
        "a FLIF, BPG or MNG": "flif bpg mng jng",
        "a DICOM or FITS picture": "dcm dicom fits fit fts",
        "a microscope's picture": "czi nd2 lif oib oif vsi mrxs",
        "a camera raw": "dng nef nrw cr2 cr3 crw arw srf sr2 orf rw2 raf pef dcr kdc mrw x3f 3fr "
        "fff iiq mos erf mef rwl srw raw gpr",
    }
)
_PACKED = _by_end(
    {
        "a zip archive": "zip cbz zipx",
        "a tar archive": "tar cbt tgz tbz tbz2 txz",
        "a RAR archive": "rar cbr",
        "a 7z archive": "7z cb7",
        "a packed file": "gz bz2 xz zst tzst lz lz4 lzma z ace cba lzh lha arj cab sit sitx",
        "a disk image": "iso img dmg vhd vhdx vmdk nrg",
    }
)
_BLIND = _ends("thm lrprev cot cop ithmb")
"""Sidecars that hold a small picture of another file: never looked into."""
_SIDECARS = _ends(
    "xmp json txt pp3 aae xml nfo md csv tsv html htm ini db db3 url webloc lnk log yaml yml toml "
    "dop on1 nksc vrd dr4 cos comask arp acr rwz lrcat lrcat-data lrtemplate gpx kml kmz geojson "
    "icc icm cube par2 sfv md5 sha1 sha256 sqlite sqlite3 tfw jgw pgw wld prj ctg "
    "bdm cpi mpl tdt tid ind pod bnp plist bib ris xlog ffs_db"
)
_OTHERS = _ends(
    "mp4 m4v mov qt avi mkv webm wmv asf flv f4v 3gp 3g2 mpg mpeg mpe m2v vob mts m2ts mxf ogv "
    "insv lrv rmvb divx dv mod tod braw r3d "
    "mp3 wav flac ogg oga opus m4a m4b aac wma aif aiff amr mid midi "
    "pdf djvu doc docx docm dot dotx xls xlsx xlsm ppt pptx pps ppsx odt ods odp odg rtf epub "
    "mobi azw azw3 pages numbers key pub indd idml qxd eml msg mbox ics vcf tex ps vsd vsdx "
    "exe msi dll so dylib apk app bat cmd sh ps1 py pyc js css php class jar wasm swf "
    "ttf otf ttc woff woff2 eot safetensors pth pt onnx npy npz h5 hdf5 parquet "
    "torrent srt vtt ass"
)

# Verdicts


def called(name: str) -> str:
    """Return what a file is by its name, such as "a TGA", if upres does not read it; else ""."""
    return _PICTURES.get(extension(name), "")


def is_readable_name(name: str) -> bool:
    """Tell whether a name promises a picture that upres reads: listed without a look at it."""
    return extension(name) in EXTENSIONS


def says_what_it_is(name: str) -> bool:
    """Tell whether a file is what its name promises, unless the name lies: no look is needed."""
    end = extension(name)
    return end in EXTENSIONS or end in _BLIND or _by_name(end) is not None


def verdict(name: str, head: bytes | None) -> Verdict:
    """Return what becomes of a file with this name and these first bytes (None: unreadable).

    A picture is listed whatever it is called. Others go by their names first, then by content.
    """
    end = extension(name)
    if end in EXTENSIONS:
        return LISTED
    if end in _BLIND:
        return Verdict(SIDECARS, end)
    if head is None:
        return _by_name(end) or LISTED
    if recognised(head):
        return LISTED
    if strange_picture(head) or end in _PICTURES:
        return Verdict(unread=unreadable(name, head))
    return _by_name(end) or _by_content(name, head)


def _by_name(end: str) -> Verdict | None:
    if end in _SIDECARS:
        return Verdict(SIDECARS, end)
    return Verdict(NOT_PICTURES, end) if end in _OTHERS else None


def _by_content(name: str, head: bytes) -> Verdict:
    end = extension(name)
    if end == ".lock" and head.lstrip().startswith(b"upres "):
        return Verdict(OURS, end)
    is_packed = bool(packed(head)) or end in _PACKED
    if not head or is_packed or weak_picture(head) or not (other(head) or is_text(head)):
        return Verdict(unread=unreadable(name, head))
    return Verdict(NOT_PICTURES, end or "no extension")


def unreadable(name: str, head: bytes) -> str:
    """Return why a file is not read, what is, and the next step."""
    archive = packed(head) or _PACKED.get(extension(name), "")
    if called(name) or strange_picture(head) or weak_picture(head):
        words, step = described(head, called=called(name)), "convert it first"
    elif archive in ("a zip archive", "a tar archive"):
        words, step = f"the file is {archive}", "give it as the source itself, or unpack it"
    elif archive:
        words, step = f"the file is {archive}", "unpack it and give the folder"
    else:
        words, step = described(head), "restore it, or keep it elsewhere"
    return f"{words}, expected {READ}; {step}"


_BESIDE = re.compile(r"(.+\.)?ledger\.sqlite(-wal|-shm|-journal)?$")


def is_of_upres(name: str) -> bool:
    """Tell whether a file is named as what upres keeps beside archives and datasets."""
    return _BESIDE.match(name) is not None or name.lower().endswith(
        (".zarr.lock", ".zarr.preview.png")
    )


_STORE = ("zarr.json", ".zgroup", ".zarray")


def is_folder_of_upres(files: set[str]) -> bool:
    """Tell by the names in it whether a folder is a Zarr store, a job or a training.

    What holds pictures too is neither a store nor a training, but a folder of pictures. Of a job
    it may be what was exported into it.
    """
    if {"job.json", "lock"} <= files:
        return True
    like = not files.isdisjoint(_STORE) or {"recipe.toml", "metrics.csv", "curves.png"} <= files
    return like and not any(map(is_readable_name, files - {"curves.png"}))
