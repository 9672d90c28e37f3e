"""kNN on cached embeddings: predicts the labels of the nearest training rows; nothing is fitted.

This is the cache model of Tip-Adapter (Zhang et al., 2022) without CLIP logits: a row gets the labels of its nearest training
rows, weighted by `exp(-beta (1 - cos))`. Its score shows the quality of the embeddings without any training.
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

NEIGHBOURS, BETA = 16, 10.0  # good on images, captions and both, among values of 5 to 128 and 0 to 40
PRIOR_WEIGHT = 0.01  # weight of the classes' prior, relative to the nearest neighbour: no probability is 0 or 1
MOST_PRODUCTS = 5e11  # most multiplications of a search, some seconds on two cores; training rows are sampled to fit
_CELLS = 1 << 22  # labels of neighbours averaged at a time
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

    Each embedding is normalised before concatenation, so that all encoders have equal weight; a missing embedding is zeros.
    The order of the rows does not matter.

    Parameters
    ----------
    table : FeatureTable
        The embeddings and labels; read in blocks of rows.
    names : sequence of str
        The encoders.
    train, rows : np.ndarray
        Row numbers of the training rows and of the rows to predict. Unknown labels are ignored.
    neighbours : int
        Number of nearest training rows.
    beta : float
        Sharpness of the weights; at 0 all neighbours have equal weight.
    search : callable, optional
        A function like :func:`search_faiss` and :func:`search_torch`; by default faiss on a CPU if it is installed.

    Returns
    -------
    np.ndarray
        `(n, K)` float32; for a row without any embedding, the log odds among the training rows.
    """
    prior = log_odds(torch.as_tensor(table.labels[train])).numpy()
    logits = np.tile(prior, (len(rows), 1)).astype(np.float32)
    present = np.any([table.present[name] for name in names], axis=0)
    train, queries = _ordered(table, train[present[train]]), np.flatnonzero(present[rows])
    if not len(train) or not len(queries):
        return logits
    queries = queries[np.argsort(id_numbers(table.ids[rows[queries]]), kind="stable")]
    search, shares = search or _search_on(device), sigmoid(prior.astype(np.float64))
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        cosines, nearest = _nearest(
            table, names, train, queries=unit_embeddings(table, names, rows[block]), k=neighbours, search=search
        )
        step = max(1, _CELLS // max(1, nearest.shape[1] * logits.shape[1]))
        for at in range(0, len(block), step):
            some = slice(at, at + step)
            neighbour_labels = table.labels[train[nearest[some]]]  # (m, k, K)
            logits[block[some]] = _propagated(cosines[some], neighbour_labels, beta, shares)
    return logits


def affordable(train: np.ndarray, ids: np.ndarray, n_rows: int, width: int) -> np.ndarray:
    """The training rows to search for `n_rows` queries: all, or a sample by ids that keeps the search within seconds.

    Parameters
    ----------
    ids : np.ndarray
        Ids of all rows of the table.
    width : int
        Total D of all embeddings.
    """
    return drawn(train, ids, max(NEIGHBOURS, int(MOST_PRODUCTS / max(n_rows * width, 1))))


def drawn(rows: np.ndarray, ids: np.ndarray, most: int) -> np.ndarray:
    """A sample of at most `most` rows, which depends only on the ids `(N,)`."""
    return rows if len(rows) <= most else rows[np.argsort(id_numbers(ids[rows]), kind="stable")[:most]]


def unit_embeddings(table: FeatureTable, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Concatenated embeddings `(n, sum of D)` float32, each normalised, then normalised as a whole; missing ones are 0."""
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
    """Like :func:`search_faiss`, by torch on a CPU or a GPU."""
    query_tensor, row_tensor = (torch.as_tensor(values, device=device) for values in (queries, rows))
    products, nearest = (query_tensor @ row_tensor.T).topk(k, dim=1)
    return products.cpu().numpy(), nearest.cpu().numpy()


def _search_on(device: torch.device | None) -> Search:
    if device is not None and device.type != "cpu":
        return lambda queries, rows, k: search_torch(queries, rows, k, device)
    return search_torch if _faiss() is None else search_faiss


def _faiss() -> ModuleType | Any:
    try:
        import faiss
    except Exception:  # a broken installation may raise anything
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
    cosines = np.zeros((len(queries), 0), np.float32)
    nearest = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(train), _BLOCK):
        rows = train[start : start + _BLOCK]
        products, places = search(queries, unit_embeddings(table, names, rows), min(k, len(rows)))
        cosines = np.concatenate([cosines, products], axis=1)
        nearest = np.concatenate([nearest, places + start], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        cosines, nearest = (np.take_along_axis(values, best, axis=1) for values in (cosines, nearest))
    return cosines, nearest


def _propagated(cosines: np.ndarray, labels: np.ndarray, beta: float, shares: np.ndarray) -> np.ndarray:
    """Logits `(m, K)` from cosines `(m, k)` and labels `(m, k, K)`: the weighted mean of the known labels.

    Weights are relative to the nearest row's weight, which does not change the mean and avoids underflow.
    """
    weights = np.exp(beta * (cosines - cosines[:, :1]).astype(np.float64))  # (m, k)
    known = np.einsum("mk,mkc->mc", weights, (labels >= 0).astype(np.float64))
    positive = np.einsum("mk,mkc->mc", weights, (labels == 1).astype(np.float64))
    probs = (positive + PRIOR_WEIGHT * shares) / (known + PRIOR_WEIGHT)
    return np.log(probs / (1 - probs)).astype(np.float32)
