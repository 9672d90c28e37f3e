"""Extraction beside bare forward passes, decoding alone and a plain loop, on the same images, in one run.

    python benchmarks/extraction.py IMAGES... [--model NAME] [--pretrained FILE] [--size N] [--precision P] [--seconds S]

IMAGES are folders, zip or tar files. All use the same model and number of threads:

- bare: forward passes of eager torch in float32, channels last, of batches that lie in memory;
- forward: the same with the fastest engine of the precision class, which is measured first;
- decoding: reading, decoding and resizing the images, on all cores, nothing else;
- mmfeat: `extract_encoder` end to end with that engine, from the files to committed segments of a store;
- plain: a DataLoader with worker processes, timm's own transform, one forward pass after another, one .npy at the end;
  on the first slice alone.

They alternate, a slice of the images at a time, and the ratios are those of the sums, since the speed of a shared machine
drifts. A slice has as many images as the fastest engine alone encodes in `--seconds` (6), so that the start of an extraction,
its last batch and its last file weigh little; the forward passes alone last at most as long. There are up to six slices, as
far as the images (or `--rows`) suffice. Writes benchmarks/results/extraction-MODEL-PRECISION.json.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_folder import device_name, write_results

from mmfeat.common.machine import usable_cores
from mmfeat.config.encoder_tables import ImageEncoderConfig
from mmfeat.data.images.image_sources import ImageSources
from mmfeat.data.row_keys import image_keys
from mmfeat.encoders.batches import groups_of, prepared_batches
from mmfeat.encoders.engines import Choice, Engine, engine_class
from mmfeat.encoders.engines.selection import EngineSelection, Selected
from mmfeat.encoders.families.image_network import ImageEncoder, build_image_encoder
from mmfeat.extraction import Session, extract_encoder
from mmfeat.store import FeatureStore

SLICES = 6


class PlainDataset(torch.utils.data.Dataset):
    """Images as people read them: open, transform."""

    def __init__(self, blobs: list[bytes], transform: Any) -> None:
        self.blobs, self.transform = blobs, transform

    def __len__(self) -> int:
        return len(self.blobs)

    def __getitem__(self, i: int) -> torch.Tensor:
        from PIL import Image

        return self.transform(Image.open(io.BytesIO(self.blobs[i])).convert("RGB"))


def forward(engine: Engine, batch: dict[str, torch.Tensor], n: int, most: float = math.inf) -> float:
    """Seconds of enough forward passes for n images, extrapolated from those of the first `most` seconds.

    As many batches are encoded at the same time as the engine is made for.
    """
    size, done = len(batch["pixels"]), 0
    start = time.perf_counter()
    with ThreadPoolExecutor(engine.at_once) as pool:
        while done < n and (not done or time.perf_counter() - start < most):
            list(pool.map(engine.encode, [batch] * 4 * engine.at_once))
            done += size * 4 * engine.at_once
    return (time.perf_counter() - start) * n / done


def decoding(encoder: ImageEncoder, read: Callable[[int], bytes], rows: np.ndarray, batch_size: int) -> float:
    """Seconds of reading, decoding and resizing."""
    start = time.perf_counter()
    for batch in prepared_batches(groups_of(rows, batch_size), lambda row: encoder.prepare(read(row)), encoder.collate):
        assert batch.inputs is not None
    return time.perf_counter() - start


def selected(encoder: ImageEncoder, device: torch.device, prepared: list[torch.Tensor], name: str) -> Selected:
    """The engine `name`, or the fastest."""
    selection = EngineSelection(encoder, device, name)
    return selection.select(10**6, lambda: prepared, tune=name == "auto")


def plain(
    encoder: ImageEncoder, device: torch.device, blobs: list[bytes], batch_size: int, workers: int, out: Path
) -> float:
    """Seconds of the loop as people write it."""
    from timm.data import create_transform

    start = time.perf_counter()
    dataset = PlainDataset(blobs, create_transform(**encoder.preparation.data_config, is_training=False))
    loader = torch.utils.data.DataLoader(dataset, batch_size, num_workers=workers)
    rows = []
    with torch.inference_mode():
        for pixels in loader:
            rows.append(encoder.network(pixels.to(device)).float().cpu().numpy())
    np.save(out, np.concatenate(rows).astype(np.float16))
    return time.perf_counter() - start


def sliced(names: list[str], seconds: float, arguments: argparse.Namespace) -> tuple[np.ndarray, list[np.ndarray]]:
    """Names of the images to encode and 1 % more, and the rows of each slice; one image takes `seconds` alone."""
    size = math.ceil(arguments.seconds / seconds)
    n = len(names) * 100 // 101
    n_slices = max(1, min(SLICES, n // size))
    n = min(n, n_slices * size)
    more = max(1, n // 100)
    return np.array(names[: n + more], dtype=object), np.array_split(np.arange(n), n_slices)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", nargs="+")
    parser.add_argument("--model", default="efficientnet_b4")
    parser.add_argument("--pretrained", default="random")
    parser.add_argument("--size", type=int, default=0, help="pixels; 0: as pretrained")
    parser.add_argument("--precision", default="float32", choices=("float32", "mixed"))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rows", type=int, default=0, help="at most; 0: as the slices need")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a slice's forward passes by the fastest engine")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes of the plain loop")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = ImageEncoderConfig(
        model=arguments.model,
        pretrained=arguments.pretrained,
        size=arguments.size or "auto",
        precision=arguments.precision,
    )
    encoder = build_image_encoder("image", config, Path.cwd(), 0).to(device).eval()
    sources = ImageSources(arguments.images)
    names = sources.names()[: arguments.rows or None]
    prepared = [encoder.prepare(sources.read(sources.locate(names[i % len(names)]))) for i in range(64)]
    torch_engine = engine_class("torch")
    reference = torch_engine(encoder, device, Choice("torch", "float32", {"channels_last": True}))
    fastest = selected(encoder, device, prepared, arguments.engine)
    print(fastest.summary)
    engine = fastest.engine.for_many()
    batch = encoder.collate(prepared[: arguments.batch_size])
    own_batch = encoder.collate([prepared[i % 64] for i in range(fastest.batch_size)])
    names, slices = sliced(names, forward(engine, own_batch, 10**9, arguments.seconds / 4) / 10**9, arguments)
    n_first = sum(map(len, slices))
    n_more = len(names) - n_first  # added when all others are cached
    row_keys = image_keys(names, sources)
    locations = [sources.locate(name) for name in names]
    read = lambda row: sources.read(locations[row])  # noqa: E731
    folder = Path(tempfile.mkdtemp())
    store = FeatureStore(folder / "features")
    spec = encoder.spec()
    seconds = dict.fromkeys(("bare", "forward", "decoding", "mmfeat", "checksums"), 0.0)
    shares: dict[str, float] = {}
    forward(reference, batch, 2 * arguments.batch_size)  # warm
    for rows in slices:
        encoder.set_speed(channels_last=True)
        seconds["bare"] += forward(reference, batch, len(rows), arguments.seconds)
        encoder.set_speed(**engine.choice.settings)
        seconds["forward"] += forward(engine, own_batch, len(rows), arguments.seconds)
        seconds["decoding"] += decoding(encoder, read, rows, fastest.batch_size)
        present = np.zeros(len(names), dtype=bool)
        present[rows] = True
        session = Session(encoder, device, fastest.batch_size, {"host": "benchmark"}, engine=engine)
        start = time.perf_counter()
        result = extract_encoder(
            store.encoder(spec),
            lambda _, session=session: session,
            row_keys.keys,
            present=present,
            read=read,
            name="image",
        )
        spent = time.perf_counter() - start
        seconds["mmfeat"] += spent
        for name, value in result.shares.items():
            shares[name] = shares.get(name, 0.0) + value
        if rows is slices[0]:
            blobs, workers = [read(row) for row in rows], arguments.workers
            by_loop = plain(encoder, device, blobs, arguments.batch_size, workers, folder / "plain.npy")
            over_loop, loop_rate = by_loop / spent, len(rows) / by_loop
            del blobs
    start = time.perf_counter()
    import hashlib

    for path in (folder / "features").rglob("*.h5"):
        hashlib.sha256(path.read_bytes()).hexdigest()
    seconds["checksums"] = time.perf_counter() - start
    for what, n_rows, n_encoded in (("everything cached", n_first, 0), ("1 % added", len(names), n_more)):
        start = time.perf_counter()
        again = extract_encoder(
            FeatureStore(folder / "features").encoder(spec),
            lambda _: session,
            row_keys.keys[:n_rows],
            present=np.ones(n_rows, bool),
            read=read,
            name="image",
        )
        seconds[what] = time.perf_counter() - start
        assert again.encoded == n_encoded
    shutil.rmtree(folder)
    name = device_name()
    found = {
        "model": arguments.model,
        "pixels": encoder.preparation.data_config["input_size"][-1],
        "precision": arguments.precision,
        "images": n_first,
        "slices": len(slices),
        "engine": str(fastest.engine.choice),
        "measured": {str(one.choice): round(one.rate, 1) for one in reversed(fastest.measured)},
        "batch sizes": {"bare": arguments.batch_size, "mmfeat": fastest.batch_size},
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": seconds,
        "images per second": {
            **{k: n_first / seconds[k] for k in ("bare", "forward", "decoding", "mmfeat")},
            "plain": loop_rate,
        },
        "shares": {k: v / sum(shares.values()) for k, v in shares.items()},
        "ratios": {
            "end to end over torch's bare float32 forward": seconds["bare"] / seconds["mmfeat"],
            "end to end over 1/(1/f + 1/d)": (seconds["forward"] + seconds["decoding"]) / seconds["mmfeat"],
            "end to end over the plain loop": over_loop,
            "1 % added over all": seconds["1 % added"] / seconds["mmfeat"],
            "checksums' share": seconds["checksums"] / seconds["mmfeat"],
        },
    }
    write_results(f"extraction-{arguments.model}-{arguments.precision}", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
