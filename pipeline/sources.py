r"""What lies at a source: a picture file, a folder, a glob, a zip or a tar archive.

What belongs here: listing files with stable ids, and reading their bytes. Not: what the bytes mean
(`images`). Everything that could be a picture is listed, so that nothing is lost in silence: a file
that turns out to be text is rejected later, with its reason. Left out are hidden names (starting
with a dot), the litter of operating systems, and what is no file (sockets, devices).

Ids are relative paths with "/", always valid UTF-8. Bytes of a name that are not UTF-8 become
``\xNN``, and a digest of the whole name keeps two such ids apart. No id ever leaves its folder:
absolute names and ".." from archives are listed under ``_refused/``, and refuse to be read.
"""

from __future__ import annotations

import atexit
import bz2
import fnmatch
import glob
import gzip
import hashlib
import lzma
import os
import re
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

from pipeline.errors import SourceError
from pipeline.member_times import tar_member_ns, zip_member_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

MAX_MEMBER_BYTES = 2 << 30
"""What one member of a zip or tar may declare; above it is taken for a decompression bomb."""

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
_REFUSED = "_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where one file lies inside an archive, found once at listing: reading seeks there directly.

    `offset` counts in the tar stream (decompressed), or is the zip's local header.
    """

    kind: str  # "zip" | "tar" | "compressed tar"
    offset: int
    stored_bytes: int
    method: int = zipfile.ZIP_STORED
    crc: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source; small and picklable.

    `item` is its stable id, `address` the path of the file, or of its archive for a `member`.
    `size_bytes` is the file's or the member's, `mtime_ns` the file's or the archive's;
    `archive_bytes` is the size of the archive. With `refused`, reading fails for that reason.
    """

    item: str
    address: str
    size_bytes: int
    mtime_ns: int
    member: Member | None = None
    archive_bytes: int = 0
    refused: str | None = None
    modified_ns: int | None = None
    """When a member was modified, if its archive knows."""

    def read(self, *, max_member_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        """Return the bytes of the file.

        Raises:
            SourceError: It vanished, is unreadable or refused, its archive changed since it was
                listed, or it is a member larger than `max_member_bytes`.
        """
        if self.refused is not None:
            raise SourceError(f"{self.item}: {self.refused}")
        try:
            if self.member is None:
                return Path(self.address).read_bytes()
            return self._read_member(self.member, max_member_bytes)
        except SourceError as error:
            raise SourceError(f"{self.item}: {error}") from None
        except (OSError, EOFError, MemoryError, ValueError, *_BROKEN) as error:
            words = _reason(error)
            raise SourceError(
                f"{self.item}: cannot be read from {_shown(self.address)} ({words}), wanted "
                f"{self.size_bytes} bytes; restore the file or ingest the source again"
            ) from error

    def _read_member(self, member: Member, max_member_bytes: int) -> bytes:
        if self.size_bytes > max_member_bytes:
            raise SourceError(
                f"declares {self.size_bytes} bytes inside its archive, wanted at most "
                f"{max_member_bytes}; unpack it and give the folder instead"
            )
        found = Path(self.address).stat()
        if (found.st_size, found.st_mtime_ns) != (self.archive_bytes, self.mtime_ns):
            raise SourceError(
                f"{_shown(self.address)} changed since it was listed; ingest the source again"
            )
        if member.kind == "compressed tar":
            data = _STREAM.read(self.address, self.mtime_ns, member.offset, self.size_bytes)
        else:
            with Path(self.address).open("rb") as file:
                data = _extract(file, member, self.size_bytes)
        if len(data) != self.size_bytes:
            raise SourceError(
                f"holds {len(data)} bytes, its archive declares {self.size_bytes}; "
                f"the archive is damaged"
            )
        return data


def list_source(src: str) -> list[SourceFile]:
    """Return every file at `src`, sorted by item, each item once; the same files, the same list.

    `src` is a file (its item is its name), a folder of any depth, a glob with ``**`` (items are
    relative to the part before the first wildcard; folders that match are listed whole), or a
    .zip, .tar, .tar.gz, .tar.bz2, .tar.xz file. A path that exists is never taken for a glob.
    Zarr stores and jobs of upres below `src` are left out: a job may lie beside its pictures.
    Symbolic links to files are followed, wherever they lead; links to folders below `src` are not,
    so that there are no loops.

    Raises:
        SourceError: There is nothing at `src`, nothing in it, or it cannot be listed.
    """
    if not src:
        raise SourceError("the source is empty, wanted a file, folder or glob")
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", src):
        raise SourceError(
            f"{_shown(src)} is a {scheme[0]} address, wanted a path; copy it into a local folder"
        )
    try:
        # An address must mean the same file in every working directory, a worker's too.
        # Not resolve(): the name of a link is the name that the user chose.
        found = _list(os.path.abspath(src))  # noqa: PTH100
    except SourceError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte.
        raise SourceError(f"{_shown(src)} cannot be listed ({_reason(error)})") from error
    if not found:
        raise SourceError(f"{_shown(src)} holds no files, wanted at least one; is the path right?")
    return _unique(found)


def check_source(src: str) -> None:
    """Make sure that something lies at `src`, without listing it.

    Raises:
        SourceError: There is nothing, and it is no glob.
    """
    if not os.path.lexists(src) and not glob.has_magic(src):
        list_source(src)


def check_same_source(src: str, items: Iterable[str], before: Collection[str]) -> None:
    """Refuse a source that holds none of the items of `before`: a disk may not be mounted.

    Raises:
        SourceError: then; for else all of them would count as gone.
    """
    if before and set(before).isdisjoint(items):
        raise SourceError(
            f"{src} holds none of the {len(before)} pictures that came from it before, such as "
            f"{min(before)}; is it the right folder, and mounted? for other pictures use another "
            "job, archive or dataset"
        )


def _list(src: str) -> Iterable[SourceFile]:
    path = Path(src)
    if path.is_dir():
        return list(_walk(src, ""))
    if path.is_file():
        name = path.name.lower()
        if name.endswith(".zip"):
            return _list_zip(path)
        if name.endswith(_TAR):
            return _list_tar(path)
        return [_listed(src, path.name)]
    if path.exists():
        raise SourceError(f"{_shown(src)} is no file and no folder; give one of these")
    if glob.has_magic(src):
        return _list_glob(src)
    raise SourceError(
        f"{_shown(src)} does not exist, wanted a file, folder or glob; check the path"
    )


def _unique(found: Iterable[SourceFile]) -> list[SourceFile]:
    """Sort, and keep the last of equal items, as tar does; a refused one never hides another."""
    files: dict[str, SourceFile] = {}
    for file in found:
        if file.refused is None or file.item not in files:
            files[file.item] = file
    return [files[item] for item in sorted(files)]


# Names


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _LITTER


def _item(relative: str) -> str:
    """Return the id of a relative path, which may hold undecodable bytes as surrogates."""
    raw = relative.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        path = PurePosixPath(raw.decode("utf-8", "backslashreplace"))
        digest = hashlib.sha256(raw).hexdigest()[:8]
        return str(path.with_name(f"{path.stem}~{digest}{path.suffix}"))


def _shown(path: str) -> str:
    """Return a path for an error: one line, valid UTF-8."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


# Folders and globs


def _listed(path: str, relative: str) -> SourceFile:
    """Return the entry of one path; a link that leads nowhere is listed, and refuses to be read."""
    try:
        found = Path(path).stat()
    except OSError as error:
        return _refuse(path, relative, f"cannot be opened ({_reason(error)}); restore or remove it")
    return SourceFile(
        item=_item(relative),
        address=path,
        size_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
    )


def _refuse(path: str, relative: str, why: str) -> SourceFile:
    return SourceFile(item=_item(relative), address=path, size_bytes=0, mtime_ns=0, refused=why)


def _unlisted(folder: str, relative: str, error: OSError) -> SourceFile:
    """Return a folder that cannot be listed as an item that fails; at the root there is no item."""
    if not relative:
        raise error
    why = f"cannot be listed ({_reason(error)}), so what it holds is missing; grant access to it"
    return _refuse(folder, relative.rstrip("/"), why)


def _walk(folder: str, relative: str) -> Iterator[SourceFile]:
    """Yield the files at any depth below; `relative` is "" or the folder's id with a slash."""
    waiting = [(folder, relative)]
    while waiting:
        folder, relative = waiting.pop()
        try:
            entries = _entries(folder)
        except OSError as error:
            yield _unlisted(folder, relative, error)
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if _is_ours(entry.path):
                    continue
                waiting.append((entry.path, f"{relative}{entry.name}/"))
            elif _is_file(entry):
                yield _listed(entry.path, relative + entry.name)


def _is_ours(folder: str) -> bool:
    """Tell whether a folder is a Zarr store or a job: what lies in these is no source picture."""
    names = ("zarr.json", ".zgroup", ".zarray")
    if any(os.path.isfile(os.path.join(folder, name)) for name in names):  # noqa: PTH113, PTH118
        return True
    return all(os.path.isfile(os.path.join(folder, name)) for name in ("job.json", "lock"))  # noqa: PTH113, PTH118


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if _wanted(entry.name)]


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether to list an entry: a file, a link to one, or a link that leads nowhere."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:  # A link to itself, which no path resolves.
        return True


