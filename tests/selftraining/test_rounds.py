"""Self-training: invariants of the policies, the rounds and the kernel teacher."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers.heads import CONFIGS, made
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmfeat.config.schema import POLICIES, FuseConfig, PredictConfig, SelftrainConfig
from mmfeat.heads.training.fit_heads import fit_head
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.selftraining import round_models as models
from mmfeat.selftraining import rounds as module
from mmfeat.selftraining.kernel import kernel_logits
from mmfeat.selftraining.policies import Targets, expected_prior, expected_threshold, soft_targets, targets_of
from mmfeat.selftraining.rounds import agreement, is_accepted, self_train, with_targets
from mmfeat.selftraining.saved_rounds import kept_in

RULE = PredictConfig()

# policies

N, K = 12, 3
PROBS = arrays(np.float64, (N, K), elements=st.floats(0, 1))
GIVEN = arrays(np.int8, (N, K), elements=st.sampled_from([-1, -1, 0, 1]))
PRIOR = arrays(np.float64, (K,), elements=st.floats(0.01, 0.9))


@pytest.mark.parametrize("policy", POLICIES)
@given(probs=PROBS, labels=GIVEN, prior=PRIOR)
def test_given_labels_never_change_and_targets_are_probabilities_or_unknown(policy, probs, labels, prior):
    found = targets_of(SelftrainConfig(policy=policy), probs, prior, labels=labels, rule=RULE)
    known = labels >= 0
    assert np.array_equal(found.labels[known], labels[known])
    free = found.labels[~known]
    assert ((free == -1) | ((free >= 0) & (free <= 1))).all()
    if policy != "soft":
        assert np.isin(free, (-1, 0, 1)).all()
    if found.weights is not None:
        assert (found.weights[known] == 1).all()
        assert ((found.weights > 0) & (found.weights <= 1)).all()


@pytest.mark.parametrize("policy", POLICIES)
@given(probs=PROBS, prior=PRIOR, data=st.data())
def test_a_row_is_taught_the_same_wherever_it_stands(policy, probs, prior, data):
    order = data.draw(st.permutations(range(N)))
    config, none = SelftrainConfig(policy=policy), np.full((N, K), -1)
    one = targets_of(config, probs, prior, labels=none, rule=RULE).labels
    assert np.allclose(targets_of(config, probs[order], prior, labels=none, rule=RULE).labels, one[order])


@pytest.mark.parametrize("policy", ["confident", "class-aware", "soft"])
@given(probs=PROBS, prior=PRIOR)
def test_of_two_rows_the_more_probable_is_never_taught_less(policy, probs, prior):
    labels = targets_of(SelftrainConfig(policy=policy), probs, prior, labels=np.full((N, K), -1), rule=RULE).labels
    taught = np.where(labels < 0, 0.5, labels)
    for k in range(K):
        assert (np.diff(taught[np.argsort(probs[:, k], kind="stable"), k]) >= -1e-6).all()


def test_class_aware_expects_as_many_positives_as_the_prior_says():
    probs = np.random.default_rng(0).random((1000, 2)) * [1, 0.01]  # of the second class nothing passes 1/2
    found = targets_of(
        SelftrainConfig(policy="class-aware"), probs, np.array([0.2, 0.2]), labels=np.full((1000, 2), -1), rule=RULE
    )
    assert np.allclose((found.labels == 1).mean(0), 0.15, atol=0.01)
    assert np.allclose((found.labels == 0).mean(0), 0.7, atol=0.01)


def test_soft_targets_of_a_timid_teacher_are_moved_and_keep_the_order():
    probs = np.linspace(0.001, 0.45, 100)[:, None]
    soft = soft_targets(probs, np.array([0.2]))
    assert 0 < (soft > 0.5).mean() < 0.2  # none before
    assert (np.diff(soft[:, 0]) > 0).all()


def test_thresholds_and_priors_without_rows_or_positives():
    assert expected_threshold(np.zeros((0, 2)), np.array([0.5, 0.1])).tolist() == [1, 1]
    assert np.allclose(expected_prior(np.array([[1, -1], [0, -1]])), [0.5, 0.5])


# the fit on soft and weighted targets


def test_weights_of_one_are_none_and_of_nearly_zero_hide_a_label():
    data = made(n=120)
    config = CONFIGS["concat"]

    def logits(labels, weights=None):
        part = dataclasses.replace(data, labels=labels, weights=weights)
        return head_logits(fit_head("concat", part, config).head, data)

    labels, ones = data.labels.float(), torch.ones(data.labels.shape)
    plain = logits(labels)
    assert np.allclose(plain, logits(labels, ones), atol=1e-5)
    hidden, weights = labels.clone(), ones.clone()
    rows = data.train[::2]
    hidden[rows, 0], weights[rows, 0] = -1, 1e-9
    assert np.allclose(logits(hidden)[:, 1:], logits(labels, weights)[:, 1:], atol=0.05)
    assert not np.allclose(plain[:, 0], logits(labels, weights)[:, 0], atol=1e-3)


# the kernel teacher


def test_the_kernel_learns_reads_no_val_label_and_takes_rows_in_any_order():
    data, _ = unlabelled_data()
    found = kernel_logits(data)
    truth = made(n=160).labels.numpy()
    rest = np.arange(40, 120)
    right = np.mean(
        [found[rest][truth[rest][:, k] == 1, k].mean() - found[rest][truth[rest][:, k] == 0, k].mean() for k in (0, 1)]
    )
    assert right > 0
    planted = data.labels.clone()
    planted[data.val] = 1 - planted[data.val]
    assert np.array_equal(found, kernel_logits(dataclasses.replace(data, labels=planted)))
    assert np.array_equal(found, kernel_logits(dataclasses.replace(data, train=data.train[::-1].copy())))


def test_a_class_without_any_label_leaves_the_kernel_finite():
    data, _ = unlabelled_data()
    labels = data.labels.clone()
    labels[:, 0], labels[:, 1] = -1, 0
    assert np.isfinite(kernel_logits(dataclasses.replace(data, labels=labels))).all()


# rounds


def unlabelled_data():
    data = made(n=160)
    labels = data.labels.clone()
    labels[40:120] = -1
    return dataclasses.replace(data, labels=labels, train=np.arange(40)), np.arange(40, 120)


def run(data, unlabelled, rounds=2, policy="soft", **more):
    config = SelftrainConfig(rounds=rounds, policy=policy)
    return self_train(data, unlabelled, config, metric="samples-f1", seed=0, rule=RULE, **more)


def test_zero_rounds_is_the_supervised_fit():
    data, unlabelled = unlabelled_data()
    done = run(data, unlabelled, 0)
    assert [r.number for r in done.rounds] == [0]
    assert done.targets is None
    assert with_targets(data, unlabelled, done.targets) is data
    alone = fit_head("mlp", dataclasses.replace(data, val=data.val[:0]), models.for_rows(models.MLP, 40))
    assert np.array_equal(done.logits, head_logits(alone.head, data))


@pytest.mark.parametrize(("n_rows", "size", "epochs"), [(20, 32, 40), (900, 32, 17), (16800, 512, 15), (10**6, 512, 4)])
def test_settings_of_rounds_depend_on_the_number_of_rows(monkeypatch, n_rows, size, epochs):
    monkeypatch.setattr(models, "MOST_EPOCHS", 40)
    found = models.for_rows(models.MLP, n_rows)
    assert (found.batch_size, found.epochs) == (size, epochs)
    assert (found.lr > models.MLP.lr) == (size > 256)


@pytest.mark.parametrize("policy", POLICIES)
def test_given_labels_never_change_and_val_never_trains(monkeypatch, policy):
    data, unlabelled = unlabelled_data()
    seen = []

    def fit(name, part, *args, **kwargs):
        seen.append(part)
        return original(name, part, *args, **kwargs)

    original = models.fit_head
    monkeypatch.setattr(models, "fit_head", fit)
    run(data, unlabelled, 2, policy)
    for part in seen:
        assert not set(part.train) & set(part.val)
        given = np.setdiff1d(np.arange(160), unlabelled)
        assert torch.equal(part.labels[given].float(), data.labels[given].float())
        assert set(part.train) <= set(range(120))
    assert any(len(part.train) > 40 for part in seen)


@pytest.mark.parametrize("policy", POLICIES)
def test_wrong_labels_planted_in_val_change_no_pseudo_label(monkeypatch, policy):
    data, unlabelled = unlabelled_data()
    monkeypatch.setattr(module, "is_accepted", lambda difference, first: True)  # val judges nothing here
    planted = data.labels.clone()
    planted[data.val] = 1 - planted[data.val]
    first, second = (
        run(dataclasses.replace(data, labels=labels), unlabelled, 2, policy) for labels in (data.labels, planted)
    )
    assert first.rounds[0].metrics.scores.samples_f1 != second.rounds[0].metrics.scores.samples_f1
    assert first.best == second.best > 0
    assert np.array_equal(first.targets.labels, second.targets.labels)
    assert np.array_equal(first.logits, second.logits)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_labelled_in_part_is_taught_what_it_lacks_and_trains_once(policy):
    data, unlabelled = unlabelled_data()
    labels = data.labels.clone()
    labels[:10, 0] = -1
    data, free = dataclasses.replace(data, labels=labels), np.concatenate([np.arange(10), unlabelled])
    probs, prior = np.full((len(free), labels.shape[1]), 0.9), np.full(labels.shape[1], 0.5)
    targets = targets_of(SelftrainConfig(policy=policy), probs, prior, labels=labels[free].numpy(), rule=RULE)
    part = with_targets(data, free, targets)
    assert sorted(part.train) == list(range(120 if (targets.labels[10:] >= 0).any() else 40))
    assert torch.equal(part.labels[:10, 1:], labels[:10, 1:].float())
    assert (part.labels[:10, 0] >= 0).all() == (targets.labels[:10, 0] >= 0).all()
    one = run(data, free, 1, policy).rounds[1]
    assert one.n_pseudo <= len(unlabelled)
    assert one.n_yes[1] + one.n_yes[2] <= 2 * len(unlabelled)  # of the ten these were given


def test_truth_is_compared_with_and_not_read():
    data, unlabelled = unlabelled_data()
    truth = made(n=160).labels.numpy()[unlabelled]
    with_truth, without = run(data, unlabelled, truth=truth), run(data, unlabelled)
    assert np.array_equal(with_truth.logits, without.logits)
    assert with_truth.rounds[1].truth is not None
    assert without.rounds[1].truth is None


def test_the_first_reverted_round_is_the_last_and_a_policy_that_hurts_ends_supervised(monkeypatch):
    data, unlabelled = unlabelled_data()
    alone = run(data, unlabelled, 0)

    def wrong(config, probs, prior, labels, rule):
        return Targets((probs < 0.5).astype(np.float32))

    monkeypatch.setattr(module, "targets_of", wrong)
    done = run(data, unlabelled, 4)
    assert [r.accepted for r in done.rounds] == [True, False]
    assert (done.best, done.targets, done.ended) == (0, None, "reverted")
    assert np.array_equal(done.logits, alone.logits)


def test_what_is_beyond_noise():
    assert is_accepted((0.01, -0.1, 0.12), first=False)
    assert is_accepted((-0.01, -0.05, 0.03), first=True)
    assert not is_accepted((-0.01, -0.05, 0.03), first=False)
    assert not is_accepted((-0.03, -0.05, -0.01), first=True)
    assert not is_accepted((0.0, 0.0, 0.0), first=False)


def test_agreement_counts_only_what_both_know():
    a, b = np.array([[1, -1, 0]]), np.array([[1, 1, -1]])
    assert agreement(a, b) == 1
    assert agreement(np.zeros((2, 2)), np.zeros((2, 2))) == 1
    assert agreement(np.array([[1, 1]]), np.array([[1, 0]])) == pytest.approx(2 / 3)


# the paper's rounds


def fused_by_hand(data, names):
    """The mean of the logits of heads that are fitted on their own, with the settings of the rounds."""
    alone, found = dataclasses.replace(data, val=data.val[:0]), []
    for name, part in names.items():
        config = models.for_rows(FuseConfig().settings_of(name.partition(" ")[0]), len(data.train))
        part = alone.only(*part)
        found.append(head_logits(fit_head(name.partition(" ")[0], part, config).head, part))
    return sum(found) / len(found)


@pytest.mark.parametrize("teacher", ["fm1", "fm3"])
def test_the_papers_teacher_is_the_mean_of_the_modalities_and_for_fm3_of_cross_attention(teacher):
    data, unlabelled = unlabelled_data()
    config = SelftrainConfig(rounds=0, policy="paper", teacher=teacher)
    done = self_train(data, unlabelled, config, metric="samples-f1", seed=0, rule=RULE)
    parts = {"linear image": ["image"], "linear text": ["text"]}
    parts |= {"crossattn": ["image", "text"]} if teacher == "fm3" else {}
    np.testing.assert_allclose(done.logits, fused_by_hand(data, parts), atol=1e-5)


def certain(labels, sign=1.0):
    """Logits that say these labels, or the opposite."""
    return sign * np.where(labels == 1, 4.0, -4.0).astype(np.float32)


class Refits:
    """Encoders that say the given logits when they are fine-tuned; counts the fine-tunings."""

    def __init__(self, data, *outputs):
        self.data, self.outputs, self.targets = data, outputs, []

    def __call__(self, number, targets):
        self.targets.append(targets.labels)
        outputs = self.outputs[min(len(self.targets), len(self.outputs)) - 1]
        return module.Refitted(data=self.data, outputs=outputs)


def test_the_fused_score_judges_a_round_of_the_paper_and_not_that_of_a_part():
    data, unlabelled = unlabelled_data()
    truth = made(n=160).labels.numpy()
    noise = np.random.default_rng(0).normal(size=truth.shape).astype(np.float32)
    good, bad = 0.5 * certain(truth) + noise, certain(truth, -1)
    first = {"image": noise, "text": good}
    worse = {"image": certain(truth), "text": 2 * bad}  # the image rises to all right, the mean falls to all wrong
    done = run(data, unlabelled, 2, "paper", outputs=first, refit=Refits(data, worse))
    assert [r.accepted for r in done.rounds] == [True, False]
    assert done.ended == "reverted"
    better = {"image": bad, "text": 2 * certain(truth)}  # the image falls to all wrong, the mean rises to all right
    done = run(data, unlabelled, 1, "paper", outputs=first, refit=Refits(data, better))
    assert [r.accepted for r in done.rounds] == [True, True]
    assert done.rounds[1].metrics.scores.map == 1
    np.testing.assert_allclose(done.logits, (better["image"] + better["text"]) / 2, atol=1e-6)


def test_the_papers_first_round_must_improve_too():
    data, unlabelled = unlabelled_data()
    same = dict.fromkeys(("image", "text"), certain(made(n=160).labels.numpy()))
    done = run(data, unlabelled, 2, "paper", outputs=same, refit=Refits(data, same))
    assert [(r.accepted, r.refitted) for r in done.rounds] == [(True, False), (False, True)]


def test_encoders_are_not_fine_tuned_again_until_a_pseudo_label_changes(monkeypatch):
    monkeypatch.setattr(module, "is_accepted", lambda difference, first: True)
    data, unlabelled = unlabelled_data()
    truth = made(n=160).labels.numpy()
    first, second = (dict.fromkeys(("image", "text"), certain(truth, sign)) for sign in (-1.0, 1.0))
    refits = Refits(data, second)
    done = run(data, unlabelled, 5, "paper", outputs=first, refit=refits)
    assert len(refits.targets) == 2  # on the labels of round 0, and on those of round 1, which round 2 gives again
    assert done.ended == "no_change"
    assert len(done.rounds) == 3


def test_the_papers_pseudo_labels_are_the_fused_predictions_of_every_row():
    data, unlabelled = unlabelled_data()
    low = np.full((160, data.labels.shape[1]), -3.0, np.float32)
    low[:, 1] = -1.0  # nothing passes one half: the most probable class (P8)
    refits = Refits(data, {"image": low, "text": low})
    run(data, unlabelled, 1, "paper", outputs={"image": low, "text": low - 1}, refit=refits)
    (given,) = refits.targets
    assert given.shape == (len(unlabelled), data.labels.shape[1])
    assert (given[:, 1] == 1).all()
    assert (np.delete(given, 1, axis=1) == 0).all()


@pytest.mark.parametrize("policy", ["soft", "all", "paper"])
def test_an_interrupted_self_training_goes_on_and_ends_the_same(tmp_path, monkeypatch, policy):
    data, unlabelled = unlabelled_data()
    whole = run(data, unlabelled, 3, policy)
    original, calls = models.RoundModels.trained, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(models.RoundModels, "trained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(data, unlabelled, 3, policy, memory=kept_in(tmp_path))
    monkeypatch.setattr(models.RoundModels, "trained", original)
    (tmp_path / "round-1.npz").write_bytes(b"damaged")
    again = run(data, unlabelled, 3, policy, memory=kept_in(tmp_path))
    assert np.array_equal(again.logits, whole.logits)
    assert [r.difference for r in again.rounds] == [r.difference for r in whole.rounds]

    def never(*args):
        raise AssertionError

    monkeypatch.setattr(models.RoundModels, "trained", never)
    assert np.array_equal(run(data, unlabelled, 3, policy, memory=kept_in(tmp_path)).logits, whole.logits)
