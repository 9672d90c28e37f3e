"""Files of a project that are changed behind its back: right results, or one line that names the file; never a traceback."""

from __future__ import annotations

import fnmatch
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.fault_cases import Bases

MOST = int(os.environ.get("MMFEAT_FLIPS", "12"))  # of each file
COMMANDS = (
    "status",
    "runs",
    "evaluate concat-1 ensemble-1 selftrain-1 image text",
    "predict {run}",
    "fuse --head concat",
    "extract",
)
RUNS = ("concat-1", "ensemble-1", "selftrain-1")
# What nothing can be told from: for people, or replaced by what a command finds.
FREE = ("checkpoints/tensorboard/*", "*.png", "*.md", "*.csv", "init.log", "*/rounds.csv", "mmfeat.toml", "data/*")
RESULTS = ("submission.csv", "predictions.parquet", "runs/concat-1/evaluation-val.csv")


@pytest.fixture(scope="module")
def attacked(bases) -> tuple[Bases, dict[str, dict[str, str]], list[str]]:
    """A project with everything in it, what each command says and makes of it, and its files."""
    bases.at("whole")
    files = sorted(str(p.relative_to(bases.project)) for p in bases.project.rglob("*") if p.is_file())
    right = {words: made(bases, words) for words in all_commands()}
    return bases, right, files


def all_commands() -> list[str]:
    return [words.format(run=run) for words in COMMANDS for run in (RUNS if "{run}" in words else RUNS[:1])]


def made(bases: Bases, words: str) -> dict[str, str]:
    """What a command says (without times) and the results that it leaves."""
    for name in RESULTS:
        (bases.project / name).unlink(missing_ok=True)
    done = bases.run(words)
    if done.code:
        return {"error": done.err}
    found = {name: (bases.project / name).read_bytes().hex() for name in RESULTS if (bases.project / name).is_file()}
    found.pop("predictions.parquet", None)
    said = done.out.partition(" Next: ")[0] if words.startswith(("runs", "evaluate")) else ""
    return {**found, "said": re.sub(r"\d+:\d\d|\d+\.\d+ s\b", "", said), "everything": done.out + done.err}


def damaged(file: Path, chance: random.Random) -> str:
    """Flip a bit of a file, or cut it short; says which."""
    data = file.read_bytes()
    if not data or chance.random() < 0.25:
        keep = chance.randrange(len(data)) if data else 0
        file.write_bytes(data[:keep])
        return f"cut to {keep} of {len(data)} bytes"
    at, bit = chance.randrange(len(data)), chance.randrange(8)
    file.write_bytes(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
    return f"bit {bit} of byte {at} of {len(data)}"


def one_flip(bases: Bases, name: str, right: dict[str, dict[str, str]], chance: random.Random) -> Iterator[str]:
    """What is wrong with any command after a file was damaged."""
    bases.at("whole")
    what = damaged(bases.project / name, chance)
    before = (bases.project / name).read_bytes()
    for words in relevant(name, chance):
        found = made(bases, words)
        if "error" in found:
            yield from (f"{what}: {words}: {wrong}" for wrong in bad_line(found["error"], name))
        elif not is_free(name):
            other = [key for key in right[words] if found.get(key) != right[words][key] and key != "everything"]
            told = any(part in found["everything"] for part in names_of(name))
            if other and not (other == ["said"] and told):
                yield f"{what}: {words}: exit 0, other results: {other}"
        if not (bases.project / name).is_file():
            return
        (bases.project / name).write_bytes(before)


def bad_line(err: str, name: str) -> Iterator[str]:
    lines = [line for line in err.splitlines() if line.startswith("Error")]
    if "Traceback" in err or len(lines) != 1:
        yield err[-1500:]
    elif not any(part in lines[0] for part in names_of(name)):
        yield f"does not name it: {lines[0][:300]}"


def names_of(name: str) -> tuple[str, ...]:
    """What may name a file: its own name, its folder's; of a file of the store, whose rows are then missing, the store's.

    A changed file of the user's own model makes another encoder, whose outputs are not there.
    """
    parts = Path(name).parts
    if parts[0] == "data":
        return (*parts[-2:], "encoder 'text'")
    return (*parts[-2:], "mmfeat extract") if parts[0] == "features" else parts[-2:]


def is_free(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in FREE)


def relevant(name: str, chance: random.Random) -> list[str]:
    """Commands that may read a file: the three that show everything, and the prediction that it belongs to."""
    run = next((run for run in RUNS if name.startswith(f"runs/{run}/")), chance.choice(RUNS))
    return ["status", chance.choice(["runs", COMMANDS[2], "fuse --head concat", "extract"]), f"predict {run}"]


def attack(attacked, names: list[str], most: int, seed: int = 0) -> None:
    bases, right, _ = attacked
    wrong, trials = [], 0
    for name in names:
        chance = random.Random(f"{seed} {name}")
        for _ in range(most):
            found = [f"{name}: {reason}" for reason in one_flip(bases, name, right, chance)]
            trials += 1
            wrong += found
            print(*found, sep="\n", flush=True) if found else None
    print(f"{trials} files damaged, {len(wrong)} wrong", flush=True)
    assert not wrong, "\n".join(wrong)


def group_of(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "files"


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "group", ["files", "runs", "checkpoints", "sweeps", "comparisons", "reviews", ".mmfeat", "features", "data"]
)
def test_every_file_flipped_and_cut(attacked, group):
    names = [name for name in attacked[2] if group_of(name) == group]
    assert names
    attack(attacked, names, MOST)


@pytest.mark.slow
def test_some_files_flipped_and_cut(attacked):
    chance = random.Random(1)
    attack(attacked, chance.sample(attacked[2], 6), 1)
