"""The result of a command: a frozen record that a terminal, a notebook and a data frame can show."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmfeat.common.extras import require
from mmfeat.common.text import counted, shown
from mmfeat.report.table_layout import about_hidden, table, terminal_width

if TYPE_CHECKING:
    import pandas

    from mmfeat.metrics.metric_rows import MetricRow
    from mmfeat.runs.sweep import SweptCell

SHOWN_ROWS = 30
LONGEST = 200  # characters of a cell

Record = dict[str, Any]


class Result:
    """The result of a command. Its text form is a summary, followed by the main table if there is one.

    A subclass is a dataclass with `frozen=True, kw_only=True, repr=False` and defines `_about` and `_table`.
    """

    def _about(self) -> str:
        """A summary in one or a few lines."""
        return type(self).__name__

    def _table(self) -> list[Record]:
        """The main table, a dict from column to value for each row; all rows have the same columns."""
        return []

    def __repr__(self) -> str:
        """The text form."""
        records = self._table()
        text = "\n".join(shown(line, 1000) for line in self._about().splitlines())
        if not records:
            return text
        rows = [[_cell(value) for value in record.values()] for record in records[:SHOWN_ROWS]]
        shown_table, width = table(list(records[0]), rows), terminal_width()
        hidden = about_hidden(shown_table.hidden(width), ".to_frame(), a wider terminal")
        return "\n".join(filter(None, [text, shown_table.text(width) + _more(records), hidden]))

    def _repr_html_(self) -> str:
        """The result as HTML for a notebook."""
        records, about = self._table(), html.escape(self._about()).replace("\n", "<br>")
        if not records:
            return f"<p>{about}</p>"
        head = "".join(f"<th>{html.escape(name)}</th>" for name in records[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in record.values()) + "</tr>"
            for record in records[:SHOWN_ROWS]
        )
        more = f"<p>{html.escape(_more(records).strip())}</p>" if _more(records) else ""
        return f"<p>{about}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


class TableResult(Result):
    """A result whose main content is a table."""

    def to_frame(self) -> pandas.DataFrame:
        """The table as a pandas data frame, with numbers as numbers.

        Raises
        ------
        ConfigError
            pandas is not installed.
        """
        return require("pandas", "pandas").DataFrame(self._table())


def metric_records(lines: Sequence[MetricRow], first: str = "model") -> list[Record]:
    """Metric rows as records: the name, the metrics, and seconds and notes if any row has them."""
    timed, noted = any(line.seconds is not None for line in lines), any(line.note for line in lines)
    return [
        {
            first: line.label,
            "samples F1": line.samples_f1,
            "±": line.spread,
            "micro F1": line.micro_f1,
            "macro F1": line.macro_f1,
            "mAP": line.map,
            "mAP ±": line.map_spread,
            "loss": line.loss,
            **({"seconds": line.seconds} if timed else {}),
            **({"note": line.note} if noted else {}),
        }
        for line in lines
    ]


def cell_records(cells: Sequence[SweptCell]) -> list[Record]:
    """The cells of a sweep as records: settings, metrics averaged over seeds, and why a cell failed."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell.values))
    failed = any(cell.error for cell in cells)
    metrics = {"samples F1": "samples_f1", "macro F1": "macro_f1", "mAP": "map", "loss": "loss", "seconds": "seconds"}
    return [
        {
            "name": cell.name,
            **{key: cell.values.get(key) for key in keys if key != "head"},
            **{title: cell.mean(name) for title, name in metrics.items()},
            **({"error": cell.error} if failed else {}),
        }
        for cell in cells
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return shown(" ".join(map(str, value)) if isinstance(value, list | tuple) else value, LONGEST)


def _more(records: list[Record]) -> str:
    return f"\n... and {counted(len(records) - SHOWN_ROWS, 'more row')}" if len(records) > SHOWN_ROWS else ""
