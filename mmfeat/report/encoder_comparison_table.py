"""A comparison of encoders as tables for a terminal, as CSV, as Markdown and as a plot: the paper's Table 1 and Tables 6 to 9."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.progress import clock
from mmfeat.common.text import shown
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.comparison_table import escaped, markdown_table, number, rounded, write_files
from mmfeat.report.outputs import Outputs
from mmfeat.report.plots import plot_encoders
from mmfeat.report.text_tables import left_out, metric_title, table
from mmfeat.runs.encoder_comparison import EncoderLine, bests

CLASSES_SHOWN = 40  # in a terminal


def encoder_table(title: str, lines: Sequence[EncoderLine], baseline: MetricRow, metric: str) -> str:
    """The paper's Table 1, modality by modality; `title` names the rows that the figures are of."""
    head, rows = _cells(title, lines, baseline, metric)
    return table(head, [[shown(row[0]), *row[1:]] for row in rows])


def appendix_table(lines: Sequence[EncoderLine]) -> str:
    """The paper's further figures: of all decisions together, of whole label sets, and means over classes."""
    head, rows = _appendix(lines)
    return table(head, [[shown(row[0]), *row[1:]] for row in rows])


def class_table(lines: Sequence[EncoderLine], classes: Sequence[str]) -> str:
    """F1 of each class by each encoder; of very many classes those that the first encoder is weakest in."""
    head, rows = _by_class(lines, classes)
    if len(rows) > CLASSES_SHOWN:
        kept = [k for k, *_ in lines[0].compared.metrics.scores.weakest(CLASSES_SHOWN)]
        rows = [rows[k] for k in kept]
    text = table([shown(cell, 30) for cell in head], [[shown(row[0]), *row[1:]] for row in rows])
    return (
        text
        if len(rows) == len(classes)
        else f"{text}\nThe weakest {len(rows)} of {len(classes):,}; classes.csv has all."
    )


def about_encoders(lines: Sequence[EncoderLine], n_seeds: int, metric: str) -> str:
    """What to know of the figures."""
    frozen = lines[0].record.frozen
    took = "to encode the labelled rows at its rate and fit its output once" if frozen else "to fine-tune once"
    devices = ", ".join(dict.fromkeys(line.record.device for line in lines))
    seeds = (
        f" {n_seeds} seeds: samples-F1 on average ± deviation; all other figures are of the first."
        if n_seeds > 1
        else ""
    )
    return "\n".join(
        filter(
            None,
            [
                f"± is half the 95 % bootstrap interval over rows.{seeds} No row was trained on, but these rows chose the epochs "
                "and the best is the best of several: it looks better than it is.",
                f"Time: {took}, on {shown(devices)}. A second: samples read, prepared and encoded there. MB: in float32, with "
                f"the output. The best is that in {metric_title(metric)}, in its modality.",
                left_out(lines[0].compared.metrics.scores.n_classes_left_out),
            ],
        )
    )


def best_lines(lines: Sequence[EncoderLine], metric: str) -> list[str]:
    """The best of each modality, and which others are no more than chance from it."""
    found = []
    for modality, best in bests(lines).items():
        others = [line for line in lines if line.record.modality == modality and line is not best]
        close = [shown(line.record.label) for line in others if line.compared.verdict]
        value = f"{metric_title(metric)} {best.value(metric):.{4 if metric == 'loss' else 3}f}"
        text = f"Best of {modality}: {shown(best.record.label)}, {value}"
        if others:
            text += f"; no more than chance from it: {', '.join(close) or 'none of the others'}"
        found.append(f"{text}.")
    return found


def _cells(
    title: str, lines: Sequence[EncoderLine], baseline: MetricRow, metric: str
) -> tuple[list[str], list[list[str]]]:
    n_seeds, micro = len(lines[0].compared.seeds), metric == "micro-f1"
    modalities = list(dict.fromkeys(line.record.modality for line in lines))
    head = [title, "MB", "time", "samples-F1", *([f"{n_seeds} seeds"] if n_seeds > 1 else [])]
    head += [*(["micro-F1"] if micro else []), "macro-F1", "mAP", "loss", "a second"]
    rows = [
        [baseline.label, "", "", f"{baseline.samples_f1:.3f} ± {baseline.spread:.3f}", *([""] if n_seeds > 1 else [])]
    ]
    rows[0] += [
        *([f"{baseline.micro_f1:.3f}"] if micro else []),
        f"{baseline.macro_f1:.3f}",
        f"{baseline.map:.3f}",
        "",
        "",
        "",
    ]
    for modality in modalities:
        if len(modalities) > 1:
            rows.append([f"{modality}:", *[""] * len(head)])
        for line in (line for line in lines if line.record.modality == modality):
            scores, spread = line.compared.metrics.scores, line.compared.spread
            one = [f"{line.compared.seeds.mean():.3f} ± {spread:.3f}"] if spread is not None else []
            cells = [number(line.compared.size_mb, 1), clock(line.record.seconds)]
            cells += [f"{scores.samples_f1:.3f} ± {line.compared.metrics.half_width:.3f}", *one]
            for name in (*(["micro_f1"] if micro else []), "macro_f1", "map"):
                cells.append(f"{getattr(scores, name):.3f} ± {_half(line.intervals[name]):.3f}")
            cells += [f"{scores.loss:.4f}", number(line.record.rate, 0)]
            rows.append([line.record.label, *cells, line.compared.verdict])
    return head, rows


