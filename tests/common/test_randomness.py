"""Random numbers are a function of (seed, epoch, id)."""

from __future__ import annotations

import numpy as np

from mmfeat.common.randomness import epoch_order, id_numbers, mix, torch_seed
from mmfeat.common.schedule import schedule

IDS = np.array([f"{i}.jpg" for i in range(2000)], dtype=object)


def test_an_epoch_visits_the_same_ids_in_the_same_order_whatever_order_they_came_in():
    shuffled = np.random.default_rng(0).permutation(IDS)
    for epoch in (1, 2):
        first = IDS[epoch_order(id_numbers(IDS), 3, epoch)]
        assert np.array_equal(first, shuffled[epoch_order(id_numbers(shuffled), 3, epoch)])
        assert set(first) == set(IDS)


def test_seed_and_epoch_each_change_everything():
    numbers = id_numbers(IDS)
    orders = [epoch_order(numbers, seed, epoch) for seed in (0, 1) for epoch in (1, 2)]
    for i, a in enumerate(orders):
        assert all((a == b).mean() < 0.01 for b in orders[:i])
    assert len({torch_seed(seed, epoch) for seed in range(20) for epoch in range(20)}) == 400


def test_the_bits_of_mixed_numbers_are_fair_and_independent():
    numbers = id_numbers(IDS)
    a, b = (mix(numbers, 0, salt) >> np.uint64(63) for salt in (1, 2))
    for share in (a.mean(), b.mean(), (a == b).mean()):
        assert abs(share - 0.5) < 0.05


def test_the_learning_rate_rises_then_falls_to_nothing():
    shares = np.array([schedule(step, 200, 0.05) for step in range(200)])
    assert shares.argmax() in (9, 10)
    assert (np.diff(shares[:10]) > 0).all()
    assert (np.diff(shares[10:]) < 0).all()
    assert shares.min() >= 0
    assert shares.max() == 1
    assert shares[-1] < 1e-3
    assert schedule(0, 1, 0.05) == 1
