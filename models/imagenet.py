"""The features of ImageNet networks that torchvision has, as files that `models.vgg` reads.

torchvision's own files are pickles. They are opened once, by torch's reader that makes tensors and
nothing else of them (``weights_only``), and kept as safetensors beside where torch keeps its own.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file

WEIGHTS = "IMAGENET1K_V1"
"""torchvision's name of those that losses and LPIPS were found with."""

_NO_TENSORS = "its file is damaged, or holds more than tensors"


def torchvision_file(network: str) -> Path:
    """Return a safetensors file of the features of ``vgg19``, ``vgg16`` or ``alexnet``.

    The first call makes it of torchvision's weights, which torchvision downloads where they are not
    in torch's folder yet (`torch.hub.get_dir`; the environment's TORCH_HOME moves it).

    Raises:
        ValueError: if torchvision is not installed or cannot be imported, or has no weights.
    """
    path = Path(torch.hub.get_dir()) / "upres" / f"{network}_{WEIGHTS}.safetensors"
    if path.is_file():
        return path
    if find_spec("torchvision") is None:
        raise ValueError(
            f"features of {network} are needed, but torchvision is not installed; install it, or "
            "name a safetensors file with --features FILE"
        )
    try:
        from torchvision.models import get_model_weights

        weights = get_model_weights(network)[WEIGHTS].get_state_dict(weights_only=True)
        features = {k: t.contiguous() for k, t in weights.items() if k.startswith("features.")}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        save_file(features, partial)
        partial.replace(path)
    except (ImportError, OSError, RuntimeError, KeyError, ValueError, UnpicklingError) as error:
        # torch's own words on a pickle of more than tensors tell how to open it all the same.
        why = " ".join(str(error).split()) if type(error) is not UnpicklingError else _NO_TENSORS
        raise ValueError(
            f"torchvision gives no features of {network} ({why}); name a safetensors file with "
            "--features FILE"
        ) from error
    return path
