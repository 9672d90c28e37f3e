"""How long heads take to fit, alone and in company, and what they reach; `benchmarks/README.md` has the figures.

    python benchmarks/heads.py fit        # one cross-attention head, against the same head in a DataLoader loop
    python benchmarks/heads.py grid       # 64 heads of one shape in one pass, against one after another
    python benchmarks/heads.py folds      # `fuse --folds 5` against `fuse`, with early stopping
    python benchmarks/heads.py sklearn    # against scikit-learn's estimators on the same features
    python benchmarks/heads.py predict    # 1,000,000 cached rows

With `--project DIR` on a project's cached features, else on random ones of 30,000 x (1792 + 128) with 18 classes. All that is
compared runs alternately in one process; `fit` and `grid` run on the GPU, if there is one. `--rows` of random data,
`--epochs` of `fit` and `--heads` of `grid` make a trial shorter. Prints a table and writes results/heads-PART.json (PART-FOLDER of a project).
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from results_folder import device_name, write_results
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from mmfeat.common.devices import torch_device
from mmfeat.common.losses import masked_loss
from mmfeat.common.randomness import id_numbers
from mmfeat.config.schema import FuseConfig
from mmfeat.heads import build_head, head_config
from mmfeat.heads.noise import Noise
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import FitData, Member, fit_data, fit_head, fit_heads
from mmfeat.heads.training.fold_heads import fit_folds
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import metrics_of

RULE = DecisionRule()
WIDTHS = {"image": 1792, "text": 128}
BATCH = 256


def random_data(n: int = 30_000, n_classes: int = 18, seed: int = 0) -> FitData:
    """Normal embeddings, and labels that a part of them tells."""
    rng = np.random.default_rng(seed)
    inputs = {name: torch.from_numpy(rng.normal(size=(n, d)).astype(np.float32)) for name, d in WIDTHS.items()}
    told = sum(x[:, :64].numpy() @ rng.normal(size=(64, n_classes)) for x in inputs.values())
    labels = torch.from_numpy((told > np.quantile(told, 0.91, 0)).astype(np.int8))
    present = {name: torch.ones(n, dtype=torch.bool) for name in WIDTHS}
    rows = np.arange(n)
    return FitData(
        inputs, present, labels, id_numbers([str(i) for i in rows]), rows[: n * 9 // 10], rows[n * 9 // 10 :]
    )


def project_data(folder: str) -> FitData:
    """The embeddings of a project's inputs for its train and val rows."""
    from mmfeat import Project

    project = Project(folder)
    rows = np.concatenate([project.manifest.rows("train"), project.manifest.rows("val")])
    names = list(project.config.fuse.inputs)
    return fit_data(project.feature_table(names, rows), names, torch.device("cpu"), rows)


def some_rows(data: FitData, n: int) -> np.ndarray:
    """The first `n` training rows in the order of their ids' numbers; all, if it is 0."""
    return np.sort(data.train[np.argsort(data.numbers[data.train], kind="stable")[: n or None]])


def on_device(data: FitData) -> FitData:
    """The same data on the GPU, if there is one."""
    device = torch_device("auto")
    moved = {part: {n: x.to(device) for n, x in getattr(data, part).items()} for part in ("inputs", "present")}
    return dataclasses.replace(data, **moved, labels=data.labels.to(device))


def settings(name: str, **changes: Any) -> Any:
    """A head's own defaults with some changes."""
    found = head_config(name, FuseConfig())
    return dataclasses.replace(found, **{"query": "text"} if hasattr(found, "query") else {}, **changes)


def peak_flops(n: int = 2048, repetitions: int = 5) -> float:
    """Floating-point operations a second of a large float32 matrix product: what the arithmetic could reach."""
    a = torch.randn(n, n, device=torch_device("auto"))
    (a @ a).sum().item()  # waits for a GPU
    start = time.perf_counter()
    for _ in range(repetitions):
        b = a @ a
    b.sum().item()
    return 2 * n**3 * repetitions / (time.perf_counter() - start)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