def _list_glob(pattern: str) -> list[SourceFile]:
    parts = Path(pattern).parts
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    if not base.is_dir():
        raise SourceError(
            f"{_shown(str(base))} is no folder, wanted one that {_shown(pattern)} is in"
        )
    found = list(_match(str(base), "", parts[fixed:]))
    if not found:
        raise SourceError(f"{_shown(pattern)} matches no file; check it, or quote it for the shell")
    return found


def _match(folder: str, relative: str, parts: tuple[str, ...]) -> Iterator[SourceFile]:
    """Yield what the parts of a pattern match below a folder; ``**`` is any depth, none included.

    The same file may come more than once.
    """
    part, rest = parts[0], parts[1:]
    deep = part == "**"
    if deep and not rest:
        yield from _walk(folder, relative)
        return
    if deep:
        yield from _match(folder, relative, rest)
    try:
        entries = _entries(folder)
    except OSError as error:
        yield _unlisted(folder, relative, error)
        return
    for entry in entries:
        name = relative + entry.name
        if entry.is_dir(follow_symlinks=False):
            if deep:
                yield from _match(entry.path, f"{name}/", parts)
            elif fnmatch.fnmatchcase(entry.name, part):
                yield from _match(entry.path, f"{name}/", rest or ("**",))
        elif not deep and not rest and fnmatch.fnmatchcase(entry.name, part) and _is_file(entry):
            yield _listed(entry.path, name)


