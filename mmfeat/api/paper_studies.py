"""The studies of the paper: which commands make each of its tables, what they would cost, and our figures beside theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mmfeat.api.paper_steps import (
    IMAGE,
    TEXT,
    PlannedStep,
    Study,
    about,
    before_rounds,
    encode,
    planned,
    with_encoders_of,
)
from mmfeat.api.verbs import Project
from mmfeat.common.errors import MmfeatError
from mmfeat.common.text import counted
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report import paper_rows
from mmfeat.report.paper_figures import PaperTable, paper_table
from mmfeat.report.paper_sheet import Sheet

if TYPE_CHECKING:
    from mmfeat.runs.sweep import SweptCell
    from mmfeat.training.study_costs import Cost

HEADS = ("concat", "crossattn")
MODELS = tuple(row.key for row in paper_table(1).rows)


class EncoderStudy(Study):
    """Comparison of encoders: Tables 1 and 6 to 9."""

    numbers = (1, *range(6, 10))

    def __init__(self, models: Sequence[str]) -> None:
        self.models = models

    @property
    def command(self) -> str:
        """The command."""
        return f"mmfeat compare encoders {' '.join(self.models)}"

    def plan(self, project: Project) -> list[PlannedStep]:
        """See :class:`Study`."""
        from mmfeat.training.study_costs import comparison_cost

        return [planned(self.command, "1, 6 to 9", comparison_cost(project, self.models))]

    def run(self, project: Project, step: Callable[[str], None], *, overwrite: bool) -> list[Sheet]:
        """See :class:`Study`."""
        step(self.command)
        result = project.compare_encoders(*self.models, overwrite=overwrite)
        typed = {label: proposal.typed for label, proposal in result.proposals.items()}
        models = {typed.get(model.label, model.label): model for model in result.models}
        notes = [*about(project), *(f"Not compared: {label}: {why}" for label, why in result.failed.items())]
        classes = project.manifest.classes
        return [
            paper_rows.encoder_sheet(paper_table(1), models, notes),
            paper_rows.model_class_sheet(paper_table(6), models, classes, notes),
        ]


class SettingsStudy(Study):
    """Comparison of settings of both encoders: Tables 2 to 4 and 10 to 13, or 2 or 3 alone."""

    of_both = (4, *range(10, 14))
    numbers = (2, 3, *of_both)

    def __init__(self, numbers: Sequence[int]) -> None:
        both = not set(self.of_both).isdisjoint(numbers)
        self.tables = {
            name: paper_table(n) for n, name in ((2, IMAGE), (3, TEXT)) if both or n in numbers or not numbers
        }
        own = [n for n, name in ((2, IMAGE), (3, TEXT)) if name in self.tables]
        self.numbers = (*own, *(self.of_both if len(own) == 2 else ()))

    def plan(self, project: Project) -> list[PlannedStep]:
        """See :class:`Study`."""
        from mmfeat.training.study_costs import sweep_cost

        steps = []
        for name, table in self.tables.items():
            made = f"{table.numbers[0]}, 10 to 13" + (", 4" if name == TEXT else "")
            steps.append(planned(_sweep_command(name, table), made, sweep_cost(project, name, _cells(table))))
        return steps

    def run(self, project: Project, step: Callable[[str], None], *, overwrite: bool) -> list[Sheet]:
        """See :class:`Study`."""
        cells: dict[str, list[SweptCell]] = {}
        sheets, notes = [], about(project)
        for name, table in self.tables.items():
            step(_sweep_command(name, table))
            cells[name] = project.sweep_finetune(name, cell=_cells(table), overwrite=overwrite).cells
            sheets.append(paper_rows.settings_sheet(table, cells[name], notes))
        if len(cells) == 2:
            classes = project.manifest.classes
            sheets.append(paper_rows.best_sheet(paper_table(4), cells, notes))
            sheets.append(paper_rows.settings_class_sheet(paper_table(10), cells, classes, notes))
        return sheets


class AblationStudy(Study):
    """Ablation: Tables 5 and 14 to 17."""

    numbers = (5, *range(14, 18))
    encodes = True
    command = f"mmfeat compare heads {' '.join(HEADS)}"

    def plan(self, project: Project) -> list[PlannedStep]:
        """See :class:`Study`."""
        from mmfeat.training.study_costs import Cost

        cost = Cost(seconds=None, what="heads on cached features; kept heads are not trained again")
        return [planned(self.command, "5, 14 to 17", cost)]

    def run(self, project: Project, step: Callable[[str], None], *, overwrite: bool) -> list[Sheet]:
        """See :class:`Study`."""
        from mmfeat.workflows.compare_heads import compare_heads

        encode(project, step)
        step(self.command)
        result = compare_heads(before_rounds(project), HEADS, overwrite=overwrite)
        models = {model.name: model for model in result.models if model.group == "paper"}
        notes = [*about(project), *(f"Not compared: {name}: {why}" for name, why in result.failed.items())]
        classes = project.manifest.classes
        return [
            paper_rows.ablation_sheet(paper_table(5), models, notes),
            paper_rows.model_class_sheet(paper_table(14), models, classes, notes),
        ]


class SubmissionStudy(Study):
    """Self-training (3.1.4) and the submission (4.5)."""

    numbers = ()
    files = ("submission.csv", "predictions.parquet")
    encodes = True
    commands = ("mmfeat fuse --head crossattn", "mmfeat ensemble fm1", "mmfeat ensemble fm3")
    selftrain = "mmfeat selftrain --yes"

    def plan(self, project: Project) -> list[PlannedStep]:
        """See :class:`Study`."""
        from mmfeat.training.study_costs import Cost

        heads = Cost(seconds=None, what="heads on cached features; kept runs are not trained again")
        return [
            planned("; ".join(self.commands), "submission", heads),
            planned(self.selftrain, "submission", _rounds_cost(project)),
            planned("mmfeat ensemble fm1; mmfeat predict RUN", "submission", Cost(seconds=None, what="in seconds")),
        ]

    def run(self, project: Project, step: Callable[[str], None], *, overwrite: bool) -> list[Sheet]:
        """See :class:`Study`."""
        from mmfeat.workflows.ensemble import ensemble
        from mmfeat.workflows.fuse import fuse
        from mmfeat.workflows.predict import predict

        encode(project, step)
        step(self.commands[0])
        fuse(before_rounds(project), "crossattn")
        lines: dict[str, MetricRow] = {}
        for key, recipe in (("FM1, before self-training", "fm1"), ("supervised", "fm3")):
            step(f"mmfeat ensemble {recipe}")
            lines[key] = ensemble(before_rounds(project), [recipe]).lines[-1]
        step(self.selftrain)
        trained = project.selftrain(yes=True)
        step("mmfeat ensemble fm1")
        final = ensemble(with_encoders_of(project, trained.run), ["fm1"])
        lines["selftrained"] = final.lines[-1]
        members = [IMAGE, TEXT, trained.run.name]
        step(f"mmfeat ensemble {' '.join(members)}")
        lines["FM3, after self-training"] = ensemble(with_encoders_of(project, trained.run), members).lines[-1]
        step(f"mmfeat predict {final.run.name}")
        made = predict(with_encoders_of(project, trained.run), final.run.name, overwrite=overwrite)
        notes = [
            "theirs: on Kaggle's 10,000 test images. ours: on val, because Kaggle's labels are not here. To compare, upload "
            f"{made.files[0].name}.",
            "Final model: FM3, the mean of cross-attention and both encoders. After self-training: FM1 of the last accepted "
            "round, as in 3.1.4; it has seen the images and captions of the rows that it predicts (transductive).",
            f"Self-training kept round {trained.best} of {counted(len(trained.rounds) - 1, 'round')}.",
        ]
        return [paper_rows.submission_sheet(paper_table(0), lines, [*notes, *about(project)])]


def _rounds_cost(project: Project) -> Cost:
    """The cost of self-training: measured by its own plan once there are features."""
    from mmfeat.training.study_costs import Cost, rounds_cost
    from mmfeat.workflows.selftrain import about_cost, plan_selftrain

    try:
        plan = plan_selftrain(project)
        if plan.run is not None:
            return Cost(seconds=0.0, what="made")
        if (cost := plan.cost()) is not None:
            return Cost(seconds=cost.all_seconds, what=about_cost(cost))
    except MmfeatError:  # before there are features
        pass
    return rounds_cost(project)


def _sweep_command(name: str, table: PaperTable) -> str:
    words = [",".join(f"{key}={value}" for key, value in cell.items()) for cell in _cells(table)]
    return f"mmfeat sweep finetune {name} {' '.join(f'--cell {word}' for word in words)}"


def _cells(table: PaperTable) -> list[dict[str, str]]:
    return [
        {key: f"{v:g}" if isinstance(v, float) else str(v) for key, v in row.settings.items()} for row in table.rows
    ]
