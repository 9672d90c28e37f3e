"""Many requests as one batch: each is answered for itself, and what fails fails alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfeat.serving.gathering import Gatherer


@given(st.lists(st.sampled_from(["fine", "broken", "poison"]), max_size=40), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_every_answer_goes_to_its_own_request(kinds, max_batch):
    sizes = []

    def prepare(asked):
        if asked[1] == "broken":
            raise ValueError(asked[0])
        return asked

    def run(items):
        sizes.append(len(items))
        if any(kind == "poison" for _, kind in items):
            raise RuntimeError([row for row, kind in items if kind == "poison"])
        return [row * 10 for row, _ in items]

    gatherer = Gatherer(prepare, run, max_batch=max_batch)
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(gatherer.submit, enumerate(kinds)))
    gatherer.close()
    for row, (kind, future) in enumerate(zip(kinds, futures, strict=True)):
        if kind == "fine":
            assert future.result(0) == row * 10
        else:
            wanted = {"broken": ValueError(row), "poison": RuntimeError([row])}[kind]
            assert repr(future.exception(0)) == repr(wanted)
    assert all(size <= max_batch for size in sizes)


def test_what_comes_while_a_batch_runs_is_the_next_batch():
    started, go = threading.Event(), threading.Event()
    batches = []

    def run(items):
        batches.append(items)
        started.set()
        go.wait(10)
        return items

    gatherer = Gatherer(lambda asked: asked, run, max_batch=8)
    first = gatherer.submit(0)
    assert started.wait(10)
    rest = [gatherer.submit(i) for i in range(1, 12)]
    while gatherer._preparing:
        pass
    go.set()
    assert first.result(10) == 0
    assert [future.result(10) for future in rest] == list(range(1, 12))
    assert [len(batch) for batch in batches] == [1, 8, 3]
    gatherer.close()


def test_one_that_is_alone_waits_for_nobody():
    gatherer = Gatherer(lambda asked: asked, lambda items: items, max_batch=8, max_wait=60)
    assert gatherer.submit(5).result(10) == 5
    gatherer.close()


def test_close_answers_what_was_submitted_and_takes_no_more():
    gatherer = Gatherer(lambda asked: asked, lambda items: items, max_batch=2)
    futures = [gatherer.submit(i) for i in range(20)]
    gatherer.close()
    assert [future.result(0) for future in futures] == list(range(20))
    with pytest.raises(RuntimeError):
        gatherer.submit(0)


def test_answers_that_are_not_as_many_as_items_reach_nobody():
    gatherer = Gatherer(lambda asked: asked, lambda items: [], max_batch=4)
    with pytest.raises(RuntimeError, match="0 answers to 1"):
        gatherer.submit(1).result(10)
    gatherer.close()


def test_a_cancelled_request_disturbs_no_other():
    hold = threading.Event()
    gatherer = Gatherer(lambda asked: hold.wait(10) and asked, lambda items: items, max_batch=4)
    futures = [gatherer.submit(i) for i in range(1, 30)]
    assert futures[-1].cancel()
    hold.set()
    assert [future.result(10) for future in futures[:-1]] == list(range(1, 29))
    gatherer.close()


def test_a_failure_keeps_nothing_of_what_it_failed_on():
    import gc
    import weakref

    class Large:
        pass

    kept = []

    def prepare(asked):
        large = Large()
        kept.append(weakref.ref(large))
        raise ValueError("odd")

    gatherer = Gatherer(prepare, list, max_batch=4)
    gc.disable()
    try:
        for _ in range(5):
            future = gatherer.submit(1)
            with pytest.raises(ValueError, match="odd"):
                future.result(10)
            del future
        gatherer.close()
        assert [one() for one in kept] == [None] * 5
    finally:
        gc.enable()
