"""The processes of one fine-tuning. All have the same weights, and each computes its part of every batch.

Losses and gradients are summed over the processes, so that each takes the step of the whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmfeat.common.randomness import torch_seed
from mmfeat.common.workers import LostProcess

_PATIENCE = timedelta(days=1)  # the command notices a process that has ended


class Processes:
    """A single process, which computes whole batches.

    Attributes
    ----------
    first : bool
        Whether this process saves the state.
    """

    first = True

    def part(self, rows: np.ndarray) -> np.ndarray:
        """Return the part of some rows that this process computes."""
        return rows

    def seed(self, seed: int) -> int:
        """Return the seed for dropout in this process."""
        return seed

    def any(self, here: bool) -> bool:
        """Whether something is the case in any process."""
        return here

    def total(self, value: Tensor) -> Tensor:
        """The sum of a number over the processes."""
        return value

    def add_gradients(self, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Sum the gradients over the processes, and the loss, which is returned."""
        return loss

    def make_equal(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first process's tensors into those of the others."""

    def gathered(self, every: np.ndarray, rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows and values `(n, K)` that the processes found for their parts of the rows `every`, in that order."""
        return rows, values


ALONE = Processes()


class ProcessGroup(Processes):
    """One of several processes.

    Parameters
    ----------
    number : int
        From 0.
    size : int
        How many there are.
    """

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size, self.first = number, size, number == 0

    def part(self, rows: np.ndarray) -> np.ndarray:
        """Every `size`-th row."""
        return rows[self.number :: self.size]

    def seed(self, seed: int) -> int:
        """Another one in each process, whose samples then drop other values."""
        return torch_seed(seed, self.number)

    def any(self, here: bool) -> bool:
        """Whether something is the case in any process."""
        return bool(self._sum(torch.tensor([float(here)])))

    def total(self, value: Tensor) -> Tensor:
        """The sum of a number over the processes."""
        return self._sum(value.detach().reshape(1).clone())[0]

    def add_gradients(self, parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Sum the gradients in one vector. A parameter without a gradient in any process keeps none."""
        here = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
        found = [parameter for parameter, n in zip(parameters, self._sum(here).tolist(), strict=True) if n]
        for parameter in found:
            if parameter.grad is None:  # this process's part of the batch is empty
                parameter.grad = torch.zeros_like(parameter)
        flat = self._sum(torch.cat([loss.reshape(1), *(parameter.grad.flatten() for parameter in found)]))
        sums = flat[1:].split([parameter.numel() for parameter in found])
        for parameter, gradient in zip(found, sums, strict=True):
            parameter.grad.copy_(gradient.view_as(parameter))
        return flat[0]

    @torch.no_grad()
    def make_equal(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first process's tensors into those of the others."""
        for tensor in tensors:
            tensor.copy_(self._of_first(tensor.detach().clone(memory_format=torch.contiguous_format)))

    def gathered(self, every: np.ndarray, rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows and values that the processes found; each has zeros in the places of the others' rows."""
        at = np.isin(every, rows)
        table = torch.zeros(len(every), 1 + values.shape[1])
        table[at, 0], table[at, 1:] = 1.0, torch.from_numpy(values)
        table = self._sum(table).numpy()
        there = table[:, 0] > 0
        return every[there], table[there, 1:]

    def _sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        with _connected():
            torch.distributed.all_reduce(tensor)
        return tensor

    def _of_first(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by the first process's, in place."""
        with _connected():
            torch.distributed.broadcast(tensor, src=0)
        return tensor


@contextlib.contextmanager
def joined(meeting: Path, number: int, size: int, *, device: torch.device) -> Iterator[ProcessGroup]:
    """Join the other processes of a fine-tuning on this machine.

    Tensors on the CPU are exchanged by gloo, which notices at once if a process has ended; those on a GPU by NCCL.

    Parameters
    ----------
    meeting : Path
        A file that only these processes use; it need not exist.

    Raises
    ------
    LostProcess
        Another process has ended.
    """
    distributed, on_gpu = torch.distributed, device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    with _connected():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu and distributed.is_nccl_available() else "gloo",
            store=distributed.FileStore(str(meeting), size),
            rank=number,
            world_size=size,
            timeout=_PATIENCE,
        )
    yield ProcessGroup(number, size)
    distributed.destroy_process_group()


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Convert what torch raises when another process has ended."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostProcess(str(error)) from None
