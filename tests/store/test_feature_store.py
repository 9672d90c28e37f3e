from __future__ import annotations

import errno
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ROOT
from helpers.stores import CLASSES, MATRIX, OUTPUT, files_of, filled, flip, logits_of, read, rows_of, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.common import verified
from mmfeat.common.errors import MissingFeatures, StoreError
from mmfeat.common.files import HOST, TEMPORARY, digest_file
from mmfeat.common.seals import read_sealed, write_sealed
from mmfeat.store import EncoderSpec, FeatureStore, MappedRows, UnstorableRow
from mmfeat.store import feature_store as store_module
from mmfeat.store import mapped as mapped_module
from mmfeat.store.cache_status import encoder_status
from mmfeat.store.keys import explain, output_key, tensors_digest
from mmfeat.store.rows import RowIndex

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "features"


def reseal(file: Path, /, **changes) -> None:
    """Change values of a commit or record as a program would that writes it well."""
    values = json.loads(file.read_text())
    values.pop("seal")
    write_sealed(file, {**values, **changes})


def assert_never_wrong(folder: Path, keys: np.ndarray, embeddings: np.ndarray) -> bool:
    """Rows are right, or missing and reported. True if all are right."""
    store = FeatureStore(folder)
    good, values = read(store, keys)
    np.testing.assert_array_equal(values[good], embeddings[good])
    assert good.all() or store.problems
    return bool(good.all())


# Keys


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": "text"},
        {"architecture": "lite1"},
        {"weights": "0b" * 32},
        {"preprocessing": {"size": 225, "mean": [0.5, 0.5]}},
        {"preprocessing": {"size": 224}},
        {"preprocessing": {"size": "224", "mean": [0.5, 0.5]}},
        {"pooling": "cls"},
        {"numerics": {"precision": "float16"}},
    ],
)
def test_every_change_of_a_spec_changes_its_key_and_is_explained(changes):
    changed = spec_of(**changes)
    assert changed.key != spec_of().key
    name = next(iter(changes))
    assert name in explain(spec_of(), changed)


def test_equal_specs_have_one_key_however_they_are_written():
    turned = spec_of(preprocessing={"mean": (0.5, 0.5), "size": 224})
    assert turned.key == spec_of().key
    assert turned == spec_of()
    assert explain(turned, spec_of()) == ""
    assert EncoderSpec.from_dict(json.loads(json.dumps(turned.as_dict()))) == turned
    assert re.fullmatch("[0-9a-f]{64}", turned.key)


@pytest.mark.parametrize("changes", [{"pooling": 3}, {"preprocessing": "x"}, {"numerics": {"a": float("nan")}}])
def test_a_spec_is_plain_json(changes):
    with pytest.raises((TypeError, ValueError)):
        spec_of(**changes)


def test_explain_says_old_and_new_value_on_one_short_line():
    other = spec_of(weights="1a" * 32, preprocessing={"size": 320, "mean": [0.5, 0.5]})
    assert explain(spec_of(), other) == "weights changed; preprocessing changed: size 224 -> 320"
    strange = explain(spec_of(), spec_of(preprocessing={"size": 224, "mean": [0.5, 0.5], "x\ny": "\n" * 1000}))
    assert strange.isprintable()
    assert len(strange) < 200


def test_tensors_digest_reads_order_free_and_everything_else():
    a = ("a", "float32", (2, 1), b"12345678")
    b = ("b", "uint16", (4,), b"12345678")
    digest = tensors_digest([a, b])
    assert tensors_digest(iter([b, a])) == digest
    assert tensors_digest([("a", "float32", [2, 1], np.frombuffer(b"12345678", np.float32).reshape(2, 1)), b]) == digest
    others = [
        [a],
        [("b", *a[1:]), ("a", *b[1:])],
        [("a", "int32", (2, 1), a[3]), b],
        [("a", "float32", (1, 2), a[3]), b],
        [("a", "float32", (2, 1), b"12345679"), b],
        [a, ("b", "uint16", (4,), b"1234567")],
    ]
    assert len({digest, *map(tensors_digest, others)}) == len(others) + 1


def test_output_key_reads_tensors_and_classes_in_order():
    keys = {
        output_key("a", ["x", "y"]),
        output_key("a", ["y", "x"]),
        output_key("b", ["x", "y"]),
        output_key("a", ["x"]),
    }
    assert len(keys) == 4


# Round trips


