"""Sweeps: cached fits, the mean of each cell over its seeds, and the effect of each setting."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.files import digest_json
from mmfeat.common.json_shapes import Number, Several, Shape, misfit
from mmfeat.common.progress import say
from mmfeat.common.seals import read_record, write_sealed
from mmfeat.metrics import better

FORMAT = 1
METRIC_NAMES = ("samples_f1", "micro_f1", "macro_f1", "map", "loss")
BY_CLASS = ("class_f1", "class_accuracy")
FIT: dict[str, Shape] = {
    "figures": dict.fromkeys(METRIC_NAMES, (float, None)),
    "best_epoch": Number(int, low=0),
    "seconds": float,
    "?train_macro_f1": (float, None),
    **{f"?{name}": {str: (float, None)} for name in BY_CLASS},
    "?intervals": {str: Several(2, float)},
}
_FAILED: Shape = {"error": str}
_REMEDY = "Its fits are computed again"

Fit = dict[str, Any]  # `figures`, `best_epoch`, `seconds` and further numbers, or `error`


def kept_metrics(metrics: dict[str, Any], classes: Sequence[str]) -> Fit:
    """The part of a kept fit about its metrics on val, of which F1 and accuracy are also kept by class."""
    by_class = {name: dict(zip(classes, metrics[name], strict=True)) for name in BY_CLASS}
    return {"figures": {name: metrics[name] for name in METRIC_NAMES}, **by_class}


class KeptFits:
    """The cached fits of all sweeps of a kind, by fingerprint; unreadable files are ignored.

    Parameters
    ----------
    folder : Path
        `sweeps/fuse` or `sweeps/finetune` of a project.
    shape : dict, optional
        The shape of a fit, see :mod:`mmfeat.common.json_shapes`.
    """

    def __init__(self, folder: Path, shape: dict[str, Shape] | None = None) -> None:
        self.folder, self._shape = folder, shape or FIT
        self._fits: dict[str, Fit] = {}
        for file in sorted(folder.glob("*.json")):
            try:
                self._fits |= self._read(file)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                say(str(error))

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._fits

    def __getitem__(self, fingerprint: str) -> Fit:
        return self._fits[fingerprint]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fits)

    def _read(self, file: Path) -> dict[str, Fit]:
        fit = (_FAILED, self._shape)
        record = read_record(file, FORMAT, {"?heads": {str: fit}, "?fingerprint": str}, _REMEDY)
        if "heads" in record:
            return record["heads"]
        if why := misfit(record, {"fingerprint": str}) or misfit(record, fit):
            raise ValueError(f"{file}: damaged: {why}. {_REMEDY}")
        return {record["fingerprint"]: record}

    def keep_pass(self, fits: dict[str, Fit]) -> None:
        """Write the fits of one vectorised pass to one file."""
        name = digest_json(sorted(fits))[:16]
        write_sealed(self.folder / f"{name}.json", {"format": FORMAT, "heads": fits})
        self._fits |= fits

    def keep(self, fingerprint: str, fit: Fit) -> None:
        """Write one fit to its own file."""
        record = {"format": FORMAT, "fingerprint": fingerprint, **fit}
        write_sealed(self.folder / f"{fingerprint[:16]}.json", record)
        self._fits[fingerprint] = record


@dataclass(frozen=True, kw_only=True)
class SweptCell:
    """A cell of a sweep with its fits.

    Attributes
    ----------
    name : str
        The head, or the encoder.
    values : dict of str to Any
        Swept key to value; includes `head` if there are several heads.
    fits : list of dict
        One fit per seed: `figures`, `best_epoch`, `seconds` and further numbers, or `error`.
    """

    name: str
    values: dict[str, Any]
    fits: list[Fit]

    @property
    def error(self) -> str:
        """Why one of its fits failed; empty if none did."""
        return next((fit["error"] for fit in self.fits if fit.get("error")), "")

    def scores(self, metric: str) -> list[float]:
        """A metric of each seed."""
        return [_number(fit["figures"][metric.replace("-", "_")]) for fit in self.fits if not fit.get("error")]

    def mean(self, name: str) -> float:
        """The mean of a metric, `best_epoch` or another number over seeds; NaN if every fit failed."""
        whole = [fit for fit in self.fits if not fit.get("error")]
        found = [_number(fit["figures"][name] if name in METRIC_NAMES else fit.get(name)) for fit in whole]
        return float(np.mean(found)) if found else math.nan

    def by_class(self, name: str) -> dict[str, float]:
        """`class_f1` or `class_accuracy` by class, on average over seeds; empty if version 0.2 made a fit."""
        whole = [fit.get(name, {}) for fit in self.fits if not fit.get("error")]
        if not whole or not all(whole):
            return {}
        return {label: float(np.mean([_number(fit[label]) for fit in whole])) for label in whole[0]}

    def interval(self, name: str) -> tuple[float, float] | None:
        """95 % bootstrap interval of a metric over val rows; None with several seeds, and if the fit keeps none."""
        (low, high) = self.fits[0].get("intervals", {}).get(name, (None, None)) if len(self.fits) == 1 else (None, None)
        return None if low is None or high is None else (low, high)

    def deviation(self, metric: str) -> float | None:
        """Standard deviation of a metric over seeds; None with one seed."""
        found = self.scores(metric)
        return float(np.std(found, ddof=1)) if len(found) > 1 else None


def _number(value: float | None) -> float:
    """A metric of a JSON record; None means that it is undefined, as without any positive."""
    return math.nan if value is None else value


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The main effect of one setting.

    Attributes
    ----------
    key : str
        The setting.
    means : list of (value, float)
        For each value, the mean of the metric over all its fits, best first.
    share : float
        The share of the variance over all fits that the value explains. The shares of all settings sum up to at most 1.
    """

    key: str
    means: list[tuple[Any, float]]
    share: float


