"""`mmfeat sweep fuse`: a grid of heads on cached arrays, trained in as few passes as can be; nothing that is used changes."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.devices import torch_device
from mmfeat.common.files import digest_json, remove_leftovers
from mmfeat.common.json_shapes import Number, Shape
from mmfeat.common.progress import progress, say
from mmfeat.common.seals import read_record, write_sealed
from mmfeat.encoders.resolve import Identity
from mmfeat.heads.training.epochs import FittedHead
from mmfeat.heads.training.fit_heads import FitData, diverged, fit_data, fit_stacks, head_logits
from mmfeat.heads.training.members import Member
from mmfeat.inference.fitted_rules import metrics_on_val, required_val
from mmfeat.project.project import Project
from mmfeat.report.outputs import Outputs
from mmfeat.report.sweep_table import sweep_csv
from mmfeat.runs.sweep_effects import METRIC_NAMES, Effect, SweptCell, best_first, main_effects
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.head_grid import Cell, Grid, grid_of
from mmfeat.training.head_runs import seeds_of, tokens_read
from mmfeat.training.head_training import head_inputs, heads_made_from, resolved_config

FORMAT = 1
_FAILED: Shape = {"error": str}
_SWEPT: Shape = {
    "figures": dict.fromkeys(METRIC_NAMES, (float, None)),
    "best_epoch": Number(int, low=0),
    "seconds": float,
}
_OPTIONS = {"fuse.inputs": "inputs", "fuse.seeds": "seeds", "metric": "metric", "seed": "seed", "device": "device"}


@dataclass(frozen=True)
class SweepResult:
    """A grid's figures on val.

    Attributes
    ----------
    cells : list of SweptCell
        Best first.
    n_heads, n_trained : int
        All heads of the grid, and those that were trained now.
    notes : list of str
        Keys that some head does not have.
    file : Path
        All cells as CSV.
    after : str
        The command that uses the best settings.
    """

    cells: list[SweptCell]
    effects: list[Effect]
    n_heads: int
    n_trained: int
    n_val: int
    metric: str
    notes: list[str]
    file: Path
    after: str


@dataclass(frozen=True)
class _Planned:
    """One head of the grid."""

    cell: int
    member: Member
    fingerprint: str


def sweep_fuse(folder: Path | str, overrides: dict[str, str], overwrite: bool = False) -> SweepResult:
    """Train every head of a grid that is not there yet, and say which settings are best and which matter.

    What is trained is kept in `sweeps/` of the project as soon as its pass is done: a sweep that was interrupted goes on,
    and cells that two grids share are trained once. No run is made.

    Parameters
    ----------
    overrides : dict of str to str
        As :func:`mmfeat.training.head_grid.grid_of` takes them.
    overwrite : bool
        Whether the table of cells may be replaced where it was changed since it was written.

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
    grid = grid_of(folder, overrides)
    project, metric = grid.project, grid.project.config.metric
    n_val = len(required_val(project, "rows to compare settings on"))
    identities, table, rows = head_inputs(project, heads=grid.heads)
    planned = _planned(grid, identities, table)
    sweeps, outputs = project.root / "sweeps", Outputs(project.config, overwrite=overwrite)
    outputs.check(sweeps / "fuse.csv", own=True, earlier=True)  # before any work
    kept = _kept(sweeps / "fuse")
    missing = [one for one in planned if one.fingerprint not in kept]
    if missing:
        (sweeps / "fuse").mkdir(parents=True, exist_ok=True)
        remove_leftovers(sweeps)
        data = fit_data(table, list(identities), torch_device(project.config.device), rows)
        for heads in _trained(grid, data, missing):
            write_sealed(
                sweeps / "fuse" / f"{digest_json(sorted(heads))[:16]}.json", {"format": FORMAT, "heads": heads}
            )
            kept |= heads
    found: list[list[dict[str, Any]]] = [[] for _ in grid.cells]
    for one in planned:
        found[one.cell].append(kept[one.fingerprint])
    cells = [
        SweptCell(cell.head, ({"head": cell.head} if len(grid.heads) > 1 else {}) | cell.values, heads)
        for cell, heads in zip(grid.cells, found, strict=True)
    ]
    order = best_first(cells, metric)
    outputs.write(sweeps / "fuse.csv", sweep_csv(order, metric), own=True, earlier=True)
    best = grid.cells[next(i for i, cell in enumerate(cells) if cell is order[0])]
    after = "mmfeat runs" if order[0].error else _command(grid, best)
    return SweepResult(
        order,
        main_effects(cells, metric),
        len(planned),
        len(missing),
        n_val,
        metric,
        grid.notes,
        sweeps / "fuse.csv",
        after,
    )