def test_rows_come_back_in_any_order(folder):
    keys, embeddings = rows_of(100)
    store = filled(folder, keys, embeddings)
    features = store.encoder(spec_of())
    shuffled = np.random.default_rng(3).permutation(100)
    mapped = features.embeddings(features.lookup(keys[shuffled]))
    wanted = embeddings[shuffled]
    assert (mapped.shape, mapped.dtype, len(mapped)) == ((100, 6), np.float16, 100)
    np.testing.assert_array_equal(np.asarray(mapped), wanted)
    np.testing.assert_array_equal(np.asarray(mapped, dtype=np.float32), wanted)
    for rows in (
        slice(None),
        slice(90, 5, -3),
        slice(7, 7),
        np.array([5, 5, -1, 99, 0]),
        shuffled,
        wanted[:, 0] > 0,
        [3],
    ):
        np.testing.assert_array_equal(mapped[rows], wanted[rows])
        np.testing.assert_array_equal(mapped.take(rows)[:], wanted[rows])
    np.testing.assert_array_equal(mapped[-7], wanted[-7])
    in_order = features.embeddings(features.lookup(keys))
    for rows in np.random.default_rng(4).integers(50, 56, (100, 4)):  # runs, gaps and repetitions within one part
        np.testing.assert_array_equal(in_order[rows], embeddings[rows])
    np.testing.assert_array_equal(in_order[20:80], embeddings[20:80])


def test_rows_that_are_nowhere_read_as_zeros(folder):
    keys, embeddings = rows_of(10)
    features = filled(folder, keys[:5], embeddings[:5]).encoder(spec_of())
    found = features.lookup(keys)
    np.testing.assert_array_equal(found.missing, np.arange(10) >= 5)
    np.testing.assert_array_equal(features.embeddings(found)[:], np.where(found.missing[:, None], 0, embeddings))


def test_an_empty_store_has_nothing_and_makes_nothing(folder):
    store = FeatureStore(folder)
    features = store.encoder(spec_of())
    keys, _ = rows_of(4)
    found = features.lookup(keys)
    assert found.missing.all()
    assert len(features.embeddings(found)[:]) == 4
    assert features.logits(OUTPUT, found) is None
    assert features.complete_logits(OUTPUT, CLASSES, logits_of) == 0
    features.append(keys[:0], np.zeros((0, 6)), [], meta={})
    assert (store.encoders(), store.find(spec_of().key), store.size_bytes, store.problems) == ([], None, 0, [])
    assert not folder.exists()


def test_more_parts_than_maps_may_be_open(folder, monkeypatch):
    keys, embeddings = rows_of(40)
    store = filled(folder, keys, embeddings, n_parts=8)
    monkeypatch.setattr(mapped_module, "_opened", functools.lru_cache(2)(mapped_module._opened.__wrapped__))
    good, values = read(store, keys)
    assert good.all()
    np.testing.assert_array_equal(values, embeddings)


def test_a_file_exchanged_while_it_is_in_use_is_not_read(folder):
    keys, embeddings = rows_of(5)
    features = filled(folder, keys, embeddings, 1).encoder(spec_of())
    mapped = features.embeddings(features.lookup(keys))
    (part,) = files_of(folder, "part-*.h5")
    flip(part)
    with pytest.raises(StoreError, match=part.name):
        mapped[:]
    part.unlink()
    with pytest.raises(StoreError, match=part.name):
        mapped[:]


def test_parts_of_both_dtypes_lose_nothing(folder):
    keys, embeddings = rows_of(6)
    wide = embeddings[3:] * 1e6
    filled(folder, keys[:3], embeddings[:3], 1)
    features = FeatureStore(folder, "float32").encoder(spec_of())
    first = features.lookup(keys[:3])  # so that the float16 part is the first
    features.append(keys[3:], wide, [""] * 3, meta={})
    mapped = features.embeddings(features.lookup(keys))
    np.testing.assert_array_equal(mapped[:], np.concatenate([embeddings[:3], wide]))
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(features.embeddings(first)[:], embeddings[:3])


def test_rows_left_out_are_as_if_they_were_not_there(folder):
    keys, embeddings = rows_of(4)
    features = FeatureStore(folder).encoder(spec_of())
    features.append(keys[:3], embeddings[:3], ["", "bad", "bad"], meta={})
    found = features.lookup(keys).only(np.array([False, False, True, True]))
    assert (found.missing.tolist(), found.error.tolist()) == ([True, True, False, True], [False, False, True, False])
    assert (found.segment.dtype, found.row.dtype, found.row.tolist()) == (np.int32, np.int64, [-1, -1, 2, -1])


def test_errors_are_rows_with_a_reason(folder):
    keys, embeddings = rows_of(6)
    embeddings[[1, 2, 3, 4]] = np.nan
    reasons = ["", "truncated", "two\nlines\0", "caf\udce9", " ", ""]
    features = FeatureStore(folder).encoder(spec_of())
    features.append(keys, embeddings, reasons, meta={})
    order = np.array([3, 0, 2, 5, 1, 4])
    found = features.lookup(keys[order])
    assert found.error.tolist() == [bool(reasons[i]) for i in order]
    assert not found.missing.any()
    told = features.errors_of(keys[order])
    assert sorted(told) == np.flatnonzero(found.error).tolist()
    assert told[4] == "truncated"
    assert all(reason and reason.isprintable() for reason in told.values())
    assert not features.embeddings(found)[found.error].any()


