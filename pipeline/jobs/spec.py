"""What decides pixels: the spec of an upscaling, its fingerprint, and its grid."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from models.reach import reach_of
from models.registry import is_interpolation
from pipeline.compute.backends import resolve_backend
from pipeline.compute.inference import kind_of_device, load_model, resolve_precision
from pipeline.compute.small_sides import Context
from pipeline.compute.transparency import has_alpha
from pipeline.constants import LEAST_TILE_PX
from pipeline.errors import LedgerError, ModelError, UsageError
from pipeline.geometry import TileGrid

if TYPE_CHECKING:
    from pipeline.storage.ledger import ItemRow

logger = logging.getLogger(__name__)

_LATER = "instructions"
"""The field that the first jobs do not have. Their fingerprints must not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleSpec:
    """Everything that decides pixels, and how they are cut into shards."""

    model: str
    weights_sha256: str
    scale: int
    tile_px: int
    halo_px: int
    precision: str
    backend: str
    format: int = 1
    """Raised when the engine itself changes what it writes."""
    instructions: str = ""
    """The set of CPU instructions that computes a network (`pipeline.compute.instructions`).

    "" where no pixel depends on it, and for jobs that began before it was kept.
    """

    def __post_init__(self) -> None:
        if self.tile_px < LEAST_TILE_PX:
            raise UsageError(f"tile is {self.tile_px} px, expected at least {LEAST_TILE_PX}")
        if self.halo_px < 0:
            raise UsageError(f"halo is {self.halo_px} px, expected at least 0")

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads; without instructions as it was before they were kept."""
        values = asdict(self)
        return values if self.instructions else {k: v for k, v in values.items() if k != _LATER}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> UpscaleSpec:
        """Read what `to_json` gave.

        Raises:
            LedgerError: if fields are missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        if {*values, _LATER} != known:
            raise LedgerError(
                f"spec has fields {sorted(values)}, expected {sorted(known)}: it was written by "
                "another upres; run `upres upscale` on the job again, which recomputes its pictures"
            )
        return cls(**values)

    def fingerprint(self) -> str:
        """Return a hash of every field that is set."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def item_fingerprint(self, source_sha256: str, *, rules: str = "") -> str:
        """Return the fingerprint of upscaling the picture with this content by this spec.

        `rules` is what `rules_of` says of its shape.
        """
        own = _fingerprint_of(self)
        return hashlib.sha256(f"{own} {source_sha256}{rules}".encode()).hexdigest()

    def rules_of(self, *, channels: int, height: int, width: int) -> str:
        """Return the rules that apply to pictures of this shape and to no others.

        They came later than the first jobs: a picture that was made without them is stale, and all
        others stay what they are.
        """
        learned = not is_interpolation(self.model)
        rules = " mirrored context" if learned and Context.of(height, width) else ""
        if has_alpha(channels) and (learned or self.halo_px):
            rules += " bounded alpha"
        return rules

    def fingerprint_of(self, row: ItemRow) -> str:
        """Return the fingerprint of an item by itself: of one in a stack it is not its chunk's."""
        rules = self.rules_of(channels=row.channels, height=row.height, width=row.width)
        return self.item_fingerprint(row.sha256, rules=rules)

    def grid(self, height: int, width: int) -> TileGrid:
        """Return the tiles of an LR picture."""
        return TileGrid(height, width, self.tile_px, self.halo_px)


@lru_cache(maxsize=8)
def _fingerprint_of(spec: UpscaleSpec) -> str:
    """Return the fingerprint of a spec, which a million items ask for."""
    return spec.fingerprint()


def computed_with(spec: UpscaleSpec, instructions: str, *, device: str) -> UpscaleSpec:
    """Return a spec whose pixels are computed with a set of CPU instructions.

    On a GPU nothing depends on it, and an interpolation has the same bits with all of them.
    """
    matters = kind_of_device(device) == "cpu" and not is_interpolation(spec.model)
    return replace(spec, instructions=instructions if matters else "")


def seam_warning(spec: UpscaleSpec, reach: int | None) -> str | None:
    """Return what a halo given by hand costs, None where it costs nothing."""
    if reach is not None and spec.halo_px >= reach:
        return None
    looks = "at the whole picture" if reach is None else f"{reach} LR px far"
    return (
        f"{spec.model} looks {looks} and the halo is {spec.halo_px} px: tiles will differ from the "
        "whole picture near their borders, as seams; --halo auto avoids them"
    )


def make_spec(
    name_or_file: str,
    *,
    tile_px: int,
    halo: str | int,
    precision: str,
    device: str,
    backend: str = "auto",
) -> UpscaleSpec:
    """Return the spec of upscaling with a model; halo ``auto`` is the network's own reach.

    Raises:
        ModelError: if the model is unknown or damaged, or cannot be tiled (then give a halo).
        UsageError: if an option is outside its range.
    """
    model = load_model(name_or_file)
    reach = reach_of(model)
    if halo == "auto" and reach is None:
        raise ModelError(
            f"{model.spec.name} looks at the whole picture, so no halo is wide enough to tile "
            "it exactly; give --halo PX to accept seams"
        )
    device = kind_of_device(device)
    spec = UpscaleSpec(
        model=model.spec.name,
        weights_sha256=model.sha256,
        scale=model.spec.scale,
        tile_px=tile_px,
        halo_px=int(reach or 0) if halo == "auto" else int(halo),
        precision=resolve_precision(precision, device=device),
        backend=resolve_backend(backend, device=device, model=model.spec.name),
    )
    cost = seam_warning(spec, reach)
    if cost is not None:
        logger.warning(cost)
    return spec
