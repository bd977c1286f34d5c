"""Blur by a bell: Gaussian, generalized Gaussian or plateau, round or oval.

Sources: Wang et al., "Real-ESRGAN", 2021, section 3.1 (arXiv 2107.10833); Liu et al., "Estimating
generalized Gaussian blur kernels for out-of-focus image deblurring", 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pipeline.degradation.convolution import LARGEST_KERNEL_PX, Blurring, grid, normalised
from pipeline.degradation.step import Uniform, odd_within, one_of, within

if TYPE_CHECKING:
    from pipeline.degradation.levels import Floats, Values


@dataclass(frozen=True, kw_only=True)
class Blur(Blurring):
    """Blur with a kernel of ``size x size``, of the distance q in units of sigma.

    ``gaussian`` is ``exp(-q**2 / 2)``, ``generalized`` ``exp(-q**(2 * beta) / 2)`` and ``plateau``
    ``1 / (1 + q**(2 * beta))``. With `sigma_y` the kernel is an ellipse, `sigma` along `angle`.
    """

    op: ClassVar[str] = "blur"

    sigma: Uniform = field(metadata=within(0.05, 30))
    """Width of the blur, in pixels."""
    kind: str = field(default="gaussian", metadata=one_of("gaussian", "generalized", "plateau"))
    """Shape of the kernel."""
    sigma_y: Uniform | None = field(default=None, metadata=within(0.05, 30))
    """Width across `angle`, in pixels; without it the blur is round."""
    angle: Uniform = field(default=Uniform(0.0, 0.0), metadata=within(-360, 360))
    """Direction of `sigma`, in degrees from the columns' axis towards the rows'."""
    beta: Uniform = field(default=Uniform(1.0, 1.0), metadata=within(0.1, 16))
    """Exponent of the shapes `generalized` and `plateau`."""
    size: Uniform = field(default=Uniform(21.0, 21.0), metadata=odd_within(1, LARGEST_KERNEL_PX))
    """Side of the kernel, in pixels."""

    def kernels(self, values: Values) -> Floats:
        """Return the kernels ``(n, side, side)``."""
        return shaped(self.kind, values)


def shaped(kind: str, values: Values) -> Floats:
    """Return Gaussian, generalized Gaussian or plateau kernels.

    With x along `angle` and y across, ``q2 = (x / sigma)**2 + (y / sigma_y)**2``; the weight is
    ``exp(-q2 / 2)``, ``exp(-q2**beta / 2)`` or ``1 / (1 + q2**beta)``, within ``size x size``.
    """
    sizes = values["size"]
    rows, cols = grid(sizes)
    angle = np.deg2rad(values["angle"])[:, None, None]
    along = cols * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - cols * np.sin(angle)
    sigma, beta = values["sigma"], values["beta"][:, None, None]
    sigma_y = values.get("sigma_y", sigma)
    squared = (along / sigma[:, None, None]) ** 2 + (across / sigma_y[:, None, None]) ** 2
    if kind == "plateau":
        weights = 1 / (1 + squared**beta)
    else:
        weights = np.exp(-0.5 * (squared**beta if kind == "generalized" else squared))
    return normalised(weights, sizes)
