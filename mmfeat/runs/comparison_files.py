"""The files of a comparison: its folder, the logits of each model, and the record of each encoder."""

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
from mmfeat.config.encoder_tables import MODALITY_TABLES

FORMAT = 1
RECORD = "comparison.json"
_COSTS = ("seconds", "microseconds", "head_mb")


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelLogits:
    """Logits of one model on the val rows, and the model's costs.

    Attributes
    ----------
    logits : np.ndarray
        `(S, n, K)` float32 for S seeds.
    known : np.ndarray
        `(n,)` bool: whether the row has a modality that the model reads.
    seconds : float or None
        Seconds to train one seed; None if nothing was trained for the comparison.
    microseconds : float
        Microseconds to predict one row with one seed's head from cached embeddings.
    head_mb : float
        Megabytes of the heads of all seeds, without encoders.
    train_logits : np.ndarray or None
        `(S, m, K)` float32 on a sample of the training rows, for in-sample figures; None if an earlier version wrote them.
    train_known : np.ndarray or None
        `(m,)` bool, as `known`.
    """

    logits: np.ndarray
    known: np.ndarray
    seconds: float | None
    microseconds: float
    head_mb: float
    train_logits: np.ndarray | None = None
    train_known: np.ndarray | None = None


class ComparisonFolder:
    """The folder `KIND-N` of one comparison, which caches models that were compared before.

    Parameters
    ----------
    parent : Path
        `comparisons/` of a project.
    kind : str
        `heads` or `encoders`.
    common : dict
        Inputs that all models share, as JSON values. A comparison with the same inputs is continued; otherwise a new one
        starts.
    numbers : np.ndarray
        `(n,)` uint64 of the val rows' ids, from :func:`mmfeat.common.randomness.id_numbers`.
    record : dict
        Further JSON values for `comparison.json`.
    dry : bool
        Whether nothing may be written. The path of a new comparison then does not exist.

    Attributes
    ----------
    path : Path
    made : bool
        Whether a model was added.
    """

    def __init__(
        self,
        parent: Path,
        kind: str,
        common: dict[str, Any],
        *,
        numbers: np.ndarray,
        record: dict[str, Any],
        dry: bool = False,
    ) -> None:
        self.numbers, self.made = numbers, False
        fingerprint = digest_json(common)
        found = _existing_folder(parent, kind, fingerprint)
        if found is None:
            whole = {"kind": kind, **common, **record}
            found = parent / f"{kind}-0" if dry else _new_folder(parent, kind, fingerprint, whole)
        self.path = found

    def kept(self, name: str, fingerprint: str) -> ModelLogits | None:
        """The cached logits in the file `name`; None if there are none, or they have another fingerprint."""
        return read_logits(self.path / name, self.numbers, fingerprint)

    def keep(self, name: str, fingerprint: str, model: ModelLogits) -> ModelLogits:
        """Write a model's logits to the cache, and return them."""
        self.made = True
        write_logits(self.path / name, model, numbers=self.numbers, fingerprint=fingerprint)
        return model


def _existing_folder(parent: Path, kind: str, fingerprint: str) -> Path | None:
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
        except (OSError, ValueError) as error:  # damaged, or written by a newer mmfeat
            say(str(error))
            continue
        if kept["fingerprint"] == fingerprint:
            return path
    return None


def _new_folder(parent: Path, kind: str, fingerprint: str, record: dict[str, Any]) -> Path:
    with staging_folder(parent, sweep=False) as staged:
        write_sealed(staged / RECORD, {"format": FORMAT, "fingerprint": fingerprint, **record})
        return publish_folder(staged, parent, kind)


def write_logits(file: Path, model: ModelLogits, *, numbers: np.ndarray, fingerprint: str) -> None:
    """Write one model's logits, atomically; `numbers` as for :class:`ComparisonFolder`."""
    about = {name: getattr(model, name) for name in _COSTS} | {"format": FORMAT, "fingerprint": fingerprint}
    arrays = {"logits": model.logits.astype(np.float32), "known": model.known, "ids": numbers}
    if model.train_logits is not None:
        arrays |= {"train_logits": model.train_logits.astype(np.float32), "train_known": model.train_known}
    write_arrays(file, arrays, {"mmfeat": json.dumps(about)})


