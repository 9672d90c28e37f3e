"""Merging parts: nothing is lost, nothing changes, and there are few."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.stores import CLASSES, OUTPUT, files_of, filled, flip, logits_of, read, rows_of, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common.files import temporary_name
from mmfeat.store import FeatureStore
from mmfeat.store.garbage import find_garbage
from mmfeat.store.merge import merge_plan, merge_segments
from mmfeat.store.references import all_references, new_references, write_references
from mmfeat.store.segments import origins_of
from mmfeat.store.verify import verify_encoder

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "features"


def parts_of(folder: Path) -> list[Path]:
    return [path for path in files_of(folder, "part-*.h5") if not path.parent.name.startswith("logits-")]


@settings(deadline=None)
@given(st.lists(st.integers(1, 10_000), max_size=40))
def test_after_a_plan_every_part_outweighs_all_smaller_ones(sizes):
    chosen = merge_plan(sizes)
    left = [size for i, size in enumerate(sizes) if i not in chosen]
    left += [sum(sizes[i] for i in chosen)] if chosen else []
    left.sort()
    assert all(left[i] > sum(left[:i]) for i in range(1, len(left)))
    assert len(chosen) != 1


def test_one_more_row_rewrites_little():
    assert merge_plan([1_000_000, 1]) == []
    assert merge_plan([1_000_000, 100, 60, 50]) == [1, 2, 3]


def test_many_parts_become_one_and_every_row_stays_as_it_is(folder):
    keys, embeddings = rows_of(60)
    features = filled(folder, keys, embeddings, 6).encoder(spec_of())
    features.append(*rows_of(1, seed=9), ["bad"], meta={"host": "there", "versions": {"torch": "2"}})
    features.complete_logits(OUTPUT, CLASSES, logits_of)
    before = {path.name: path.read_bytes() for path in parts_of(folder)}
    assert merge_segments(features) == len(before) - 1
    for store in (features, FeatureStore(folder).encoder(spec_of())):
        found = store.lookup(keys)
        assert found.good.all()
        np.testing.assert_array_equal(store.embeddings(found)[:], embeddings)
        np.testing.assert_array_equal(store.logits(OUTPUT, found)[:], logits_of(embeddings))
        assert store.errors_of(rows_of(1, seed=9)[0]) == {0: "bad"}
        assert store.problems == []
    (part,) = parts_of(folder)
    assert len(files_of(folder, "*.h5")) == 2
    assert len(files_of(folder, "commits/*.json")) == 2
    origins = {origin["host"]: origin for origin in origins_of(part)}
    assert (origins["here"]["rows"], origins["there"]["rows"]) == (60, 1)
    assert origins["there"]["versions"] == {"torch": "2"}
    assert merge_segments(features) == 0


def test_rows_that_are_there_twice_are_kept_once_and_good_ones_win(folder):
    keys, embeddings = rows_of(20)
    features = FeatureStore(folder).encoder(spec_of())
    features.append(keys, embeddings, ["bad"] * 10 + [""] * 10, meta={})
    features.append(keys[:15], embeddings[:15], [""] * 15, meta={})
    features.append(keys[3:9], embeddings[3:9], [""] * 6, meta={})
    merge_segments(features)
    (part,) = parts_of(folder)
    with h5py.File(part, "r") as h5:
        assert h5["row_key"].shape == (20, 32)
    good, values = read(FeatureStore(folder), keys)
    assert good.all()
    np.testing.assert_array_equal(values, embeddings)


def test_parts_with_logits_of_other_outputs_stay_apart_and_keep_them(folder):
    keys, embeddings = rows_of(30)
    features = filled(folder, keys[:20], embeddings[:20], 2).encoder(spec_of())
    features.complete_logits(OUTPUT, CLASSES, logits_of)
    features.append(keys[20:], embeddings[20:], [""] * 10, meta={})
    merge_segments(features)
    found = features.lookup(keys)
    assert found.good.all()
    np.testing.assert_array_equal(
        features.logits(OUTPUT, found, np.arange(20))[np.arange(20)], logits_of(embeddings[:20])
    )
    assert len(parts_of(folder)) == 2


def test_a_reader_reads_on_while_another_process_merges(folder):
    keys, embeddings = rows_of(40)
    store = filled(folder, keys, embeddings, 8)
    features = store.encoder(spec_of())
    mapped = features.embeddings(features.lookup(keys))
    merge_segments(FeatureStore(folder).encoder(spec_of()))
    assert len(parts_of(folder)) == 1
    np.testing.assert_array_equal(mapped[:], embeddings)
    np.testing.assert_array_equal(features.embeddings(features.lookup(keys))[:], embeddings)
    assert features.problems == []


def test_merging_between_reading_the_commits_and_opening_the_parts(folder, monkeypatch):
    keys, embeddings = rows_of(40)
    features = filled(folder, keys, embeddings, 8).encoder(spec_of())
    read_commits = type(features)._read_commits

    def meanwhile(self):
        changed = read_commits(self)
        monkeypatch.setattr(type(features), "_read_commits", read_commits)
        merge_segments(FeatureStore(folder).encoder(spec_of()))
        return changed

    monkeypatch.setattr(type(features), "_read_commits", meanwhile)
    assert features.lookup(keys).good.all()
    assert features.problems == []
    np.testing.assert_array_equal(features.embeddings(features.lookup(keys))[:], embeddings)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True), min_size=1, max_size=6),
    st.integers(0, 2),
)
def test_two_processes_that_merge_at_once_lose_nothing(tmp_path_factory, rows, seed):
    """Each decides on the view it had before the other removed anything."""
    from mmfeat.store import merge

    folder = tmp_path_factory.mktemp("merge") / "features"
    keys, embeddings = rows_of(31, seed)
    features = FeatureStore(folder).encoder(spec_of())
    for part in rows:
        features.append(keys[part], embeddings[part], [""] * len(part), meta={})
    first, second = (FeatureStore(folder).encoder(spec_of()) for _ in range(2))
    for one in (first, second):
        merge._load_all(one)
    for one in (first, second):  # merge from old views, remove from old views
        outputs = merge._outputs(one)
        for kind, groups in merge._groups(one, outputs):
            for group in groups:
                merge._merge_group(one, kind, group, outputs=outputs)
    for one in (first, second):
        one.forget()
        merge._load_all(one)
    for one in (first, second):
        merge._remove_copies(one)
    there = sorted({row for part in rows for row in part})
    good, values = read(FeatureStore(folder), keys[there])
    assert good.all()
    np.testing.assert_array_equal(values, embeddings[there])


@pytest.mark.parametrize("at", ["segments.atomic_path", "segments.write_commit"])
def test_a_full_disk_leaves_the_parts_as_they_are(folder, monkeypatch, at):
    keys, embeddings = rows_of(20)
    features = filled(folder, keys, embeddings, 4).encoder(spec_of())
    with monkeypatch.context() as patch:
        patch.setattr(
            f"mmfeat.store.{at}", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        )
        assert merge_segments(features) == 0
    good, values = read(FeatureStore(folder), keys)
    assert good.all()
    np.testing.assert_array_equal(values, embeddings)
    assert merge_segments(features) == 3


def test_a_damaged_part_is_not_merged(folder):
    keys, embeddings = rows_of(20)
    features = filled(folder, keys, embeddings, 4).encoder(spec_of())
    damaged = parts_of(folder)[0]
    flip(damaged, damaged.read_bytes().find(embeddings.astype("<f2")[0].tobytes()))
    merge_segments(features)
    good, values = read(FeatureStore(folder), keys)
    np.testing.assert_array_equal(values[good], embeddings[good])
    assert good.sum() >= 15


def test_tokens_are_merged_as_well(folder):
    keys, embeddings = rows_of(12)
    tokens = np.random.default_rng(0).normal(size=(12, 3, 2)).astype(np.float16).astype(np.float32)
    lengths = np.arange(12) % 4
    features = filled(folder, keys, embeddings, 2).encoder(spec_of())
    for rows in np.array_split(np.arange(12), 3):
        features.append_tokens(3, keys[rows], tokens[rows], lengths=lengths[rows], meta={})
    merge_segments(features)
    for store in (features, FeatureStore(folder).encoder(spec_of())):
        found = store.lookup_tokens(3, keys)
        assert found.good.all()
        values, counts = store.tokens(3, found)
        np.testing.assert_array_equal(counts, lengths)
        inside = np.arange(3) < lengths[:, None]
        np.testing.assert_array_equal(values[:], np.where(inside[:, :, None], tokens, 0))
    assert len(files_of(folder, "tokens-3/*.h5")) == 1


def test_a_commit_that_is_just_being_written_is_neither_damaged_nor_garbage(folder):
    keys, embeddings = rows_of(4)
    features = filled(folder, keys, embeddings, 1).encoder(spec_of())
    references = new_references(folder.parent)
    references.add(spec_of().key)
    write_references(folder, references)
    commit = features.folder / "commits" / f"{temporary_name()}-part-{'0' * 16}.h5.json"
    commit.write_text("{")
    note = folder / "projects" / f"{temporary_name()}-{'0' * 16}.json"
    note.write_text("{")
    assert verify_encoder(features.folder, lambda _: None).problems == []
    assert find_garbage(folder, all_references(folder)) == []
    assert len(all_references(folder)) == 1
