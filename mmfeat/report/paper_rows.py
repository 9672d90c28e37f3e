"""Our figures in the rows of the paper's tables: from comparisons, sweeps and runs to sheets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.paper_figures import N_CLASSES, PaperRow, PaperTable
from mmfeat.report.paper_sheet import Figure, Sheet, SheetRow
from mmfeat.runs.comparison import ScoredModel
from mmfeat.runs.sweep import SweptCell, lowest_loss

SIZE, TIME, RATE, BATCH = "MB", "time s", "learning rate", "batch size"
F1, LOSS, SAMPLES_F1, MICRO_F1, SUBSET = (
    "val macro F1",
    "val loss",
    "val samples F1",
    "val micro F1",
    "val subset accuracy",
)
TRAIN_F1, TRAIN_LOSS, TRAIN_ACCURACY = "train F1 (in-sample)", "train loss (in-sample)", "train accuracy (in-sample)"
OWN_VAL = (
    "No in-sample figure of ours is kept here: theirs are in-sample, ours are on val, and no difference has a meaning."
)
BOTH_IN_SAMPLE = "Both sides are in-sample: ours on up to 2,000 training rows."
END_TO_END = "Our time: to fine-tune the encoders of a model, encode the labelled rows and fit its head."
WHICH_F1 = (
    "F1: theirs is set beside our macro F1, as 4.1.3 defines it; samples F1 is what Kaggle scores. Accuracy: theirs is set "
    "beside our subset accuracy."
)
_PAPERS_CLASSES = tuple(str(k) for k in range(1, 20) if k != 12)


def encoder_sheet(table: PaperTable, models: Mapping[str, ScoredModel], notes: Sequence[str]) -> Sheet:
    """Table 1; `models` by the key of the paper's row, others by their label."""
    digits = {SIZE: 1, TIME: 0, F1: 4, LOSS: 4, SAMPLES_F1: 4, MICRO_F1: 4}
    rows = []
    for name, row, model in _beside(table, models):
        theirs, figures = row.figures if row else {}, _val_figures(row, model)
        size, seconds = (model.size_mb, model.encoder.seconds) if model else (None, None)
        figures[SIZE] = _figure(theirs.get("mb"), size)
        figures[TIME] = _figure(theirs.get("seconds"), seconds, compared=False)
        rows.append(SheetRow(name=name, figures=figures, note=_verdict(model)))
    return _sheet(table, digits, rows, [WHICH_F1, *notes])


def ablation_sheet(table: PaperTable, models: Mapping[str, ScoredModel], notes: Sequence[str]) -> Sheet:
    """Table 5; `models` by their names in `mmfeat compare heads`."""
    digits = {TIME: 1, F1: 4, LOSS: 4, SAMPLES_F1: 4, SUBSET: 4, TRAIN_LOSS: 4, TRAIN_F1: 4, TRAIN_ACCURACY: 4}
    rows = []
    for name, row, model in _beside(table, models):
        theirs, figures = row.figures if row else {}, _val_figures(row, model)
        seconds = model.costs.train_seconds if model and model.costs else None
        figures[TIME] = _figure(theirs.get("seconds"), seconds, compared=False)
        figures[SUBSET] = _figure(None, model.metrics.scores.label_set_accuracy if model else None)
        figures |= _in_sample(theirs, model)
        rows.append(SheetRow(name=name, figures=figures, note=_verdict(model)))
    return _sheet(table, digits, rows, [WHICH_F1, END_TO_END, *notes])


def model_class_sheet(
    table: PaperTable, models: Mapping[str, ScoredModel], classes: Sequence[str], notes: Sequence[str]
) -> Sheet:
    """Tables 6 to 9 and 14 to 17: the F1 of each class by each model, in-sample where all models have such figures."""
    in_sample = all(model.trained is not None for model in models.values())
    rows = []
    for name, row, model in _beside(table, models):
        found = None if model is None else model.trained if in_sample else model.metrics.scores
        ours, overall = None, (None, None)
        if found is not None:
            counts = zip(found.class_f1, found.n_positives, strict=True)
            ours = [float(f1) if n else None for f1, n in counts]
            overall = (found.macro_f1, found.label_set_accuracy)
        figures = _by_class(row, overall, ours, classes=classes, compared=in_sample)
        rows.append(SheetRow(name=name, figures=figures))
    about = BOTH_IN_SAMPLE if in_sample else OWN_VAL
    return _sheet(
        table, _class_digits(classes), rows, [WHICH_F1, about, *_about_classes(classes), *notes], by_class=True
    )


