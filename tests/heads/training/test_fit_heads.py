"""Many heads in one vectorised pass: each is the head that it would be alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.heads import CONFIGS, WIDTHS, made

from mmfeat.common.labels import decide, sigmoid
from mmfeat.config.schema import PredictConfig
from mmfeat.heads import HEADS, build_head
from mmfeat.heads.noise import LEVELS, QUIET, Noise, Widths
from mmfeat.heads.training.fit_heads import fit_head, fit_heads, fit_stacks
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.heads.training.members import Member, plan_stacks, rates_of
from mmfeat.metrics import scores
from mmfeat.metrics.fast_metric import metric_values


def with_rates(config, rate):
    return dataclasses.replace(config, **dict.fromkeys(rates_of(config), rate))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_in_company_is_the_head_alone(name):
    data, config = made(), CONFIGS[name]
    other = np.setdiff1d(np.arange(120), np.arange(0, 120, 3))
    members = [
        Member(dataclasses.replace(with_rates(config, rate), lr=lr, weight_decay=decay), seed, train, val)
        for rate in (0.0, 0.25)
        for lr, decay in ((1e-3, 0.0), (3e-3, 0.1))
        for seed, train, val in ((0, None, None), (5, None, None), (5, other, np.arange(0, 120, 3)))
    ]
    together = fit_heads(name, data, members)
    for i in (0, 4, 7, 11):
        one = members[i]
        own = data if one.train is None else dataclasses.replace(data, train=one.train, val=one.val)
        # Standardised over the rows of all members, as it is in their company.
        alone = fit_heads(name, data, [one, Member(one.config, 99), Member(one.config, 98, other, one.val)])[0]
        assert alone.best_epoch == together[i].best_epoch
        np.testing.assert_allclose(head_logits(alone.head, own), head_logits(together[i].head, own), atol=2e-4)
    assert not np.allclose(head_logits(together[0].head, data), head_logits(together[1].head, data), atol=2e-4)


def test_one_that_stops_early_leaves_the_others_as_they_are():
    data = made()
    config = dataclasses.replace(CONFIGS["linear"], epochs=12, patience=1)
    members = [Member(dataclasses.replace(config, lr=lr), seed) for lr in (1e-5, 1e-1) for seed in (0, 1, 2)]
    together = fit_heads("linear", data, members)
    assert len({len(fit.history) for fit in together}) > 1
    for member, fit in zip(members, together, strict=True):
        alone = fit_head("linear", data, member.config, seed=member.seed)
        assert len(alone.history) == len(fit.history)
        np.testing.assert_allclose(head_logits(alone.head, data), head_logits(fit.head, data), atol=2e-4)


def test_one_that_diverges_does_not_take_the_others_with_it(monkeypatch):
    monkeypatch.setattr("mmfeat.heads.training.stack.CLIP", float("inf"))
    data = made()
    bad = dataclasses.replace(CONFIGS["linear"], lr=10.0, weight_decay=1e8)
    members = [Member(CONFIGS["linear"]), Member(bad)]
    ((_, (good, failed)),) = list(fit_stacks("linear", data, members))
    alone = fit_head("linear", data, CONFIGS["linear"])
    assert not good.error
    assert "finite" in failed.error or "nan" in failed.error
    np.testing.assert_allclose(head_logits(good.head, data), head_logits(alone.head, data), atol=2e-4)


def test_epochs_may_be_chosen_by_the_figures_of_others():
    data, seen = made(), []

    def others(values):
        seen.append(values)
        return (values.sum() - values) / (len(values) - 1)

    members = [Member(CONFIGS["linear"], seed) for seed in range(3)]
    ((at, fits),) = list(fit_stacks("linear", data, members, choose_by=others))
    assert at == [0, 1, 2]
    chosen = np.array([(v.sum() - v) / 2 for v in seen])
    assert [fit.best_epoch for fit in fits] == (chosen.argmax(0) + 1).tolist()


def test_members_that_differ_in_shape_are_trained_in_passes_of_their_own():
    rows = np.arange(90)
    small, large = CONFIGS["crossattn"], dataclasses.replace(CONFIGS["crossattn"], hidden=48)
    members = [
        Member(dataclasses.replace(config, lr=lr), seed, rows, rows)
        for config in (small, large)
        for lr in (1e-3, 1e-2)
        for seed in (0, 1)
    ]

    def plan(parameters):
        return plan_stacks(members, torch.device("cpu"), lambda config: parameters, lambda config, n: 1)

    assert [len(stack.members) for stack in plan(1)] == [4, 4]
    assert [len(stack.members) for stack in plan(2**24)] == [1] * 8  # no room for two
    for stacks in (plan(1), plan(2**23), plan(2**24)):
        assert sorted(i for stack in stacks for i in stack.members) == list(range(8))
        for stack in stacks:
            for i, s, v in stack.places:
                assert stack.streams[s].seed == members[i].seed
                assert stack.variants[v].lr == members[i].config.lr


def test_dropout_keeps_the_mean_and_a_rate_of_zero_keeps_all():
    random = torch.randint(0, LEVELS, (500, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = torch.ones(500, 40)
    dropped = Noise({"dropout": torch.tensor(77, dtype=torch.uint8)}, {"dropout": random})(x, "dropout")
    assert (dropped == 0).float().mean().item() == pytest.approx(77 / LEVELS, abs=0.02)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert QUIET(x, "dropout") is x
    counter = Widths()
    build_head("crossattn", WIDTHS, 4, CONFIGS["crossattn"]).logits(
        {n: torch.zeros(2, w) for n, w in WIDTHS.items()}, {n: torch.ones(2, dtype=torch.bool) for n in WIDTHS}, counter
    )
    assert counter.counted["input_dropout"] == sum(WIDTHS.values())
    assert counter.counted["dropout"] == 24


@pytest.mark.parametrize("metric", ["samples-f1", "micro-f1", "macro-f1", "map", "loss"])
def test_the_figure_that_chooses_is_the_figure_of_the_tables(metric):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (60, 5)).astype(np.int8)
    labels[:, 4] = 0
    labels[:, 0] = np.maximum(labels[:, 0], 0)
    logits = rng.normal(size=(3, 60, 5)).astype(np.float32)
    rule = PredictConfig(threshold=0.6)
    expected = [scores(labels, decide(sigmoid(one), 0.6), one).value(metric) for one in logits]
    np.testing.assert_allclose(metric_values(metric, labels, logits, rule=rule), expected, rtol=1e-12)
