"""Nearest neighbours: exact in any blocks, the same without faiss, and an index whose recall is measured."""

from __future__ import annotations

import numpy as np
import pytest

from mmfeat.audit import neighbours as searching
from mmfeat.audit.neighbours import nearest, neighbours
from mmfeat.heads import knn

POINTS = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32) * np.arange(1, 301)[:, None]


def expected(points: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (points, queries)]
    cosines = unit[1] @ unit[0].T
    rows = np.argsort(-cosines, axis=1)[:, :k]
    return np.take_along_axis(cosines, rows, 1), rows


@pytest.mark.parametrize(("values", "queries"), [(1 << 26, 8192), (12 * 70, 64), (12, 1)])
def test_the_search_is_exact_whatever_the_blocks(values, queries, monkeypatch):
    monkeypatch.setattr(searching, "_VALUES", values)
    monkeypatch.setattr(searching, "_QUERIES", queries)
    cosines, rows = nearest(POINTS, POINTS[:20] + 1, 5)
    true, true_rows = expected(POINTS, POINTS[:20] + 1, 5)
    assert (rows == true_rows).all()
    assert np.allclose(cosines, true, atol=1e-5)


def test_without_faiss_the_result_is_the_same(monkeypatch):
    with_faiss = neighbours(POINTS, 4)
    monkeypatch.setattr(knn, "_faiss", lambda: None)
    monkeypatch.setattr(searching, "_faiss", lambda: None)
    monkeypatch.setattr(searching, "EXACT_ROWS", 10)
    without = neighbours(POINTS, 4)
    assert (without.rows == with_faiss.rows).all()
    assert without.recall == 1


def test_a_row_is_not_its_own_neighbour():
    same = np.concatenate([POINTS[:3], POINTS[:3], POINTS[:3], np.zeros((1, 12), np.float32)])
    found = neighbours(same, 2)
    assert (found.rows != np.arange(10)[:, None]).all()
    assert [set(row) for row in found.rows[:3].tolist()] == [{3, 6}, {4, 7}, {5, 8}]


def test_fewer_rows_than_neighbours():
    cosines, rows = nearest(POINTS[:2], POINTS[:1], 4)
    assert rows[0].tolist()[2:] == [-1, -1]
    assert np.isneginf(cosines[0, 2:]).all()
    assert nearest(POINTS[:0], POINTS[:1], 2)[1].tolist() == [[-1, -1]]


def test_many_rows_are_searched_by_an_index_with_a_stated_recall(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(searching, "EXACT_ROWS", 1000)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 32))
    points = (centres[rng.integers(0, 50, 4000)] + 0.3 * rng.normal(size=(4000, 32))).astype(np.float16)
    points[3000:3100] = points[:100]
    found = neighbours(points, 5)
    assert 0.9 <= found.recall <= 1
    true = expected(points.astype(np.float32), points.astype(np.float32), 6)[1]
    assert np.mean([np.isin(a, b).mean() for a, b in zip(true, found.rows, strict=True)]) > 0.75  # 5 of 6 at most
    assert (found.rows[:100, 0] == np.arange(3000, 3100)).mean() > 0.97
    assert found.cosines[:100, 0].min() > 0.98
