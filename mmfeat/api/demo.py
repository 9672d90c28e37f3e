"""`mmfeat demo`: the main commands on a small synthetic data set, compared on labels that were hidden from all of them."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from mmfeat.api.verbs import Project, init
from mmfeat.common.errors import ConfigError
from mmfeat.common.files import TEMPORARY, staging_folder, write_atomic
from mmfeat.common.labels import encode
from mmfeat.common.progress import clock, quiet, say
from mmfeat.common.text import counted
from mmfeat.config.reader import config_of
from mmfeat.config.schema import FILE_NAME
from mmfeat.data.demo_data import make_demo
from mmfeat.inference.fitted_rules import shipped_rule
from mmfeat.inference.logits import logits_of
from mmfeat.metrics.metric_rows import MetricRow, metrics_of
from mmfeat.report.result import Record, TableResult, metric_records

if TYPE_CHECKING:
    from mmfeat.workflows.finetune import FinetuneResult

R = TypeVar("R")
SETTINGS = """\
# The demo's project. docs/configuration.md explains each key.
schema = 1
metric = "map"        # the least noisy metric on few val rows
seed   = {seed}

[data]
source = "data"
images = "data/images.zip"

[split]
val = 0.2

[encoder.image]
model      = "{image_model}"
pretrained = "random"
size       = {size}

[encoder.text]
model      = "./data/text-encoder"
pretrained = "random"

[finetune]
recipe = "paper"                   # the other recipe is for pretrained weights; these are random

[finetune.image]
epochs = {image_epochs}
lr     = 3e-3
batch_size = 32
patience = 50
warm_up  = 0.1
schedule = "cosine"
clip     = 1

[finetune.text]
epochs = 12
lr     = 3e-3
batch_size = 64
patience = 50
warm_up  = 0.1
schedule = "cosine"
clip     = 1

[fuse.crossattn]
token_width = 32

[predict]
threshold = "auto"                 # fitted on val where that beats 0.5
"""
IMAGE_MODEL, SIZE, IMAGE_EPOCHS = "test_efficientnet", 64, 24


@dataclass(frozen=True, kw_only=True, repr=False)
class DemoResult(TableResult):
    """Metrics of every step on the hidden labels.

    Attributes
    ----------
    folder : Path
        The demo's project.
    lines : list of MetricRow
        A row for each model.
    n_rows : int
        Rows with hidden labels.
    seconds : float
        Duration of the demo.
    """

    folder: Path
    lines: list[MetricRow]
    n_rows: int
    seconds: float

    def _about(self) -> str:
        return f"Made {self.folder} in {clock(self.seconds)}: metrics on {counted(self.n_rows, 'unlabelled row')}"

    def _table(self) -> list[Record]:
        return metric_records(self.lines)


def demo(folder: Path | str = "mmfeat-demo", seed: int = 0, *, progress: bool = True) -> DemoResult:
    """Make the data set and run the commands in `folder`. Existing results are reused.

    Parameters
    ----------
    seed : int
        Seed of the data set and of everything after it.
    progress : bool
        Whether to show progress and notes on stderr.

    Raises
    ------
    ConfigError
        The folder exists and was not made by the demo.
    """
    with quiet(not progress):
        return _demo(Path(folder).resolve(), seed)


def _demo(folder: Path, seed: int) -> DemoResult:
    start = time.perf_counter()
    config_of({"seed": seed}, folder)  # checks the seed before anything is written
    settings = SETTINGS.format(seed=seed, image_model=IMAGE_MODEL, size=SIZE, image_epochs=IMAGE_EPOCHS)
    file = folder / FILE_NAME
    ours = file.is_file() and file.read_text(encoding="utf-8") == settings
    if not ours and folder.exists() and any(not path.name.startswith(TEMPORARY) for path in folder.iterdir()):
        raise ConfigError(
            f"{folder}: exists and was not made by the demo with this seed. Use: mmfeat demo --folder NEW"
        )
    write_atomic(file, settings)
    if not (folder / "data").is_dir():
        say("making pictures and captions")
        with staging_folder(folder) as staged:
            make_demo(staged, seed)
            staged.rename(folder / "data")
    project, models = _run_commands(folder)
    rows = project.manifest.rows("unlabelled")
    truth = hidden_truth(folder / "data" / "truth.csv", project.manifest.ids[rows], project.manifest.classes)
    lines = []
    for label, name, seconds in models:
        metrics = metrics_of(truth, logits_of(project, name, rows).logits, shipped_rule(project, name))
        lines.append(MetricRow.of(label, metrics, seconds))
    return DemoResult(folder=folder, lines=lines, n_rows=len(rows), seconds=time.perf_counter() - start)


def _run_commands(folder: Path) -> tuple[Project, list[tuple[str, str, float]]]:
    """Run the commands. Returns the project, and label, name and seconds of each model to compare."""
    project = _step("mmfeat init", lambda: init(folder))
    tuned = _step("mmfeat finetune", project.finetune)
    _step("mmfeat extract", project.extract)
    concat = _step("mmfeat fuse --head concat", lambda: project.fuse(head="concat")).run
    crossattn = _step("mmfeat fuse --head crossattn", project.fuse).run
    fm1 = _step("mmfeat ensemble fm1", lambda: project.ensemble("fm1")).run
    selftrained = _step("mmfeat selftrain --rounds 5", lambda: project.selftrain(rounds=5)).run
    _step("mmfeat predict", project.predict)
    _step("mmfeat evaluate", project.evaluate)
    image, text = (one.checkpoint.record["seconds"] for one in cast("FinetuneResult", tuned).encoders)
    return project, [
        ("image only", "image", image),
        ("text only", "text", text),
        ("mean of both logits", fm1.name, 0.0),
        ("concat", concat.name, concat.record["seconds"]),
        ("cross-attention", crossattn.name, crossattn.record["seconds"]),
        ("after self-training (transductive)", selftrained.name, selftrained.record["seconds"]),
    ]


def hidden_truth(path: Path, ids: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Labels `(n, K)` int8 of rows whose labels the project does not have."""
    with path.open(encoding="utf-8", newline="") as file:
        labels = {row["ImageID"]: row["Labels"].split() for row in csv.DictReader(file)}
    return encode([labels[str(i)] for i in ids], classes)


def _step(command: str, run: Callable[[], R]) -> R:
    """Run one command and say how long it took."""
    say(f"$ {command}")
    start = time.perf_counter()
    result = run()
    say(f"  {clock(time.perf_counter() - start)}")
    return result
