"""TensorBoard files of a fine-tuning, where the tensorboard package is installed; nothing where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Logbook:
    """Writes scalars for TensorBoard; goes on with the files of an interrupted fine-tuning.

    Parameters
    ----------
    folder : Path or None
        None: nothing is written.
    step : int
        Where an interrupted fine-tuning goes on: what was written after it does not count.
    """

    def __init__(self, folder: Path | None, step: int = 0) -> None:
        self._writer = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=step or None)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Scalars by name, such as `train/loss`."""
        if self._writer:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Everything is on disk."""
        if self._writer:
            self._writer.close()
