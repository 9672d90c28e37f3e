"""A comparison on disk: its folder, the logits of each model, and the record of each encoder."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import one_line
from mmfeat.common.files import digest_json, publish_folder, staging_folder
from mmfeat.common.json_shapes import Choice, Number, Shape
from mmfeat.common.progress import say
from mmfeat.common.sealed_tensors import read_arrays, write_arrays
from mmfeat.common.seals import read_record, write_sealed
from mmfeat.config.schema import MODALITIES, OTHER

FORMAT = 1
RECORD = "comparison.json"
_COSTS = ("seconds", "microseconds", "head_mb")


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelLogits:
    """Logits of one model on the val rows, and what the model costs.

    Attributes
    ----------
    logits : np.ndarray
        `(S, n, K)` float32 by seed.
    known : np.ndarray
        `(n,)` bool: the row has a modality that the model reads.
    seconds : float or None
        To train one seed; None if nothing was trained for the comparison.
    microseconds : float
        To predict one row with one seed's head from cached embeddings.
    head_mb : float
        Size of the heads of all seeds, without encoders.
    """

    logits: np.ndarray
    known: np.ndarray
    seconds: float | None
    microseconds: float
    head_mb: float


class ComparisonFolder:
    """The folder `KIND-N` of one comparison: models that were compared before are not made again.

    Parameters
    ----------
    parent : Path
        `comparisons/` of a project.
    kind : str
        `heads` or `encoders`.
    common : dict
        JSON values that all models are made from. A comparison of exactly these is continued; otherwise a new one begins.
    numbers : np.ndarray
        `(n,)` uint64 of the val rows' ids, from :func:`mmfeat.common.randomness.id_numbers`.
    record : dict
        Further JSON values for `comparison.json`.

    Attributes
    ----------
    path : Path
    made : bool
        Whether a model was added.
    """

    def __init__(
        self, parent: Path, kind: str, common: dict[str, Any], *, numbers: np.ndarray, record: dict[str, Any]
    ) -> None:
        self.numbers, self.made = numbers, False
        self.path = _found_or_made(parent, kind, digest_json(common), {"kind": kind, **common, **record})

    def kept(self, name: str, fingerprint: str) -> ModelLogits | None:
        """The logits in the file `name`; None if there are none, or they were made from something else."""
        return read_logits(self.path / name, self.numbers, fingerprint)

    def keep(self, name: str, fingerprint: str, model: ModelLogits) -> ModelLogits:
        """Write a model's logits, and return them."""
        self.made = True
        write_logits(self.path / name, model, numbers=self.numbers, fingerprint=fingerprint)
        return model


def _found_or_made(parent: Path, kind: str, fingerprint: str, record: dict[str, Any]) -> Path:
    found = [
        (int(match[1]), path)
        for path in (parent.iterdir() if parent.is_dir() else ())
        if (match := re.fullmatch(rf"{kind}-(\d+)", path.name))
    ]
    for _, path in sorted(found, reverse=True):
        try:
            kept = read_record(
                path / RECORD, FORMAT, {"fingerprint": str}, "Remove the folder and type the command again"
            )
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # damaged, or written by a newer mmfeat: not this one
            say(str(error))
            continue
        if kept["fingerprint"] == fingerprint:
            return path
    with staging_folder(parent, sweep=False) as staged:
        write_sealed(staged / RECORD, {"format": FORMAT, "fingerprint": fingerprint, **record})
        return publish_folder(staged, parent, kind)


def write_logits(file: Path, model: ModelLogits, *, numbers: np.ndarray, fingerprint: str) -> None:
    """Keep one model's logits, whole or not at all; `numbers` as for :class:`ComparisonFolder`."""
    about = {name: getattr(model, name) for name in _COSTS} | {"format": FORMAT, "fingerprint": fingerprint}
    arrays = {"logits": model.logits.astype(np.float32), "known": model.known, "ids": numbers}
    write_arrays(file, arrays, {"mmfeat": json.dumps(about)})


def read_logits(file: Path, numbers: np.ndarray, fingerprint: str) -> ModelLogits | None:
    """Logits with this fingerprint, rows in the order of `numbers`; None if there are none."""
    try:
        arrays, metadata = read_arrays(file)
        about = json.loads(metadata["mmfeat"])
        if about["format"] > FORMAT or about["fingerprint"] != fingerprint:
            return None
        logits, known, ids = (arrays[name] for name in ("logits", "known", "ids"))
        costs = {name: None if about[name] is None else float(about[name]) for name in _COSTS}
        if logits.ndim != 3 or logits.dtype != np.float32 or known.dtype != bool or ids.dtype != np.uint64:
            raise ValueError("its arrays have other types")
        if not logits.shape[1] == len(known) == len(ids) or not np.isfinite(logits).all():
            raise ValueError("its arrays do not fit each other")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:  # a damaged file is made again
        say(f"{file}: damaged: {one_line(error)}. It is made again")
        return None
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, numbers, sorter=order).clip(max=len(ids) - 1)] if len(ids) else order
    if len(ids) != len(numbers) or not (ids[at] == numbers).all():
        return None
    return ModelLogits(logits=logits[:, at], known=known[at], **costs)


@dataclass(frozen=True, kw_only=True)
class ComparedEncoder:
    """The record of one encoder of a comparison, as `encoder.json` keeps it.

    Attributes
    ----------
    typed, label, name, modality, model : str
        As the user typed it; as tables call it; the encoder of mmfeat.toml that it is, or that it would replace.
    width : int
        Of its embeddings.
    size_mb : float or None
        None for imported embeddings.
    encoder_key : str
        The key of its features in the store.
    n_labelled : int
        Distinct samples among the labelled rows.
    rate : float or None
        Samples read, prepared and encoded per second; None if none can be encoded.
    measured : str
        What the rate was measured on.
    fit_seconds : float
        To train one seed: the whole encoder, or its linear probe alone.
    best_epoch : int
        Of the first seed.
    frozen : bool
        Whether only a linear probe was fitted.
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
        """To encode the labelled rows at its rate, if the fit reads their embeddings; None otherwise."""
        return self.n_labelled / self.rate if self.frozen and self.rate else None

    @property
    def seconds(self) -> float:
        """From nothing to the first metric: encoding, if it is frozen, and the fit."""
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


def write_compared_encoder(file: Path, record: ComparedEncoder) -> None:
    """Keep the record of an encoder."""
    write_sealed(file, {"format": FORMAT, **dataclasses.asdict(record)})


def read_compared_encoder(file: Path) -> ComparedEncoder | None:
    """The record of an encoder; None if there is none that can be read."""
    names = [field.name for field in dataclasses.fields(ComparedEncoder)]
    try:
        values = read_record(file, FORMAT, _SHAPE, "It is made again")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        say(str(error))
        return None
    return ComparedEncoder(**{name: values[name] for name in names})
