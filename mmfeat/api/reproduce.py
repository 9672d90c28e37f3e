"""`mmfeat reproduce`: the whole paper in one command, and every table beside the paper's numbers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.api.paper_steps import IMAGE, TEXT, PlannedStep, Study, encoders_step
from mmfeat.api.paper_studies import MODELS, AblationStudy, EncoderStudy, SettingsStudy, SubmissionStudy
from mmfeat.api.verbs import Project, init
from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.files import staging_folder, write_atomic
from mmfeat.common.progress import clock, quiet, say
from mmfeat.common.text import counted, shown
from mmfeat.config.schema import FILE_NAME
from mmfeat.config.toml_edits import with_values
from mmfeat.data.demo_data import make_demo
from mmfeat.report.outputs import Outputs
from mmfeat.report.paper_files import FOLDER, check_paper, write_paper
from mmfeat.report.paper_sheet import Sheet
from mmfeat.report.result import Record, TableResult

SCALES = ("paper", "small")
SMALL_FOLDER, SMALL_MODELS = "mmfeat-paper-small", (IMAGE, "test_resnet=random", TEXT)
_SMALL = {"n_labelled": 500, "n_unlabelled": 300}
_SMALL_SETTINGS: dict[str, bool | float | str] = {
    "encoder.image.size": 64,
    "encoder.text.model": "./data/text-encoder",
    "finetune.image.epochs": 4,
    "finetune.text.epochs": 4,
    "selftrain.rounds": 2,
}


@dataclass(frozen=True, kw_only=True, repr=False)
class ReproduceResult(TableResult):
    """Tables beside the paper's.

    Attributes
    ----------
    folder : Path
        `paper/` of the project.
    files : list of Path
        Markdown, one HTML page, and a CSV for each table.
    sheets : list of Sheet
        The tables that this run made.
    seconds : float
        Duration of this run.
    """

    folder: Path
    files: list[Path]
    sheets: list[Sheet]
    seconds: float

    def _about(self) -> str:
        return f"Made {self.folder} in {clock(self.seconds)}: {counted(len(self.sheets), 'table')}"

    def _table(self) -> list[Record]:
        return [
            {
                "table": sheet.name,
                "row": row.name,
                "figure": title,
                "theirs": one.theirs,
                "ours": one.ours,
                "low": one.low,
                "high": one.high,
                "difference": one.difference,
            }
            for sheet in self.sheets
            for row in sheet.rows
            for title, one in row.figures.items()
        ]


@dataclass(frozen=True, kw_only=True, repr=False)
class ReproduceDryRun(TableResult):
    """The steps of a reproduction and what each costs. Nothing was written.

    Attributes
    ----------
    steps : list of PlannedStep
        In their order.
    """

    steps: list[PlannedStep]

    @property
    def seconds(self) -> float:
        """About how long the steps take whose time is known before."""
        return sum(step.seconds or 0.0 for step in self.steps)

    def _about(self) -> str:
        return f"Nothing was written. It would take about {clock(self.seconds)}, and the steps without an estimate."

    def _table(self) -> list[Record]:
        return [dataclasses.asdict(step) for step in self.steps]


def reproduce(
    folder: str | Path = ".",
    *,
    tables: Sequence[int] | int | str | None = None,
    self_training: bool = False,
    scale: str = "paper",
    dry_run: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> ReproduceResult | ReproduceDryRun:
    """Run the paper's studies in a project, and write every table beside the paper's numbers into `paper/`.

    What exists is not made again, so an interrupted run continues. The tables of each study are written as soon as it ends.

    Parameters
    ----------
    folder : Path
        A project of `init(preset="paper")`. With scale `small`, the folder in which its project `mmfeat-paper-small` is made.
    tables : sequence of int, optional
        Tables of the paper; all, and self-training, if neither is given.
    self_training : bool
        Whether to run self-training and make the submission.
    scale : str
        `small` runs everything on the demo's data with tiny encoders, in minutes.
    dry_run : bool
        Write nothing. Return the steps and what each costs on this machine.
    overwrite : bool
        Whether to replace files of `paper/` that were changed since they were written.

    Raises
    ------
    ConfigError
        There is no such table or scale, or no project; or the project lacks the encoders `image` and `text`.
    DataError
        There are no val rows to compare on.
    OutputError
        A file of `paper/` was changed since it was written.
    MmfeatError
        Another reproduction of the project is running.
    """
    numbers = _numbers(tables)
    if scale not in SCALES:
        raise ConfigError(f"--scale {scale[:40]!r}. Use one of: {', '.join(SCALES)}")
    with quiet(not progress):
        root, models = (folder, MODELS) if scale == "paper" else (_small(Path(folder)), SMALL_MODELS)
        project = Project(root, progress=progress)
        _check(project)
        own = [name for name in (IMAGE, TEXT) if project.config.encoder[name].model not in models]
        studies = _studies(numbers, self_training, list(dict.fromkeys([*models, *own])))
        if dry_run:
            return ReproduceDryRun(steps=plan_steps(project, studies))
        with alone_in(project.root / FOLDER, "mmfeat reproduce"):
            return _run(project, studies, overwrite=overwrite)


def plan_steps(project: Project, studies: Sequence[Study]) -> list[PlannedStep]:
    """The steps of studies; that which several share, once."""
    dry = Project(project.root, project.overrides, dry=True, progress=project.progress)
    steps: list[PlannedStep] = []
    encoded = False
    for study in studies:
        if study.encodes and not encoded:
            steps.append(encoders_step(dry))
            encoded = True
        steps += study.plan(dry)
    return steps


def _run(project: Project, studies: Sequence[Study], *, overwrite: bool) -> ReproduceResult:
    start, outputs = time.perf_counter(), Outputs(project.config, overwrite=overwrite)
    check_paper(outputs, project.root)
    for name in (name for study in studies for name in study.files):
        outputs.check(project.root / name)
    for one in plan_steps(project, studies):
        cost = "-" if one.seconds is None else "made" if not one.seconds else f"about {clock(one.seconds)}"
        say(f"{shown(one.command, 100)}: {cost}; {one.what}")
    sheets: list[Sheet] = []
    files: list[Path] = []
    for study in studies:
        made = study.run(project, lambda command: say(f"$ {command}"), overwrite=overwrite)
        sheets += made
        files = write_paper(outputs, project.root, made)
    return ReproduceResult(
        folder=project.root / FOLDER, files=files, sheets=sheets, seconds=time.perf_counter() - start
    )


def _numbers(tables: Sequence[int] | int | str | None) -> list[int]:
    if tables is None:
        return []
    texts: Sequence[Any] = (
        tables.split(",") if isinstance(tables, str) else [tables] if isinstance(tables, int) else tables
    )
    numbers = [int(text) if str(text).strip().isdecimal() else 0 for text in texts]
    if not numbers or not all(1 <= n <= 17 for n in numbers):
        raise ConfigError(f"--tables {str(tables)[:40]!r}: use numbers from 1 to 17, such as 1,2,3,5")
    return numbers


def _studies(numbers: Sequence[int], self_training: bool, models: Sequence[str]) -> list[Study]:
    """The studies that make the tables; all, if neither tables nor self-training are asked for."""
    every = not numbers and not self_training
    asked = set(numbers)
    found: list[Study] = []
    if every or asked & set(EncoderStudy.numbers):
        found.append(EncoderStudy(models))
    if every or asked & set(SettingsStudy.numbers):
        found.append(SettingsStudy(numbers))
    if every or asked & set(AblationStudy.numbers):
        found.append(AblationStudy())
    if every or self_training:
        found.append(SubmissionStudy())
    return found


def _check(project: Project) -> None:
    lacking = [name for name in (IMAGE, TEXT) if name not in project.config.encoder]
    if lacking:
        raise ConfigError(
            f"{FILE_NAME}: no encoder {' and '.join(lacking)}. Make a project with: mmfeat init SOURCE --preset paper"
        )
    if not len(project.manifest.rows("val")):
        raise DataError("manifest.parquet: no val rows to compare on. Set [split] val and run: mmfeat init")


def _small(parent: Path) -> Path:
    """The project of scale `small`: the demo's data, tiny encoders with random weights, the preset's settings."""
    root = parent.expanduser().resolve() / SMALL_FOLDER
    if (root / FILE_NAME).is_file():
        return root
    if root.exists():
        raise ConfigError(f"{root}: exists and was not made by mmfeat reproduce. Move it away")
    say("making pictures and captions")
    with staging_folder(root.parent) as staged:
        make_demo(staged / "data", 0, **_SMALL)
        init(
            staged,
            staged / "data",
            val=0.2,
            preset="paper",
            image_encoder="test_efficientnet",
            image_weights="random",
            text_encoder=str(staged / "data" / "text-encoder"),
            text_weights="random",
        )
        file = staged / FILE_NAME
        write_atomic(file, with_values(file.read_text(encoding="utf-8"), _SMALL_SETTINGS))
        staged.rename(root)
    return root
