"""Cells of earlier sweeps in the table of a later one: those whose fits would be the same now, and are kept."""

from __future__ import annotations

from typing import Any

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import typed_value
from mmfeat.project.project import Project
from mmfeat.training.grid_cells import Cell, Grid
from mmfeat.training.sweep_run import Trainer


def with_earlier(trainer: Trainer) -> Trainer:
    """The trainer of a grid with the cells of earlier sweeps added, if all their fits are kept for the current rows.

    Raises
    ------
    ConfigError
        There is no cell at all.
    """
    grid = trainer.grid
    wider = trainer.of(grid.of([*grid.cells, *_recorded(grid, trainer.recorded())]))
    missing = {one.cell for one in wider.planned if one.fingerprint not in wider.kept}
    kept = [cell for i, cell in enumerate(wider.grid.cells) if i < len(grid.cells) or i not in missing]
    if not kept:
        raise ConfigError("--earlier: no fit of an earlier sweep is kept for these rows. Leave it out")
    return trainer.of(grid.of(kept))


def _recorded(grid: Grid, recorded: list[tuple[str, dict[str, Any]]]) -> list[Cell]:
    """Cells with recorded settings that the grid does not have: they differ from the project's in some keys."""
    seen = [grid.identity(cell.name, cell.project) for cell in grid.cells]
    cells = []
    for name, settings in recorded:
        known = dict(Project(grid.project.root, grid.shared(name)).config.dotted())
        table = f"{grid.stage}.{name}"
        values = {f"{table}.{key}": value for key, value in settings.items()}
        typed = {key: typed_value(value) for key, value in values.items() if key in known and known[key] != value}
        cells += grid.distinct(name, [typed], seen)
    return cells
