"""kNN on cached embeddings: labels of the nearest training rows; nothing is fitted.

The cache model of Tip-Adapter (Zhang et al., 2022) without its CLIP logits: a row gets the labels of its nearest training
rows, weighted by `exp(-beta (1 - cos))`. Its score shows what the embeddings give without any training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

from mmfeat.common.labels import sigmoid
from mmfeat.common.randomness import id_numbers
from mmfeat.heads.head import log_odds
from mmfeat.store.feature_table import FeatureTable

NEIGHBOURS, BETA = 16, 10.0  # good on images, captions and both, among 5 to 128 and 0 to 40
PRIOR_WEIGHT = 0.01  # weight of the classes' shares beside the nearest neighbour's 1: no probability is 0 or 1
MOST_PRODUCTS = 5e11  # multiplications of a search, some seconds on two cores; beyond it, training rows are sampled
_CELLS = 1 << 22  # labels of neighbours that are averaged together
_QUERIES, _BLOCK = 4096, 8192  # queries and training rows at a time: 230 MB at D = 2048

Search = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def knn_logits(
    table: FeatureTable,
    names: Sequence[str],
    train: np.ndarray,
    rows: np.ndarray,
    *,
    neighbours: int = NEIGHBOURS,
    beta: float = BETA,
    device: torch.device | None = None,
    search: Search | None = None,
) -> np.ndarray:
    """Logits of rows from the labels of their nearest training rows.

    Each embedding is normalised before they are joined, so that all encoders count alike; a missing one is zeros. The order
    of the rows does not matter.

    Parameters
    ----------
    table : FeatureTable
        Read in blocks of rows.
    names : sequence of str
        Encoders.
    train, rows : np.ndarray
        Row numbers of the training rows and of the rows to predict. Unknown labels do not count.
    neighbours : int
        Nearest training rows of each row.
    beta : float
        How much more the nearest ones count; at 0 all count alike.
    search : callable, optional
        As :func:`search_faiss` and :func:`search_torch`; by default faiss on a CPU if it is installed.

    Returns
    -------
    np.ndarray
        `(n, K)` float32; for a row without any embedding, the log odds among the training rows.
    """
    prior = log_odds(torch.as_tensor(table.labels[train])).numpy()
    logits = np.tile(prior, (len(rows), 1)).astype(np.float32)
    there = np.any([table.present[name] for name in names], axis=0)
    train, asked = _ordered(table, train[there[train]]), np.flatnonzero(there[rows])
    if not len(train) or not len(asked):
        return logits
    asked = asked[np.argsort(id_numbers(table.ids[rows[asked]]), kind="stable")]
    search, shares = search or _search_on(device), sigmoid(prior.astype(np.float64))
    for start in range(0, len(asked), _QUERIES):
        block = asked[start : start + _QUERIES]
        likeness, found = _nearest(
            table, names, train, queries=unit_embeddings(table, names, rows[block]), k=neighbours, search=search
        )
        step = max(1, _CELLS // max(1, found.shape[1] * logits.shape[1]))
        for at in range(0, len(block), step):
            some = slice(at, at + step)
            answers = table.labels[train[found[some]]]  # (m, k, K)
            logits[block[some]] = _propagated(likeness[some], answers, beta, shares)
    return logits


def affordable(train: np.ndarray, ids: np.ndarray, n_rows: int, width: int) -> np.ndarray:
    """The training rows of a search for `n_rows`: all of them, or a sample drawn by their ids if they are very many.

    Parameters
    ----------
    ids : np.ndarray
        Of all rows of the table.
    width : int
        D of all embeddings together.
    """
    return drawn(train, ids, max(NEIGHBOURS, int(MOST_PRODUCTS / max(n_rows * width, 1))))


def drawn(rows: np.ndarray, ids: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of some rows, drawn by their ids `(N,)`."""
    return rows if len(rows) <= most else rows[np.argsort(id_numbers(ids[rows]), kind="stable")[:most]]


def unit_embeddings(table: FeatureTable, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Joined embeddings `(n, sum of D)` float32, each normalised, then normalised together; missing ones are zero."""
    parts = []
    for name in names:
        values = np.asarray(table.embeddings[name][rows], dtype=np.float32)
        values = np.where(table.present[name][rows, None], values, 0)
        parts.append(values / _length(values))
    joined = np.concatenate(parts, axis=1)
    return joined / _length(joined)


def search_faiss(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows `(n, D)` of largest inner product with each query `(m, D)`: products and row numbers, `(m, k)` each.

    Raises
    ------
    ImportError
        faiss is not installed.
    """
    faiss = _faiss()
    if faiss is None:
        raise ImportError("faiss is not installed")
    return faiss.knn(queries, rows, k, metric=faiss.METRIC_INNER_PRODUCT)


def search_torch(
    queries: np.ndarray, rows: np.ndarray, k: int, device: torch.device | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same by torch, on a CPU or a GPU."""
    on, against = (torch.as_tensor(values, device=device) for values in (queries, rows))
    products, found = (on @ against.T).topk(k, dim=1)
    return products.cpu().numpy(), found.cpu().numpy()


def _search_on(device: torch.device | None) -> Search:
    if device is not None and device.type != "cpu":
        return lambda queries, rows, k: search_torch(queries, rows, k, device)
    return search_torch if _faiss() is None else search_faiss


def _faiss() -> ModuleType | Any:
    try:
        import faiss
    except Exception:  # a broken installation raises whatever it likes
        return None
    return faiss


def _ordered(table: FeatureTable, rows: np.ndarray) -> np.ndarray:
    """Rows in the order of their ids' numbers, so that sums and ties do not depend on the manifest's order."""
    return rows[np.argsort(id_numbers(table.ids[rows]), kind="stable")]


def _length(values: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.where(length > 0, length, 1)


def _nearest(
    table: FeatureTable, names: Sequence[str], train: np.ndarray, *, queries: np.ndarray, k: int, search: Search
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of each query's nearest training rows and their positions in `train`, `(m, k)` each; block by block."""
    likeness = np.zeros((len(queries), 0), np.float32)
    found = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(train), _BLOCK):
        rows = train[start : start + _BLOCK]
        products, places = search(queries, unit_embeddings(table, names, rows), min(k, len(rows)))
        likeness = np.concatenate([likeness, products], axis=1)
        found = np.concatenate([found, places + start], axis=1)
        best = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
        likeness, found = (np.take_along_axis(values, best, axis=1) for values in (likeness, found))
    return likeness, found


def _propagated(likeness: np.ndarray, labels: np.ndarray, beta: float, shares: np.ndarray) -> np.ndarray:
    """Logits `(m, K)` from cosines `(m, k)` and labels `(m, k, K)`: the weighted mean of the known labels.

    Weights are relative to the nearest row's, which leaves the mean as it is and cannot underflow.
    """
    weights = np.exp(beta * (likeness - likeness[:, :1]).astype(np.float64))  # (m, k)
    known = np.einsum("mk,mkc->mc", weights, (labels >= 0).astype(np.float64))
    positive = np.einsum("mk,mkc->mc", weights, (labels == 1).astype(np.float64))
    probs = (positive + PRIOR_WEIGHT * shares) / (known + PRIOR_WEIGHT)
    return np.log(probs / (1 - probs)).astype(np.float32)
