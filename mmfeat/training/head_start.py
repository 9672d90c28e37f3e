"""`mmfeat fuse --from RUN`: heads that start from the weights of a run and are trained for a part of the epochs.

The run determines the network: head, inputs, and the settings that shape it. mmfeat.toml and options determine the training.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmfeat.common.errors import RunError
from mmfeat.common.text import counted
from mmfeat.config.read_keys import check_read, fuse_keys
from mmfeat.config.schema import HeadConfig
from mmfeat.heads import HEADS, head_settings
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.named_models import find_run
from mmfeat.project.project import Project
from mmfeat.project.staleness import stale_because, trained_on_val
from mmfeat.runs.composition import head_part
from mmfeat.runs.run import Run
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.head_runs import tokens_read
from mmfeat.training.head_training import val_metrics

PART = 4  # a fit from a run has a quarter of the epochs
_OF_TRAINING = {f.name for f in dataclasses.fields(HeadConfig)} - {"standardise"}


@dataclass(frozen=True, eq=False)
class HeadStart:
    """The run whose weights new heads start from."""

    run: Run

    @classmethod
    def of(cls, project: Project, name: str) -> HeadStart:
        """The start from the run of a name.

        Raises
        ------
        RunError
            There is no such run, it is not of `fuse`, it is damaged or stale, or it was trained on rows that are val now.
        """
        run = find_run(project, name)
        if why := _unfit(project, run):
            raise RunError(f"runs/{run.name} {why}")
        return cls(run)

    def project(self, project: Project) -> Project:
        """The project with the run's head, inputs and network, and as many seeds.

        Raises
        ------
        RunError
            An option contradicts the run.
        ConfigError
            An option is for another head.
        """
        record, origins = self.run.record, project.config.origins
        head, seeds = record["head"], len(record["seeds"])
        network = _of_network(head_settings(head, record["head_config"]))
        settings = {"fuse.head": head, "fuse.inputs": tuple(record["inputs"]), "fuse.folds": 0}
        settings |= {f"fuse.{head}.{key}": value for key, value in network.items()}
        typed = {key: value for key, value in project.config.dotted() if origins.get(key) == "option"}
        for key, value in settings.items():
            plain = list(value) if isinstance(value, tuple) else value
            if key in typed and typed[key] != plain:
                raise RunError(f"{key} = {typed[key]!r}, but runs/{self.run.name} has {plain!r}. Leave the option out")
        if typed.get("fuse.seeds", 0) > seeds:
            raise RunError(
                f"runs/{self.run.name} has {counted(seeds, 'seed')}, not {typed['fuse.seeds']}. Use: --seeds {seeds}"
            )
        started = project.derived(settings={"fuse.seeds": typed.get("fuse.seeds", seeds), **settings})
        tables = tuple(f"fuse.{name}." for name in HEADS)
        check_read([key for key in typed if key.startswith(tables)], fuse_keys(started.config))
        return started

    def settings(self, project: Project, settings: Any, table: FeatureTable) -> Any:
        """The settings of the fit: a quarter of the epochs, unless an option gives their number.

        Raises
        ------
        RunError
            The encoders store other tokens than the run reads.
        """
        record = self.run.record
        recorded = {name: record["encoders"][name].get("tokens", 0) for name in record["inputs"]}
        found = tokens_read(project, record["head"], settings, table)
        for name, number in recorded.items():
            if number != found.get(name, 0):
                raise RunError(
                    f"runs/{self.run.name} does not read the tokens that encoder {name} stores now. Train without --from"
                )
        if project.config.origins.get(f"fuse.{record['head']}.epochs") == "option":
            return settings
        return dataclasses.replace(settings, epochs=-(-settings.epochs // PART))

    @property
    def made_from(self) -> dict[str, Any]:
        """The part of a run's fingerprint about its start, as JSON values."""
        return {"from": self.run.record["fingerprint"]}

    @property
    def record(self) -> dict[str, Any]:
        """The part of run.json about the start."""
        return {"from": {"name": self.run.name, "fingerprint": self.run.record["fingerprint"]}}

    def lines(self, project: Project) -> list[MetricRow]:
        """The run's metrics on val, to compare with; empty without val rows."""
        if not len(project.manifest.rows("val")):
            return []
        label = f"{self.run.name}, the start"
        return [MetricRow.of(label, val_metrics(project, self.run), self.run.record["seconds"])]

    def weights(self, n_seeds: int) -> list[dict[str, Tensor]]:
        """The tensors of the first `n_seeds` heads."""
        return [head.state_dict() for head in head_part(self.run).seeds][:n_seeds]


def _of_network(settings: Any) -> dict[str, Any]:
    """The settings that shape a network or change its outputs, not its training."""
    values = dataclasses.asdict(settings)
    return {key: one for key, one in values.items() if key not in _OF_TRAINING and not key.endswith("dropout")}


def _unfit(project: Project, run: Run) -> str:
    """Why heads cannot start from a run, with the remedy; empty if they can."""
    again = "Train without --from"
    if run.kind != "head":
        return f"was made by mmfeat {run.kind}. Give a run of mmfeat fuse"
    if run.record.get("folds"):
        return "was trained in folds, with the rows that are val. Give a run without folds"
    if project.config.fuse.folds:
        return "cannot be trained further in folds: its heads have seen every fold. Use: --folds 0"
    if damage := run.damage():
        return f"is damaged: {damage}"
    if why := stale_because(project, run):
        return f"is stale: {why}. {again}"
    if run.columns is not None:
        return f"has the classes in another order than the manifest. {again}"
    if trained_on_val(project, run.learned()):
        return f"was trained on rows that are val now. {again}"
    return ""
