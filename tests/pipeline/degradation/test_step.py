"""A step is one class: recipes, chains, both ways to apply it and their checks find it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch

import pipeline.degradation.steps
from pipeline.degradation.apply import degrade_patches
from pipeline.degradation.batch import degrade_batch
from pipeline.degradation.chain import Degradation
from pipeline.degradation.step import NUMBERS, Step, Uniform, odd_within, one_of, within
from pipeline.degradation.step_tables import READERS
from pipeline.degradation.steps import STEPS
from pipeline.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.degradation.batch_patches import Patches
    from pipeline.degradation.levels import Floats, Size, Values


@contextmanager
def brightening() -> Iterator[None]:
    """Define a step in this file alone, and forget it again."""

    @dataclass(frozen=True, kw_only=True)
    class Brighten(Step):
        op: ClassVar[str] = "brighten"
        by: Uniform = field(metadata=within(0, 50))
        side: Uniform = field(default=Uniform(3.0, 3.0), metadata=odd_within(1, 9))
        way: str = field(default="add", metadata=one_of("add", "lift"))

        def apply(
            self, levels: Floats, values: Values, *, generator: np.random.Generator, target: Size
        ) -> Floats:
            return levels + values["by"][0]

        def apply_batch(
            self, patches: Patches, values: Values, *, generator: torch.Generator, target: Size
        ) -> Patches:
            added = torch.from_numpy(values["by"]).to(patches.levels).view(-1, 1, 1, 1)
            return patches.with_levels(patches.levels + added)

    try:
        yield
    finally:
        del STEPS["brighten"]


def degradation(**parameters: object) -> Degradation:
    steps = [{"op": "brighten", **parameters}]
    return Degradation.from_table({"name": "sun", "steps": steps}, scale=1)


def test_a_class_with_an_op_is_a_step_of_recipes_on_both_ways() -> None:
    hr = np.full((2, 3, 8, 8), 100, dtype=np.uint8)
    with brightening():
        sun = degradation(by=7)
        assert (degrade_patches(hr, [1, 2], sun, scale=1) == 107).all()
        batch = degrade_batch(torch.from_numpy(hr) / 255, [1, 2], sun, scale=1)
        assert torch.equal((batch * 255).round(), torch.full((2, 3, 8, 8), 107.0))
        assert Degradation.from_table(sun.to_table(), scale=1) == sun
    with pytest.raises(RecipeError, match="no op is called 'brighten'"):
        degradation(by=7)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "brighten lacks by"),
        ({"by": 51}, "brighten: by is 51.0, expected 0 to 50"),
        ({"by": 1, "side": 4}, "side is 4.0, expected odd whole numbers"),
        ({"by": 1, "way": "lifted"}, "brighten has no way 'lifted'; did you mean lift?"),
        ({"by": 1, "sid": 3}, "brighten has no key 'sid'; did you mean side?"),
    ],
)
def test_what_a_class_declares_is_checked(parameters: dict, message: str) -> None:
    with brightening(), pytest.raises(RecipeError, match=message):
        degradation(**parameters)


def test_two_steps_cannot_have_one_op() -> None:
    with pytest.raises(TypeError, match="op 'noise' of Other is Noise's"):

        class Other(Step):
            op = "noise"

    assert STEPS["noise"].__name__ == "Noise"


@pytest.mark.parametrize("op", sorted(STEPS))
def test_every_field_of_a_step_can_be_read_and_drawn(op: str) -> None:
    parts = fields(STEPS[op])
    assert {str(part.type) for part in parts} <= READERS.keys()
    assert sum("range" in part.metadata for part in parts) <= NUMBERS


def test_the_steps_are_those_of_the_folder() -> None:
    folder = Path(pipeline.degradation.steps.__file__).parent
    assert list(STEPS) == sorted({path.stem for path in folder.glob("*.py")} - {"__init__"})
