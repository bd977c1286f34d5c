"""The choice of a model for each item: none is left out, however many there are."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pipeline.jobs.choice import Choice, Chooser
from pipeline.jobs.spec import make_spec
from pipeline.storage.ledger import INGESTED, ItemRow, Ledger

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("many", [1, 500, 501, 1_203])
def test_every_item_gets_its_model_in_the_order_of_the_items(many: int, tmp_path: Path) -> None:
    rows = [ItemRow(item=f"{number:05}.png", state=INGESTED) for number in range(many)]
    spec = make_spec("bicubic-x4", tile_px=64, halo="auto", precision="fp32", device="cpu")
    with closing(Ledger.open_file(tmp_path / "ledger.sqlite", job="test")) as ledger:
        chosen = list(Chooser(spec, Choice("auto", None), ledger).of_each(iter(rows)))
    assert [row for row, _ in chosen] == rows
    assert all(one.spec == spec for _, one in chosen)
