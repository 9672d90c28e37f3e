"""Makes tests/data/project-0.1.0.tar.xz: a small project that holds one of everything that mmfeat 0.1.0 writes.

Run it with version 0.1.0 (commit 4937996) and no other: later versions must open what that version wrote.

    git worktree add /tmp/mmfeat-0.1.0 4937996 && cd /tmp/mmfeat-0.1.0
    python -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[onnx]'
    HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python .../tests/data/make_project.py .../tests/data/project-0.1.0.tar.xz

It takes half a minute. `expected.json` in the project holds what each run and encoder predicted for some rows.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import sys
import tarfile
from pathlib import Path

import matplotlib.figure
import numpy as np
from mmfeat.cli import group

import mmfeat
from mmfeat.data.demo_data import make_demo
from mmfeat.inference.logits import logits_of
from mmfeat.project.project import Project
from mmfeat.selftraining import rounds
from mmfeat.workflows.store_import import import_embeddings

SETTINGS = """\
schema = 1
metric = "map"

[data]
source = "data"

[split]
val = 0.25

[encoder.image]
model = "test_efficientnet"
pretrained = "random"
size = 32
tokens = 2

[encoder.text]
model = "./data/text-encoder"
pretrained = "random"
tokens = 4

[encoder.frozen]
modality = "text"
model = "./data/text-encoder"
pretrained = "./data/text-encoder.safetensors"

[encoder.words]
modality = "text"
model = "tfidf"
width = 64

[finetune.image]
epochs = 1
batch_size = 16
head_first = false

[finetune.text]
epochs = 3
batch_size = 16
head_first = false

[fuse]
seeds = 1

[fuse.linear]
epochs = 3

[fuse.concat]
epochs = 3

[fuse.mlp]
epochs = 3
hidden = 8

[fuse.gated]
epochs = 3
hidden = 8

[fuse.weighted]
epochs = 3
hidden = 8

[fuse.labelquery]
epochs = 3
width = 16
token_width = 64

[fuse.crossattn]
epochs = 3
token_width = 32
hidden = 8

[selftrain]
rounds = 2
"""
platform.node = lambda: "host"  # the name of the machine that it was made on is nobody's business
FOLDER = Path("/tmp/mmfeat-0.1.0-project")  # where it is made: the store notes this path
_savefig = matplotlib.figure.Figure.savefig


def _small_plot(figure, *arguments, **options):
    return _savefig(figure, *arguments, **{**options, "dpi": 12})


matplotlib.figure.Figure.savefig = _small_plot


def run(*words: str) -> None:
    print("$ mmfeat", *words, flush=True)
    sys.argv = ["mmfeat", *words]
    group.main(list(words), standalone_mode=False)


def make_source(folder: Path) -> None:
    """The demo's data with few rows, and its text encoder, smaller still, with a file of weights."""
    make_demo(folder, seed=3, n_labelled=48, n_unlabelled=12)
    (folder / "truth.csv").unlink()
    file = folder / "text-encoder" / "config.json"
    settings = {**json.loads(file.read_text()), "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    file.write_text(json.dumps(settings, indent=2))
    from mmfeat.encoders.torchvision_remedy import make_torchvision_importable

    make_torchvision_importable()
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(7)
    network = AutoModel.from_config(AutoConfig.from_pretrained(folder / "text-encoder"))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "text-encoder.safetensors")


def fill_in(file: Path, answers: int) -> None:
    """Answer the first rows of a review as a person might."""
    with file.open(encoding="utf-8", newline="") as opened:
        reader = csv.DictReader(opened)
        rows, names = list(reader), reader.fieldnames
    for number, row in enumerate(rows[:answers]):
        row["labels"] = ("circle star", "square", "-", "ring heart")[number % 4]
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    os.chdir(folder)
    make_source(folder / "data")
    (folder / "mmfeat.toml").write_text(SETTINGS)
    run("init")
    ids = [str(i) for i in Project(folder).manifest.ids]
    np.save("embeddings.npy", np.random.default_rng(5).standard_normal((len(ids) - 4, 6)).astype(np.float32))
    (folder / "embeddings-ids.txt").write_text("\n".join(ids[:-4]) + "\n")
    table = import_embeddings(Project(folder), "clip", Path("embeddings.npy"), Path("embeddings-ids.txt")).table
    (folder / "mmfeat.toml").write_text(f"{SETTINGS}\n{table}\n")
    run("finetune", "--freeze")  # image-1, text-1, frozen-1, words-1, clip-1
    run("finetune", "image", "text")  # image-2, text-2 with last/
    run("extract")
    run("fuse", "--head", "linear", "--inputs", "image")
    run("review", "--n", "6")
    fill_in(folder / "review.csv", 4)
    run("review", "--apply", "review.csv")
    run("review", "linear-1", "--n", "4", "--split", "train", "--out", "doubtful.csv")
    fill_in(folder / "doubtful.csv", 2)
    run("review", "--apply", "doubtful.csv")
    rounds.is_accepted = lambda difference, first: True  # so that the encoders' round stands
    run("selftrain", "--encoder-every", "1", "--inputs", "text", "--head", "linear", "--yes")
    run("extract")
    for head in ("linear", "mlp", "concat", "crossattn", "gated", "weighted", "labelquery"):
        run("fuse", "--head", head, "--seeds", "2" if head == "crossattn" else "1")
    run("fuse", "--head", "linear", "--inputs", "words")
    run("fuse", "--head", "mlp", "--inputs", "frozen,words,clip")
    run("fuse", "--head", "linear", "--folds", "3")
    for recipe in ("fm1", "fm2", "fm3"):
        run("ensemble", recipe)
    for method in ("weighted", "per-class", "stacked", "greedy"):
        run("ensemble", "image", "text", "concat-1", "--method", method)
    run("selftrain")
    run("selftrain", "--policy", "all", "--head", "linear")
    run("sweep", "fuse", "--head", "linear", "--lr", "1e-3,1e-2")
    run("sweep", "finetune", "text", "--lr", "1e-4,5e-4", "--epochs", "1")
    run("compare", "heads", "linear", "concat")
    run("compare", "encoders", "image", "text", "words", "--freeze")
    run("export", "fm3-1", "model")
    run("export", "linear-3", "model-onnx", "--format", "onnx")
    run("predict", "crossattn-1")
    shutil.copy("data/test.csv", "new.csv")
    run("predict", "crossattn-1", "new.csv", "--images", "data/images.zip")
    run("evaluate", "crossattn-1", "image")
    run("runs")
    run("status")
    write_expected(folder)


def write_expected(folder: Path) -> None:
    """Probabilities of the unlabelled rows by every run and encoder."""
    rows = Project(folder).manifest.rows("unlabelled")
    names = [*sorted(p.name for p in (folder / "runs").iterdir() if p.is_dir()), *Project(folder).config.encoder]
    expected = {}
    for name in names:
        logits = np.asarray(logits_of(Project(folder), name, rows).logits, dtype=float)
        expected[name] = (1 / (1 + np.exp(-logits))).round(5).tolist()
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the owner's name."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    if mmfeat.__version__ != "0.1.0":
        sys.exit(f"this is mmfeat {mmfeat.__version__}: run it with 0.1.0 (commit 4937996)")
    destination = Path(sys.argv[1]).resolve()
    shutil.rmtree(FOLDER, ignore_errors=True)
    make(FOLDER)
    with tarfile.open(destination, "w:xz", preset=9) as archive:
        archive.add(FOLDER, "project-0.1.0", filter=anonymous)
    shutil.rmtree(FOLDER)
