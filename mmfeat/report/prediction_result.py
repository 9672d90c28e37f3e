"""Predictions as a table: ids, labels and probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfeat.common.extras import require
from mmfeat.common.labels import label_names
from mmfeat.report.result import Record, TableResult

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class PredictionTable(TableResult):
    """Predictions of N rows.

    Attributes
    ----------
    ids : np.ndarray
        `(N,)` object.
    probs, predicted : np.ndarray
        `(N, K)` float32 probabilities, and int8 predicted labels of 0 and 1.
    classes : tuple of str
        Names of the K classes.
    """

    ids: np.ndarray
    probs: np.ndarray
    predicted: np.ndarray
    classes: tuple[str, ...]

    @property
    def labels(self) -> list[list[str]]:
        """The predicted labels of each row."""
        return label_names(self.predicted, self.classes)

    def to_frame(self) -> pandas.DataFrame:
        """A row for each sample: its id, its predicted labels (a list), and the probability of each class as `p_<class>`.

        Raises
        ------
        ConfigError
            pandas is not installed.
        """
        columns: dict[str, Any] = {"id": self.ids, "labels": self.labels}
        columns |= {f"p_{name}": self.probs[:, k] for k, name in enumerate(self.classes)}
        return require("pandas", "pandas").DataFrame(columns)

    def _table(self) -> list[Record]:
        top = self.probs.max(axis=1, initial=0.0)
        return [
            {"id": str(sample), "labels": ", ".join(labels), "highest probability": float(p)}
            for sample, labels, p in zip(self.ids, self.labels, top, strict=True)
        ]
