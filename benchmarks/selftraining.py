"""What self-training gains where few rows have labels; `benchmarks/README.md` has the figures.

    python benchmarks/selftraining.py run --project . --share 0.05 --seed 0              # every policy
    python benchmarks/selftraining.py run --project . --share 0.05 --seed 0 --policy soft
    python benchmarks/selftraining.py kernel --project . --share 0.05 --seed 0           # what one of its teachers gives
    python benchmarks/selftraining.py sklearn --project . --share 0.05 --seed 0
    python benchmarks/selftraining.py ceiling --project . --seed 0
    python benchmarks/selftraining.py table
    python benchmarks/selftraining.py speed --project .
    python benchmarks/selftraining.py few --project .
    python benchmarks/selftraining.py truth --project mmfeat-demo --truth data/truth.csv --run selftrain-1

On a project's cached features. Of its labelled rows 3,000 are put aside, which no round sees; of the others a share (of all
rows) keeps its labels, a tenth of those as val, and the labels of the rest are hidden: their truth is for scoring alone.
`supervised` is the rounds' MLP (of `paper`: the mean of its linear models) on the rows that keep theirs; `after` is the same
after the rounds, one seed each; `--final HEAD` adds a head of `mmfeat fuse` over three seeds before and after. Results are added to results/selftraining.json, from which
`table` prints mean and deviation over seeds.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from heads import project_data, settings

from mmfeat.api.demo import hidden_truth
from mmfeat.common.labels import decide, label_names, sigmoid
from mmfeat.common.machine import processor
from mmfeat.config.schema import PredictConfig, SelftrainConfig
from mmfeat.heads.training.fit_heads import FitData, fit_data, fit_heads
from mmfeat.heads.training.head_logits import heads_logits
from mmfeat.heads.training.members import Member
from mmfeat.inference.logits import logits_of
from mmfeat.metrics import scores
from mmfeat.project.project import Project
from mmfeat.selftraining import rounds
from mmfeat.selftraining.kernel import kernel_logits
from mmfeat.selftraining.policies import Targets
from mmfeat.selftraining.rounds import self_train, with_targets
from mmfeat.selftraining.saved_rounds import kept_in
from mmfeat.training.head_training import head_inputs

RESULTS = Path(__file__).parent / "results" / "selftraining.json"
POLICIES = ("paper", "all", "confident", "class-aware", "soft")  # paper: on cached features
UNSEEN = 3000
METRIC_NAMES = ("samples_f1", "macro_f1", "map")


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A project with most labels hidden; `truth` `(N, K)` has them all."""

    data: FitData
    hidden: np.ndarray
    unseen: np.ndarray
    truth: np.ndarray

    def metrics(self, logits: np.ndarray) -> dict[str, dict[str, float]]:
        """Of logits `(N, K)`, on hidden rows (transductive) and on unseen ones, in points."""
        found = {}
        for name, rows in (("hidden", self.hidden), ("unseen", self.unseen)):
            one = scores(self.truth[rows], decide(sigmoid(logits[rows])), logits[rows])
            found[name] = {figure: 100 * getattr(one, figure) for figure in METRIC_NAMES}
        return found


