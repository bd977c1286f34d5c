"""How a job is upscaled: the spec that decides pixels, and how it is carried out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.registry import is_interpolation
from pipeline.compute.backends import resolve_backend
from pipeline.compute.inference import kind_of_device
from pipeline.constants import DEFAULT_LIMIT_S
from pipeline.errors import UsageError
from pipeline.jobs.choice import Choice, choose
from pipeline.jobs.spec import UpscaleSpec, computed_with, make_spec

if TYPE_CHECKING:
    from pipeline.jobs.upscale.worker import ModelAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Upscaling:
    """How a job is upscaled: the spec, and how it runs. The ledger keeps it for reruns."""

    spec: UpscaleSpec
    model: ModelAddress
    limit_s: float = DEFAULT_LIMIT_S
    halo: str | int = "auto"
    """As it was asked for: another model has another reach."""
    backend: str = "auto"
    """As it was asked for: not every model has every backend."""
    choice: Choice | None = None
    """The choice of a model for each item; None where all have that of `spec`."""

    @property
    def instructions(self) -> str:
        """Return the set of CPU instructions of its networks; "" where none is kept."""
        restoring = None if self.choice is None else self.choice.restoring
        return self.spec.instructions or ("" if restoring is None else restoring.spec.instructions)

    def asked_for(self, backend: str) -> Upscaling:
        """Return the same, with the backend that was asked for named otherwise.

        Raises:
            UsageError: if the job is computed by another one: tiles of one picture would no longer
                fit together.
        """
        device = kind_of_device(self.model.device)
        resolved = resolve_backend(backend, device=device, model=self.spec.model)
        if resolved != self.spec.backend:
            raise UsageError(
                f"--backend {backend} computes by {resolved}, and the job by {self.spec.backend}: "
                "all its tiles become stale; add --stale to redo them"
            )
        return replace(self, backend=backend)

    def renewed(self, name_or_file: str | None = None, *, backend: str | None = None) -> Upscaling:
        """Return the same with another model or backend, or with the present weights of its own.

        Raises:
            UnknownModelError: if there is no such model.
            UsageError: if `backend` cannot compute the model here.
        """
        before = self.model.name_or_file if self.choice is None else self.choice.asked
        name, device = name_or_file or before, self.model.device

        def make(model: str) -> UpscaleSpec:
            # A backend that was asked for is for networks.
            wanted = backend or ("auto" if is_interpolation(model) else self.backend)
            spec = make_spec(
                model,
                tile_px=self.spec.tile_px,
                halo=self.halo,
                precision=self.spec.precision,
                device=device,
                backend=wanted,
            )
            return computed_with(spec, self.instructions, device=device)

        way, choice = choose(name, device=device, make=make)
        return replace(
            self, spec=way.spec, model=way.model, choice=choice, backend=backend or self.backend
        )
