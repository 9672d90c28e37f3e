"""How long `mmfeat report` takes, and how large its page is; `benchmarks/README.md` has the figures.

    python benchmarks/pages.py --project . --run crossattn-1

On a project with cached features. The first report is written to a copy of the store without thumbnails, so that it makes those
that it shows; the second finds them. Baselines are remembered by the project, as after `mmfeat fuse`. Each report is a process of
its own, with its start. Prints seconds (real and of all cores) and megabytes, and writes results/pages.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results_folder import device_name, write_results

from mmfeat.project.project import Project
from mmfeat.store.commits import THUMBNAILS

COMMAND = "import sys; from mmfeat.cli import main; sys.argv[0] = 'mmfeat'; main()"


def without_thumbnails(project: Project, folder: Path) -> None:
    """A copy of a project and its store; embeddings are linked, thumbnails and cached layers are left out."""
    left_out = shutil.ignore_patterns(THUMBNAILS, "front-*", "report*.html")
    shutil.copytree(project.root, folder, copy_function=os.link, ignore=left_out)
    store = project.store.path
    if not store.is_relative_to(project.root):
        shutil.copytree(store, folder / "features", copy_function=os.link, ignore=left_out)


def timed(folder: Path, run: str) -> dict[str, Any]:
    """The time and the size of one report."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    page = folder / "page.html"
    words = ["--project", str(folder), "report", run, "--out", str(page), "--overwrite", "--quiet"]
    subprocess.run([sys.executable, "-c", COMMAND, *words], check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cores, 1), "mb": round(page.stat().st_size / 1e6, 2)}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=".", help="a project with a run")
    parser.add_argument("--run", required=True)
    given = parser.parse_args()
    project = Project(given.project)
    with tempfile.TemporaryDirectory(dir=project.root.parent) as place:
        folder = Path(place) / "project"
        without_thumbnails(project, folder)
        found = {"first": timed(folder, given.run), "again": timed(folder, given.run)}
    found |= {
        "rows": project.manifest.n_samples,
        "run": given.run,
        "device": device_name(),
        "cores": len(os.sched_getaffinity(0)),
    }
    print(json.dumps(found, indent=2))
    write_results("pages", found)


if __name__ == "__main__":
    main()
