"""Muon: orthogonal updates, whatever the shape of the kernel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(48, 432), (432, 48), (12, 432), (48, 192), (1, 9), (7, 1)])
def test_every_singular_value_of_the_update_is_about_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for size in (1e-6, 1.0, 1e6):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * size))
        assert float(values.min()) > 0.6
        assert float(values.max()) < 1.25


def test_the_update_keeps_the_directions_of_the_matrix() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(20, 90)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonal(matrix) @ v.T
    assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-4)
    assert bool((turned.diagonal() > 0.6).all())


def test_nothing_moves_without_a_gradient_and_nothing_breaks_on_zero() -> None:
    still, zero = (nn.Parameter(torch.ones(4, 3, 3, 3)) for _ in range(2))
    zero.grad = torch.zeros_like(zero)
    Muon([still, zero], lr=1.0).step()
    assert torch.equal(still, torch.ones_like(still))
    assert torch.equal(zero, torch.ones_like(zero))


def test_a_step_has_the_size_that_adams_would_have() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(48, 48, 3, 3))
    kernel.grad = torch.randn_like(kernel) * 1e-5
    Muon([kernel], lr=0.01).step()
    assert math.isclose(float(kernel.detach().square().mean().sqrt()), 0.2 * 0.01, rel_tol=0.2)


def test_a_kernel_in_channels_last_moves_the_same() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(8, 4, 3, 3)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        kernel = nn.Parameter(torch.ones(8, 4, 3, 3).contiguous(memory_format=layout))
        optimiser = Muon([kernel], lr=0.1)
        for _ in range(3):
            kernel.grad = gradient.contiguous(memory_format=layout)
            optimiser.step()
        moved.append(kernel.detach())
    assert torch.allclose(moved[0], moved[1], atol=1e-6)


def test_descent_finds_the_matrix_it_looks_for() -> None:
    torch.manual_seed(0)
    wanted, found = torch.randn(6, 10), nn.Parameter(torch.zeros(6, 10))
    optimiser = Muon([found], lr=0.1)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.3 * (1 - step / 300)
        optimiser.zero_grad()
        (found - wanted).square().sum().backward()
        optimiser.step()
    assert float((found - wanted).detach().abs().max()) < 0.05
