"""Which modality do heads lean on if one of them is damaged, and what F1 remains; `benchmarks/README.md` has the figures.

    python benchmarks/weighting.py PROJECT [--rows N] [--train N] [--seeds N] [--cache FILE] [--plot FILE]

PROJECT has cached features of the inputs `image` and `text`; its images can be read. Heads are trained on undamaged training
rows, with and without modality dropout. Val images are damaged by Gaussian noise, blur and occlusion at five strengths, and
encoded once (kept in `--cache`). Captions are replaced by another row's, or blanked, in five shares of the rows. Prints a
table, writes benchmarks/results/weighting.json, and draws docs/images/weighting.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from heads import project_data, settings, some_rows
from PIL import Image, ImageFilter
from results_folder import device_name, write_results

from mmfeat.common.machine import usable_cores
from mmfeat.common.randomness import id_numbers, mix
from mmfeat.encoders.engines.engine import engine_class
from mmfeat.encoders.resolve import build_encoder
from mmfeat.heads.head import Head
from mmfeat.heads.training.fit_heads import FitData, fit_heads
from mmfeat.heads.training.head_logits import head_logits
from mmfeat.heads.training.members import Member
from mmfeat.metrics.bootstrap import bootstrap_mean
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.metrics.metric_rows import metrics_of
from mmfeat.project.project import Project

RULE = DecisionRule()
HEADS = ("concat", "crossattn", "gated", "weighted")
WEIGHING = ("gated", "weighted")
DROPOUT = 0.2  # of modalities, where it is on
STRENGTHS = {  # of 255; radius in pixels of 224; share of the image's area
    "noise": (0.1, 0.2, 0.4, 0.7, 1.0),
    "blur": (1.0, 2.0, 4.0, 8.0, 16.0),
    "occlusion": (0.1, 0.25, 0.5, 0.75, 0.95),
}
SHARES = {"shuffled": (0.2, 0.4, 0.6, 0.8, 1.0), "blanked": (0.2, 0.4, 0.6, 0.8, 1.0)}
BATCH = 64


def damaged(pixels: np.ndarray, kind: str, strength: float, seed: int) -> np.ndarray:
    """A prepared image `(3, H, W)` uint8, damaged."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        noisy = pixels + rng.normal(0, strength * 255, pixels.shape)
        return noisy.clip(0, 255).astype(np.uint8)
    if kind == "blur":
        blurred = Image.fromarray(pixels.transpose(1, 2, 0)).filter(ImageFilter.GaussianBlur(strength))
        return np.asarray(blurred).transpose(2, 0, 1)
    height, width = (max(1, round(side * strength**0.5)) for side in pixels.shape[1:])
    top, left = rng.integers(pixels.shape[1] - height + 1), rng.integers(pixels.shape[2] - width + 1)
    covered = pixels.copy()
    covered[:, top : top + height, left : left + width] = 128
    return covered


def damages() -> Iterator[tuple[str, float]]:
    """Undamaged images first, then each kind at each strength."""
    yield "none", 0.0
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            yield kind, strength


def encoded(project: Project, rows: np.ndarray, cache: Path) -> dict[tuple[str, float], np.ndarray]:
    """Embeddings `(n, D)` of the damaged images of some rows, as the store would hold them; computed once."""
    if cache.is_file():
        with np.load(cache) as kept:
            if np.array_equal(kept["rows"], rows):
                return {(kind, strength): kept[f"{kind}-{strength}"] for kind, strength in damages()}
    encoder, _ = build_encoder(project.config, "image", project.checkpoints)
    device, engine = torch.device("cpu"), engine_class("onnxruntime")
    engine = engine(encoder, device, engine.choices(encoder, device)[0])
    read, ids = project.reader("image"), id_numbers(project.manifest.ids)
    found: dict[tuple[str, float], list[np.ndarray]] = {one: [] for one in damages()}
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH].tolist()
            prepared = [pixels.numpy() for pixels in pool.map(lambda row: encoder.prepare(read(row)), some)]
            for kind, strength in found:
                images = prepared
                if kind != "none":
                    seeds = [int(ids[row] % 2**32) for row in some]
                    images = list(
                        pool.map(lambda image, seed: damaged(image, kind, strength, seed), prepared, seeds)  # noqa: B023
                    )
                batch = encoder.collate([torch.as_tensor(np.ascontiguousarray(image)) for image in images])
                found[kind, strength].append(engine.encode(batch).embeddings)
            print(f"{start + len(some)} of {len(rows)} rows", flush=True)
    joined = {one: np.concatenate(parts).astype(np.float16) for one, parts in found.items()}
    np.savez(cache, rows=rows, **{f"{kind}-{strength}": values for (kind, strength), values in joined.items()})
    return joined


