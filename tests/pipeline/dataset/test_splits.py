"""Splits: as many pictures as were asked for, told by name, and none ever changes sides."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.splits import assign_splits, check_split, with_lists_read
from pipeline.errors import RecipeError
from tests.examples import examples

if TYPE_CHECKING:
    import random
    from pathlib import Path

few = examples(80)


def names(count: int, start: int = 0) -> list[str]:
    return [f"{n:05}.png" for n in range(start, start + count)]


def split(items: list[str], wanted: dict[str, Any], seed: int = 1, **before: str) -> dict[str, str]:
    return assign_splits(items, wanted, seed=seed, before=before)


def counts(items: int, wanted: dict[str, Any]) -> tuple[int, int, int]:
    """Return how many train, validate and test; the others are left out."""
    found = Counter(split(names(items), wanted).values())
    return found["train"], found["validation"], found["test"]


EIGHT_ONE_ONE = {"train": 0.8, "validation": 0.1, "test": 0.1}


@pytest.mark.parametrize(
    ("wanted", "items", "expected"),
    [
        (EIGHT_ONE_ONE, 10, (8, 1, 1)),
        (EIGHT_ONE_ONE, 1000, (800, 100, 100)),
        (EIGHT_ONE_ONE, 1, (1, 0, 0)),
        (EIGHT_ONE_ONE, 4, (2, 1, 1)),
        (EIGHT_ONE_ONE, 7, (5, 1, 1)),
        ({"validation": 0.05, "test": 0.05}, 100, (90, 5, 5)),
        ({"validation": 0.05, "test": 0.05}, 10, (8, 1, 1)),
        ({"validation": 0.05}, 20, (19, 1, 0)),
        ({"validation": 0.05}, 3, (2, 1, 0)),
        ({"validation": 0.05}, 1, (1, 0, 0)),
        ({"validation": 0.5, "test": 0.5}, 3, (0, 2, 1)),
        ({"validation": 0.5, "test": 0.5}, 1, (0, 1, 0)),
        ({"train": 0.34, "validation": 0.33, "test": 0.33}, 1, (1, 0, 0)),
        ({"train": 0.33, "validation": 0.56, "test": 0.11}, 100, (33, 56, 11)),
        ({"train": 0.7, "validation": 0.2, "test": 0.1}, 10, (7, 2, 1)),
        ({"train": 0.5, "validation": 0.1}, 10, (5, 1, 0)),
        ({"train": 0.1, "validation": 0.05, "test": 0.05}, 10, (1, 1, 1)),
        ({"test": 1.0}, 7, (0, 0, 7)),
        ({}, 7, (7, 0, 0)),
        ({"train": 7200, "validation": 300, "test": 2100}, 9600, (7200, 300, 2100)),
        ({"train": 7200, "validation": 300, "test": 2100}, 10000, (7200, 300, 2100)),
        ({"train": 7200, "validation": 300, "test": 2100}, 9599, (7199, 300, 2100)),
        ({"train": 7200, "validation": 300, "test": 2100}, 2400, (0, 300, 2100)),
        ({"validation": 3}, 10, (7, 3, 0)),
        ({"train": 4}, 10, (4, 0, 0)),
        ({"train": 0, "test": 2}, 10, (0, 0, 2)),
    ],
)
def test_a_split_has_as_many_pictures_as_were_asked_for(
    wanted: dict[str, Any], items: int, expected: tuple[int, int, int]
) -> None:
    assert counts(items, wanted) == expected


@st.composite
def fractions(draw: st.DrawFn) -> dict[str, float]:
    """Return fractions in hundredths of any of the splits, of more than 0 and at most 1 in all."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=3, max_size=3)))
    parts = (cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1])
    shares = dict(zip(("test", "train", "validation"), (n / 100 for n in parts), strict=True))
    found = {name: share for name, share in shares.items() if share or draw(st.booleans())}
    return found if any(found.values()) else {"train": 1.0}


@few
@given(fractions(), st.integers(0, 60))
def test_fractions_never_want_more_than_there_is_and_leave_nobody_out_if_they_are_all(
    wanted: dict[str, float], items: int
) -> None:
    found = Counter(split(names(items), wanted).values())
    assert sum(found.values()) == items
    for name in ("validation", "test"):
        share = wanted.get(name, 0)
        assert found[name] <= max(share > 0, int(share * items + 0.5))
        # Rounding may leave validation one more than half, and so the test one less.
        assert found[name] >= int(wanted.get(name, 0) * items + 0.5) - 1
    if "train" not in wanted or round(100 * sum(wanted.values())) == 100:
        assert found[""] == 0
    else:
        assert abs(found["train"] - wanted["train"] * items) < 3