# Archives


def _member_item(name: str, address: str) -> tuple[str, str | None] | None:
    """Return (id, why it is refused or None) of a member's name; None for names left out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # Backslashes separate on Windows, where the archive or its items may go.
    rooted = name.startswith("/") or re.match(r"\\|[A-Za-z]:", "/".join(parts))
    escapes = rooted or ".." in re.split(r"[/\\]", name)
    kept = [re.sub(r"\.\.|[:\\]", "_", part) for part in parts] if escapes else parts
    if not kept or not all(_wanted(part) for part in kept):
        return None
    if not escapes:
        return _item("/".join(parts)), None
    why = (
        f"is named {_shown(name)} in {_shown(address)}, wanted a path inside it; unpack it by hand"
    )
    return _item("/".join([_REFUSED, *kept])), why


def _list_zip(path: Path) -> list[SourceFile]:
    """List by the central directory; later members replace earlier ones of the same name."""
    facts = path.stat()
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, MemoryError) as error:
        raise SourceError(
            f"{_shown(str(path))} is no whole zip archive ({_reason(error)}); make it again"
        ) from error
    listed = []
    for info in infos:
        # Some tools for Windows write the wrong separator.
        if found := _member_item(info.filename.replace("\\", "/"), str(path)):
            file = SourceFile(
                item=found[0],
                address=str(path),
                size_bytes=info.file_size,
                mtime_ns=facts.st_mtime_ns,
                member=_zip_member(info),
                archive_bytes=facts.st_size,
                refused=found[1] or _zip_refusal(info),
                modified_ns=zip_member_ns(info),
            )
            listed.append(file)
    return listed


def _zip_member(info: zipfile.ZipInfo) -> Member:
    return Member(
        kind="zip",
        offset=info.header_offset,
        stored_bytes=info.compress_size,
        method=info.compress_type,
        crc=info.CRC,
    )


def _zip_refusal(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 0x1:
        return "is encrypted inside its zip archive, wanted plain; unpack it with its password"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a symbolic link inside its archive; unpack it and give the folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        return (
            f"is compressed by zip method {info.compress_type}, wanted stored, deflate or bzip2; "
            f"unpack it and give the folder"
        )
    return None


def _list_tar(path: Path) -> list[SourceFile]:
    """List in one pass over the archive; hard links are resolved to the bytes of their target."""
    facts = path.stat()
    listed: list[SourceFile] = []
    try:
        with _open_tar(str(path)) as (stream, kind):
            files: dict[str, SourceFile] = {}
            for info in _tar_infos(stream):
                file = _tar_file(info, str(path), facts, kind, files)
                if file is not None:
                    files[info.name] = file
                if file is not None and (found := _member_item(info.name, str(path))):
                    refused = found[1] or file.refused
                    listed.append(replace(file, item=found[0], refused=refused))
    except (tarfile.TarError, EOFError, OSError, MemoryError, ValueError, *_BROKEN) as error:
        raise SourceError(
            f"{_shown(str(path))} is no whole tar archive ({_reason(error)}); make it again"
        ) from error
    return listed


_BROKEN = (zlib.error, lzma.LZMAError, struct.error)


@contextmanager
def _open_tar(path: str) -> Iterator[tuple[BinaryIO, str]]:
    """Yield (the tar stream, decompressed, and its kind of `Member`), told by its first bytes."""
    with Path(path).open("rb") as file:
        head = file.read(6)
        file.seek(0)
        unpack = next((u for magic, u in _UNPACKERS.items() if head.startswith(magic)), None)
        if unpack is None:
            yield file, "tar"
            return
        with unpack(file) as stream:
            yield stream, "compressed tar"


_UNPACKERS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda file: cast("BinaryIO", gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast("BinaryIO", bz2.BZ2File(file)),
    b"\xfd7zXZ\0": lambda file: cast("BinaryIO", lzma.LZMAFile(file)),  # noqa: SIM115
}


def _tar_infos(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield every member; a damaged header is an error, where tarfile takes it for the end."""
    last = None
    with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as archive:
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
    info: tarfile.TarInfo,
    address: str,
    facts: os.stat_result,
    kind: str,
    files: dict[str, SourceFile],
) -> SourceFile | None:
    """Return one member, without its item; None for folders and devices."""
    refused = None
    if info.issym():
        refused = "is a symbolic link inside its archive; unpack it and give the folder"
    elif info.islnk():
        if info.linkname in files:
            return files[info.linkname]
        refused = f"is a link to {_shown(info.linkname)}, which is not before it in its archive"
    elif info.isreg() and info.issparse():
        refused = "is a sparse file inside its archive; unpack it and give the folder"
    elif not info.isreg():
        return None
    return SourceFile(
        item="",
        address=address,
        size_bytes=info.size,
        mtime_ns=facts.st_mtime_ns,
        member=Member(kind=kind, offset=info.offset_data, stored_bytes=info.size),
        archive_bytes=facts.st_size,
        refused=refused,
        modified_ns=tar_member_ns(info),
    )


