"""README's session on coco18, from init to the submission: this version's time over version 0.1's, with encoding's share.

    python benchmarks/session.py [--rows N] [--old CHECKOUT] [--data FOLDER] [--image-weights FILE] [--text FOLDER]

Makes three projects of the same rows in temporary folders: version 0.1, which has float32 alone, and this version with float32
and with mixed encoders. The commands are those of README's session up to `predict`; each is run by all versions before the
next, as a process of its own, the first version another one each time. Every version begins with empty caches, so that
this one measures its engines within the session.

0.1 is taken from this repository's history (`git archive`), or from the folder CHECKOUT, and runs with the packages of
this Python. `--rows` takes the first N rows in place of all, as many of them unlabelled as in all; the ratio of a part is not
that of all rows, since heads and engines take their time for few rows too. Prints a table and writes
benchmarks/results/session.json (session-N.json for N rows).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results_folder import device_name, write_results

ROOT = Path(__file__).parent.parent
OLD_COMMIT = "4937996"  # version 0.1.0
OLD, FLOAT32, MIXED = "0.1", "float32", "mixed"
ENCODING = ("finetune --freeze", "extract")
STEPS = (
    "init",
    "finetune --freeze",
    "extract",
    "fuse --head crossattn",
    "ensemble fm1",
    "ensemble fm3",
    "fuse --head concat",
    "ensemble fm2",
    "selftrain --rounds 5",
    "runs",
    "evaluate",
    "predict",
)
MAIN = "import sys; from mmfeat.cli import main; sys.argv[0] = 'mmfeat'; sys.exit(main())"
# the beginning of a record; some have line breaks in their caption
RECORD = re.compile(rb"^[\w-]+\.\w+,", re.MULTILINE)


def write_subset(data: Path, folder: Path, n: int) -> None:
    """A folder with the first rows of train.csv and test.csv, in their shares of all rows, and links to the zip files."""
    files = {name: (data / name).read_bytes() for name in ("train.csv", "test.csv")}
    starts = {name: [found.start() for found in RECORD.finditer(text)] for name, text in files.items()}
    total = sum(map(len, starts.values()))
    for name, text in files.items():
        kept = round(n * len(starts[name]) / total)
        (folder / name).write_bytes(text[: starts[name][kept]] if kept < len(starts[name]) else text)
    for archive in data.glob("*.zip"):
        (folder / archive.name).symlink_to(archive)


def package(source: Path, folder: Path) -> Path:
    """A new folder to import a checkout's mmfeat from, with its commands as `mmfeat.cli`."""
    made = folder / "mmfeat"
    made.mkdir(parents=True)
    for path in (*(source / "mmfeat").iterdir(), source / "cli"):
        (made / path.name).symlink_to(path)
    return folder


def old_source(folder: Path) -> Path:
    """Version 0.1 from this repository's history."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", OLD_COMMIT], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def configure(project: Path, options: argparse.Namespace, precision: str) -> None:
    """Write the encoders of the session into mmfeat.toml; 0.1 has no options for them."""
    file = project / "mmfeat.toml"
    models = {
        "image": {"model": "tf_efficientnet_lite0", "pretrained": str(options.image_weights)},
        "text": {"model": str(options.text)},
    }
    lines, table = [], ""
    for line in file.read_text(encoding="utf-8").splitlines():
        table = line.strip("[] ").removeprefix("encoder.") if line.startswith("[") else table
        key = line.partition("=")[0].strip()
        if key in models.get(table, {}):
            line = f'{key} = "{models[table][key]}"'
        elif key == "precision" and table in models:
            line = f'precision = "{precision}"'
        lines.append(line)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(step: str, project: Path, package: Path, data: Path) -> tuple[float, float]:
    """Seconds and processor seconds of one command in a project, by the version that lies in a folder."""
    arguments = [*step.split(), *([str(data)] if step == "init" else [])]
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "XDG_CACHE_HOME": str(project.parent / f"{project.name}-cache"),
        "HF_HUB_OFFLINE": "1",
    }
    start, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], cwd=project, env=environment, capture_output=True, text=True
    )
    spent = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{project.name}: mmfeat {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return spent, processor_seconds() - before


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(options: argparse.Namespace, folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Seconds of each step by version, and the processor seconds of all steps by version."""
    data = options.data
    if options.rows:
        data = folder / "data"
        data.mkdir()
        write_subset(options.data, data, options.rows)
    old = Path(options.old).expanduser().resolve() if options.old else old_source(folder / "source")
    new = package(ROOT, folder / "new")
    packages = {OLD: package(old, folder / "old"), FLOAT32: new, MIXED: new}
    projects = {name: folder / name for name in packages}
    for project in projects.values():
        project.mkdir()
    found: dict[str, dict[str, float]] = {}
    used = dict.fromkeys((OLD, FLOAT32, MIXED), 0.0)
    for number, step in enumerate(STEPS):
        names = list(packages)[number % 3 :] + list(packages)[: number % 3]
        found[step] = {}
        for name in names:
            found[step][name], more = run(step, projects[name], packages[name], data)
            used[name] += more
            if step == "init":
                configure(projects[name], options, MIXED if name == MIXED else FLOAT32)
        print("  ".join([f"{step:24s}", *(f"{name} {found[step][name]:.1f} s" for name in packages)]), flush=True)
    return found, used