def hide(project: str, share: float, seed: int) -> Hidden:
    """Keep the labels of a share of the rows."""
    data = project_data(project)
    truth = data.labels.numpy().copy()
    order = np.random.default_rng(1000 + seed).permutation(len(truth))
    n = int(len(truth) * share) if share < 1 else len(truth) - UNSEEN
    given, hidden, unseen = order[:n], np.sort(order[n:-UNSEEN]), np.sort(order[-UNSEEN:])
    val, train = np.sort(given[: max(1, n // 10)]), np.sort(given[max(1, n // 10) :])
    labels = data.labels.clone()
    labels[torch.as_tensor(np.concatenate([hidden, unseen]))] = -1
    data = dataclasses.replace(data, labels=labels, train=train, val=val)
    return Hidden(data, hidden if share < 1 else train, unseen, truth)


def run(args: argparse.Namespace) -> None:
    """Every policy at one share and seed."""
    given = hide(args.project, args.share, args.seed)
    folder = Path(args.keep) / f"{args.share}-{args.seed}"
    first = kept_in(folder)
    for policy in args.policy or POLICIES:
        later = kept_in(folder / policy)
        zero = later if policy == "paper" else first  # its supervised round has no MLP
        start = time.perf_counter()
        done = self_train(
            given.data,
            given.hidden,
            SelftrainConfig(rounds=args.rounds, policy=policy),
            metric=args.metric,
            seed=args.seed,
            rule=PredictConfig(),
            truth=given.truth[given.hidden],
            memory=lambda number, make, later=later, zero=zero: (later if number else zero)(number, make),
        )
        seconds = time.perf_counter() - start
        supervised = zero(0, lambda: None)[1]
        one = {
            "supervised": given.metrics(supervised),
            "after": given.metrics(done.logits),
            "best": done.best,
            "rounds": [
                [r.accepted, r.metrics.scores.value(args.metric), r.difference, r.truth, r.n_unknown]
                for r in done.rounds
            ],
            "seconds": seconds,
            "ended": done.ended,
        }
        if args.final:
            for name, targets in (("supervised", None), ("after", done.targets)):
                one[f"{name} by {args.final}"] = given.metrics(_final(given, targets, args))
        _add(args, policy, one)


def _final(given: Hidden, targets: Targets | None, args: argparse.Namespace) -> np.ndarray:
    """A head over three seeds, as `mmfeat selftrain` ends: the mean of their logits."""
    data = with_targets(given.data, given.hidden, targets)
    members = [Member(settings(args.final), args.seed + i) for i in range(3)]
    fits = fit_heads(args.final, data, members, metric=args.metric)
    return heads_logits([fit.head for fit in fits], data).mean(0)


def kernel(args: argparse.Namespace) -> None:
    """The kernel teacher alone, which reads no unlabelled row but for its standardisation."""
    given = hide(args.project, args.share, args.seed)
    start = time.perf_counter()
    found = given.metrics(kernel_logits(given.data))
    _add(args, "kernel teacher", {"after": found, "seconds": time.perf_counter() - start})


def ceiling(args: argparse.Namespace) -> None:
    """The head where all rows but the unseen have labels."""
    given = hide(args.project, 1.0, args.seed)
    start = time.perf_counter()
    fit = self_train(
        given.data, given.hidden, SelftrainConfig(rounds=0), metric=args.metric, seed=args.seed, rule=PredictConfig()
    )
    found = given.metrics(fit.logits)
    args.share = 1.0
    _add(args, "ceiling", {"after": {"unseen": found["unseen"]}, "seconds": time.perf_counter() - start})


def sklearn(args: argparse.Namespace) -> None:
    """scikit-learn's own on the same standardised features; each class for itself, as they take one label a sample."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import kneighbors_graph
    from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

    given = hide(args.project, args.share, args.seed)
    x = np.concatenate([tensor.numpy() for tensor in given.data.inputs.values()], 1)
    seen = np.concatenate([given.data.train, given.data.val, given.hidden])
    x = (x - x[seen].mean(0)) / np.maximum(x[seen].std(0), 1e-6)
    labels = given.data.labels.numpy()
    classes = range(labels.shape[1])

    def one_by_one(make: Any) -> np.ndarray:
        probs = np.zeros(labels.shape)
        for k in classes:
            if len(np.unique(labels[seen, k])) > 2:  # -1, 0 and 1
                probs[:, k] = make(k)
        return np.log(np.clip(probs, 1e-12, 1)) - np.log(np.clip(1 - probs, 1e-12, 1))

    def self_training(k: int) -> np.ndarray:
        fit = SelfTrainingClassifier(LogisticRegression(max_iter=200), max_iter=args.rounds).fit(
            x[seen], labels[seen, k]
        )
        return fit.predict_proba(x)[:, 1]

    def spreading(k: int) -> np.ndarray:  # of all rows, the unseen among them, without their labels
        fit = LabelSpreading(kernel=lambda a, b=None: graph, alpha=0.2).fit(x, labels[:, k])
        return fit.label_distributions_[:, 1]

    for name, make in (("SelfTrainingClassifier", self_training), ("LabelSpreading", spreading)):
        if args.policy and name not in args.policy:
            continue
        start = time.perf_counter()
        if make is spreading:
            graph = kneighbors_graph(x, 10, include_self=True)
            graph = graph.maximum(graph.T)
        found = given.metrics(one_by_one(make))
        _add(args, name, {"after": found, "seconds": time.perf_counter() - start})


def _add(args: argparse.Namespace, name: str, one: dict[str, Any]) -> None:
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    key = f"{args.share:g} {args.seed} {name}"
    found[key] = {**found.get(key, {}), "cpu": processor(), "threads": torch.get_num_threads(), **one}
    RESULTS.write_text(json.dumps(dict(sorted(found.items())), indent=1, default=float) + "\n")
    print(
        key,
        *(f"{part} {_shown(one[part])}" for part in one if part.split(" ")[0] in ("supervised", "after")),
        f"best {one.get('best', '-')}, {one['seconds']:.0f} s",
        flush=True,
    )


def _shown(figures: dict[str, dict[str, float]]) -> str:
    return "; ".join(f"{rows} " + " ".join(f"{one[f]:.1f}" for f in METRIC_NAMES) for rows, one in figures.items())


def table(args: argparse.Namespace) -> None:
    """Mean and deviation over seeds of what results/selftraining.json holds, and how much of the gap to the ceiling was closed."""
    found: dict[tuple[float, str], dict[str, dict[str, Any]]] = {}
    for key, one in json.loads(RESULTS.read_text()).items():
        share, seed, name = key.split(" ", 2)
        found.setdefault((float(share), name), {})[seed] = one
    ceilings = {seed: one["after"]["unseen"]["map"] for seed, one in found.get((1.0, "ceiling"), {}).items()}
    print(
        "| labelled, policy | seeds | rows | samples-F1 | macro-F1 | mAP | gain in each | gap in mAP closed | s |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    said = set()  # what was supervised is the same for all policies
    for (share, name), by_seed in sorted(found.items()):
        ones = list(by_seed.values())
        for part in [part for part in ones[0] if part.split(" ")[0] == "after"]:
            before = part.replace("after", "supervised")
            for rows in ones[0][part]:
                after, was = (
                    np.array([[one[which][rows][f] for f in METRIC_NAMES] for one in ones])
                    if which in ones[0]
                    else None
                    for which in (part, before)
                )
                gain = closed = ""
                if was is not None:
                    gain = ", ".join(_spread(column, "+") for column in (after - was).T)
                    if part == "after" and rows == "unseen" and by_seed.keys() <= ceilings.keys():
                        gap = np.array([ceilings[seed] for seed in by_seed]) - was[:, 2]
                        closed = f"{(after - was)[:, 2].sum() / gap.sum():.2f}"
                    line = f"| {share:.0%} supervised{part[5:]} | {len(was)} | {rows} | {_cells(was)} | | | |"
                    if line not in said:
                        print(line)
                        said.add(line)
                seconds = np.mean([one["seconds"] for one in ones])
                print(
                    f"| {share:.0%} {name}{part[5:]} | {len(after)} | {rows} | {_cells(after)} | {gain} | {closed} | {seconds:.0f} |"
                )


def _cells(values: np.ndarray) -> str:
    return " | ".join(_spread(column) for column in values.T)


def speed(args: argparse.Namespace) -> None:
    """Rounds on all rows of the project, labelled and unlabelled, each of which stands: seconds when each was done."""
    project = Project(args.project)
    identities, features, rows = head_inputs(project, unlabelled=True)
    data = fit_data(features, list(identities), torch.device("cpu"), rows)
    free = np.flatnonzero((project.manifest.labels[rows] < 0).any(1))
    rounds.is_accepted = lambda difference, first: True
    start, seconds = time.perf_counter(), []
    done = self_train(
        data,
        free,
        SelftrainConfig(rounds=args.rounds),
        metric=args.metric,
        seed=args.seed,
        rule=PredictConfig(),
        on_round=lambda one: seconds.append(time.perf_counter() - start),
    )
    print(
        f"{len(rows):,} rows, {torch.get_num_threads()} threads of {processor()}, {done.ended}; done after s: "
        + ", ".join(f"{one:.0f}" for one in seconds)
    )


def few(args: argparse.Namespace) -> None:
    """Write `few.csv`, a project's labelled rows of which 1,000 keep their labels, and `truth.csv`, the labels of the others."""
    manifest = Project(args.project).manifest
    labelled = np.flatnonzero((manifest.labels >= 0).any(1))
    kept = set(np.random.default_rng(args.seed).permutation(labelled)[:1000].tolist())
    names = [" ".join(found) for found in label_names(manifest.labels[labelled], manifest.classes)]
    with open("few.csv", "w", newline="") as given, open("truth.csv", "w", newline="") as hidden:
        given, hidden = csv.writer(given), csv.writer(hidden)
        given.writerow(["id", "image", "caption", "labels"])
        hidden.writerow(["ImageID", "Labels"])
        for row, cell in zip(labelled.tolist(), names, strict=True):
            known = row in kept
            given.writerow([manifest.ids[row], manifest.images[row], manifest.captions[row], cell if known else ""])
            if not known:
                hidden.writerow([manifest.ids[row], cell])


def truth(args: argparse.Namespace) -> None:
    """Figures of a project's runs on its unlabelled rows, whose labels a file has as the demo's truth.csv."""
    project = Project(args.project)
    manifest, rows = project.manifest, project.manifest.rows("unlabelled")
    labels = hidden_truth(project.root / args.truth, manifest.ids[rows], manifest.classes)
    print("| run | rows | samples-F1 | macro-F1 | mAP |\n|---|---|---|---|---|")
    for name in args.run:
        logits = logits_of(project, name, rows).logits
        found = scores(labels, decide(sigmoid(logits)), logits)
        print(f"| {name} | {len(rows):,} | {' | '.join(f'{100 * getattr(found, f):.1f}' for f in METRIC_NAMES)} |")


def _spread(values: np.ndarray, sign: str = "") -> str:
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.1f}{spread}"


if __name__ == "__main__":
    parts = {part.__name__: part for part in (run, kernel, ceiling, sklearn, table, speed, few, truth)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=parts)
    parser.add_argument("--project", default=".")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", action="append", help="again for several; all, when left out")
    parser.add_argument("--metric", default="samples-f1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--final", help="also this head over three seeds, before and after")
    parser.add_argument("--truth", help="a CSV file, from the project's folder")
    parser.add_argument("--run", action="append", help="again for several")
    parser.add_argument("--keep", default="/tmp/mmfeat-selftraining", help="where rounds are kept")
    args = parser.parse_args()
    parts[args.part](args)
