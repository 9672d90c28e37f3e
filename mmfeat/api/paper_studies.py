"""The studies of the paper: which commands make each of its tables, what they would cost, and our figures beside theirs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmfeat.api.verbs import Project
from mmfeat.common.errors import MmfeatError
from mmfeat.common.text import counted, shown
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.report import paper_rows
from mmfeat.report.paper_figures import PaperTable, paper_table
from mmfeat.report.paper_sheet import Sheet

if TYPE_CHECKING:
    from mmfeat.runs.comparison import ScoredModel
    from mmfeat.runs.sweep import SweptCell
    from mmfeat.training.study_costs import Cost

IMAGE, TEXT = "image", "text"
HEADS = ("concat", "crossattn")
MODELS = tuple(row.key for row in paper_table(1).rows)


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of a reproduction, before it is run.

    Attributes
    ----------
    command : str
        The command that it is.
    tables : str
        The tables that it makes.
    seconds : float or None
        Estimate on this machine; 0 if it is made, None if it is not known before.
    what : str
        What is left to do.
    """

    command: str
    tables: str
    seconds: float | None
    what: str


class Study(ABC):
    """One part of the paper.

    Attributes
    ----------
    numbers : tuple of int
        Its tables; empty for self-training and the submission.
    encodes : bool
        Whether the project's encoders are fine-tuned and their features cached first.
    """

    numbers: tuple[int, ...]
    encodes: bool = False

    @abstractmethod
    def plan(self, project: Project) -> list[PlannedStep]:
        """Its steps and their cost; the project is opened with `dry=True`."""

    @abstractmethod
    def run(self, project: Project, step: Callable[[str], None]) -> list[Sheet]:
        """Run the commands, of which `step` is told, and return the tables."""


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

        return [_planned(self.command, "1, 6 to 9", comparison_cost(project, self.models))]

    def run(self, project: Project, step: Callable[[str], None]) -> list[Sheet]:
        """See :class:`Study`."""
        step(self.command)
        result = project.compare_encoders(*self.models)
        typed = {label: proposal.typed for label, proposal in result.proposals.items()}
        models = {typed.get(model.label, model.label): model for model in result.models}
        notes = [*_about(project), *(f"Not compared: {label}: {why}" for label, why in result.failed.items())]
        classes = project.manifest.classes
        return [
            paper_rows.encoder_sheet(paper_table(1), models, notes),
            paper_rows.model_class_sheet(paper_table(6), models, classes, notes),
        ]


class SettingsStudy(Study):
    """Comparison of settings of both encoders: Tables 2 to 4 and 10 to 13."""

    def __init__(self, numbers: Sequence[int]) -> None:
        both = not {4, 10, 11, 12, 13}.isdisjoint(numbers)
        self.tables = {
            name: paper_table(n) for n, name in ((2, IMAGE), (3, TEXT)) if both or n in numbers or not numbers
        }
        own = [n for n, name in ((2, IMAGE), (3, TEXT)) if name in self.tables]
        self.numbers = (*own, *((4, *range(10, 14)) if len(own) == 2 else ()))

    def plan(self, project: Project) -> list[PlannedStep]:
        """See :class:`Study`."""
        from mmfeat.training.study_costs import sweep_cost

        steps = []
        for name, table in self.tables.items():
            made = f"{table.numbers[0]}, 10 to 13" + (", 4" if name == TEXT else "")
            steps.append(_planned(_sweep_command(name, table), made, sweep_cost(project, name, _cells(table))))
        return steps

    def run(self, project: Project, step: Callable[[str], None]) -> list[Sheet]:
        """See :class:`Study`."""
        cells: dict[str, list[SweptCell]] = {}
        sheets, notes = [], _about(project)
        for name, table in self.tables.items():
            step(_sweep_command(name, table))
            cells[name] = project.sweep_finetune(name, cell=_cells(table)).cells
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
        return [_planned(self.command, "5, 14 to 17", cost)]

    def run(self, project: Project, step: Callable[[str], None]) -> list[Sheet]:
        """See :class:`Study`."""
        project = _encoded(project, step)
        step(self.command)
        result = project.compare_heads(*HEADS)
        models = {model.name: model for model in result.models if model.group == "paper"}
        notes = [*_about(project), *(f"Not compared: {name}: {why}" for name, why in result.failed.items())]
        classes = project.manifest.classes
        return [
            paper_rows.ablation_sheet(paper_table(5), models, _training_seconds(project, models), notes),
            paper_rows.model_class_sheet(paper_table(14), models, classes, notes),
        ]


