"""A comparison of models as a table for a terminal, as CSV and as Markdown: the paper's Table 5 and Tables 14 to 17."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.text import shown
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.outputs import Outputs
from mmfeat.report.plots import plot_comparison
from mmfeat.report.text_tables import left_out, metric_title, table
from mmfeat.runs.comparison import Compared

PLOT = "comparison.png"
_COMMONEST = "most frequent"  # its loss means nothing


def comparison_table(title: str, lines: Sequence[Compared], baselines: Sequence[MetricRow], metric: str) -> str:
    """All models on the same rows, which `title` names; what is known of the difference to the best stands last."""
    head, rows = _cells(title, lines, baselines, metric)
    return table(head, [[shown(row[0]), *row[1:]] for row in rows])


def about_comparison(lines: Sequence[Compared], n_seeds: int, metric: str) -> str:
    """What to know of the figures."""
    several = n_seeds > 1
    what = f"the mean of {n_seeds} seeds' logits, " if several else ""
    seed = " One seed: mean over seeds, ± their standard deviation." if several else ""
    return "\n".join(
        filter(
            None,
            [
                f"samples-F1: {what}± half the 95 % bootstrap interval.{seed} No figure is of rows that were trained on, "
                "unless a line says so.",
                "Sets right: rows whose whole label set is; per class: accuracy of single labels. The best is that in "
                f"{metric_title(metric)}; a line that says nothing of chance is behind it there by more than chance.",
                "Seconds to train and µs to predict a row from cached embeddings: one seed's heads. MB: with the encoders, "
                "and the heads of all seeds alone.",
                "These rows also chose the epochs, and the best is the best of many on them: a figure to publish is of test "
                "rows ([split] test): mmfeat evaluate --split test.",
                left_out(lines[0].figures.scores.n_classes_left_out),
            ],
        )
    )


def _cells(
    title: str, lines: Sequence[Compared], baselines: Sequence[MetricRow], metric: str
) -> tuple[list[str], list[list[str]]]:
    several, micro = any(line.spread is not None for line in lines), metric == "micro-f1"
    head = [title, "samples-F1", *(["one seed"] if several else []), *(["micro-F1"] if micro else [])]
    head += ["macro-F1", "mAP", "loss", "sets right"]
    head += ["per class", "train s", "µs a row", "MB", "heads MB"]
    rows = []
    for line in baselines:
        loss = "" if line.label == _COMMONEST else f"{line.loss:.4f}"
        figures = [f"{line.samples_f1:.3f} ± {line.spread:.3f}", *([""] if several else [])]
        figures += [f"{line.micro_f1:.3f}"] if micro else []
        figures += [f"{line.macro_f1:.3f}", f"{line.map:.3f}", loss, "", "", number(line.seconds, 1), "", "", ""]
        rows.append([line.label, *figures, line.note])
    for line in lines:
        scores, spread = line.figures.scores, line.spread
        one = f"{line.seeds.mean():.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
        figures = [f"{scores.samples_f1:.3f} ± {line.figures.half_width:.3f}", *([one] if several else [])]
        figures += [f"{scores.micro_f1:.3f}"] if micro else []
        figures += [f"{scores.macro_f1:.3f}", f"{scores.map:.3f}", f"{scores.loss:.4f}"]
        figures += [f"{scores.label_set_accuracy:.3f}", f"{scores.accuracy_per_class:.3f}"]
        figures += [number(line.part.seconds, 1), number(line.part.microseconds, 2)]
        figures += [number(line.size_mb, 1), number(line.part.head_mb, 2)]
        rows.append([line.label, *figures, "; ".join(filter(None, [line.verdict, line.note]))])
    return head, rows


def number(value: float | None, digits: int) -> str:
    """A figure; blank where it is not known."""
    return "" if value is None else f"{value:,.{digits}f}"


def write_comparison(
    outputs: Outputs,
    folder: Path,
    title: str,
    lines: Sequence[Compared],
    baselines: Sequence[MetricRow],
    classes: Sequence[str],
    metric: str,
) -> tuple[list[Path], bool]:
    """Write `models.csv`, `classes.csv`, `comparison.md` and `comparison.png`, where they are not there or say something else.

    Raises
    ------
    OutputError
        One of them was changed since it was written.

    Returns
    -------
    tuple
        The four files, and whether anything was written.
    """
    texts = {
        "models.csv": models_csv(lines, baselines),
        "classes.csv": classes_csv(lines, classes),
        "comparison.md": markdown(title, lines, baselines, classes, metric),
    }
    return write_files(outputs, folder, texts, lambda plot: plot_comparison(plot, title, lines, baselines))


def write_files(
    outputs: Outputs, folder: Path, texts: dict[str, str], draw: Callable[[Path], None]
) -> tuple[list[Path], bool]:
    """Write texts that are not there or say something else, and then, or where it is not there, draw `comparison.png`."""
    changed = [name for name, text in texts.items() if _says_else(folder / name, text)]
    plot = folder / PLOT
    for file in [*(folder / name for name in changed), plot] if changed else []:  # all or nothing
        outputs.check(file, own=True, earlier=True)
    for name, text in texts.items():
        outputs.write(folder / name, text, own=True, earlier=True)
    written = bool(changed) or not plot.is_file()
    if written:
        with outputs.replacing(plot, own=True, earlier=True) as temporary:
            draw(temporary)
    return [*(folder / name for name in texts), plot], written


def _says_else(file: Path, text: str) -> bool:
    return not file.is_file() or file.read_bytes() != text.encode()


def models_csv(lines: Sequence[Compared], baselines: Sequence[MetricRow]) -> str:
    """One row for each model; a figure that is not known is blank.

    Columns `f1_low` to `f1_high` are the 95 % bootstrap interval of samples-F1, `difference` and its interval are from
    the best model on the same rows in the project's metric, `seed_f1` and `seed_deviation` are of single seeds.
    """
    rows: list[dict[str, Any]] = []
    for line in baselines:
        half = line.spread
        figures = {"samples_f1": line.samples_f1, "f1_low": line.samples_f1 - half, "f1_high": line.samples_f1 + half}
        figures |= {
            "micro_f1": line.micro_f1,
            "macro_f1": line.macro_f1,
            "map": line.map,
            "train_seconds": line.seconds,
        }
        figures["loss"] = None if line.label == _COMMONEST else line.loss
        rows.append({"model": line.label, "group": "baseline", **figures, "note": line.note})
    for line in lines:
        scores, part = line.figures.scores, line.part
        difference, low, high = line.difference or (0.0, 0.0, 0.0)
        rows.append(
            {
                "model": line.label,
                "group": "paper" if line.paper else "further",
                "samples_f1": scores.samples_f1,
                "f1_low": line.figures.low,
                "f1_high": line.figures.high,
                "seed_f1": float(line.seeds.mean()),
                "seed_deviation": line.spread,
                "micro_f1": scores.micro_f1,
                "macro_f1": scores.macro_f1,
                "map": scores.map,
                "loss": scores.loss,
                "label_set_accuracy": scores.label_set_accuracy,
                "accuracy_per_class": scores.accuracy_per_class,
                "train_seconds": part.seconds,
                "microseconds_a_row": part.microseconds,
                "model_mb": line.size_mb,
                "heads_mb": part.head_mb,
                "difference": difference,
                "difference_low": low,
                "difference_high": high,
                "note": "; ".join(filter(None, [line.verdict, line.note])),
            }
        )
    columns = list(rows[-1])
    return csv_text(columns, (rounded(row.get(name) for name in columns) for row in rows), quoted=True)


def classes_csv(lines: Sequence[Compared], classes: Sequence[str]) -> str:
    """F1 of each class by each model, beside the class's positives; blank where it has none."""
    n_positives = lines[0].figures.scores.n_positives
    return csv_text(
        ["class", "n_positives", *(line.label for line in lines)],
        (
            rounded([name, int(n), *(float(line.figures.scores.class_f1[k]) if n else None for line in lines)])
            for k, (name, n) in enumerate(zip(classes, n_positives, strict=True))
        ),
        quoted=True,
    )


