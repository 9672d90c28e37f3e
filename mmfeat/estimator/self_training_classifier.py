"""SelfTrainingFusionClassifier: self-training on unlabelled rows with scikit-learn's interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from mmfeat.common.text import counted
from mmfeat.config.schema import POLICIES, SelftrainConfig
from mmfeat.estimator.classifier import FusionClassifier
from mmfeat.selftraining.rounds import SelfTraining, self_train, with_targets


class SelfTrainingFusionClassifier(ClassifierMixin, BaseEstimator):
    """A :class:`FusionClassifier` that learns from unlabelled rows, as scikit-learn's SelfTrainingClassifier does.

    A row whose y is -1 (for multi-label data: all -1) is unlabelled; single unknown labels of a row are pseudo-labelled too.
    Rounds continue while the metric on held-out rows does not get worse. The estimator, with all its seeds, is then fitted on
    the pseudo-labels of the best round.

    Parameters
    ----------
    estimator : FusionClassifier, optional
        Cloned, and fitted after the rounds (which use linear models and, but for policy `paper`, an MLP). Its
        `validation_fraction` must hold out labelled rows to evaluate the rounds.
    policy : str
        soft, class-aware, confident, all, or paper on cached features: see `[selftrain] policy`.
    max_iter : int
        Most rounds; 0 is a supervised fit.

    Attributes
    ----------
    estimator_ : FusionClassifier
        The fitted estimator.
    classes_ : np.ndarray
        `(C,)`.
    transduction_ : np.ndarray
        Labels that the estimator was fitted on, in the form of y; -1 for unknown ones.
    labeled_iter_ : np.ndarray
        `(N,)`: 0 for a labelled row, otherwise the round of its pseudo-labels, -1 without any.
    n_iter_ : int
        Number of rounds, including a reverted one.
    termination_condition_ : str
        `max_iter`, `no_change`, `all_labeled`, or `reverted`: the last round was worse on held-out rows.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfeat import FusionClassifier, SelfTrainingFusionClassifier
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(300, 8))
    >>> y = np.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 0], axis=1).astype(int)
    >>> y[100:] = -1
    >>> model = SelfTrainingFusionClassifier(FusionClassifier(epochs=5, random_state=0), max_iter=2).fit(x, y)
    >>> model.predict(x).shape, bool((model.transduction_[:100] == y[:100]).all())
    ((300, 2), True)
    """

    def __init__(self, estimator: FusionClassifier | None = None, *, policy: str = "soft", max_iter: int = 5) -> None:
        self.estimator = estimator
        self.policy = policy
        self.max_iter = max_iter

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any) -> SelfTrainingFusionClassifier:
        """Run the rounds, then fit the estimator.

        Raises
        ------
        ValueError
            A parameter, X or y is invalid, or no labelled row is held out to evaluate the rounds.
        """
        if self.policy not in POLICIES:
            raise ValueError(f"policy = {self.policy!r}. Use one of: {', '.join(POLICIES)}")
        if isinstance(self.max_iter, bool) or not isinstance(self.max_iter, int | np.integer) or self.max_iter < 0:
            raise ValueError(f"max_iter = {self.max_iter!r}. Use a whole number from 0 on")
        estimator = FusionClassifier() if self.estimator is None else clone(self.estimator)
        known = _known(y)
        data, settings, seed = estimator.prepared(X, y, known)
        free = np.setdiff1d(np.flatnonzero((data.labels < 0).any(1).cpu().numpy()), data.val)
        done = None
        if len(free) and self.max_iter:
            if not len(data.val):
                raise ValueError("no labelled row is held out to evaluate rounds: raise validation_fraction")
            with torch.random.fork_rng(devices=[]):
                done = self_train(
                    data,
                    free,
                    SelftrainConfig(rounds=int(self.max_iter), policy=self.policy),
                    metric=estimator.metric,
                    seed=seed,
                    rule=estimator.rule(),
                )
            data = with_targets(data, free, done.targets)
        self.estimator_ = estimator.fit_on(data, settings, seed)
        self.classes_, self.n_features_in_ = estimator.classes_, estimator.n_features_in_
        self.n_iter_ = len(done.rounds) - 1 if done else 0
        self.termination_condition_ = done.ended if done else "max_iter" if len(free) else "all_labeled"
        self.transduction_, self.labeled_iter_ = _transduction(estimator, np.asarray(y), known, free=free, done=done)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """As :meth:`FusionClassifier.predict`."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """As :meth:`FusionClassifier.predict_proba`."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.predict_proba(X)

    def decision_function(self, X: Any) -> np.ndarray:
        """As :meth:`FusionClassifier.decision_function`."""
        check_is_fitted(self, "estimator_")
        return self.estimator_.decision_function(X)


def _known(y: Any) -> np.ndarray:
    """Rows with a known label, `(N,)` bool."""
    if y is None:
        raise ValueError("SelfTrainingFusionClassifier requires y to be passed, but the target y is None")
    y = np.asarray(y)
    known = (y != -1) if y.ndim == 1 else (y != -1).any(axis=1)
    if not known.any():
        raise ValueError(f"y: none of {counted(len(y), 'row')} has a known label")
    return known


def _transduction(
    estimator: FusionClassifier, y: np.ndarray, known: np.ndarray, *, free: np.ndarray, done: SelfTraining | None
) -> tuple[np.ndarray, np.ndarray]:
    """The attributes `transduction_` and `labeled_iter_`."""
    labels, labelled = y.copy(), np.where(known, 0, -1)
    if done is None or done.targets is None:
        return labels, labelled
    targets = done.targets.labels
    rows = free[(targets >= 0).any(1)]
    taught = targets[(targets >= 0).any(1)]
    if y.ndim == 2 and y.shape[1] > 1:
        labels[rows] = np.where(taught < 0, -1, taught > 0.5)
    elif taught.shape[1] == 1:
        labels[rows] = estimator.classes_[(taught[:, 0] > 0.5).astype(np.intp)].reshape(labels[rows].shape)
    else:
        labels[rows] = estimator.classes_[taught.argmax(1)].reshape(labels[rows].shape)
    labelled[rows[~known[rows]]] = done.best
    return labels, labelled