def cases(
    project: Project, data: FitData, val: np.ndarray, cache: Path
) -> Iterator[tuple[str, float, FitData, np.ndarray]]:
    """Damage, strength, the val rows of `data` with it, and which of them are damaged.

    `val` are these rows' numbers in the manifest. Embeddings of undamaged images must be those of the store.
    """
    clean = _only(data, data.val)
    images = encoded(project, val, cache)
    ours, stored = images["none", 0.0].astype(np.float32), clean.inputs["image"].numpy()
    cosines = (ours * stored).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(stored, axis=1))
    assert cosines.min() > 0.999, f"the encoder is not the store's: cosine {cosines.min():.4f}"
    everywhere = np.ones(len(val), bool)
    for (kind, strength), values in images.items():
        image = torch.from_numpy(values.astype(np.float32))
        yield kind, strength, dataclasses.replace(clean, inputs={**clean.inputs, "image": image}), everywhere
    turn = np.argsort(mix(clean.numbers, 1))
    other = np.empty_like(turn)
    other[turn] = np.roll(turn, 1)  # each row gets the caption of another
    for kind, shares in SHARES.items():
        for share in shares:
            hit = np.zeros(len(val), bool)
            hit[turn[: round(share * len(val))]] = True
            at = torch.as_tensor(np.where(hit, other, np.arange(len(val))))
            text, there = clean.inputs["text"], clean.present["text"]
            if kind == "blanked":
                inputs, present = clean.inputs, {**clean.present, "text": there & ~torch.from_numpy(hit)}
            else:
                inputs, present = {**clean.inputs, "text": text[at]}, {**clean.present, "text": there[at]}
            yield kind, share, dataclasses.replace(clean, inputs=inputs, present=present), hit


def _only(data: FitData, rows: np.ndarray) -> FitData:
    """Some rows of the data."""
    at = torch.as_tensor(rows)
    inputs, present = ({name: values[at] for name, values in part.items()} for part in (data.inputs, data.present))
    nothing = np.zeros(0, dtype=int)
    return FitData(inputs, present, data.labels[at], data.numbers[rows], nothing, nothing)


@torch.no_grad()
def text_share(head: Head, data: FitData) -> np.ndarray:
    """The share of the text in the weights of each row, `(n,)` in [0, 1]; of `gated`, the mean over its units."""
    x = head.standardise(data.inputs, data.present)
    names = list(head.widths)
    if hasattr(head, "gates"):
        weights = head.gates(x, data.present).mean(-1)  # (B, M)
    else:
        hidden = torch.stack([layer([x[name]]) for name, layer in zip(names, head.hidden, strict=True)], -2)
        there = torch.stack([data.present[name] for name in names], -1).unsqueeze(-1)
        weights = head.weights(torch.where(there, hidden, 0.0), data.present)
    return (weights[:, names.index("text")] / weights.sum(-1)).numpy()


def fitted(data: FitData, seeds: int) -> dict[str, list[Head]]:
    """Heads by name, `NAME` without and `NAME, dropout` with modality dropout; and each modality alone."""
    found = {}
    for name in HEADS:
        for rate, note in ((0.0, ""), (DROPOUT, ", dropout")):
            config = settings(name, modality_dropout=rate)
            found[name + note] = [
                f.head for f in fit_heads(name, data, [Member(config, seed) for seed in range(seeds)])
            ]
            print(f"fitted {name}{note}", flush=True)
    for name in ("image", "text"):
        fits = fit_heads("mlp", data.only(name), [Member(settings("mlp"), seed) for seed in range(seeds)])
        found[f"{name} alone"] = [f.head for f in fits]
    return found


def measured(heads: dict[str, list[Head]], part: FitData, hit: np.ndarray) -> dict[str, Any]:
    """Metrics of all rows by head, and the mean share of the text in the weights over the damaged rows."""
    found: dict[str, Any] = {}
    labels = part.labels.numpy()
    for name, seeds in heads.items():
        logits = np.mean([head_logits(head, part) for head in seeds], axis=0)
        scores = metrics_of(labels, logits, RULE).scores
        found[name] = {"samples_f1": scores.samples_f1, "macro_f1": scores.macro_f1, "map": scores.map}
        if name.split(",")[0] in WEIGHING:
            each = np.mean([text_share(head, part) for head in seeds], axis=0)[hit]
            found[name] |= {"text_share": float(each.mean()), "text_share_interval": bootstrap_mean(each)}
    return found


