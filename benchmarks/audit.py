"""How well `mmfeat audit` finds planted label errors, and what correcting them gains; `benchmarks/README.md` has the figures.

    python benchmarks/audit.py labels --project .    # planted errors against cleanlab on the same probabilities
    python benchmarks/audit.py review --project .    # the first 500 labels shown, and macro F1 once they are corrected

On a project's cached features of frozen encoders (a fine-tuned one has seen the labels that are to be found wrong). Labels
of its training rows are changed: `labels` flips 2, 5 or 10 % of all known labels, or drops 5 % of the positives; `review`
takes 2,000 training rows, drops 10 % of their positives and makes as many negatives positive. Predictions are out of fold, by
a head on all encoders (`--head`) and by a linear head on each; as in `mmfeat audit`, val rows are in the folds too, with
their own labels. Labels that are wrong in the data themselves count against every method. `--scenario` takes some ways of
changing labels. Prints a table and writes results/audit-PART.json after each seed. Needs cleanlab.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

import numpy as np
import torch
from heads import project_data, settings
from results_folder import device_name, write_results

from mmfeat.audit.label_errors import confident_errors, label_quality, suspicious
from mmfeat.common.labels import sigmoid
from mmfeat.config.schema import PredictConfig
from mmfeat.data.groups import groups_of
from mmfeat.data.splits import make_folds
from mmfeat.heads.training.fit_heads import FitData, fit_heads
from mmfeat.heads.training.fold_heads import fit_folds
from mmfeat.heads.training.head_logits import heads_logits
from mmfeat.heads.training.members import Member
from mmfeat.metrics import paired_bootstrap
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import outcome_of

FOLDS, SHOWN, REVIEWED = 5, 500, 2000
SCENARIOS = {"2 % flipped": 0.02, "5 % flipped": 0.05, "10 % flipped": 0.10, "5 % of positives dropped": 0.0}
CLEANLAB, FUSED, ALL = "cleanlab", "mmfeat, the same probabilities", "mmfeat, with image and text alone"


def planted(truth: np.ndarray, scenario: str, rng: np.random.Generator) -> np.ndarray:
    """The labels `(n, K)` with planted errors."""
    given, positives = truth.ravel().copy(), np.flatnonzero(truth.ravel() == 1)
    if scenario == "review":
        n, negatives = round(0.1 * len(positives)), np.flatnonzero(truth.ravel() == 0)
        cells = np.concatenate([rng.permutation(positives)[:n], rng.permutation(negatives)[:n]])
    elif share := SCENARIOS[scenario]:
        cells = rng.permutation(np.flatnonzero(given >= 0))[: round(share * (given >= 0).sum())]
    else:
        cells = rng.permutation(positives)[: round(0.05 * len(positives))]
    given[cells] = 1 - given[cells]
    return given.reshape(truth.shape)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Rows with planted errors, then the val rows: their labels, and logits `(N, K)` of each model, out of fold."""

    n: int
    labels: np.ndarray
    logits: list[np.ndarray]


def out_of_fold(data: FitData, rows: np.ndarray, given: np.ndarray, head: str) -> Judged:
    """Predictions of rows with these labels and of the val rows: by the head on all encoders, then by a linear head on each."""
    labels, fold = data.labels.clone(), np.full(len(data.labels), -1)
    labels[torch.as_tensor(rows)] = torch.as_tensor(given)
    both = np.concatenate([rows, data.val])
    ids = [str(number) for number in data.numbers[both].tolist()]
    groups = groups_of(np.zeros((len(both), 32), np.uint8), np.zeros(len(both), bool))
    fold[both] = make_folds(ids, labels.numpy()[both], groups, k=FOLDS, seed=0)
    data, place = dataclasses.replace(data, labels=labels, fold=fold), np.searchsorted(np.sort(both), both)
    views = [(head, list(data.widths)), *(("linear", [name]) for name in data.widths)]
    logits = [fit_folds(name, data.only(*inputs), settings(name), [0]).logits[0][place] for name, inputs in views]
    return Judged(n=len(rows), labels=labels.numpy()[both], logits=logits)


def qualities(one: Judged) -> dict[str, np.ndarray]:
    """The quality of each label of the rows `(n, K)` by each method."""
    from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class

    lists = [np.flatnonzero(row == 1).tolist() for row in one.labels[: one.n]]
    probs = sigmoid(one.logits[0][: one.n].astype(np.float64))
    return {
        CLEANLAB: get_label_quality_scores_per_class(lists, probs, method="self_confidence"),
        FUSED: label_quality(one.labels, one.logits[:1])[: one.n],
        ALL: label_quality(one.labels, one.logits)[: one.n],
    }


