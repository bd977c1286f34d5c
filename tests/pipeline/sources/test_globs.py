"""Globs: extensions match in any case, the rest of a name as it is written."""

from __future__ import annotations

import pytest

from pipeline.sources.globs import Pattern, is_glob, matches


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("*.jpg", ["a.jpg", "a.JPG", "a.Jpg", "A.jpg"], ["a.jpeg", "jpg", "a.jpg.txt"]),
        ("*.JPG", ["a.jpg", "a.JPG"], ["a.png"]),
        ("IMG_*.jpg", ["IMG_1.JPG"], ["img_1.jpg", "Img_1.JPG"]),
        ("*.[jJ][pP][gG]", ["a.jpg", "a.JPG"], ["a.png"]),
        ("*.[!p]*", ["a.jpg", "a.JPG"], ["a.png", "a.PNG", "a.Png"]),
        ("*.{jpg}", ["a.jpg", "a.JPG", "a.{jpg}"], ["a.png"]),
        ("*.{jpg,png}", ["a.jpg", "a.PNG"], ["a.gif"]),
        ("{a,B}*.tif", ["a1.TIF", "B1.tif"], ["A1.tif", "b1.tif"]),
        ("*.jp*g", ["a.JPEG", "a.jpg"], ["a.png"]),
        ("*jpg", ["a.jpg", "a.JPG"], ["a.png"]),
        ("*JPG", ["a.jpg", "a.JPG", "aJPG"], ["a.png"]),
        ("*[.]JPG", ["a.jpg", "a.JPG"], ["ajpg"]),
        ("[a.B]*", ["B", "a", ".x"], ["b", "A"]),
        ("a.B.c", ["a.B.c", "a.B.C"], ["a.b.c"]),
        ("?.png", ["a.PNG"], ["ab.png"]),
        ("*", ["a", "a.b", ""], []),
        ("a[1].png", ["a1.png", "a1.PNG", "a[1].png"], ["a2.png"]),
        ("trips/*.jpg", ["trips/a.JPG", "trips/far/a.JPG"], ["Trips/a.jpg"]),
    ],
)
def test_a_pattern_takes_extensions_in_any_case(
    pattern: str, names: list[str], others: list[str]
) -> None:
    assert [name for name in [*names, *others] if matches(name, pattern)] == names


def test_braces_make_a_path_a_glob_where_they_choose() -> None:
    assert is_glob("photos/*.jpg")
    assert is_glob("photos/{a,b}.jpg")
    assert not is_glob("photos/{a}.jpg")
    assert not is_glob("photos/a.jpg")


def test_positions_say_what_the_next_name_has_to_match() -> None:
    pattern = Pattern(("**", "raw", "*.tif"))
    start = pattern.start()
    assert not pattern.takes(start, "a.tif")
    assert not pattern.takes(pattern.into(start, "2019"), "a.tif")
    assert pattern.takes(pattern.into(pattern.into(start, "2019"), "raw"), "a.TIF")
    assert not pattern.into(Pattern(("a", "*.tif")).start(), "b") - start
    assert Pattern().takes(Pattern().start(), "anything")
