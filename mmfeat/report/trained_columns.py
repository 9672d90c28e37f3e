"""In-sample scores, end-to-end costs and settings of compared models: columns of tables and of `models.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfeat.common.text import counted
from mmfeat.report.table_layout import Cell, number
from mmfeat.report.text_tables import metric_title
from mmfeat.runs.comparison import ScoredModel

IN_SAMPLE = ("samples_f1", "macro_f1", "loss", "label_set_accuracy", "accuracy_per_class")
TRAINED_CSV = (*(f"train_{name}" for name in IN_SAMPLE), "n_train_scored", "settings")
_ACCURACIES = {"label_set_accuracy": "subset accuracy", "accuracy_per_class": "label accuracy"}
_LISTED = {"lr": "lr", "batch_size": "batch", "weights": "class weights"}


def in_sample_title(name: str) -> str:
    """The title of an in-sample column."""
    return _ACCURACIES.get(name) or metric_title(name)


def in_sample_cell(model: ScoredModel, name: str) -> Cell:
    """A score on training rows; blank if there is none."""
    value = None if model.trained is None else float(getattr(model.trained, name))
    return number(value, 4 if name == "loss" else 3, unknown="")


def n_in_sample(models: Sequence[ScoredModel]) -> int:
    """The number of training rows that in-sample scores are of; 0 without any."""
    return max((model.trained.n_samples for model in models if model.trained is not None), default=0)


def about_in_sample(models: Sequence[ScoredModel]) -> str:
    """A note on in-sample scores; empty if there are none."""
    n, lack = n_in_sample(models), sum(model.trained is None for model in models)
    without = f" {counted(lack, 'model')} of an earlier version {'has' if lack == 1 else 'have'} none." if lack else ""
    text = "In-sample: on training rows, which the models have learned: they show overfitting, and are no result."
    return f"{text}{without}" if n else ""


def settings_cell(model: ScoredModel) -> Cell:
    """The main settings of a model; JSON has all."""
    settings = model.settings
    if "mean" in settings:
        return Cell("mean of logits, equal weights", settings)
    if not settings:
        return Cell("", None)
    tuned = [] if "frozen" not in settings else ["frozen" if settings["frozen"] else "fine-tuned"]
    values = {"weights": "none", **settings}
    named = [f"{title} {_value(key, values[key])}" for key, title in _LISTED.items() if key in values]
    return Cell(", ".join([*tuned, settings.get("optimizer", "adamw"), *named]), settings)


def trained_csv(model: ScoredModel) -> dict[str, Any]:
    """The values of `TRAINED_CSV`."""
    scores = model.trained
    values = {f"train_{name}": None if scores is None else float(getattr(scores, name)) for name in IN_SAMPLE}
    settings = model.settings.items()
    return values | {
        "n_train_scored": None if scores is None else scores.n_samples,
        "settings": " ".join(f"{key}={'+'.join(one) if isinstance(one, list) else one}" for key, one in settings),
    }


def _value(key: str, value: Any) -> str:
    if key == "batch_size" and not value:
        return "auto"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
