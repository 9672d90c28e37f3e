"""Extraction with an encoder that needs no torch: only what is missing, in any company, whatever happens."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers.fakes import SPEC, TOKENS, FakeEncoder, embedding_of, keys_of, run, sample_of, tokens_of

from mmfeat.common import verified
from mmfeat.common.errors import EncoderError, StoreError
from mmfeat.encoders.batches import UnreadSample
from mmfeat.extraction import Extraction, in_shard, writer
from mmfeat.store import FeatureStore


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(verified, "user_cache_path", lambda name: tmp_path / "cache" / name)
    return FeatureStore(tmp_path / "features")


def assert_whole(store: FeatureStore, n: int, tokens: bool = False) -> None:
    features = FeatureStore(store.path).encoder(SPEC)
    found = features.lookup(keys_of(n))
    assert found.good.all()
    np.testing.assert_array_equal(features.embeddings(found)[:], [embedding_of(sample_of(i)) for i in range(n)])
    if tokens:
        held = features.lookup_tokens(TOKENS, keys_of(n))
        values, lengths = features.tokens(TOKENS, held)
        for i in range(n):
            wanted, length = tokens_of(sample_of(i))
            assert lengths[i] == length
            np.testing.assert_array_equal(values[i][:length], wanted[:length])
            assert not values[i][length:].any()


def test_advice_on_speed_is_for_images_that_wait_for_long():
    waiting = {"decoding": 8.0, "encoding": 4.0, "writing": 0.1}
    images = {"decoded": True, "faster_decoding": ", or smaller images"}
    assert Extraction("image", encoded=500, shares=waiting, **images).advice == (
        "decoding is the bottleneck. Use more CPU cores, or smaller images"
    )
    assert Extraction("words", encoded=500, shares=waiting).advice == ""
    short = {name: seconds / 10 for name, seconds in waiting.items()}
    assert Extraction("image", encoded=500, shares=short, **images).advice == ""
    writing = {"decoding": 1.0, "encoding": 9.0, "writing": 4.0}
    assert "the disk is the bottleneck" in Extraction("words", encoded=500, shares=writing).advice


def test_only_what_is_missing_is_encoded(store):
    assert run(store, 20).encoded == 20
    encoder = FakeEncoder()
    result = run(store, 30, encoder)
    assert (result.cached, result.encoded) == (20, 10)
    assert sorted(encoder.encoded) == sorted(sample_of(i) for i in range(20, 30))
    assert run(store, 30, FakeEncoder(memory=0)).encoded == 0
    assert_whole(store, 30)


def test_extraction_and_its_fake_import_no_torch():
    code = "import sys, mmfeat.extraction, mmfeat.workflows.extract, mmfeat.workflows.store\n"
    code += "heavy = {'torch', 'timm', 'transformers'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_shards_share_the_rows_out(store, n):
    masks = [in_shard(keys_of(200), (k, n)) for k in range(1, n + 1)]
    assert (np.sum(masks, 0) == 1).all()
    assert n == 1 or max(mask.sum() for mask in masks) < 200
    results = [run(store, 200, shard=(k, n)) for k in range(1, n + 1)]
    assert sum(one.encoded for one in results) == 200
    for one in results:
        assert one.cached + one.encoded + one.left + one.repeated == 200
    assert results[-1].left == 0
    assert_whole(store, 200)


def test_two_extractions_at_once(store):
    threads = [threading.Thread(target=run, args=(FeatureStore(store.path), 100, FakeEncoder(0.002))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_whole(store, 100)
    assert store.problems == []


@pytest.mark.parametrize("memory", [1, 3, 5])
def test_a_batch_that_is_too_large_is_halved_and_every_row_stays_in_place(store, memory):
    encoder = FakeEncoder(memory=memory)
    result = run(store, 37, encoder, batch_size=16)
    assert max(encoder.batches) <= memory
    assert result.batch_size <= memory
    assert result.encoded == 37
    assert_whole(store, 37)


class AtOnce:
    """An engine that encodes four batches at a time; the later ones are done first."""

    at_once = 4

    def __init__(self, encoder: FakeEncoder) -> None:
        self.encoder, self.running, self.most, self.lock = encoder, 0, 0, threading.Lock()

    def encode(self, inputs):
        with self.lock:
            self.running += 1
            self.most, position = max(self.most, self.running), self.running
        time.sleep(0.02 / position)
        try:
            return self.encoder.encode(inputs, "cpu")
        finally:
            with self.lock:
                self.running -= 1


@pytest.mark.parametrize("memory", [4, 10**9])
def test_several_batches_at_a_time_keep_every_row_in_its_place(store, memory):
    encoder = FakeEncoder(memory=memory)
    engine = AtOnce(encoder)
    assert run(store, 100, encoder, engine=engine).encoded == 100
    assert 1 < engine.most <= engine.at_once
    assert_whole(store, 100)


def test_an_error_in_one_of_several_batches_keeps_those_before_it(store):
    class Broken(FakeEncoder):
        def encode(self, inputs, *more):
            if sample_of(50) in inputs["samples"]:
                raise ZeroDivisionError
            return super().encode(inputs, *more)

    with pytest.raises(ZeroDivisionError):
        run(store, 100, engine=AtOnce(Broken()))
    assert store.encoder(SPEC).lookup(keys_of(100)).good[:48].all()


def test_a_sample_that_is_too_large_alone_is_one_line(store):
    with pytest.raises(EncoderError, match="a single sample is too large"):
        run(store, 5, FakeEncoder(memory=0))


def test_another_failure_of_the_encoder_is_not_taken_for_one_of_memory(store):
    class Broken(FakeEncoder):
        def encode(self, *_):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(store, 5, Broken())


def odd_reader(row: int) -> bytes:
    if row == 7:
        raise UnreadSample("refused")
    return b"odd" if row == 3 else sample_of(row)


def test_odd_samples_are_recorded_with_their_reason_and_all_others_are_in_place(store):
    result = run(store, 20, read=odd_reader)
    assert (result.encoded, result.unreadable, result.unread) == (18, 2, {7: "refused"})
    features = store.encoder(SPEC)
    assert features.errors_of(keys_of(20)) == {3: "ValueError: odd"}
    found = features.lookup(keys_of(20))
    assert np.flatnonzero(~found.good).tolist() == [3, 7]
    np.testing.assert_array_equal(
        features.embeddings(found)[found.good], [embedding_of(sample_of(i)) for i in range(20) if i not in (3, 7)]
    )
    again = FakeEncoder()
    assert run(store, 20, again).encoded == 1  # what could not be read is tried again, what is no image is not
    assert again.encoded == [sample_of(7)]


def test_stopping_at_the_first_odd_sample_keeps_what_was_encoded(store):
    def stop(row: int, reason: str) -> None:
        raise StoreError(f"{row}: {reason}")

    with pytest.raises(StoreError, match="3: ValueError: odd"):
        run(store, 40, read=odd_reader, batch_size=2, on_error=stop)
    found = store.encoder(SPEC).lookup(keys_of(40))
    assert found.good.sum() >= 2


def test_tokens_asked_for_later_are_added_and_nothing_else_is_written(store):
    run(store, 20)
    before = sorted(path.name for path in store.encoder(SPEC).folder.glob("part-*.h5"))
    result = run(store, 25, tokens=TOKENS)
    assert (result.cached, result.encoded, result.tokens) == (20, 5, 20)
    assert set(before) < {path.name for path in store.encoder(SPEC).folder.glob("part-*.h5")}
    assert_whole(store, 25, tokens=True)
    assert run(store, 25, FakeEncoder(memory=0), tokens=TOKENS).tokens == 0
    assert run(store, 25, FakeEncoder(memory=0)).encoded == 0


def test_what_cannot_be_written_ends_the_extraction(store, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "SEGMENT_ROWS", 4)
    monkeypatch.setattr("mmfeat.store.segments.write_atomic", refuse)
    encoder = FakeEncoder()
    with pytest.raises(StoreError, match="No space left on device"):
        run(store, 200, encoder, batch_size=4)
    assert len(encoder.encoded) < 200


def test_memory_is_bounded_by_parts(store, monkeypatch):
    """At most two parts are held at a time, however slow the disk is."""
    monkeypatch.setattr(writer, "SEGMENT_ROWS", 8)
    held, most = [], 0
    write = writer.SegmentWriter._write

    def slow(self, batches, undecodable):
        nonlocal most
        held.append(1)
        most = max(most, len(held))
        write(self, batches, undecodable)
        held.pop()

    monkeypatch.setattr(writer.SegmentWriter, "_write", slow)
    run(store, 100)
    assert most == 1
    assert_whole(store, 100)
