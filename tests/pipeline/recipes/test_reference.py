"""The recipe reference is what the code says, whole, and short enough to read."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from pipeline.degradation.presets import PRESETS
from pipeline.degradation.steps import STEPS
from pipeline.recipes.files import recipe_names
from pipeline.recipes.preparing import EXTRACTIONS, PrepareRecipe
from pipeline.recipes.reference import TABLES, Key, keys_of, main, refreshed
from pipeline.recipes.training import LOSSES, SCHEDULES, TrainRecipe

DOCUMENT = Path(__file__).parents[3] / "docs" / "recipes.md"


def test_the_tables_of_the_document_are_what_the_code_says() -> None:
    text = DOCUMENT.read_text()
    assert refreshed(text) == text, "run `make docs-tables`"


def test_every_table_stands_in_the_document_in_lines_that_can_be_read() -> None:
    text = DOCUMENT.read_text()
    assert re.findall(r"<!-- table: (\w+) -->", text) == list(TABLES)
    assert [line for line in text.splitlines() if len(line) > 130] == []


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("recipes", recipe_names()),
        ("presets", PRESETS),
        ("steps", STEPS),
        ("prepare", (*(f.name for f in fields(PrepareRecipe)), *EXTRACTIONS)),
        ("train", (*(f.name for f in fields(TrainRecipe)), *LOSSES, *SCHEDULES)),
        ("networks", ("span", "srresnet")),
        ("discriminators", ("srgan", "unet")),
    ],
)
def test_a_table_names_all_there_is(table: str, names: tuple[str, ...]) -> None:
    text = TABLES[table]()
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_examples_of_the_document_are_recipes_that_can_be_read() -> None:
    examples = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        prepare = {"name": "x", "scale": 4, "extract": "random", "patch_hr_px": 96}
        PrepareRecipe(**prepare, **tomllib.loads(example)["prepare"])


def test_a_key_has_its_type_default_and_the_first_paragraph_of_its_docstring() -> None:
    keys = {key.name: key for key in keys_of(TrainRecipe)}
    assert keys["`batch`"] == Key("`batch`", "whole number", "`16`", keys["`batch`"].meaning)
    assert keys["`checkpoint_every`"].meaning == (
        "Steps between numbered checkpoints; 0 means one at each validation."
    )
    assert keys["`scale`"].default == "required"
    assert keys["`losses`"].default == "`{ l1 = 1.0 }`"
    blur = {key.name: key for key in keys_of(STEPS["blur"])}
    assert blur["`size`"].type == "range, odd, 1 to 63"
    assert blur["`kind`"].type == "`gaussian`, `generalized`, `plateau`"
    assert blur["`chance`"].default == "`1.0`", "what is inherited is there too"


@dataclass
class Silent:
    told: int = 1
    """Has one."""
    silent: int = 2


def test_a_key_without_a_docstring_is_an_error() -> None:
    with pytest.raises(ValueError, match="Silent has no docstring for silent"):
        keys_of(Silent)


def test_a_table_that_does_not_exist_is_an_error_and_other_text_stays(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("before\n<!-- table: presets -->\nold\n<!-- end of table -->\nafter\n")
    main([str(document)])
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert refreshed(document.read_text()) == document.read_text()
    with pytest.raises(ValueError, match="no table is called 'wrong', expected one of recipes, "):
        refreshed("<!-- table: wrong -->\n<!-- end of table -->")
