"""Many classes: nothing of the size of rows x classes is made in a type that is wider than the labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.memory import peak_bytes

from mmfeat.common.labels import has_label, positive_cells
from mmfeat.data.difference import difference
from mmfeat.data.groups import groups_of
from mmfeat.data.manifest import Manifest
from mmfeat.data.splits import make_folds, make_splits
from mmfeat.metrics.calibration import expected_calibration_error
from mmfeat.metrics.most_frequent import most_frequent_baseline

N, K = 4_000, 2_000
MB = N * K / 1e6  # of the labels themselves


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    found = np.zeros((N, K), np.int8)
    draw = np.random.default_rng(0)
    found[np.repeat(np.arange(N), 3), draw.integers(0, K, 3 * N)] = 1
    found[::10] = -1
    return found


def peak_mb(work: Callable[[], object]) -> float:
    """Megabytes that Python and numpy hold at most while something is done, beside what was there before."""
    return peak_bytes(work) / 1e6


def manifest_of(labels: np.ndarray) -> Manifest:
    texts = np.array([f"{i}" for i in range(len(labels))], object)
    split = np.full(len(labels), "train", object)
    return Manifest(
        ids=texts,
        images=texts,
        captions=texts,
        labels=labels,
        split=split,
        classes=tuple(f"c{k}" for k in range(labels.shape[1])),
    )


def test_positive_cells_and_labelled_rows(labels):
    rows, columns = positive_cells(labels)
    found = np.nonzero(labels == 1)
    np.testing.assert_array_equal(rows, found[0])
    np.testing.assert_array_equal(columns, found[1])
    np.testing.assert_array_equal(has_label(labels), (labels >= 0).any(1))
    assert positive_cells(labels[:0])[0].shape == (0,)


def test_splits_and_folds_count_sparsely(labels):
    groups = groups_of(np.zeros((N, 32), np.uint8), np.zeros(N, bool))
    ids = [str(i) for i in range(N)]
    assert peak_mb(lambda: make_splits(ids, labels, groups, shares={"val": 0.1}, seed=0)) < 2.5 * MB
    known = np.flatnonzero(has_label(labels))
    some = groups_of(np.zeros((len(known), 32), np.uint8), np.zeros(len(known), bool))
    assert peak_mb(lambda: make_folds([ids[i] for i in known], labels[known], some, k=5, seed=0)) < 3.5 * MB


def test_a_manifest_is_compared_and_read_in_blocks(labels, tmp_path, monkeypatch):
    monkeypatch.setattr("mmfeat.data.difference._BLOCK", 1 << 20)
    before = manifest_of(labels)
    other = labels.copy()
    other[1], other[2] = -1, 0
    assert peak_mb(lambda: difference(before, manifest_of(other))) < 3 * MB
    assert set(difference(before, manifest_of(other)).labels) == {"1", "2"}
    before.save(tmp_path / "manifest.parquet")
    read = []
    assert peak_mb(lambda: read.append(Manifest.load(tmp_path / "manifest.parquet"))) < 2 * MB
    np.testing.assert_array_equal(read[0].labels, labels)


def test_a_manifest_of_one_row_group_is_read(labels, tmp_path):
    """As version 0.1.0 wrote it, whatever the number of classes."""
    import pyarrow.parquet as pq

    manifest_of(labels).save(tmp_path / "new.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    bare = {key: value for key, value in table.schema.metadata.items() if key != b"seal"}
    pq.write_table(table.replace_schema_metadata(bare), tmp_path / "old.parquet")
    assert pq.ParquetFile(tmp_path / "old.parquet").num_row_groups == 1
    np.testing.assert_array_equal(Manifest.load(tmp_path / "old.parquet").labels, labels)


def test_figures_and_baselines_work_in_blocks(labels, monkeypatch):
    monkeypatch.setattr("mmfeat.metrics.calibration._BLOCK", 1 << 18)
    probs = np.random.default_rng(1).random((N, K), np.float32)
    whole = expected_calibration_error(labels[:200], probs[:200])
    known = labels[:200] >= 0
    values, true = probs[:200][known], labels[:200][known] == 1
    bins = np.minimum((values * 15).astype(int), 14)
    wanted = sum(abs(values[bins == b].sum(dtype=float) - true[bins == b].sum()) for b in range(15)) / known.sum()
    assert whole == pytest.approx(wanted)
    assert peak_mb(lambda: expected_calibration_error(labels, probs)) < MB
    logits = most_frequent_baseline(labels, 3)
    assert logits.argmax(1).tolist() == [np.bincount(positive_cells(labels)[1]).argmax()] * 3


def test_neighbours_are_weighed_in_blocks(labels):
    from mmfeat.heads.knn import knn_logits

    draw = np.random.default_rng(2)
    embeddings = draw.normal(size=(N, 16)).astype(np.float32)
    table = SimpleNamespace(
        ids=np.array([str(i) for i in range(N)], object),
        embeddings={"x": embeddings},
        present={"x": np.ones(N, bool)},
        labels=labels,
    )
    train, rows = np.arange(0, N - 500), np.arange(N - 500, N)
    found = []
    assert peak_mb(lambda: found.append(knn_logits(table, ["x"], train, rows))) < 500 * 16 * K / 1e6 * 8
    assert found[0].shape == (500, K)


def test_log_odds_are_those_of_all_rows_at_once(labels):
    import torch

    from mmfeat.heads.head import log_odds

    known = labels >= 0
    positives = np.where(known, labels, 0).sum(0)
    wanted = np.log((positives + 1) / (known.sum(0) - positives + 1))
    np.testing.assert_allclose(log_odds(torch.as_tensor(labels)).numpy(), wanted, rtol=1e-6)


def test_baselines_of_many_rows_say_of_how_many(extracted, monkeypatch):
    from mmfeat.inference import baselines as module
    from mmfeat.workflows.fuse import fuse

    before = fuse(extracted, "linear")
    monkeypatch.setattr(module, "MOST_ROWS", 20)
    lines, kept = module.baselines(extracted, ["image", "text"], before.run.record["baselines"])
    noted = [line for line in lines if line.note == "of 20 training rows"]
    assert {line.label for line in noted} == {"TF-IDF, linear head", "kNN, training-free"} & {
        line.label for line in lines
    }
    assert Path(extracted.root).is_dir()
    assert kept
