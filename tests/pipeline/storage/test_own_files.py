"""Signatures: upres knows its own previews and reports, and takes nobody else's for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import OccupiedError
from pipeline.pictures.codecs.previews import encode_preview
from pipeline.pictures.files import read_picture
from pipeline.storage.own_files import check_own, is_signed_png, signed_png

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import TakePhoto


def test_a_signed_png_is_the_same_picture(photo: TakePhoto, tmp_path: Path) -> None:
    plain = encode_preview(photo(20, 24), format="png")
    signed = signed_png(plain)
    assert (is_signed_png(plain), is_signed_png(signed)) == (False, True)
    np.testing.assert_array_equal(read_picture(signed, name="x").pixels, photo(20, 24))
    (tmp_path / "a.png").write_bytes(signed)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["Software"] == "upres"


def test_only_a_signed_file_may_be_replaced(photo: TakePhoto, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    check_own(path, is_signed_png)
    path.write_bytes(signed_png(encode_preview(photo(20, 24), format="png")))
    check_own(path, is_signed_png)
    for content in (b"", b"mine", encode_preview(photo(20, 24), format="png")):
        path.write_bytes(content)
        with pytest.raises(OccupiedError, match="was not written by upres"):
            check_own(path, is_signed_png)
    path.unlink()
    path.mkdir()
    with pytest.raises(OccupiedError, match="was not written by upres"):
        check_own(path, is_signed_png)
