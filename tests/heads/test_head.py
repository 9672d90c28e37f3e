"""Heads and their fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.heads import CONFIGS, WIDTHS, made, permuted

from mmfeat.common.errors import RunError
from mmfeat.config.schema import (
    PredictConfig,
)
from mmfeat.heads import HEADS, build_head, takes
from mmfeat.heads.attention import chunked
from mmfeat.heads.head import log_odds
from mmfeat.heads.training.fit_heads import fit_head
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import metrics_of


@pytest.mark.parametrize("name", HEADS)
def test_a_saved_head_is_the_same_function(name):
    data = made()
    fitted = fit_head(name, data, CONFIGS[name])
    again = build_head(name, WIDTHS, 4, CONFIGS[name])
    again.load_state_dict(fitted.head.state_dict())
    assert np.array_equal(head_logits(again, data), head_logits(fitted.head, data))


@pytest.mark.parametrize("name", HEADS)
def test_same_seed_same_head_other_seed_another(name):
    data = made()
    a, b, c = (head_logits(fit_head(name, data, CONFIGS[name], seed=s).head, data) for s in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("name", HEADS)
def test_the_order_of_the_rows_does_not_matter_to_the_last_bit(name):
    data = made(n=1200)
    data.present["text"][::7] = False
    order = np.random.default_rng(3).permutation(1200)
    a, b = fit_head(name, data, CONFIGS[name]), fit_head(name, permuted(data, order), CONFIGS[name])
    assert a.history == b.history
    assert a.best_epoch == b.best_epoch
    for key, tensor in a.head.state_dict().items():
        assert torch.equal(tensor, b.head.state_dict()[key]), key


@pytest.mark.parametrize("rule", [PredictConfig(), PredictConfig(0.8, "none"), PredictConfig(0.2)])
def test_epochs_are_chosen_by_the_rule_that_figures_and_predictions_use(rule):
    data = made()
    fitted = fit_head("concat", data, CONFIGS["concat"], rule=rule)
    figures = metrics_of(
        data.labels[data.val].numpy(),
        head_logits(fitted.head, data, data.val),
        DecisionRule(1.0, rule.untuned, rule.empty),
    )
    assert fitted.history[fitted.best_epoch - 1]["val_samples-f1"] == pytest.approx(figures.scores.samples_f1)


@pytest.mark.parametrize("lr", [1e38, 1e300])
def test_a_fit_that_becomes_no_number_names_the_setting_to_lower(lr):
    config = dataclasses.replace(CONFIGS["crossattn"], lr=lr)
    with pytest.raises(RunError, match=r"^crossattn: .*Lower fuse.crossattn.lr \(1e\+"):
        fit_head("crossattn", made(), config)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_a_fit_without_enough_memory_names_the_setting_to_lower(error, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr("mmfeat.heads.training.stack.masked_loss", fail)
    with pytest.raises(RunError, match=r"^linear: out of memory. Lower fuse.linear.batch_size \(32 now\)$"):
        fit_head("linear", made(), CONFIGS["linear"])


def test_any_other_failure_of_a_fit_stays_as_it_is(monkeypatch):
    def fail(*args):
        raise RuntimeError("shapes")

    monkeypatch.setattr("mmfeat.heads.training.stack.masked_loss", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        fit_head("linear", made(), CONFIGS["linear"])


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_a_head_takes_is_what_it_builds_with(name, n):
    widths = {f"e{i}": 8 for i in range(n)}
    config = dataclasses.replace(CONFIGS[name], **({"query": ""} if name == "crossattn" else {}))
    try:
        build_head(name, widths, 3, config)
        built = True
    except RunError:
        built = False
    assert takes(name, n) == built


def test_val_labels_choose_the_epoch_and_teach_nothing():
    data = made()
    config = dataclasses.replace(CONFIGS["concat"], patience=99)
    planted = data.labels.clone()
    planted[data.val] = 1 - planted[data.val]
    a = fit_head("concat", data, config)
    b = fit_head("concat", dataclasses.replace(data, labels=planted), config)
    assert [h["train_loss"] for h in a.history] == [h["train_loss"] for h in b.history]


def test_unknown_labels_teach_nothing():
    data = made()
    some = data.labels.clone()
    some[::2, 0] = -1
    other = some.clone()
    inputs = {n: x.clone() for n, x in data.inputs.items()}
    a = fit_head("linear", dataclasses.replace(data, labels=some), CONFIGS["linear"])
    b = fit_head("linear", dataclasses.replace(data, labels=other, inputs=inputs), CONFIGS["linear"])
    assert a.history == b.history
    all_unknown = torch.full_like(data.labels, -1)
    all_unknown[:, 1:] = data.labels[:, 1:]
    c = fit_head("linear", dataclasses.replace(data, labels=all_unknown), CONFIGS["linear"])
    assert torch.count_nonzero(c.head.output.weight[0]) == 0  # nothing is known of the first class


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_what_can_be_learnt(name):
    data = made(n=1200)
    config = dataclasses.replace(CONFIGS[name], epochs=25, lr=5e-3)
    fitted = fit_head(name, data, config)
    assert max(h["val_samples-f1"] for h in fitted.history) > 0.85


def test_folded_weights_are_the_same_function_of_raw_embeddings():
    data = made()
    data.inputs["image"].mul_(3).add_(2)
    head = fit_head("concat", data, CONFIGS["concat"]).head
    weight, bias = head.folded()
    joined = torch.cat([data.inputs["image"], data.inputs["text"]], 1)
    assert np.allclose((joined @ weight.T + bias).numpy(), head_logits(head, data), atol=1e-4)


def test_attention_looks_at_the_input():
    """Over several tokens the weights are a distribution that changes with picture and text; over one they could not."""
    head = build_head("crossattn", WIDTHS, 3, CONFIGS["crossattn"]).eval()
    assert head.sources[0].number == 3  # ceil(40 / 16)
    text, image = torch.randn(6, 12), torch.randn(6, 40)
    present = {name: torch.ones(6, dtype=torch.bool) for name in WIDTHS}
    _, weights = head.attention({"text": text, "image": image}, present)
    assert weights.shape == (6, 3, 1)
    assert torch.allclose(weights.sum(1), torch.ones(6, 1), atol=1e-6)
    assert weights.std(0).min() > 1e-4
    _, other_text = head.attention({"text": torch.randn(6, 12), "image": image}, present)
    _, other_image = head.attention({"text": text, "image": torch.randn(6, 40)}, present)
    assert not torch.allclose(weights, other_text, atol=1e-4)
    assert not torch.allclose(weights, other_image, atol=1e-4)


def test_tokens_hold_the_whole_image_in_order():
    image = torch.arange(80.0).reshape(2, 40)
    tokens = chunked(image, 3, 16)
    assert tokens.shape == (2, 3, 16)
    assert torch.equal(tokens.flatten(1)[:, :40], image)
    assert torch.equal(tokens.flatten(1)[:, 40:], torch.zeros(2, 8))


@pytest.mark.parametrize(
    ("name", "widths"),
    [("crossattn", {"image": 8}), ("crossattn", {"a": 8, "b": 8}), ("concat", {"image": 8}), ("nothing", WIDTHS)],
)
def test_inputs_that_a_head_does_not_take(name, widths):
    with pytest.raises(RunError):
        build_head(name, widths, 3, CONFIGS.get(name))


def test_log_odds_of_known_labels():
    labels = torch.tensor([[1, -1], [1, 0], [0, 1]], dtype=torch.int8)
    assert torch.allclose(log_odds(labels), torch.tensor([np.log(3 / 2), 0.0], dtype=torch.float32))