def test_found_stays_right_when_parts_are_added(folder):
    keys, embeddings = rows_of(60)
    features = FeatureStore(folder).encoder(spec_of())
    features.append(keys[:5], embeddings[:5], [""] * 5, meta={})
    found = features.lookup(keys)
    for start in range(5, 60, 5):
        features.append(keys[start : start + 5], embeddings[start : start + 5], [""] * 5, meta={})
        assert features.lookup(keys).good.sum() == start + 5
        assert len(features.embeddings(found).segments) == start // 5 + 1
    np.testing.assert_array_equal(features.embeddings(found)[:5], embeddings[:5])


KEY = st.sampled_from([bytes([a] * 8 + [0] * 22 + [b, c]) for a in (0, 7, 255) for b in (0, 1) for c in (0, 9)])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.tuples(KEY, st.booleans()), max_size=5), max_size=5), st.lists(KEY, max_size=8))
def test_lookup_is_that_of_a_dict(stored, asked):
    def array(keys):
        return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)

    expected: dict[bytes, bool] = {}
    for key, error in (row for part in stored for row in part):
        expected[key] = error and expected.get(key, True)
    index = RowIndex(
        [array([k for k, _ in p]) for p in stored],
        [np.array([e for _, e in p], bool) for p in stored],
        range(len(stored)),
    )
    found = index.find(array(asked))
    for i, key in enumerate(asked):
        if key not in expected:
            assert (found.segment[i], found.row[i], found.error[i]) == (-1, -1, False)
        else:
            assert stored[found.segment[i]][found.row[i]] == (key, expected[key])
            assert found.error[i] == expected[key]


def test_row_keys_of_another_shape_are_refused(folder):
    features = FeatureStore(folder).encoder(spec_of())
    for keys in (np.zeros((3, 31), np.uint8), np.zeros((3, 32), np.int64), np.zeros(32, np.uint8)):
        with pytest.raises(ValueError, match="row keys"):
            features.lookup(keys)
    with pytest.raises(ValueError, match="do not fit"):
        features.append(np.zeros((3, 32), np.uint8), np.zeros((3, 2)), [""] * 2, meta={})


# Interruptions


def test_a_part_without_commit_does_not_count(folder):
    keys, embeddings = rows_of(30)
    filled(folder, keys, embeddings)
    files_of(folder, "commits/*.json")[1].unlink()
    store = FeatureStore(folder)
    good, values = read(store, keys)
    assert good.sum() == 20
    np.testing.assert_array_equal(values[good], embeddings[good])
    assert store.problems == []


@pytest.mark.parametrize("at", ["segments.write_atomic", "commits.write_sealed"])
def test_a_full_disk_is_one_line_and_leaves_nothing_that_counts(folder, monkeypatch, at):
    keys, embeddings = rows_of(8)
    store = filled(folder, keys[:4], embeddings[:4], 1)
    with monkeypatch.context() as patch:
        patch.setattr(
            f"mmfeat.store.{at}", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        )
        with pytest.raises(StoreError, match="No space left") as caught:
            store.encoder(spec_of()).append(keys[4:], embeddings[4:], [""] * 4, meta={})
    assert "\n" not in str(caught.value)
    assert read(store, keys)[0].sum() == 4
    store.encoder(spec_of()).append(keys[4:], embeddings[4:], [""] * 4, meta={})
    assert read(store, keys)[0].all()


def test_a_writer_removes_what_a_dead_one_left_and_nothing_else(folder):
    keys, embeddings = rows_of(4)
    filled(folder, keys[:2], embeddings[:2], 1)
    (home,) = folder.iterdir()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = home / f"{TEMPORARY}{HOST}-{int(gone.stdout)}-ab-part-{'0' * 16}.h5"
    alive = home / "commits" / f"{TEMPORARY}{HOST}-{os.getpid()}-ab-part-{'0' * 16}.h5.json"
    for path in (dead, alive):
        path.write_bytes(b"half")
    store = FeatureStore(folder)
    assert read(store, keys)[0].sum() == 2
    assert store.problems == []
    store.encoder(spec_of()).append(keys[2:], embeddings[2:], [""] * 2, meta={})
    assert read(store, keys)[0].all()
    assert not dead.exists()
    assert alive.exists()