def summary(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Sums, ratios and encoding's share."""
    totals = {name: sum(step[name] for step in found.values()) for name in (OLD, FLOAT32, MIXED)}
    encoding = {name: sum(found[step][name] for step in ENCODING) for name in totals}
    return {
        "seconds": totals,
        "over 0.1": {name: totals[name] / totals[OLD] for name in (FLOAT32, MIXED)},
        "encoding, seconds": encoding,
        "encoding, over 0.1": {name: encoding[name] / encoding[OLD] for name in (FLOAT32, MIXED)},
        "encoding's share": {name: encoding[name] / totals[name] for name in totals},
    }


def table(found: dict[str, dict[str, float]], sums: dict[str, Any]) -> str:
    """Seconds and ratios by step, as Markdown."""
    rows = [
        *found.items(),
        ("all", sums["seconds"]),
        (f"encoding ({' and '.join(ENCODING)})", sums["encoding, seconds"]),
    ]
    lines = ["| | 0.1, s | float32, s | mixed, s | float32 / 0.1 | mixed / 0.1 |", "|---|---|---|---|---|---|"]
    for step, seconds in rows:
        ratios = [f"{seconds[name] / seconds[OLD]:.2f}" for name in (FLOAT32, MIXED)]
        lines.append(f"| {step} | " + " | ".join([*(f"{one:.1f}" for one in seconds.values()), *ratios]) + " |")
    shares = " | ".join(f"{share:.0%}" for share in sums["encoding's share"].values())
    return "\n".join([*lines, f"| encoding's share | {shares} | | |"])


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6000, help="0: all")
    parser.add_argument("--old", default="", help="a checkout of version 0.1")
    parser.add_argument("--data", type=Path, default=Path("~/coco18"))
    parser.add_argument("--image-weights", type=Path, default=Path("~/weights/tf_efficientnet_lite0.safetensors"))
    parser.add_argument("--text", type=Path, default=Path("~/weights/all-MiniLM-L6-v2"))
    options = parser.parse_args()
    for name in ("data", "image_weights", "text"):
        setattr(options, name, getattr(options, name).expanduser().resolve())
    load = os.getloadavg()[0]  # of others: the machine may be shared
    with tempfile.TemporaryDirectory() as folder:
        found, used = measured(options, Path(folder))
    found = {step: {name: seconds[name] for name in (OLD, FLOAT32, MIXED)} for step, seconds in found.items()}
    sums = summary(found)
    rows = options.rows or "all"
    results = {"device": device_name(), "load average": load, "rows": rows, "steps": found, **sums}
    results["processor seconds"] = used
    results["processor seconds, over 0.1"] = {name: used[name] / used[OLD] for name in (FLOAT32, MIXED)}
    print(f"{rows} rows, {results['device']}\n{table(found, sums)}")
    print(f"Processor seconds, which hardly depend on other work, over 0.1: {results['processor seconds, over 0.1']}")
    print(f"Made {write_results('session' + (f'-{rows}' if options.rows else ''), results)}")


if __name__ == "__main__":
    main()