def rounded(row: Iterable[Any]) -> list[Any]:
    """Cells of a CSV file, with six digits behind the point."""
    return [round(cell, 6) if isinstance(cell, float) else cell for cell in row]


def markdown(
    title: str, lines: Sequence[Compared], baselines: Sequence[MetricRow], classes: Sequence[str], metric: str
) -> str:
    """A page with both tables and the plot beside it, `comparison.png`."""
    head, rows = _cells(title, lines, baselines, metric)
    n_seeds = max(len(line.seeds) for line in lines)
    n_positives = lines[0].figures.scores.n_positives
    by_class = [
        [name, f"{n:,}", *(f"{line.figures.scores.class_f1[k]:.3f}" if n else "" for line in lines)]
        for k, (name, n) in enumerate(zip(classes, n_positives, strict=True))
    ]
    return "\n".join(
        [
            f"# Heads compared on {title}",
            "",
            "![samples-F1 of each model](comparison.png)",
            "",
            *markdown_table([*head, "beside the best"], rows),
            "",
            about_comparison(lines, n_seeds, metric),
            "",
            "## F1 by class",
            "",
            *markdown_table(["class", "rows", *(line.label for line in lines)], by_class),
            "",
        ]
    )


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; any text may be in its cells."""
    cells = [[escaped(cell) for cell in row] for row in [head, *rows]]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]]]


def escaped(text: str, limit: int = 60) -> str:
    """Any text as one cell or line, shortened as by `shown`: what Markdown would read as a mark is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", shown(text, limit))
