"""Encoders side by side: what is kept of each beside its logits, and the lines of a comparison, modality by modality."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.common.json_shapes import Choice, Number, Shape
from mmfeat.common.progress import say
from mmfeat.common.seals import read_record, write_sealed
from mmfeat.config.schema import MODALITIES, OTHER
from mmfeat.metrics import better, bootstrap_metrics
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.runs.comparison import Candidate, Compared, Part, compared, first_seed

FORMAT = 1
WITH_INTERVALS = ("micro_f1", "macro_f1", "map", "loss")  # beside samples-F1
_REMEDY = "It is made again"


@dataclass(frozen=True)
class EncoderRecord:
    """What is kept of one encoder of a comparison.

    Attributes
    ----------
    typed, label, name, modality, model : str
        As it was asked for; as tables call it; the encoder of mmfeat.toml that it is or whose place it takes.
    width : int
        Of its embeddings.
    size_mb : float or None
        None of imported embeddings.
    encoder_key : str
        What its features are filed under.
    n_labelled : int
        Distinct samples among the labelled rows.
    rate : float or None
        Samples that are read, prepared and encoded in a second; None where none can be.
    measured : str
        What the rate was measured on.
    fit_seconds : float
        To train one seed: the whole encoder, or its linear output alone.
    best_epoch : int
        Of the first seed.
    frozen : bool
        Whether only an output was fitted.
    device : str
        Where all this was measured.
    """

    typed: str
    label: str
    name: str
    modality: str
    model: str
    width: int
    size_mb: float | None
    encoder_key: str
    n_labelled: int
    rate: float | None
    measured: str
    fit_seconds: float
    best_epoch: int
    frozen: bool
    device: str

    @property
    def encode_seconds(self) -> float | None:
        """To encode the labelled rows, at its rate, where the fit reads their embeddings; None where it does not."""
        return self.n_labelled / self.rate if self.frozen and self.rate else None

    @property
    def seconds(self) -> float:
        """From nothing to the first figure: encoding, where it is frozen, and the fit."""
        return (self.encode_seconds or 0.0) + self.fit_seconds


_TEXTS = ("typed", "label", "name", "model", "encoder_key", "measured", "device")
_SECONDS = Number(float, low=0)
_SHAPE: dict[str, Shape] = {
    **dict.fromkeys(_TEXTS, str),
    "modality": Choice((*MODALITIES, OTHER)),
    "width": Number(int, low=1),
    "size_mb": (_SECONDS, None),
    "n_labelled": Number(int, low=0),
    "rate": (_SECONDS, None),
    "fit_seconds": _SECONDS,
    "best_epoch": Number(int, low=0),
    "frozen": bool,
}


def write_encoder_record(file: Path, record: EncoderRecord) -> None:
    """Keep a record."""
    write_sealed(file, {"format": FORMAT, **dataclasses.asdict(record)})


def read_encoder_record(file: Path) -> EncoderRecord | None:
    """What was kept; None where there is nothing that can be read."""
    names = [field.name for field in dataclasses.fields(EncoderRecord)]
    try:
        values = read_record(file, FORMAT, _SHAPE, _REMEDY)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        say(str(error))
        return None
    return EncoderRecord(**{name: values[name] for name in names})


@dataclass(frozen=True, eq=False)
class EncoderLine:
    """One encoder of a comparison.

    Attributes
    ----------
    compared : Compared
        Its figures; what is said of chance is beside the best of its modality.
    intervals : dict of str to (float, float)
        95 % bootstrap intervals of further figures, by the names of `Scores`.
    """

    record: EncoderRecord
    compared: Compared
    intervals: dict[str, tuple[float, float]]

    def value(self, metric: str) -> float:
        """A figure by its name in mmfeat.toml."""
        return self.compared.metrics.scores.value(metric)


def encoder_lines(
    found: Sequence[tuple[EncoderRecord, Part]],
    labels: np.ndarray,
    numbers: np.ndarray,
    decide: Callable[[np.ndarray], DecisionRule],
    metric: str,
) -> list[EncoderLine]:
    """Lines by modality, in each the best first; arguments as for :func:`mmfeat.runs.comparison.compared`."""
    order, lines = np.argsort(numbers, kind="stable"), []
    for modality in sorted({record.modality for record, _ in found}, key=(*MODALITIES, OTHER).index):
        group = sorted((pair for pair in found if pair[0].modality == modality), key=lambda pair: pair[0].label)
        candidates = [Candidate(r.label, r.label, part, r.size_mb, False) for r, part in group]
        ones = [
            EncoderLine(record, one, bootstrap_metrics(labels[order], one.outcome, WITH_INTERVALS))
            for (record, _), one in zip(
                group, compared(candidates, labels, numbers, decide, metric, first_seed), strict=True
            )
        ]
        sign = -1.0 if better(metric, 1.0, 0.0) else 1.0
        lines += sorted(ones, key=lambda line: (line.compared.difference is not None, sign * line.value(metric)))
    return lines


def bests(lines: Sequence[EncoderLine]) -> dict[str, EncoderLine]:
    """The best of each modality."""
    return {line.record.modality: line for line in lines if line.compared.difference is None}
