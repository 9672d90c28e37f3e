"""Everything worth knowing of a machine with a GPU, within eight minutes; run by gpu.sh.

    python benchmarks/gpu.py [IMAGES.zip] [--smoke]

Runs the parts below one after another, each in its own process and with a limit of its own. A part that fails or takes too
long is named, and the others go on. Writes their results, and all of them with the GPU's name to gpu.json, into the folder
of BENCHMARK_RESULTS (`benchmarks/results` by default). `--smoke` runs every part on few samples, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results_folder import write_results

from mmfeat.common.machine import usable_cores

HERE = Path(__file__).parent
LITE0, B4 = "tf_efficientnet_lite0", "efficientnet_b4"


def parts(images: str, smoke: bool, n_gpus: int) -> dict[str, tuple[list[str], int]]:
    """Command and limit in seconds of each part."""
    rows, few = ("64", ["--seconds", "0.05", "--rounds", "1"]) if smoke else ("4096", ["--rounds", "2"])
    models = ["--image", f"{LITE0}:224", *([] if smoke else ["--image", f"{B4}:320"]), "--text", "random"]
    size = ["--size", "64"] if smoke else []  # compiling a large network takes minutes on a CPU
    extraction = ["extraction.py", images, "--rows", rows, *size]
    layers = ["cached_layers.py", images, "--rows", "64" if smoke else "512", *size]
    layers += ["--turns", "1", "--batch-size", "16"] if smoke else ["--turns", "2"]
    found = {
        "engines": (["engines.py", images, *models, *few], 70),
        "engines, large batches": (["engines.py", images, *models, *few, "--batch-size", "32" if smoke else "256"], 70),
        "compiled": (
            ["engines.py", images, "--image", "test_efficientnet:64" if smoke else f"{LITE0}:224", "--compile", *few],
            80,
        ),
        "extraction, float32": ([*extraction, "--model", LITE0, "--precision", "float32"], 60),
        "extraction, mixed": ([*extraction, "--model", LITE0, "--precision", "mixed"], 60),
        "fine-tuning": ([*layers, "--precision", "bfloat16"], 70),
        "heads": (["heads.py", "fit"], 70),
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
    import torch

    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        "torch": torch.__version__,
        "parts": {},
    }
    print(f"{found['device']}, torch {found['torch']}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        images = options.images or drawn(Path(folder), 128 if options.smoke else 512)
        for name, (command, limit) in parts(images, options.smoke, torch.cuda.device_count()).items():
            begin, results = time.perf_counter(), Path(folder) / name
            environment = {**os.environ, "BENCHMARK_RESULTS": str(results), "XDG_CACHE_HOME": f"{folder}/cache"}
            error = ""
            try:
                done = subprocess.run(
                    [sys.executable, str(HERE / command[0]), *command[1:]],
                    env=environment,
                    timeout=limit * (20 if options.smoke else 1),
                    capture_output=True,
                    text=True,
                )
                error = done.stderr.strip().splitlines()[-1] if done.returncode else ""
                print(done.stdout, flush=True)
            except subprocess.TimeoutExpired:
                error = f"took more than {limit} s"
            written = {file.stem: json.loads(file.read_text()) for file in sorted(results.glob("*.json"))}
            found["parts"][name] = {"seconds": time.perf_counter() - begin, **({"error": error} if error else written)}
            print(f"{name}: {error or 'done'} ({time.perf_counter() - begin:.0f} s)\n", flush=True)
    print(f"Made {write_results('gpu', found)}")
    if options.smoke and any("error" in one for one in found["parts"].values()):
        sys.exit(1)


def drawn(folder: Path, n: int) -> str:
    """An archive of drawn pictures."""
    from mmfeat.data.demo_data import make_demo

    make_demo(folder / "demo", seed=0, n_labelled=n, n_unlabelled=8)
    return str(folder / "demo" / "images.zip")


if __name__ == "__main__":
    main()
