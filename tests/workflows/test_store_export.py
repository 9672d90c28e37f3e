"""`mmfeat store export`: the split of rows without labels, as other tools read it."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import ROOT
from helpers.command_line import run_cli
from safetensors import safe_open

from mmfeat.store.table_exports import FORMATS
from mmfeat.workflows.store import export_features


@pytest.mark.parametrize("form", FORMATS)
def test_an_exported_row_without_labels_is_unlabelled(extracted, tmp_path, form):
    """Whatever its split in the manifest: `--split train`, and `split == "train"` in a file, are labelled rows."""
    manifest = extracted.manifest
    table = export_features(extracted, tmp_path / "all", form, ["text"]).table
    split, labels = exported_split(tmp_path / "all", form)
    assert split == table.split.tolist()
    n = {which: len(manifest.rows(which)) for which in ("train", "val", "unlabelled")}
    assert {which: split.count(which) for which in n} == n
    assert ((labels >= 0).any(1) == (np.array(split) != "unlabelled")).all()
    for which, count in n.items():
        assert table.rows(which).tolist() == manifest.rows(which).tolist()
        export_features(extracted, tmp_path / which, form, ["text"], split=which)
        only, labels = exported_split(tmp_path / which, form)
        assert only == [which] * count == [which] * len(labels)


def exported_split(file: Path, form: str) -> tuple[list[str], np.ndarray]:
    """The splits and labels of an export, read as another tool would."""
    if form == "h5":
        with h5py.File(file) as h5:
            return h5["split"].asstr()[:].tolist(), h5["labels"][:]
    if form == "npy":
        return json.loads((file / "split.json").read_text()), np.load(file / "labels.npy")
    if form == "parquet":
        read = pq.read_table(file)
        return read["split"].to_pylist(), np.array(read["labels"].to_pylist())
    with safe_open(file, "np") as tensors:
        return json.loads(tensors.metadata()["split"]), tensors.get_tensor("labels")


def test_the_example_with_scikit_learn_runs(extracted, monkeypatch, capsys):
    """The code of docs/how-to/share-a-store.md, after the command above it."""
    page = (ROOT / "docs" / "how-to" / "share-a-store.md").read_text(encoding="utf-8")
    example = page.split("## Train a model of scikit-learn on it")[1]
    command = re.search(r"^    mmfeat (.+)$", example, re.MULTILINE).group(1)
    run_cli(*command.split(), cwd=extracted.root)
    monkeypatch.chdir(extracted.root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few positives
        exec(compile(re.search(r"```python\n(.*?)```", example, re.DOTALL).group(1), "share-a-store.md", "exec"), {})
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("{'estimator__C': ")
    assert len(eval(out[-1])) == len(extracted.manifest.rows("unlabelled"))
