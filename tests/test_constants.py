"""What several rooms must agree on is written once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.bt601 import LUMA, LUMA_PER_MILLE, STUDIO_LUMA

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("home", "value"),
    [
        ("models/bt601.py", r"\b299, 587\b|\b0\.299\b|65\.481,"),
        ("pipeline/pictures/picture.py", r'"uint16": *65_?535'),
        ("pipeline/pictures/formats.py", r'"png", *"tiff"|"\.jpeg"'),
        ("pipeline/constants.py", r'"span-x4"|\b1_?800\.0'),
    ],
    ids=["luma", "white", "formats", "defaults"],
)
def test_a_value_that_rooms_share_has_one_home(home: str, value: str) -> None:
    sources = (path for room in ("models", "pipeline") for path in (ROOT / room).rglob("*.py"))
    places = {str(path.relative_to(ROOT)) for path in sources if re.search(value, path.read_text())}
    assert places == {home}


def test_the_weights_of_luma_are_the_published_ones_to_the_last_bit() -> None:
    assert LUMA == (0.299, 0.587, 0.114)
    assert STUDIO_LUMA == (65.481, 128.553, 24.966)
    assert sum(LUMA_PER_MILLE) == 1000
