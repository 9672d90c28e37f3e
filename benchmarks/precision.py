"""What the precision class `mixed` costs: cosines of rows to float32, and paired differences of heads on val rows.

    python benchmarks/precision.py FLOAT32 MIXED [--seeds N]

FLOAT32 and MIXED are two projects of the same rows, split and encoders, with all features cached; under `[encoder.NAME]`
one says `precision = "float32"`, the other `"mixed"`. Each head is fitted on both with the same seeds; the mean of the
seeds' logits predicts, at 0.5. Writes benchmarks/results/precision.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from heads import project_data, settings
from results_folder import write_results

from mmfeat.common.machine import processor
from mmfeat.heads.training.fit_heads import FitData, fit_heads
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.heads.training.members import Member
from mmfeat.metrics.bootstrap import Outcome, paired_bootstrap
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.project.project import Project

HEADS = ("linear", "mlp", "crossattn")
METRICS = ("samples_f1", "macro_f1", "map")


def cosines(projects: list[Project]) -> dict[str, Any]:
    """The cosine of each row's embeddings in both projects, by encoder: median and least."""
    found = {}
    for name in projects[0].config.encoder:
        a, b = (project.feature_table([name]).embeddings[name][:].astype(np.float32) for project in projects)
        there = (np.abs(a).sum(1) > 0) & (np.abs(b).sum(1) > 0)
        a, b = a[there], b[there]
        values = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        found[name] = {"rows": len(values), "median": float(np.median(values)), "least": float(values.min())}
    return found


def outcome(data: FitData, head: str, seeds: int) -> Outcome:
    """Predictions of the mean of the seeds' logits on val rows."""
    members = [Member(settings(head), seed, train=data.train, val=data.val) for seed in range(seeds)]
    fits = fit_heads(head, data, members, metric="samples-f1")
    logits = np.mean([head_logits(fit.head, data) for fit in fits], axis=0)[data.val]
    rule = DecisionRule()
    return Outcome(rule.labels(rule.probs(logits)), logits, logits)


def main() -> None:
    """Compare two projects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float32", type=Path)
    parser.add_argument("mixed", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    projects = [Project(options.float32), Project(options.mixed)]
    found: dict[str, Any] = {"cpu": processor(), "seeds": options.seeds, "cosines": cosines(projects), "heads": {}}
    print(found["cosines"], flush=True)
    data = [project_data(str(project.root)) for project in projects]
    labels = data[0].labels.numpy()[data[0].val]
    for head in HEADS:
        exact, mixed = (outcome(one, head, options.seeds) for one in data)
        found["heads"][head] = paired_bootstrap(labels, mixed, exact, names=METRICS)
        print(head, {name: np.round(values, 4).tolist() for name, values in found["heads"][head].items()}, flush=True)
    print(f"Made {write_results('precision', found)}")


if __name__ == "__main__":
    main()
