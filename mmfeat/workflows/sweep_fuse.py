"""`mmfeat sweep fuse`: a grid of heads on cached features, trained in few passes. Nothing that the project uses changes."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from mmfeat.inference.fitted_rules import required_val
from mmfeat.inference.next_commands import RUNS
from mmfeat.training.earlier_cells import with_earlier
from mmfeat.training.grid import head_grid
from mmfeat.training.head_training import trained_head
from mmfeat.training.sweep_heads import HeadTrainer
from mmfeat.training.sweep_run import SweepResult, run_sweep, sweep_outputs

_OPTIONS = {"fuse.inputs": "inputs", "fuse.seeds": "seeds", "metric": "metric", "seed": "seed", "device": "device"}


def sweep_fuse(
    folder: Path | str,
    overrides: dict[str, str],
    *,
    cells: Sequence[dict[str, str]] = (),
    earlier: bool = False,
    overwrite: bool = False,
) -> SweepResult:
    """Train every head of a grid that is not kept yet, and show which settings are best and which matter.

    Heads are kept in `sweeps/` of the project as soon as their pass is done: an interrupted sweep continues, and cells that
    two grids share are trained once. No run is made.

    Parameters
    ----------
    overrides : dict of str to str
        See :func:`mmfeat.training.grid.head_grid`.
    cells : sequence of dict
        Listed cells, see :func:`mmfeat.training.cell_lists.listed_cells`.
    earlier : bool
        Whether the table also has the cells of earlier sweeps of these heads whose fits are kept for the current rows.
    overwrite : bool
        Whether the table of cells may be replaced if it was changed since it was written.

    Raises
    ------
    ConfigError
        A key or value is wrong.
    DataError
        There are no val rows.
    MissingFeatures
        Embeddings of labelled rows are not in the store.
    RunError
        A head does not take the inputs, or memory runs out.
    """
    grid = head_grid(folder, overrides, cells, bare=not earlier)
    required_val(grid.project, "rows to compare settings on")
    trainer = HeadTrainer(grid)
    trainer = with_earlier(trainer) if earlier else trainer
    outputs, file = sweep_outputs(grid.project, "fuse", overwrite=overwrite)
    result = run_sweep(trainer, outputs=outputs, file=file)
    return dataclasses.replace(result, after=RUNS if result.cells[0].error else _command(result))


def _command(result: SweepResult) -> str:
    """The command that makes a run with the best settings; `mmfeat runs` if it exists."""
    best = result.sources[0]
    if trained_head(best.project, best.name):
        return RUNS
    words = ["mmfeat", "fuse", "--head", best.name]
    for key, value in result.grid.fixed.items():
        words += [f"--{_OPTIONS[key]}", value] if key in _OPTIONS else ["--set", f"{key}={value}"]
    return shlex.join([*words, *best.words()])
