"""What the fault campaigns attack: commands, the projects that they begin with, and projects compared."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.faults import Done, Running, count_to, run, start
from helpers.projects import TINY

TIMES = {"applied", "created", "noted", "seconds", "seal", "sha256", "size", "digest", "digests", "files", "git"}
_TIMES = re.compile(r"second|time|µs|train s|rate|_ms_")
SKIPPED = re.compile(
    r"(^|/)(\.mmfeat/(digests\.parquet|seen-\w+\.parquet|pixels-.*|.*\.json)|checkpoints/tensorboard/.*|.*\.png|comparison\.md|(baselines|encoding)\.json)$"
)


@dataclass(frozen=True)
class Case:
    """A command, and the project that it begins with."""

    base: str
    words: str

    @property
    def name(self) -> str:
        return self.words.replace(" ", "_").replace("--", "")


CASES = [
    Case("source", "init"),
    Case("grown", "init"),
    Case("made", "finetune --freeze"),
    Case("made", "finetune text"),
    Case("made", "finetune image --set finetune.image.epochs=1"),
    Case("frozen", "extract"),
    Case("ready", "fuse --head crossattn"),
    Case("ready", "fuse --head linear --folds 3 --seeds 1"),
    Case("ready", "ensemble fm2"),
    Case("ready", "ensemble image text concat-1 --method weighted"),
    Case("ready", "selftrain --head linear"),
    Case("ready", "sweep fuse --head linear --lr 1e-3,1e-2"),
    Case("ready", "sweep finetune text --lr 1e-4,5e-4 --epochs 1"),
    Case("swept", "sweep finetune text --lr 1e-4,5e-4 --epochs 1 --use best"),
    Case("ready", "compare heads linear concat --seeds 1"),
    Case("ready", "compare encoders text --freeze"),
    Case("ready", "export concat-1 model"),
    Case("ready", "store export arrays"),
    Case("ready", "store export arrays.h5"),
    Case("ready", "store export arrays.parquet"),
    Case("ready", "store export arrays.safetensors"),
    Case("ready", "store import clip embeddings.npy --ids ids.txt"),
    Case("imported", "store gc --yes"),
    Case("ready", "review concat-1 --n 5 --out more.csv"),
    Case("ready", "review --apply answers.csv"),
    Case("applied", "review --undo"),
    Case("ready", "predict concat-1"),
    Case("ready", "predict concat-1 new.csv --images data/images.zip"),
    Case("ready", "evaluate concat-1"),
    Case("ready", "audit concat-1 --set fuse.head=linear --set fuse.seeds=1"),
    Case("ready", "report concat-1"),
    Case("ready", "search --caption red --html similar.html"),
    Case("ready", "review concat-1 --n 5 --format coco"),
    Case("tuned", "selftrain --head linear --inputs text --encoder-every 1 --yes"),
    Case("ready", "fuse --head linear --seeds 1 --name quick --note first"),
    Case("ready", "runs --rename concat-1 baseline"),
    Case("ready", "runs --note concat-1 text"),
    Case("ready", "runs --delete concat-1"),
]
SAMPLE = [CASES[0], CASES[3], CASES[6], CASES[8], CASES[24], CASES[26]]
MAY_REFUSE = ("export", "store export", "review --undo", "runs --delete")


def of_cases(cases: list[Case]) -> pytest.MarkDecorator:
    """A decorator that runs a test with each case."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: f"{case.base}-{case.name}")


