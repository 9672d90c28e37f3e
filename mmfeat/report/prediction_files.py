"""Predictions as files: CSV, JSON lines, Parquet; and one item's as a table."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmfeat.common.csv_text import csv_text
from mmfeat.common.labels import label_cells, label_names
from mmfeat.common.text import shown
from mmfeat.report.text_tables import table

FORMATS = ("csv", "jsonl", "parquet")
_OTHERS = 3  # classes shown of one item beside its labels


def top_labels(probs: np.ndarray, classes: Sequence[str], k: int) -> list[list[str]]:
    """The `k` most probable classes of each row of `(N, K)`, the most probable first."""
    order = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    return [[classes[i] for i in row] for row in order.tolist()]


def prediction_bytes(
    form: str,
    ids: Sequence[str],
    probs: np.ndarray,
    decided: np.ndarray,
    classes: Sequence[str],
    *,
    id_column: str = "id",
    label_column: str | Sequence[str] = "labels",
    separator: str = " ",
    top_k: int = 0,
    errors: dict[int, str] | None = None,
    run: str = "",
    guarded: bool = True,
) -> bytes:
    """A file of predictions: one row for each sample.

    Parameters
    ----------
    form : str
        `csv`: id and labels, a column of 0 and 1 for each class where `label_column` is a list; where `top_k` is asked for
        always names, and the probabilities. `jsonl`: id, labels, probabilities by class,
        and the error of a row that has one. `parquet`: the same as columns, a probability as `p_<class>`.
    probs, decided : np.ndarray
        `(N, K)` float32, and int8 of 0 and 1.
    top_k : int
        Give the k most probable classes, in their order, instead of those that passed; 0 for these.
    errors : dict of int to str, optional
        Row to the reason why a part of it could not be read.
    guarded : bool
        Whether cells of CSV that a spreadsheet might take as formulas are made harmless, see :mod:`mmfeat.common.csv_text`.
    """
    names = top_labels(probs, classes, top_k) if top_k else label_names(decided, classes)
    errors = errors or {}
    if form == "parquet":
        return _parquet(ids, names, probs, classes, errors, run)
    if form == "jsonl":
        return "".join(_json_lines(ids, names, probs, classes, errors)).encode()
    if top_k:
        header, cells = _most_probable(names, probs, classes, label_column, separator)
    else:
        header, cells = label_cells(decided, classes, label_column, separator)
    rows = ([sample, *row] for sample, row in zip(ids, cells, strict=True))
    return csv_text([id_column, *header], rows, guarded=guarded).encode()


def _most_probable(
    names: list[list[str]], probs: np.ndarray, classes: Sequence[str], label_column: str | Sequence[str], separator: str
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of names, and of their probabilities."""
    at = {name: k for k, name in enumerate(classes)}
    cells = [
        [separator.join(labels), separator.join(f"{probs[row, at[name]]:.4f}" for name in labels)]
        for row, labels in enumerate(names)
    ]
    return [label_column if isinstance(label_column, str) else "labels", "probabilities"], cells


def _json_lines(
    ids: Sequence[str], names: list[list[str]], probs: np.ndarray, classes: Sequence[str], errors: dict[int, str]
) -> Any:
    for row, (sample, labels) in enumerate(zip(ids, names, strict=True)):
        values = {name: round(float(p), 6) for name, p in zip(classes, probs[row], strict=True)}
        line = {"id": str(sample), "labels": labels, "probabilities": values}
        if row in errors:
            line["error"] = errors[row]
        yield json.dumps(line, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8") + "\n"


def _parquet(
    ids: Sequence[str],
    names: list[list[str]],
    probs: np.ndarray,
    classes: Sequence[str],
    errors: dict[int, str],
    run: str,
) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": pa.array([str(i) for i in ids], pa.string()),
        "labels": pa.array(names, pa.list_(pa.string())),
        **{f"p_{name}": pa.array(probs[:, k]) for k, name in enumerate(classes)},
    }
    if errors:
        columns["error"] = pa.array([errors.get(row) for row in range(len(ids))], pa.string())
    data = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({"mmfeat_run": run}), data)
    return data.getvalue()


def one_item(
    probs: np.ndarray, decided: np.ndarray, opinions: dict[str, np.ndarray], classes: Sequence[str], top_k: int
) -> str:
    """One item's most probable classes, what each encoder says of them alone, and which are its labels.

    Parameters
    ----------
    probs, decided : np.ndarray
        `(K,)`.
    opinions : dict of str to np.ndarray
        Encoder to probabilities `(K,)`; NaN where the item lacks the modality.
    """
    n = min(top_k or int(decided.sum()) + _OTHERS, len(classes))
    order = np.argsort(-probs, kind="stable")[:n]
    asked = {name: values for name, values in opinions.items() if not np.isnan(values).any()}
    rows = [
        [
            shown(classes[k]),
            f"{probs[k]:.3f}",
            *(f"{values[k]:.3f}" for values in asked.values()),
            "label" * int(decided[k]),
        ]
        for k in order.tolist()
    ]
    return table(("class", "probability", *(f"{name} alone" for name in asked)), rows)