def _planned(grid: Grid, identities: dict[str, Identity], table: FeatureTable) -> list[_Planned]:
    """Every head of the grid, cell by cell and seed by seed."""
    project = grid.project
    common = heads_made_from(project, identities, table)
    common["predict"] = dataclasses.asdict(project.config.predict)  # figures are kept, not logits
    planned = []
    for number, cell in enumerate(grid.cells):
        settings = resolved_config(cell.project, cell.head, identities, table)
        tokens = tokens_read(project, cell.head, settings, table)
        own = {"head": cell.head, "settings": dataclasses.asdict(settings), "tokens": tokens}
        planned += [
            _Planned(number, Member(settings, seed), digest_json({**common, **own, "kind": "swept", "seed": seed}))
            for seed in seeds_of(project)
        ]
    return planned


def _trained(grid: Grid, data: FitData, missing: list[_Planned]) -> Iterator[dict[str, dict[str, Any]]]:
    """What is to be kept of the heads of each pass, by fingerprint."""
    project, config = grid.project, grid.project.config
    with progress("sweep", sum(one.member.config.epochs for one in missing), "epochs") as bar:
        for head in grid.heads:
            todo = [one for one in missing if grid.cells[one.cell].head == head]
            spent = 0

            def on_epoch(going: int, note: str, head: str = head) -> None:
                nonlocal spent
                spent += going
                bar.advance(going, f"{head}: {note}")

            passes = fit_stacks(
                head, data, [one.member for one in todo], metric=config.metric, rule=config.predict, on_epoch=on_epoch
            )
            for at, fits in passes if todo else ():
                yield {
                    todo[i].fingerprint: _record(project, head, data, todo[i], fit)
                    for i, fit in zip(at, fits, strict=True)
                }
                bar.advance(sum(todo[i].member.config.epochs for i in at) - spent)
                spent = 0


def _record(project: Project, head: str, data: FitData, one: _Planned, fit: FittedHead) -> dict[str, Any]:
    """What is kept of one head, as JSON values."""
    made = {"head": head, "settings": dataclasses.asdict(one.member.config), "seed": one.member.seed}
    if fit.error:
        return {**made, "error": diverged(head, one.member.config, fit.error)}
    figures = metrics_on_val(project, head_logits(fit.head, data, data.val)).as_dict()
    kept = {name: figures[name] for name in METRIC_NAMES}
    return {**made, "figures": kept, "best_epoch": fit.best_epoch, "seconds": fit.seconds}


def _kept(folder: Path) -> dict[str, dict[str, Any]]:
    """What sweeps have kept, by fingerprint; a file that cannot be read keeps nothing, and its heads are trained again."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            found |= read_record(file, FORMAT, {"heads": {str: (_FAILED, _SWEPT)}}, "Its heads are trained again")[
                "heads"
            ]
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            say(str(error))
    return found


def _command(grid: Grid, cell: Cell) -> str:
    """The command that makes a run with a cell's settings."""
    words = ["mmfeat", "fuse", "--head", cell.head]
    for key, value in grid.fixed.items():
        words += [f"--{_OPTIONS[key]}", value] if key in _OPTIONS else ["--set", f"{key}={value}"]
    for key, value in cell.typed.items():
        words += ["--set", f"fuse.{cell.head}.{key}={value}"]
    return shlex.join(words)
