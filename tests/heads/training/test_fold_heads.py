"""Heads that are each blind to a fold: what they never see, and that it does not matter how they are trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.heads import CONFIGS, made, permuted
from hypothesis import given
from hypothesis import strategies as st

from mmfeat.common.errors import DataError
from mmfeat.data.groups import groups_of
from mmfeat.data.splits import make_folds
from mmfeat.heads.training import fold_heads as folds_module
from mmfeat.heads.training.fit_heads import FitData, fit_stacks
from mmfeat.heads.training.fold_heads import fit_folds
from mmfeat.heads.training.head_logits import head_logits

SHARED = pytest.mark.parametrize(
    ("name", "shared"), [("linear", 64), ("linear", 0), ("crossattn", 0), ("crossattn", 10**6)]
)


def dealt(k: int = 3, n: int = 120) -> FitData:
    """Rows in folds; the last ten take no part."""
    data = made(n)
    fold = np.arange(n) * 7 % k
    fold[-10:] = -1
    return dataclasses.replace(data, fold=fold)


@SHARED
@pytest.mark.parametrize("weights", ["none", "paper"])
def test_logits_of_a_row_know_nothing_of_its_label(name, shared, weights, monkeypatch):
    monkeypatch.setattr(folds_module, "_SHARED", shared)
    data, config = dealt(), dataclasses.replace(CONFIGS[name], epochs=1, weights=weights)
    other = dataclasses.replace(data, labels=data.labels.clone())
    own = data.fold == 1
    other.labels[torch.from_numpy(own)] = 1 - other.labels[torch.from_numpy(own)]
    before, after = (fit_folds(name, one, config, [0, 4]).logits for one in (data, other))
    in_fold = data.fold[data.fold >= 0] == 1
    assert np.array_equal(before[:, in_fold], after[:, in_fold])
    assert not np.allclose(before[:, ~in_fold], after[:, ~in_fold])


@SHARED
def test_the_order_of_the_rows_does_not_matter(name, shared, monkeypatch):
    monkeypatch.setattr(folds_module, "_SHARED", shared)
    data = dealt(n=400)
    order = np.random.default_rng(1).permutation(400)
    moved = dataclasses.replace(permuted(data, order), fold=data.fold[order])
    a, b = (fit_folds(name, one, CONFIGS[name], [3]) for one in (data, moved))
    found = np.zeros((400, 4), np.float32)
    found[order[moved.fold >= 0]] = b.logits[0]
    assert np.array_equal(a.logits[0], found[data.fold >= 0])
    assert [f.best_epoch for f in a.fits] == [f.best_epoch for f in b.fits]


def test_every_epoch_is_chosen_by_the_other_folds():
    data = dealt()
    fits = fit_folds("linear", data, dataclasses.replace(CONFIGS["linear"], epochs=8), [0, 1]).fits
    for seed in (fits[:3], fits[3:]):
        values = np.array([[h["val_samples-f1"] for h in fit.history] for fit in seed])
        for fold, fit in enumerate(seed):
            assert fit.best_epoch == np.delete(values, fold, 0).mean(0).argmax() + 1


def test_a_seed_in_company_is_the_seed_alone():
    data = dealt()
    for name in ("linear", "crossattn"):
        both = fit_folds(name, data, CONFIGS[name], [0, 5]).logits
        np.testing.assert_allclose(fit_folds(name, data, CONFIGS[name], [5]).logits[0], both[1], atol=2e-4)


@pytest.mark.parametrize("fold", [0, 2])
def test_a_fold_that_is_left_out_teaches_what_nothing_known_teaches(fold):
    data, config = dealt(), dataclasses.replace(CONFIGS["linear"], epochs=2, weights="paper")
    rows = np.flatnonzero(data.fold >= 0)
    members = folds_module._members(
        "linear", data, config, seeds=[0], rows=rows, folds=np.arange(3), judging=[rows[:5]] * 3
    )
    blind = dataclasses.replace(data, labels=data.labels.clone(), fold=None)
    blind.labels[torch.from_numpy(data.fold == fold)] = -1
    ((_, left_out),) = list(fit_stacks("linear", data, members, choose_by=lambda values: np.arange(3.0)))
    alone = dataclasses.replace(members[fold], fold=-1, company=None, val=np.zeros(0, int))
    ((_, (known,)),) = list(fit_stacks("linear", blind, [alone]))
    assert [h["train_loss"] for h in left_out[fold].history] == pytest.approx([h["train_loss"] for h in known.history])


def test_rows_that_may_not_judge_choose_nothing(monkeypatch):
    data = dealt()
    judges = np.arange(120) < 60
    monkeypatch.setattr(folds_module, "JUDGED", 18)
    found = folds_module._judging(data, np.flatnonzero(data.fold >= 0), np.arange(3), judges)
    assert [len(rows) for rows in found] == [9] * 3
    assert all((data.fold[rows] == fold).all() and judges[rows].all() for fold, rows in enumerate(found))
    none_in_one = folds_module._judging(data, np.flatnonzero(data.fold >= 0), np.arange(3), data.fold != 1)
    assert all(len(rows) == 9 for rows in none_in_one)


def test_a_fold_head_is_the_head_that_predicts():
    data = dealt()
    fitted = fit_folds("linear", data, CONFIGS["linear"], [0])
    rows = np.flatnonzero(data.fold == 2)
    own = data.fold[data.fold >= 0] == 2
    assert np.array_equal(head_logits(fitted.fits[2].head, data, rows), fitted.logits[0, own])


@given(
    st.integers(2, 6),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=6, max_size=60),
    st.integers(0, 3),
)
def test_folds_hold_groups_whole_and_do_not_depend_on_the_order(k, rows, seed):
    names = [f"g{group}" for group, _ in rows]
    ids = [f"id{i}" for i in range(len(rows))]
    labels = np.array([[label == c for c in range(3)] for _, label in rows], np.int8)

    def folds(order):
        groups = groups_of(np.zeros((len(rows), 32), np.uint8), np.zeros(len(rows), bool), [names[i] for i in order])
        return make_folds([ids[i] for i in order], labels[order], groups, k=k, seed=seed)

    if len(set(names)) < k:
        with pytest.raises(DataError, match=rf"fuse.folds = {k} needs more than {len(set(names))} labelled row"):
            folds(np.arange(len(rows)))
        return
    found = folds(np.arange(len(rows)))
    assert set(found) == set(range(k))
    assert all(len({f for f, n in zip(found, names, strict=True) if n == name}) == 1 for name in names)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert np.array_equal(folds(order), found[order])


def test_folds_are_of_one_size_and_stratified():
    rng = np.random.default_rng(0)
    labels = (rng.random((1000, 5)) < [0.5, 0.2, 0.1, 0.05, 0.01]).astype(np.int8)
    groups = groups_of(np.zeros((1000, 32), np.uint8), np.zeros(1000, bool))
    fold = make_folds([str(i) for i in range(1000)], labels, groups, k=5, seed=0)
    assert np.bincount(fold).tolist() == [200] * 5
    counts = np.stack([labels[fold == f].sum(0) for f in range(5)])
    assert (counts.max(0) - counts.min(0)).max() <= 3


def test_what_comes_after_its_own_stop_changes_nothing_of_a_head():
    """Heads go on until the last of them stops; which rows make that one go on is nothing to the others."""
    data = dealt()
    config = dataclasses.replace(CONFIGS["linear"], epochs=30, patience=2, lr=3e-2)
    fits = fit_folds("linear", data, config, [0]).fits
    values = np.array([[h["val_samples-f1"] for h in fit.history] for fit in fits])
    for fold, fit in enumerate(fits):
        chosen, best = np.delete(values, fold, 0).mean(0), 0
        for epoch in range(1, len(chosen)):
            if chosen[epoch] > chosen[best]:
                best = epoch
            elif epoch - best >= 2:
                break
        assert fit.best_epoch == best + 1
    assert len({fit.best_epoch for fit in fits}) > 1