class _Rows(Dataset):
    """The usual way: one row at a time, out of an HDF5 file or out of arrays in memory."""

    def __init__(self, data: FitData, rows: np.ndarray, file: Path | None = None) -> None:
        self.data, self.rows, self.file, self.opened = data, rows, file, None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[dict, dict, torch.Tensor]:
        row = int(self.rows[i])
        if self.file is None:
            inputs = {name: x[row] for name, x in self.data.inputs.items()}
        else:
            self.opened = self.opened or h5py.File(self.file, "r")
            inputs = {name: torch.from_numpy(self.opened[name][row]) for name in self.data.inputs}
        return inputs, {name: p[row] for name, p in self.data.present.items()}, self.data.labels[row]


class _TorchDropout(Noise):
    """torch's own dropout under the settings' names."""

    def __init__(self, config: Any) -> None:
        super().__init__({}, {})
        self.config = config

    def __call__(self, x: torch.Tensor, rate: str) -> torch.Tensor:
        return functional.dropout(x, getattr(self.config, rate))


def moved(batch: Any, device: torch.device) -> Any:
    """Tensors of a batch, in dicts and lists, on a device."""
    if isinstance(batch, dict):
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return batch.to(device) if isinstance(batch, torch.Tensor) else [moved(part, device) for part in batch]


