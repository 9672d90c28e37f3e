"""The store's input and output beside numpy's and chunked HDF5's, on the same random float16 rows, in one run.

    python benchmarks/store_io.py [--rows 24000 1000000] [--width 1792] [--folder DIR]

Files are in the page cache when they are read. Ratios are medians over alternating repetitions; above 1 the store is
ahead. Writes benchmarks/results/store_io.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from mmfeat.common.machine import processor, usable_cores
from mmfeat.store import EncoderSpec, FeatureStore
from mmfeat.store.feature_table import open_table
from mmfeat.store.merge import merge_segments

SPEC = EncoderSpec("image", "benchmark", "0a" * 32, {"size": 1}, "mean", {"precision": "float32"})
PART, BATCH, CHUNK = 4096, 256, 256
REPETITIONS, BATCHES = 5, 400


def keys_of(n: int) -> np.ndarray:
    """Random row keys `(n, 32)`, the same for the same n."""
    return np.random.default_rng(n).integers(0, 256, (n, 32), dtype=np.uint8)


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def write(folder: Path, n: int, width: int) -> dict[str, float]:
    """Write the same rows in each way; returns seconds. The store's include checksums, flushes and merging."""
    block = np.random.default_rng(0).normal(size=(PART, width)).astype(np.float16)
    store, keys = FeatureStore(folder / "features"), keys_of(n)
    starts = range(0, n, PART)

    def rows(start: int) -> np.ndarray:
        piece = block[: min(PART, n - start)]
        piece[:, 0] = np.float16(start % 1000)
        return piece

    def into_store() -> None:
        features = store.encoder(SPEC)
        for start in starts:
            piece = rows(start)
            features.append(keys[start : start + len(piece)], piece, [""] * len(piece), meta={"host": "benchmark"})

    def into_npy() -> None:
        written = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float16, (n, width))
        for start in starts:
            piece = rows(start)
            written[start : start + len(piece)] = piece
        written.flush()

    def into_chunks() -> None:
        with h5py.File(folder / "chunked.h5", "w") as h5:
            written = h5.create_dataset("rows", (n, width), np.float16, chunks=(CHUNK, width))
            for start in starts:
                piece = rows(start)
                written[start : start + len(piece)] = piece
            h5.flush()
            os.fsync(h5.id.get_vfd_handle())

    return {
        "store": timed(into_store),
        "store, merging": timed(lambda: merge_segments(store.encoder(SPEC))),
        "npy": timed(into_npy),
        "chunked HDF5": timed(into_chunks),
    }


def table_of(folder: Path, n: int, order: np.ndarray) -> object:
    """The store's rows aligned with a manifest in some order."""
    keys = keys_of(n)[order]
    nothing = np.full((n, 1), -1, np.int8)
    return open_table(
        FeatureStore(folder / "features"),
        {"image": (SPEC, None)},
        ids=order.astype(object),
        row_keys={"image": keys},
        present={"image": np.ones(n, bool)},
        labels=nothing,
        split=np.full(n, "train", object),
        classes=("a",),
    )


def read(folder: Path, n: int) -> dict[str, dict[str, float]]:
    """Median seconds of a full read and of random batches, each way, alternating."""
    rng = np.random.default_rng(1)
    mapped = table_of(folder, n, np.arange(n)).embeddings["image"]
    shuffled = table_of(folder, n, rng.permutation(n)).embeddings["image"]
    memory_map = np.load(folder / "rows.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped[:BATCH], memory_map[:BATCH])
    np.testing.assert_array_equal(mapped[-BATCH:], memory_map[-BATCH:])
    with h5py.File(folder / "chunked.h5", "r") as h5:
        chunked = h5["rows"]
        batches = [rng.integers(0, n, BATCH) for _ in range(BATCHES)]
        few = [np.unique(batch) for batch in batches[:10]]
        ways = {
            "full read": {
                "store": lambda: mapped[:],
                "store, shuffled manifest": lambda: shuffled[:],
                "numpy.load": lambda: np.load(folder / "rows.npy"),
                "chunked HDF5": lambda: chunked[:],
            },
            "random batches of 256": {
                "store": lambda: [mapped[batch] for batch in batches],
                "numpy.memmap": lambda: [memory_map[batch] for batch in batches],
                "chunked HDF5": lambda: [chunked[batch] for batch in few],
            },
        }
        found = {}
        for what, runs in ways.items():
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for run in runs.values():
                run()
            for _ in range(REPETITIONS):
                for name, run in runs.items():
                    seconds[name].append(timed(run))
            found[what] = {name: float(np.median(values)) for name, values in seconds.items()}
        found["random batches of 256"]["chunked HDF5"] *= BATCHES / len(few)
    return found


def open_and_align(folder: Path, n: int) -> dict[str, float]:
    """Seconds and peak memory of opening the store and aligning it with a shuffled manifest, in a process of its own.

    What has been verified is remembered in `folder`, so that the first call computes all checksums and later ones none.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import json, time, numpy as np, store_io\nfrom pathlib import Path\n"
        f"n, folder = {n}, Path({str(folder)!r})\norder = np.random.default_rng(2).permutation(n)\nstore_io.keys_of(n)\n"
        "Path('/proc/self/clear_refs').write_text('5')\nbefore = store_io.peak_mb()\nstart = time.perf_counter()\n"
        "store_io.table_of(folder, n, order)\nseconds = time.perf_counter() - start\n"
        "print(json.dumps({'seconds': seconds, 'MB': store_io.peak_mb() - before}))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout)


def peak_mb() -> float:
    """Largest resident memory of this process in MB, since it was last reset (Linux; a child starts with its parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def measure(n: int, width: int, parent: str | None) -> dict[str, object]:
    """Everything, for one number of rows."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        written = write(folder, n, width)
        first = open_and_align(folder, n)  # checksums are computed here
        again = open_and_align(folder, n)
        found = read(folder, n)
        full, batches = found["full read"], found["random batches of 256"]
        return {
            "rows": n,
            "width": width,
            "bytes": 2 * n * width,
            "write": written,
            **found,
            "open and align, first time": first,
            "open and align": again,
            "ratios": {
                "write, npy over store": written["npy"] / (written["store"] + written["store, merging"]),
                "full read, numpy.load over store": full["numpy.load"] / full["store"],
                "full read, shuffled manifest, numpy.load over store": full["numpy.load"]
                / full["store, shuffled manifest"],
                "random batches, numpy.memmap over store": batches["numpy.memmap"] / batches["store"],
                "random batches, chunked HDF5 over store": batches["chunked HDF5"] / batches["store"],
            },
        }
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[24_000, 1_000_000])
    parser.add_argument("--width", type=int, default=1792)
    parser.add_argument("--folder", help="where files of about twice the data's size may be written")
    arguments = parser.parse_args()
    results = [measure(n, arguments.width, arguments.folder) for n in arguments.rows]
    machine = {
        "cpu": processor(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    out = Path(__file__).with_name("results") / "store_io.json"
    out.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    for one in results:
        print(f"{one['rows']:,} rows: {json.dumps(one['ratios'], indent=2)}")
        print(f"open and align: {one['open and align']}, the first time {one['open and align, first time']}")
    print(f"Wrote {out}")


if __name__ == "__main__":
    main()