@few
@given(fractions(), st.integers(0, 30), st.randoms())
def test_a_split_does_not_depend_on_the_order_of_pictures_or_of_its_keys(
    wanted: dict[str, float], items: int, rng: random.Random
) -> None:
    shuffled, keys = names(items), list(wanted)
    rng.shuffle(shuffled)
    rng.shuffle(keys)
    assert split(names(items), wanted) == split(shuffled, {key: wanted[key] for key in keys})


def test_another_seed_draws_others_and_neither_draws_the_first_in_the_alphabet() -> None:
    wanted = {"test": 0.2}
    tests = [
        {item for item, name in split(names(100), wanted, seed=seed).items() if name == "test"}
        for seed in (1, 2)
    ]
    assert len(tests[0] & tests[1]) < 15
    assert all(len(found & set(names(20))) < 15 for found in tests)


WANTED: list[dict[str, Any]] = [
    {"validation": 0.1, "test": 0.1},
    EIGHT_ONE_ONE,
    {"validation": 0.5, "test": 0.5},
    {"train": 0.3, "test": 0.3},
    {"train": 10, "validation": 2, "test": 3},
    {"validation": 2},
    {"test": ["*7.png"]},
    {},
]


@few
@given(st.sampled_from(WANTED), st.lists(st.integers(0, 8), max_size=12))
def test_nobody_changes_sides_when_pictures_are_added(
    wanted: dict[str, Any], added: list[int]
) -> None:
    before: dict[str, str] = {}
    total = 5
    for more in [5, *added]:
        fresh = assign_splits(
            [*names(more, start=total), *before], wanted, seed=1, before=dict(before)
        )
        total += more
        assert not fresh.keys() & before.keys()
        # Who found no room is no part of the dataset, and is not asked again.
        before |= {item: name for item, name in fresh.items() if name}
    sizes = Counter(before.values())
    if all(isinstance(value, int) for value in wanted.values()):
        assert all(sizes[name] <= size for name, size in wanted.items())
    elif wanted == EIGHT_ONE_ONE:
        assert len(before) == total - 5
        assert abs(sizes["test"] - len(before) / 10) <= 1


def test_what_was_said_before_counts_towards_what_is_wanted() -> None:
    before = {"a": "test", "b": "test", "c": "train"}
    found = assign_splits(names(7), {"test": 0.3}, seed=1, before=before)
    assert Counter(found.values()) == {"test": 1, "train": 6}
    found = assign_splits([*names(3), "a"], {"test": 2}, seed=1, before=before)
    assert Counter(found.values()) == {"train": 3}


def test_a_picture_that_is_named_twice_is_one_picture() -> None:
    assert len(split([*names(4), *names(4)], {"test": 0.5})) == 4


# --- lists -------------------------------------------------------------------------------------


def test_globs_say_who_is_held_out_and_the_rest_trains() -> None:
    items = ["a/1.png", "a/2.png", "b/1.png", "b/2.jpg"]
    found = split(items, {"test": ["b/*"], "validation": ["*/2.*"]})
    assert found == {
        "a/1.png": "train",
        "a/2.png": "validation",
        "b/1.png": "test",
        "b/2.jpg": "validation",
    }


def test_who_is_on_no_list_is_left_out_where_training_has_one() -> None:
    found = split(["a", "b", "c"], {"train": ["a"], "test": ["b"]})
    assert found == {"a": "train", "b": "test", "c": ""}


def test_who_is_on_two_lists_is_held_out() -> None:
    assert split(["a"], {"train": ["*"], "test": ["a"]}) == {"a": "test"}


def test_a_name_with_brackets_is_itself_and_case_matters() -> None:
    found = split(["set[1].png", "set1.png", "SET1.PNG"], {"test": ["set[1].png"]})
    assert found == {"set[1].png": "test", "set1.png": "test", "SET1.PNG": "train"}