def loader_epochs(name: str, data: FitData, config: Any, epochs: int, file: Path | None) -> list[float]:
    """Seconds of each epoch of the plain loop: DataLoader with two processes, AdamW, figures on val after each."""
    device = torch_device("auto")
    head = build_head(name, data.widths, data.labels.shape[1], config)
    train = torch.as_tensor(data.train)
    head.fit_standardisation(
        {n: x[train] for n, x in data.inputs.items()}, {n: p[train] for n, p in data.present.items()}
    )
    head.to(device)
    loader = DataLoader(
        _Rows(data, data.train, file), batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )
    val = DataLoader(_Rows(data, data.val, file), batch_size=BATCH, num_workers=2, persistent_workers=True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    noise, seconds = _TorchDropout(config), []
    for _ in range(epochs):
        start = time.perf_counter()
        for batch in loader:
            inputs, present, labels = moved(batch, device)
            loss = masked_loss(head.logits(head.standardise(inputs, present), present, noise), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
        with torch.inference_mode():
            logits = torch.cat([head(*moved(batch, device)[:2]) for batch in val]).cpu().numpy()
        metrics_of(data.labels[data.val].numpy(), logits, DecisionRule())
        seconds.append(time.perf_counter() - start)
    return seconds


def part_fit(data: FitData, epochs: int) -> dict[str, Any]:
    """One head to its best epoch, and an epoch of it against an epoch of the plain loop."""
    config = settings("crossattn", **({"epochs": epochs} if epochs else {}))
    ends = [time.perf_counter()]

    class Clock:
        def advance(self, n: int = 1, note: str = "") -> None:
            if note:  # of an epoch
                ends.append(time.perf_counter())

    (fit,) = fit_heads("crossattn", on_device(data), [Member(config)], bar=Clock())
    ours = np.diff(ends)
    found = {
        "best epoch": fit.best_epoch,
        "seconds to the best epoch": float(ours[: fit.best_epoch].sum()),
        "seconds an epoch": float(np.median(ours)),
        "share of peak": -(-len(data.train) // BATCH)
        * batch_flops("crossattn", data, config)
        / float(np.median(ours))
        / peak_flops(),
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.h5"
        with h5py.File(file, "w") as opened:
            for name, x in data.inputs.items():
                opened.create_dataset(name, data=x.numpy())
        for what, source in (("HDF5 file", file), ("memory", None)):
            seconds = float(np.median(loader_epochs("crossattn", data, config, min(3, config.epochs), source)))
            found[f"seconds an epoch, DataLoader on {what}"] = seconds
            found[f"DataLoader on {what} over ours"] = seconds / found["seconds an epoch"]
    return found


def part_grid(data: FitData, heads: int) -> dict[str, Any]:
    """64 heads of one shape: 8 learning rates, 4 weight decays, 2 seeds, or the first; the same ones one after another."""
    found: dict[str, Any] = {}
    data = on_device(data)
    for name, epochs in (("linear", 3), ("crossattn", 1)):
        members = [
            Member(settings(name, lr=lr, weight_decay=decay, epochs=epochs, patience=epochs), seed)
            for lr in np.geomspace(1e-4, 3e-3, 8).tolist()
            for decay in (0.0, 1e-3, 1e-2, 1e-1)
            for seed in (0, 1)
        ][:heads]
        together, fits = timed(lambda name=name, members=members: fit_heads(name, data, members))
        alone, single = timed(lambda name=name, members=members: [fit_heads(name, data, [m])[0] for m in members])
        pairs = zip(fits, single, strict=True)
        apart = max(
            float(np.abs(head_logits(a.head, data) - head_logits(b.head, data)).max()) for a, b in list(pairs)[::16]
        )
        found[f"{name}: seconds together"], found[f"{name}: one after another"] = together, alone
        found[f"{name}: times faster"] = alone / together
        found[f"{name}: largest difference of a logit"] = apart
        flops = len(members) * epochs * batch_flops(name, data, members[0].config) * -(-len(data.train) // BATCH)
        found[f"{name}: share of peak, together"] = flops / together / peak_flops()
        found[f"{name}: share of peak, one after another"] = flops / alone / peak_flops()
    return found


def part_folds(data: FitData) -> dict[str, Any]:
    """`fuse --folds 5` against `fuse`, both by default settings and to the best epoch: CPU time and epochs, by turns.

    The CPU time of the process hardly depends on what else the machine does.
    """
    rows = np.concatenate([data.train, data.val])
    folded = dataclasses.replace(
        data, fold=np.where(np.isin(np.arange(len(data.labels)), rows), (data.numbers % 5).astype(np.int64), -1)
    )
    found: dict[str, Any] = {}
    for name in ("linear", "concat", "mlp", "crossattn"):
        for n_seeds, turns in ((1, 3), (3, 1)):
            config, measured = settings(name), []
            for turn in range(turns):
                seeds = range(turn * n_seeds, (turn + 1) * n_seeds)
                one = _cost(lambda: fit_heads(name, data, [Member(config, seed) for seed in seeds]))  # noqa: B023
                five = _cost(lambda: fit_folds(name, folded, config, seeds).fits)  # noqa: B023
                measured.append((*one, *five))
            seconds, epochs, seconds_of_five, epochs_of_five = np.transpose(measured)
            ratio = seconds_of_five / seconds
            for what, values in (
                ("CPU seconds of one fit", seconds),
                ("epochs of one fit", epochs),
                ("CPU seconds of five folds", seconds_of_five),
                ("epochs of five folds", epochs_of_five),
                ("five folds over one fit", ratio),
                ("the same for as many epochs", ratio * epochs / epochs_of_five),
            ):
                found[f"{name}, {n_seeds} seed{'s' * (n_seeds > 1)}: {what}"] = [round(float(v), 2) for v in values]
            print(name, n_seeds, ratio, epochs, epochs_of_five, flush=True)
    return found


def _cost(fit: Callable[[], list[FittedHead]]) -> tuple[float, float]:
    """CPU seconds of a fit, and the epochs that it lasted: the mean over seeds of the longest pass."""
    start = time.process_time()
    fits = fit()
    return time.process_time() - start, float(np.mean([len(one.history) for one in fits]))


def batch_flops(name: str, data: FitData, config: Any, backward: bool = True) -> int:
    """Floating-point operations of the matrix products of one batch, forward and backward, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    head = build_head(name, data.widths, data.labels.shape[1], config)
    inputs, present = ({n: t[:BATCH].cpu() for n, t in part.items()} for part in (data.inputs, data.present))
    with FlopCounterMode(display=False) as counter:
        loss = masked_loss(head(inputs, present), data.labels[:BATCH].cpu())
        if backward:
            loss.backward()
    return counter.get_total_flops()


def part_sklearn(data: FitData) -> dict[str, Any]:
    """Figures on val and seconds: ours by default settings, scikit-learn's on the same standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([t.numpy() for t in data.inputs.values()], 1)
    y = data.labels.numpy()
    found: dict[str, Any] = {}

    def add(what: str, seconds: float, logits: np.ndarray) -> None:
        scores = metrics_of(y[data.val], logits.astype(np.float32), DecisionRule()).scores
        found[what] = {
            "samples-F1": scores.samples_f1,
            "macro-F1": scores.macro_f1,
            "mAP": scores.map,
            "seconds": seconds,
        }

    for name in ("concat", "crossattn"):
        seconds, fits = timed(
            lambda name=name: fit_heads(name, data, [Member(settings(name), seed) for seed in range(3)])
        )
        each = [head_logits(fit.head, data, data.val) for fit in fits]
        add(f"{name}, one seed", fit_head_seconds(name, data), each[0])
        add(f"{name}, mean of three", seconds, np.mean(each, 0))
    estimators = {
        "OneVsRest(LogisticRegression)": OneVsRestClassifier(LogisticRegression(max_iter=1000)),
        "MLPClassifier": MLPClassifier(early_stopping=True, random_state=0),
    }
    for what, estimator in estimators.items():
        model = make_pipeline(StandardScaler(), estimator)
        seconds, _ = timed(lambda model=model: model.fit(x[data.train], y[data.train]))
        probs = np.clip(model.predict_proba(x[data.val]), 1e-7, 1 - 1e-7)
        add(what, seconds, np.log(probs / (1 - probs)))
    return found


def fit_head_seconds(name: str, data: FitData) -> float:
    """Seconds of one fit alone."""
    return timed(lambda: fit_head(name, data, settings(name)))[0]


def part_predict(data: FitData, n: int = 1_000_000) -> dict[str, Any]:
    """One cross-attention head, and three, on a million rows of a mapped float16 file; memory beyond what was held before."""
    from mmfeat.inference.run_heads import table_logits
    from mmfeat.store.feature_table import FeatureTable

    config = settings("crossattn", epochs=1)
    heads = [fit.head for fit in fit_heads("crossattn", data, [Member(config, seed) for seed in range(3)])]
    with tempfile.TemporaryDirectory() as folder:
        embeddings = {}
        for name, x in data.inputs.items():
            mapped = np.memmap(Path(folder) / name, np.float16, "w+", shape=(n, x.shape[1]))
            some = x.numpy().astype(np.float16)
            for start in range(0, n, len(some)):
                mapped[start : start + len(some)] = some[: n - start]
            mapped.flush()
            embeddings[name] = np.memmap(Path(folder) / name, np.float16, "r", shape=mapped.shape)
        there = {name: np.ones(n, dtype=bool) for name in embeddings}
        table = FeatureTable(
            ids=np.arange(n).astype(object),
            embeddings=embeddings,
            logits={},
            tokens={},
            token_lengths={},
            present=there,
            row_keys={},
            labels=np.full((n, data.labels.shape[1]), -1, np.int8),
            split=np.full(n, "train"),
            classes=tuple(map(str, range(data.labels.shape[1]))),
        )
        found: dict[str, Any] = {"predicted rows": n}
        flops = n * batch_flops("crossattn", data, config, backward=False) / BATCH
        for some in (heads[:1], heads):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            seconds, _ = timed(
                lambda some=some: table_logits(some, table, list(embeddings), device=torch.device("cpu"))
            )
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found[f"{len(some)} seeds: seconds"] = seconds
            found[f"{len(some)} seeds: share of peak"] = len(some) * flops / seconds / peak_flops()
            found[f"{len(some)} seeds: MB of memory more"] = (after - before) / 1024
    return found


PARTS = {name.removeprefix("part_"): part for name, part in list(globals().items()) if name.startswith("part_")}


def main() -> None:
    """Run one part and keep what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--project", default="")
    parser.add_argument("--rows", type=int, default=30_000, help="of random data")
    parser.add_argument("--epochs", type=int, default=0, help="of `fit`, at most; 0: the head's own number")
    parser.add_argument("--heads", type=int, default=64, help="of `grid`")
    arguments = parser.parse_args()
    data = project_data(arguments.project) if arguments.project else random_data(arguments.rows)
    more = {"fit": {"epochs": arguments.epochs}, "grid": {"heads": arguments.heads}}.get(arguments.part, {})
    rows = f"{len(data.train):,} + {len(data.val):,} rows of {data.widths}"
    found = {
        "rows": rows,
        "device": device_name(),
        "threads": torch.get_num_threads(),
        **PARTS[arguments.part](data, **more),
    }
    for what, value in found.items():
        print(f"{what:55s} {value if not isinstance(value, float) else f'{value:.4g}'}")
    which = f"-{Path(arguments.project).resolve().name}" if arguments.project else ""
    write_results(f"heads-{arguments.part}{which}", found)


if __name__ == "__main__":
    main()