@pytest.mark.parametrize("kind", ["a file", "a file below"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, kind):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    store = FeatureStore(blocked if kind == "a file" else blocked / "features")
    keys, embeddings = rows_of(2)
    with pytest.raises(StoreError, match="blocked") as caught:
        store.encoder(spec_of()).append(keys, embeddings, [""] * 2, meta={})
    assert "\n" not in str(caught.value)


# Damage


def age(folder: Path) -> None:
    """Make parts older than what may have been written twice within one tick of the clock."""
    for path in files_of(folder, "part-*.h5"):
        os.utime(path, ns=(10**9, 10**9))


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_byte_of_a_part_costs_its_rows_and_is_told(folder, seed):
    keys, embeddings = rows_of(30)
    filled(folder, keys, embeddings)
    age(folder)
    assert read(FeatureStore(folder), keys)[0].all()  # the part is now known as verified
    rng = np.random.default_rng(seed)
    victim = files_of(folder, "part-*.h5")[rng.integers(3)]
    flip(victim, int(rng.integers(victim.stat().st_size)))
    store = FeatureStore(folder)
    good, values = read(store, keys)
    assert good.sum() == 20
    np.testing.assert_array_equal(values[good], embeddings[good])
    (problem,) = store.problems
    assert victim.name in problem
    assert "checksum" in problem
    store.encoder(spec_of()).append(keys[~good], embeddings[~good], [""] * 10, meta={})
    good, values = read(FeatureStore(folder), keys)
    assert good.all()
    np.testing.assert_array_equal(values, embeddings)


@pytest.mark.parametrize("damage", ["truncated", "longer", "empty", "absent"])
def test_a_part_of_another_size_is_not_read(folder, damage):
    keys, embeddings = rows_of(30)
    filled(folder, keys, embeddings)
    victim = files_of(folder, "part-*.h5")[0]
    data = victim.read_bytes()
    victim.unlink()
    if damage != "absent":
        victim.write_bytes({"truncated": data[:-1], "longer": data + b"\0", "empty": b""}[damage])
    store = FeatureStore(folder)
    assert read(store, keys)[0].sum() == 20
    (problem,) = store.problems
    assert victim.name in problem
    assert ("is missing" if damage == "absent" else "bytes") in problem
    victim.write_bytes(data)
    assert assert_never_wrong(folder, keys, embeddings)


@pytest.mark.parametrize("pattern", ["commits/*.json", "encoder.json"])
def test_no_flipped_byte_of_a_json_gives_wrong_rows(folder, pattern):
    keys, embeddings = rows_of(6)
    features = FeatureStore(folder).encoder(spec_of())
    features.append(keys, embeddings, ["", "", "", "", "bad", "bad"], meta={})
    (victim,) = files_of(folder, pattern)
    whole = victim.read_bytes()
    for position in range(len(whole)):
        victim.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        store = FeatureStore(folder)
        assert all(features.spec == spec_of() for features in store.encoders())
        store = FeatureStore(folder)
        try:
            found, _ = read(store, keys)
        except StoreError:
            continue
        assert not found.any()
        assert store.problems


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 5},
        {"rows": "4"},
        {"errors": 1},
        {"size": None},
        {"kind": OUTPUT},
        {"sha256": None},
        {"file": 3},
        {"x": 1},
    ],
)
def test_a_commit_that_disagrees_with_its_file_does_not_count(folder, changes):
    keys, embeddings = rows_of(4)
    filled(folder, keys, embeddings, 1)
    (commit,) = files_of(folder, "commits/*.json")
    reseal(commit, **changes)
    store = FeatureStore(folder)
    assert not read(store, keys)[0].any()
    assert len(store.problems) == 1


def test_a_commit_under_another_name_does_not_count(folder):
    keys, embeddings = rows_of(4)
    filled(folder, keys, embeddings, 1)
    (commit,) = files_of(folder, "commits/*.json")
    commit.rename(commit.with_name(f"part-{'0' * 16}.h5.json"))
    store = FeatureStore(folder)
    assert not read(store, keys)[0].any()
    assert len(store.problems) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\xff", '{"format": 1}', '{"format": "1"}', '{"format": 1, "file": "../x"}', "[" * 99999],
)
def test_a_commit_or_record_of_nonsense_is_told_on_one_line(folder, text):
    keys, embeddings = rows_of(9)
    store = filled(folder, keys, embeddings)
    files_of(folder, "commits/*.json")[0].write_text(text, encoding="latin-1")
    assert not assert_never_wrong(folder, keys, embeddings)
    files_of(folder, "encoder.json")[0].write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match=r"encoder\.json: damaged.*mmfeat extract"):
        FeatureStore(folder).encoder(spec_of())
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore(folder).find(spec_of().key)
    store = FeatureStore(folder)
    assert store.encoders() == []
    assert len(store.problems) == 1


def test_a_commit_cannot_name_a_file_elsewhere(folder, tmp_path):
    keys, embeddings = rows_of(4)
    filled(folder, keys, embeddings, 1)
    (commit,), (part,) = files_of(folder, "commits/*.json"), files_of(folder, "part-*.h5")
    for file in (str(part), f"../{part.parent.name}/{part.name}", f"./{part.name}"):
        commit = commit.rename(commit.with_name(file.replace("/", "-") + ".json"))
        reseal(commit, file=file)
        store = FeatureStore(folder)
        assert not read(store, keys)[0].any(), file
        assert len(store.problems) == (0 if commit.name.startswith(".") else 1)


