"""An encoder kind for mmfeat: recordings, one .npy file for each row, and a small network with random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.config.encoder_tables import EncoderTable
from mmfeat.config.fields import setting
from mmfeat.config.schema import Config
from mmfeat.data.row_keys import RowKeys
from mmfeat.encoders.batches import UndecodableSample, UnreadSample
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.kinds import WEIGHTS, EncoderKind, SampleHost, register_encoder_kind
from mmfeat.encoders.weights import load_strictly, read_state

RATE = 8000  # samples of a second


@dataclass(frozen=True)
class SoundConfig(EncoderTable):
    """`[encoder.NAME]` with modality sound."""

    kind: ClassVar[str] = "sound"
    sample: ClassVar[str] = "recording"
    present: ClassVar[str] = "a recording"
    tunable: ClassVar[bool] = False
    by_id: ClassVar[bool] = True

    model: str = setting("filters", choices=("filters",))
    folder: str = setting("", filled=True)  # of ID.npy
    seconds: float = setting(1.0, low=0.1, high=60.0)  # that are read of a recording
    width: int = setting(32, low=1, high=4096)
    checkpoint: str = setting("latest", filled=True)
    modality: str = setting("sound", choices=("sound",))

    @property
    def files(self) -> tuple[str, ...]:
        return (self.folder,)


class SoundPreparation:
    """Cuts or pads a recording to a number of samples."""

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples

    def prepare(self, sample: np.ndarray) -> Tensor:
        wave = torch.zeros(self.n_samples)
        cut = torch.from_numpy(sample[: self.n_samples].astype(np.float32))
        wave[: len(cut)] = cut
        return wave

    def collate(self, prepared: list[Tensor]) -> dict[str, Tensor]:
        return {"waves": torch.stack(prepared)}  # (B, n_samples)

    def describe(self) -> dict[str, Any]:
        return {"rate": RATE, "n_samples": self.n_samples}


class SoundEncoder(Encoder):
    """A bank of filters, and the mean of what passes each."""

    kind = modality = "sound"
    architecture, precision, pooling = "filters", "float32", "mean"

    def __init__(self, n_samples: int, width: int, seed: int = 0) -> None:
        super().__init__()
        self.preparation, self.width = SoundPreparation(n_samples), width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.filters = nn.Conv1d(1, width, kernel_size=64, stride=16)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.filters(batch["waves"].unsqueeze(1)).relu().mean(2)  # (B, width)


@register_encoder_kind
class SoundKind(EncoderKind):
    """Recordings are found by the rows' ids in the folder that the table names."""

    settings = SoundConfig
    reads = "recordings"
    packages = ("mmfeat-sound",)

    def source(self, table: SoundConfig) -> str:
        return table.folder

    def row_keys(self, host: SampleHost, source: str) -> RowKeys:
        ids = host.manifest.ids
        keys, present = np.zeros((len(ids), 32), np.uint8), np.zeros(len(ids), dtype=bool)
        for row, one in enumerate(ids):
            file = _file(host, source, one)
            if file.is_file():
                keys[row] = np.frombuffer(hashlib.sha256(file.read_bytes()).digest(), np.uint8)
                present[row] = True
        return RowKeys(keys=keys, present=present)

    def reader(self, host: SampleHost, source: str) -> Callable[[int], np.ndarray]:
        ids = host.manifest.ids

        def read(row: int) -> np.ndarray:
            try:
                return self.given(np.load(_file(host, source, ids[row]), allow_pickle=False))
            except OSError as error:
                raise UnreadSample(str(error)) from None
            except ValueError as error:
                raise UndecodableSample(error) from None

        return read

    def given(self, sample: Any) -> np.ndarray:
        if not isinstance(sample, np.ndarray) or sample.ndim != 1:
            raise UndecodableSample(ValueError("not an array of one dimension"))
        return sample

    def build(self, config: Config, name: str) -> SoundEncoder:
        table = config.encoder[name]
        return SoundEncoder(round(RATE * table.seconds), table.width, config.file_seed).eval()

    def save_preparation(self, encoder: SoundEncoder, folder: Path) -> dict[str, Any]:
        return {**super().save_preparation(encoder, folder), "n_samples": encoder.preparation.n_samples}

    def load_preparation(self, record: dict[str, Any], folder: Path) -> SoundPreparation:
        return SoundPreparation(record["n_samples"])

    def load_encoder(self, name: str, record: dict[str, Any], folder: Path) -> SoundEncoder:
        encoder = SoundEncoder(record["n_samples"], record["width"])
        load_strictly(encoder, read_state(folder / WEIGHTS), folder / WEIGHTS)
        return encoder.eval()


def _file(host: SampleHost, source: str, name: str) -> Path:
    return host.config.path(source) / f"{name}.npy"
