"""What every request to compute something has in common: where the work runs, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - flows make their forms of the annotations.
from typing import TYPE_CHECKING

from pipeline.constants import DEFAULT_LIMIT_S
from pipeline.request_fields import optional

if TYPE_CHECKING:
    from pipeline.compute.cluster import ClusterSettings


@dataclass(frozen=True, kw_only=True)
class WorkersRequest:
    """Where the work runs."""

    cluster: str = optional(
        "local",
        "Where to run: workers on this machine, the address of a Dask scheduler, or the name of a "
        "cluster.",
    )
    clusters: Path | None = optional(  # noqa: RUF009 - it is a field.
        None, "TOML file that describes clusters by name.  [default: ~/.config/upres/clusters.toml]"
    )
    workers: int | None = optional(
        None,
        "Worker processes to start on this machine or by a queue.  [default: one per core, at "
        "most 8; by a queue, as many as its description says]",
    )

    def cluster_settings(self, *, device: str | None = None) -> ClusterSettings:
        """Return the workers asked for; a network on `device` gets one for each of its GPUs.

        Raises:
            UsageError: if the options contradict each other, or there is no such device.
        """
        from pipeline.compute.cluster import ClusterSettings
        from pipeline.compute.clusters.file import check_address, described, is_name

        # prefect.yaml gives an empty text where UPRES_CLUSTER is not set.
        address = self.cluster or WorkersRequest.cluster
        check_address(address)
        named = described(address, self.clusters) if is_name(address) else None
        gpus = 0
        if device is not None and address == "local":
            from pipeline.compute.inference import gpus_of  # It loads torch.

            gpus = gpus_of(device)
        return ClusterSettings(address=address, named=named, workers=self.workers, gpus=gpus)


@dataclass(frozen=True, kw_only=True)
class LimitedWorkersRequest(WorkersRequest):
    """Where the work runs, and how long each unit of it may take."""

    limit_s: float = optional(
        DEFAULT_LIMIT_S,
        "Seconds that one tile, or chunk of patches, may take before it counts as hanging.",
    )

    def check_limit(self) -> None:
        """Refuse a limit that is out of range.

        Raises:
            UsageError: then.
        """
        from pipeline.compute.deadline import check_limit

        check_limit(self.limit_s)
