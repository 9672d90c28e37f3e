"""Fine-tuning on one device and on several: training images a second, and the largest difference of the losses.

    python benchmarks/device_scaling.py DEVICES [--rows N] [--batch-size N] [--epochs N]

DEVICES are those of `mmfeat finetune --devices`, compared with the first of them alone. All layers of tf_efficientnet_lite0 are
trained on drawn pictures, from random weights. Writes benchmarks/results/device-scaling.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from results_folder import device_name, write_results

from mmfeat import Project
from mmfeat.data.demo_data import make_demo
from mmfeat.extraction.device_shares import device_shares

SETTINGS = """\
schema = 1
engine = "torch"
[data]
source = {source}
[encoder.image]
model = "tf_efficientnet_lite0"
pretrained = "random"
size = 224
[finetune.image]
epochs = {epochs}
batch_size = {batch_size}
head_first = false
precision = "{precision}"
"""


def main() -> None:
    """Fine-tune twice, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("devices")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    shares = device_shares(options.devices)
    first = "cpu:1" if shares[0].device == "cpu" else shares[0].device.removeprefix("cuda:")
    found: dict[str, Any] = {"device": device_name(), "n_devices": len(shares), "settings": vars(options)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_demo(folder / "source", n_labelled=options.rows, n_unlabelled=1)
        source = json.dumps(str(folder / "source"))
        text = SETTINGS.format(
            source=source, **{key: vars(options)[key] for key in ("epochs", "batch_size", "precision")}
        )
        (folder / "mmfeat.toml").write_text(text, encoding="utf-8")
        Project(folder).init()
        found["one"] = fitted(folder, first)
        shutil.rmtree(folder / "checkpoints")
        found["several"] = fitted(folder, options.devices)
    found["times as fast"] = found["several"]["images a second"] / found["one"]["images a second"]
    pairs = zip(found["one"]["losses"], found["several"]["losses"], strict=True)
    found["largest difference"] = max(abs(one - other) for one, other in pairs)
    print(f"{found['device']}: {found['n_devices']} devices are {found['times as fast']:.2f} times as fast as one")
    print(f"Made {write_results('device-scaling', found)}")


def fitted(folder: Path, devices: str) -> dict[str, Any]:
    """Training images a second, with scoring, and the losses of all epochs."""
    project = Project(folder, progress=False)
    record = project.finetune("image", devices=devices).encoders[0].checkpoint.record
    n = len(record["history"]) * (project.manifest.split == "train").sum()
    return {"images a second": n / record["seconds"], "losses": [row["train_loss"] for row in record["history"]]}


if __name__ == "__main__":
    main()
