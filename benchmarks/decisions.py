"""What the automatic threshold is worth, how optimistic metrics on val are, and what helps rare classes.

    python benchmarks/decisions.py threshold   # auto against 0.5 on hidden rows: all heads, common and rare classes
    python benchmarks/decisions.py optimism    # val minus hidden rows: by selection of epochs, and by the number of rows
    python benchmarks/decisions.py rare        # macro F1 and classes never predicted, with six classes of 20 positives

On the cached features of a project's inputs (`--project DIR`), whose labelled rows are drawn anew for each seed: some to
train, some as val, the rest hidden from all fits. Prints tables and writes results/decisions-PART.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from heads import project_data, settings
from store_io import cpu_name

from mmfeat.common.labels import sigmoid
from mmfeat.config.schema import PredictConfig
from mmfeat.heads.training.fit_heads import FitData, fit_head
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.metrics import samples_f1_rows, scores
from mmfeat.metrics.decision_rule import DecisionRule, fit_decision_rule

HEADS = ("linear", "mlp", "concat", "crossattn", "gated", "weighted", "labelquery")
N_TRAIN, N_VAL = 3000, 600
RARE, POSITIVES = 6, 20  # classes that keep so many positives
HALF, AUTO = PredictConfig(0.5), PredictConfig("auto")


def drawn(data: FitData, seed: int, rare: int = 0) -> tuple[FitData, np.ndarray]:
    """Data with rows drawn to train and as val, and the hidden rows. Rows with too many of a rare class's positives leave.

    Rare are the classes of the seed; they keep `POSITIVES` positives in the train and val rows together.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.labels))
    labels = data.labels.numpy()
    n = N_TRAIN + N_VAL
    kept, hidden = order, order[-8000:]
    kept = kept[:-8000]
    for k in rng.choice(np.flatnonzero((labels == 1).sum(0) > 10 * POSITIVES), rare, replace=False):
        positive = np.flatnonzero(labels[kept, k] == 1)
        kept = np.delete(kept, positive[POSITIVES * len(kept) // n :])
    kept = kept[:n]
    return dataclasses.replace(data, train=np.sort(kept[:N_TRAIN]), val=np.sort(kept[N_TRAIN:])), hidden


def fitted(data: FitData, head: str, *, rule: PredictConfig, metric: str, seed: int, **changes: Any) -> Any:
    """The logits of all rows by a head that is fitted on a draw."""
    return head_logits(fit_head(head, data, settings(head, **changes), metric=metric, rule=rule, seed=seed).head, data)


def rule_of(data: FitData, logits: np.ndarray, config: PredictConfig, metric: str) -> DecisionRule:
    """The rule that val rows fit."""
    val = data.val
    labels = data.labels.numpy()[val]
    return fit_decision_rule(config, metric, labels=labels, logits=logits[val], numbers=data.numbers[val])


def threshold(data: FitData, seeds: int, metric: str) -> dict[str, Any]:
    """Auto minus 0.5 on hidden rows, in mean and number of losses beyond noise."""
    found = {}
    for rare in (0, RARE):
        for head in HEADS:
            gains, used = [], []
            for seed in range(seeds):
                part, hidden = drawn(data, seed, rare)
                labels = data.labels.numpy()[hidden]
                values = []
                for config in (HALF, AUTO):
                    logits = fitted(part, head, rule=config, metric=metric, seed=seed)
                    rule = rule_of(part, logits, config, metric)
                    values.append(rule.labels(rule.probs(logits[hidden])))
                used.append(float(np.asarray(rule.threshold)))
                gains.append([_value(metric, labels, v, logits[hidden]) for v in values] + [_error(labels, *values)])
            half, auto, error = np.array(gains).T
            gain = auto - half
            found[f"{head}, {rare} rare"] = {
                "at 0.5": half.mean(),
                "auto": auto.mean(),
                "gain": gain.mean(),
                "error": gain.std(ddof=1) / len(gain) ** 0.5,
                "least": gain.min(),
                "worse": int((gain < -1.96 * error).sum()),
                "fitted": int((np.array(used) != 0.5).sum()),
                "of": seeds,
            }
            print(head, rare, {k: round(v, 4) for k, v in found[f"{head}, {rare} rare"].items()}, flush=True)
    return found


def _value(metric: str, labels: np.ndarray, predicted: np.ndarray, logits: np.ndarray) -> float:
    return float(scores(labels, predicted, logits).value(metric))


def _error(labels: np.ndarray, one: np.ndarray, two: np.ndarray) -> float:
    """Standard error of the difference in samples F1."""
    difference = samples_f1_rows(labels, one) - samples_f1_rows(labels, two)
    return float(difference.std() / len(difference) ** 0.5)


def optimism(data: FitData, seeds: int, metric: str) -> dict[str, Any]:
    """Val minus hidden rows, for heads whose epoch val selects, whose epoch others select, and on as few hidden rows."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        part, hidden = drawn(data, seed)
        labels = data.labels.numpy()
        few = [hidden[start : start + N_VAL] for start in range(0, len(hidden) - N_VAL, N_VAL)]
        of_others = dataclasses.replace(part, val=hidden[:N_VAL])  # other rows select the epoch: val is untouched
        for head in HEADS:
            own = fitted(part, head, rule=HALF, metric=metric, seed=seed)
            other = fitted(of_others, head, rule=HALF, metric=metric, seed=seed)
            rest = hidden[N_VAL:]
            line = {
                "selected by val: val - hidden": _all(labels, own, part.val) - _all(labels, own, rest),
                "selected by others: val - hidden": _all(labels, other, part.val) - _all(labels, other, rest),
                "as few hidden rows - all": np.mean([_all(labels, own, rows) for rows in few], 0)
                - _all(labels, own, hidden),
            }
            for name, values in line.items():
                found.setdefault(name, []).append(dict(zip(("samples F1", "macro F1", "mAP"), values, strict=True)))
    table = {}
    for name, lines in found.items():
        for column in lines[0]:
            by_seed = np.array([one[column] for one in lines]).reshape(seeds, -1).mean(1)
            table[f"{name}: {column}"] = {"mean": by_seed.mean(), "error": by_seed.std(ddof=1) / seeds**0.5}
            print(name, column, {k: round(v, 4) for k, v in table[f"{name}: {column}"].items()}, flush=True)
    return table


def _all(labels: np.ndarray, logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    rule = DecisionRule()
    found = scores(labels[rows], rule.labels(sigmoid(logits[rows])), logits[rows])
    return np.array([found.samples_f1, found.macro_f1, found.map])


def rare(data: FitData, seeds: int, metric: str) -> dict[str, Any]:
    """Macro F1 on hidden rows with rare classes, for settings that may help them."""
    trials: dict[str, tuple[str, dict[str, Any], PredictConfig, str]] = {
        "crossattn": ("crossattn", {}, HALF, metric),
        "threshold auto, macro-f1": ("crossattn", {}, AUTO, "macro-f1"),
        "threshold tuned-per-class, macro-f1": ("crossattn", {}, PredictConfig("tuned-per-class"), "macro-f1"),
        "weights paper": ("crossattn", {"weights": "paper"}, HALF, metric),
        "weights paper, tuned-per-class, macro-f1": (
            "crossattn",
            {"weights": "paper"},
            PredictConfig("tuned-per-class"),
            "macro-f1",
        ),
        "labelquery": ("labelquery", {}, HALF, metric),
        "labelquery, tuned-per-class, macro-f1": ("labelquery", {}, PredictConfig("tuned-per-class"), "macro-f1"),
        "asymmetric loss, auto, macro-f1": ("crossattn", {"loss": "asymmetric"}, AUTO, "macro-f1"),
    }
    table = {}
    for name, (head, changes, config, by) in trials.items():
        lines = []
        for seed in range(seeds):
            part, hidden = drawn(data, seed, RARE)
            labels = data.labels.numpy()[hidden]
            logits = fitted(part, head, rule=config, metric=by, seed=seed, **changes)
            rule = rule_of(part, logits, config, by)
            predicted = rule.labels(rule.probs(logits[hidden]))
            found = scores(labels, predicted, logits[hidden])
            few = np.argsort((data.labels.numpy()[part.train] == 1).sum(0))[:RARE]
            never = int((~predicted.any(0)).sum())
            lines.append([found.samples_f1, found.macro_f1, np.nanmean(found.class_f1[few]), found.map, never])
        columns = ("samples F1", "macro F1", "F1 of the six rarest", "mAP", "never predicted")
        table[name] = dict(zip(columns, np.mean(lines, 0).tolist(), strict=True))
        print(name, {k: round(v, 3) for k, v in table[name].items()}, flush=True)
    return table


PARTS = {"threshold": threshold, "optimism": optimism, "rare": rare}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one part on a project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--project", default=".", help="a project with cached features")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--metric", default="samples-f1", choices=("samples-f1", "micro-f1", "macro-f1"))
    options = parser.parse_args(argv)
    found = PARTS[options.part](project_data(options.project), options.seeds, options.metric)
    record = {"cpu": cpu_name(), "part": options.part, "seeds": options.seeds, "metric": options.metric, "rows": found}
    stem = f"decisions-{options.part}" + ("" if options.metric == "samples-f1" else f"-{options.metric}")
    file = Path(__file__).parent / "results" / f"{stem}.json"
    file.write_text(json.dumps(record, indent=1, default=float) + "\n", encoding="utf-8")
    print(f"Made {file}")


if __name__ == "__main__":
    main()