def test_a_file_names_one_picture_a_line(tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_bytes("\ufeffä.png\r\n\r\n  b.png \nb*.jpg".encode())
    read = with_lists_read({"test": str(path), "train": ["x"], "validation": 0.5})
    assert read == {"test": ["ä.png", "b.png", "b*.jpg"], "train": ["x"], "validation": 0.5}
    found = split(["ä.png", "b.png", "b1.jpg", "c.png"], {"test": read["test"]})
    assert [found[item] for item in sorted(found)] == ["test", "test", "train", "test"]


@pytest.mark.parametrize("name", ["missing.txt", "", ".", "a\0b", "x" * 300])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    with pytest.raises(RecipeError, match=r"split\.test is .* cannot be read as a list"):
        with_lists_read({"test": name})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(RecipeError, match="one item a line"):
        with_lists_read({"test": str(tmp_path / "a.png")})


def test_lists_of_many_thousand_names_take_no_time() -> None:
    items = names(20_000)
    started = time.process_time()
    found = split(items, {"validation": items[::10], "test": items[5::10]})
    assert time.process_time() - started < 5
    assert Counter(found.values()) == {"train": 16_000, "validation": 2_000, "test": 2_000}


# --- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"train": 0.9, "test": 0.2}, r"split adds up to 1.1, expected at most 1"),
        ({"train": 0.0}, r"split gives no pictures to any part \(train = 0.0\), expected a share"),
        ({"train": 0, "test": 0}, "split gives no pictures to any part .* leave train out"),
        ({"valid": 0.1}, "split has 'valid', expected train, validation, test"),
        ({"": 0.1}, "split has ''"),
        ({"train": 0.9, "test": 100}, "split mixes counts and fractions .*set all of"),
        ({"train": 0.5, "validation": 3, "test": ["a"]}, "mixes counts and fractions"),
        ({"test": -1}, r"split\.test is -1, expected a fraction"),
        ({"test": -0.1}, r"split\.test is -0.1"),
        ({"test": 1.1}, r"split\.test is 1.1"),
        ({"test": float("nan")}, r"split\.test is nan"),
        ({"test": True}, r"split\.test is True"),
        ({"test": "list.txt"}, r"split\.test is 'list.txt'"),
        ({"test": [1]}, r"split\.test is \[1\]"),
        ({"test": {"a": 1}}, r"split\.test is \{'a': 1\}"),
        ({"test": None}, r"split\.test is None"),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_what_is_wanted(
    wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_split(wanted)
    with pytest.raises(RecipeError, match=message):
        split(names(3), wanted)


@pytest.mark.parametrize("items", [0, 1, 299, 2399])
def test_fewer_pictures_than_are_to_be_held_out_are_refused_with_both_numbers(items: int) -> None:
    wanted = {"train": 7200, "validation": 300, "test": 2100}
    message = f"wants 300 for validation and 2100 for test, but there are {items} pictures; lower"
    with pytest.raises(RecipeError, match=message):
        split(names(items), wanted)


@few
@given(fractions(), st.integers(0, 6))
def test_fractions_of_however_few_pictures_are_never_refused(
    wanted: dict[str, float], items: int
) -> None:
    assert len(split(names(items), wanted)) == items


def test_an_expression_that_finds_nothing_is_refused() -> None:
    wanted = {"validation": 0.5}
    with pytest.raises(RecipeError, match=r"finds nothing in the names of 2 pictures, such as a"):
        assign_splits(["b", "a"], wanted, seed=1, before={}, group="^(x[0-9]+)_")
    assert len(assign_splits(["b", "x1_"], wanted, seed=1, before={}, group="^(x[0-9]+)_")) == 2
    assert not assign_splits([], wanted, seed=1, before={}, group="^(x[0-9]+)_")


def test_a_list_that_names_no_picture_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"split\.test names none of the 2 pictures, such as a"):
        assign_splits(["a.png", "b.png"], {"test": ["a", "b"]}, seed=1, before={})


@pytest.mark.parametrize("wanted", [{"validation": 0.5, "test": 0}, {"validation": 1, "test": 0}])
def test_a_zero_goes_with_fractions_and_with_counts(wanted: dict[str, float]) -> None:
    found = assign_splits(["a.png", "b.png"], wanted, seed=1, before={})
    assert sorted(found.values()) == ["train", "validation"]


@pytest.mark.parametrize("wanted", [{"validation": 0.0}, {"validation": 0, "test": 0.0}, {}])
def test_where_nothing_is_held_out_all_train(wanted: dict[str, float]) -> None:
    found = assign_splits(["a.png", "b.png"], wanted, seed=1, before={})
    assert found == {"a.png": "train", "b.png": "train"}


def test_a_list_goes_with_fractions_of_the_others() -> None:
    wanted = {"test": ["s1_*"], "validation": 0.5}
    items = ["s1_1", "s1_2", *names(10)]
    found = assign_splits(items, wanted, seed=1, before={})
    assert [found["s1_1"], found["s1_2"]] == ["test", "test"]
    assert Counter(found[item] for item in names(10)) == {"train": 5, "validation": 5}


def test_pictures_of_a_group_stay_together_also_when_one_comes_later() -> None:
    people = [f"s{person}_{n}.png" for person in range(20) for n in range(5)]
    wanted = {"validation": 0.1, "test": 0.2}
    found = assign_splits(people, wanted, seed=3, before={}, group=r"^(s\d+)_")
    for person in range(20):
        assert len({found[f"s{person}_{n}.png"] for n in range(5)}) == 1
    assert Counter(found.values()) == {"train": 70, "validation": 10, "test": 20}
    later = [f"s{person}_9.png" for person in range(20)]
    more = assign_splits(later, wanted, seed=3, before=found, group=r"^(s\d+)_")
    assert all(more[f"s{n}_9.png"] == found[f"s{n}_0.png"] for n in range(20))


def test_a_group_that_is_no_expression_is_refused() -> None:
    with pytest.raises(RecipeError, match="not a regular expression"):
        assign_splits(["a"], {}, seed=1, before={}, group="(")
