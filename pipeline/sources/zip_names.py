"""How the files of a zip are called: an old format, whose names often do not say their encoding.

In this order: the Unicode path field (0x7075 of Info-ZIP's appnote) where its checksum is that of
the name, the UTF-8 flag (bit 11), the encoding that the user names, UTF-8 where all names that say
nothing are UTF-8 (as macOS writes them), and CP437, which the format prescribes.
"""

from __future__ import annotations

import codecs
import difflib
import encodings.aliases
import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from zipfile import ZipInfo

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075
_PRESCRIBED = "cp437"
_BACKSLASH = re.compile(r"\\")
_PLAIN = "/ -._0123456789ABCXYZabcxyz"
_NOT_OF_NAMES = frozenset(("idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined"))


@dataclass(slots=True)
class ZipNames:
    """Reads the names of archives; `encoding` is for those that do not say theirs, "" if unknown.

    `guessed` and `unfit` collect names that had to be read as CP437, and those that are not in the
    encoding: for a remark to the user.
    """

    encoding: str = ""
    guessed: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse an encoding that there is not."""
        if self.encoding:
            check_encoding(self.encoding)

    def of(self, infos: Sequence[ZipInfo]) -> Callable[[ZipInfo], str]:
        """Return what turns a member of this zip into its name, with slashes."""
        silent = [_raw(info) for info in infos if _declared(info) is None]
        encoding = self.encoding or ("utf-8" if all(map(_is_utf8, silent)) else _PRESCRIBED)
        is_guess = not self.encoding and encoding == _PRESCRIBED
        separator = _separator(silent) if is_guess else _BACKSLASH

        def named(info: ZipInfo) -> str:
            # Some tools for Windows write the wrong separator. It is turned last: in many encodings
            # the second byte of a letter may be a backslash.
            name = _declared(info)
            if name is not None:
                return _BACKSLASH.sub("/", name.split("\0")[0])
            name = self._decoded(_raw(info), encoding).split("\0")[0]
            if is_guess and not name.isascii():
                self.guessed.append(name)
            return separator.sub("/", name)

        return named

    def notes(self) -> Iterator[str]:
        """Yield what the user should know about the names."""
        if self.guessed:
            yield (
                f"file names without an encoding, read as CP437: {len(self.guessed)}, such as "
                f"{self.guessed[0]!r}; if they look wrong, name the encoding with --names, such as "
                "cp932 (Japanese), gbk, big5, euc_kr or cp866"
            )
        if self.unfit:
            yield (
                f"file names that are not {self.encoding}: {len(self.unfit)}, such as "
                f"{self.unfit[0]!a}; is --names right?"
            )

    def _decoded(self, raw: bytes, encoding: str) -> str:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            name = raw.decode("utf-8", "surrogateescape")
            self.unfit.append(name)
            return name


def check_encoding(name: str) -> None:
    """Make sure that file names can be in an encoding.

    Raises:
        UsageError: There is no such encoding, or ASCII is not a part of it.
    """
    if not _fits(name):
        asked = name.lower().replace("-", "_")
        near = difflib.get_close_matches(asked, filter(_fits, _known()), n=4, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "such as cp932, gbk or euc_kr"
        raise UsageError(f"--names is {name!r}, expected an encoding of file names; {hint}")


def _fits(name: str) -> bool:
    try:
        known = codecs.lookup(name).name.replace("_", "-")
        return known not in _NOT_OF_NAMES and _PLAIN.encode().decode(name) == _PLAIN
    except (LookupError, ValueError):
        return False


def _known() -> list[str]:
    aliases = encodings.aliases.aliases
    return sorted({*aliases.keys(), *aliases.values()})


def _separator(raws: Sequence[bytes]) -> re.Pattern[str]:
    """Return which backslashes separate folders in names whose encoding is not known.

    One behind a plain letter does. One behind any other may be the second byte of a letter, unless
    the archive separates by backslashes only.
    """
    separates = any(re.search(rb"[\x20-\x7e]\\", raw) for raw in raws)
    if separates and not any(b"/" in raw for raw in raws):
        return _BACKSLASH
    return re.compile(r"(?<=[\x20-\x7e])\\")


def _raw(info: ZipInfo) -> bytes:
    """Return the bytes that the name is, which Python has decoded already."""
    name = info.orig_filename
    return name.encode("utf-8" if info.flag_bits & _UTF8_FLAG else "cp437")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _declared(info: ZipInfo) -> str | None:
    """Return the name where the archive says its encoding."""
    raw = _raw(info)
    field = _unicode_path(info.extra, zlib.crc32(raw))
    if field is not None or info.flag_bits & _UTF8_FLAG:
        return field or raw.decode()
    return None


def _unicode_path(extra: bytes, checksum: int) -> str | None:
    """Return the name in the field 0x7075, if it belongs to a raw name with this CRC-32."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        content, at = extra[at + 4 : at + 4 + size], at + 4 + size
        if kind == _UNICODE_PATH and size > 5 and content[0] == 1:
            if int.from_bytes(content[1:5], "little") != checksum:
                return None
            return content[5:].decode() if _is_utf8(content[5:]) else None
    return None
