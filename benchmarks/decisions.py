"""What the automatic threshold is worth, how optimistic metrics on val are, and what helps rare classes.

    python benchmarks/decisions.py threshold   # fitted thresholds against 0.5 on hidden rows: all heads, rare classes too
    python benchmarks/decisions.py optimism    # val minus hidden rows: by selection of epochs, and by the number of rows
    python benchmarks/decisions.py rare        # macro F1 and classes never predicted, with six classes of 20 positives

On the cached features of a project's inputs (`--project DIR`), whose labelled rows are drawn for each seed: some to
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

from mmfeat.common.labels import sigmoid
from mmfeat.common.machine import processor
from mmfeat.config.schema import PredictConfig
from mmfeat.heads.training.fit_heads import FitData, Member, fit_heads
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.metrics import Outcome, paired_bootstrap, scores
from mmfeat.metrics.decision_rule import DecisionRule, fit_decision_rule

HEADS = ("linear", "mlp", "concat", "crossattn", "gated", "weighted", "labelquery")
N_TRAIN, N_VAL, N_HIDDEN = 3000, 600, 8000
RARE, POSITIVES = 6, 20  # classes that keep so many positives
HALF, AUTO = PredictConfig(0.5), PredictConfig("auto")
RULES = {
    "at 0.5": HALF,
    "auto": AUTO,
    "tuned": PredictConfig("tuned"),
    "tuned-per-class": PredictConfig("tuned-per-class"),
}


def drawn(data: FitData, seed: int, rare: int = 0) -> tuple[FitData, np.ndarray]:
    """Data with rows drawn to train and as val, and the hidden rows.

    Of the classes that the seed makes rare, about `POSITIVES` positives stay among the train and val rows; rows with
    further positives are not drawn.
    """
    rng = np.random.default_rng(seed)
    order, labels = rng.permutation(len(data.labels)), data.labels.numpy()
    hidden, kept = order[:N_HIDDEN], order[N_HIDDEN:]
    seldom = np.flatnonzero((labels == 1).mean(0) < 0.1)
    for k in rng.choice(seldom, min(rare, len(seldom)), replace=False):
        positive = np.flatnonzero(labels[kept, k] == 1)
        kept = np.delete(kept, positive[POSITIVES * len(kept) // (N_TRAIN + N_VAL) :])
    train, val = kept[:N_TRAIN], kept[N_TRAIN : N_TRAIN + N_VAL]
    return dataclasses.replace(data, train=np.sort(train), val=np.sort(val)), hidden


def fitted(data: FitData, parts: list[FitData], head: str, *, metric: str, **changes: Any) -> list[np.ndarray]:
    """The logits of all rows by one head for each draw, `(N, K)`; draws are fitted together."""
    members = [
        Member(settings(head, **changes), seed, train=part.train, val=part.val) for seed, part in enumerate(parts)
    ]
    return [head_logits(fit.head, data) for fit in fit_heads(head, data, members, metric=metric)]


def rule_of(part: FitData, logits: np.ndarray, config: PredictConfig, metric: str) -> DecisionRule:
    """The rule that the val rows of a draw fit."""
    labels = part.labels.numpy()[part.val]
    return fit_decision_rule(config, metric, labels=labels, logits=logits[part.val], numbers=part.numbers[part.val])


def threshold(data: FitData, seeds: int, metric: str) -> dict[str, Any]:
    """Auto and tuned minus 0.5 on hidden rows: mean over draws, its standard error, and losses beyond noise."""
    labels, found = data.labels.numpy(), {}
    for rare in (0, RARE):
        draws = [drawn(data, seed, rare) for seed in range(seeds)]
        for head in HEADS:
            lines: dict[str, list[float]] = {}
            for logits, (part, hidden) in zip(
                fitted(data, [part for part, _ in draws], head, metric=metric), draws, strict=True
            ):
                rules = {name: rule_of(part, logits, config, metric) for name, config in RULES.items()}
                predicted = {name: rule.labels(rule.probs(logits[hidden])) for name, rule in rules.items()}
                half = _value(metric, labels[hidden], predicted["at 0.5"], logits[hidden])
                lines.setdefault("at 0.5", []).append(half)
                for name in ("auto", "tuned", "tuned-per-class"):
                    gain = _value(metric, labels[hidden], predicted[name], logits[hidden]) - half
                    lines.setdefault(name, []).append(gain)
                lines.setdefault("fitted", []).append(float(rules["auto"].threshold != 0.5))
                sides = (Outcome(predicted[name], logits[hidden], logits[hidden]) for name in ("auto", "at 0.5"))
                name = metric.replace("-", "_")
                _, _, high = paired_bootstrap(labels[hidden], *sides, n=200, names=(name,))[name]
                lines.setdefault("worse beyond noise", []).append(float(high < 0))
            table = {name: float(np.mean(values)) for name, values in lines.items()}
            table |= {f"{name}, error": float(np.std(lines[name], ddof=1) / seeds**0.5) for name in ("auto", "tuned")}
            found[f"{head}, {rare} rare"] = table | {"auto, least": min(lines["auto"])}
            print(head, rare, {k: round(v, 4) for k, v in found[f"{head}, {rare} rare"].items()}, flush=True)
    return found


def _value(metric: str, labels: np.ndarray, predicted: np.ndarray, logits: np.ndarray) -> float:
    return float(scores(labels, predicted, logits).value(metric))


def optimism(data: FitData, seeds: int, metric: str) -> dict[str, Any]:
    """Val minus hidden rows, for heads whose epoch val selects, whose epoch others select, and on as few hidden rows."""
    labels, draws = data.labels.numpy(), [drawn(data, seed) for seed in range(seeds)]
    # of the others, hidden rows select the epoch: val is untouched
    parts = {
        "own": [part for part, _ in draws],
        "others": [dataclasses.replace(part, val=np.sort(hidden[:N_VAL])) for part, hidden in draws],
    }
    found: dict[str, list[np.ndarray]] = {}
    for head in HEADS:
        logits = {name: fitted(data, some, head, metric=metric) for name, some in parts.items()}
        for seed, (part, hidden) in enumerate(draws):
            own, other, rest = logits["own"][seed], logits["others"][seed], hidden[N_VAL:]
            few = [rest[start : start + N_VAL] for start in range(0, len(rest) - N_VAL + 1, N_VAL)]
            everything = _all(labels, own, rest)
            line = {
                "val selected the epoch: val - hidden": _all(labels, own, part.val) - everything,
                "others selected it: val - hidden": _all(labels, other, part.val) - _all(labels, other, rest),
                "hidden rows, as few as val - all": np.mean([_all(labels, own, rows) for rows in few], 0) - everything,
            }
            for name, values in line.items():
                found.setdefault(name, []).append(values)
    table = {}
    for name, values in found.items():
        by_seed = np.array(values).reshape(len(HEADS), seeds, -1).mean(0)
        for at, column in enumerate(("samples F1", "macro F1", "mAP")):
            mean, error = by_seed[:, at].mean(), by_seed[:, at].std(ddof=1) / seeds**0.5
            table[f"{name}: {column}"] = {"mean": float(mean), "error": float(error)}
            print(name, column, f"{mean:+.4f} ± {error:.4f}", flush=True)
    return table


def _all(labels: np.ndarray, logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    rule = DecisionRule()
    found = scores(labels[rows], rule.labels(sigmoid(logits[rows])), logits[rows])
    return np.array([found.samples_f1, found.macro_f1, found.map])


def rare(data: FitData, seeds: int, metric: str) -> dict[str, Any]:
    """Macro F1 on hidden rows with rare classes, for settings that may help them."""
    per_class = PredictConfig("tuned-per-class")
    trials: dict[str, tuple[str, dict[str, Any], PredictConfig, str]] = {
        "crossattn": ("crossattn", {}, HALF, metric),
        "--threshold auto --metric macro-f1": ("crossattn", {}, AUTO, "macro-f1"),
        "--threshold tuned-per-class --metric macro-f1": ("crossattn", {}, per_class, "macro-f1"),
        "weights = paper": ("crossattn", {"weights": "paper"}, HALF, metric),
        "weights = paper, auto, macro-f1": ("crossattn", {"weights": "paper"}, AUTO, "macro-f1"),
        "loss = asymmetric, auto, macro-f1": ("crossattn", {"loss": "asymmetric"}, AUTO, "macro-f1"),
        "labelquery": ("labelquery", {}, HALF, metric),
        "labelquery, tuned-per-class, macro-f1": ("labelquery", {}, per_class, "macro-f1"),
    }
    labels, table, draws = data.labels.numpy(), {}, [drawn(data, seed, RARE) for seed in range(seeds)]
    for name, (head, changes, config, by) in trials.items():
        lines = []
        fits = fitted(data, [part for part, _ in draws], head, metric=by, **changes)
        for logits, (part, hidden) in zip(fits, draws, strict=True):
            rule = rule_of(part, logits, config, by)
            predicted = rule.labels(rule.probs(logits[hidden]))
            found = scores(labels[hidden], predicted, logits[hidden])
            few = np.argsort((labels[part.train] == 1).sum(0))[:RARE]
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
    record = {"cpu": processor(), "part": options.part, "seeds": options.seeds, "metric": options.metric, "rows": found}
    stem = f"decisions-{options.part}" + ("" if options.metric == "samples-f1" else f"-{options.metric}")
    file = Path(__file__).parent / "results" / f"{stem}.json"
    file.write_text(json.dumps(record, indent=1, default=float) + "\n", encoding="utf-8")
    print(f"Made {file}")


if __name__ == "__main__":
    main()