def read_logits(file: Path, numbers: np.ndarray, fingerprint: str) -> ModelLogits | None:
    """Read logits with this fingerprint, with rows in the order of `numbers`; None if there are none."""
    try:
        arrays, metadata = read_arrays(file)
        about = json.loads(metadata["mmfeat"])
        if about["format"] > FORMAT or about["fingerprint"] != fingerprint:
            return None
        logits, known, ids = (arrays[name] for name in ("logits", "known", "ids"))
        costs = {name: None if about[name] is None else float(about[name]) for name in _COSTS}
        if logits.ndim != 3 or logits.dtype != np.float32 or known.dtype != bool or ids.dtype != np.uint64:
            raise ValueError("its arrays have other types")
        trained = {name: arrays[name] for name in ("train_logits", "train_known") if name in arrays}
        if not logits.shape[1] == len(known) == len(ids) or not np.isfinite(logits).all():
            raise ValueError("the shapes of its arrays do not match, or a logit is not finite")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:  # a damaged file is computed again
        say(f"{file}: damaged: {one_line(error)}. It is computed again")
        return None
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, numbers, sorter=order).clip(max=len(ids) - 1)] if len(ids) else order
    if len(ids) != len(numbers) or not (ids[at] == numbers).all():
        return None
    return ModelLogits(logits=logits[:, at], known=known[at], **costs, **trained)


@dataclass(frozen=True, kw_only=True)
class ComparedEncoder:
    """The record of one encoder in a comparison, the content of `encoder.json`.

    Attributes
    ----------
    typed, label : str
        The text that the user typed, and the encoder's label in tables.
    name, modality, model : str
        The encoder of mmfeat.toml that it is or would replace; its modality and model.
    width : int
        D of its embeddings.
    size_mb : float or None
        Megabytes; None for imported embeddings.
    encoder_key : str
        The key of its features in the store.
    n_labelled : int
        Number of distinct samples among the labelled rows.
    rate : float or None
        Samples read, prepared and encoded per second; None if samples cannot be encoded.
    measured : str
        The samples that the rate was measured on.
    fit_seconds : float
        Seconds to train one seed: the whole encoder, or only its linear probe.
    best_epoch : int
        The best epoch of the first seed.
    frozen : bool
        Whether only a linear probe was fitted.
    device : str
        The device of all measurements.
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
        """Seconds to encode the labelled rows, if the fit reads their embeddings; None otherwise."""
        return self.n_labelled / self.rate if self.frozen and self.rate else None

    @property
    def seconds(self) -> float:
        """Seconds until the first metric: encoding (if the encoder is frozen) and the fit."""
        return (self.encode_seconds or 0.0) + self.fit_seconds


_TEXTS = ("typed", "label", "name", "model", "encoder_key", "measured", "device")
_SECONDS = Number(float, low=0)
_SHAPE: dict[str, Shape] = {
    **dict.fromkeys(_TEXTS, str),
    "modality": Choice(MODALITY_TABLES),
    "width": Number(int, low=1),
    "size_mb": (_SECONDS, None),
    "n_labelled": Number(int, low=0),
    "rate": (_SECONDS, None),
    "fit_seconds": _SECONDS,
    "best_epoch": Number(int, low=0),
    "frozen": bool,
}


def write_compared_encoder(file: Path, record: ComparedEncoder) -> None:
    """Write the record of an encoder."""
    write_sealed(file, {"format": FORMAT, **dataclasses.asdict(record)})


def read_compared_encoder(file: Path) -> ComparedEncoder | None:
    """Read the record of an encoder; None if it is missing or damaged."""
    names = [field.name for field in dataclasses.fields(ComparedEncoder)]
    try:
        values = read_record(file, FORMAT, _SHAPE, "It is written again")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        say(str(error))
        return None
    return ComparedEncoder(**{name: values[name] for name in names})
