"""Training images a second: the last stages from cached layers, all layers, and `frozen_layers` with the same cut, by turns.

    python benchmarks/cached_layers.py IMAGES... --pretrained FILE [--model NAME] [--layers N] [--precision P,P] [--rows N]

IMAGES are folders, zip or tar files. Every loop is mmfeat's own, with the same rows, batches, flips and statistics of batch
norms. Cached layers are computed first and read from mapped files of a store. The loops alternate, and ratios are those of the
sums, since the speed of a shared machine drifts. Writes benchmarks/results/cached-layers.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_folder import device_name, write_results

from mmfeat.config.encoder_tables import ImageEncoderConfig
from mmfeat.config.finetune_recipes import FinetuneConfig
from mmfeat.config.schema import PredictConfig
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.row_keys import image_keys
from mmfeat.encoders.batches import groups_of
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.finetuning.augmentation import ImageAugmentation
from mmfeat.encoders.finetuning.training_samples import Samples
from mmfeat.encoders.finetuning.validated_epochs import EncoderFit
from mmfeat.encoders.front import FrontEncoder, Mirrored, View
from mmfeat.encoders.tail import TailEncoder
from mmfeat.extraction import Session, extract_encoder
from mmfeat.project.fronts import StoredFront, StoredView
from mmfeat.store import FeatureStore

SHARES = {"cached layers": 4, "all layers": 1, "frozen_layers": 2}  # batches of a turn
OTHERS = list(SHARES)[1:]
TIMES = ("per second", "per processor second")  # the second hardly depends on other work on the machine
N_CLASSES = 18


class Loops:
    """The fits that are compared, on the same images."""

    def __init__(self, options: argparse.Namespace, folder: Path, device: torch.device) -> None:
        self.options, self.device = options, device
        self.sources = ImageSources(options.images)
        names = np.array(self.sources.names()[: options.rows], dtype=object)
        self.keys = image_keys(names, self.sources).keys
        self.locations = [self.sources.locate(name) for name in names]
        self.rows = np.arange(len(names))
        self.labels = (np.random.default_rng(0).random((len(names), N_CLASSES)) < 0.1).astype(np.int8)
        self.store = FeatureStore(folder / "features")
        self.cached, self.seconds, self.mb = self._cached()

    def encoder(self) -> Any:
        """A new encoder."""
        options = self.options
        config = ImageEncoderConfig(model=options.model, pretrained=options.pretrained, size=options.size or "auto")
        return build_image_encoder("image", config, Path.cwd(), 0)

    def read(self, row: int) -> bytes:
        """An image's bytes."""
        return self.sources.read(self.locations[row])

    def _cached(self) -> tuple[StoredFront, float, float]:
        """Compute both views' activations; returns their reader, the seconds, and MB of one view."""
        cut, views, begin = self.encoder().cut(self.options.layers), [], time.perf_counter()
        for view in (View(), Mirrored()):
            front = FrontEncoder(cut, view, "float16").to(self.device).eval()
            features = self.store.encoder(front.spec())
            extract_encoder(
                features,
                lambda todo, front=front: Session(front, self.device, 16, {"host": "benchmark"}),
                self.keys,
                present=np.ones(len(self.rows), bool),
                read=self.read,
                name=f"layers ({view.name})",
            )
            views.append(StoredView(features, self.keys, False))
        return StoredFront(views, False), time.perf_counter() - begin, self.store.size_bytes / 2e6

    def fit(self, loop: str, precision: str) -> EncoderFit:
        """A fine-tuning that can be stepped."""
        encoder = self.encoder()
        config = FinetuneConfig(batch_size=self.options.batch_size, precision=precision)
        if loop == "frozen_layers":
            depths = encoder.layers()
            tail = [name for name, _ in TailEncoder(self.encoder().cut(self.options.layers)).named_parameters()]
            config = dataclasses.replace(config, frozen_layers=min(depths[name] for name in tail))
        augmentation = ImageAugmentation(encoder, config)
        load = lambda row, number, size: augmentation(self.read(row), number, size)  # noqa: E731
        if loop == "cached layers":
            encoder, load = TailEncoder(encoder.cut(self.options.layers)), self.cached.load
        samples = Samples(
            load=load,
            labels=self.labels,
            numbers=np.arange(len(self.rows), dtype=np.uint64),
            train=self.rows,
            val=self.rows[:0],
            classes=tuple(map(str, range(N_CLASSES))),
        )
        return EncoderFit(
            encoder,
            samples,
            config,
            metric="loss",
            rule=PredictConfig(),
            seed=0,
            device=self.device,
            resume_file=Path(os.devnull),
            fingerprint="x",
        )


def turn(fit: EncoderFit, rows: np.ndarray, step: int) -> np.ndarray:
    """Train on some rows; returns their number, the seconds, and the processor's seconds."""
    begin = np.array([-len(rows), time.perf_counter(), time.process_time()])
    fit._train_mode()
    for batch in fit.batches.augmented(groups_of(rows, fit.config.batch_size), step):
        fit._step(batch, step)
    if fit.device.type == "cuda":
        torch.cuda.synchronize()
    return np.array([0, time.perf_counter(), time.process_time()]) - begin


def measured(loops: Loops, precision: str) -> dict[str, Any]:
    """Images per second of each loop in one precision, and ratios."""
    fits = {loop: loops.fit(loop, precision) for loop in SHARES}
    sums = {loop: np.zeros(3) for loop in fits}
    for number in range(loops.options.turns + 1):
        for loop, fit in fits.items():
            n = min(len(loops.rows), SHARES[loop] * fit.config.batch_size)
            spent = turn(fit, np.roll(loops.rows, -number * n)[:n], number)
            sums[loop] += spent if number else 0  # the first warms up
    rates = {what: {loop: n / seconds[i] for loop, (n, *seconds) in sums.items()} for i, what in enumerate(TIMES)}
    ratios = {what: {loop: one["cached layers"] / one[loop] for loop in OTHERS} for what, one in rates.items()}
    return {"images": rates, "cached layers over": ratios}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="+")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--pretrained", default="random")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0: as pretrained")
    parser.add_argument("--layers", type=int, default=2, help="the last stages, which are trained")
    parser.add_argument("--precision", default="float32,bfloat16", help="of training, separated by commas")
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4, help="measured, after one that warms up")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(tempfile.mkdtemp())
    try:
        loops = Loops(options, folder, device)
        found = {precision: measured(loops, precision) for precision in options.precision.split(",")}
    finally:
        shutil.rmtree(folder)
    rates = {precision: one["images"]["per second"] for precision, one in found.items()}
    fastest = {loop: max(one[loop] for one in rates.values()) for loop in SHARES}
    result = {
        "model": options.model,
        "layers": f"last {options.layers}",
        "images": len(loops.rows),
        "batch size": options.batch_size,
        "device": device_name(),
        "load average": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cached": {
            "MB per 1,000 images and view": loops.mb / len(loops.rows) * 1e3,
            "images per second": 2 * len(loops.rows) / loops.seconds,
        },
        **found,
        "cached layers over, each in its fastest precision": {
            loop: fastest["cached layers"] / fastest[loop] for loop in OTHERS
        },
    }
    write_results("cached-layers", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
