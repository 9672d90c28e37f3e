"""Everything worth knowing of a machine with a GPU, within eight minutes; run by gpu.sh.

    python benchmarks/gpu.py [IMAGES.zip] [--smoke]

Runs the parts below one after another, each in its own process and with a limit of its own. A part that fails or takes too
long is named, and the others go on. Writes their results, and all of them with the GPU's name to gpu.json, into the folder
of BENCHMARK_RESULTS (`benchmarks/results` by default). `--smoke` runs every part on few samples and with a tiny network, to
see that it works on any machine; torch compiles nothing there, which takes minutes without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results_folder import device_name, write_results

from mmfeat.common.machine import usable_cores

HERE = Path(__file__).parent
SECONDS = 460.0  # for all parts together
SMOKE_PATIENCE = 3  # times a part's limit, on a slow or busy machine
# keys that the table shows
SHOWN = {"rates", "ratios", "cached layers over", "heads-fit", "heads-grid", "device-scaling"}
LITE0, B4, TINY = "tf_efficientnet_lite0", "efficientnet_b4", "test_efficientnet"


def parts(images: str, smoke: bool, n_gpus: int) -> dict[str, tuple[list[str], int]]:
    """Command and limit in seconds of each part."""
    if smoke:
        few, models = ["--seconds", "0", "--rounds", "1"], ["--image", f"{TINY}:64", "--text", "tiny"]
        large, compiled = "32", [f"{TINY}:64"]
        extraction = ["--model", TINY, "--size", "64", "--rows", "64", "--seconds", "0.1"]
        layers = ["--model", TINY, "--size", "64", "--rows", "64", "--turns", "1", "--batch-size", "16"]
        heads, sweep = ["--rows", "600", "--epochs", "2"], ["--rows", "300", "--heads", "4"]
    else:
        few, models = ["--rounds", "2"], ["--image", f"{LITE0}:224", "--image", f"{B4}:320", "--text", "random"]
        large, compiled = "256", [f"{LITE0}:224"]
        extraction = ["--model", LITE0, "--rows", "4096", "--seconds", "2"]
        layers, heads, sweep = ["--rows", "512", "--turns", "2"], [], ["--rows", "10000"]
    extraction += ["--engine", "torch", "--precision"]  # to measure all engines in all batch sizes takes too long
    found = {
        "engines": (["engines.py", images, *models, *few], 60),
        "engines, large batches": (["engines.py", images, *models, *few, "--batch-size", large], 60),
        "compiled": (["engines.py", images, "--image", *compiled, "--compile", *few], 80),
        "extraction, float32": (["extraction.py", images, *extraction, "float32"], 50),
        "extraction, mixed": (["extraction.py", images, *extraction, "mixed"], 50),
        "fine-tuning": (["cached_layers.py", images, *layers, "--precision", "bfloat16"], 60),
        "heads": (["heads.py", "fit", *heads], 50),
        "sweep": (["heads.py", "grid", *sweep], 40),
    }
    if n_gpus > 1 or smoke:
        few = ["--rows", "64", "--batch-size", "16", "--epochs", "1"] if smoke else ["--rows", "2048"]
        devices = "all" if n_gpus > 1 else f"cpu:{min(2, usable_cores())}"
        found["fine-tuning on several devices"] = (["device_scaling.py", devices, *few], 60)
    return found


def main() -> None:
    """Run all parts and gather what they wrote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", default="")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    import torch

    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{device_name()}, no GPU",
        "torch": torch.__version__,
        "parts": {},
    }
    print(f"{found['device']}, torch {found['torch']}", flush=True)
    patience = SMOKE_PATIENCE if options.smoke else 1
    with tempfile.TemporaryDirectory() as folder:
        images = options.images or drawn(Path(folder), 64 if options.smoke else 512)
        for number, (name, (command, limit)) in enumerate(
            parts(images, options.smoke, torch.cuda.device_count()).items()
        ):
            left = SECONDS - (time.perf_counter() - start)
            results = Path(folder) / str(number)
            environment = {**os.environ, "BENCHMARK_RESULTS": str(results), "XDG_CACHE_HOME": f"{folder}/cache"}
            if options.smoke:
                environment["TORCH_COMPILE_DISABLE"] = "1"
            one = found["parts"][name] = part(command, min(limit * patience, left), environment, results)
            print(f"{name}: {one.get('error', 'done')} ({one['seconds']:.0f} s)\n", flush=True)
            file = write_results("gpu", found)
    print(f"{found['device']}\n{table(found['parts'])}\nMade {file}")
    if options.smoke and any("error" in one for one in found["parts"].values()):
        sys.exit(1)


def part(command: list[str], limit: float, environment: dict[str, str], results: Path) -> dict[str, Any]:
    """Run one part; its seconds, and what it wrote or the reason why it did not."""
    begin, error = time.perf_counter(), ""
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / command[0]), *command[1:]],
            env=environment,
            timeout=max(1.0, limit),
            capture_output=True,
            text=True,
        )
        error = (done.stderr.strip().splitlines() or ["failed"])[-1] if done.returncode else ""
        print(done.stdout, flush=True)
    except subprocess.TimeoutExpired:
        error = f"took more than {limit:.0f} s"
    written = {file.stem: json.loads(file.read_text()) for file in sorted(results.glob("*.json"))}
    return {"seconds": time.perf_counter() - begin, **({"error": error} if error else written)}


def table(found: dict[str, Any]) -> str:
    """The ratios and rates of all parts, one a line."""
    lines = []
    for name, written in found.items():
        for what, value in numbers(written):
            lines.append(f"{name:24s} {what:75s} {value:12,.4g}")
        if "error" in written:
            lines.append(f"{name:24s} {written['error']}")
    return "\n".join(lines)


def numbers(written: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Each number below one of the keys :data:`SHOWN`, with the keys that lead to it."""
    for key, value in written.items() if isinstance(written, dict) else ():
        if isinstance(value, dict) and key != "settings":
            yield from numbers(value, (*path, key))
        elif isinstance(value, (int, float)) and SHOWN.intersection(path):
            yield ", ".join(one for one in (*path[1:], key) if one not in {*SHOWN, "models"}), value


def drawn(folder: Path, n: int) -> str:
    """An archive of drawn pictures."""
    from mmfeat.data.demo_data import make_demo

    make_demo(folder / "demo", seed=0, n_labelled=n, n_unlabelled=8)
    return str(folder / "demo" / "images.zip")


if __name__ == "__main__":
    main()