class SubmissionStudy(Study):
    """Self-training (3.1.4) and the submission (4.5)."""

    numbers = ()
    encodes = True
    commands = ("mmfeat fuse --head crossattn", "mmfeat ensemble fm1", "mmfeat ensemble fm3")
    selftrain = "mmfeat selftrain --yes"

    def plan(self, project: Project) -> list[PlannedStep]:
        """See :class:`Study`."""
        from mmfeat.training.study_costs import Cost

        heads = Cost(seconds=None, what="heads on cached features; kept runs are not trained again")
        return [
            _planned("; ".join(self.commands), "submission", heads),
            _planned(self.selftrain, "submission", _rounds_cost(project)),
            _planned("mmfeat ensemble fm1; mmfeat predict RUN", "submission", Cost(seconds=None, what="in seconds")),
        ]

    def run(self, project: Project, step: Callable[[str], None]) -> list[Sheet]:
        """See :class:`Study`."""
        begun = _encoded(project, step)
        step(self.commands[0])
        begun.fuse(head="crossattn")
        lines: dict[str, MetricRow] = {}
        for key, recipe in (("FM1, before self-training", "fm1"), ("supervised", "fm3")):
            step(f"mmfeat ensemble {recipe}")
            lines[key] = begun.ensemble(recipe).lines[-1]
        step(self.selftrain)
        trained = project.selftrain(yes=True)
        step("mmfeat ensemble fm1")
        final = project.ensemble("fm1")
        lines["selftrained"] = final.lines[-1]
        step(f"mmfeat predict {final.run.name}")
        made = project.predict(final.run.name)
        notes = [
            "theirs: on Kaggle's 10,000 test images. ours: on val, because Kaggle's labels are not here. To compare, upload "
            f"{', '.join(path.name for path in made.files)}.",
            "supervised: FM3, of cross-attention and both encoders. After self-training: FM1 of the last accepted round, as "
            "in 3.1.4; it has seen the images and captions of the rows that it predicts (transductive).",
            f"Self-training kept round {trained.best} of {counted(len(trained.rounds) - 1, 'round')}.",
        ]
        return [paper_rows.submission_sheet(paper_table(0), lines, [*notes, *_about(project)])]


def encoders_step(project: Project) -> PlannedStep:
    """The step of studies that need the project's encoders."""
    from mmfeat.training.study_costs import encoding_cost

    return _planned("mmfeat finetune; mmfeat extract", "", encoding_cost(project))


# -- shared by the studies


def _planned(command: str, tables: str, cost: Cost) -> PlannedStep:
    return PlannedStep(command=command, tables=tables, seconds=cost.seconds, what=cost.what)


def _encoded(project: Project, step: Callable[[str], None]) -> Project:
    """The project with the encoders of its own fine-tuning, encoded. Those of a later self-training stay in use in its folder."""
    from mmfeat.training.encoder_rounds import as_before
    from mmfeat.training.finetune_plan import fit_plan

    before = as_before(project)
    made = {name: fit_plan(project, name, freeze=False).made for name in (IMAGE, TEXT)}
    if all(one is not None and before.identity(name).checkpoint == one.name for name, one in made.items()):
        tables = before.config.encoder
        pinned = {f"encoder.{name}.checkpoint": tables[name].checkpoint for name in made}
        own = project.config.encoder
        project = project.with_settings({k: v for k, v in pinned.items() if own[k.split(".")[1]].checkpoint != v})
    else:
        step("mmfeat finetune")
        project.finetune()
    step("mmfeat extract")
    project.extract()
    return project


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


def _training_seconds(project: Project, models: dict[str, ScoredModel]) -> dict[str, float]:
    """Seconds of training of each model of the ablation, with its encoders: the paper's time is not defined."""
    encoders = {}
    for name in (IMAGE, TEXT):
        checkpoint = project.checkpoint(project.identity(name))
        encoders[name] = checkpoint.record["seconds"] if checkpoint is not None else 0.0
    both = sum(encoders.values())
    return {
        name: encoders.get(name, both) + (model.kept.seconds or 0.0 if name not in encoders else 0.0)
        for name, model in models.items()
    }


def _about(project: Project) -> list[str]:
    """The rows, and how the project's encoders differ from the paper's."""
    manifest, keys = project.manifest, {IMAGE: "efficientnet_b4", TEXT: "google/bert_uncased_L-2_H-128_A-2"}
    rows = {which: len(manifest.rows(which)) for which in ("train", "val", "unlabelled")}
    notes = ["Rows: " + ", ".join(f"{n:,} {which}" for which, n in rows.items()) + "."]
    for name, wanted in keys.items():
        table = project.config.encoder.get(name)
        if table is not None and (table.model != wanted or table.pretrained == "random"):
            weights = " with random weights" if table.pretrained == "random" else ""
            notes.append(
                f"The {name} encoder is not the paper's ({wanted}): it is {shown(table.model)}{weights}. Differences are "
                "those of the encoders and the data."
            )
    return notes