def test_a_removed_record_is_written_again(folder):
    keys, embeddings = rows_of(4)
    filled(folder, keys, embeddings)
    (record,) = files_of(folder, "encoder.json")
    record.unlink()
    assert read(FeatureStore(folder), keys)[0].all()
    assert FeatureStore(folder).find(spec_of().key).spec == spec_of()


def test_a_part_of_another_encoder_is_refused(folder):
    keys, embeddings = rows_of(8)
    filled(folder, keys[:4], embeddings[:4], 1)
    other = FeatureStore(folder).encoder(spec_of(weights="ff" * 32))
    other.append(keys[4:], embeddings[4:], [""] * 4, meta={})
    home = FeatureStore(folder).encoder(spec_of()).folder
    (part,), (commit,) = files_of(other.folder, "part-*.h5"), files_of(other.folder, "commits/*.json")
    (home / part.name).write_bytes(part.read_bytes())
    (home / "commits" / commit.name).write_bytes(commit.read_bytes())
    store = FeatureStore(folder)
    assert read(store, keys)[0].tolist() == [True] * 4 + [False] * 4
    (problem,) = store.problems
    assert part.name in problem
    assert "another encoder key" in problem


def test_a_part_of_another_width_is_refused(folder):
    keys, embeddings = rows_of(8)
    store = filled(folder, keys[:4], embeddings[:4], 1)
    with pytest.raises(StoreError, match="width"):
        store.encoder(spec_of()).append(keys[4:], embeddings[4:, :3], [""] * 4, meta={})
    (record,) = files_of(folder, "encoder.json")
    values = record.read_text()
    record.unlink()
    FeatureStore(folder).encoder(spec_of()).append(keys[4:], embeddings[4:, :3], [""] * 4, meta={})
    record.write_text(values)
    store = FeatureStore(folder)
    assert read(store, keys)[0].tolist() == [True] * 4 + [False] * 4
    assert len(store.problems) == 1


@pytest.mark.parametrize("where", ["commit", "record", "part"])
def test_a_newer_format_is_refused_by_file_and_version(folder, where):
    keys, embeddings = rows_of(4)
    filled(folder, keys, embeddings, 1)
    (commit,), (part,) = files_of(folder, "commits/*.json"), files_of(folder, "part-*.h5")
    if where == "record":
        (file,) = files_of(folder, "encoder.json")
        reseal(file, format=99)
    elif where == "commit":
        file = commit
        write_sealed(file, {"format": 99, "something": "else"})
    else:
        file = part
        with h5py.File(file, "r+") as h5:
            h5.attrs["encoding-version"] = 99
        reseal(commit, size=file.stat().st_size, sha256=digest_file(file))
    with pytest.raises(StoreError, match=rf"{file.name}: has format 99, .* Update mmfeat"):
        read(FeatureStore(folder), keys)


def test_a_chunked_part_is_refused(folder):
    keys, embeddings = rows_of(4)
    filled(folder, keys, embeddings, 1)
    (commit,), (part,) = files_of(folder, "commits/*.json"), files_of(folder, "part-*.h5")
    with h5py.File(part, "r+") as h5:
        del h5["embeddings"]
        h5.create_dataset("embeddings", data=embeddings, chunks=(2, 6), compression="gzip")
    reseal(commit, size=part.stat().st_size, sha256=digest_file(part))
    store = FeatureStore(folder)
    assert not read(store, keys)[0].any()
    assert "contiguous" in store.problems[0]


def test_two_keys_with_one_folder_are_refused(folder, monkeypatch):
    keys, embeddings = rows_of(4)
    filled(folder, keys, embeddings, 1)
    home = FeatureStore(folder).encoder(spec_of()).folder
    other = spec_of(pooling="cls")
    wrong = folder / f"lite0-{other.key[:12]}"
    home.rename(wrong)
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore(folder).encoder(other)
    wrong.rename(home)
    monkeypatch.setattr(store_module, "folder_name", lambda spec: home.name)
    assert read(FeatureStore(folder), keys)[0].all()
    with pytest.raises(StoreError, match="another encoder"):
        FeatureStore(folder).encoder(other)
    assert FeatureStore(folder).find(spec_of().key[:12] + "0" * 52) is None


def test_an_encoder_is_found_beside_a_damaged_one(folder):
    keys, embeddings = rows_of(4)
    filled(folder, keys, embeddings, 1)
    other = FeatureStore(folder).encoder(spec_of(architecture="alas"))
    other.append(keys, embeddings, [""] * 4, meta={})
    flip(other.folder / "encoder.json", 0)
    assert FeatureStore(folder).find(spec_of().key).lookup(keys).good.all()