def answer(file: Path, labels: str) -> None:
    with file.open(encoding="utf-8", newline="") as opened:
        reader = csv.DictReader(opened)
        rows, names = list(reader), reader.fieldnames
    for row in rows:
        row["labels"] = labels
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class Bases:
    """Projects at several stages, each made once; copies of them, all at the same path."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source = folder, source
        self.project = folder / "here" / "project"
        self.cache = folder / "here" / "cache"
        self.made: dict[str, Path] = {}

    def at(self, name: str) -> Path:
        """Put a copy of a project in place; returns its folder."""
        if name not in self.made:
            steps = getattr(self, f"_{name}")()
            for words in steps:
                self.run(words).check(0)
            self.made[name] = self.folder / name
            shutil.copytree(self.project, self.folder / name)
        self.clear()
        self.cache.mkdir(parents=True)
        shutil.copytree(self.made[name], self.project)
        return self.project

    def clear(self) -> None:
        """Remove what is in place; the folder itself may be a disk of its own."""
        for folder in (self.project, self.cache):
            shutil.rmtree(folder, ignore_errors=True)

    def run(self, words: str, fault: Callable[[], None] | None = None) -> Done:
        """Run a command in place to its end."""
        return run(words.split(), self.project, self.cache, fault)

    def start(self, words: str) -> Running:
        """Begin a command in place."""
        return start(words.split(), self.project, self.cache)

    def _source(self) -> list[str]:
        self.clear()
        self.project.mkdir(parents=True)
        shutil.copytree(self.source, self.project / "data")
        text = TINY.format(source='"data"', text='"./data/text-encoder"')
        (self.project / "mmfeat.toml").write_text(text, encoding="utf-8")
        return []

    def _made(self) -> list[str]:
        self.at("source")
        return ["init"]

    def _grown(self) -> list[str]:
        self.at("made")
        file = self.project / "data" / "test.csv"
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(lines[:-3]), encoding="utf-8")
        with (self.project / "data" / "train.csv").open("a", encoding="utf-8") as opened:
            for line in lines[-3:]:
                name, _, caption = line.partition(",")
                opened.write(f"{name},circle,{caption}")
        return []

    def _frozen(self) -> list[str]:
        self.at("made")
        return ["finetune --freeze"]

    def _ready(self) -> list[str]:
        self.at("frozen")
        rng = np.random.default_rng(0)
        np.save(self.project / "embeddings.npy", rng.standard_normal((70, 6)).astype(np.float32))
        (self.project / "ids.txt").write_text("\n".join(f"{i:04d}.jpg" for i in range(70)) + "\n")
        shutil.copy(self.project / "data" / "test.csv", self.project / "new.csv")
        for words in ("extract", "fuse --head concat", "review concat-1 --n 4 --out answers.csv"):
            self.run(words).check(0)
        answer(self.project / "answers.csv", "circle star")
        return []

    def _tuned(self) -> list[str]:
        self.at("made")
        return ["finetune text", "extract text"]

    def _swept(self) -> list[str]:
        self.at("ready")
        return ["sweep finetune text --lr 1e-4,5e-4 --epochs 1"]

    def _applied(self) -> list[str]:
        self.at("ready")
        return ["review --apply answers.csv"]

    def _whole(self) -> list[str]:
        self.at("applied")
        return [
            "fuse --head concat",
            "ensemble image text concat-1 --method weighted",
            "selftrain --head linear",
            "sweep fuse --head linear --lr 1e-3,1e-2",
            "sweep finetune text --lr 1e-4,5e-4 --epochs 1",
            "compare heads linear concat --seeds 1",
            "compare encoders text --freeze",
            "predict concat-1",
            "evaluate concat-1 image",
        ]

    def _imported(self) -> list[str]:
        self.at("ready")
        return ["store import clip embeddings.npy --ids ids.txt"]


def undisturbed(bases: Bases, case: Case) -> tuple[dict[str, str], int]:
    """What the command makes of its project, and by how many calls that change a folder."""
    bases.at(case.base)
    bases.run(case.words, count_to(bases.folder / "count")).check(0)
    return state_of(bases.project), int((bases.folder / "count").read_text())


# Projects compared


def state_of(folder: Path) -> dict[str, str]:
    """Digest of what each file says, without times and without what depends on them; of a store, of its rows."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or SKIPPED.search(name) or name.startswith(("features/", "data/")):
            continue
        found[name] = hashlib.sha256(_content(path)).hexdigest()[:16]
    return found | _store_state(folder / "features")


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders that somebody has left."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".tmp-*")]


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of files that are not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def assert_none_wrong(case: Case, trials: str, wrong: list[str]) -> None:
    """Print how many trials went wrong, and fail where any did."""
    print(f"{case.words}: {trials}, {len(wrong)} wrong")
    print(*wrong, sep="\n", flush=True)
    assert not wrong, "\n".join(wrong)


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".json" or path.name.endswith((".jsonl",)):
        with contextlib.suppress(ValueError):
            return json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
    if path.suffix == ".h5":
        with h5py.File(path, "r") as file:
            return _datasets(file)
    if path.suffix == ".parquet":
        table = pq.read_table(path, memory_map=False)
        return repr((table.schema.names, table.to_pylist())).encode()
    if path.suffix == ".safetensors":
        return _tensors(data)
    if path.suffix == ".csv":
        rows = list(csv.reader(io.StringIO(data.decode())))
        keep = [i for i, name in enumerate(rows[0] if rows else []) if not _TIMES.search(name)]
        return repr([[row[i] for i in keep if i < len(row)] for row in rows]).encode()
    return data


def _tensors(data: bytes) -> bytes:
    """The tensors of a safetensors file, and its metadata without times."""
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    said = {k: v for k, v in head.pop("__metadata__", {}).items() if k not in TIMES}
    about = {k: _timeless(json.loads(v)) if v[:1] == "{" else v for k, v in said.items()}
    return json.dumps([head, about], sort_keys=True).encode() + data[8 + size :]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMES and not _TIMES.search(k)}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _datasets(file: h5py.File) -> bytes:
    parts: list[bytes] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            value = item.asstr()[()] if h5py.check_string_dtype(item.dtype) else item[()]
            parts.append(name.encode() + (repr(value.tolist()).encode() if value.dtype == object else value.tobytes()))

    file.visititems(visit)
    return b"".join(sorted(parts))


def _store_state(store: Path) -> dict[str, str]:
    """Digest of each row's values, by encoder, kind and row key: in whichever file of the store they are."""
    rows: dict[str, dict[bytes, bytes]] = {}
    for commit in sorted(store.rglob("commits/*.json")):
        values = json.loads(commit.read_text())
        with h5py.File(commit.parents[1] / values["file"], "r", locking=False) as file:
            kept = rows.setdefault(f"{commit.parents[1].name}/{values['kind']}", {})
            name = next(n for n in ("embeddings", "tokens", "logits", "miniatures") if n in file)
            for key, value in zip(file["row_key"][:], file[name][:], strict=True):
                kept[key.tobytes()] = value.tobytes()
    digests = {
        f"features/{name}": hashlib.sha256(b"".join(k + v for k, v in sorted(kept.items()))).hexdigest()[:16]
        for name, kept in rows.items()
    }
    for note in sorted(store.glob("projects/*.json")):
        digests[f"features/projects/{note.name}"] = hashlib.sha256(_content(note)).hexdigest()[:16]
    return digests
