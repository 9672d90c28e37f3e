"""A project: a snapshot of its folder, others derived from it, and gone when it is dropped."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import numpy as np
import pytest

import mmfeat.encoders.families.image_kind as module
from mmfeat.common.errors import ConfigError
from mmfeat.config.schema import TfidfEncoderConfig
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.project.project import Project
from mmfeat.project.project_samples import ProjectSamples
from mmfeat.store import FeatureStore


def test_it_is_freed_when_it_is_dropped(project_folder):
    project = Project(project_folder)
    derived = project.derived(settings={"fuse.seeds": 1}, folder=project_folder / "other")
    for one in (project, derived):
        one.row_keys("image")
        one.kept_keys("text")
        one.samples.image_facts()
        one.samples.say_lost("model", 1)
    kept = [weakref.ref(one) for one in (project, derived, project.samples)]
    del project, derived, one
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_a_copy_of_the_memory_lasts_as_long_as_the_projects_that_share_it(project_folder):
    project = Project(project_folder, dry=True)
    folder = project.memory.parent
    derived = project.derived(settings={"fuse.seeds": 1})
    del project
    gc.collect()
    assert derived.memory.parent == folder
    assert folder.is_dir()
    del derived
    gc.collect()
    assert not folder.exists()


def test_it_is_a_snapshot_and_opens_again_as_things_are(project_folder):
    project = Project(project_folder, {"seed": "3"})
    assert not project.has_changed()
    before = project.manifest.captions.copy()
    changed = dataclasses.replace(project.manifest, captions=np.array([f"{c} more" for c in before], dtype=object))
    changed.save(project_folder / "manifest.parquet")
    assert project.has_changed()
    np.testing.assert_array_equal(project.manifest.captions, before)
    again = project.reopened()
    assert again.config.seed == 3
    assert not again.has_changed()
    np.testing.assert_array_equal(again.manifest.captions, changed.captions)
    assert (again.row_keys("text").keys != project.row_keys("text").keys).any()
    file = project_folder / "mmfeat.toml"
    file.write_text(file.read_text() + "\n[predict]\nthreshold = 0.4\n")
    assert again.has_changed()
    folder = project_folder / "checkpoints" / "image-1"
    folder.mkdir(parents=True)
    again = project.reopened()
    (folder / "checkpoint.json").write_text("{}")
    assert again.has_changed()


def test_settings_act_in_the_derived_project_alone(project):
    derived = project.derived(settings={"fuse.head": "linear", "device": None})
    assert (derived.config.fuse.head, project.config.fuse.head) == ("linear", "crossattn")
    assert derived.config.origins["fuse.head"] == "option"
    assert (derived.root, derived.checkpoints, derived.memory) == (project.root, project.checkpoints, project.memory)
    with pytest.raises(ConfigError):
        project.derived(settings={"fuse.heads": "linear"})


def test_samples_are_read_once_for_all_that_share_them(project, monkeypatch):
    read = []
    keys = module.image_keys
    monkeypatch.setattr(module, "image_keys", lambda *a, **k: read.append(a) or keys(*a, **k))
    config = dataclasses.replace(project.config, encoder={"words": TfidfEncoderConfig()})
    others = [project.derived(config=config, folder=project.root / "elsewhere" / name) for name in "ab"]
    for one in (*others, project):
        assert one.row_keys("image").present.all()
    assert len(read) == 1
    assert others[0].checkpoints == project.root / "elsewhere" / "a" / "checkpoints"
    assert others[0].memory == project.root / "elsewhere" / "a" / ".mmfeat"
    assert (others[0].runs_folder, others[0].store) == (project.runs_folder, project.store)
    assert list(others[0].config.encoder) == ["words"]


def test_labels_memory_and_store_can_be_others(project):
    labels = np.zeros_like(project.manifest.labels)
    manifest = dataclasses.replace(project.manifest, labels=labels)
    store = FeatureStore(project.root / "scratch", "float32")
    derived = project.derived(manifest=manifest, store=store, memory=project.root / "m", folder=project.root / "f")
    assert derived.manifest is manifest
    assert derived.samples is project.samples
    assert (derived.store, derived.memory, derived.folder) == (store, project.root / "m", project.root / "f")
    elsewhere = project.derived(settings={"store.path": "other"})
    assert elsewhere.store.path == project.root / "other"


def test_new_samples_leave_no_trace(project):
    before = sorted(path.name for path in project.memory.iterdir())
    some = {name: getattr(project.manifest, name)[:3] for name in ("ids", "images", "captions", "labels", "split")}
    manifest = dataclasses.replace(project.manifest, **some, groups=None)
    new = project.derived(samples=ProjectSamples(project.config, manifest, project.sources, memory=None))
    assert new.manifest.n_samples == 3
    np.testing.assert_array_equal(new.row_keys("image").keys, project.row_keys("image").keys[:3])
    assert new.kept_keys("text").present.shape == (3,)
    assert new.samples.are_new
    assert sorted(path.name for path in project.memory.iterdir() if "seen" not in path.name) == [
        name for name in before if "seen" not in name
    ]
    nowhere = ProjectSamples(project.config, manifest, ImageSources([]), memory=None)
    assert not project.derived(samples=nowhere).kept_keys("image").present.any()
