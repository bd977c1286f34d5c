"""What reaches the terminal: visible text, and no control sequences.

Names of files, reasons of failures and facts of checkpoints were written by others. Everything
that a command prints goes through `visible`, whoever prints it: commands by click, stages by
logging, and Python a traceback. The progress bar alone moves the cursor (`beneath`).
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
import unicodedata
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what is not a sign: controls, format (as text that runs from right to
left), halves of surrogates, separators of lines and paragraphs."""

_JOINERS = "\u200c\u200d"
"""Part of how Persian and Indic words are written, and of many emoji."""

_RAW_IN_JSON = re.compile("[\x7f-\x9f]|[^\x00-\x7f]")
"""What `json.dumps` leaves as it is; of the latter `visible` decides."""


def visible(text: str) -> str:
    r"""Return `text` as one line that shows each character, and makes a terminal do nothing.

    What has no sign of its own is written as in Python: a line's end as ``\n``, an escape as
    ``\x1b``, a byte that is not UTF-8 in a file's name as ``\xe9``.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def json_text(document: Any) -> str:
    """Return JSON that stdout can print in its encoding, and that `visible` does not change."""
    text = json.dumps(document, indent=2, ensure_ascii=not _is_utf8(sys.stdout), allow_nan=False)
    return _RAW_IN_JSON.sub(_in_json, text)


@contextmanager
def guarded() -> Iterator[None]:
    """Make all output to stdout and stderr within the block `visible`, in any encoding.

    So is the traceback of a bug, which Python prints afterwards.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    with ExitStack() as opened:
        _open_closed(opened)
        guard()
        try:
            yield
        except SystemExit:
            sys.stdin, sys.stdout, sys.stderr = before
            raise
        sys.stdin, sys.stdout, sys.stderr = before


def guard() -> None:
    """Put `visible` before stdout and stderr, unless it is there."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Guarded):
            setattr(sys, name, _Guarded(stream))


def _open_closed(opened: ExitStack) -> None:
    """Redirect standard streams that are closed (as by ``2>&-``) to nowhere.

    Otherwise the next file that is opened gets the number of one, and whoever writes to stderr by
    its number writes into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            # For workers, which are processes of their own.
            os.set_inheritable(number, True)
            setattr(sys, name, opened.enter_context(os.fdopen(number, mode, encoding="utf-8")))


def beneath(stream: TextIO) -> TextIO:
    """Return the stream that a guarded one writes to, for what may move the cursor."""
    return stream.stream if isinstance(stream, _Guarded) else stream


class _Guarded:
    """A text stream for lines: all else that is written to it becomes `visible`.

    It has no `buffer`, through which click would write in an encoding of its own choice, and is
    no terminal, so that nobody colours what goes through it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    @property
    def encoding(self) -> str:
        return self.stream.encoding

    @property
    def errors(self) -> str | None:
        return self.stream.errors

    @property
    def closed(self) -> bool:
        return self.stream.closed

    def write(self, text: str) -> int:
        self.stream.write("\n".join(map(visible, text.split("\n"))))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        """Close nothing: some loggers close what they wrote to, and this is the process's own."""
        self.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


def _shown(sign: str) -> str:
    if sign in _JOINERS or unicodedata.category(sign) not in _OBEYED:
        return sign
    if "\udc80" <= sign <= "\udcff":  # How Python keeps a byte that is not UTF-8.
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode("ascii")


def _in_json(found: re.Match[str]) -> str:
    sign = found[0]
    return sign if _shown(sign) == sign else json.dumps(sign)[1:-1]


def _is_utf8(stream: TextIO | None) -> bool:
    try:
        return stream is not None and codecs.lookup(stream.encoding).name in ("utf-8", "utf-8-sig")
    except (LookupError, TypeError):
        return False


def number_of(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: 1 picture, 2,000 pictures, 2 patches."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
