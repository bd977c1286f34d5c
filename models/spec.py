"""What is known of a model apart from its weights: the descriptor that travels with them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Describe one model: which network, how it scales, who may use it, what it learned from.

    Every model takes and returns float tensors of shape ``(n, channels, rows, columns)`` with
    values in 0..1 (values outside are allowed on the way out; the engine clamps them).
    """

    name: str
    architecture: str
    """Name of a network that `models.architectures` marks."""
    scale: int
    channels: int
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the architecture's builder, beside scale and channels."""
    licence: str = "Apache-2.0"
    training_data: str = "none: nothing in it is learned"
    summary: str = ""
    scores: dict[str, Any] = field(default_factory=dict)
    """Measured figures, for example ``{"Set14": {"psnr_y": 26.0, "ssim_y": 0.703}}``."""

    def __post_init__(self) -> None:
        for name, kind in _TYPES.items():
            value = getattr(self, name)
            if type(value) is not kind:
                raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
        for name, most in (("scale", _LARGEST_SCALE), ("channels", _MOST_CHANNELS)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 to {most}")

    def to_json(self) -> str:
        """Return the spec as one JSON object that `from_json` reads back unchanged."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read a spec; refuse keys that it does not know, with the keys that it does."""
        try:
            values = json.loads(text)
        except RecursionError as error:
            raise ValueError("model spec is nested too deeply to be one") from error
        if not isinstance(values, dict):
            raise TypeError(f"model spec is {type(values).__name__}, expected a JSON object")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"model spec has unknown keys {unknown}, known are {sorted(known)}")
        missing = sorted({"name", "architecture", "scale", "channels"} - set(values))
        if missing:
            raise ValueError(f"model spec lacks {missing}")
        return cls(**values)


_LARGEST_SCALE, _MOST_CHANNELS = 16, 64

_TYPES: dict[str, type] = {
    "name": str,
    "architecture": str,
    "scale": int,
    "channels": int,
    "arguments": dict,
    "licence": str,
    "training_data": str,
    "summary": str,
    "scores": dict,
}
