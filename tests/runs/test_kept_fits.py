"""Fits that sweeps keep: both forms on disk are read, and a damaged file costs only its own fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmfeat.runs.sweep import FIT, METRIC_NAMES, KeptFits

FITTED = {"figures": dict.fromkeys(METRIC_NAMES, 0.5), "best_epoch": 3, "seconds": 1.5}


def test_a_pass_and_a_single_fit_are_read_alike(tmp_path):
    kept = KeptFits(tmp_path)
    kept.keep_pass({"a" * 64: FITTED, "b" * 64: {"error": "linear: diverged"}})
    kept.keep("c" * 64, FITTED)
    again = KeptFits(tmp_path)
    assert set(again) == set(kept) == {"a" * 64, "b" * 64, "c" * 64}
    assert again["a" * 64] == FITTED
    assert {key: again["c" * 64][key] for key in FITTED} == FITTED
    assert "d" * 64 not in again


@pytest.mark.parametrize("text", ['{"format": 1', '{"format": 1, "heads": {"x": 3}}', '{"format": 1, "seconds": 2.0}'])
def test_a_damaged_file_keeps_nothing_and_is_named(tmp_path: Path, capsys, text):
    KeptFits(tmp_path).keep("c" * 64, FITTED)
    (tmp_path / "broken.json").write_text(text)
    assert set(KeptFits(tmp_path)) == {"c" * 64}
    assert "broken.json: damaged" in capsys.readouterr().err


def test_a_fit_needs_the_numbers_that_its_sweep_shows(tmp_path, capsys):
    record = {"format": 1, "fingerprint": "c" * 64, **FITTED}
    (tmp_path / "old.json").write_text(json.dumps(record))  # of version 0.1.0, which wrote no seal at first
    assert set(KeptFits(tmp_path)) == {"c" * 64}
    assert not set(KeptFits(tmp_path, FIT | {"train_loss": float}))
    assert "train_loss is missing" in capsys.readouterr().err
