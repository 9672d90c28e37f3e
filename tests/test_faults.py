"""Fault injection: whatever happens to an extraction or to the store's files, no row is ever wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import SPEC, TOKENS, FakeEncoder, embedding_of, keys_of, run, sample_of, tokens_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from test_store import CLASSES, files_of

from mmfeat.common import verified
from mmfeat.common.errors import StoreError
from mmfeat.store import FeatureStore
from mmfeat.store.commits import read_commit
from mmfeat.store.keys import output_key
from mmfeat.store.merge import merge_segments
from mmfeat.store.verify import verify_encoder

pytestmark = pytest.mark.slow

N = 400
KILLS, KILLS_A_STORE = 60, 4
FLIPS = 330


def first_of(n: int, sample: int = 1) -> list:
    """Numbers of trials: a small sample of them, and those that only the long campaigns run."""
    return [number if number < sample else pytest.param(number, marks=pytest.mark.exhaustive) for number in range(n)]


MATRIX = np.arange(8 * 3, dtype=np.float32).reshape(8, 3) - 11
OUTPUT = output_key("cd" * 32, CLASSES)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(verified, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def contents(folder: Path, n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which rows are there and the bytes of their embeddings, which have tokens and the bytes of those."""
    features = FeatureStore(folder).encoder(SPEC)
    found, held = features.lookup(keys_of(n)), features.lookup_tokens(TOKENS, keys_of(n))
    tokens, _ = features.tokens(TOKENS, held)
    return found.good, features.embeddings(found)[:], held.good, tokens[:]


# Kills


