from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from helpers.memory import peak_bytes

from mmfeat.common.errors import MissingFeatures, StoreError
from mmfeat.common.files import digest_bytes
from mmfeat.store import EncoderSpec, FeatureStore
from mmfeat.store.feature_table import FeatureTable, open_table, rows_digest
from mmfeat.store.keys import output_key

N, CLASSES = 40, ("cat", "dog", "fish")
SPECS = {
    "image": EncoderSpec("image", "lite0", "0a" * 32, {"size": 224}, "mean", {}),
    "text": EncoderSpec("text", "bert", "0b" * 32, {"max_length": 64}, "mean", {}),
}
OUTPUT = output_key("ab" * 32, CLASSES)
MATRIX = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
BAD = 7  # the row whose image cannot be decoded


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def manifest() -> dict:
    """Samples in the order of their ids; image 12 has no file, caption 3 is blank."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (N, 3)).astype(np.int8)
    labels[30:] = -1
    labels[29, 0] = -1
    keys = {name: rng.integers(0, 256, (N, 32), dtype=np.uint8) for name in SPECS}
    present = {"image": np.arange(N) != 12, "text": np.arange(N) != 3}
    return {
        "ids": np.array([f"id{i}" for i in range(N)], dtype=object),
        "row_keys": keys,
        "present": present,
        "labels": labels,
        "split": np.where(np.arange(N) % 5 == 0, "val", "train").astype(object),
        "classes": CLASSES,
    }


@pytest.fixture
def truth(manifest) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    values = {name: rng.normal(size=(N, w)).astype(np.float16) for name, w in (("image", 6), ("text", 4))}
    for name, present in manifest["present"].items():
        values[name][~present] = 0
    values["image"][BAD] = 0
    return values


@pytest.fixture
def store(tmp_path, manifest, truth) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    for name, spec in SPECS.items():
        rows = np.random.default_rng(3).permutation(np.flatnonzero(manifest["present"][name]))
        for some in np.array_split(rows, 4):
            errors = ["bad" if name == "image" and row == BAD else "" for row in some]
            store.encoder(spec).append(manifest["row_keys"][name][some], truth[name][some], errors, meta={})
    return store


def encoders(output: str | None = None) -> dict:
    return {"image": (SPECS["image"], output), "text": (SPECS["text"], None)}


def reordered(manifest: dict, rows: np.ndarray) -> dict:
    def take(value):
        if isinstance(value, dict):
            return {name: take(item) for name, item in value.items()}
        return value[rows] if isinstance(value, np.ndarray) else value

    return take(manifest)


def assert_same(a: FeatureTable, b: FeatureTable) -> None:
    for name in ("ids", "labels", "split"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("embeddings", "logits", "present", "row_keys"):
        ours, theirs = getattr(a, name), getattr(b, name)
        assert list(ours) == list(theirs)
        for key in ours:
            np.testing.assert_array_equal(np.asarray(ours[key]), np.asarray(theirs[key]))


def test_rows_stand_beside_their_ids_in_any_order(store, manifest, truth):
    store.encoder(SPECS["image"]).complete_logits(OUTPUT, CLASSES, lambda e: e @ MATRIX)
    in_order = open_table(store, encoders(OUTPUT), **manifest)
    assert (in_order.n_samples, in_order.widths) == (N, {"image": 6, "text": 4})
    for name in SPECS:
        np.testing.assert_array_equal(in_order.embeddings[name][:], truth[name])
    np.testing.assert_allclose(in_order.logits["image"][:], truth["image"].astype(np.float32) @ MATRIX, atol=1e-5)
    assert list(in_order.logits) == ["image"]
    np.testing.assert_array_equal(np.flatnonzero(~in_order.present["image"]), [BAD, 12])
    np.testing.assert_array_equal(np.flatnonzero(~in_order.present["text"]), [3])
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(N)[: N - seed]
        assert_same(open_table(store, encoders(OUTPUT), **reordered(manifest, rows)), in_order.take(rows))


def test_logits_have_the_order_of_the_tables_classes_and_those_of_others_are_left_out(store, manifest):
    store.encoder(SPECS["image"]).complete_logits(OUTPUT, CLASSES, lambda e: e @ MATRIX)
    logits = open_table(store, encoders(OUTPUT), **manifest).logits["image"]
    order = np.roll(np.arange(len(CLASSES)), 1)
    other = manifest | {"classes": tuple(CLASSES[k] for k in order), "labels": manifest["labels"][:, order]}
    found = open_table(store, encoders(OUTPUT), **other)
    np.testing.assert_array_equal(found.logits["image"][:], logits[:][:, order])
    np.testing.assert_array_equal(found.take(np.array([5, 2])).logits["image"][1], logits[2][order])
    for names in ((*CLASSES[:-1], "another"), CLASSES[:-1]):
        assert not open_table(store, encoders(OUTPUT), **manifest | {"classes": names}).logits


def test_one_picture_in_two_rows_is_one_embedding(store, manifest, truth):
    rows = np.array([4, 9, 4, 4])
    table = open_table(store, encoders(), **reordered(manifest, rows))
    np.testing.assert_array_equal(table.embeddings["image"][:], truth["image"][rows])


def test_take_of_take_is_take_and_batches_are_the_table(store, manifest):
    table = open_table(store, encoders(), **manifest)
    first, second = np.random.default_rng(0).permutation(N)[:20], np.array([3, 3, 0, 19])
    assert_same(table.take(first).take(second), table.take(first[second]))
    for size in (1, 7, N, 2 * N):
        batches = list(table.batches(size))
        assert [b.n_samples for b in batches[:-1]] == [size] * (len(batches) - 1)
        np.testing.assert_array_equal(np.concatenate([b.ids for b in batches]), table.ids)
        np.testing.assert_array_equal(
            np.concatenate([b.embeddings["text"][:] for b in batches]), table.embeddings["text"][:]
        )


def test_groups_of_rows_part_the_table(store, manifest):
    table = open_table(store, encoders(), **manifest)
    groups = [table.rows(which) for which in ("train", "val", "test", "unlabelled")]
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), table.rows("all"))
    np.testing.assert_array_equal(table.rows("unlabelled"), np.arange(30, N))
    assert len(table.rows("test")) == 0


def test_tensors_are_float32_with_zeros_where_nothing_is(store, manifest, truth):
    torch = pytest.importorskip("torch")
    rows = np.array([12, 3, BAD, 0])
    table = open_table(store, encoders(), **manifest).take(rows)
    inputs, present = table.to("cpu")
    assert list(inputs) == list(present) == ["image", "text"]
    for name, values in inputs.items():
        assert values.dtype == torch.float32
        assert present[name].dtype == torch.bool
        np.testing.assert_array_equal(values.numpy(), truth[name][rows])
        np.testing.assert_array_equal(present[name].numpy(), table.present[name])
    assert present["image"].tolist() == [False, True, False, True]
    assert list(table.to("cpu", ["text"])[0]) == ["text"]
    assert table.to("cpu", []) == ({}, {})


def test_a_table_of_plain_arrays_is_a_table(store, manifest):
    pytest.importorskip("torch")
    mapped = open_table(store, encoders(), **manifest)
    arrays = {name: np.array(rows) + 1 for name, rows in mapped.embeddings.items()}
    for values in arrays.values():
        values.flags.writeable = False
    table = dataclasses.replace(mapped, embeddings=arrays)
    rows = np.array([12, 3, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs, _ = table.to("cpu")
    inputs = {name: values[rows] for name, values in inputs.items()}
    np.testing.assert_array_equal(inputs["image"].numpy()[1:], arrays["image"][rows[1:]])
    assert not inputs["image"][0].any()
    assert arrays["image"][12].all()


def test_missing_rows_are_counted_explained_and_only_if_needed(tmp_path, manifest, truth):
    store = FeatureStore(tmp_path / "features")
    old = dataclasses.replace(SPECS["image"], weights="ff" * 32)
    image, text = store.encoder(SPECS["image"]), store.encoder(SPECS["text"])
    image.append(manifest["row_keys"]["image"][:20], truth["image"][:20], [""] * 20, meta={})
    text.append(manifest["row_keys"]["text"], truth["text"], [""] * N, meta={})
    with pytest.raises(MissingFeatures) as caught:
        open_table(store, encoders(), **manifest)
    assert str(caught.value) == "features: no embeddings of 'image' for 20 of 40 rows. Run: mmfeat extract"
    store.encoder(old).append(manifest["row_keys"]["image"][:25], truth["image"][:25], [""] * 25, meta={})
    with pytest.raises(MissingFeatures, match=r"for 3 of 5 rows \(weights changed\)\. Run: mmfeat extract$"):
        open_table(store, encoders(), **manifest, need=np.array([1, 20, 21, 22, 12]))
    with pytest.raises(MissingFeatures, match=r"for 1 of 1 row\. Run"):
        open_table(store, encoders(), **manifest, need=np.array([30]))
    table = open_table(store, encoders(), **manifest, need=np.arange(20))
    assert table.present["image"].tolist() == [i < 20 and i != 12 for i in range(N)]
    assert not table.embeddings["image"][20:].any()


def test_missing_rows_of_a_damaged_file_say_so(store, manifest, tmp_path):
    victim = min((tmp_path / "features").glob("lite0-*/part-*.h5"))
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(MissingFeatures, match="damaged"):
        open_table(FeatureStore(tmp_path / "features"), encoders(), **manifest)


def test_a_sample_that_is_not_present_has_no_features_even_if_the_store_has_some(store, manifest):
    manifest["present"]["image"][5] = False
    table = open_table(store, encoders(), **manifest)
    assert not table.present["image"][5]
    assert not table.embeddings["image"][5].any()


def test_logits_are_there_if_the_needed_rows_have_them(store, manifest, truth):
    image = store.encoder(SPECS["image"])
    assert open_table(store, encoders(OUTPUT), **manifest).logits == {}
    image.complete_logits(OUTPUT, CLASSES, lambda e: e @ MATRIX)
    extra, values = np.full((1, 32), 9, np.uint8), np.ones((1, 6), np.float16)
    image.append(extra, values, [""], meta={})
    manifest["row_keys"]["image"][12] = extra
    manifest["present"]["image"][12] = True
    assert open_table(store, encoders(OUTPUT), **manifest).logits == {}
    table = open_table(store, encoders(OUTPUT), **manifest, need=np.arange(12))
    np.testing.assert_allclose(table.logits["image"][:12], truth["image"][:12].astype(np.float32) @ MATRIX, atol=1e-5)
    assert open_table(store, encoders(), **manifest).logits == {}


def test_digest_reads_content_and_not_order(store, manifest):
    table = open_table(store, encoders(), **manifest)
    rows, names = np.arange(5, 25), ["image", "text"]
    digest = table.digest(rows, names)
    shuffled = np.random.default_rng(0).permutation(N)
    assert table.digest(rows[::-1], names[::-1]) == digest
    assert table.take(shuffled).digest(np.flatnonzero(np.isin(shuffled, rows)), names) == digest
    outside = np.where(np.isin(np.arange(N), rows)[:, None], table.labels, -1)
    assert dataclasses.replace(table, labels=outside).digest(rows, names) == digest

    def changed(name: str, row: int = 9) -> str:
        other = dataclasses.replace(table, ids=table.ids.copy(), labels=table.labels.copy())
        if name == "ids":
            other.ids[row] = "other"
        elif name == "labels":
            other.labels[row, 0] ^= 1
        else:
            keys = table.row_keys[name].copy()
            keys[row, 31] ^= 1
            other = dataclasses.replace(table, row_keys={**table.row_keys, name: keys})
        return other.digest(rows, names)

    others = [table.digest(rows[1:], names), table.digest(rows, ["image"]), table.digest(rows, ["text"])]
    others += [changed(name) for name in ("ids", "labels", "image", "text")]
    assert len({digest, *others}) == len(others) + 1
    assert changed("ids", 30) == digest
    assert digest != digest_bytes(b"")


@pytest.mark.parametrize("name", ["labels", "split", "present"])
def test_what_has_another_number_of_rows_is_refused(store, manifest, name):
    table = open_table(store, encoders(), **manifest)
    value = getattr(table, name)
    shorter = {"image": value["image"][1:]} if isinstance(value, dict) else value[1:]
    with pytest.raises(ValueError, match=f"{name}.*39 rows.*40"):
        dataclasses.replace(table, **{name: shorter})


def test_digesting_many_rows_of_many_classes_takes_little_memory_beside_them():
    labels = np.zeros((200_000, 300), np.int8)
    ids, keys = np.arange(200_000).astype(object), np.zeros((200_000, 32), np.uint8)
    found = []
    assert peak_bytes(lambda: found.append(rows_digest(ids, keys, labels))) < labels.nbytes
    (first,) = found
    labels[7, 7] = 1
    assert rows_digest(ids, keys, labels) != first


def test_values_that_are_not_finite_name_the_rows_and_the_encoder():
    n = 6
    values = np.zeros((n, 3), np.float32)
    values[4, 1], values[5, 2], values[1] = np.nan, np.inf, 3e38  # the sum of the last is no number either
    everywhere = np.ones(n, dtype=bool)
    table = FeatureTable(
        ids=np.array([f"row{i}" for i in range(n)], dtype=object),
        embeddings={"image": values},
        logits={},
        tokens={},
        token_lengths={},
        present={"image": everywhere},
        row_keys={},
        labels=np.zeros((n, 1), np.int8),
        split=np.full(n, "train"),
        classes=("a",),
    )
    with pytest.raises(StoreError, match=r"'image' are not finite for 2 of 6 rows \('row4', 'row5'\)"):
        table.to("cpu")
    assert torch.isfinite(table.take(np.arange(4)).to("cpu")[0]["image"]).all()