def _extract(file: BinaryIO, member: Member, size_bytes: int) -> bytes:
    """Return a member's bytes, at most one more than declared, its checksum verified."""
    file.seek(member.offset)
    if member.kind == "tar":
        return _read_up_to(file, size_bytes)
    header = file.read(30)
    if not header.startswith(b"PK\3\4"):
        raise ValueError(f"no member starts at byte {member.offset}; the archive is damaged")
    file.seek(sum(struct.unpack_from("<HH", header, 26)), os.SEEK_CUR)
    stored = _read_up_to(file, member.stored_bytes)
    data = _decompress(stored, member.method, size_bytes + 1)
    if zlib.crc32(data) != member.crc:
        raise ValueError("the checksum differs; the archive is damaged")
    return data


def _read_up_to(file: BinaryIO, size_bytes: int) -> bytes:
    """Read as `read` does, but without making room first for bytes that the file cannot have."""
    rest = os.fstat(file.fileno()).st_size - file.tell()
    return file.read(max(0, min(size_bytes, rest)))


def _decompress(stored: bytes, method: int, most_bytes: int) -> bytes:
    if method == zipfile.ZIP_STORED:
        return stored[:most_bytes]
    if method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(stored, most_bytes)
    return zlib.decompressobj(-15).decompress(stored, most_bytes)


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
                return self._stream.read(size_bytes)
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
