"""What `upres models` tells."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from models import registry
from models.reach import reach_px
from pipeline.inference import load_model

_HEADER = ("name", "scale", "reach", "parameters", "licence", "Set14 PSNR-Y", "what it is")
_WIDTHS = (22, 6, 6, 11, 11, 13, 0)


def describe(name: str) -> dict[str, Any]:
    """Return all that is known of one model.

    Raises:
        ModelError: if there is no such model.
    """
    model = load_model(name)
    return {
        **asdict(model.spec),
        "reach_px": reach_px(model.network, channels=model.spec.channels),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "sha256": model.sha256,
    }


def table() -> tuple[list[dict[str, Any]], str]:
    """Return every model, and the same as lines of text."""
    found = [describe(name) for name in registry.names()]
    lines = [_line(_HEADER)]
    lines += [_line(_cells(values)) for values in found]
    return found, "\n".join(lines)


def _cells(values: dict[str, Any]) -> tuple[str, ...]:
    score = values["scores"].get("Set14", {}).get("psnr_y")
    reach = values["reach_px"]
    return (
        values["name"],
        f"x{values['scale']}",
        "all" if reach is None else str(reach),
        f"{values['parameters']:,}",
        values["licence"],
        "-" if score is None else f"{score:.3f} dB",
        values["summary"],
    )


def _line(cells: tuple[str, ...]) -> str:
    return "".join(f"{c:{w}}" for c, w in zip(cells, _WIDTHS, strict=True)).rstrip()
