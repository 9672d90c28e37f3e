"""Models side by side on the same rows: what is kept of each, their figures, and which differ by more than chance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import one_line
from mmfeat.common.files import publish_folder, staging_folder
from mmfeat.common.progress import say
from mmfeat.common.sealed_tensors import read_arrays, write_arrays
from mmfeat.common.seals import read_record, write_sealed
from mmfeat.metrics import Outcome, better, paired_bootstrap
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import Metrics, metrics_of, outcome_of
from mmfeat.runs.ensembles import combined

FORMAT = 1
RECORD = "comparison.json"
_REMEDY = "Remove the folder and type the command again"
_NUMBERS = ("seconds", "microseconds", "head_mb")


@dataclass(frozen=True, eq=False)
class Part:
    """What one fitted model says of the val rows, and what it costs.

    Attributes
    ----------
    logits : np.ndarray
        `(S, n, K)` float32 by seed; what predicts is their mean.
    known : np.ndarray
        `(n,)` bool: the row has a modality that the model reads.
    seconds : float or None
        To train one seed; None where nothing was trained here.
    microseconds : float
        To predict one row by one seed's head from cached embeddings.
    head_mb : float
        Of the heads of all seeds, encoders not counted.
    """

    logits: np.ndarray
    known: np.ndarray
    seconds: float | None
    microseconds: float
    head_mb: float


@dataclass(frozen=True, eq=False)
class Compared:
    """One line of a comparison.

    Attributes
    ----------
    metrics : Metrics
        Of the logits that predict: the mean over seeds, or the first seed's.
    seeds : np.ndarray
        `(S,)` samples-F1 of each seed alone.
    size_mb : float or None
        The whole model with its encoders; None with an encoder of unknown size.
    difference : (float, float, float) or None
        From the best, in the metric that decides which is that, with the 95 % interval of rows drawn in pairs; None for the
        best itself.
    outcome : Outcome
        What rows are drawn of, in the order of their numbers.
    paper : bool
        Whether it is a line of the paper's Table 5.
    """

    name: str
    label: str
    metrics: Metrics
    seeds: np.ndarray
    part: Part
    size_mb: float | None
    difference: tuple[float, float, float] | None
    outcome: Outcome
    paper: bool
    note: str = ""

    @property
    def spread(self) -> float | None:
        """Standard deviation of samples-F1 over seeds; None with one."""
        return float(self.seeds.std(ddof=1)) if len(self.seeds) > 1 else None

    @property
    def verdict(self) -> str:
        """How it stands to the best."""
        if self.difference is None:
            return "best"
        return "no more than chance from the best" if self.difference[1] <= 0 <= self.difference[2] else ""


def mean_part(parts: Sequence[Part], prior: np.ndarray) -> Part:
    """The mean of several models' logits, seed by seed; one of fewer seeds is taken again from its first.

    Parameters
    ----------
    prior : np.ndarray
        `(K,)` logits of a row that no model knows.
    """
    n_seeds, known = max(len(part.logits) for part in parts), [part.known for part in parts]
    weights = [1 / len(parts)] * len(parts)
    logits = [
        combined([part.logits[s % len(part.logits)] for part in parts], known, weights, prior) for s in range(n_seeds)
    ]
    trained = [part.seconds for part in parts if part.seconds is not None]
    return Part(
        np.stack(logits),
        np.any(known, axis=0),
        sum(trained) if trained else None,
        sum(part.microseconds for part in parts),
        sum(part.head_mb for part in parts),
    )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model before its figures are known: see :class:`Compared`."""

    name: str
    label: str
    part: Part
    encoders_mb: float | None
    paper: bool
    note: str = ""


def mean_over_seeds(logits: np.ndarray) -> np.ndarray:
    """What several heads on the same embeddings predict together."""
    return logits.mean(0)


def first_seed(logits: np.ndarray) -> np.ndarray:
    """What one of several encoders predicts: they share nothing, so that their mean would be an ensemble."""
    return logits[0]


