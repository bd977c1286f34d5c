"""Licences: what a file says of a picture is found by its item or its name, or is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.dataset.licences import licence_of, read_licences
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


TWO = {"a/1.png": "CC0 1.0", "2.png": "CC BY 4.0 (https://example.org)"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "list.json",
            '[{"file": "a/1.png", "licence": "CC0 1.0"}, '
            '{"item": "2.png", "license": "CC BY 4.0", "source": "https://example.org"}]',
        ),
        (
            "object.json",
            '{"a/1.png": "CC0 1.0", '
            '"2.png": {"license": "CC BY 4.0", "source": "https://example.org", "by": "Ann"}}',
        ),
        ("LIST.JSON", '{"a/1.png": "CC0 1.0", "2.png": "CC BY 4.0 (https://example.org)"}'),
        ("a.csv", "file,licence,source\na/1.png,CC0 1.0,\n2.png,CC BY 4.0,https://example.org\n"),
        ("b.CSV", "name,license,source\r\na/1.png,CC0 1.0,\r\n2.png,CC BY 4.0,https://example.org"),
        ("c.csv", "path,licence\na/1.png,CC0 1.0\n2.png,CC BY 4.0 (https://example.org)\n"),
        ("d.csv", 'source,licence,item\n,CC0 1.0,a/1.png\nhttps://example.org,"CC BY 4.0",2.png\n'),
    ],
)
def test_a_file_says_the_licence_of_each_picture(tmp_path: Path, name: str, content: str) -> None:
    assert read_licences(written(tmp_path / name, content)) == TWO


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "file,licence\na.png,CC0 1.0\n"), ("a.json", '{"a.png": "CC0 1.0"}')],
)
def test_the_mark_that_spreadsheets_put_first_is_no_part_of_a_name(
    tmp_path: Path, name: str, content: str
) -> None:
    found = read_licences(written(tmp_path / name, "\ufeff" + content))
    assert found == {"a.png": "CC0 1.0"}


@pytest.mark.parametrize("content", ["[]", "{}"])
def test_a_file_that_says_nothing_says_nothing(tmp_path: Path, content: str) -> None:
    assert read_licences(written(tmp_path / "a.json", content)) == {}


@pytest.mark.parametrize(
    "text", ["CC0 1.0", "licences of a/b.png: ask", "a\0b", "by Ann and others, " * 30, "."]
)
def test_any_other_text_is_the_licence_of_all(text: str) -> None:
    assert read_licences(text) == {"": text}
    assert licence_of("a/1.png", read_licences(text)) == text


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_a_word_no_licence_is_known(nothing: str | None) -> None:
    assert read_licences(nothing) == {}
    assert licence_of("a.png", {}) == ""


@pytest.mark.parametrize("name", ["missing.json", "missing.csv", "no/such/LIST.JSON"])
def test_a_file_that_is_missing_is_not_taken_for_a_licence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"reads like a file, but there is none"):
        read_licences(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '[{"picture": "a.png", "licence": "x"}]', "no file or item or name or path"),
        ("a.json", '[{"file": "a.png", "lisense": "x"}]', "no licence or license"),
        ("a.json", '[{"file": "a.png", "license": null}]', "no licence or license"),
        ("a.json", '{"a.png": null}', "no licence or license"),
        ("a.json", '{"a.png": ""}', "no licence or license"),
        ("a.json", '["a.png"]', "AttributeError"),
        ("a.json", '"a.png"', "AttributeError"),
        ("a.json", "5", "TypeError"),
        ("a.json", "{", "JSONDecodeError"),
        ("a.json", b"\xff\xfe", "UnicodeDecodeError"),
        ("a.csv", "picture,licence\na.png,x\n", "no file or item or name or path"),
        ("a.csv", "file;licence\na.png;x\n", "no file or item or name or path"),
        ("a.csv", "file,rights\na.png,x\n", "no licence or license"),
        ("a.csv", "file,licence\na.png,\n", "no licence or license"),
        ("a.csv", "file,licence\n" + "x" * 200_000 + ",y\n", "field larger"),
        ("LICENSE", "Permission is hereby granted\nto anybody\n", "no file or item"),
        ("a.png", b"\x89PNG\xff", "UnicodeDecodeError"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_is_wanted(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    with pytest.raises(UsageError, match=f"cannot be read .*{words}") as caught:
        read_licences(written(tmp_path / name, content))
    assert "expected a list of objects with file and licence" in str(caught.value)


def test_the_item_counts_before_the_name_and_the_name_before_all_others() -> None:
    known = {"a/1.png": "by item", "1.png": "by name", "": "by default"}
    assert licence_of("a/1.png", known) == "by item"
    assert licence_of("b/1.png", known) == "by name"
    assert licence_of("b/2.png", known) == "by default"
    assert licence_of("b/2.png", {"2": "x"}) == ""
