"""The generators of the literature: their sizes, that they learn, and that tiles are the whole."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.blocks import doublings, folded
from models.reach import reach_px
from models.registry import BUILDERS, build
from models.spec import ModelSpec
from models.tile_independent import in_pairs
from pipeline.compute.inference import Inference
from pipeline.compute.threads import in_threads
from tests.examples import pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class System:
    """A network as it is published, and a small one of the same kind for tests."""

    architecture: str
    scale: int
    parameters: int
    reach: int
    channels: int = 3
    small: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.architecture}-x{self.scale}"

    def network(self, **arguments: Any) -> nn.Module:
        """Return the network in training mode, always with the same weights."""
        torch.manual_seed(0)
        builder = BUILDERS[self.architecture]
        return builder(scale=self.scale, channels=self.channels, **arguments)


SYSTEMS = [
    # 1.5 M in the paper, 1,549 K in most counts of it.
    System("srresnet", 4, 1_548_547, 40, small={"features": 8, "blocks": 2}),
    System("srresnet", 2, 1_400_771, 40, small={"features": 8, "blocks": 2}),
    System("dcgan", 4, 2_002_179, 13, small={"features": 16}),
    System("dcgan", 2, 1_854_339, 14, small={"features": 16}),
    System("dcgan", 1, 1_706_499, 15, small={"features": 16}),
    System("swishgan-grey", 2, 117_404, 34, channels=1, small={"features": 20}),
    System("swishgan-colour", 4, 140_288, 38, small={"features": 20}),
    # 57 K and 665 K in the papers.
    System("srcnn", 4, 57_281, 4),
    System("srcnn", 3, 57_281, 4),
    System("vdsr", 4, 665_921, 7, small={"features": 16}),
    System("vdsr", 2, 665_921, 12, channels=1, small={"features": 16}),
]
each_system = pytest.mark.parametrize("system", SYSTEMS, ids=str)
each_precision = pytest.mark.parametrize("precision", ["fp32", "bf16"])


def small(system: System) -> nn.Module:
    """Return a small network whose BatchNorms have seen pictures, lively enough to show seams."""
    network = system.network(**system.small)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # The statistics of the one batch below, whole.
            module.momentum = None
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.2)
        network(torch.rand(4, system.channels, 20, 20))
    return network.eval()


def differ_by(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, as a share of the largest value (or of white)."""
    return (a - b).abs().max().item() / max(1.0, b.abs().max().item())


