"""Many heads in one vectorised pass: each is the head that it would be alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.heads import CONFIGS, WIDTHS, made

from mmfeat.common.labels import decide, sigmoid
from mmfeat.common.losses import class_weights
from mmfeat.config.schema import LinearConfig, MlpConfig, PredictConfig
from mmfeat.heads import HEADS, build_head
from mmfeat.heads.head import log_odds
from mmfeat.heads.noise import LEVELS, QUIET, Noise, Widths
from mmfeat.heads.training.fit_heads import FitData, fit_head, fit_heads, fit_stacks
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


def test_one_that_diverges_does_not_take_the_others_with_it():
    data = made()
    unclipped = dataclasses.replace(CONFIGS["linear"], clip=0.0)
    bad = dataclasses.replace(unclipped, lr=10.0, weight_decay=1e8)
    members = [Member(unclipped), Member(bad)]
    ((_, (good, failed)),) = list(fit_stacks("linear", data, members))
    alone = fit_head("linear", data, unclipped)
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


PAPER = {
    "lr": 0.05,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "epochs": 3,
    "batch_size": 1000,
    "weights": "paper",
    "optimizer": "adam",
    "schedule": "constant",
    "clip": 0.0,
    "standardise": False,
}


def loud() -> FitData:
    """Data whose embeddings are far from standardised, and whose gradients are larger than 1."""
    data = made()
    inputs = {name: 3 * x + 1 for name, x in data.inputs.items()}
    labels = data.labels.clone()
    labels[::2, 0] = 0  # classes of different frequency have different weights
    return dataclasses.replace(data, inputs=inputs, labels=labels, val=data.val[:0])


def by_hand(data: FitData) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the linear head after three steps of Adam at one rate, written in plain torch."""
    rows = torch.as_tensor(data.train)
    x, labels = torch.cat([data.inputs[name][rows] for name in data.widths], 1), data.labels[rows]
    weights = torch.as_tensor(class_weights(labels.numpy()))
    output = torch.nn.Linear(x.shape[1], labels.shape[1])
    with torch.no_grad():
        output.weight.zero_()
        output.bias.copy_(log_odds(labels))
    optimizer = torch.optim.Adam(output.parameters(), lr=PAPER["lr"])
    for _ in range(PAPER["epochs"]):
        optimizer.zero_grad()
        each = torch.nn.functional.binary_cross_entropy_with_logits(output(x), labels.float(), reduction="none")
        ((each * weights).sum() / (weights * torch.ones_like(each)).sum()).backward()
        optimizer.step()
    return output.weight.detach(), output.bias.detach()


def test_by_the_papers_settings_a_head_is_adam_at_one_rate_on_raw_embeddings():
    data = loud()
    head = fit_head("linear", data, LinearConfig(**PAPER)).head
    for found, wanted in zip((head.output.weight, head.output.bias), by_hand(data), strict=True):
        torch.testing.assert_close(found.detach(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer", "adamw"),
        ("schedule", "cosine"),
        ("clip", 0.01),
        ("standardise", True),
        ("weights", "none"),
    ],
)
def test_each_of_the_papers_settings_changes_the_fit(key, value):
    decayed = {**PAPER, "weight_decay": 0.1} if key == "optimizer" else PAPER  # without decay they are one optimizer
    data = loud()
    # Adam divides by the size of gradients, so that class weights change nothing in a linear model of each class.
    before, after = (
        fit_head("mlp", data, MlpConfig(**settings, hidden=8)).head for settings in (decayed, {**decayed, key: value})
    )
    assert not torch.allclose(before.output.weight, after.output.weight, atol=1e-4)


def test_standardised_heads_and_others_are_fitted_together():
    data = loud()
    configs = [LinearConfig(**{**PAPER, "standardise": scaled}) for scaled in (False, True, False)]
    together = fit_heads("linear", data, [Member(config, seed) for seed, config in enumerate(configs)])
    for seed, (config, fit) in enumerate(zip(configs, together, strict=True)):
        alone = fit_head("linear", data, config, seed=seed)
        np.testing.assert_allclose(head_logits(fit.head, data), head_logits(alone.head, data), atol=1e-4)
        assert bool((fit.head.scale_image == 1).all()) is not config.standardise
