"""Self-training rounds: invariants."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from test_heads import CONFIGS, made

from mmfeat.config import LinearConfig, PredictConfig
from mmfeat.selftrain import rounds as module
from mmfeat.selftrain.rounds import RoundModels, self_train, with_pseudo_labels

MODELS = RoundModels(LinearConfig(epochs=4), "crossattn", CONFIGS["crossattn"])


def unlabelled_data():
    data = made(n=160)
    labels = data.labels.clone()
    labels[40:120] = -1
    return dataclasses.replace(data, labels=labels, train=np.arange(40)), np.arange(40, 120)


def run(data, unlabelled, rounds):
    return self_train(data, unlabelled, MODELS, rounds=rounds, metric="samples-f1", seed=0, rule=PredictConfig())


def test_zero_rounds_is_the_supervised_fit():
    data, unlabelled = unlabelled_data()
    done = run(data, unlabelled, 0)
    assert [r.number for r in done.rounds] == [0]
    assert done.pseudo_labels is None
    assert with_pseudo_labels(data, unlabelled, done.pseudo_labels) is data


def test_given_labels_never_change_and_val_never_trains(monkeypatch):
    data, unlabelled = unlabelled_data()
    seen = []

    def fit(name, part, *args, **kwargs):
        seen.append(part)
        return original(name, part, *args, **kwargs)

    original = module.fit_head
    monkeypatch.setattr(module, "fit_head", fit)
    run(data, unlabelled, 2)
    for part in seen:
        assert not set(part.train) & set(part.val)
        given = np.setdiff1d(np.arange(160), unlabelled)
        assert torch.equal(part.labels[given], data.labels[given])
        assert set(part.train) <= set(range(120))
    assert any(len(part.train) == 120 for part in seen)


def test_wrong_labels_planted_in_val_change_no_pseudo_label():
    data, unlabelled = unlabelled_data()
    fixed = dataclasses.replace(MODELS.linear, patience=99)
    models = RoundModels(fixed, "concat", dataclasses.replace(CONFIGS["concat"], patience=99, epochs=1))
    models = dataclasses.replace(models, linear=dataclasses.replace(fixed, epochs=1))
    planted = data.labels.clone()
    planted[data.val] = 1 - planted[data.val]
    first = []
    for labels in (data.labels, planted):
        one = dataclasses.replace(data, labels=labels)
        first.append(module._fused(one, models, "samples-f1", 0, PredictConfig())[unlabelled])
    assert np.array_equal(first[0], first[1])


def test_the_best_round_is_the_best_and_a_round_that_does_not_rise_is_the_last():
    data, unlabelled = unlabelled_data()
    done = run(data, unlabelled, 4)
    values = [r.figures.scores.samples_f1 for r in done.rounds]
    assert values[done.best] == max(values)
    assert all(r.accepted for r in done.rounds[: done.best + 1])
    assert all(not r.accepted for r in done.rounds[done.best + 1 :])
    assert (done.pseudo_labels is None) == (done.best == 0)