def found(quality: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Average precision, and precision at the number of planted errors, where it equals recall."""
    from sklearn.metrics import average_precision_score

    order = np.argsort(quality.ravel(), kind="stable")
    n = int(wrong.sum())
    return {
        "average_precision": float(average_precision_score(wrong.ravel(), -quality.ravel().astype(np.float64))),
        "precision_at_n": float(wrong.ravel()[order[:n]].mean()),
    }


def labels(args: argparse.Namespace) -> None:
    """Every way of planting errors, over seeds."""
    data = project_data(args.project)
    truth = data.labels.numpy()[data.train]
    results: dict[str, Any] = {"device": device_name(), "head": args.head, "seeds": args.seeds, "scenarios": {}}
    for scenario in args.scenario or SCENARIOS:
        seeds = results["scenarios"].setdefault(scenario, [])
        for seed in range(args.seeds):
            given = planted(truth, scenario, np.random.default_rng(seed))
            start = time.perf_counter()
            judged = out_of_fold(data, data.train, given, args.head)
            one = {name: found(quality, given != truth) for name, quality in qualities(judged).items()}
            seeds.append({**one, **estimates(judged, given != truth), "seconds": time.perf_counter() - start})
            print(scenario, seed, seeds[-1], flush=True)
            write_results("audit-labels", results)
    print_table(results)


def estimates(one: Judged, wrong: np.ndarray) -> dict[str, float]:
    """Planted errors, estimates of their number, and how many labels are listed and were planted."""
    counts, quality = confident_errors(one.labels, sigmoid(one.logits[0])), label_quality(one.labels, one.logits)
    listed = suspicious(quality)[: one.n]
    return {
        "planted": int(wrong.sum()),
        "confident_learning": int(counts.wrong.sum()),
        "expected": float((1 - quality[: one.n]).sum()),
        "listed": int(listed.sum()),
        "listed_planted": int((listed & wrong).sum()),
    }


def print_table(results: dict[str, Any]) -> None:
    """Means and standard deviations over seeds."""
    print("| errors | method | average precision | over cleanlab's | precision at n |")
    print("|---|---|---|---|---|")
    for scenario, seeds in results["scenarios"].items():
        for name in (CLEANLAB, FUSED, ALL):
            ap = np.array([one[name]["average_precision"] for one in seeds])
            ratio = ap / np.array([one[CLEANLAB]["average_precision"] for one in seeds])
            at = np.array([one[name]["precision_at_n"] for one in seeds])
            print(
                f"| {scenario} | {name} | {ap.mean():.3f} ± {ap.std():.3f} | {ratio.mean():.3f} | {at.mean():.3f} ± {at.std():.3f} |"
            )


def review(args: argparse.Namespace) -> None:
    """The first labels that a person is shown, and what correcting them gains on untouched val rows."""
    data = project_data(args.project)
    seeds = []
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.permutation(data.train)[:REVIEWED])
        truth = data.labels.numpy()[rows]
        given = planted(truth, "review", rng)
        wrong = given != truth
        judged = out_of_fold(data, rows, given, args.head)
        quality = label_quality(judged.labels, judged.logits)[: judged.n]
        shown = np.argsort(quality.ravel(), kind="stable")[:SHOWN]
        corrected = given.ravel().copy()
        corrected[shown] = truth.ravel()[shown]
        outcomes = [on_val(data, rows, one, args.head) for one in (corrected.reshape(given.shape), given, truth)]
        val = data.labels.numpy()[data.val][np.argsort(data.numbers[data.val])]
        seeds.append(
            {
                "planted": int(wrong.sum()),
                "precision": float(wrong.ravel()[shown].mean()),
                "gain": paired_bootstrap(val, outcomes[0], outcomes[1])["macro_f1"],
                "gain_of_all": paired_bootstrap(val, outcomes[2], outcomes[1])["macro_f1"],
            }
        )
        print(seed, seeds[-1], flush=True)
        write_results("audit-review", {"device": device_name(), "head": args.head, "shown": SHOWN, "seeds": seeds})


def on_val(data: FitData, rows: np.ndarray, given: np.ndarray, head: str) -> Any:
    """The predictions of a head over three seeds, trained on some rows with these labels, on val in the order of ids."""
    changed = data.labels.clone()
    changed[torch.as_tensor(rows)] = torch.as_tensor(given)
    order = data.val[np.argsort(data.numbers[data.val])]
    data = dataclasses.replace(data, labels=changed, train=rows)
    fits = fit_heads(head, data, [Member(settings(head), seed) for seed in range(3)], rule=PredictConfig())
    return outcome_of(heads_logits([fit.head for fit in fits], data, order).mean(0), DecisionRule())


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["labels", "review"])
    parser.add_argument("--project", default=".")
    parser.add_argument("--head", default="crossattn")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    args = parser.parse_args()
    {"labels": labels, "review": review}[args.part](args)


if __name__ == "__main__":
    main()
