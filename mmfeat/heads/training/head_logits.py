"""Logits of trained heads, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mmfeat.heads.head import Head
from mmfeat.heads.noise import QUIET
from mmfeat.heads.training.fit_heads import FitData
from mmfeat.heads.training.stack import MOST_NUMBERS


def head_logits(head: Head, data: FitData, rows: np.ndarray | None = None, batch_size: int = 8192) -> np.ndarray:
    """Logits `(n, K)` float32 of some rows (by default all) by a head in eval mode."""
    return heads_logits([head], data, rows, batch_size)[0]


def heads_logits(
    heads: Sequence[Head], data: FitData, rows: np.ndarray | None = None, batch_size: int = 8192
) -> np.ndarray:
    """Logits `(H, n, K)` float32 of some rows (by default all) by H heads on the same inputs, in eval mode."""
    n = len(data.labels) if rows is None else len(rows)
    logits = np.zeros((len(heads), n, heads[0].n_classes), np.float32)
    for some, each in logits_in_batches(heads, data, rows, batch_size):
        logits[:, some] = each
    return logits


def mean_logits(heads: Sequence[Head], data: FitData, some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All rows' logits averaged over heads, `(N, K)` float32, and each head's logits of the rows `some`, `(H, n, K)`."""
    n, k = len(data.labels), heads[0].n_classes
    mean, each = np.zeros((n, k), np.float32), np.zeros((len(heads), len(some), k), np.float32)
    for batch, logits in logits_in_batches(heads, data):
        mean[batch] = logits.mean(0)
        here = np.flatnonzero((some >= batch.start) & (some < batch.stop))
        each[:, here] = logits[:, some[here] - batch.start]
    return mean, each


@torch.inference_mode()
def logits_in_batches(
    heads: Sequence[Head], data: FitData, rows: np.ndarray | None = None, batch_size: int = 8192
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield batches of rows (by default of all): the slice of the batch, and its logits `(H, b, K)` float32."""
    reads = heads[0].reads
    numbers = sum(data.inputs[key].shape[1:].numel() for key in reads) + len(heads) * heads[0].n_classes
    batch_size = max(1, min(batch_size, MOST_NUMBERS // numbers))
    as_before = [i > 0 and _standardise_alike(heads[i - 1], head) for i, head in enumerate(heads)]
    selected = None if rows is None else torch.as_tensor(rows, device=data.labels.device)
    n = len(data.labels) if rows is None else len(rows)
    for start in range(0, n, batch_size):
        some = slice(start, min(start + batch_size, n))
        batch = some if selected is None else selected[some]  # a slice of all rows needs no copy
        inputs, present = ({key: part[key][batch] for key in reads} for part in (data.inputs, data.present))
        each, x = [], {}
        for head, same in zip(heads, as_before, strict=True):
            x = x if same else head.standardise(inputs, present)
            each.append(head.eval().logits(x, present, QUIET))
        yield some, torch.stack(each).float().cpu().numpy()


def _standardise_alike(a: Head, b: Head) -> bool:
    """Whether two heads have the same standardisation, as heads of one fit do."""
    moments = dict(b.named_buffers())
    return all(torch.equal(value, moments[name]) for name, value in a.named_buffers())
