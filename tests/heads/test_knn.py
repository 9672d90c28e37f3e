"""kNN: the labels of the nearest training rows, the same whatever searches and whatever the order of the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmfeat.common.labels import decide, sigmoid
from mmfeat.heads import knn
from mmfeat.heads.head import log_odds
from mmfeat.heads.knn import PRIOR_WEIGHT, affordable, knn_logits, search_faiss, search_torch
from mmfeat.store.feature_table import FeatureTable

N, K = 240, 5
WIDTHS = {"image": 12, "text": 7}


def made(seed: int = 0, n: int = N) -> FeatureTable:
    rng = np.random.default_rng(seed)
    embeddings = {name: rng.normal(size=(n, width)).astype(np.float16) for name, width in WIDTHS.items()}
    return FeatureTable(
        ids=np.array([f"row {i}" for i in range(n)], dtype=object),
        embeddings=embeddings,
        logits={},
        tokens={},
        token_lengths={},
        present={name: rng.random(n) > 0.2 for name in WIDTHS},
        row_keys={name: np.zeros((n, 32), np.uint8) for name in WIDTHS},
        labels=(rng.random((n, K)) > 0.6).astype(np.int8),
        split=np.array(["train"] * (n - n // 6) + ["val"] * (n // 6), dtype=object),
        classes=tuple("abcde"),
    )


def of(table: FeatureTable, **more) -> np.ndarray:
    return knn_logits(table, list(WIDTHS), table.rows("train"), table.rows("val"), **more)


def test_one_neighbour_of_a_training_row_is_itself():
    table = made()
    train = table.rows("train")
    logits = knn_logits(table, list(WIDTHS), train, train, neighbours=1)
    there = np.any([table.present[name][train] for name in WIDTHS], axis=0)
    decided = decide(sigmoid(logits), 0.5, "none")
    assert (decided[there] == table.labels[train][there]).all()


@pytest.mark.parametrize("beta", [0.0, 10.0, 60.0])
def test_it_is_the_weighted_mean_of_the_known_labels(beta, monkeypatch):
    monkeypatch.setattr(knn, "_BLOCK", 50)
    monkeypatch.setattr(knn, "_QUERIES", 7)
    table = made()
    table.labels[np.random.default_rng(1).random((N, K)) < 0.3] = -1
    train, val, k = np.arange(N - N // 6), np.arange(N - N // 6, N), 9
    joined = []
    for name in WIDTHS:
        values = table.embeddings[name].astype(np.float64) * table.present[name][:, None]
        joined.append(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
    joined = np.concatenate(joined, 1)
    joined /= np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-12)
    there = joined.any(1)
    cosines = joined[val] @ joined[train[there[train]]].T
    order = np.argsort(-cosines, axis=1)[:, :k]
    nearest = np.take_along_axis(cosines, order, 1)
    weights = np.exp(-beta * (1 - nearest)) / np.exp(-beta * (1 - nearest[:, :1]))
    labels = table.labels[train[there[train]]][order]
    known = (weights[:, :, None] * (labels >= 0)).sum(1)
    shares = sigmoid(log_odds(torch.as_tensor(table.labels[train])).numpy())
    wanted = ((weights[:, :, None] * (labels == 1)).sum(1) + PRIOR_WEIGHT * shares) / (known + PRIOR_WEIGHT)
    probs = sigmoid(knn_logits(table, list(WIDTHS), train, val, neighbours=k, beta=beta))
    assert np.abs(probs - wanted)[there[val]].max() < 1e-3


def test_faiss_and_torch_agree():
    pytest.importorskip("faiss")
    table = made()
    assert of(table, search=search_faiss) == pytest.approx(of(table, search=search_torch), abs=1e-4)


def test_without_faiss_it_is_torch_that_searches(monkeypatch):
    table = made()
    wanted = of(table)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)  # as where it is not installed
    with pytest.raises(ImportError):
        search_faiss(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), 1)
    assert of(table) == pytest.approx(wanted, abs=1e-4)


def test_the_order_of_the_rows_and_the_size_of_the_blocks_do_not_matter(monkeypatch):
    table = made()
    wanted = of(table)
    order = np.random.default_rng(3).permutation(N)
    shuffled = table.take(order)
    val = shuffled.rows("val")
    assert np.array_equal(of(shuffled), wanted[np.searchsorted(table.rows("val"), order[val])])
    monkeypatch.setattr(knn, "_BLOCK", 13)
    monkeypatch.setattr(knn, "_QUERIES", 5)
    assert of(table) == pytest.approx(wanted, abs=1e-4)


def test_a_row_without_embeddings_gets_the_prior_and_answers_nobody():
    table = made()
    lost = [3, N - 1]
    for name in WIDTHS:
        table.present[name][lost] = False
    before = of(table)
    table.embeddings["image"][lost] = 1e4  # read as absent, whatever lies there
    table.labels[3] = 1 - table.labels[3]
    after = of(table)
    some = np.any([table.present[name][table.rows("val")] for name in WIDTHS], axis=0)
    assert np.abs(sigmoid(after) - sigmoid(before))[some].max() < 1e-3  # the shares of all rows, which count little
    prior = sigmoid(after[-1])
    assert prior == pytest.approx(np.mean(table.labels[table.rows("train")] == 1, axis=0), abs=0.01)
    for name in WIDTHS:
        table.present[name][:] = False
    assert np.allclose(of(table), after[-1])


def test_unknown_labels_do_not_count():
    table = made()
    table.labels[:, 2] = -1
    table.labels[:, 3] = np.where(table.labels[:, 3] == 1, 1, -1)
    probs = sigmoid(of(table))
    assert np.allclose(probs[:, 2], 0.5)
    assert (probs[:, 3] > 0.9).all()


def test_of_very_many_training_rows_it_takes_what_it_can_afford(monkeypatch):
    table = made()
    train = table.rows("train")
    assert affordable(train, table.ids, 40, 19) is train
    monkeypatch.setattr(knn, "MOST_PRODUCTS", 50 * 40 * 19)
    some = affordable(train, table.ids, 40, 19)
    assert len(some) == 50
    order = np.random.default_rng(0).permutation(N)
    again = affordable(np.flatnonzero(np.isin(order, train)), table.ids[order], 40, 19)
    assert set(order[again]) == set(some)  # by their ids, whatever the order