def test_checksums_are_computed_once_for_each_state_of_a_file(folder, cache, monkeypatch):
    keys, embeddings = rows_of(9)
    filled(folder, keys, embeddings)
    age(folder)
    read_files = []
    monkeypatch.setattr(verified, "digest_file", lambda path: read_files.append(path) or digest_file(path))

    def digests() -> int:
        read_files.clear()
        assert read(FeatureStore(folder), keys)[0].all()
        return len(read_files)

    assert [digests(), digests()] == [3, 0]
    victim = files_of(folder, "part-*.h5")[1]
    os.utime(victim, ns=(5, 5))
    assert [digests(), digests()] == [1, 0]
    (memory,) = files_of(cache, "*.json")
    for damage in ("", "[]", '{"a": 3}', memory.read_text()[:-20]):
        memory.write_text(damage)
        assert digests() == 3
    assert digests() == 0


def test_a_cache_that_cannot_be_written_costs_only_time(folder, tmp_path, monkeypatch):
    keys, embeddings = rows_of(9)
    filled(folder, keys, embeddings)
    (tmp_path / "blocked").write_text("")
    monkeypatch.setattr(verified, "user_cache_path", lambda name: tmp_path / "blocked" / name)
    assert read(FeatureStore(folder), keys)[0].all()


# Values


@pytest.mark.parametrize("value", [70000.0, -1e30, np.inf, np.nan])
def test_what_float16_cannot_hold_is_an_error_that_names_the_row(folder, value):
    keys, embeddings = rows_of(5)
    embeddings[3, 2] = value
    features = FeatureStore(folder).encoder(spec_of())
    with pytest.raises(UnstorableRow, match=keys[3].tobytes().hex()[:16]) as caught:
        features.append(keys, embeddings, [""] * 5, meta={})
    assert caught.value.row == 3
    assert ("float32" in str(caught.value)) == bool(np.isfinite(value))
    assert not folder.exists()
    features.append(keys, embeddings, ["", "", "", "bad", ""], meta={})
    assert read(FeatureStore(folder), keys)[0].tolist() == [True, True, True, False, True]
    wide = FeatureStore(folder.with_name("wide"), "float32").encoder(spec_of())
    if np.isfinite(value):
        wide.append(keys, embeddings, [""] * 5, meta={})
        np.testing.assert_array_equal(wide.embeddings(wide.lookup(keys))[:], embeddings)
    else:
        with pytest.raises(UnstorableRow):
            wide.append(keys, embeddings, [""] * 5, meta={})


def test_a_dtype_that_is_neither_is_refused(folder):
    with pytest.raises(StoreError, match="float16, float32"):
        FeatureStore(folder, "bfloat16")


# Logits


def test_logits_later_are_logits_at_once(tmp_path):
    keys, embeddings = rows_of(20)
    at_once, later = (FeatureStore(tmp_path / name).encoder(spec_of()) for name in ("a", "b"))
    for rows in np.array_split(np.arange(20), 3):
        at_once.append(keys[rows], embeddings[rows] / 3, [""] * len(rows), meta={})
        assert at_once.complete_logits(OUTPUT, CLASSES, logits_of) == len(rows)
    for rows in np.array_split(np.arange(20), 3):
        later.append(keys[rows], embeddings[rows] / 3, [""] * len(rows), meta={})
    assert later.logits(OUTPUT, later.lookup(keys)) is None
    assert later.complete_logits(OUTPUT, CLASSES, logits_of) == 20
    assert later.complete_logits(OUTPUT, CLASSES, lambda _: pytest.fail("was there already")) == 0
    order = np.random.default_rng(0).permutation(20)
    first, second = (f.logits(OUTPUT, f.lookup(keys[order]))[:] for f in (at_once, later))
    np.testing.assert_array_equal(first, second)
    stored = later.embeddings(later.lookup(keys[order]))[:].astype(np.float32)
    np.testing.assert_allclose(first, stored @ MATRIX, rtol=1e-5)
    assert first.dtype == np.float32
    assert later.logits(output_key("cd" * 32, CLASSES), later.lookup(keys)) is None


def test_logits_that_are_needed_decide_and_others_are_never_made_up(folder):
    keys, embeddings = rows_of(6)
    features = FeatureStore(folder).encoder(spec_of())
    features.append(keys[:3], embeddings[:3], ["", "bad", ""], meta={})
    assert features.complete_logits(OUTPUT, CLASSES, lambda e: logits_of(e) + 1) == 2
    features.append(keys[3:], embeddings[3:], [""] * 3, meta={})
    found = features.lookup(keys)
    assert features.logits(OUTPUT, found) is None
    assert features.logits(OUTPUT, found, np.array([0, 4])) is None
    mapped = features.logits(OUTPUT, found, np.array([0, 1, 2]))
    np.testing.assert_array_equal(mapped[[2, 0]], logits_of(embeddings[[2, 0]]) + 1)
    assert not mapped[1].any()
    with pytest.raises(MissingFeatures, match="mmfeat extract"):
        mapped[:]


