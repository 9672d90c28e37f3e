"""`mmfeat store` and what `mmfeat status` says of the store, on a real project."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.command_line import run_cli
from helpers.edits import edited
from PIL import Image
from safetensors import safe_open

from mmfeat.common.errors import ConfigError, DataError, StoreError
from mmfeat.project.encoding import ExtractionOptions, extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.status import status, store_status
from mmfeat.workflows.store import export_features, find_unreferenced, remove_unreferenced, verify_store


def files_of(project: Project, pattern: str) -> list:
    return sorted(project.store.path.rglob(pattern))


# verify


def test_verify_finds_what_size_and_time_hide(extracted):
    assert verify_store(extracted).problems == []
    part = next(p for p in files_of(extracted, "part-*.h5") if not p.parent.name.startswith("logits-"))
    data, stat = bytearray(part.read_bytes()), part.stat()
    data[-1] ^= 1
    part.write_bytes(data)
    os.utime(part, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (problem,) = verify_store(extracted).problems
    assert part.name in problem
    failed = run_cli("store", "verify", cwd=extracted.root, check=False)
    assert failed.returncode == 1
    assert part.name in failed.stdout
    assert "damaged" in failed.stderr
    fresh = Project(extracted.root)
    assert sum(one.missing for one in status(fresh).encoders) > 0
    extract(fresh)
    again = Project(extracted.root)
    assert sum(one.missing for one in status(again).encoders) == 0
    remove_unreferenced(again, find_unreferenced(again))
    assert verify_store(Project(extracted.root)).problems == []


# gc


def test_gc_removes_what_nothing_refers_to_and_only_that(extracted):
    assert find_unreferenced(extracted).garbage == []
    kept = {path: path.read_bytes() for path in files_of(extracted, "part-*.h5")}
    other = edited(extracted, "size = 32", "size = 64")
    extract(other)
    other = edited(other, "size = 64", "size = 32")
    (garbage,) = find_unreferenced(Project(other.root)).garbage
    assert garbage.name.startswith("test_efficientnet-")
    assert garbage.n_bytes > 0
    freed = remove_unreferenced(other, find_unreferenced(other))
    assert freed >= garbage.n_bytes
    assert {path: path.read_bytes() for path in files_of(other, "part-*.h5")} == kept
    assert find_unreferenced(Project(other.root)).garbage == []


def test_gc_keeps_what_a_run_or_a_checkpoint_refers_to(extracted):
    fuse(extracted)
    changed = edited(extracted, "size = 32", "size = 64")
    finetune(changed, freeze=True)
    extract(Project(changed.root))
    assert find_unreferenced(Project(changed.root)).garbage == []  # the run and image-1 refer to the old size
    shutil.rmtree(changed.root / "runs")
    (baseline,) = find_unreferenced(Project(changed.root)).garbage
    assert baseline.name.startswith("tfidf")
    shutil.rmtree(changed.root / "checkpoints" / "image-1")
    garbage, _ = sorted(find_unreferenced(Project(changed.root)).garbage, key=lambda one: one.name.startswith("tfidf"))
    assert "no project refers" in garbage.why


def test_gc_removes_logits_of_an_output_that_is_gone(extracted):
    again = Project(extracted.root, {"fuse.linear.lr": 0.05})
    finetune(again, freeze=True)
    extract(Project(extracted.root))
    shutil.rmtree(extracted.root / "checkpoints" / "image-1")
    (garbage,) = find_unreferenced(Project(extracted.root)).garbage
    assert "/logits-" in garbage.name
    remove_unreferenced(extracted, find_unreferenced(Project(extracted.root)))
    assert all(one.lacks_logits == 0 for one in status(Project(extracted.root)).encoders)
    assert verify_store(Project(extracted.root)).problems == []


def test_a_shared_store_is_never_emptied_by_one_project(extracted, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(extracted.root, second, ignore=shutil.ignore_patterns("features", "runs", ".mmfeat", "checkpoints"))
    text = (second / "mmfeat.toml").read_text(encoding="utf-8").replace("size = 32", "size = 48")
    path = json.dumps(str(extracted.store.path))
    (second / "mmfeat.toml").write_text(f"{text}\n[store]\npath = {path}\n", encoding="utf-8")
    extract(Project(second))
    for project in (extracted, Project(second)):
        result = find_unreferenced(Project(project.root))
        assert result.garbage == []
        assert len(result.others) == 1
    line = [line for line in store_status(Project(extracted.root)) if str(second) in line.used_by]
    assert len(line) == 2  # its own image features, and the text features that both use
    shutil.rmtree(second)
    result = find_unreferenced(Project(extracted.root))
    assert result.garbage == []
    assert result.others[0].gone
    with pytest.raises(ConfigError, match="no such project"):
        find_unreferenced(Project(extracted.root), ("/nowhere",))
    (garbage,) = find_unreferenced(Project(extracted.root), (str(second),)).garbage
    assert garbage.name.startswith("test_efficientnet-")


def test_gc_asks_and_can_be_told_not_to(extracted):
    other = edited(extracted, "size = 32", "size = 64")
    extract(other)
    edited(other, "size = 64", "size = 32")
    before = len(files_of(other, "*"))
    refused = run_cli("store", "gc", cwd=other.root, check=False)
    assert refused.returncode != 0
    assert "Remove them" in refused.stderr
    assert len(files_of(other, "*")) == before
    done = run_cli("store", "gc", "--yes", cwd=other.root)
    assert "Removed 1" in done.stdout
    assert len(files_of(other, "*")) < before
    assert "nothing to remove" in run_cli("store", "gc", cwd=other.root).stdout


def test_gc_removes_nothing_where_an_encoder_cannot_be_known(extracted):
    broken = edited(extracted, 'model = "test_efficientnet"', 'model = "test_efficientnat"')
    with pytest.raises(StoreError, match="nothing is removed"):
        find_unreferenced(broken)


# export


@pytest.mark.parametrize("form", ["h5", "npy", "parquet", "safetensors"])
def test_exports_are_aligned_with_the_table(extracted, tmp_path, form):
    extracted = edited(extracted, "size = 32", "size = 32\ntokens = 2")
    extract(extracted)
    destination = tmp_path / f"out.{form}"
    table = export_features(extracted, destination, form).table
    wanted = {name: np.asarray(table.embeddings[name][:], np.float32) for name in ("image", "text")}
    tokens = np.asarray(table.tokens["image"][:], np.float32)
    assert tokens.shape[1] == 4
    assert (table.token_lengths["image"] == 4).all()
    ids = [str(i) for i in extracted.manifest.ids]
    if form == "h5":
        with h5py.File(destination, "r") as h5:
            assert h5["ids"].asstr()[:].tolist() == ids
            got = {name: h5[f"embeddings/{name}"][:] for name in wanted}
            labels, got_tokens = h5["labels"][:], h5["tokens/image"][:]
    elif form == "npy":
        assert json.loads((destination / "ids.json").read_text()) == ids
        got = {name: np.load(destination / f"embeddings.{name}.npy") for name in wanted}
        labels, got_tokens = np.load(destination / "labels.npy"), np.load(destination / "tokens.image.npy")
    elif form == "parquet":
        read = pq.read_table(destination)
        assert read["id"].to_pylist() == ids
        got = {name: np.array(read[f"embeddings.{name}"].to_pylist()) for name in wanted}
        labels, got_tokens = np.array(read["labels"].to_pylist()), np.array(read["tokens.image"].to_pylist())
    else:
        with safe_open(destination, "numpy") as file:
            assert json.loads(file.metadata()["ids"]) == ids
            got = {name: file.get_tensor(f"embeddings.{name}") for name in wanted}
            labels, got_tokens = file.get_tensor("labels"), file.get_tensor("tokens.image")
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name].astype(np.float32), values)
    np.testing.assert_array_equal(labels, extracted.manifest.labels)
    np.testing.assert_array_equal(got_tokens.astype(np.float32), tokens)
    with pytest.raises(DataError, match="exists already"):
        export_features(extracted, destination, form, ["text"])


def test_exporting_a_split_takes_its_rows_alone(extracted, tmp_path):
    table = export_features(extracted, tmp_path / "val", "npy", ["text"], split="val").table
    assert table.n_samples == len(extracted.manifest.rows("val"))
    assert np.load(tmp_path / "val" / "embeddings.text.npy").shape == (table.n_samples, 64)
    assert not (tmp_path / "val" / "embeddings.image.npy").exists()


def test_export_and_status_through_the_entry_point(extracted):
    done = run_cli("store", "export", "out.h5", cwd=extracted.root)
    assert "embeddings.image" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Made out.h5 (80 rows). Next: ")
    again = run_cli("store", "export", "out.h5", cwd=extracted.root)
    assert again.stdout.splitlines()[-1].startswith("Already made from the same: out.h5 (80 rows). Next: ")
    other = run_cli("store", "export", "out.h5", "text", cwd=extracted.root, check=False)
    assert other.returncode == 1
    assert "exists already" in other.stderr
    text = run_cli("status", "--store", cwd=extracted.root).stdout
    assert "encoder image" in text
    assert re.search(r"test_efficientnet-[0-9a-f]{12} +80 ", text)


# status and extraction


def test_status_says_why_a_row_is_stale(project, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(project.config.path(project.config.data.source), source)
    images = tmp_path / "source" / "images"
    import zipfile

    zipfile.ZipFile(source / "images.zip").extractall(source)
    (source / "images.zip").unlink()
    project = edited(project, project.config.data.source, str(source), -1)
    init(project.root)
    extract(Project(project.root))
    changed = images / str(project.manifest.images[3])
    Image.new("RGB", (40, 40), "red").save(changed)
    one = {s.name: s for s in status(Project(project.root)).encoders}["image"]
    assert (one.stale, one.missing, one.cached) == (1, 0, project.manifest.n_samples - 1)
    assert one.why == "1 image changed"
    changed.write_bytes(b"no image")
    extract(Project(project.root))
    one = {s.name: s for s in status(Project(project.root)).encoders}["image"]
    assert one.unreadable == 1
    assert one.why.startswith("1 unreadable: ")
    larger = edited(project, "size = 32", "size = 64")
    one = {s.name: s for s in status(larger).encoders}["image"]
    assert one.stale == project.manifest.n_samples
    assert "preprocessing changed" in one.why
    assert "32" in one.why
    assert "64" in one.why
    precise = edited(larger, "size = 64", 'size = 32\nprecision = "bfloat16"')
    assert (
        "numerics changed: precision float32 -> bfloat16" in {s.name: s for s in status(precise).encoders}["image"].why
    )


def test_the_mirror_image_is_a_mean_and_another_key(project):
    extract(project)
    plain = project.feature_table(["image"]).embeddings["image"][:].astype(np.float32)
    mirrored = edited(project, "size = 32", "size = 32\nflip = true")
    assert mirrored.identity("image").spec.key != project.identity("image").spec.key
    result = extract(mirrored, ["image"])
    assert result.encoders[0].encoded == project.manifest.n_samples
    both = mirrored.feature_table(["image"]).embeddings["image"][:].astype(np.float32)
    assert not np.allclose(plain, both)
    assert "mirror" in mirrored.identity("image").spec.pooling


def test_tokens_asked_for_later_are_added_and_leave_the_embeddings_alone(project):
    extract(project)
    before = project.feature_table(["image", "text"])
    more = edited(project, "size = 32", "size = 32\ntokens = 3")
    assert more.identity("image").spec.key == project.identity("image").spec.key
    one = {s.name: s for s in status(more).encoders}["image"]
    assert one.lacks_tokens == one.cached
    result = extract(more)
    assert result.encoders[0].encoded == 0
    assert result.encoders[0].tokens == project.manifest.n_samples
    assert result.encoders[1].tokens == 0
    table = more.feature_table(["image", "text"], tokens=True)
    assert table.tokens["image"].shape[1] == 9
    np.testing.assert_array_equal(table.embeddings["image"][:], before.embeddings["image"][:])
    # an efficientnet's embedding is the mean over its grid: so is that of the 3 x 3 grid's own mean, roughly
    assert np.corrcoef(table.tokens["image"][:].mean(1).ravel(), table.embeddings["image"][:].ravel())[0, 1] > 0.9


def test_extraction_by_shards_and_by_tuned_batches_is_the_same(project, monkeypatch):
    monkeypatch.setattr("mmfeat.encoders.engines.selection.SECONDS", 0.0)  # a few batches of each setting
    for k in (1, 2, 3):
        extract(Project(project.root), options=ExtractionOptions(shard=(k, 3)))
    sharded = Project(project.root)
    assert all(one.missing == 0 for one in status(sharded).encoders)
    rows = sharded.feature_table(["image"]).embeddings["image"][:].astype(np.float32)
    shutil.rmtree(project.store.path)
    result = extract(Project(project.root), options=ExtractionOptions(tune=True))
    assert {one.name for one in result.encoders if one.tuned} == {"image", "text"}
    tuned = Project(project.root).feature_table(["image"]).embeddings["image"][:].astype(np.float32)
    np.testing.assert_allclose(rows, tuned, atol=2e-3)
    again = extract(Project(project.root), options=ExtractionOptions(rehash=True))
    assert all(one.encoded == 0 for one in again.encoders)


def test_right_of_the_wall_the_images_may_be_gone_altogether(extracted):
    run = fuse(extracted).run
    text = json.dumps(str(extracted.config.path(extracted.config.data.source)))
    moved = edited(extracted, f"source = {text}", f'source = {text}\nimages = "nowhere.zip"')
    again = fuse(moved)
    assert (again.made, again.run.name) == (False, run.name)
    done = run_cli("predict", cwd=moved.root)
    assert "80 rows lost the image since the last extract" in done.stderr
    assert run_cli("extract", cwd=moved.root, check=False).stderr.startswith("Error: images: nothing at ")


def test_on_error_stop_names_the_row(project, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(project.config.path(project.config.data.source), source)
    import zipfile

    zipfile.ZipFile(source / "images.zip").extractall(source)
    (source / "images.zip").unlink()
    project = edited(project, project.config.data.source, str(source), -1)
    name = str(project.manifest.images[5])
    (source / "images" / name).write_bytes(b"no image")
    init(project.root)
    stopped = run_cli("extract", "--on-error", "stop", cwd=project.root, check=False)
    assert stopped.returncode == 1
    assert name in stopped.stderr
    assert len(stopped.stderr.strip().splitlines()) == 1
    assert run_cli("extract", cwd=project.root).returncode == 0


@pytest.mark.parametrize("shard", ["0/3", "4/3", "x", "1/0", "1"])
def test_a_shard_that_is_none_is_a_usage_error(project_folder, shard):
    done = run_cli("extract", "--shard", shard, cwd=project_folder, check=False)
    assert done.returncode == 2
    assert "3/16" in done.stderr


def test_a_finished_extraction_imports_neither_torch_nor_an_encoder(extracted):
    import subprocess
    import sys

    code = (
        "import sys\nfrom mmfeat.project.project import Project\nfrom mmfeat.workflows.extract import extract\n"
        "result = extract(Project('.'))\nassert all(one.encoded == 0 for one in result.encoders)\n"
        "heavy = {'torch', 'timm', 'transformers', 'PIL'} & set(sys.modules)\nsys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=extracted.root)


def test_options_are_plain_values():
    assert dataclasses.asdict(ExtractionOptions()) == {
        "shard": None,
        "stop_on_error": False,
        "tune": False,
        "rehash": False,
    }
