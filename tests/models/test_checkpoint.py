"""Checkpoints: what was saved is loaded bit for bit, and no file can do more than hold numbers."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from models import registry
from models.checkpoint import SPEC_KEY, load, load_file, to_bytes
from models.spec import ModelSpec
from tests.examples import examples

SPEC = ModelSpec(name="tiny", architecture="span", scale=2, channels=3, arguments={"features": 4})


def weights(spec: ModelSpec = SPEC) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return registry.build(spec).state_dict()


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def with_spec(path: Path, text: str) -> Path:
    return saved(path, save(weights(), metadata={SPEC_KEY: text}))


def changed(**values: Any) -> str:
    return json.dumps({**asdict(SPEC), **values})


# --- round trip --------------------------------------------------------------------------------


def test_a_model_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    content = to_bytes(SPEC, weights())
    model = load_file(saved(tmp_path / "m.safetensors", content))
    assert model.spec == SPEC
    assert model.sha256 == hashlib.sha256(content).hexdigest()
    assert not model.network.training
    for name, tensor in weights().items():
        assert torch.equal(model.network.state_dict()[name], tensor)
    assert load(str(tmp_path / "m.safetensors")).sha256 == model.sha256


def test_weights_in_channels_last_are_saved_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = registry.build(SPEC).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert to_bytes(SPEC, network.state_dict()) == to_bytes(SPEC, weights())


SAVING = """
import hashlib, torch
from models import checkpoint
from models import registry
from models.spec import ModelSpec
spec = ModelSpec(name="tiny", architecture="span", scale=2, channels=3, arguments={"features": 4})
torch.manual_seed(0)
print(hashlib.sha256(checkpoint.to_bytes(spec, registry.build(spec).state_dict())).hexdigest())
"""


@pytest.mark.slow
def test_the_same_weights_have_the_same_sha256_in_every_process() -> None:
    mine = hashlib.sha256(to_bytes(SPEC, weights())).hexdigest()
    run = [sys.executable, "-c", SAVING]
    assert subprocess.check_output(run, text=True).strip() == mine
    assert {to_bytes(SPEC, weights()) for _ in range(20)} == {to_bytes(SPEC, weights())}


def test_another_weight_or_another_spec_is_another_sha256(tmp_path: Path) -> None:
    other = weights()
    other["head.bias"] = other["head.bias"].clone()
    other["head.bias"][0] += 1e-3
    described = ModelSpec(**{**asdict(SPEC), "summary": "another"})
    contents = [to_bytes(SPEC, weights()), to_bytes(SPEC, other), to_bytes(described, weights())]
    found = {load_file(saved(tmp_path / "m.safetensors", c)).sha256 for c in contents}
    assert len(found) == 3


@examples()
@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False)),
)
def test_a_spec_is_read_back_as_it_was_written(name: str, scores: dict[str, float]) -> None:
    spec = ModelSpec(name=name, architecture="span", scale=4, channels=3, scores=scores)
    assert ModelSpec.from_json(spec.to_json()) == spec


# --- files that are no checkpoint ----------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["pickle", "torch.save", "old torch.save", "renamed"])
def test_a_pickled_checkpoint_is_refused_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("m.safetensors" if kind == "renamed" else "m.pth")
    if kind in ("pickle", "renamed"):
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"weights": Bomb()}, path, _use_new_zipfile_serialization=kind == "torch.save")
    with pytest.raises(ValueError, match=r"m\.\w+ is not a readable safetensors .*never opened"):
        load(str(path))
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    content = to_bytes(SPEC, weights())
    for length in [*range(0, 300, 13), *range(300, len(content), 997), len(content) - 1]:
        with pytest.raises(ValueError, match="not a readable safetensors"):
            load_file(saved(tmp_path / "m.safetensors", content[:length]))


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_checkpoint_is_refused_or_has_another_sha256(
    tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(to_bytes(SPEC, weights()))
    good = hashlib.sha256(content).hexdigest()
    header = 8 + int.from_bytes(content[:8], "little")
    at = data.draw(st.integers(0, header + 50))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = load_file(saved(tmp_path / "m.safetensors", bytes(content)))
    except ValueError:
        return
    assert found.sha256 != good


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ValueError, match="not a readable safetensors"):
            load_file(path)


def test_safetensors_of_others_are_refused_for_lack_of_a_spec(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        with pytest.raises(ValueError, match=f"carries no {SPEC_KEY}"):
            load_file(saved(tmp_path / "m.safetensors", save(weights(), metadata=metadata)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(colour="red"), r"unknown keys \['colour'\], known are .*'architecture'"),
        (changed(architecture="spam"), "architecture is 'spam', expected one of .*'span'"),
        (changed(arguments={"depth": 3}), "refuses arguments {'depth': 3}"),
        (changed(arguments={"features": -1}), "refuses arguments {'features': -1}"),
        (changed(arguments={"features": "4"}), "refuses arguments {'features': '4'}"),
        (changed(arguments=[4]), r"arguments is \[4\], expected dict"),
        (changed(scale="2"), "scale is '2', expected int"),
        (changed(scale=True), "scale is True, expected int"),
        (changed(scale=0), "scale is 0"),
        (changed(architecture="bicubic", arguments={}, scale=10**6), "expected 1 to 16"),
        (100_000 * "[", "nested too deeply"),
        (changed(channels=-3), "channels is -3"),
        (changed(name=None), "name is None, expected str"),
        ('{"name": "x"}', r"lacks \['architecture', 'channels', 'scale'\]"),
        ("[]", "model spec is list, expected a JSON object"),
        ("{", "m.safetensors"),
        (changed(scale=3), "does not fit its own spec"),
        (changed(arguments={"features": 5}), "does not fit its own spec"),
    ],
)
def test_a_wrong_spec_is_a_value_error_that_names_file_and_value(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_file(with_spec(tmp_path / "m.safetensors", text))
    assert "m.safetensors" in str(caught.value)


@pytest.mark.parametrize("change", ["one too few", "one too many"])
def test_weights_that_are_not_those_of_the_network_are_refused(tmp_path: Path, change: str) -> None:
    some = weights()
    if change == "one too few":
        del some["join.bias"]
    else:
        some["more.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"(?s)does not fit its own spec.*(join|more)\.bias"):
        load_file(saved(tmp_path / "m.safetensors", to_bytes(SPEC, some)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_weights_that_are_not_finite_in_fp32_are_refused(tmp_path: Path, value: float) -> None:
    some = weights()
    some["tail.bias"] = some["tail.bias"].double()
    some["tail.bias"][1] = value
    with pytest.raises(ValueError, match=r"weights tail\.bias hold NaN or infinity"):
        load_file(saved(tmp_path / "m.safetensors", to_bytes(SPEC, some)))


def test_a_file_replaced_while_it_is_read_never_mixes_with_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {name: tensor + 1 for name, tensor in weights().items()}
    path = saved(tmp_path / "m.safetensors", to_bytes(SPEC, weights()))
    plain = Path.read_bytes

    def read_then_replace(file: Path) -> bytes:
        content = plain(file)
        file.write_bytes(to_bytes(SPEC, other))
        return content

    monkeypatch.setattr(Path, "read_bytes", read_then_replace)
    model = load_file(path)
    assert model.sha256 == hashlib.sha256(to_bytes(SPEC, weights())).hexdigest()
    assert torch.equal(model.network.state_dict()["head.bias"], weights()["head.bias"])


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names())
def test_every_listed_model_loads_under_its_name(name: str) -> None:
    assert load(name).spec.name == name


def test_a_bare_baseline_means_x4() -> None:
    assert load("bicubic").spec == load("bicubic-x4").spec
    assert load("bicubic").sha256 != load("bicubic-x2").sha256


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("bicubic-4x", "bicubic-x4"), ("lancsoz-x2", "lanczos-x2"), ("nearest_x3", "nearest-x3")],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"no model is called '{wrong}'.*did you mean {right}"):
        load(wrong)


@pytest.mark.parametrize("name", ["", "qqqq", "models", "neighbour-average-x3", "bicubic-x0"])
def test_what_is_no_model_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"no model is called|only doubles"):
        load(name)