def test_logits_of_another_part_or_output_are_not_taken(folder):
    keys, embeddings = rows_of(8)
    filled(folder, keys, embeddings, 2).encoder(spec_of()).complete_logits(OUTPUT, CLASSES, logits_of)
    files, commits = files_of(folder, "logits-*/*.h5"), files_of(folder, "commits/logits-*.json")
    values = [json.loads(path.read_text()) for path in commits]
    other = OUTPUT[:12] + "0" * 52
    for path in commits:
        reseal(path, kind=other)
    features = FeatureStore(folder).encoder(spec_of())
    assert features.logits(other, features.lookup(keys)) is None
    first, second = (path.read_bytes() for path in files)
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    for path, value, taken in zip(commits, values, values[::-1], strict=True):
        write_sealed(path, {**{k: v for k, v in taken.items() if k != "seal"}, "file": value["file"]})
    features = FeatureStore(folder).encoder(spec_of())
    assert features.logits(OUTPUT, features.lookup(keys)) is None


def test_damaged_logits_are_made_again(folder):
    keys, embeddings = rows_of(6)
    store = filled(folder, keys, embeddings, 1)
    store.encoder(spec_of()).complete_logits(OUTPUT, CLASSES, logits_of)
    (file,) = files_of(folder, "logits-*/*.h5")
    flip(file)
    store = FeatureStore(folder)
    features = store.encoder(spec_of())
    assert features.logits(OUTPUT, features.lookup(keys)) is None
    assert file.name in store.problems[0]
    assert features.complete_logits(OUTPUT, CLASSES, logits_of) == 6
    np.testing.assert_array_equal(features.logits(OUTPUT, features.lookup(keys))[:], logits_of(embeddings))


@pytest.mark.parametrize("wrong", [np.full((4, 3), np.nan), np.zeros((4, 2)), np.zeros((3, 3))])
def test_logits_that_are_no_logits_are_refused(folder, wrong):
    keys, embeddings = rows_of(4)
    features = filled(folder, keys, embeddings, 1).encoder(spec_of())
    with pytest.raises(StoreError, match="logits"):
        features.complete_logits(OUTPUT, CLASSES, lambda _: wrong)
    assert features.logits(OUTPUT, features.lookup(keys)) is None


def test_many_classes_fit_the_record(folder):
    keys, embeddings = rows_of(2)
    classes = [f"class number {i}" for i in range(20_000)]
    features = filled(folder, keys, embeddings, 1).encoder(spec_of())
    features.complete_logits(output_key("x", classes), classes, lambda e: np.zeros((len(e), len(classes))))
    with h5py.File(files_of(folder, "logits-*/*.h5")[0], "r") as h5:
        assert json.loads(h5.attrs["classes"]) == classes


# Many writers


def test_two_writers_of_overlapping_rows(folder):
    keys, embeddings = rows_of(30)
    first, second = FeatureStore(folder).encoder(spec_of()), FeatureStore(folder).encoder(spec_of())
    assert first.lookup(keys).missing.all()
    assert second.lookup(keys).missing.all()
    first.append(keys[:20], embeddings[:20], ["bad"] * 5 + [""] * 15, meta={})
    second.append(keys[10:], embeddings[10:], [""] * 20, meta={})
    second.append(keys[:2], embeddings[:2], [""] * 2, meta={})
    for features in (first, second, FeatureStore(folder).encoder(spec_of())):
        found = features.lookup(keys)
        assert found.good.tolist() == [True, True, False, False, False] + [True] * 25
        np.testing.assert_array_equal(features.embeddings(found)[found.good], embeddings[found.good])
    more, values = rows_of(3, seed=1)
    second.append(more, values, [""] * 3, meta={})
    assert first.lookup(more).good.all()


def test_a_writer_sees_its_own_rows_within_one_tick_of_the_clock(folder):
    keys, embeddings = rows_of(4)
    features = filled(folder, keys[:2], embeddings[:2], 1).encoder(spec_of())
    assert features.lookup(keys).good.sum() == 2
    commits = features.folder / "commits"
    tick = commits.stat().st_mtime_ns
    features.append(keys[2:], embeddings[2:], [""] * 2, meta={})
    os.utime(commits, ns=(tick, tick))
    assert features.lookup(keys).good.all()


def test_two_processes_may_complete_the_same_logits(folder):
    keys, embeddings = rows_of(6)
    store = filled(folder, keys, embeddings, 2)

    def meanwhile(values):
        FeatureStore(folder).encoder(spec_of()).complete_logits(OUTPUT, CLASSES, logits_of)
        return logits_of(values)

    store.encoder(spec_of()).complete_logits(OUTPUT, CLASSES, meanwhile)
    store = FeatureStore(folder)
    features = store.encoder(spec_of())
    np.testing.assert_array_equal(features.logits(OUTPUT, features.lookup(keys))[:], logits_of(embeddings))
    assert store.problems == []


# The folder


