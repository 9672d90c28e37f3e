"""The script that measures a GPU runs through anywhere, so that it works at the first try where a GPU is at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.exhaustive
def test_the_gpu_script_runs_all_its_parts_with_smoke(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--smoke"], env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["device"]
    assert len(found["parts"]) == 9
    for name, part in found["parts"].items():
        assert "error" not in part
        assert len(part) > 1, f"{name} wrote nothing"
    assert "end to end over 1/(1/f + 1/d)" in done.stdout
