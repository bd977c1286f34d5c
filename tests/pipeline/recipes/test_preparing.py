"""Recipes of preparing: what is written is read back, and what cannot be is refused at once."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.splits import check_split
from pipeline.degradation.presets import PRESETS
from pipeline.errors import RecipeError
from pipeline.recipes.files import recipe_names
from pipeline.recipes.preparing import EXTRACTIONS, PrepareRecipe, load_prepare_recipe
from pipeline.recipes.training import load_recipe
from pipeline.tables import pair
from tests.examples import examples

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = PrepareRecipe(name="n", scale=4, extract="random", patch_hr_px=96)
SMALLEST = 'name = "n"\nscale = 4\n[prepare]\nextract = "random"\npatch_hr_px = 96\n'
ONLY_PREPARE = "photographs-x4"


def written(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def load(*settings: str, recipe: str = "span-x4") -> PrepareRecipe:
    return load_prepare_recipe(recipe, settings=settings)


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_read_back_from_all_that_it_is_written_as(
    tmp_path: Path, name: str
) -> None:
    recipe = load_prepare_recipe(name)
    assert recipe.name == name
    assert load_prepare_recipe(written(tmp_path / "r.toml", recipe.to_toml())) == recipe
    assert PrepareRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    check_split(recipe.split)


def test_the_smallest_file_holds_what_has_no_default(tmp_path: Path) -> None:
    assert load_prepare_recipe(written(tmp_path / "r.toml", SMALLEST)) == PLAIN
    values = tomllib.loads(PLAIN.to_toml())
    told = values.pop("prepare")
    assert not values.keys() & told.keys()
    assert values.keys() | told.keys() == {f.name for f in fields(PrepareRecipe)}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
splits = st.dictionaries(texts, st.floats(0, 1) | st.integers(0, 99) | st.lists(texts), max_size=3)


@examples(80)
@given(
    name=texts,
    seed=st.integers(0, 2**63 - 1),
    extract=st.sampled_from(EXTRACTIONS),
    sides=st.integers(3, 50) | st.lists(st.integers(3, 50), min_size=2, max_size=2),
    variance=st.floats(0, 1e9),
    bits=st.integers(-1, 16),
    split=splits,
    presets=st.lists(st.sampled_from(sorted(PRESETS)), min_size=1, unique=True),
)
def test_any_recipe_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    seed: int,
    extract: str,
    sides: Any,
    variance: float,
    bits: int,
    split: dict[str, Any],
    presets: list[str],
) -> None:
    px = [4 * side for side in sides] if isinstance(sides, list) else 4 * sides
    recipe = replace(
        PLAIN,
        name=name,
        seed=seed,
        extract=extract,
        patch_hr_px=px,
        crop_px=list(pair("patch_hr_px", px)),
        least_variance=variance,
        duplicate_bits=bits,
        split=split,
        degradations=[{"name": preset} for preset in presets],
    )
    path = tmp_path_factory.getbasetemp() / "any.toml"
    assert load_prepare_recipe(written(path, recipe.to_toml())) == recipe
    assert PrepareRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    # With presets written out, as a dataset keeps them.
    out = replace(recipe, degradations=[d.to_table() for d in recipe.chains])
    assert PrepareRecipe.from_json(json.loads(json.dumps(out.to_json()))).chains == (recipe.chains)


def test_a_recipe_that_says_nothing_of_preparing_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "r.toml", 'name = "n"\narchitecture = "span"\nscale = 4\n')
    with pytest.raises(RecipeError, match=r"does not say how to prepare .* a table \[prepare\]"):
        load_prepare_recipe(path)
    with pytest.raises(RecipeError, match=r"a table \[prepare\]"):
        load_prepare_recipe(written(tmp_path / "r.toml", 'name = "n"\nscale = 4\nprepare = 5\n'))


def test_a_recipe_that_only_prepares_is_refused_by_training() -> None:
    with pytest.raises(RecipeError, match=r"only says how to prepare .* expected architecture"):
        load_recipe(ONLY_PREPARE)
    completed = load_recipe(ONLY_PREPARE, settings=["architecture=span"])
    assert (completed.architecture, completed.scale) == ("span", 4)


def test_a_recipe_of_both_trains_and_prepares() -> None:
    assert load_recipe("span-x4").scale == load_prepare_recipe("span-x4").scale == 4


def test_what_is_common_is_told_once(tmp_path: Path) -> None:
    inside = 'name = "n"\nscale = 4\nextract = "random"\npatch_hr_px = 96\n'
    assert load_prepare_recipe(written(tmp_path / "r.toml", f"[prepare]\n{inside}")) == PLAIN
    twice = f"scale = 4\n[prepare]\n{inside}"
    with pytest.raises(RecipeError, match=r"recipe has scale twice; leave it out of \[prepare\]"):
        load_prepare_recipe(written(tmp_path / "r.toml", twice))


@pytest.mark.parametrize("name", ["", "no-such", "pipeline/recipes"])
def test_an_unknown_recipe_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(RecipeError, match=r"known are .*swish-x4"):
        load_prepare_recipe(name)


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "wrong", "right"),
    [
        (SMALLEST + "cuont = 5\n", "cuont", "count"),
        (SMALLEST + "patch_px = 5\n", "patch_px", "patch_hr_px"),
        ("scael = 4\n" + SMALLEST, "scael", "scale"),
        ("architectur = 'span'\n" + SMALLEST, "architectur", "architecture"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(
    tmp_path: Path, content: str, wrong: str, right: str
) -> None:
    with pytest.raises(RecipeError, match=f"no key '{wrong}'; did you mean {right}"):
        load_prepare_recipe(written(tmp_path / "r.toml", content))


def test_a_key_like_none_is_answered_with_all_in_their_order(tmp_path: Path) -> None:
    path = written(tmp_path / "r.toml", "qqqq = 5\n" + SMALLEST)
    with pytest.raises(RecipeError, match="known are name, architecture, scale, channels"):
        load_prepare_recipe(path)


def test_a_recipe_lacks_what_has_no_default(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="recipe lacks name, scale, extract, patch_hr_px"):
        load_prepare_recipe(written(tmp_path / "r.toml", "[prepare]\ncount = 3\n"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"extra": 1}, "no key 'extra'"),
        ({"scale": 2.0}, "scale is 2.0, expected a whole number"),
        ({"split": []}, r"split is \[\], expected a table"),
    ],
)
def test_values_of_another_upres_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        PrepareRecipe.from_json({**PLAIN.to_json(), **values})
    with pytest.raises(RecipeError, match="recipe lacks name"):
        PrepareRecipe.from_json({})


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("patch_hr_px=[112,92]", "patch_hr_px", [112, 92]),
        ("patch_hr_px=48", "patch_hr_px", 48),
        ("split.test=0.1", "split", {"validation": 0.05, "test": 0.1}),
        ("split.validation=0.2", "split", {"validation": 0.2}),
        ("split.test=names.txt", "split", {"validation": 0.05, "test": "names.txt"}),
        ('split.test=["a*", "b"]', "split", {"validation": 0.05, "test": ["a*", "b"]}),
        ("split={}", "split", {}),
        ("split={train = 7200, test = 300}", "split", {"train": 7200, "test": 300}),
        ("least_variance=10", "least_variance", 10.0),
        ("duplicate_bits=-1", "duplicate_bits", -1),
        ("seed=9223372036854775807", "seed", 2**63 - 1),
        ('degradations=[{name = "mild"}]', "degradations", [{"name": "mild"}]),
        ("extract=grid", "extract", "grid"),
        ("name=2024", "name", "2024"),
        ("channels=1", "channels", 1),
        ("prepare.patch_hr_px=[32,64]", "patch_hr_px", [32, 64]),
        ("prepare.split.validation=0.2", "split", {"validation": 0.2}),
    ],
)
def test_a_setting_replaces_one_value_and_no_other(setting: str, key: str, value: Any) -> None:
    recipe, plain = load(setting), load()
    assert getattr(recipe, key) == value
    assert type(getattr(recipe, key)) is type(value)
    assert asdict(recipe) == {**asdict(plain), key: value}


def test_settings_never_change_what_is_loaded_next() -> None:
    before = asdict(load())
    load("split.test=0.5", "degradations=[]", 'pairs=["mild"]', "patch_hr_px=[4,4]")
    assert asdict(load()) == before
    default = PrepareRecipe(name="n", scale=4, extract="random", patch_hr_px=96)
    default.split["test"] = 1
    default.degradations.clear()
    assert PrepareRecipe(name="n", scale=4, extract="random", patch_hr_px=96) == PLAIN


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("count", "expected KEY=VALUE"),
        ("cuont=5", "no key 'cuont'; did you mean count"),
        ("splits.test=0.1", "no key 'splits'; did you mean split"),
        (".test=0.1", "no key ''"),
        ("=5", "no key ''"),
        ("count.a=5", r"count\.a is set, but count is not a table"),
        ("split.test.a=5", r"split\.test is \{'a': 5\}, expected a fraction"),
        (
            "degradations.name=bicubic",
            r"degradations\.name is set, but degradations is not a table",
        ),
        ("count=many", 'count is "many", expected a whole number'),
        ("count=1.5", "count is 1.5, expected a whole number"),
        ("count=true", "count is true, expected a whole number"),
        ("patch_hr_px=big", 'patch_hr_px is "big", expected a whole number or a list'),
        ("patch_hr_px=true", "patch_hr_px is true, expected a whole number or a list"),
        ("patch_hr_px=[4,4,4]", r"patch_hr_px is \[4, 4, 4\], expected one or two numbers"),
        ("patch_hr_px=[4]", "expected one or two numbers"),
        ("patch_hr_px=[4,true]", "expected one or two numbers"),
        ("patch_hr_px=[4,4.0]", "expected one or two numbers"),
        ("patch_hr_px=0", "expected one or two numbers of at least 1"),
        ("patch_hr_px=[8,-4]", "of at least 1"),
        ("patch_hr_px=97", "patch_hr_px is 97x97, expected multiples of the scale 4"),
        ("patch_hr_px=[96,97]", "patch_hr_px is 96x97, expected multiples of the scale 4"),
        ("stride_px=-1", "stride_px is -1, expected one or two numbers of at least 0"),
        ("stride_px=[8]", r"stride_px is \[8\]"),
        ("split=half", 'split is "half", expected a table'),
        ("scale=0", "scale is 0, expected at least 1"),
        ("count=0", "count is 0, expected at least 1"),
        ("candidates=0", "candidates is 0, expected at least 1"),
        ("seed=-1", "seed is -1, expected 0 or more"),
        (
            "seed=9223372036854775808",
            r"seed is 9223372036854775808, expected 0 or more and less than 2\*\*63",
        ),
        ("least_variance=nan", "least_variance is nan, expected at least 0"),
        ("least_variance=inf", "least_variance is inf"),
        ("least_gradient=nan", "least_gradient is nan"),
        ("least_gradient=-inf", "least_gradient is -inf"),
        ("least_gradient=-0.1", "least_gradient is -0.1"),
        ("duplicate_bits=17", "duplicate_bits is 17, expected 0 to 16, or -1"),
        ("duplicate_bits=-2", "duplicate_bits is -2"),
        ("channels=2", "channels is 2, expected one of 1, 3"),
        ("channels=4", "channels is 4"),
        ("extract=all", "extract is 'all', expected one of random, grid, whole, crops"),
        ("corner=inner", "corner is 'inner', expected one of anywhere, inner-half"),
        ("fit=pad", "fit is 'pad', expected one of stretch, crop"),
        ("degradations=[]", r"LR versions are \[\], expected one or more"),
        ('degradations=[{name="a", preset="mild"}, {name="a", preset="wild"}]', "each once"),
        ('degradations=["bicubic"]', "degradation is 'bicubic', expected a table"),
        ('degradations=[{name="bicubik"}]', "bicubic"),
        ("degradations=[{}]", "degradation has name None"),
        ('pairs=["bicubic"]', r"LR versions are \['bicubic', 'bicubic'\]"),
        ("pairs=[1]", "pairs has 1, expected names"),
        ('pairs=["../up"]', r"degradation is called '\.\./up', expected a word"),
        ('pairs=[""]', "is called ''"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_is_wanted(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        # What a split may hold is told once its files are read.
        check_split(load(setting).split)


# --- values that must fit each other -----------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"extract": "crops"}, "crop_px is 0, expected one or two"),
        ({"extract": "crops", "crop_px": [96]}, r"crop_px is \[96\]"),
        (
            {"extract": "crops", "crop_px": [96, 100]},
            "crop_px is 96x100, expected multiples of patch_hr_px 96x96",
        ),
        ({"pairs": ["mild"], "extract": "whole"}, "extract is 'whole', which LR files cannot"),
        ({"pairs": ["mild"], "extract": "grid", "stride_px": 6}, "expected multiples of the scale"),
        ({"duplicate_bits": 0, "patch_hr_px": [4, 96]}, "4x96, expected at least 8x9"),
        ({"duplicate_bits": 4, "patch_hr_px": 8}, "8x8, expected at least 8x9 to tell duplicates"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(PLAIN, **values)


def test_sides_are_rows_and_columns() -> None:
    recipe = replace(PLAIN, patch_hr_px=[112, 92], stride_px=[0, 8])
    assert (recipe.patch_px, recipe.stride) == ((112, 92), (112, 8))
    assert (PLAIN.patch_px, PLAIN.stride) == ((96, 96), (96, 96))
    assert replace(PLAIN, extract="crops", crop_px=[96, 192]).crop == (96, 192)


def test_lr_versions_that_come_as_files_are_not_computed() -> None:
    both = replace(PLAIN, degradations=[{"name": "bicubic"}, {"name": "mild"}])
    assert both.lr_versions == ["bicubic", "mild"]
    paired = both.paired(["mild", "wild"])
    assert paired.lr_versions == ["bicubic", "mild", "wild"]
    assert [degradation.name for degradation in paired.chains] == ["bicubic"]
    assert paired.pairs == ["mild", "wild"]
    assert both.pairs == []
    assert PLAIN.paired(["bicubic"]).chains == ()
    with pytest.raises(RecipeError, match="degradation is called 'X4'"):
        PLAIN.paired(["X4"])


def test_every_shipped_recipe_says_how_to_split() -> None:
    for name in recipe_names():
        assert "validation" in load_prepare_recipe(name).split, name


def test_the_shipped_sizes_are_those_of_the_literature() -> None:
    sizes = {
        name: (recipe.scale, recipe.channels, recipe.patch_px)
        for name in recipe_names()
        for recipe in [load_prepare_recipe(name)]
    }
    assert sizes["srgan-faces-64"] == (4, 3, (64, 64))
    assert sizes["srgan-faces-96"] == (4, 3, (96, 96))
    assert sizes["dcgan-x4"] == (4, 3, (64, 64))
    assert sizes["dcgan-denoise"] == sizes["dcgan-deblur"] == (1, 3, (64, 64))
    assert sizes["swish-gray-x2"] == (2, 1, (112, 92))
    assert sizes["swish-x4"] == (4, 3, (96, 96))
    assert sizes["swish-x4-halves"] == (4, 3, (648, 556))