def printed(found: list[dict[str, Any]]) -> None:
    """A Markdown table: share of the text, then samples F1."""
    shares = [f"{name}{note}" for name in WEIGHING for note in ("", ", dropout")]
    names = [*(f"{name}{note}" for name in HEADS for note in ("", ", dropout")), "image alone", "text alone"]
    print("| damage | strength |" + "".join(f" share {n} |" for n in shares) + "".join(f" F1 {n} |" for n in names))
    print("|---" * (2 + len(shares) + len(names)) + "|")
    for one in found:
        cells = [f"{one['heads'][n]['text_share']:.3f}" for n in shares]
        cells += [f"{one['heads'][n]['samples_f1']:.3f}" for n in names]
        print(f"| {one['damage']} | {one['strength']:g} | " + " | ".join(cells) + " |")


def plotted(found: list[dict[str, Any]], path: Path) -> None:
    """Share of the text, and samples F1, against each damage; dashed lines are with modality dropout."""
    from matplotlib.figure import Figure

    colours = {"concat": "#999999", "crossattn": "#0072B2", "gated": "#D55E00", "weighted": "#009E73"}
    figure = Figure(figsize=(14, 6.4), layout="constrained")
    kinds = [*STRENGTHS, *SHARES]
    axes = figure.subplots(2, len(kinds), sharey="row")
    for column, kind in enumerate(kinds):
        points = [one for one in found if one["damage"] in ("none", kind)]
        for row, (key, names) in enumerate((("text_share", WEIGHING), ("samples_f1", HEADS))):
            for name in names:
                for note, line in (("", "-"), (", dropout", "--")):
                    values = [one["heads"][name + note][key] for one in points]
                    axes[row, column].plot(
                        range(len(values)), values, line, color=colours[name], marker="o", markersize=3
                    )
            if row:
                for name, look in (("text alone", ":"), ("image alone", "-.")):
                    values = [one["heads"][name]["samples_f1"] for one in points]
                    axes[row, column].plot(range(len(values)), values, look, color="#333333", linewidth=1)
            axes[row, column].grid(alpha=0.3)
            axes[row, column].spines[["top", "right"]].set_visible(False)
            axes[row, column].set_xticks(range(len(points)), [f"{one['strength']:g}" for one in points])
        axes[0, column].set_title(f"{'image' if kind in STRENGTHS else 'caption'}: {kind}", fontsize=10)
        axes[1, column].set_xlabel("share of rows" if kind in SHARES else "strength")
    axes[0, 0].set_ylabel("share of the text in the weights")
    axes[1, 0].set_ylabel("samples F1")
    handles = [axes[1, 0].plot([], [], color=colour, label=name)[0] for name, colour in colours.items()]
    looks = (("-", "no modality dropout"), ("--", "modality dropout 0.2"), (":", "text alone"), ("-.", "image alone"))
    handles += [axes[1, 0].plot([], [], line, color="#333333", label=label)[0] for line, label in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Fit, damage, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--rows", type=int, default=2000, help="val rows")
    parser.add_argument("--train", type=int, default=0, help="training rows; 0: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mmfeat-weighting.npz")
    parser.add_argument("--plot", type=Path, default=Path(__file__).parents[1] / "docs/images/weighting.png")
    arguments = parser.parse_args()
    project, data = Project(arguments.project), project_data(str(arguments.project))
    data, val = dataclasses.replace(data, train=some_rows(data, arguments.train)), project.manifest.rows("val")
    some = np.argsort(mix(data.numbers[data.val], 0))[: arguments.rows]
    some.sort()
    heads = fitted(data, arguments.seeds)
    judged = dataclasses.replace(data, val=data.val[some])
    found = []
    for kind, strength, part, hit in cases(project, judged, val[some], arguments.cache):
        found.append({"damage": kind, "strength": strength, "heads": measured(heads, part, hit)})
    printed(found)
    plotted(found, arguments.plot)
    facts = {"device": device_name(), "rows": f"{len(data.train):,} train, {len(some):,} val", "seeds": arguments.seeds}
    print(f"Made {write_results('weighting', {**facts, 'dropout': DROPOUT, 'found': found})}")


if __name__ == "__main__":
    main()
