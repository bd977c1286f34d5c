"""Several processes that share one training, as ``torchrun`` starts them.

Each takes its part of every batch; gradients are averaged over all. Rank 0 alone writes files.
"""

from __future__ import annotations

import os
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.compute.threads import use_no_more_threads_than_cores
from pipeline.errors import ClusterError, UpresError, UsageError
from pipeline.training.batchnorm import share_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of how many processes this is, and the device that it computes on."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this process writes files and talks."""
        return self.rank == 0

    def shared(self, network: nn.Module) -> nn.Module:
        """Return the network so that it learns as if one process held the batches of all."""
        if self.count == 1:
            return network
        share_statistics(network)
        ids = [self.device.index] if self.device.type == "cuda" else None
        # A discriminator sees two batches before its gradients: between them its buffers must stay.
        with warnings.catch_warnings():
            # torch 2.13 has another word for it, which earlier ones do not know.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False)

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes; it is the same in each."""
        return float(self.sum(torch.tensor([value], dtype=torch.float64))) / self.count

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums of numbers over all processes, on the CPU; they are the same in each."""
        if self.count == 1:
            return values
        sums = values.to(self.device, copy=True)
        distributed.all_reduce(sums)
        return sums.cpu()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, or be alone where it started none.

    With CUDA each process takes the GPU of its rank on the machine, and they talk over NCCL;
    on CPUs over gloo.

    Raises:
        UsageError: if the device cannot be had.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = torch.device(device)
    if chosen.type == "cuda" and count > 1:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise UsageError(
                f"device is {chosen}, but there are {torch.cuda.device_count()} GPUs; start as "
                "many processes as GPUs"
            )
        torch.cuda.set_device(chosen)
    if count == 1:
        use_no_more_threads_than_cores()
        yield Processes(chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(chosen, rank, count)
        # None ends before rank 0 has written all, nor while a thread of gloo still lets go of its
        # last tensors: met with torch 2.13, that thread takes an ending Python down with it.
        distributed.barrier(device_ids=[chosen.index] if chosen.type == "cuda" else None)
    except RuntimeError as error:
        # What a collective operation raises when one of them ends has no type of its own.
        if isinstance(error, UpresError) or not re.search("gloo|nccl", str(error), re.IGNORECASE):
            raise
        raise ClusterError(
            f"another process of this training is gone (this is rank {rank} of {count}); start "
            "all of them again with --resume"
        ) from error
    finally:
        distributed.destroy_process_group()
