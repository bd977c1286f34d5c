from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.degradation.chain import Degradation
from pipeline.degradation.presets import PRESETS
from pipeline.degradation.step import Uniform
from pipeline.degradation.steps.choice import Choice, Option
from pipeline.degradation.steps.noise import Noise
from pipeline.degradation.steps.resize import Resize
from pipeline.errors import RecipeError
from tests.examples import examples

NAMES = sorted(PRESETS)
RESIZE = {"op": "resize"}


def chain(*steps: dict, name: str = "x", scale: int = 4) -> Degradation:
    return Degradation.from_table({"name": name, "steps": list(steps)}, scale=scale)


def drawn_by(degradation: Degradation, count: int) -> list:
    return degradation.draw(degradation.generators(range(count)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_preset_survives_its_table_and_text(name: str, scale: int) -> None:
    degradation = Degradation.from_table({"name": name}, scale=scale)
    table = degradation.to_table()
    assert Degradation.from_table(table, scale=scale) == degradation
    text = json.dumps(table)
    assert "null" not in text
    assert Degradation.from_table(json.loads(text), scale=scale) == degradation


def test_a_preset_goes_by_another_name() -> None:
    old = Degradation.from_table({"name": "old", "preset": "archive"}, scale=2)
    assert old.name == "old"
    assert old.steps == Degradation.from_table({"name": "archive"}, scale=2).steps


def test_every_field_stands_in_the_table() -> None:
    steps = [
        {"op": "blur", "sigma": [1, 2], "sigma_y": 3, "angle": 4, "beta": 2, "size": [7, 9]},
        {"op": "motion", "length": 3, "angle": [0, 90], "chance": 0.5},
        {"op": "sinc", "cutoff": 0.5, "size": 11},
        {"op": "resize", "kernel": ["box", "lanczos"], "antialias": False, "of": "current"},
        {"op": "webp", "quality": 80},
        {"op": "choice", "options": [{"weight": 2, "steps": []}, {"steps": [RESIZE]}]},
        RESIZE,
    ]
    table = chain(*steps).to_table()
    for given_step, step in zip(steps, table["steps"], strict=True):
        wanted = {k: v for k, v in given_step.items() if k != "options"}
        if step["op"] == "resize" and isinstance(wanted.get("kernel"), str):
            wanted["kernel"] = [wanted["kernel"]]
        assert {k: step[k] for k in wanted} == wanted
    assert table["steps"][5]["options"][0] == {"weight": 2, "steps": []}
    changed = chain({**steps[0], "angle": 5}, *steps[1:])
    assert changed != chain(*steps)
    assert changed.to_table() != table


BAD = [
    ({"name": "Bicubic!"}, "degradation is called 'Bicubic!', expected a word of a-z"),
    ({"nam": "x"}, "degradation has no key 'nam'; did you mean name?"),
    ({"preset": "archive"}, "degradation has name None, expected text"),
    ({"name": "x"}, "'x' has no steps, and no preset is called 'x'; known are bicubic"),
    ({"name": "y", "preset": "real_esrgan"}, "called 'real_esrgan'; did you mean real-esrgan?"),
    ({"name": "y", "preset": "blur", "steps": []}, "has preset and steps, expected one"),
    ({"name": "y", "steps": 3}, "steps is 3, expected a list"),
    ({"name": "y", "steps": ["blur"]}, "step is 'blur', expected a table with op"),
    ({"name": "y", "steps": []}, r"may end at another size .* add \{ op = \"resize\" \}"),
]


@pytest.mark.parametrize(("table", "message"), BAD)
def test_a_table_that_cannot_be_is_refused(table: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Degradation.from_table(table, scale=4)


BAD_STEPS = [
    ({"op": "blurr"}, "'x': no op is called 'blurr'; did you mean blur?"),
    ({"op": "blur", "sgima": 2}, "blur has no key 'sgima'; did you mean sigma?"),
    ({"op": "blur"}, "blur lacks sigma"),
    ({"op": "blur", "sigma": -1}, r"blur: sigma is -1.0, expected 0.05 to 30"),
    ({"op": "blur", "sigma": [1, 99]}, r"blur: sigma is \[1.0, 99.0\], expected 0.05 to 30"),
    ({"op": "blur", "sigma": [3, 1]}, r"blur: sigma is \[3, 1\], expected \[low, high\]; swap"),
    ({"op": "blur", "sigma": [1, 2, 3]}, "expected a number or"),
    ({"op": "blur", "sigma": "2"}, "blur: sigma is '2', expected a number"),
    ({"op": "blur", "sigma": True}, "blur: sigma is True, expected a number"),
    ({"op": "blur", "sigma": float("nan")}, "blur: sigma is nan, expected a number"),
    ({"op": "blur", "sigma": 1, "size": 8}, "size is 8.0, expected odd whole numbers"),
    ({"op": "sinc", "cutoff": 0.5, "size": [7, 10]}, "expected odd whole numbers"),
    ({"op": "blur", "sigma": 1, "kind": "plato"}, "no kind 'plato'; did you mean plateau?"),
    ({"op": "noise", "sigma": 1, "chance": 2}, "noise: chance is 2.0, expected 0 to 1"),
    ({"op": "noise", "sigma": 1, "grey": [0, 1]}, "noise: grey is .*, expected a number"),
    ({"op": "jpeg", "quality": 0}, "jpeg: quality is 0.0, expected 1 to 100"),
    ({"op": "resize", "kernel": "bicubik"}, "no kernel 'bicubik'; did you mean bicubic?"),
    ({"op": "resize", "kernel": []}, "resize: kernel is empty"),
    ({"op": "resize", "antialias": 1}, "antialias is 1, expected true or false"),
    ({"op": "resize", "of": 1}, "resize: of is 1, expected text"),
    ({"op": "choice", "options": []}, "choice: options is empty"),
    ({"op": "choice", "options": [{"weight": 1}]}, "expected a table with steps"),
    ({"op": "choice", "options": [{"step": 1, "steps": []}]}, "option has no key 'step'"),
    ({"op": "choice", "options": [{"weight": 0, "steps": []}]}, "weight is 0.0, expected more"),
]


@pytest.mark.parametrize(("step", "message"), BAD_STEPS)
def test_a_step_that_cannot_be_is_refused(step: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        chain(RESIZE, step)


SOMETIMES = {"op": "resize", "chance": 0.5}
UP = {"op": "resize", "of": "current", "factor": 2}


@pytest.mark.parametrize(
    ("steps", "scale", "fits"),
    [
        ([], 1, True),
        ([{"op": "blur", "sigma": 1}], 1, True),
        ([{"op": "blur", "sigma": 1}], 2, False),
        ([RESIZE, UP], 1, False),
        ([UP, RESIZE], 3, True),
        ([SOMETIMES], 2, False),
        ([RESIZE, SOMETIMES], 2, True),
        ([RESIZE, {**UP, "chance": 0}], 2, True),
        ([{"op": "choice", "options": [{"steps": [RESIZE]}, {"steps": []}]}], 2, False),
        ([{"op": "choice", "options": [{"steps": [RESIZE]}, {"steps": [UP, RESIZE]}]}], 2, True),
    ],
)
def test_only_chains_that_always_end_at_the_target_are_accepted(
    steps: list, scale: int, fits: bool
) -> None:
    if fits:
        chain(*steps, scale=scale)
    else:
        with pytest.raises(RecipeError, match="may end at another size"):
            chain(*steps, scale=scale)


@examples(30)
@given(low=st.floats(0, 100), width=st.floats(0, 100), seed=st.integers(0, 2**63 - 1))
def test_numbers_are_drawn_within_their_range(low: float, width: float, seed: int) -> None:
    degradation = Degradation(name="x", steps=(Noise(sigma=Uniform(low, low + width)),))
    (drawn,) = degradation.draw(degradation.generators([seed]))
    assert low <= drawn.values["sigma"][0] <= low + width


def test_kernel_sizes_are_odd_and_each_as_likely() -> None:
    degradation = chain({"op": "blur", "sigma": 1, "size": [7, 21]}, RESIZE)
    sizes, counts = np.unique(drawn_by(degradation, 4000)[0].values["size"], return_counts=True)
    assert sizes.tolist() == [7, 9, 11, 13, 15, 17, 19, 21]
    assert (np.abs(counts - 500) < 100).all()


def test_options_are_taken_as_often_as_their_weights_say() -> None:
    options = tuple(Option(weight=w, steps=(Noise(sigma=Uniform(w, w)),)) for w in (1.0, 2.0, 5.0))
    degradation = Degradation(name="x", steps=(Choice(options=options, chance=0.5),))
    hits = np.array([drawn.hit for drawn in drawn_by(degradation, 4000)])
    assert hits.sum(axis=0).max() == 1
    np.testing.assert_allclose(hits.mean(axis=1), [1 / 16, 2 / 16, 5 / 16], atol=0.03)


def test_one_steps_draws_do_not_move_anothers() -> None:
    noise = {"op": "noise", "sigma": [0, 9]}
    first = {"op": "blur", "sigma": 1}
    plain = drawn_by(chain(first, RESIZE, noise), 50)[-1].values["sigma"]
    varied = {**first, "sigma": [1, 3], "sigma_y": [1, 2], "size": [7, 21], "chance": 0.3}
    moved = drawn_by(chain(varied, RESIZE, noise), 50)[-1].values["sigma"]
    np.testing.assert_array_equal(plain, moved)


def test_a_chance_of_zero_never_hits_and_of_one_always() -> None:
    for chance, hit in ((0, False), (1, True)):
        degradation = chain({"op": "noise", "sigma": 1, "chance": chance}, RESIZE)
        assert (drawn_by(degradation, 500)[0].hit == hit).all()


def test_the_name_and_the_seed_decide_what_is_drawn() -> None:
    step = {"op": "noise", "sigma": [0, 9]}
    a, again, b = (
        drawn_by(chain(RESIZE, step, name=name), 8)[1].values["sigma"] for name in ("a", "a", "b")
    )
    np.testing.assert_array_equal(a, again)
    assert len({*a, *b}) == 16


def test_only_the_plain_reduction_is_one() -> None:
    assert Resize().is_reduction
    for other in (
        Resize(chance=0.5),
        Resize(of="current"),
        Resize(factor=Uniform(1, 2)),
        Resize(kernel=("box", "bicubic")),
        Resize(antialias=False),
    ):
        assert not other.is_reduction
    assert Resize(antialias=False, kernel=("box",)).is_reduction