def picture(channels: int, height: int, width: int) -> NDArray[Any]:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.random((channels, height, width), dtype=np.float32)


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Compute on one thread, as each worker of many does, or on as many as a test asks for."""
    wanted = getattr(request, "param", 1)
    with in_threads(wanted):
        yield wanted


# --- shape, size, learning -----------------------------------------------------------------------


@each_system
def test_the_network_has_as_many_parameters_as_published(system: System) -> None:
    assert sum(p.numel() for p in system.network().parameters()) == system.parameters


@each_system
@pytest.mark.parametrize("size", [(1, 1), (7, 1), (8, 9)])
def test_every_size_is_enlarged_by_the_scale(system: System, size: tuple[int, int]) -> None:
    network = small(system)
    for batch in (1, 3):
        with torch.no_grad():
            y = network(torch.rand(batch, system.channels, *size))
        assert y.shape == (batch, system.channels, size[0] * system.scale, size[1] * system.scale)


@pytest.mark.parametrize("architecture", ["srresnet", "dcgan", "swishgan-colour", "srcnn", "vdsr"])
def test_every_scale_and_both_grey_and_colour_are_built(architecture: str) -> None:
    for scale in (1, 2, 3, 4):
        if scale == 3 and architecture in ("srresnet", "dcgan"):
            continue
        for channels in (1, 3):
            network = BUILDERS[architecture](scale=scale, channels=channels, features=4).eval()
            with torch.no_grad():
                y = network(torch.rand(2, channels, 5, 3))
            assert y.shape == (2, channels, 5 * scale, 3 * scale)


@each_system
def test_every_parameter_learns(system: System) -> None:
    network = system.network(**system.small)
    network(torch.rand(2, system.channels, 12, 12)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().sum() > 0), name


@each_system
def test_training_and_inference_compute_the_same(system: System) -> None:
    network = small(system)
    x = torch.rand(2, system.channels, 17, 15).contiguous(memory_format=torch.channels_last)
    trained = network(x).detach()
    with torch.inference_mode():
        assert differ_by(network(x), trained) < 1e-5


@pytest.mark.parametrize("architecture", ["srresnet", "dcgan"])
@each_precision
def test_a_bounded_network_stays_in_its_range(architecture: str, precision: str) -> None:
    system = next(s for s in SYSTEMS if s.architecture == architecture)
    network = small(system)
    with torch.inference_mode(), torch.autocast("cpu", enabled=precision == "bf16"):
        y = network(30 * torch.randn(2, 3, 9, 9))
    assert y.dtype == torch.float32
    assert 0 <= float(y.min()) < 0.2
    assert 0.8 < float(y.max()) <= 1


@pytest.mark.slow
def test_a_dcgan_learns_a_picture_by_heart() -> None:
    torch.manual_seed(1)
    network = BUILDERS["dcgan"](scale=4, channels=3, features=16)
    hr = nn.functional.interpolate(torch.rand(4, 3, 8, 8), size=(32, 32), mode="bilinear")
    lr = nn.functional.avg_pool2d(hr, 4)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = nn.functional.l1_loss(network(lr), hr)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("architecture", ["srresnet", "dcgan"])
@pytest.mark.parametrize("scale", [0, 3, 6])
def test_a_scale_that_is_no_doubling_is_refused(architecture: str, scale: int) -> None:
    with pytest.raises(ValueError, match=f"scale is {scale}, expected 1, 2, 4 or 8"):
        BUILDERS[architecture](scale=scale, channels=3)


def test_more_doublings_than_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="scale is 8, expected at most 4 of 2 blocks"):
        BUILDERS["dcgan"](scale=8, channels=3, blocks=2)


def test_an_unknown_activation_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"activation is 'tanh', expected one of \['leaky-relu'"):
        BUILDERS["swishgan-colour"](scale=4, channels=3, activation="tanh")


def test_the_activation_of_the_swish_gan_is_an_argument() -> None:
    x = torch.rand(2, 3, 9, 9)
    outputs = []
    for activation in ("swish", "leaky-relu"):
        torch.manual_seed(0)
        spec = ModelSpec(
            name="colour",
            architecture="swishgan-colour",
            scale=4,
            channels=3,
            arguments={"activation": activation},
        )
        outputs.append(build(spec).eval()(x))
    assert not torch.allclose(*outputs)


def test_scale_is_counted_in_doublings() -> None:
    assert [doublings(scale) for scale in (1, 2, 4, 8)] == [0, 1, 2, 3]


# --- BatchNorm -----------------------------------------------------------------------------------


@each_system
def test_folding_changes_no_value_and_leaves_the_network_as_it_was(system: System) -> None:
    network = small(system).train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    fused = folded(network)
    assert network.training
    assert not fused.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    x = torch.rand(2, system.channels, 13, 11)
    with torch.no_grad():
        assert differ_by(fused(x), network.eval()(x)) < 1e-5
    norms = [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    # That of the DCGAN's upsampling follows a ReLU.
    assert len(norms) == (doublings(system.scale) if system.architecture == "dcgan" else 0)


def test_a_norm_alone_or_before_its_convolution_stays() -> None:
    norm, convolution = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
    assert len(folded(nn.Sequential(norm, convolution))) == 2  # type: ignore[arg-type]
    assert len(folded(nn.Sequential(convolution, nn.ReLU(), norm))) == 3  # type: ignore[arg-type]
    assert len(folded(nn.Sequential(convolution, norm, nn.ReLU()))) == 2  # type: ignore[arg-type]


# --- tiles ---------------------------------------------------------------------------------------


@each_system
def test_the_reach_is_measured_on_the_published_depth(system: System) -> None:
    # Width does not matter to it, but to the time it takes.
    assert reach_px(system.network(features=2), channels=system.channels) == system.reach


def reach_of(system: System) -> int:
    thin = dict(system.small) | {"features": 2}
    found = reach_px(system.network(**thin), channels=system.channels)
    assert found is not None
    return found


@pytest.mark.parametrize(("system", "precision"), pairs(SYSTEMS, ["fp32", "bf16"]), ids=str)
def test_tiles_are_the_whole_picture_bit_for_bit_when_the_halo_covers_the_reach(
    system: System, precision: str
) -> None:
    reach = reach_of(system)
    for network in (small(system), folded(small(system))):
        run = Inference.of(
            network, scale=system.scale, channels=system.channels, precision=precision
        )
        for height, width, tile_px in ((47, 61, 24), (9, 71, 17), (1, 50, 19)):
            x = picture(system.channels, height, width)
            tiled = run.enlarge_tiled(x, tile_px=tile_px, halo_px=reach)
            # float32 in, float32 out: nothing is hidden by rounding to 256 steps.
            assert np.array_equal(tiled, run.enlarge(x))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize("system", [SYSTEMS[0], SYSTEMS[5]])
def test_tiles_are_the_whole_picture_on_several_threads_too(system: System) -> None:
    run = Inference.of(
        small(system), scale=system.scale, channels=system.channels, precision="fp32"
    )
    x = picture(system.channels, 31, 43)
    tiled = run.enlarge_tiled(x, tile_px=20, halo_px=reach_of(system))
    assert np.array_equal(tiled, run.enlarge(x))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="no OpenVINO there")
@pytest.mark.parametrize("system", [SYSTEMS[1], SYSTEMS[2], SYSTEMS[5], SYSTEMS[8]])
def test_openvino_computes_the_same_picture_in_tiles_and_whole(system: System) -> None:
    network, x = small(system), picture(system.channels, 31, 43)
    found = {}
    for backend in ("torch", "openvino"):
        run = Inference.of(
            network,
            scale=system.scale,
            channels=system.channels,
            precision="fp32",
            backend=backend,
        )
        found[backend] = run.enlarge(x)
        tiled = run.enlarge_tiled(x, tile_px=20, halo_px=reach_of(system))
        assert np.array_equal(tiled, found[backend])
    assert differ_by(*map(torch.from_numpy, found.values())) < 1e-4


@each_system
def test_tiles_leave_a_seam_when_there_is_no_halo(system: System) -> None:
    run = Inference.of(
        small(system), scale=system.scale, channels=system.channels, precision="fp32"
    )
    x = picture(system.channels, 40, 40)
    assert not np.array_equal(run.enlarge_tiled(x, tile_px=20, halo_px=0), run.enlarge(x))


def test_a_window_is_enlarged_the_same_alone_and_in_a_batch() -> None:
    for system in SYSTEMS:
        network = small(system).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for size in ((9, 7), (21, 40)):
            x = torch.rand(3, system.channels, *size).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                assert torch.equal(network(x[:1]), network(x)[:1]), system


def test_a_small_single_picture_is_computed_as_one_of_two() -> None:
    met: list[int] = []

    def function(x: Tensor) -> Tensor:
        met.append(len(x))
        return x + 1

    few, many = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 90, 90)
    with torch.no_grad():
        for x in (few, many, few.repeat(3, 1, 1, 1)):
            assert torch.equal(in_pairs(function, x, channels=3), x + 1)
    assert met == [2, 1, 3]
    in_pairs(function, few, channels=3)
    assert met[-1] == 1
