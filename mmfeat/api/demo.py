"""`mmfeat demo`: every command on a small made data set, compared on labels that none of them has seen."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import ConfigError
from mmfeat.common.files import TEMPORARY, staging_folder, write_atomic
from mmfeat.common.labels import encode
from mmfeat.common.progress import clock, say
from mmfeat.config.reader import config_of
from mmfeat.config.schema import FILE_NAME
from mmfeat.data.demo_data import make_demo
from mmfeat.inference.fitted_rules import shipped_rule
from mmfeat.inference.logits import logits_of
from mmfeat.metrics.metric_rows import MetricRow, metrics_of
from mmfeat.project.encoding import extract
from mmfeat.project.initialisation import init
from mmfeat.project.project import Project
from mmfeat.workflows.ensemble import ensemble
from mmfeat.workflows.evaluate import evaluate
from mmfeat.workflows.finetune import finetune
from mmfeat.workflows.fuse import fuse
from mmfeat.workflows.predict import predict
from mmfeat.workflows.selftrain import selftrain

SETTINGS = """\
# The demo's project: what each key means stands in docs/configuration.md
schema = 1
metric = "map"        # on few val rows the least noisy of the figures
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
recipe = "paper"                   # the other one is for pretrained weights; here they are random

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
"""
IMAGE_MODEL, SIZE, IMAGE_EPOCHS = "test_efficientnet", 64, 24


@dataclass(frozen=True)
class DemoResult:
    """The comparison on the hidden truth, and where everything lies."""

    folder: Path
    lines: list[MetricRow]
    n_rows: int
    seconds: float


def demo(folder: Path | str = "mmfeat-demo", seed: int = 0) -> DemoResult:
    """Make the data and run the commands in `folder`; typed again, what is there already is not made again.

    Raises
    ------
    ConfigError
        The folder is there and is something else.
    """
    start = time.perf_counter()
    folder = Path(folder).resolve()
    config_of({"seed": seed}, folder)  # a seed that is none is said before anything is written
    settings = SETTINGS.format(seed=seed, image_model=IMAGE_MODEL, size=SIZE, image_epochs=IMAGE_EPOCHS)
    file = folder / FILE_NAME
    ours = file.is_file() and file.read_text(encoding="utf-8") == settings
    if not ours and folder.exists() and any(not path.name.startswith(TEMPORARY) for path in folder.iterdir()):
        raise ConfigError(f"{folder}: there is something else in this folder. Use: mmfeat demo --folder NEW")
    write_atomic(file, settings)
    if not (folder / "data").is_dir():
        say("making pictures and captions")
        with staging_folder(folder) as staged:
            make_demo(staged, seed)
            staged.rename(folder / "data")
    lines = _run_commands(folder)
    return DemoResult(folder, lines, len(Project(folder).manifest.rows("unlabelled")), time.perf_counter() - start)


def _run_commands(folder: Path) -> list[MetricRow]:
    _step("mmfeat init", lambda: init(folder))
    tuned, _ = _step("mmfeat finetune", lambda: finetune(Project(folder)))
    _step("mmfeat extract", lambda: extract(Project(folder)))
    concat = _step("mmfeat fuse --head concat", lambda: fuse(Project(folder), "concat"))
    crossattn = _step("mmfeat fuse --head crossattn", lambda: fuse(Project(folder)))
    fm1 = _step("mmfeat ensemble fm1", lambda: ensemble(Project(folder), ["fm1"]))
    rounds = _step("mmfeat selftrain --rounds 5", lambda: selftrain(Project(folder, {"selftrain.rounds": 5})))
    _step("mmfeat predict", lambda: predict(Project(folder)))
    _step("mmfeat evaluate", lambda: evaluate(Project(folder)))
    image, text = (one.checkpoint.record["seconds"] for one in tuned)
    named = (
        ("image only", "image", image),
        ("text only", "text", text),
        ("mean of both logits", fm1.run.name, 0.0),
        ("concat", concat.run.name, concat.run.record["seconds"]),
        ("cross-attention", crossattn.run.name, crossattn.run.record["seconds"]),
        ("after self-training (transductive)", rounds.run.name, rounds.run.record["seconds"]),
    )
    project = Project(folder)
    rows = project.manifest.rows("unlabelled")
    truth = hidden_truth(folder / "data" / "truth.csv", project.manifest.ids[rows], project.manifest.classes)
    lines = []
    for label, name, seconds in named:
        logits = logits_of(project, name, rows).logits
        lines.append(MetricRow.of(label, metrics_of(truth, logits, shipped_rule(project, name)), seconds))
    return lines


def hidden_truth(path: Path, ids: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Labels `(n, K)` int8 of rows whose labels the project was not given."""
    with path.open(encoding="utf-8", newline="") as file:
        labels = {row["ImageID"]: row["Labels"].split() for row in csv.DictReader(file)}
    return encode([labels[str(i)] for i in ids], classes)


def _step(command: str, run: Callable[[], Any]) -> Any:
    """Run one command and say how long it took."""
    say(f"$ {command}")
    start = time.perf_counter()
    result = run()
    say(f"  {clock(time.perf_counter() - start)}")
    return result