def compared(
    candidates: Sequence[Candidate],
    labels: np.ndarray,
    numbers: np.ndarray,
    decide: Callable[[np.ndarray], DecisionRule],
    metric: str,
    predicts: Callable[[np.ndarray], np.ndarray] = mean_over_seeds,
) -> list[Compared]:
    """Score models on the same rows, and set each beside the best in a metric.

    Parameters
    ----------
    labels, numbers : np.ndarray
        `(n, K)` int8, and `(n,)` uint64 of the rows' ids, whose order is that in which rows are drawn.
    decide : callable
        From logits `(n, K)` to what turns them into labels.
    predicts : callable
        From the logits of all seeds `(S, n, K)` to those that predict.
    """
    order, name = np.argsort(numbers, kind="stable"), metric.replace("-", "_")
    means = [predicts(one.part.logits) for one in candidates]
    decisions = [decide(logits) for logits in means]
    figures, best = [metrics_of(labels, *one) for one in zip(means, decisions, strict=True)], 0
    for i, found in enumerate(figures):
        if better(metric, found.scores.value(metric), figures[best].scores.value(metric)):
            best = i
    outcomes = [Outcome(*(array[order] for array in outcome_of(*one))) for one in zip(means, decisions, strict=True)]
    lines = []
    for i, (one, found) in enumerate(zip(candidates, figures, strict=True)):
        seeds = np.array([metrics_of(labels, x, decide(x)).scores.samples_f1 for x in one.part.logits])
        difference = None
        if i != best:
            difference = paired_bootstrap(labels[order], outcomes[i], outcomes[best], names=[name])[name]
        size = None if one.encoders_mb is None else one.encoders_mb + one.part.head_mb
        lines.append(
            Compared(one.name, one.label, found, seeds, one.part, size, difference, outcomes[i], one.paper, one.note)
        )
    return lines


def comparison_folder(parent: Path, kind: str, fingerprint: str, record: dict[str, Any]) -> Path:
    """The folder `KIND-N` of a comparison of exactly this, made where there is none."""
    found = [
        (int(match[1]), path)
        for path in (parent.iterdir() if parent.is_dir() else ())
        if (match := re.fullmatch(rf"{kind}-(\d+)", path.name))
    ]
    for _, path in sorted(found, reverse=True):
        try:
            if read_record(path / RECORD, FORMAT, {"fingerprint": str}, _REMEDY)["fingerprint"] == fingerprint:
                return path
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # damaged, or of a newer mmfeat: not this one
            say(str(error))
    with staging_folder(parent, sweep=False) as staged:
        write_sealed(staged / RECORD, {"format": FORMAT, "fingerprint": fingerprint, **record})
        return publish_folder(staged, parent, kind)


def save_part(file: Path, part: Part, numbers: np.ndarray, fingerprint: str) -> None:
    """Keep one model's part, whole or not at all.

    Parameters
    ----------
    numbers : np.ndarray
        `(n,)` uint64 of the rows' ids, from :func:`mmfeat.common.randomness.id_numbers`.
    """
    about = {name: getattr(part, name) for name in _NUMBERS} | {"format": FORMAT, "fingerprint": fingerprint}
    arrays = {"logits": part.logits.astype(np.float32), "known": part.known, "ids": numbers}
    write_arrays(file, arrays, {"mmfeat": json.dumps(about)})


def kept_part(file: Path, numbers: np.ndarray, fingerprint: str) -> Part | None:
    """What was kept of a model made from exactly this, its rows in the order of `numbers`; None where there is none."""
    try:
        arrays, metadata = read_arrays(file)
        about = json.loads(metadata["mmfeat"])
        if about["format"] > FORMAT or about["fingerprint"] != fingerprint:
            return None
        logits, known, ids = (arrays[name] for name in ("logits", "known", "ids"))
        costs = {name: None if about[name] is None else float(about[name]) for name in _NUMBERS}
        if logits.ndim != 3 or logits.dtype != np.float32 or known.dtype != bool or ids.dtype != np.uint64:
            raise ValueError("its arrays are of other types")
        if not logits.shape[1] == len(known) == len(ids) or not np.isfinite(logits).all():
            raise ValueError("its arrays do not fit each other")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:  # what is damaged is made again
        say(f"{file}: damaged: {one_line(error)}. It is made again")
        return None
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, numbers, sorter=order).clip(max=len(ids) - 1)] if len(ids) else order
    if len(ids) != len(numbers) or not (ids[at] == numbers).all():
        return None
    return Part(logits[:, at], known[at], **costs)
