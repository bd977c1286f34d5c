"""BatchNorm over what several processes hold of a batch, as if one held it all.

torch's own (`nn.SyncBatchNorm`) is for GPUs alone; this one computes wherever processes can add.
Source of the layer: Ioffe and Szegedy, "Batch Normalization", 2015 (arXiv 1502.03167).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

_PIXELS = (0, 2, 3)


class SharedBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose mean and variance are those of all processes' pixels together.

    Every process must bring a batch of the same shape ``(n, c, h, w)``. Evaluating, it is the same.
    """

    @classmethod
    def like(cls, layer: nn.BatchNorm2d) -> SharedBatchNorm:
        """Return one that shares the parameters and running statistics of `layer`."""
        shared = cls(layer.num_features, eps=layer.eps, momentum=layer.momentum)
        shared.weight, shared.bias = layer.weight, layer.bias
        shared.running_mean, shared.running_var = layer.running_mean, layer.running_var
        shared.num_batches_tracked = layer.num_batches_tracked
        return shared.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like `x`."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        mean = _mean_of_all(wide.mean(_PIXELS))
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _mean_of_all(centred.square().mean(_PIXELS))
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        gain = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * gain.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, pixels: int) -> None:
        together = pixels * distributed.get_world_size()
        share = self.momentum if self.momentum is not None else 0.1
        unbiased = variance * (together / max(1, together - 1))
        for running, now in ((self.running_mean, mean), (self.running_var, unbiased)):
            if running is not None:
                running.lerp_(now, share)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def share_statistics(network: nn.Module) -> None:
    """Let every BatchNorm of a network be one over all processes, in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SharedBatchNorm.like(child))


class _MeanOfAll(torch.autograd.Function):
    """The mean of a tensor over all processes, through which the losses of all are learned by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x) / distributed.get_world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient) / distributed.get_world_size()


def _summed(x: Tensor) -> Tensor:
    total = x.clone()
    distributed.all_reduce(total)
    return total


def _mean_of_all(x: Tensor) -> Tensor:
    mean: Tensor = _MeanOfAll.apply(x)  # type: ignore[no-untyped-call]
    return mean
