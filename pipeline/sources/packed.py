"""Files inside a zip or a tar: what they are called, where they are, and their bytes.

What belongs here: the two containers. Not: which of their files are pictures (`kinds`), nor the ids
that these get (`item_names`).
"""

from __future__ import annotations

import atexit
import bz2
import gzip
import lzma
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from pipeline.errors import SourceError
from pipeline.pictures.signatures import HEAD_BYTES, packed
from pipeline.sources.member_times import tar_member_ns, zip_member_ns
from pipeline.sources.zip_methods import METHODS, decompressed
from pipeline.storage.spool import read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.sources.zip_names import ZipNames

ZIP, TAR = "zip", "tar"
_TAR = (".tar", ".cbt", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
_ZIP = (".zip", ".cbz")
_IS_LINK = "is a symbolic link inside its archive; unpack it and give the folder"
BROKEN = (zlib.error, lzma.LZMAError, struct.error)
"""What decompressors raise on damaged bytes besides OSError, EOFError and ValueError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where one file is inside an archive, found once at listing: reading seeks there directly.

    `offset` counts in the tar stream (decompressed), or is the zip's local header.
    """

    kind: str  # "zip" | "tar" | "compressed tar"
    offset: int
    stored_bytes: int
    method: int = zipfile.ZIP_STORED
    crc: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One file of an archive: its name there, with slashes, and why it cannot be read, or None.

    `modified_ns` is when it was modified, in ns since 1970, if the archive knows.
    `look` returns its first bytes, while the archive is being listed; None where that costs much.
    """

    name: str
    size_bytes: int
    member: Member
    refused: str | None
    modified_ns: int | None
    look: Callable[[], bytes | None]


@dataclass(frozen=True, slots=True)
class Container:
    """The zip or tar archive at `path`."""

    kind: str
    path: Path

    def files(self, names: ZipNames) -> Iterator[Packed]:
        """Yield its files in its own order; `names` says how their names are encoded.

        Raises:
            SourceError: It is damaged or cut short.
        """
        listing = _list_zip if self.kind == ZIP else _list_tar
        try:
            yield from listing(self.path, names)
        except SourceError:
            raise
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, *_UNFIT) as error:
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise SourceError(
                f"is not a whole {self.kind} archive ({words}); make it again"
            ) from error

    def read(self, member: Member, size_bytes: int, mtime_ns: int) -> bytes:
        """Return a member's bytes, at most one more than declared, a zip's checksum verified."""
        if member.kind == "compressed tar":
            return _STREAM.read(str(self.path), mtime_ns, member.offset, size_bytes)
        with self.path.open("rb") as file:
            return _extract(file, member, size_bytes)


_UNFIT = (MemoryError, ValueError, NotImplementedError, *BROKEN)


def container_at(path: Path, head: bytes) -> Container | None:
    """Return the zip or tar at a path, by its first bytes, else by its name; None for others.

    Raises:
        SourceError: It is an archive of a kind that upres does not read.
    """
    name, found = path.name.lower(), packed(head)
    if found in ("a RAR archive", "a 7z archive", "zstd data"):
        raise SourceError(
            f"is {found}, expected a folder, zip or tar; unpack it and give the folder"
        )
    if found == "a zip archive" or (name.endswith(_ZIP) and found != "a tar archive"):
        return Container(ZIP, path)
    if found == "a tar archive" or name.endswith(_TAR):
        return Container(TAR, path)
    return None


# Zip


def _list_zip(path: Path, names: ZipNames) -> Iterator[Packed]:
    """List by the central directory."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        named = names.of(infos)
        for info in infos:
            member = Member(
                kind=ZIP,
                offset=info.header_offset,
                stored_bytes=info.compress_size,
                method=info.compress_type,
                crc=info.CRC,
            )
            name = named(info)
            if name.endswith("/") and not info.file_size:
                continue  # A folder, by a tool that writes the wrong separator.
            yield Packed(
                name=name,
                size_bytes=info.file_size,
                member=member,
                refused=_zip_refusal(info),
                modified_ns=zip_member_ns(info),
                look=partial(_zip_head, file, member),
            )


def _zip_refusal(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 0x1:
        return "is encrypted inside its zip archive, expected plain; unpack it with its password"
    if stat.S_ISLNK(info.external_attr >> 16):
        return _IS_LINK
    if info.compress_type not in METHODS:
        return (
            f"is compressed by zip method {info.compress_type}, expected stored, deflate or bzip2; "
            f"unpack it and give the folder"
        )
    return None


_HEAD_STORED_BYTES = {zipfile.ZIP_BZIP2: 2 << 20}
"""How much is unpacked for a look, where 4 KiB are not enough: bzip2 packs large blocks."""


def _zip_head(file: BinaryIO, member: Member) -> bytes | None:
    """Return a member's first bytes, None where it is damaged: reading it will say so."""
    most = min(member.stored_bytes, _HEAD_STORED_BYTES.get(member.method, 4096))
    try:
        return decompressed(_stored(file, member, most), member.method, HEAD_BYTES)
    except (OSError, EOFError, ValueError, *BROKEN):
        return None


def _stored(file: BinaryIO, member: Member, most_bytes: int) -> bytes:
    file.seek(member.offset)
    header = file.read(30)
    if not header.startswith(b"PK\3\4"):
        raise ValueError(f"no member starts at byte {member.offset}; the archive is damaged")
    file.seek(sum(struct.unpack_from("<HH", header, 26)), os.SEEK_CUR)
    return _read_up_to(file, most_bytes)


# Tar


def _list_tar(path: Path, names: ZipNames) -> Iterator[Packed]:
    """List in one pass over the archive; hard links are resolved to the bytes of their target."""
    with _open_tar(str(path)) as (stream, kind):
        files: dict[str, Packed] = {}
        for info in _tar_infos(stream, names.encoding or "utf-8"):
            file = _tar_file(info, kind, files, stream)
            if file is not None:
                files[info.name] = file
                yield replace(file, name=info.name)


@contextmanager
def _open_tar(path: str) -> Iterator[tuple[BinaryIO, str]]:
    """Yield (the tar stream, decompressed, and its kind of `Member`), known by its first bytes."""
    with Path(path).open("rb") as file:
        head = file.read(6)
        file.seek(0)
        unpack = next((u for magic, u in _UNPACKERS.items() if head.startswith(magic)), None)
        if unpack is None:
            yield file, TAR
            return
        with unpack(file) as stream:
            yield stream, "compressed tar"


_UNPACKERS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda file: cast("BinaryIO", gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast("BinaryIO", bz2.BZ2File(file)),
    b"\xfd7zXZ\0": lambda file: cast("BinaryIO", lzma.LZMAFile(file)),  # noqa: SIM115
}


def _tar_infos(stream: BinaryIO, encoding: str) -> Iterator[tarfile.TarInfo]:
    """Yield every member; a damaged header is an error, where tarfile takes it for the end."""
    last = None
    # Not the locale's encoding: ids must not depend on where the command is given.
    with tarfile.open(
        fileobj=stream, mode="r:", encoding=encoding, errors="surrogateescape"
    ) as archive:
        for last in archive:
            yield last
    if last is None or last.issparse():
        return
    stored = last.size if last.isreg() else 0
    end = last.offset_data + -(-stored // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    stream.seek(end)
    block = stream.read(tarfile.BLOCKSIZE)
    if any(block) or stream.tell() < end:
        raise EOFError(f"damaged or cut short at byte {end}")


def _tar_file(
    info: tarfile.TarInfo, kind: str, files: dict[str, Packed], stream: BinaryIO
) -> Packed | None:
    """Return one member; None for folders and devices."""
    refused = None
    if info.issym():
        refused = _IS_LINK
    elif info.islnk():
        if info.linkname in files:
            return replace(files[info.linkname], look=lambda: None)
        refused = f"is a link to {info.linkname!a}, which is not before it in its archive"
    elif info.isreg() and info.issparse():
        refused = "is a sparse file inside its archive; unpack it and give the folder"
    elif not info.isreg():
        return None
    offset, size = info.offset_data, info.size

    def look() -> bytes:
        stream.seek(offset)
        return stream.read(min(HEAD_BYTES, size))

    member = Member(kind=kind, offset=offset, stored_bytes=size)
    return Packed(
        name="",
        size_bytes=size,
        member=member,
        refused=refused,
        modified_ns=tar_member_ns(info),
        look=look,
    )


# Bytes


def _extract(file: BinaryIO, member: Member, size_bytes: int) -> bytes:
    if member.kind == TAR:
        file.seek(member.offset)
        return _read_up_to(file, size_bytes)
    stored = _stored(file, member, member.stored_bytes)
    data = decompressed(stored, member.method, size_bytes + 1)
    if zlib.crc32(data) != member.crc:
        raise ValueError("the checksum differs; the archive is damaged")
    return data


def _read_up_to(file: BinaryIO, size_bytes: int) -> bytes:
    """Read as `read` does, but without making room first for bytes that the file cannot have."""
    rest = os.fstat(file.fileno()).st_size - file.tell()
    return read_bytes(file, max(0, min(size_bytes, rest)))


class _Stream:
    """The compressed tar that was read last, kept open so that reading goes on forward.

    Threads take turns. A forked process opens its own, since file positions are shared by a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[str, int, int] | None = None
        self._open = ExitStack()
        self._stream: BinaryIO | None = None

    def read(self, path: str, mtime_ns: int, offset: int, size_bytes: int) -> bytes:
        """Return up to `size_bytes` bytes at `offset` of the decompressed stream."""
        key = (path, mtime_ns, os.getpid())
        with self._lock:
            if self._key != key or self._stream is None:
                self._close()
                self._stream, _ = self._open.enter_context(_open_tar(path))
                self._key = key
            try:
                self._stream.seek(offset)
                return read_bytes(self._stream, size_bytes)
            except BaseException:
                # A decompressor that failed once is in no state to go on.
                self._close()
                raise

    def close(self) -> None:
        """Close the file, if one is open; the next read opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._key = self._stream = None
        self._open.close()


_STREAM = _Stream()
atexit.register(_STREAM.close)
