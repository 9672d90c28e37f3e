"""Plain tables for a terminal or a file; whatever came from outside is shown with its control characters escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmfeat.models.figures import FigureLine, Figures
from mmfeat.texts import counted, shown


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """Align columns: the first `left` to the left, the others to the right; trailing text may follow as a last cell."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    n = max(map(len, cells))
    cells = [row + [""] * (n - len(row)) for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(n)]
    lines = []
    for row in cells:
        parts = [
            c.ljust(w) if i < left or i >= len(head) else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("   ".join(parts).rstrip())
    return "\n".join(lines)


def figure_table(title: str, lines: Sequence[FigureLine]) -> str:
    """Figures of several models on the same rows; `title` names those rows."""
    timed = any(line.seconds is not None for line in lines)
    head = [title, "samples-F1", "macro-F1", "mAP", *(["seconds"] if timed else [])]
    rows = []
    for line in lines:
        cells = [
            shown(line.label),
            f"{line.samples_f1:.3f} ± {line.spread:.3f}",
            f"{line.macro_f1:.3f}",
            f"{line.map:.3f}",
        ]
        if timed:
            cells.append("" if line.seconds is None else f"{line.seconds:.1f}")
        rows.append([*cells, line.note])
    return table(head, rows)


def left_out(figures: Figures) -> str:
    """A sentence about the classes that macro figures leave out; empty where there are none."""
    n = figures.scores.n_classes_left_out
    what = f"{counted(n, 'class', 'classes')} without a positive among these rows"
    return f"{what} {'is' if n == 1 else 'are'} left out of macro-F1 and mAP." if n else ""
