"""What benchmarks share: their results in `benchmarks/results`, or the folder of BENCHMARK_RESULTS, and the device's name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmfeat.common.machine import processor, usable_cores


def write_results(name: str, found: dict[str, Any]) -> Path:
    """Write `NAME.json`, and return its path."""
    folder = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps(found, indent=2, default=float) + "\n", encoding="utf-8")
    return file


def device_name() -> str:
    """The GPU's name; without one, that of the processor with the number of usable cores."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processor()}, {usable_cores()} cores"