def start(folder: Path, log: Path, seconds: float) -> subprocess.Popen:
    script = Path(__file__).with_name("fakes.py")
    command = [sys.executable, str(script), str(folder), str(log), str(N), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def logged(log: Path) -> np.ndarray:
    data = log.read_bytes() if log.exists() else b""
    return np.frombuffer(data[: len(data) // 32 * 32], np.uint8).reshape(-1, 32)


@pytest.mark.parametrize("number", first_of(KILLS // KILLS_A_STORE))
def test_kills_at_random_moments(tmp_path, number):
    """After any number of kills another run completes; committed rows are never encoded again; all bytes are right."""
    chance = random.Random(number)
    whole, folder = tmp_path / "whole", tmp_path / "features"
    run(FeatureStore(whole), N, tokens=TOKENS)
    position = {key.tobytes(): i for i, key in enumerate(keys_of(N))}
    killed = 0
    for attempt in range(KILLS_A_STORE + 1):
        there, _, with_tokens, _ = contents(folder)
        complete = set(np.flatnonzero(there & with_tokens).tolist())
        log = tmp_path / f"log-{attempt}"
        process = start(folder, log, 0.01)
        if attempt < KILLS_A_STORE:
            while not log.exists() and process.poll() is None:
                time.sleep(0.002)  # until it has begun, so that no kill falls into the imports alone
            time.sleep(chance.uniform(0, 0.24))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
        else:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()
        assert not complete & {position[key.tobytes()] for key in logged(log)}
    assert killed == KILLS_A_STORE
    for mine, right in zip(contents(folder), contents(whole), strict=True):
        assert mine.tobytes() == right.tobytes()
    assert not list(folder.rglob(".tmp-*"))
    found = verify_encoder(FeatureStore(folder).encoder(SPEC).folder, lambda _: None)
    assert found.problems == []


# Flips and truncations


def filled_store(folder: Path) -> FeatureStore:
    """Embeddings with an error, tokens, logits, merged parts and parts that are not."""
    store = FeatureStore(folder)
    run(store, 40, tokens=TOKENS, read=lambda row: b"odd" if row == 5 else sample_of(row))
    features = store.encoder(SPEC)
    features.complete_logits(OUTPUT, CLASSES, lambda e: e @ MATRIX)
    run(store, 60, tokens=TOKENS, read=lambda row: b"odd" if row == 5 else sample_of(row))
    features.complete_logits(OUTPUT, CLASSES, lambda e: e @ MATRIX)
    return store


def assert_right_or_missing(folder: Path) -> bool:
    """Every row that is read is right; returns whether any is missing or anything was told."""
    keys, told = keys_of(60), False
    wanted = np.stack([embedding_of(sample_of(i)) for i in range(60)])
    try:
        features = FeatureStore(folder).encoder(SPEC)
        found = features.lookup(keys)
        np.testing.assert_array_equal(features.embeddings(found)[:][found.good], wanted[found.good])
        assert set(features.errors_of(keys)) <= {5}
        logits = features.logits(OUTPUT, found, np.flatnonzero(found.good))
        if logits is not None:
            np.testing.assert_array_equal(logits[:][found.good], (wanted @ MATRIX)[found.good])
        held = features.lookup_tokens(TOKENS, keys)
        values, lengths = features.tokens(TOKENS, held)
        for row in np.flatnonzero(held.good):
            tokens, length = tokens_of(sample_of(row))
            assert lengths[row] == length
            np.testing.assert_array_equal(values[row][:length], tokens[:length])
        whole = (
            found.good.sum() == 59 and 5 in features.errors_of(keys) and held.good.sum() == 59 and logits is not None
        )
        told = bool(features.problems) or not whole
    except StoreError as error:
        told = "\n" not in str(error)
    return told


@pytest.mark.parametrize("number", first_of(11))
def test_flipped_bytes_and_truncations_are_detected_and_never_read(tmp_path, number):
    chance = random.Random(number)
    base = tmp_path / "base"
    filled_store(base)
    assert not assert_right_or_missing(base)
    for attempt in range(FLIPS // 11):
        folder = tmp_path / f"store-{attempt}"
        shutil.copytree(base, folder)
        files = [p for p in files_of(folder, "*") if p.parent.name != "projects"]
        victim = chance.choice(files)
        data, stat = victim.read_bytes(), victim.stat()
        quiet = chance.random() < 0.4
        if quiet:  # known to be right, changed behind everybody's back, size and time put back
            assert not assert_right_or_missing(folder)
        if not quiet and chance.random() < 0.3:
            victim.write_bytes(data[: chance.randrange(len(data))])
        else:
            at = chance.randrange(len(data))
            victim.write_bytes(data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :])
        if quiet:
            os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        else:
            assert assert_right_or_missing(folder), victim
        found = verify_encoder(next(p for p in folder.iterdir() if p.name.startswith("fake-")), lambda _: None)
        assert len(found.problems) >= 1, victim
        assert assert_right_or_missing(folder), victim  # and it is not read after that
        shutil.rmtree(folder)


def test_what_was_damaged_is_encoded_again_and_nothing_else(tmp_path):
    folder = tmp_path / "features"
    store = FeatureStore(folder)
    run(store, 60, batch_size=4, tokens=TOKENS)
    for part in files_of(folder, "part-*.h5"):
        part.write_bytes(part.read_bytes()[:-1])
    encoder = FakeEncoder()
    run(FeatureStore(folder), 60, encoder, tokens=TOKENS)
    assert len(encoder.encoded) == 60
    there, values, held, _ = contents(folder, 60)
    assert there.all()
    assert held.all()
    np.testing.assert_array_equal(values, [embedding_of(sample_of(i)) for i in range(60)])


# A system that refuses


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("nth", [0, 2, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (1, 5, 9))])
def test_a_refused_write_is_one_line_and_the_next_run_completes(tmp_path, monkeypatch, number, nth):
    folder = tmp_path / "features"
    calls = 0
    replace = os.replace

    def refuse(*arguments):
        nonlocal calls
        calls += 1
        if calls > nth:
            raise OSError(number, os.strerror(number))
        return replace(*arguments)

    def extract() -> None:
        store = FeatureStore(folder)
        run(store, 40, batch_size=4, tokens=TOKENS)
        store.encoder(SPEC).complete_logits(OUTPUT, CLASSES, lambda e: e @ MATRIX)
        merge_segments(store.encoder(SPEC))

    monkeypatch.setattr("mmfeat.extraction.writer.SEGMENT_ROWS", 8)
    with monkeypatch.context() as patch:
        patch.setattr("mmfeat.common.files.os.replace", refuse)
        with pytest.raises(StoreError, match="cannot be written") as caught:
            extract()
        assert "\n" not in str(caught.value)
    extract()
    there, values, held, _ = contents(folder, 40)
    assert there.all()
    assert held.all()
    np.testing.assert_array_equal(values, [embedding_of(sample_of(i)) for i in range(40)])
    assert verify_encoder(FeatureStore(folder).encoder(SPEC).folder, lambda _: None).problems == []


def test_a_removed_part_costs_its_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("mmfeat.extraction.writer.SEGMENT_ROWS", 8)
    folder = tmp_path / "features"
    run(FeatureStore(folder), 40, batch_size=4)
    files_of(folder, "part-*.h5")[1].unlink()
    store = FeatureStore(folder)
    missing = store.encoder(SPEC).lookup(keys_of(40)).missing.sum()
    assert missing == 8
    assert len(store.problems) == 1
    encoder = FakeEncoder()
    assert run(store, 40, encoder).encoded == missing == len(encoder.encoded)
    np.testing.assert_array_equal(contents(folder, 40)[1], [embedding_of(sample_of(i)) for i in range(40)])


def test_a_part_of_another_encoder_copied_in_is_never_read(tmp_path):
    folder = tmp_path / "features"
    store = FeatureStore(folder)
    run(store, 20)
    other = store.encoder(dataclasses.replace(SPEC, weights="0b" * 32))
    other.append(keys_of(40), np.full((40, 8), 77.0), [""] * 40, meta={})
    home = store.encoder(SPEC).folder
    for file in files_of(other.folder, "part-*.h5"):
        shutil.copy(file, home)
    for file in files_of(other.folder, "commits/*.json"):
        shutil.copy(file, home / "commits")
    there, values, *_ = contents(folder, 40)
    assert there.tolist() == [True] * 20 + [False] * 20
    np.testing.assert_array_equal(values[:20], [embedding_of(sample_of(i)) for i in range(20)])
    run(FeatureStore(folder), 40)
    np.testing.assert_array_equal(contents(folder, 40)[1], [embedding_of(sample_of(i)) for i in range(40)])


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_set_back_or_forward(tmp_path, monkeypatch, years):
    folder = tmp_path / "features"
    store = FeatureStore(folder)
    reader = FeatureStore(folder).encoder(SPEC)
    run(store, 20)
    assert reader.lookup(keys_of(20)).good.all()
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + years * 365 * 86400)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + years * 365 * 86400 * 10**9)
    run(FeatureStore(folder), 40)
    commits = reader.folder / "commits"
    os.utime(commits, ns=(0, int(time.time_ns())))
    assert reader.lookup(keys_of(40)).good.all()
    merge_segments(FeatureStore(folder).encoder(SPEC))
    for features in (reader, FeatureStore(folder).encoder(SPEC)):
        found = features.lookup(keys_of(40))
        assert found.good.all()
        np.testing.assert_array_equal(features.embeddings(found)[:], [embedding_of(sample_of(i)) for i in range(40)])


def test_commits_within_one_tick_of_a_coarse_clock_are_seen(tmp_path):
    """Where times have whole seconds, the folder's time does not tell two commits apart."""
    folder = tmp_path / "features"
    store = FeatureStore(folder)
    run(store, 10)
    commits = store.encoder(SPEC).folder / "commits"
    tick = time.time_ns() // 10**9 * 10**9
    os.utime(commits, ns=(tick, tick))
    reader = FeatureStore(folder).encoder(SPEC)
    assert reader.lookup(keys_of(20)).good.sum() == 10
    run(store, 20)
    os.utime(commits, ns=(tick, tick))
    assert reader.lookup(keys_of(20)).good.all()


# Against a dictionary


class StoreMachine(RuleBasedStateMachine):
    """Several handles on one store, used in any order, are one dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, str] = {}
        self.tokens: set[int] = set()
        self.keys = keys_of(24)

    handles = Bundle("handles")

    @initialize()
    def make(self) -> None:
        import tempfile

        self.folder = Path(tempfile.mkdtemp()) / "features"

    def teardown(self) -> None:
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    @rule(target=handles)
    def open(self) -> FeatureStore:
        return FeatureStore(self.folder)

    @rule(handle=handles, numbers=st.lists(st.integers(0, 23), min_size=1, max_size=8, unique=True), bad=st.booleans())
    def append(self, handle: FeatureStore, numbers: list[int], bad: bool) -> None:
        values = np.stack([embedding_of(sample_of(i)) for i in numbers])
        errors = ["bad" if bad and i % 3 == 0 else "" for i in numbers]
        handle.encoder(SPEC).append(self.keys[numbers], values, errors, meta={})
        for i, error in zip(numbers, errors, strict=True):
            self.rows[i] = "" if self.rows.get(i) == "" else error

    @rule(handle=handles, numbers=st.lists(st.integers(0, 23), min_size=1, max_size=8, unique=True))
    def append_tokens(self, handle: FeatureStore, numbers: list[int]) -> None:
        values, lengths = zip(*(tokens_of(sample_of(i)) for i in numbers), strict=True)
        features = handle.encoder(SPEC)
        if features.lookup(self.keys).missing.all():
            return
        features.append_tokens(TOKENS, self.keys[numbers], np.stack(values), lengths=np.array(lengths), meta={})
        self.tokens |= set(numbers)

    @rule(handle=handles)
    def complete(self, handle: FeatureStore) -> None:
        features = handle.encoder(SPEC)
        features.complete_logits(OUTPUT, CLASSES, lambda e: e @ MATRIX)
        found = features.lookup(self.keys)
        if found.good.any():
            logits = features.logits(OUTPUT, found)
            wanted = np.stack([embedding_of(sample_of(i)) for i in range(24)]) @ MATRIX
            np.testing.assert_array_equal(logits[:][found.good], wanted[found.good])

    @rule(handle=handles)
    def merge(self, handle: FeatureStore) -> None:
        merge_segments(handle.encoder(SPEC))

    @rule(handle=handles)
    def look(self, handle: FeatureStore) -> None:
        features = handle.encoder(SPEC)
        found = features.lookup(self.keys)
        good = {i for i, error in self.rows.items() if not error}
        assert set(np.flatnonzero(found.good).tolist()) == good
        assert features.errors_of(self.keys) == {i: error for i, error in self.rows.items() if error}
        values = features.embeddings(found)[:]
        for i in good:
            np.testing.assert_array_equal(values[i], embedding_of(sample_of(i)))
        held = features.lookup_tokens(TOKENS, self.keys)
        assert set(np.flatnonzero(held.good).tolist()) == self.tokens
        assert features.problems == []

    @invariant()
    def nothing_unfinished(self) -> None:
        if hasattr(self, "folder") and self.folder.exists():
            for path in self.folder.rglob("commits/*.json"):
                assert (path.parents[1] / read_commit(path).file).is_file()
                json.loads(path.read_text())


TestStoreAgainstADictionary = StoreMachine.TestCase
TestStoreAgainstADictionary.settings = settings(max_examples=8, stateful_step_count=25, deadline=None)


class LongStoreMachine(StoreMachine):
    """The same, at length."""


TestStoreAtLength = LongStoreMachine.TestCase
TestStoreAtLength.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestStoreAtLength.pytestmark = [pytest.mark.exhaustive]
