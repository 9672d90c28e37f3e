"""FusionClassifier: the heads with scikit-learn's interface."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import ConfigError, RunError
from mmfeat.common.labels import EMPTY, decide, sigmoid
from mmfeat.common.randomness import id_numbers
from mmfeat.common.text import counted
from mmfeat.config.reader import read_settings
from mmfeat.config.schema import METRICS, FuseConfig, PredictConfig
from mmfeat.estimator.inputs import column_ranges, encoded, joined
from mmfeat.heads import HEADS, build_head, head_config
from mmfeat.heads.training.fit_heads import FitData, fit_heads
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.heads.training.members import Member

_SETTINGS = ("lr", "weight_decay", "dropout", "epochs", "patience", "batch_size", "loss", "weights")


class FusionClassifier(ClassifierMixin, BaseEstimator):
    """A fusion head on one or several embeddings of each sample, fitted with one or several seeds.

    X is a single array `(N, D)` (`modalities` may divide its columns) or a dict of arrays `(N, D_m)` by modality. In a dict,
    a row that is None or all NaN lacks that modality; a value None means that all rows lack it.

    y is `(N, K)` of 0 and 1 for multi-label data (in `fit` also -1: unknown), or `(N,)` with one of two or more classes per
    sample. Two classes have one logit, for the second class; more classes have one logit each (one versus rest).

    Parameters
    ----------
    head : str
        A name in :data:`mmfeat.heads.HEADS`; `linear` takes any input.
    modalities : dict of str to slice or (int, int), optional
        Columns of a single array by modality, in the order of the head's inputs; None: one modality.
    lr, weight_decay, dropout, epochs, patience, batch_size, loss, weights : optional
        As in `[fuse.HEAD]` of mmfeat.toml; None: the head's default.
    head_config : dict, optional
        Further settings of that table, such as `{"hidden": 256}`.
    metric : str
        Metric that the epoch is selected by, on held-out rows: samples-f1, micro-f1, macro-f1, map, loss. With one class
        per sample, samples-f1 is the accuracy.
    threshold : float
        Labels (or the second of two classes) are predicted if their probability is higher.
    empty : str
        Prediction without any label above the threshold: `most-probable` gives the top label, `none` gives no label.
        Multi-label data only.
    n_seeds : int
        Number of fits whose logits are averaged.
    validation_fraction : float
        Share of the labelled rows that is held out to select the epoch; 0, or less than one row: the last epoch is used.
        With one class per sample and enough rows, the split is stratified.
    device : str
        auto, cpu, cuda, cuda:1.
    random_state : int, RandomState or None
        Determines held-out rows and seeds: the same rows in the same order give the same model.

    Attributes
    ----------
    classes_ : np.ndarray
        `(C,)` class labels; column numbers for multi-label data.
    n_features_in_ : int
        D, the total of all modalities.
    modalities_ : dict of str to (int, int)
        Start and stop of each modality's columns.
    heads_ : list of Head
        The fitted heads, one for each seed.
    best_epochs_ : list of int
        The selected epoch of each seed, from 1.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfeat import FusionClassifier
    >>> rng = np.random.default_rng(0)
    >>> image, text = rng.normal(size=(200, 8)), rng.normal(size=(200, 4))
    >>> y = np.stack([image[:, 0] > 0, text[:, 0] > 0, image[:, 1] + text[:, 1] > 0], axis=1).astype(int)
    >>> both = np.hstack([image, text])
    >>> model = FusionClassifier("concat", modalities={"image": (0, 8), "text": (8, 12)}, epochs=5, random_state=0)
    >>> model.fit(both, y).predict_proba(both).shape
    (200, 3)
    >>> text[:100] = np.nan  # these have no text
    >>> model.fit({"image": image, "text": text}, y).predict({"image": image[:5], "text": None}).shape
    (5, 3)
    """

    def __init__(
        self,
        head: str = "linear",
        *,
        modalities: dict[str, Any] | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        dropout: float | None = None,
        epochs: int | None = None,
        patience: int | None = None,
        batch_size: int | None = None,
        loss: str | None = None,
        weights: str | None = None,
        head_config: dict[str, Any] | None = None,
        metric: str = "samples-f1",
        threshold: float = 0.5,
        empty: str = "most-probable",
        n_seeds: int = 1,
        validation_fraction: float = 0.1,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.head = head
        self.modalities = modalities
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.loss = loss
        self.weights = weights
        self.head_config = head_config
        self.metric = metric
        self.threshold = threshold
        self.empty = empty
        self.n_seeds = n_seeds
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any) -> FusionClassifier:
        """Fit the heads of all seeds.

        Raises
        ------
        ValueError
            A parameter, X or y is invalid.
        RunError
            The loss is not finite, or memory runs out.
        """
        return self.fit_on(*self.prepared(X, y))

    def prepared(self, X: Any, y: Any, known: np.ndarray | None = None) -> tuple[FitData, Any, int]:
        """The inputs of a fit: arrays with held-out rows, the head's settings, and the first seed.

        Parameters
        ----------
        known : np.ndarray, optional
            `(N,)` bool: rows whose y is read; all labels of other rows are unknown.
        """
        settings, device = self._settings(), self._device()
        x, present = self._joined(X, fitting=True)
        if known is None:
            self._kind, self.classes_, labels = encoded(y)
        else:
            self._kind, self.classes_, given = encoded(np.asarray(y)[known])
            labels = np.full((len(known), given.shape[1]), -1, np.int8)
            labels[known] = given
        if len(labels) != len(x):
            raise ValueError(f"X has {counted(len(x), 'sample')}, y has {len(labels)}: inconsistent numbers of samples")
        self._check_head(settings, labels.shape[1])
        random = check_random_state(self.random_state)
        labelled = np.flatnonzero((labels >= 0).any(1))
        if not len(labelled):
            raise ValueError(f"y: none of {counted(len(labels), 'row')} has a known label")
        train, val = self._held_out(labels, labelled, random)
        seed = int(random.randint(2**31 - 1))
        inputs, there = self._tensors(x, present, dtype=torch.float32, device=device)
        tensor = torch.as_tensor(labels, device=device)
        return (
            FitData(inputs, there, labels=tensor, numbers=id_numbers(range(len(x))), train=train, val=val),
            settings,
            seed,
        )

    def fit_on(self, data: FitData, settings: Any, seed: int) -> FusionClassifier:
        """Fit the heads of all seeds in one pass, on the inputs of :meth:`prepared`."""
        members = [Member(settings, seed + i) for i in range(int(self.n_seeds))]
        with torch.random.fork_rng(devices=[]):  # keeps torch's global random state unchanged
            fits = fit_heads(self.head, data, members, metric=self.metric, rule=self.rule())
        self.heads_ = [fit.head.cpu().double() for fit in fits]
        self.best_epochs_ = [fit.best_epoch for fit in fits]
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Mean logits over seeds, `(N, K)` float64; `(N,)` for two classes."""
        logits = self._logits(X)
        return logits[:, 0] if self._kind == "binary" else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities float64: `(N, K)` of labels, or `(N, C)` of classes, which sum to 1."""
        probs = sigmoid(self._logits(X))
        if self._kind == "binary":
            return np.hstack([1 - probs, probs])
        return probs if self._kind == "multilabel" else probs / probs.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Labels `(N, K)` int64 of 0 and 1, or `(N,)` of `classes_`."""
        probs = self.predict_proba(X)
        if self._kind == "multilabel":
            return decide(probs, self.threshold, self.empty).astype(np.int64)
        chosen = probs[:, 1] > self.threshold if self._kind == "binary" else probs.argmax(1)
        return self.classes_[np.asarray(chosen, dtype=np.intp)]

    def _logits(self, X: Any) -> np.ndarray:
        """Mean logits, computed in float64 so that a row's logits do not depend on the other rows."""
        check_is_fitted(self, "heads_")
        x, present = self._joined(X, fitting=False)
        device = self._device()
        total: Any = 0.0
        inputs, there = self._tensors(x, present, dtype=torch.float64, device=device)
        nothing = np.zeros(0, dtype=int)
        data = FitData(
            inputs, there, labels=torch.zeros(len(x), 0, device=device), numbers=nothing, train=nothing, val=nothing
        )
        for head in self.heads_:
            total = total + head_logits(copy.deepcopy(head).to(device), data).astype(np.float64)
        return total / len(self.heads_)

    def _tensors(
        self, x: np.ndarray, present: dict[str, np.ndarray], *, dtype: torch.dtype, device: torch.device
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        inputs = {
            name: torch.tensor(x[:, start:stop], dtype=dtype, device=device)
            for name, (start, stop) in self.modalities_.items()
        }
        for name, values in inputs.items():
            if not torch.isfinite(values).all():
                raise ValueError(f"X: {name!r} has values that are too large for {dtype}")
        return inputs, {name: torch.as_tensor(mask, device=device) for name, mask in present.items()}

    def _joined(self, X: Any, fitting: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """All columns `(N, D)` float64, and which rows have each modality; a fit also sets `modalities_` and D."""
        if issparse(X) or not isinstance(X, Mapping):  # a sparse matrix may be a Mapping
            x = validate_data(self, X, dtype=np.float64, reset=fitting)
            if fitting:
                self.modalities_ = column_ranges(self.modalities, x.shape[1])
            return x, {name: np.ones(len(x), dtype=bool) for name in self.modalities_}
        x, present, ranges = joined(X, None if fitting else self.modalities_)
        if fitting:
            self.modalities_, self.n_features_in_ = ranges, x.shape[1]
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        return x, present

    def _held_out(self, labels: np.ndarray, rows: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """Training rows, and held-out rows that select the epoch."""
        n_val = int(self.validation_fraction * len(rows))
        if not n_val:
            return rows, rows[:0]
        strata = None
        if self._kind != "multilabel":
            strata = labels[rows, 0] if self._kind == "binary" else labels[rows].argmax(1)
            _, counts = np.unique(strata, return_counts=True)
            if counts.min() < 2 or min(n_val, len(rows) - n_val) < len(counts):
                strata = None
        return tuple(train_test_split(rows, test_size=n_val, stratify=strata, random_state=random))

    def rule(self) -> PredictConfig:
        """The decision rule for held-out rows: that of `predict`."""
        if self._kind == "multiclass":  # no class passes, so the most probable class is predicted
            return PredictConfig(threshold=1.0, empty="most-probable")
        return PredictConfig(threshold=self.threshold, empty=self.empty if self._kind == "multilabel" else "none")

    def _settings(self) -> Any:
        """The head's settings with the given parameters, all checked."""
        if self.head not in HEADS:
            raise ValueError(f"head = {self.head!r}. Use one of: {', '.join(HEADS)}")
        for name, choices in (("metric", METRICS), ("empty", EMPTY)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r}. Use one of: {', '.join(choices)}")
        for name, low, high in (("threshold", 0, 1), ("validation_fraction", 0, 0.9), ("n_seeds", 1, 1000)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
                raise ValueError(f"{name} = {value!r}. Use a number from {low} to {high}")
        if int(self.n_seeds) != self.n_seeds:
            raise ValueError(f"n_seeds = {self.n_seeds!r}. Use a whole number")
        default = head_config(self.head, FuseConfig())
        given = {**(self.head_config or {}), **{n: getattr(self, n) for n in _SETTINGS if getattr(self, n) is not None}}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        try:
            return read_settings(
                type(default), {**dataclasses.asdict(default), **plain}, f"FusionClassifier, {self.head}"
            )
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def _check_head(self, settings: Any, n_labels: int) -> None:
        """Raise ValueError if the head does not take these inputs."""
        widths = {name: stop - start for name, (start, stop) in self.modalities_.items()}
        try:
            with torch.device("meta"):
                build_head(self.head, widths, n_classes=n_labels, config=settings)
        except RunError as error:
            raise ValueError(str(error)) from None

    def _device(self) -> torch.device:
        try:
            return torch_device(self.device)
        except ConfigError as error:
            raise ValueError(str(error)) from None