@pytest.mark.parametrize(
    ("architecture", "stem"),
    [
        ("google/bert_L-2", "bert_L-2"),
        ("/home/me/My model/", "My_model"),
        ("..", "encoder"),
        ("a\\b:c", "b_c"),
        ("x" * 300, "x" * 64),
    ],
)
def test_folders_are_named_by_architecture_and_key(folder, architecture, stem):
    spec = spec_of(architecture=architecture)
    keys, embeddings = rows_of(2)
    FeatureStore(folder).encoder(spec).append(keys, embeddings, [""] * 2, meta={})
    assert [path.name for path in folder.iterdir()] == [f"{stem}-{spec.key[:12]}"]
    assert FeatureStore(folder).find(spec.key).lookup(keys).good.all()
    assert [features.spec for features in FeatureStore(folder).encoders()] == [spec]


def test_size_is_that_of_all_files(folder):
    keys, embeddings = rows_of(50)
    store = filled(folder, keys, embeddings)
    assert store.size_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_example_for_other_readers_runs(folder, tmp_path):
    keys, embeddings = rows_of(12)
    features = FeatureStore(folder).encoder(spec_of())
    features.append(keys[:8], embeddings[:8], [""] * 7 + ["bad"], meta={"versions": {"numpy": "2"}})
    features.append(keys[8:], embeddings[8:], [""] * 4, meta={})
    readme = (ROOT / "features" / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    script = f"{example}\nnp.savez('out.npz', keys=row_key, values=embeddings)\n"
    subprocess.run([sys.executable, "-c", script], cwd=features.folder, check=True)
    with np.load(features.folder / "out.npz") as out:
        got = {key.tobytes(): value for key, value in zip(out["keys"], out["values"], strict=True)}
    assert set(got) == {key.tobytes() for i, key in enumerate(keys) if i != 7}
    assert all(np.array_equal(got[key.tobytes()], embeddings[i]) for i, key in enumerate(keys) if i != 7)


def test_the_store_imports_no_torch():
    code = "import sys, mmfeat.store.cache_status, mmfeat.store.feature_table; print({'torch', 'timm', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


# Status


def test_status_accounts_for_every_row_and_says_why(folder):
    keys, embeddings = rows_of(20)
    present = np.arange(20) >= 2
    store = FeatureStore(folder)
    old = store.encoder(spec_of(weights="11" * 32))
    older = store.encoder(spec_of(preprocessing={"size": 160, "mean": [0.5, 0.5]}))
    foreign = store.encoder(spec_of(architecture="other"))
    now = store.encoder(spec_of())
    older.append(keys[10:14], embeddings[10:14], [""] * 4, meta={})
    record = older.folder / "encoder.json"
    reseal(record, created="1" + read_sealed(record)["created"][1:])
    old.append(keys[8:12], embeddings[8:12], [""] * 4, meta={})
    foreign.append(keys, embeddings, [""] * 20, meta={})
    now.append(keys[:9], embeddings[:9], [""] * 8 + ["bad"], meta={})
    status = encoder_status(store, "image", "lite0", spec=spec_of(), keys=keys, present=present)
    absent = encoder_status(store, "image", "lite0", spec=spec_of(), keys=keys, present=np.arange(20) != 8)
    assert (absent.unreadable, absent.absent) == (0, 1)
    counts = (status.cached, status.missing, status.stale, status.unreadable, status.absent)
    assert counts == (6, 6, 5, 1, 2)
    assert sum(counts) == 20
    assert status.why == "weights changed; 1 unreadable: bad"
    now.append(keys[9:], embeddings[9:], [""] * 11, meta={})
    assert (
        encoder_status(store, "image", "lite0", spec=spec_of(), keys=keys, present=present).why == "1 unreadable: bad"
    )


def test_status_outlives_a_neighbour_that_cannot_be_read(folder):
    keys, embeddings = rows_of(5)
    store = filled(folder, keys[:2], embeddings[:2], 1)
    other = store.encoder(spec_of(weights="11" * 32))
    other.append(keys, embeddings, [""] * 5, meta={})
    (other.folder / "commits" / f"part-{'0' * 16}.h5.json").write_text("")
    write_sealed(other.folder / "commits" / f"part-{'0' * 16}.h5.json", {"format": 99})
    assert (
        encoder_status(
            FeatureStore(folder), "image", "lite0", spec=spec_of(), keys=keys, present=np.ones(5, bool)
        ).missing
        == 3
    )
    (other.folder / "encoder.json").write_text("?")
    store = FeatureStore(folder)
    assert encoder_status(store, "image", "lite0", spec=spec_of(), keys=keys, present=np.ones(5, bool)).missing == 3
    assert len(store.problems) == 1


def test_mapped_rows_refuse_to_pretend_there_is_no_copy(folder):
    keys, embeddings = rows_of(5)
    features = filled(folder, keys, embeddings).encoder(spec_of())
    mapped = features.embeddings(features.lookup(keys))
    assert isinstance(mapped, MappedRows)
    with pytest.raises(ValueError, match="copy"):
        mapped.__array__(copy=False)