def _half(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / 2


def _appendix(lines: Sequence[EncoderLine]) -> tuple[list[str], list[list[str]]]:
    head = ["further figures", "overall F1", "sets right", "mean class F1", "mean class accuracy", "best epoch"]
    rows = []
    for line in lines:
        scores = line.compared.metrics.scores
        figures = (scores.micro_f1, scores.label_set_accuracy, scores.macro_f1, scores.accuracy_per_class)
        rows.append([line.record.label, *(f"{figure:.3f}" for figure in figures), str(line.record.best_epoch)])
    return head, rows


def _by_class(lines: Sequence[EncoderLine], classes: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    n_positives = lines[0].compared.metrics.scores.n_positives
    rows = [
        [name, f"{n:,}", *(f"{line.compared.metrics.scores.class_f1[k]:.3f}" if n else "" for line in lines)]
        for k, (name, n) in enumerate(zip(classes, n_positives, strict=True))
    ]
    return ["F1 by class", "rows", *(line.record.label for line in lines)], rows


def write_encoder_comparison(
    outputs: Outputs,
    folder: Path,
    title: str,
    lines: Sequence[EncoderLine],
    baseline: MetricRow,
    classes: Sequence[str],
    metric: str,
) -> tuple[list[Path], bool]:
    """Write `models.csv`, `classes.csv`, `comparison.md` and `comparison.png`, where they are not there or say something else.

    Returns
    -------
    tuple
        The four files, and whether anything was written.
    """
    texts = {
        "models.csv": encoders_csv(lines),
        "classes.csv": classes_csv(lines, classes),
        "comparison.md": markdown(title, lines, baseline, classes, metric),
    }
    return write_files(outputs, folder, texts, lambda plot: plot_encoders(plot, title, lines))


def encoders_csv(lines: Sequence[EncoderLine]) -> str:
    """One row for each encoder; what is not known is blank.

    `*_low` and `*_high` are 95 % bootstrap intervals over rows; `difference` and its interval are from the best of the same
    modality in the project's metric; `seed_f1` and `seed_deviation` are samples-F1 over seeds.
    """
    rows: list[dict[str, Any]] = []
    for line in lines:
        record, one, scores = line.record, line.compared, line.compared.metrics.scores
        row = {"encoder": record.label, "modality": record.modality, "model": record.model, "width": record.width}
        row |= {
            "frozen": record.frozen,
            "mb": one.size_mb,
            "seconds": record.seconds,
            "encode_seconds": record.encode_seconds,
        }
        row |= {
            "fit_seconds": record.fit_seconds,
            "per_second": record.rate,
            "measured": record.measured,
            "device": record.device,
        }
        row |= {"samples_f1": scores.samples_f1, "samples_f1_low": one.metrics.low, "samples_f1_high": one.metrics.high}
        for name, (low, high) in line.intervals.items():
            row |= {name: getattr(scores, name), f"{name}_low": low, f"{name}_high": high}
        row |= {"label_set_accuracy": scores.label_set_accuracy, "accuracy_per_class": scores.accuracy_per_class}
        row |= {"best_epoch": record.best_epoch, "n_seeds": len(one.seeds), "seed_f1": float(one.seeds.mean())}
        names = ("difference", "difference_low", "difference_high")
        row |= {"seed_deviation": one.spread, **dict(zip(names, one.difference or (0.0, 0.0, 0.0), strict=True))}
        rows.append({**row, "note": one.verdict})
    return csv_text(list(rows[0]), (rounded(row.values()) for row in rows), quoted=True)


def classes_csv(lines: Sequence[EncoderLine], classes: Sequence[str]) -> str:
    """F1 and accuracy of each class by each encoder, beside the class's positives; F1 is blank where it has none."""
    every = [line.compared.metrics.scores for line in lines]
    head = ["class", "n_positives", *(f"{what} {line.record.label}" for line in lines for what in ("F1", "accuracy"))]
    rows = []
    for k, (name, n) in enumerate(zip(classes, every[0].n_positives, strict=True)):
        cells = [cell for s in every for cell in (float(s.class_f1[k]) if n else None, float(s.class_accuracy[k]))]
        rows.append(rounded([name, int(n), *cells]))
    return csv_text(head, rows, quoted=True)


def markdown(title: str, lines: Sequence[EncoderLine], baseline: MetricRow, classes: Sequence[str], metric: str) -> str:
    """A page with all tables and the plot beside it, `comparison.png`."""
    head, rows = _cells(title, lines, baseline, metric)
    how = "frozen" if lines[0].record.frozen else "fine-tuned"
    return "\n".join(
        [
            f"# Encoders ({how}) compared on {title}",
            "",
            "![F1 against size and speed](comparison.png)",
            "",
            *markdown_table([*head, "beside the best"], rows),
            "",
            *(f"- {escaped(line, 1000)}" for line in best_lines(lines, metric)),
            "",
            about_encoders(lines, len(lines[0].compared.seeds), metric),
            "",
            "## Further figures",
            "",
            *markdown_table(*_appendix(lines)),
            "",
            "## F1 by class",
            "",
            *markdown_table(*_by_class(lines, classes)),
            "",
        ]
    )
