"""Columns and notes of a comparison of heads (the paper's Tables 5 and 14 to 17) and of encoders (Tables 1 and 6 to 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfeat.common.text import shown
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.comparison_table import Column, Layout
from mmfeat.report.plots import plot_encoders, plot_heads
from mmfeat.report.table_layout import Cell, count, duration, number
from mmfeat.report.text_tables import MOST_FREQUENT, about_spread, left_out, metric_cell, metric_title
from mmfeat.report.trained_columns import TRAINED_CSV, about_in_sample, settings_cell, trained_csv
from mmfeat.runs.comparison import ScoredModel, best_of_groups

_MAY_HAVE_INTERVALS = ("micro_f1", "macro_f1", "map", "loss")
_HEAD_CSV = (
    "model group samples_f1 f1_low f1_high seed_f1 seed_deviation micro_f1 macro_f1 map loss label_set_accuracy "
    "accuracy_per_class train_seconds microseconds_a_row model_mb heads_mb difference difference_low difference_high "
    f"end_to_end_seconds end_to_end_ms_a_row {' '.join(TRAINED_CSV)}"
)
_WITH_INTERVAL = " ".join(f"{name} {name}_low {name}_high" for name in ("samples_f1", *_MAY_HAVE_INTERVALS))
_ENCODER_CSV = (
    "encoder modality model width frozen mb seconds encode_seconds fit_seconds per_second measured device "
    f"{_WITH_INTERVAL} label_set_accuracy accuracy_per_class best_epoch n_seeds seed_f1 seed_deviation "
    f"difference difference_low difference_high {' '.join(TRAINED_CSV)}"
)
_CLASSES = (
    ("accuracy {label}", "class_accuracy"),
    ("in-sample F1 {label}", "trained.class_f1"),
    ("in-sample accuracy {label}", "trained.class_accuracy"),
)


def head_layout(title: str, models: Sequence[ScoredModel], baselines: Sequence[MetricRow], metric: str) -> Layout:
    """The layout of a comparison of heads; `title` names the rows."""
    n_seeds = max(len(model.seeds) for model in models)
    columns = [_score("samples_f1")]
    columns += [Column(title="one seed", cell=_one_seed)] if n_seeds > 1 else []
    columns += [_score(name) for name in _shown(metric)]
    columns += [
        Column(title=metric_title("loss"), cell=_loss, baseline=_baseline_loss),
        Column(title="subset accuracy", cell=lambda m: number(m.metrics.scores.label_set_accuracy)),
        Column(title="label accuracy", cell=lambda m: number(m.metrics.scores.accuracy_per_class)),
        Column(title="train s", cell=lambda m: _number(m.kept.seconds, 1), baseline=lambda b: _number(b.seconds, 1)),
        Column(title="µs per row", cell=lambda m: _number(m.kept.microseconds, 2)),
        Column(title="MB", cell=lambda m: _number(m.size_mb, 1)),
        Column(title="heads MB", cell=lambda m: _number(m.kept.head_mb, 2)),
    ]
    return Layout(
        heading="Heads",
        picture=f"{metric_title('samples_f1')} of each model",
        columns=columns,
        further=[
            Column(title="end to end", cell=lambda m: duration(m.costs.train_seconds if m.costs else None)),
            Column(title="ms per row", cell=lambda m: _number(m.costs.milliseconds if m.costs else None, 2)),
            Column(title="settings", cell=settings_cell),
        ],
        csv_columns=_HEAD_CSV.split(),
        csv_row=_head_csv,
        csv_baseline=_baseline_csv,
        class_columns=(("{label}", "class_f1"), *_CLASSES),
        notes=_head_notes(models, n_seeds, metric),
        draw=lambda path: plot_heads(path, title, models, baselines),
    )


def encoder_layout(title: str, models: Sequence[ScoredModel], baselines: Sequence[MetricRow], metric: str) -> Layout:
    """The layout of a comparison of encoders, each with the best of its modality; `title` names the rows."""
    n_seeds = len(models[0].seeds)
    columns = [
        Column(title="MB", cell=lambda m: _number(m.size_mb, 1)),
        Column(title="time", cell=lambda m: duration(m.encoder.seconds)),
        _score("samples_f1"),
    ]
    columns += [Column(title=f"{n_seeds} seeds", cell=_one_seed)] if n_seeds > 1 else []
    columns += [_score(name) for name in _shown(metric)]
    columns += [
        Column(title=metric_title("loss"), cell=_loss),
        Column(title="samples/s", cell=lambda m: _number(m.encoder.rate, 0)),
    ]
    return Layout(
        heading=f"Encoders ({'frozen' if models[0].encoder.frozen else 'fine-tuned'})",
        picture="F1 against size and speed",
        columns=columns,
        further=[
            _score("micro_f1"),
            Column(title="subset accuracy", cell=lambda m: number(m.metrics.scores.label_set_accuracy)),
            _score("macro_f1"),
            Column(title="label accuracy", cell=lambda m: number(m.metrics.scores.accuracy_per_class)),
            Column(title="best epoch", cell=lambda m: count(m.encoder.best_epoch)),
            Column(title="settings", cell=settings_cell),
        ],
        csv_columns=_ENCODER_CSV.split(),
        csv_row=_encoder_csv,
        class_columns=(("F1 {label}", "class_f1"), *_CLASSES),
        notes=_encoder_notes(models, n_seeds, metric),
        conclusions=best_lines(models, metric),
        groups=True,
        draw=lambda path: plot_encoders(path, title, models, baselines),
    )


def best_lines(models: Sequence[ScoredModel], metric: str) -> list[str]:
    """The best of each modality, and the others whose difference to it is not significant."""
    lines = []
    for modality, best in best_of_groups(models).items():
        others = [model for model in models if model.group == modality and model is not best]
        close = [shown(model.label) for model in others if model.verdict]
        value = f"{metric_title(metric)} {best.value(metric):.{4 if metric == 'loss' else 3}f}"
        text = f"Best of {modality}: {shown(best.label)}, {value}"
        if others:
            text += f"; not significantly different: {', '.join(close) or 'none of the others'}"
        lines.append(f"{text}.")
    return lines


def _head_notes(models: Sequence[ScoredModel], n_seeds: int, metric: str) -> list[str]:
    several = n_seeds > 1
    of_mean = f"; metrics are of the mean of {n_seeds} seeds' logits" if several else ""
    notes = [
        f"{about_spread('one seed' if several else '')}{of_mean}. No model was trained on these rows, unless marked as "
        "in-sample.",
        "Subset accuracy: share of rows whose label set is exactly right. Label accuracy: share of single labels that are "
        f"right. The best is chosen by {metric_title(metric)}. Not significant: the 95 % interval of the difference from the "
        "best includes 0.",
        "train s, µs per row (from cached embeddings): the heads of one seed. MB: encoders and the heads of all seeds. heads "
        "MB: the heads of all seeds. end to end: the encoders' fine-tuning or linear probes, the encoding of the labelled rows "
        "as its speed is measured here, and the heads of one seed. ms per row: to read, encode and predict one sample.",
        "Epochs and the best model were selected on these rows. For a figure to publish, set [split] test and run: mmfeat "
        "evaluate --split test.",
        about_in_sample(models),
        left_out(models[0].metrics.scores.n_classes_left_out),
    ]
    return list(filter(None, notes))


def _encoder_notes(models: Sequence[ScoredModel], n_seeds: int, metric: str) -> list[str]:
    frozen = models[0].encoder.frozen
    work = "to encode the labelled rows and fit one linear probe" if frozen else "to fine-tune once"
    devices = ", ".join(dict.fromkeys(model.encoder.device for model in models))
    several = n_seeds > 1
    of_first = "; all other metrics are of the first seed" if several else ""
    notes = [
        f"{about_spread(f'{n_seeds} seeds' if several else '')}{of_first}. No encoder was trained on these rows, but the epochs and "
        "the best encoder were selected on them: the best looks better than it is.",
        f"time: {work}, on {shown(devices)}. samples/s: read, prepared and encoded there. MB: in float32, with the linear "
        f"probe. The best of each modality is chosen by {metric_title(metric)}. Not significant: the 95 % interval of the "
        "difference from the best includes 0.",
        about_in_sample(models),
        left_out(models[0].metrics.scores.n_classes_left_out),
    ]
    return list(filter(None, notes))


# -- cells


def _loss(model: ScoredModel) -> Cell:
    return metric_cell(model.line, "loss", 4)


def _baseline_loss(row: MetricRow) -> Cell:
    return number(None if row.label == MOST_FREQUENT else row.loss, 4, unknown="")  # its probabilities mean nothing


def _one_seed(model: ScoredModel) -> Cell:
    return number(float(model.seeds.mean()), spread=model.spread)


def _shown(metric: str) -> list[str]:
    """Metrics shown in addition to samples F1 and the loss."""
    return [*(["micro_f1"] if metric == "micro-f1" else []), "macro_f1", "map"]


def _score(name: str) -> Column:
    return Column(
        title=metric_title(name),
        cell=lambda model: metric_cell(model.line, name),
        baseline=lambda row: metric_cell(row, name),
    )


def _number(value: float | None, digits: int) -> Cell:
    """A number; blank if unknown."""
    return number(value, digits, unknown="")


# -- rows of models.csv


def _difference(model: ScoredModel) -> dict[str, float]:
    names = ("difference", "difference_low", "difference_high")
    return dict(zip(names, model.difference or (0.0, 0.0, 0.0), strict=True))


def _common_csv(model: ScoredModel) -> dict[str, Any]:
    scores = model.metrics.scores
    names = ("samples_f1", *_MAY_HAVE_INTERVALS, "label_set_accuracy", "accuracy_per_class")
    seeds = {"seed_f1": float(model.seeds.mean()), "seed_deviation": model.spread}
    return {name: getattr(scores, name) for name in names} | seeds | _difference(model)


def _head_csv(model: ScoredModel) -> dict[str, Any]:
    return _common_csv(model) | {
        "model": model.label,
        "group": model.group,
        "f1_low": model.metrics.low,
        "f1_high": model.metrics.high,
        "train_seconds": model.kept.seconds,
        "microseconds_a_row": model.kept.microseconds,
        "model_mb": model.size_mb,
        "heads_mb": model.kept.head_mb,
        "end_to_end_seconds": model.costs.train_seconds if model.costs else None,
        "end_to_end_ms_a_row": model.costs.milliseconds if model.costs else None,
        **trained_csv(model),
    }


def _baseline_csv(row: MetricRow) -> dict[str, Any]:
    names = ("samples_f1", "micro_f1", "macro_f1", "map")
    return {name: getattr(row, name) for name in names} | {
        "model": row.label,
        "group": "baseline",
        "f1_low": row.samples_f1 - row.spread,
        "f1_high": row.samples_f1 + row.spread,
        "train_seconds": row.seconds,
        "loss": None if row.label == MOST_FREQUENT else row.loss,
        "note": row.note,
    }


def _encoder_csv(model: ScoredModel) -> dict[str, Any]:
    encoder = model.encoder
    names = ("modality", "model", "width", "frozen", "seconds", "encode_seconds", "fit_seconds", "measured", "device")
    score, spread = model.metrics.scores.map, model.metrics.map_spread
    intervals = {"samples_f1": (model.metrics.low, model.metrics.high), "map": (score - spread, score + spread)}
    intervals |= model.intervals
    ends = {
        name + end: value
        for name, ends in intervals.items()
        for end, value in zip(("_low", "_high"), ends, strict=True)
    }
    return (
        _common_csv(model)
        | {name: getattr(encoder, name) for name in names}
        | ends
        | {
            "encoder": encoder.label,
            "mb": model.size_mb,
            "per_second": encoder.rate,
            "best_epoch": encoder.best_epoch,
            "n_seeds": len(model.seeds),
            **trained_csv(model),
        }
    )
