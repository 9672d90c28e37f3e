"""Comparisons and sweeps as methods of a project. Nothing that the project uses changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.api.open_project import OpenProject, Settings, as_typed, joined_settings, verb
from mmfeat.config.read_keys import TOP, check_read
from mmfeat.config.schema import HEADS

if TYPE_CHECKING:
    from mmfeat.training.sweep_run import SweepResult
    from mmfeat.workflows.compare_encoders import EncodersResult
    from mmfeat.workflows.compare_heads import CompareResult

Values = str | float | Sequence[str] | Sequence[float] | None
Cell = str | Mapping[str, Any]


class StudyVerbs(OpenProject):
    """Comparisons and sweeps."""

    @verb
    def compare_heads(
        self,
        *names: str,
        inputs: str | Sequence[str] | None = None,
        seeds: int | None = None,
        threshold: float | str | None = None,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> CompareResult:
        """Train heads and compare them with encoders and means, on the same val rows.

        Parameters
        ----------
        names : str
            Heads; all that take the project's inputs, if empty.
        inputs : sequence of str, optional
            Encoders.
        seeds : int, optional
            Number of seeds. Their mean is compared.
        overwrite : bool
            Whether to replace tables and plots that were changed since they were written.
        threshold : float or str, optional
            A number, or fitted on val: `auto`, `tuned` or `tuned-per-class`; as `predict.threshold` of mmfeat.toml.
        """
        from mmfeat.workflows.compare_heads import compare_heads

        options = {
            "fuse.inputs": inputs,
            "fuse.seeds": seeds,
            "predict.threshold": threshold,
            "metric": metric,
            "seed": seed,
            "device": device,
        }
        tables = dict.fromkeys((*(f"fuse.{head}" for head in names or HEADS), "fuse.linear"))
        project = self._snapshot(settings, options, ("fuse.inputs", "fuse.seeds", *tables, "predict", *TOP))
        return compare_heads(project, list(names), overwrite=overwrite)

    @verb
    def compare_encoders(
        self,
        *names: str,
        freeze: bool = False,
        seeds: int = 1,
        use: str | None = None,
        threshold: float | str | None = None,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> EncodersResult:
        """Train encoders on the same split and compare size, time, metrics and speed.

        Parameters
        ----------
        names : str
            Encoders of mmfeat.toml, models, or `MODEL=FILE` with weights; all encoders of mmfeat.toml, if empty.
        freeze : bool
            Keep pretrained encoders and fit only their linear probes, on cached features.
        seeds : int
            Fits of each encoder.
        use : str, optional
            Use an encoder in the project: a name in the table, or `best`.
        threshold : float or str, optional
            A number, or fitted on val: `auto`, `tuned` or `tuned-per-class`; as `predict.threshold` of mmfeat.toml.
        """
        from mmfeat.workflows.compare_encoders import compare_encoders, use_encoders

        options = {"predict.threshold": threshold, "metric": metric, "seed": seed, "device": device}
        reads = (*([] if freeze else ["finetune"]), "fuse.linear", "predict", *TOP)
        project = self._snapshot(settings, options, reads)
        result = compare_encoders(project, list(names), freeze=freeze, seeds=seeds, overwrite=overwrite)
        if use is not None:
            use_encoders(project, result, use)
        return result

    @verb
    def sweep_fuse(
        self,
        *,
        head: str | Sequence[str] | None = None,
        lr: Values = None,
        dropout: Values = None,
        inputs: str | Sequence[str] | None = None,
        seeds: int | None = None,
        threshold: float | str | None = None,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        cell: Sequence[Cell] = (),
        cells: str | Path | None = None,
        earlier: bool = False,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> SweepResult:
        """Train a grid of heads on cached features.

        Parameters
        ----------
        head, lr, dropout : sequence
            The values to try. Other keys to sweep go into `settings`, such as `{"fuse.mlp.hidden": [128, 256]}`.
        inputs : sequence of str, optional
            Encoders.
        seeds : int, optional
            Seeds of each cell.
        cell : sequence of dict or str
            Cells instead of every combination, such as `[{"lr": 5e-4, "optimizer": "adam"}]`; `head` names the head.
        cells : Path, optional
            A TOML file with a table `[[cell]]` for each cell.
        earlier : bool
            Show the cells of earlier sweeps too, if their fits are kept for the current rows.
        threshold : float or str, optional
            A number, or fitted on val: `auto`, `tuned` or `tuned-per-class`; as `predict.threshold` of mmfeat.toml.
        """
        from mmfeat.training.cell_lists import listed_cells
        from mmfeat.workflows.sweep_fuse import sweep_fuse

        options = {"fuse.head": head, "fuse.lr": lr, "fuse.dropout": dropout, "fuse.inputs": inputs}
        more = {"fuse.seeds": seeds, "predict.threshold": threshold, "metric": metric, "seed": seed, "device": device}
        overrides = self.overrides | joined_settings(settings, options | more)
        check_read([key for key in overrides if key == "fuse.folds"], ["fuse without folds"])
        check_read(overrides, ("fuse", "predict", *TOP))
        return sweep_fuse(
            self.root, as_typed(overrides), cells=listed_cells(cell, cells), earlier=earlier, overwrite=overwrite
        )

    @verb
    def sweep_finetune(
        self,
        name: str,
        *,
        seeds: int = 1,
        use: str | int | None = None,
        lr: Values = None,
        batch_size: Values = None,
        optimizer: str | Sequence[str] | None = None,
        epochs: Values = None,
        threshold: float | str | None = None,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        cell: Sequence[Cell] = (),
        cells: str | Path | None = None,
        earlier: bool = False,
        overwrite: bool = False,
        settings: Settings | None = None,
    ) -> SweepResult:
        """Fine-tune one encoder with a grid of settings.

        Parameters
        ----------
        name : str
            The encoder.
        seeds : int
            Fits of each cell.
        use : str or int, optional
            Use one cell's checkpoint in the project: `best`, or the number of its row.
        lr, batch_size, optimizer, epochs : sequence
            The values to try. Other keys to sweep go into `settings`, such as `{"finetune.clip": [1, 2]}`.
        cell, cells, earlier, threshold
            As in :meth:`sweep_fuse`.
        """
        from mmfeat.training.cell_lists import listed_cells
        from mmfeat.workflows.sweep_finetune import sweep_finetune, use_cell

        swept = {"lr": lr, "batch_size": batch_size, "optimizer": optimizer, "epochs": epochs}
        options = {f"finetune.{key}": values for key, values in swept.items()}
        more = {"predict.threshold": threshold, "metric": metric, "seed": seed, "device": device}
        overrides = self.overrides | joined_settings(settings, options | more)
        check_read(overrides, ("finetune", "fuse.linear", "predict", *TOP))
        result = sweep_finetune(
            self.root,
            name,
            as_typed(overrides),
            cells=listed_cells(cell, cells),
            earlier=earlier,
            seeds=seeds,
            overwrite=overwrite,
        )
        if use is not None:
            use_cell(result, str(use))
        return result