def settings_sheet(table: PaperTable, cells: Sequence[SweptCell], notes: Sequence[str]) -> Sheet:
    """Table 2 or 3."""
    digits = {TIME: 0, F1: 4, LOSS: 4, SAMPLES_F1: 4, TRAIN_LOSS: 4, TRAIN_F1: 4}
    rows, lowest = [], lowest_loss(cells)
    for row in table.rows:
        cell = _cell_of(row, cells)
        theirs, made = row.figures, cell is not None and not cell.error
        figures = {
            TIME: _figure(theirs.get("seconds"), cell.mean("seconds") if made else None, compared=False),
            F1: _cell_figure(theirs.get("f1"), cell, "macro_f1"),
            LOSS: _cell_figure(theirs.get("loss"), cell, "loss"),
            SAMPLES_F1: _cell_figure(None, cell, "samples_f1"),
            TRAIN_LOSS: _figure(theirs.get("train_loss"), cell.mean("train_loss") if made else None),
            TRAIN_F1: _figure(theirs.get("train_f1"), cell.mean("train_macro_f1") if made else None),
        }
        note = "lowest loss" if made and cell is lowest else cell.error if cell else ""
        rows.append(SheetRow(name=setting_name(row), figures=figures, note=note))
    return _sheet(table, digits, rows, [WHICH_F1, *notes])


def settings_class_sheet(
    table: PaperTable, cells: Mapping[str, Sequence[SweptCell]], classes: Sequence[str], notes: Sequence[str]
) -> Sheet:
    """Tables 10 to 13; `cells` by encoder."""
    rows = []
    for row in table.rows:
        cell = _cell_of(row, cells.get(row.key, ()))
        made = cell is not None and not cell.error
        ours = list(cell.by_class("class_f1").values()) if made else None
        overall = (cell.mean("macro_f1") if made else None, None)
        rows.append(SheetRow(name=row.name, figures=_by_class(row, overall, ours or None, classes=classes)))
    return _sheet(
        table, _class_digits(classes), rows, [WHICH_F1, OWN_VAL, *_about_classes(classes), *notes], by_class=True
    )


def best_sheet(table: PaperTable, cells: Mapping[str, Sequence[SweptCell]], notes: Sequence[str]) -> Sheet:
    """Table 4: the settings with the lowest loss on val; `cells` by encoder."""
    rows = []
    for row in table.rows:
        best = lowest_loss(cells.get(row.key, ()))
        values = best.values if best else {}
        figures = {
            RATE: _figure(row.settings["lr"], values.get("lr"), compared=False),
            BATCH: _figure(row.settings["batch_size"], values.get("batch_size"), compared=False),
        }
        ours = f", ours {values['optimizer']}" if "optimizer" in values else ""
        rows.append(
            SheetRow(name=row.name, figures=figures, note=f"optimizer: theirs {row.settings['optimizer']}{ours}")
        )
    return _sheet(table, {RATE: 5, BATCH: 0}, rows, list(notes))


def submission_sheet(table: PaperTable, lines: Mapping[str, MetricRow], notes: Sequence[str]) -> Sheet:
    """The scores of the final models; `lines` by the key of the paper's row, others by their own names."""
    kaggle, title = "Kaggle (samples F1)", SAMPLES_F1
    rows = []
    names = {row.key: row for row in table.rows}
    for key, line in [*((key, lines.get(key)) for key in names), *((k, v) for k, v in lines.items() if k not in names)]:
        row = names.get(key)
        ends = (line.samples_f1, line.samples_f1 - line.spread, line.samples_f1 + line.spread) if line else (None,) * 3
        figures = {
            kaggle: Figure(theirs=row.figures["kaggle"] if row else None),
            title: Figure(ours=ends[0], low=ends[1], high=ends[2]),
            F1: Figure(ours=line.macro_f1 if line else None),
            LOSS: Figure(ours=line.loss if line else None),
        }
        name = row.name if row else key
        rows.append(SheetRow(name=name, figures=figures, note=line.note if line else ""))
    return _sheet(table, {kaggle: 3, title: 4, F1: 4, LOSS: 4}, rows, list(notes))


def setting_name(row: PaperRow) -> str:
    """The settings of a row as in `--cell`."""
    return f"{row.name}, lr {row.settings['lr']:g}, batch {row.settings['batch_size']}, {row.settings['optimizer']}"


# -- rows


