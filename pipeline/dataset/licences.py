"""Licences of the pictures that a dataset is made of: they travel with its patches."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def read_licences(text_or_file: str | None) -> Mapping[str, str]:
    """Return the licence of pictures by item; under "" that of all others.

    A file is JSON (an object by name, or a list of objects) or CSV; rows name the picture by
    ``file``, ``item``, ``name`` or ``path``, and have ``licence`` or ``license``, and ``source`` if
    known. Any other text is the licence of all pictures.

    Raises:
        UsageError: if a file can be read as neither.
    """
    if not text_or_file:
        return {}
    path = Path(text_or_file)
    kind = path.suffix.lower()
    if not _is_file(path):
        if re.fullmatch(r"\S+\.[A-Za-z]{3,4}", text_or_file):
            raise UsageError(
                f"--licence {text_or_file} reads like a file, but there is none; name a .json or "
                ".csv file, or write the licence as a text with a space in it"
            )
        return {"": _utf8(text_or_file)}
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_json = kind == ".json"
        rows = json.loads(text) if is_json else list(csv.DictReader(io.StringIO(text)))
        return dict(_licences(rows))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise UsageError(
            f"--licence {path} cannot be read ({type(error).__name__}: {error}); expected a list "
            "of objects with file and licence, as JSON or CSV"
        ) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # A text of 300 letters is too long for the name of a file.
        return False


def _licences(rows: Any) -> Iterable[tuple[str, str]]:
    if isinstance(rows, dict):
        rows = [
            {"item": name, **(value if isinstance(value, dict) else {"licence": value})}
            for name, value in rows.items()
        ]
    for row in rows:
        name = _first(row, "file", "item", "name", "path")
        licence = _first(row, "licence", "license")
        yield name, _utf8(f"{licence} ({row['source']})" if row.get("source") else licence)


def _utf8(text: str) -> str:
    """Return the text as files can hold it: JSON and command lines may say what is not UTF-8."""
    return text.encode(errors="replace").decode()


def _first(row: Any, *keys: str) -> str:
    found = next((str(row[key]) for key in keys if row.get(key)), None)
    if found is None:
        raise ValueError(f"{dict(row)} has no {' or '.join(keys)}")
    return found


def licence_of(item: str, licences: Mapping[str, str]) -> str:
    """Return the licence of a picture, by its item or else the name of its file."""
    for name in (item, PurePosixPath(item).name, ""):
        if name in licences:
            return licences[name]
    return ""


def check_named(items: Iterable[str], licences: Mapping[str, str]) -> None:
    """Make sure that a list of licences has that of one picture at least.

    Raises:
        UsageError: if it names none of them.
    """
    items = list(items)
    if licences and items and not any(licence_of(item, licences) for item in items):
        raise UsageError(
            f"--licence names none of the {len(items)} pictures, such as {items[0]}, but "
            f"{min(licences)}; name pictures by file or item"
        )
