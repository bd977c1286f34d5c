"""The models whose weights come with upres, by their names.

Nothing is imported for it: whoever only asks whether a name is one of them needs no torch.
"""

from __future__ import annotations

from pathlib import Path

WEIGHTS_DIR = Path(__file__).parent / "weights"


def shipped() -> dict[str, Path]:
    """Return name -> checkpoint of every model whose weights come with upres."""
    return {p.stem: p for p in sorted(WEIGHTS_DIR.glob("*.safetensors"))}