def _beside(
    table: PaperTable, models: Mapping[str, ScoredModel]
) -> list[tuple[str, PaperRow | None, ScoredModel | None]]:
    """The paper's rows with our models, then our models that the paper has not."""
    found = [(row.name, row, models.get(row.key)) for row in table.rows]
    keys = {row.key for row in table.rows}
    return [*found, *((model.label, None, model) for key, model in models.items() if key not in keys)]


def _cell_of(row: PaperRow, cells: Sequence[SweptCell]) -> SweptCell | None:
    return next((cell for cell in cells if all(cell.values.get(k) == v for k, v in row.settings.items())), None)


def _sheet(
    table: PaperTable, digits: dict[str, int], rows: list[SheetRow], notes: list[str], *, by_class: bool = False
) -> Sheet:
    title = table.label if table.label == table.title else f"{table.label}: {table.title}"
    said = [f"The paper: {note}" for note in table.notes]
    return Sheet(
        name=table.name,
        title=f"{title} ({table.place})",
        digits=digits,
        rows=rows,
        by_class=by_class,
        notes=[*notes, *said],
    )


# -- figures


def _figure(theirs: float | None, ours: float | None, *, compared: bool = True) -> Figure:
    return Figure(theirs=theirs, ours=None if ours is None or math.isnan(ours) else float(ours), compared=compared)


def _cell_figure(theirs: float | None, cell: SweptCell | None, name: str) -> Figure:
    """A metric of a cell on val, with its interval if one fit made it."""
    if cell is None or cell.error:
        return _figure(theirs, None)
    low, high = cell.interval(name) or (None, None)
    return dataclasses.replace(_figure(theirs, cell.mean(name)), low=low, high=high)


def _val_figures(row: PaperRow | None, model: ScoredModel | None) -> dict[str, Figure]:
    """Macro F1 and loss beside the paper's, and our other F1, on val."""
    theirs, found = row.figures if row else {}, {}
    for title, key, name in (
        (F1, "f1", "macro_f1"),
        (LOSS, "loss", "loss"),
        (SAMPLES_F1, "", "samples_f1"),
        (MICRO_F1, "", "micro_f1"),
    ):
        ours, low, high = None, None, None
        if model is not None:
            ours = float(getattr(model.metrics.scores, name))
            low, high = model.intervals.get(name, (None, None))
            if name == "samples_f1":
                low, high = model.metrics.low, model.metrics.high
        found[title] = Figure(theirs=theirs.get(key), ours=ours, low=low, high=high)
    return found


def _in_sample(theirs: Mapping[str, float], model: ScoredModel | None) -> dict[str, Figure]:
    """In-sample figures of both sides."""
    trained = model.trained if model else None
    names = ((TRAIN_LOSS, "train_loss", "loss"), (TRAIN_F1, "train_f1", "macro_f1"))
    names += ((TRAIN_ACCURACY, "train_accuracy", "label_set_accuracy"),)
    return {title: _figure(theirs.get(key), getattr(trained, name, None)) for title, key, name in names}


def _by_class(
    row: PaperRow | None,
    overall: tuple[float | None, float | None],
    ours: Sequence[float | None] | None,
    *,
    classes: Sequence[str],
    compared: bool = False,
) -> dict[str, Figure]:
    """F1, accuracy and the F1 of each class; the paper's classes only where ours are the same."""
    theirs = row.figures if row else {}
    same = tuple(classes) == _PAPERS_CLASSES
    printed = (row.class_f1 if row else ()) if same else ()
    found = {
        "F1": _figure(theirs.get("train_f1"), overall[0], compared=compared),
        "accuracy": _figure(theirs.get("train_accuracy"), overall[1], compared=compared),
    }
    for k, name in enumerate(classes):
        found[f"F1 {name}"] = _figure(printed[k] if printed else None, ours[k] if ours else None, compared=compared)
    return found


def _class_digits(classes: Sequence[str]) -> dict[str, int]:
    return {"F1": 4, "accuracy": 4, **{f"F1 {name}": 4 for name in classes}}


def _about_classes(classes: Sequence[str]) -> list[str]:
    if tuple(classes) == _PAPERS_CLASSES:
        return ["ClassN of the paper is the N-th of its 18 classes: 1 to 19 without 12."]
    return [f"The classes are not the paper's {N_CLASSES}: its F1 by class is left out."]


def _verdict(model: ScoredModel | None) -> str:
    return "; ".join(filter(None, [model.verdict, model.note])) if model else "not made"