def best_first(cells: Sequence[SweptCell], metric: str) -> list[SweptCell]:
    """Sort cells by their mean over seeds, best first; cells with a failed fit or an undefined metric come last."""
    sign = -1.0 if better(metric, 1.0, 0.0) else 1.0

    def key(cell: SweptCell) -> tuple[bool, float]:
        mean = math.nan if cell.error else cell.mean(metric.replace("-", "_"))
        return (True, 0.0) if math.isnan(mean) else (False, sign * mean)

    return sorted(cells, key=key)


def lowest_loss(cells: Sequence[SweptCell]) -> SweptCell | None:
    """The cell to use if logits are to be averaged (paper, section 4.3; P17); None if every cell failed."""
    found = [cell for cell in cells if not cell.error and math.isfinite(cell.mean("loss"))]
    return min(found, key=lambda cell: cell.mean("loss"), default=None)


def main_effects(cells: Sequence[SweptCell], metric: str) -> list[Effect]:
    """For each key with several values, the share of the variance that it explains; the largest share first.

    Cells with a failed fit are left out; the fits of all seeds count. A key explains what keys before it leave: first come
    those that more fits have, so that a setting of one head explains nothing of the difference between heads. The remaining
    variance comes from seeds and from combinations of settings.
    """
    sign, found = (-1.0 if better(metric, 1.0, 0.0) else 1.0), []
    whole = [cell for cell in cells if not cell.error and np.isfinite(cell.scores(metric)).all()]
    for key in dict.fromkeys(key for cell in whole for key in cell.values):
        by_value: dict[Any, list[float]] = {}
        for cell in whole:
            if key in cell.values:
                by_value.setdefault(cell.values[key], []).extend(cell.scores(metric))
        if len(by_value) < 2:
            continue
        every = np.concatenate(list(by_value.values()))
        between = sum(len(scores) * (np.mean(scores) - every.mean()) ** 2 for scores in by_value.values())
        means = [(value, float(np.mean(scores))) for value, scores in by_value.items()]
        found.append((-len(every), -between, key, sorted(means, key=lambda m: sign * m[1])))
    found.sort(key=lambda one: one[:2])
    shares = _shares(whole, metric, [key for _, _, key, _ in found])
    effects = [Effect(key=key, means=means, share=shares[key]) for _, _, key, means in found]
    return sorted(effects, key=lambda effect: -effect.share)


def _shares(cells: Sequence[SweptCell], metric: str, keys: Sequence[str]) -> dict[str, float]:
    """The share of the variance over all fits that each key explains beyond the keys before it."""
    fits = [(cell.values, score) for cell in cells for score in cell.scores(metric)]
    scores = np.array([score for _, score in fits])
    left = total = float(((scores - scores.mean()) ** 2).sum()) if fits else 0.0
    columns, shares = [np.ones(len(scores))], {}
    for key in keys:
        values = dict.fromkeys(fit[key] for fit, _ in fits if key in fit)
        columns += [np.array([fit.get(key, _ABSENT) == value for fit, _ in fits], dtype=float) for value in values]
        design = np.stack(columns, axis=1)
        rest = float(((scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]) ** 2).sum())
        shares[key], left = (max(0.0, left - rest) / total if total else 0.0), min(left, rest)
    return shares


_ABSENT = object()
