"""A comparison of models as tables for a terminal, as CSV, as Markdown and as a plot. A `Layout` describes each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfeat.common.csv_text import csv_text
from mmfeat.common.text import counted, shown
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report.markdown import escaped, markdown_table
from mmfeat.report.outputs import Outputs
from mmfeat.report.table_layout import Table, count, number, outside, table
from mmfeat.report.trained_columns import IN_SAMPLE, in_sample_cell, in_sample_title, n_in_sample
from mmfeat.runs.comparison import ScoredModel

PLOT = "comparison.png"
CLASSES_SHOWN = 40  # in a terminal


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table of models.

    Attributes
    ----------
    cell : callable
        From a scored model to its text.
    baseline : callable, optional
        From a baseline's metrics to its text; empty when None.
    """

    title: str
    cell: Callable[[ScoredModel], str]
    baseline: Callable[[MetricRow], str] | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of a comparison that differ between heads and encoders.

    Attributes
    ----------
    heading, picture : str
        Title such as `Heads`, and a description of the plot.
    columns, further : sequence of Column
        Columns of the main table, and of a second table.
    csv_columns : sequence of str
        Columns of `models.csv`.
    csv_row, csv_baseline : callable
        From a model or a baseline to its values by column. Without `csv_baseline`, the file has no baselines.
    class_columns : sequence of (str, str)
        Columns of `classes.csv` for each model: a title with `{label}`, and the array of `Scores` that it shows, with
        `trained.` before it for in-sample scores.
    notes, conclusions : sequence of str
        How to read the table, and its main results.
    groups : bool
        Whether models are listed under the name of their group.
    draw : callable
        Writes the plot to a path.
    """

    heading: str
    picture: str
    columns: Sequence[Column]
    csv_columns: Sequence[str]
    csv_row: Callable[[ScoredModel], dict[str, Any]]
    draw: Callable[[Path], None]
    csv_baseline: Callable[[MetricRow], dict[str, Any]] | None = None
    class_columns: Sequence[tuple[str, str]] = (("{label}", "class_f1"),)
    further: Sequence[Column] = ()
    notes: Sequence[str] = ()
    conclusions: Sequence[str] = ()
    groups: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparisonTable:
    """Scored models on the same rows, ready to be shown or written.

    Attributes
    ----------
    title : str
        Names the rows, such as `2,000 val rows`.
    """

    title: str
    models: Sequence[ScoredModel]
    baselines: Sequence[MetricRow]
    classes: Sequence[str]
    layout: Layout = field(repr=False)

    def __str__(self) -> str:
        return str(self.main)

    @property
    def main(self) -> Table:
        """The table of models."""
        return _aligned(*self._models(), first="model", title=self.title)

    @property
    def notes(self) -> str:
        """How to read the table."""
        return "\n".join(self.layout.notes)

    @property
    def further(self) -> Table:
        """The table of further metrics."""
        return _aligned(*self._further(), first="model", title="further metrics")

    @property
    def in_sample(self) -> Table | None:
        """The scores on training rows; None if no model has any."""
        head, rows = self._in_sample()
        return _aligned(head, rows, first="model", title=head[0]) if rows else None

    @property
    def by_class(self) -> Table:
        """F1 of each class by each model; with very many classes, the weakest of the first model."""
        head, rows = self._by_class()
        if len(rows) > CLASSES_SHOWN:
            weakest = [k for k, *_ in self.models[0].metrics.scores.weakest(CLASSES_SHOWN)]
            rows = [rows[k] for k in [*weakest, *sorted(set(range(len(rows))) - set(weakest))]]
        return _aligned(head, rows, first="class", title="F1 by class", most=CLASSES_SHOWN)

    @property
    def about_classes(self) -> str:
        """The classes that :attr:`by_class` leaves out; empty if there are none."""
        n = len(self.classes)
        every = f"The weakest {CLASSES_SHOWN} of {counted(n, 'class', 'classes')}. All are in classes.csv."
        return every if n > CLASSES_SHOWN else ""

    def _models(self) -> tuple[list[str], list[list[str] | str]]:
        columns = self.layout.columns
        rows = [[b.label, *(c.baseline(b) if c.baseline else "" for c in columns), b.note] for b in self.baselines]
        groups = list(dict.fromkeys(model.group for model in self.models))
        heads = self.layout.groups and len(groups) > 1
        for group in groups if self.layout.groups else [None]:
            if heads:
                rows.append(f"{group}:")
            for model in self.models:
                if group is None or model.group == group:
                    rows.append([model.label, *(c.cell(model) for c in columns), _note(model)])
        return [self.title, *(c.title for c in columns)], rows

    def _further(self) -> tuple[list[str], list[list[str]]]:
        columns = self.layout.further
        rows = [[model.label, *(c.cell(model) for c in columns)] for model in self.models]
        return ["further metrics", *(c.title for c in columns)], rows

    def _in_sample(self) -> tuple[list[str], list[list[str]]]:
        known = [model for model in self.models if model.trained is not None]
        rows = [[model.label, *(in_sample_cell(model, name) for name in IN_SAMPLE)] for model in known]
        title = f"in-sample, {counted(n_in_sample(known), 'training row')}"
        return [title, *map(in_sample_title, IN_SAMPLE)], rows

    def _by_class(self, array: str = "class_f1") -> tuple[list[str], list[list[str]]]:
        title = "F1 by class" if array == "class_f1" else "accuracy by class"
        rows = [
            [
                name,
                count(n),
                *(number(_of_class(model, array, k), unknown="") for model in self.models),
            ]
            for k, (name, n) in enumerate(self._positives())
        ]
        return [title, "rows", *(model.label for model in self.models)], rows

    def _positives(self) -> Iterable[tuple[str, int]]:
        return zip(self.classes, self.models[0].metrics.scores.n_positives, strict=True)

    def models_csv(self) -> str:
        """One row for each model; an unknown value is blank.

        `*_low` and `*_high` are 95 % intervals over rows. `difference` and its interval are to the best, in the
        project's metric. `seed_f1` and `seed_deviation` are the mean and deviation of samples F1 over single seeds.
        """
        layout = self.layout
        rows = [layout.csv_baseline(b) for b in self.baselines] if layout.csv_baseline else []
        rows += [layout.csv_row(model) | {"note": _note(model)} for model in self.models]
        columns = [*layout.csv_columns, "note"]
        return csv_text(columns, (_rounded(row.get(name) for name in columns) for row in rows), quoted=True)

    def classes_csv(self) -> str:
        """Scores of each class by each model, on the rows and in-sample, and its number of positives.

        F1 is blank for a class without a positive.
        """
        columns = [one for one in self.layout.class_columns if self.in_sample or not one[1].startswith("trained.")]
        pairs = [(model, *column) for column in columns for model in self.models]
        head = ["class", "n_positives", *(title.format(label=model.label) for model, title, _ in pairs)]
        rows = []
        for k, (name, n) in enumerate(self._positives()):
            cells = [_of_class(model, array, k) for model, _, array in pairs]
            rows.append(_rounded([name, int(n), *cells]))
        return csv_text(head, rows, quoted=True)

    def markdown(self) -> str:
        """A page with all tables and the plot `comparison.png`."""
        layout = self.layout
        head, rows = self._models()
        lines = [f"# {layout.heading} compared on {self.title}", "", f"![{layout.picture}]({PLOT})", ""]
        lines += [*markdown_table([*head, "note"], rows), ""]
        if layout.conclusions:
            lines += [*(f"- {escaped(line, 1000)}" for line in layout.conclusions), ""]
        lines += [self.notes, ""]
        if layout.further:
            lines += ["## Further metrics", "", *markdown_table(*self._further()), ""]
        if (found := self._in_sample())[1]:
            lines += ["## In-sample", "", *markdown_table(*found), ""]
        lines += ["## F1 by class", "", *markdown_table(*self._by_class()), ""]
        return "\n".join([*lines, "## Accuracy by class", "", *markdown_table(*self._by_class("class_accuracy")), ""])

    def write(self, outputs: Outputs, folder: Path) -> tuple[list[Path], bool]:
        """Write `models.csv`, `classes.csv`, `comparison.md` and `comparison.png`, unless they are up to date.

        Raises
        ------
        OutputError
            One of them was changed since it was written.

        Returns
        -------
        tuple
            The four files, and whether anything was written.
        """
        texts = {"models.csv": self.models_csv(), "classes.csv": self.classes_csv(), "comparison.md": self.markdown()}
        changed = [name for name, text in texts.items() if _differs(folder / name, text)]
        plot = folder / PLOT
        for file in [*(folder / name for name in changed), plot] if changed else []:  # all or nothing
            outputs.check(file, own=True, earlier=True)
        for name, text in texts.items():
            outputs.write(folder / name, text, own=True, earlier=True)
        written = bool(changed) or not plot.is_file()
        if written:
            with outputs.replacing(plot, own=True, earlier=True) as temporary:
                self.layout.draw(temporary)
        return [*(folder / name for name in texts), plot], written


def _note(model: ScoredModel) -> str:
    return "; ".join(filter(None, [model.verdict, model.note]))


def _of_class(model: ScoredModel, array: str, k: int) -> float | None:
    """A score of one class; None if it is unknown, or an F1 without a positive. `trained.` before its name: in-sample."""
    found = model.trained if array.startswith("trained.") else model.metrics.scores
    name = array.removeprefix("trained.")
    if found is None or (name == "class_f1" and not found.n_positives[k]):
        return None
    return float(getattr(found, name)[k])


def _differs(file: Path, text: str) -> bool:
    return not file.is_file() or file.read_bytes() != text.encode()


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str] | str], **more: Any) -> Table:
    """A table whose titles and first cells may be any text: they are escaped and shortened."""
    cells = [row if isinstance(row, str) else [outside(row[0]), *row[1:]] for row in rows]
    return table([shown(cell, 30) for cell in head], cells, **more)


def _rounded(row: Iterable[Any]) -> list[Any]:
    return [round(cell, 6) if isinstance(cell, float) else cell for cell in row]
