"""Features that torchvision has, taken once and kept as safetensors.

torchvision itself cannot be imported beside the CPU build of torch, so a package of its name stands
in, with the two calls that are made of it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from models.imagenet import torchvision_file
from models.lpips import alexnet
from models.vgg import load_vgg, vgg
from pipeline.errors import RecipeError
from pipeline.training.objective import FeatureFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = """
import torch
from pathlib import Path

ASKED = []

class Weights:
    def __init__(self, network):
        self.network = network

    def get_state_dict(self, **options):
        assert options == {"weights_only": True}
        ASKED.append(self.network)
        file = Path(__file__).with_name(f"{self.network}.pth")
        if not file.exists():
            raise OSError("no route to the host")
        return torch.load(file, **options)

def get_model_weights(network):
    return {"IMAGENET1K_V1": Weights(network)}
"""


@pytest.fixture
def torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package called torchvision for one test, and give the folder for its weights."""
    folder = tmp_path / "site" / "torchvision"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    before = {name: m for name, m in sys.modules.items() if name.startswith("torchvision")}
    for name in before:
        del sys.modules[name]
    yield folder
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    sys.modules.update(before)


def test_its_weights_are_taken_once_and_kept_without_the_classifier(torchvision: Path) -> None:
    torch.manual_seed(0)
    weights = vgg("vgg16").state_dict() | {"classifier.0.weight": torch.zeros(2, 2)}
    torch.save(weights, torchvision / "vgg16.pth")
    file = torchvision_file("vgg16")
    assert torchvision_file("vgg16") == file
    assert sys.modules["torchvision.models"].ASKED == ["vgg16"]
    assert set(load_file(file)) == set(weights) - {"classifier.0.weight"}
    loaded = load_vgg(file, network="vgg16").state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in loaded)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_pickle_that_is_more_than_tensors_is_refused(torchvision: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"features.0.weight": Evil()}, torchvision / "vgg19.pth")
    with pytest.raises(ValueError, match="torchvision gives no features of vgg19"):
        torchvision_file("vgg19")
    assert not (tmp_path / "touched").exists()


def test_what_cannot_be_downloaded_is_told_in_one_line(torchvision: Path) -> None:
    with pytest.raises(RecipeError, match=r"vgg19 \(no route to the host\).*--features") as met:
        FeatureFiles.named([Path("torchvision")]).find("vgg19")
    assert "\n" not in str(met.value)


def test_where_it_is_not_installed_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("models.imagenet.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="torchvision is not installed; install it, or name"):
        torchvision_file("alexnet")


def test_a_users_own_file_goes_before_torchvisions(torchvision: Path, tmp_path: Path) -> None:
    own = tmp_path / "alexnet.safetensors"
    own.touch()
    torch.save(alexnet().state_dict(), torchvision / "alexnet.pth")
    both = FeatureFiles.named([Path("torchvision"), own])
    assert both.find("alexnet") == own
    found = FeatureFiles.named([Path("torchvision")]).find("alexnet")
    assert found is not None
    assert "upres" in found.parts
    assert FeatureFiles.named([own]).find("vgg16") is None
