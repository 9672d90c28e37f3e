"""Predictions as files (CSV, JSON lines, Parquet), and one sample's as a table."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmfeat.common.csv_text import csv_text
from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.labels import label_cells, label_names
from mmfeat.data.tables.table_forms import is_table, table_stem
from mmfeat.report.table_layout import Table, number, outside, table

FORMATS = ("csv", "jsonl", "parquet")
_OTHERS = 3  # classes shown for one item in addition to its labels


def format_of(out: Path | str, format: str | None) -> str:
    """The format of a file of predictions: `format`, else by its suffix, else csv.

    Raises
    ------
    ConfigError
        They disagree.
    """
    suffix = Path(out).suffix.lower()[1:]
    suffix = suffix if suffix in FORMATS else ""
    if format and suffix and format != suffix:
        raise ConfigError(f"--format {format} and --out {out}: two formats. Leave one of them out")
    return format or suffix or "csv"


def default_out(samples: Sequence[str], format: str) -> str:
    """The default file for predictions of a table or of pictures, in the current folder."""
    path = Path(samples[0]).expanduser()
    if len(samples) == 1 and is_table(path):
        return f"{table_stem(path.name)}-predictions.{format}"
    one = len(samples) == 1 and path.exists()
    stem = (path.resolve().name if path.is_dir() else path.stem) if one else "pictures"
    return f"{stem or 'pictures'}-predictions.{format}"


def check_form(form: str, top_k: int | None) -> None:
    """Check the format of a file of predictions, and the number of classes in it.

    Raises
    ------
    DataError
        There is no such format, or the number is negative.
    """
    if form not in FORMATS:
        raise DataError(f"no format {form[:40]!r}. Use one of: {', '.join(FORMATS)}")
    if top_k is not None and top_k < 0:
        raise DataError(f"--top-k {top_k}: use a number from 1, or leave it out")


def top_labels(probs: np.ndarray, classes: Sequence[str], k: int) -> list[list[str]]:
    """The `k` most probable classes of each row of `(N, K)`, the most probable first."""
    order = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    return [[classes[i] for i in row] for row in order.tolist()]


def prediction_bytes(
    form: str,
    ids: Sequence[str],
    probs: np.ndarray,
    *,
    predicted: np.ndarray,
    classes: Sequence[str],
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
        `csv`: id and labels, or a column of 0 and 1 for each class if `label_column` is a list; with `top_k` always names,
        and their probabilities. `jsonl`: id, labels, probabilities by class, and the error of a row that has one.
        `parquet`: the same as columns, each probability as `p_<class>`.
    probs, predicted : np.ndarray
        `(N, K)` float32, and int8 of 0 and 1.
    top_k : int
        Write the k most probable classes; 0 for the classes above the threshold.
    errors : dict of int to str, optional
        Row to the reason why its image could not be read.
    guarded : bool
        Whether CSV cells that a spreadsheet might run as formulas are quoted, see :mod:`mmfeat.common.csv_text`.
    """
    names = top_labels(probs, classes, top_k) if top_k else label_names(predicted, classes)
    errors = errors or {}
    if form == "parquet":
        return _parquet(ids, names, probs, classes=classes, errors=errors, run=run)
    if form == "jsonl":
        return "".join(_json_lines(ids, names, probs, classes=classes, errors=errors)).encode()
    if top_k:
        header, cells = _most_probable(names, probs, classes, separator)
        header = [label_column if isinstance(label_column, str) else "labels", *header]
    else:
        header, cells = label_cells(predicted, classes, label_column, separator)
    rows = ([sample, *row] for sample, row in zip(ids, cells, strict=True))
    return csv_text([id_column, *header], rows, guarded=guarded).encode()


def _most_probable(
    names: list[list[str]], probs: np.ndarray, classes: Sequence[str], separator: str
) -> tuple[list[str], list[list[str]]]:
    """The header of the probabilities, and for each row a cell of names and a cell of their probabilities."""
    at = {name: k for k, name in enumerate(classes)}
    cells = [
        [separator.join(labels), separator.join(f"{probs[row, at[name]]:.4f}" for name in labels)]
        for row, labels in enumerate(names)
    ]
    return ["probabilities"], cells


def _json_lines(
    ids: Sequence[str], names: list[list[str]], probs: np.ndarray, *, classes: Sequence[str], errors: dict[int, str]
) -> Iterator[str]:
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
    *,
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
    probs: np.ndarray, predicted: np.ndarray, *, unimodal: dict[str, np.ndarray], classes: Sequence[str], top_k: int
) -> Table:
    """The most probable classes of one sample, with unimodal predictions; predicted labels are marked.

    Parameters
    ----------
    probs, predicted : np.ndarray
        `(K,)`.
    unimodal : dict of str to np.ndarray
        Encoder to probabilities `(K,)`. NaN if the sample lacks the modality.
    """
    n = min(top_k or int(predicted.sum()) + _OTHERS, len(classes))
    order = np.argsort(-probs, kind="stable")[:n]
    present = {name: values for name, values in unimodal.items() if not np.isnan(values).any()}
    rows = [
        [
            outside(classes[k]),
            number(probs[k]),
            *(number(values[k]) for values in present.values()),
            "label" * int(predicted[k]),
        ]
        for k in order.tolist()
    ]
    return table(("class", "probability", *(f"{name} alone" for name in present)), rows, title="prediction")
