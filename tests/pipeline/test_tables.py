"""Recipes: what is written is read back, what is wrong is named, settings go over the file."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import asdict, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RecipeError, TomlError
from pipeline.recipes.files import RECIPES_DIR, read_recipe, recipe_names
from pipeline.recipes.preparing import load_prepare_recipe
from pipeline.recipes.training import TrainRecipe, load_recipe
from pipeline.tables import idle_values
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = TrainRecipe(name="n", architecture="span", scale=4)
SMALLEST = 'name = "n"\narchitecture = "span"\nscale = 4\n'

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    text | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


def written(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


# --- files -------------------------------------------------------------------------------------


TRAINING = [
    name
    for name in recipe_names()
    if "architecture" in tomllib.loads((RECIPES_DIR / f"{name}.toml").read_text())
]


@pytest.mark.parametrize("name", TRAINING)
def test_a_shipped_recipe_loads_and_is_named_after_its_file(name: str) -> None:
    assert load_recipe(name).name == name


@examples()
@given(text, text, st.dictionaries(text, values, max_size=3), st.floats(1e-12, 1e3))
def test_a_recipe_is_read_back_as_it_was_written(
    name: str, architecture: str, arguments: dict[str, Any], rate: float
) -> None:
    recipe = replace(
        PLAIN, name=name, architecture=architecture, arguments=arguments, learning_rate=rate
    )
    assert TrainRecipe(**tomllib.loads(recipe.to_toml())) == recipe


@pytest.mark.parametrize(
    "odd", ['"', "\\", "\n", "\t\r", "\x7f", "\0", "é", "'''", "# no", "\u2028"]
)
def test_an_odd_name_survives_a_file(tmp_path: Path, odd: str) -> None:
    recipe = replace(PLAIN, name=odd, arguments={odd: [odd, {"a b": True}], "x": {}})
    assert load_recipe(written(tmp_path / "r.toml", recipe.to_toml())) == recipe


def test_a_file_holds_every_key(tmp_path: Path) -> None:
    assert set(tomllib.loads(PLAIN.to_toml())) == {f.name for f in fields(TrainRecipe)}
    assert load_recipe(written(tmp_path / "r.toml", SMALLEST)) == PLAIN


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"name = 'n"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(TomlError, match=r"r\.toml is not a TOML"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["", "no-such", "pipeline/recipes"])
def test_an_unknown_recipe_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(RecipeError, match=r"known are .*span-x4"):
        load_recipe(name)


def test_a_recipe_that_lacks_what_has_no_default_says_what(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="lacks architecture, scale"):
        load_recipe(written(tmp_path / "r.toml", 'name = "n"'))


# --- keys and values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("step", "steps"), ("learningrate", "learning_rate"), ("acumulate", "accumulate")],
)
def test_an_unknown_key_is_answered_with_the_nearest_right_one(wrong: str, right: str) -> None:
    with pytest.raises(RecipeError, match=f"no key '{wrong}'; did you mean {right}"):
        load_recipe("span-x4", settings=[f"{wrong}=5"])


def test_a_key_like_none_is_answered_with_all_of_them() -> None:
    with pytest.raises(RecipeError, match="known are name, architecture, scale"):
        load_recipe("span-x4", settings=["qqqq=5"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps=2_000", 2000),
        ("batch=8", 8),
        ("learning_rate=1", 1.0),
        ("learning_rate=1e-4", 1e-4),
        ("compile=true", True),
        ("precision=fp32", "fp32"),
        ('precision="fp32"', "fp32"),
        ("name=my recipe", "my recipe"),
        ("name=2024", "2024"),
        ("name=true", "true"),
        ("name=2024-11-20", "2024-11-20"),
        ("name=a=b", "a=b"),
        ("name=a\nseed = 5", "a\nseed = 5"),
        ("name=1\nseed = 5", "1\nseed = 5"),
        ("name=", ""),
        ("arguments={features = 32}", {"features": 32}),
        ("arguments={}", {}),
    ],
)
def test_a_setting_is_read_as_the_type_of_its_key(setting: str, value: object) -> None:
    recipe = load_recipe("span-x4", settings=[setting])
    found = getattr(recipe, setting.partition("=")[0])
    assert found == value
    assert type(found) is type(value)
    assert recipe.seed == 1


def test_of_two_settings_of_one_key_neither_is_chosen_in_silence() -> None:
    for first, second in (("steps=5", "steps=7"), ("losses.l1=2", "losses={ mse = 1.0 }")):
        words = re.escape(f"{first} and {second} are both set, expected one of them")
        with pytest.raises(RecipeError, match=words):
            load_recipe("span-x4", settings=[first, second])
    recipe = load_recipe("span-x4", settings=["steps=7", "steps=7"])
    assert recipe == replace(load_recipe("span-x4"), steps=7)
    # A table first, and then one of its keys, says both.
    recipe = load_recipe("span-x4", settings=["losses={ mse = 1.0 }", "losses.l1=2"])
    assert recipe.losses == {"mse": 1.0, "l1": 2.0}
    with pytest.raises(RecipeError, match="count=3 and count=4 are both set"):
        load_prepare_recipe("span-x4", settings=["count=3", "prepare.count=4"])


@pytest.mark.parametrize(
    ("lines", "settings", "steps", "epochs"),
    [
        ("epochs = 3", ["steps=2"], 2, 0),
        ("steps = 9\nepochs = 3", ["steps=2"], 2, 0),
        ("steps = 9", ["epochs=3"], 9, 3),
        ("epochs = 3", ["epochs=0", "steps=2"], 2, 0),
        ("epochs = 3", [], 24_000, 3),
        ("steps = 9\nepochs = 0", [], 9, 0),
    ],
)
def test_the_command_line_says_how_long_a_training_is(
    tmp_path: Path, lines: str, settings: list[str], steps: int, epochs: int
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'name = "n"\narchitecture = "span"\nscale = 2\n{lines}\n')
    found = load_recipe(str(path), settings=settings)
    assert (found.steps, found.epochs) == (steps, epochs)


def test_steps_and_epochs_on_one_level_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "n"\narchitecture = "span"\nscale = 2\nsteps = 9\nepochs = 3\n')
    with pytest.raises(RecipeError, match="the recipe has steps = 9 and epochs = 3, expected one"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="steps and epochs are both set"):
        load_recipe("span-x4", settings=["epochs=3", "steps=2"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["milestones=[0.1]"], 'milestones is set, but has no effect: schedule is "linear", not'),
        (["schedule=cosine", "gamma=0.1"], 'gamma .* "cosine", not step or plateau'),
        (["schedule=step", "patience=3"], "patience is set, but has no effect"),
        (["schedule=constant", "decay_share=0.5"], "decay_share is set, but has no effect"),
        (["discriminator_rate=1"], 'discriminator_rate .* discriminator is "", not one'),
        (["discriminator_arguments.features=4"], "discriminator_arguments is set, but has no"),
        (["pretrain_rate=1"], "pretrain_rate .* pretrain_share is 0.0, not one; leave it out"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("span-x4", settings=settings)


def test_a_value_of_a_file_that_changes_nothing_is_said_unless_it_is_the_default() -> None:
    recipe = load_recipe("span-x4", settings=["schedule=constant"])
    share = recipe.decay_share
    assert idle_values(replace(recipe, milestones=[0.5], decay_share=0.5)) == []
    (line,) = idle_values(replace(recipe, decay_share=0.3, gamma=0.5))
    assert line == (
        'decay_share = 0.3 of recipe span-x4 has no effect: schedule is "constant", not linear'
    )
    assert share > 0


@pytest.mark.parametrize("name", recipe_names())
def test_no_shipped_recipe_says_anything_to_no_effect(name: str) -> None:
    assert idle_values(load_prepare_recipe(name)) == []
    if "architecture" in read_recipe(name):
        assert idle_values(load_recipe(name)) == []


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (RECIPES_DIR / "span-x4.toml").read_bytes())
    assert load_recipe(str(path)) == load_recipe("span-x4")
    assert load_prepare_recipe(str(path)) == load_prepare_recipe("span-x4")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "expected KEY=VALUE"),
        ("steps=many", 'steps is "many", expected a whole number'),
        ("steps=1.5", "steps is 1.5, expected a whole number"),
        ("steps=true", "steps is true, expected a whole number"),
        ("steps=", 'steps is "", expected a whole number'),
        ("compile=1", "compile is 1, expected true or false"),
        ("arguments=5", "arguments is 5, expected a table"),
        ("learning_rate='1'", "expected a number"),
        ("steps=0", "steps is 0, expected at least 1"),
        ("batch=-3", "batch is -3, expected at least 1"),
        ("seed=-1", "seed is -1, expected 0 or more"),
        ("warmup_share=-0.1", "warmup_share is -0.1, expected 0 to 1"),
        ("ema=1.5", "ema is 1.5, expected 0 to 1"),
        ("ema=nan", "ema is nan"),
        ("decay_share=-0.1", "decay_share is -0.1"),
        ("learning_rate=0", "learning_rate is 0.0"),
        ("learning_rate=nan", "learning_rate is nan"),
        ("learning_rate=inf", "learning_rate is inf"),
        ("learning_rate=1e300", r"learning_rate is 1e\+300, expected at most 1e\+06"),
        ("discriminator_rate=3e38", r"discriminator_rate is 3e\+38, expected at most"),
        ("losses={l1=1e300}", r"losses.l1 is 1e\+300, expected more than 0, at most"),
        ("precision=fp8", "precision is 'fp8'"),
        ("losses={perceptua=1.0}", "losses has 'perceptua'; did you mean perceptual?"),
        ("losses={l1=0.0}", "losses.l1 is 0.0, expected more than 0"),
        ("losses={adversarial=1.0}", "expected a discriminator and an adversarial loss, or none"),
        ("schedule=cosin", "schedule is 'cosin', expected one of constant, linear"),
        ("betas=[0.9]", "betas is .0.9., expected two numbers"),
        ("learning_rate=1" + 400 * "0", "learning_rate is larger than any number"),
        ("steps=1" + 6000 * "0", "cannot be read"),
        ("arguments=" + 3000 * "[", "cannot be read"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_value_and_what_is_wanted(
    setting: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("span-x4", settings=[setting])


def test_a_recipe_is_never_changed_by_loading_it_with_settings() -> None:
    before = asdict(load_recipe("span-x4"))
    load_recipe("span-x4", settings=["arguments={features=3}", "steps=1"])
    assert asdict(load_recipe("span-x4")) == before


# --- the learning rate ---------------------------------------------------------------------------


@examples()
@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0, 1), st.floats(1e-6, 1))
def test_the_rate_is_above_zero_at_every_step_and_never_above_its_peak(
    steps: int, warmup: float, share: float, rate: float
) -> None:
    recipe = replace(PLAIN, steps=steps, warmup_share=warmup, decay_share=share, learning_rate=rate)
    for step in range(0, steps, max(1, steps // 50)):
        assert 0 < recipe.rate(step) <= rate
    assert 0 < recipe.rate(steps - 1) <= rate


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = replace(
        PLAIN,
        steps=1000,
        warmup_share=0.1,
        schedule="linear",
        decay_share=0.4,
        learning_rate=2.0,
    )
    rates = [recipe.rate(step) for step in range(1001)]
    assert math.isclose(rates[0], 0.02)
    assert all(math.isclose(b - a, 0.02) for a, b in pairwise(rates[:100]))
    assert set(rates[99:601]) == {2.0}
    assert all(b < a for a, b in pairwise(rates[600:]))
    assert rates[1000] == 0
    assert math.isclose(rates[800], 1.0)


def test_schedules_fall_as_they_are_called_and_begin_after_pretraining() -> None:
    plain = replace(PLAIN, steps=100, learning_rate=1.0)
    cosine = replace(plain, schedule="cosine")
    assert math.isclose(cosine.rate(50), 0.5)
    assert cosine.rate(0) == 1
    step = replace(plain, schedule="step", milestones=[0.5, 0.75], gamma=0.1)
    assert [step.rate(n) for n in (49, 50, 75)] == pytest.approx([1, 0.1, 0.01])
    assert replace(plain, schedule="plateau").rate(99, fallen=0.25) == 0.25
    gan = replace(
        cosine,
        discriminator="unet",
        losses={"adversarial": 1.0},
        pretrain_share=0.2,
        pretrain_rate=3.0,
    )
    assert [gan.rate(n) for n in (19, 20, 60)] == pytest.approx([3, 1, 0.5])


def test_without_warm_up_and_decay_the_rate_is_constant() -> None:
    recipe = replace(PLAIN, steps=50, warmup_share=0.0, decay_share=0.0, learning_rate=2.0)
    assert {recipe.rate(step) for step in range(50)} == {2.0}
