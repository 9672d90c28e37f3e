"""Where benchmarks write: `benchmarks/results`, or the folder of the environment variable BENCHMARK_RESULTS."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_results(name: str, found: dict[str, Any]) -> Path:
    """Write `NAME.json`, and return its path."""
    folder = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps(found, indent=2, default=float) + "\n", encoding="utf-8")
    return file
