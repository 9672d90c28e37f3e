"""A teacher in closed form: kernel ridge regression on all embeddings, calibrated on leave-one-out predictions.

With few labels it ranks rows better than heads that are trained by gradient descent. It needs no val rows, because the
leave-one-out prediction of each labelled row follows from the solution (Rifkin and Lippert, 2007).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from mmfeat.common.randomness import mix
from mmfeat.heads.training.fit_heads import FitData
from mmfeat.metrics import scores

WIDTH = 0.25  # in exp(-WIDTH d^2); between unrelated rows, d^2 is 2 per modality
RIDGES = (0.3, 1.0, 3.0)  # candidates; the best leave-one-out mAP selects one
MOST_ROWS = 4000  # highest number of labelled rows, sampled by id if there are more: the cost is cubic
_BLOCK = 4096


def kernel_logits(data: FitData) -> np.ndarray:
    """Logits `(N, K)` float32 of all rows, fitted on the labels of the training rows.

    A missing embedding is replaced by the mean. Unknown labels are excluded. Labels of val rows are not read.
    """
    rows = data.train[np.argsort(mix(data.numbers[data.train], MOST_ROWS), kind="stable")[:MOST_ROWS]]
    rows = rows[np.argsort(data.numbers[rows], kind="stable")]
    x = torch.cat([_standardised(data, name) for name in data.widths], 1)
    x_train, labels = x[torch.as_tensor(rows, device=x.device)], data.labels[torch.as_tensor(rows, device=x.device)]
    known = labels >= 0
    mean = torch.where(known, labels, 0).sum(0, dtype=torch.float32) / known.sum(0).clamp(min=1)
    residual = torch.where(known, labels - mean, 0)  # (n, K)
    kernel, best, best_value = _kernel(x_train, x_train), None, -1.0
    given = labels.cpu().numpy().astype(np.int8)
    for ridge in RIDGES:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel + ridge * torch.eye(len(rows), device=x.device)))
        alpha = inverse @ residual
        leave_one_out = (residual - alpha / inverse.diagonal()[:, None]).cpu().numpy()
        value = scores(given, np.zeros_like(given), leave_one_out).map
        if value > best_value:
            best, best_value = (alpha, leave_one_out), value
    alpha, leave_one_out = best
    predictions = torch.cat([_kernel(block, x_train) @ alpha for block in x.split(_BLOCK)]).cpu().numpy()
    slope, bias = _calibration(leave_one_out.astype(np.float64), given)
    return (slope * predictions + bias).astype(np.float32)


def _standardised(data: FitData, name: str) -> Tensor:
    """Embeddings `(N, D)` standardised over all rows (this reads no labels) and scaled to a mean squared length of 1."""
    x, present = data.inputs[name], data.present[name]
    if not present.any():
        return torch.zeros_like(x)
    mean = x[present].mean(0)
    scale = x[present].std(0, unbiased=False).clamp(min=1e-6)
    return torch.where(present[:, None], (x - mean) / scale, 0) / x.shape[1] ** 0.5


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    return torch.exp(-WIDTH * squares.clamp(min=0))


def _calibration(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Fit a common slope and biases `(K,)` that turn predictions into logits, with Platt's targets (1999), never 0 or 1."""
    known, positive = labels >= 0, labels == 1
    n_positive, n_negative = positive.sum(0), (labels == 0).sum(0)
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    start = np.log((n_positive + 1) / (n_negative + 1))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, bias = np.exp(parameters[0]), parameters[1:]
        z = slope * predictions + bias
        cells = np.where(known, np.logaddexp(0, z) - target * z, 0)
        error = np.where(known, 1 / (1 + np.exp(-np.clip(z, -500, 500))) - target, 0)
        return cells.sum() / known.sum(), np.append((error * predictions).sum() * slope, error.sum(0)) / known.sum()

    bounds = [(np.log(0.1), np.log(100.0)), *[(-20.0, 20.0)] * len(start)]
    found = minimize(loss, np.append(np.log(5.0), start), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(np.exp(found[0])), found[1:]
