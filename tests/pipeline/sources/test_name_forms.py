"""Names in the two forms of Unicode: compared in one, and never mistaken for each other."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs.score import match_originals
from pipeline.sources.listing import list_source
from pipeline.sources.name_forms import by_form, composed, selects
from pipeline.storage.ledger import INGESTED, ItemRow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Command, SavePicture, TakePhoto

NFC = unicodedata.normalize("NFC", "Café/München é")
NFD = unicodedata.normalize("NFD", NFC)


@given(st.text())
def test_the_forms_of_a_name_are_compared_as_one(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert composed(unicodedata.normalize(form, text)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(("one", "other"), [(NFC, NFD), (NFD, NFC)])
def test_a_name_is_found_in_the_other_form_unless_it_is_there_itself(one: str, other: str) -> None:
    assert by_form({other: 1, "a": 2}, [one, "a", "b"]) == {one: 1, "a": 2}
    assert by_form({one: 1, other: 2}, [one]) == {one: 1}
    # Another one's own is not shared, and what could be of two is nobody's.
    assert by_form({one: 1}, [one, other]) == {one: 1}
    mixed = NFC[:5] + NFD[5:]
    assert len({NFC, NFD, mixed}) == 3
    assert by_form({mixed: 1}, [one, other]) == {}
    assert by_form({one: 1, other: 2}, [mixed]) == {}


@pytest.mark.parametrize(("one", "other"), [(NFC, NFD), (NFD, NFC)])
def test_a_glob_selects_names_in_both_forms_and_the_one_as_written_first(
    one: str, other: str
) -> None:
    alone = selects(f"{one}*", lambda: [f"{other}.png", "a.png"])
    assert alone(f"{other}.png")
    assert not alone("a.png")
    twins = selects(f"{one}*", lambda: [f"{one}.png", f"{other}.png", f"{other}.jpg"])
    selected = [n for n in (f"{one}.png", f"{other}.png", f"{other}.jpg") if twins(n)]
    assert selected == [f"{one}.png", f"{other}.jpg"]
    every = selects("*", lambda: pytest.fail("nothing needs to be listed"))
    assert every(one)
    assert every(other)


def test_a_question_mark_stands_for_a_letter_in_both_forms() -> None:
    names = [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")]
    assert all(map(selects("caf?.png", lambda: names[1:]), names))
    assert not selects("caf.png", lambda: names)(names[1])


@pytest.mark.parametrize(("one", "other"), [(NFC, NFD), (NFD, NFC)])
def test_originals_are_found_in_the_other_form(one: str, other: str, tmp_path: Path) -> None:
    rows = [ItemRow(item=f"{one}.png", state=INGESTED)]

    def original_among(*names: str) -> str | None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        found = match_originals(list_source(str(folder)), rows)
        return found[rows[0].item].item if found else None

    assert original_among(f"{other}.png") == f"{other}.png"
    assert original_among(f"{other}.tif") == f"{other}.tif"
    assert original_among(f"{one}.png", f"{other}.png") == f"{one}.png"
    assert original_among(f"{one}.tif", f"{other}.webp") == f"{one}.tif"
    assert original_among(f"{one}.tif", f"{other}.png") == f"{other}.png"
    assert original_among(f"{one}.tif", f"{one}.jpg", f"{other}.webp") is None


@pytest.mark.slow
def test_a_rerun_and_a_score_take_names_as_they_are_typed(
    tmp_path: Path,
    photo: TakePhoto,
    save: SavePicture,
    upres: Command,
    cluster: tuple[str, str],
) -> None:
    """Pictures of a Mac's disk, scored against originals of another, selected at a keyboard."""
    source, job, hr = (tmp_path / name for name in ("source", "job", "hr"))
    for n in range(2):
        save(source / f"{NFD}{n}.png", photo(20, 30, at=60 * n))
        save(hr / f"{NFC}{n}.png", np.repeat(np.repeat(photo(20, 30, at=60 * n), 2, 1), 2, 2))
    words = ("--model", "nearest-x2", "--reference", hr, *cluster, "--json")
    said = upres("upscale", source, job, *words)
    assert (said.code, said.document["failures"]) == (0, [])
    items = upres("score", job, "--reference", hr, *cluster, "--json").document["items"]
    assert [i["item"] for i in items] == [f"{NFD}0.png", f"{NFD}1.png"]
    redo = ("rerun", job, "--stale", "--model", "bicubic-x2", *cluster, "--json")
    assert upres(*redo, "--item", f"{NFC}1.png").document["computed_units"] == 1
    assert upres(*redo, "--item", f"{NFC}1.png").document["computed_units"] == 0
    assert upres(*redo, "--item", f"*{NFC[-1]}?.png").document["computed_units"] == 1
