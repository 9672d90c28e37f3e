"""What a fit from a run's weights costs and reaches, as `fuse --from` does it; `benchmarks/README.md` has the figures.

    python benchmarks/incremental.py PROJECT [--heads NAMES] [--train N] [--seeds N]

On the cached features of a project, heads are first trained with former labels: those of 80 % of the training rows, or those
of all, where a tenth has the labels of other rows. From their weights, they then learn the present labels of all training
rows, in a part of the epochs. The reference is a fit from nothing. The mean of the seeds' logits predicts, at 0.5; metrics
are on val, differences paired. Prints a table and writes benchmarks/results/incremental.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from heads import project_data, settings, some_rows
from results_folder import device_name, write_results

from mmfeat.heads.head import Head
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import FitData, fit_heads
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.heads.training.members import Member
from mmfeat.metrics.bootstrap import Outcome, paired_bootstrap
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import metrics_of

RULE = DecisionRule()
METRICS = ("samples_f1", "macro_f1", "map")
SHORTER = (4, 8)  # parts of the epochs


@dataclass(frozen=True, kw_only=True, eq=False)
class Timed:
    """Heads of all seeds, and the CPU seconds of their fit, which hardly depend on what else the machine does."""

    fits: list[FittedHead]
    seconds: float

    @classmethod
    def of(cls, name: str, data: FitData, config: Any, *, starts: Sequence[Head | None]) -> Timed:
        """Fit a head for each start, from its weights or from nothing."""
        weights = [None if head is None else head.state_dict() for head in starts]
        members = [Member(config, seed, start=state) for seed, state in enumerate(weights)]
        begin = time.process_time()
        fits = fit_heads(name, data, members)
        return cls(fits=fits, seconds=time.process_time() - begin)

    @property
    def heads(self) -> list[Head]:
        """The heads, by seed."""
        return [fit.head for fit in self.fits]

    @property
    def epochs(self) -> float:
        """Mean number of epochs until the heads stopped."""
        return float(np.mean([len(fit.history) for fit in self.fits]))


def former_labels(data: FitData) -> dict[str, FitData]:
    """The data as they were before, by what has changed since."""
    order = data.train[np.argsort(data.numbers[data.train])]
    wrong, labels = order[::10], data.labels.clone()
    labels[torch.as_tensor(wrong)] = data.labels[torch.as_tensor(np.roll(wrong, 1))]
    return {
        "a fifth of the rows is new": dataclasses.replace(data, train=np.sort(order[: len(order) * 4 // 5])),
        "a tenth was labelled wrongly": dataclasses.replace(data, labels=labels),
    }


def outcome_of(data: FitData, heads: list[Head]) -> Outcome:
    """Predictions of val rows by the mean of the heads' logits."""
    logits = np.mean([head_logits(head, data, data.val) for head in heads], axis=0)
    return Outcome(RULE.labels(RULE.probs(logits)), logits, logits)


class Results:
    """The lines of the table so far; the first is the reference."""

    def __init__(self, data: FitData) -> None:
        self.data, self.labels = data, data.labels[data.val].numpy()
        self.lines: list[dict[str, Any]] = []

    def add(self, what: str, heads: list[Head], timed: Timed | None = None) -> None:
        """Add a line; of heads that were not trained now, it has no time."""
        outcome = outcome_of(self.data, heads)
        scores = metrics_of(self.labels, outcome.logits, RULE).scores
        line: dict[str, Any] = {"what": what, **{name: getattr(scores, name) for name in METRICS}}
        if timed is not None:
            line |= {"cpu_seconds": timed.seconds, "epochs": timed.epochs}
        if self.lines:
            line["difference"] = paired_bootstrap(self.labels, outcome, self.reference, names=METRICS)
            line["time"] = timed and timed.seconds / self.lines[0]["cpu_seconds"]
        else:
            self.reference = outcome
        self.lines.append(line)
        low_high = {name: [round(x, 4) for x in values] for name, values in line.get("difference", {}).items()}
        kept = {key: round(value, 4) for key, value in line.items() if isinstance(value, float)}
        print(what, kept, low_high, flush=True)


def measured(name: str, data: FitData, seeds: int) -> list[dict[str, Any]]:
    """All fits of one head."""
    config, found, new = settings(name), Results(data), [None] * seeds
    reference = Timed.of(name, data, config, starts=new)
    found.add(f"{name} from nothing", reference.heads, reference)
    quarter = dataclasses.replace(config, epochs=-(-config.epochs // 4))
    control = Timed.of(name, data, quarter, starts=new)
    found.add(f"{name} from nothing, 1/4 of the epochs", control.heads, control)
    for what, before in former_labels(data).items():
        starts = Timed.of(name, before, config, starts=new).heads
        found.add(f"{name}, {what}: before", starts)
        for part in SHORTER:
            shorter = dataclasses.replace(config, epochs=-(-config.epochs // part))
            timed = Timed.of(name, data, shorter, starts=starts)
            found.add(f"{name}, {what}: 1/{part} of the epochs", timed.heads, timed)
    return found.lines


def main() -> None:
    """Measure the named heads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project")
    parser.add_argument("--heads", default="concat,mlp,crossattn")
    parser.add_argument("--train", type=int, default=0, help="training rows; 0: all")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data = project_data(arguments.project)
    data = dataclasses.replace(data, train=some_rows(data, arguments.train))
    rows = f"{len(data.train):,} + {len(data.val):,} rows of {data.widths}"
    lines = {name: measured(name, data, arguments.seeds) for name in arguments.heads.split(",")}
    found = {"rows": rows, "device": device_name(), "seeds": arguments.seeds, "heads": lines}
    print(f"Made {write_results('incremental', found)}")


if __name__ == "__main__":
    main()
