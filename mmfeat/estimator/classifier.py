"""The fit of all heads behind scikit-learn's interface."""

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
from mmfeat.heads.training.fit_heads import FitData, fit_heads, head_logits
from mmfeat.heads.training.members import Member

_SETTINGS = ("lr", "weight_decay", "dropout", "epochs", "patience", "batch_size", "loss", "weights")


class FusionClassifier(ClassifierMixin, BaseEstimator):
    """A head of mmfeat on one or more embeddings of each sample, fitted over several seeds.

    X is a single array `(N, D)`, whose columns `modalities` may divide, or, for `fit` and the predictions, a dict of
    arrays `(N, D_m)` by modality. Of a dict a row that is None, or NaN throughout, lacks that modality; a value that is
    None lacks it for all rows.

    y is `(N, K)` of 0 and 1 for several labels a sample (in `fit` also -1: not known), or `(N,)` of any two or more
    classes, one a sample: of two classes the second has one logit, more have one each, against the rest.

    Parameters
    ----------
    head : str
        A name of :data:`mmfeat.heads.HEADS`; `linear` takes any input.
    modalities : dict of str to slice or (int, int), optional
        Columns of the single array by modality, in the order of a head's inputs; None: one modality.
    lr, weight_decay, dropout, epochs, patience, batch_size, loss, weights : optional
        As in `[fuse.HEAD]` of mmfeat.toml; None: the head's default.
    head_config : dict, optional
        Further settings of that table, such as `{"hidden": 256}`.
    metric : str
        What the epoch is chosen for on held-out rows: samples-f1, micro-f1, macro-f1, map, loss. Of one class a sample
        samples-f1 is the accuracy.
    threshold : float
        A label, or the second of two classes, needs a probability above it.
    empty : str
        Where no label passes: `most-probable` gives that one, `none` leaves the row empty. Several labels only.
    n_seeds : int
        Fits whose logits are averaged.
    validation_fraction : float
        Share of the labelled rows that is not trained on and chooses the epoch; 0, or less than one row: the last epoch
        is taken. Classes keep their shares where there is one a sample and rows enough.
    device : str
        auto, cpu, cuda, cuda:1.
    random_state : int, RandomState or None
        Fixes held-out rows and seeds: the same rows in the same order give the same model.

    Attributes
    ----------
    classes_ : np.ndarray
        `(C,)` class labels; of several labels a sample the column numbers.
    n_features_in_ : int
        D, of all modalities together.
    modalities_ : dict of str to (int, int)
        First column and the one after the last, by modality.
    heads_ : list of Head
        One for each seed.
    best_epochs_ : list of int
        Counted from 1.

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
            A parameter, X or y cannot be used.
        RunError
            The loss becomes no number, or memory runs out.
        """
        return self.fit_on(*self.prepared(X, y))

    def prepared(self, X: Any, y: Any, known: np.ndarray | None = None) -> tuple[FitData, Any, int]:
        """What a fit reads: the arrays with rows held out, the head's settings, and the first seed.

        Parameters
        ----------
        known : np.ndarray, optional
            `(N,)` bool: rows whose y is read; of the others all labels are unknown.
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
        inputs, there = self._tensors(x, present, torch.float32, device)
        tensor = torch.as_tensor(labels, device=device)
        return FitData(inputs, there, tensor, id_numbers(range(len(x))), train, val), settings, seed

    def fit_on(self, data: FitData, settings: Any, seed: int) -> FusionClassifier:
        """Fit the heads of all seeds in one pass on what :meth:`prepared` gave."""
        members = [Member(settings, seed + i) for i in range(int(self.n_seeds))]
        with torch.random.fork_rng(devices=[]):  # a fit leaves torch's own random state as it was
            fits = fit_heads(self.head, data, members, metric=self.metric, rule=self.rule())
        self.heads_ = [fit.head.cpu().double() for fit in fits]
        self.best_epochs_ = [fit.best_epoch for fit in fits]
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits `(N, K)` float64, the mean over seeds; `(N,)` for two classes."""
        logits = self._logits(X)
        return logits[:, 0] if self._kind == "binary" else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities float64: `(N, K)` of each label, or `(N, C)` of classes that sum to 1."""
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
        """Each head in float64, so that a row's logits do not depend on the rows that are beside it."""
        check_is_fitted(self, "heads_")
        x, present = self._joined(X, fitting=False)
        device = self._device()
        total: Any = 0.0
        inputs, there = self._tensors(x, present, torch.float64, device)
        nothing = np.zeros(0, dtype=int)
        data = FitData(inputs, there, torch.zeros(len(x), 0, device=device), nothing, nothing, nothing)
        for head in self.heads_:
            total = total + head_logits(copy.deepcopy(head).to(device), data).astype(np.float64)
        return total / len(self.heads_)

    def _tensors(
        self, x: np.ndarray, present: dict[str, np.ndarray], dtype: torch.dtype, device: torch.device
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
        """All columns `(N, D)` float64 and which rows have each modality; in a fit `modalities_` and D are set."""
        if issparse(X) or not isinstance(X, Mapping):  # a sparse matrix may be one
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
        """Rows that are trained on, and rows that choose the epoch."""
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
        """The decisions that held-out rows are scored by: those of `predict`."""
        if self._kind == "multiclass":  # nothing passes, so that the most probable class is said
            return PredictConfig(threshold=1.0, empty="most-probable")
        return PredictConfig(threshold=self.threshold, empty=self.empty if self._kind == "multilabel" else "none")

    def _settings(self) -> Any:
        """The head's settings with what was given filled in; checks every parameter."""
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
        """Whether the head takes these inputs."""
        widths = {name: stop - start for name, (start, stop) in self.modalities_.items()}
        try:
            with torch.device("meta"):
                build_head(self.head, widths, n_labels, settings)
        except RunError as error:
            raise ValueError(str(error)) from None

    def _device(self) -> torch.device:
        try:
            return torch_device(self.device)
        except ConfigError as error:
            raise ValueError(str(error)) from None
