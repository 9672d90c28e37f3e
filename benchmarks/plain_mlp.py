"""The plain MLP that every fusion head must beat: both embeddings joined, one hidden layer of 512, on the same rows.

    python benchmarks/plain_mlp.py PROJECT

Reads the project's cached features; standardised inputs, Adam with a learning rate of 1e-3, batches of 256, dropout 0.3,
up to 30 epochs, the best of them on val by samples-F1 as for mmfeat's own heads; three seeds. Prints figures on val.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import nn

from mmfeat import Project
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import MetricRow, metrics_of
from mmfeat.report.text_tables import metric_table

SEEDS, EPOCHS, PATIENCE, BATCH, HIDDEN = 3, 30, 6, 256, 512


def fit(
    x: torch.Tensor,
    y: torch.Tensor,
    train: np.ndarray,
    val: np.ndarray,
    labels: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Logits of all rows at the best epoch on val."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HIDDEN, y.shape[1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    best, best_value, best_epoch = None, -1.0, 0
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.as_tensor(train)[torch.randperm(len(train))].split(BATCH):
            loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            logits = model(x).numpy()
        value = metrics_of(labels[val], logits[val], DecisionRule()).scores.samples_f1
        if value > best_value:
            best, best_value, best_epoch = logits, value, epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    return best


def main(folder: str) -> None:
    """Print the table."""
    project = Project(folder)
    manifest = project.manifest
    rows = np.concatenate([manifest.rows("train"), manifest.rows("val")])
    table = project.feature_table(list(project.config.fuse.inputs), rows).take(rows)
    train, val = table.rows("train"), table.rows("val")
    inputs, _ = table.to("cpu")
    x = torch.cat(list(inputs.values()), 1)
    x = (x - x[train].mean(0)) / x[train].std(0).clamp(min=1e-6)
    y = torch.as_tensor(table.labels).float()
    start = time.perf_counter()
    logits = [fit(x, y, train, val, table.labels, seed) for seed in range(SEEDS)]
    seconds = time.perf_counter() - start
    each = [metrics_of(table.labels[val], one[val], DecisionRule()).as_dict() for one in logits]
    mean = metrics_of(table.labels[val], np.mean(logits, 0)[val], DecisionRule())
    lines = [
        MetricRow.over_seeds("plain MLP, one seed", each, seconds / SEEDS),
        MetricRow.of("plain MLP, mean", mean, seconds),
    ]
    print(metric_table(f"{len(val):,} val rows", lines))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")
