"""What the provenance of SR pixels says: what came with the picture, and how they were made."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from models.registry import is_interpolation
from pipeline.pictures.metadata.metadata import KEYS as METADATA_KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.jobs.spec import UpscaleSpec

_INHERITED = ("source", "sha256", "size_bytes", "mtime_ns", *METADATA_KEYS)
CHOSEN_KEY = "model_chosen_because"
_INTERPOLATED = (
    "Pixels of this image were interpolated from a smaller picture; no detail was added to it."
)
_SYNTHESISED = (
    "Pixels of this image were synthesised by a neural network from a smaller picture; detail in "
    "it may never have existed. Do not use it to identify a person."
)


def inherited(lr: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an SR image takes over from the provenance of its LR image."""
    return {name: lr[name] for name in _INHERITED if name in lr}


def computed_by(spec: UpscaleSpec, fingerprint: str, *, because: str = "") -> dict[str, Any]:
    """Return how SR pixels were made, in plain words too; `because` is why by this model."""
    chosen = {CHOSEN_KEY: because} if because else {}
    return chosen | {
        "fingerprint": fingerprint,
        "spec": spec.to_json(),
        "upres_version": _upres_version(),
        "statement": _INTERPOLATED if is_interpolation(spec.model) else _SYNTHESISED,
    }


@cache
def _upres_version() -> str:
    # Each call of `version` reads the metadata of the installation, which would be done per image.
    return version("upres")
