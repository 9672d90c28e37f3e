"""Encoder rounds of self-training: encoders are fine-tuned on pseudo-labels too, and the rounds continue on their features.

Each fine-tuning starts from the pretrained encoder, as `mmfeat finetune` does, on labelled and pseudo-labelled rows. With policy
`paper`, encoders are fine-tuned from the first round on, and their own linear outputs are the models of the round. Its
checkpoints are kept with the rounds until self-training is done. Those of the best round then become the latest of the
project. They record the checkpoints that they replace, so that the same command, typed again, starts from the same encoders.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import ConfigError
from mmfeat.common.progress import say
from mmfeat.common.text import counted
from mmfeat.config.schema import Config
from mmfeat.encoders.checkpoint import copy_checkpoint, read_checkpoint
from mmfeat.encoders.resolve import Identity
from mmfeat.extraction import distinct_rows
from mmfeat.heads.training.fit_heads import FitData, fit_data
from mmfeat.inference.logits import encoder_logits
from mmfeat.project.encoding import extract
from mmfeat.project.project import Project
from mmfeat.selftraining.policies import Targets
from mmfeat.selftraining.round_models import Outputs
from mmfeat.selftraining.rounds import Refitted
from mmfeat.store.feature_table import FeatureTable
from mmfeat.training.dry_run import measure_encoding, plan_finetune
from mmfeat.training.encoder_training import finetune_encoders

CAME_AFTER = "selftrained"  # in a checkpoint's record: the checkpoint that was in use before it


@dataclass(frozen=True, kw_only=True)
class EncoderCost:
    """The cost of encoder rounds.

    Attributes
    ----------
    times : int
        Fine-tunings of each encoder, at most.
    seconds : float
        Estimate for one round on this device.
    mb : float
        Megabytes that one round adds to checkpoints/ and to the store.
    front_seconds, front_mb : float
        The same for cached layers, once for all rounds.
    """

    names: list[str]
    times: int
    n_rows: int
    seconds: float
    mb: float
    front_seconds: float = 0.0
    front_mb: float = 0.0

    @property
    def all_seconds(self) -> float:
        """Estimate for all rounds."""
        return self.times * self.seconds + self.front_seconds


@dataclass(frozen=True, eq=False)
class Encoded:
    """The inputs of a head, encoded by the encoders of a round."""

    identities: dict[str, Identity]
    table: FeatureTable

    def data(self, config: Config, rows: np.ndarray) -> FitData:
        """The arrays of some rows of the manifest, on the project's device."""
        return fit_data(self.table, list(self.identities), torch_device(config.device), rows)


def tunable(project: Project) -> list[str]:
    """The fine-tuned encoders of `fuse.inputs`, which encoder rounds fine-tune again. Frozen encoders stay frozen.

    Raises
    ------
    ConfigError
        No input is fine-tuned; or mmfeat.toml names a checkpoint, so that a newer one would not be used.
    """
    config = project.config
    names = [name for name in config.fuse.inputs if _is_fine_tuned(project, name)]
    if not names:
        raise ConfigError(
            "selftrain.encoder_every: encoder rounds need a fine-tuned encoder, and no encoder of fuse.inputs is fine-tuned. "
            f"Run: mmfeat finetune {' '.join(config.fuse.inputs)}, or: --encoder-every 0"
        )
    for name in names:
        if (given := config.encoder[name].checkpoint) != "latest":
            raise ConfigError(
                f'mmfeat.toml: encoder.{name}.checkpoint = "{given}", but encoder rounds make a newer one. '
                'Set: checkpoint = "latest"'
            )
    return names


def _is_fine_tuned(project: Project, name: str) -> bool:
    checkpoint = project.checkpoint(project.identity(name))
    return checkpoint is not None and not checkpoint.frozen and project.config.encoder[name].tunable


def as_before(project: Project) -> Project:
    """The project with the encoders that were in use before self-training fine-tuned any of them."""
    tables = {}
    for name in project.config.fuse.inputs:
        checkpoint = project.checkpoint(project.identity(name))
        if checkpoint is not None and CAME_AFTER in checkpoint.record:
            given = f"{project.checkpoints.name}/{checkpoint.record[CAME_AFTER]}"
            tables[name] = dataclasses.replace(project.config.encoder[name], checkpoint=given)
    if not tables:
        return project
    return project.derived(
        config=dataclasses.replace(project.config, encoder={**project.config.encoder, **tables}), folder=project.root
    )


class EncoderRounds:
    """Fine-tunes encoders and encodes all rows before some rounds; called by :func:`mmfeat.selftraining.rounds.self_train`.

    Parameters
    ----------
    project : Project
        With the encoders that self-training starts from.
    folder : Path
        Parent of a folder of checkpoints for each round.
    start : Encoded
        The inputs encoded by these encoders.
    names : list of str
        The encoders to fine-tune.
    rows, free : np.ndarray
        Rows of the manifest that are read, and the positions in `rows` of rows that get pseudo-labels.
    """

    def __init__(
        self,
        project: Project,
        folder: Path,
        start: Encoded,
        *,
        names: list[str],
        rows: np.ndarray,
        free: np.ndarray,
    ) -> None:
        self.project, self.folder, self.names, self.rows, self.free = project, folder, names, rows, free
        self.every = project.config.selftrain.encoder_every
        self.is_paper = project.config.selftrain.policy == "paper"
        self.made: dict[int, Encoded] = {0: start}

    @property
    def times(self) -> int:
        """Number of fine-tunings, at most."""
        return sum(self._is_due(number) for number in range(1, self.project.config.selftrain.rounds + 1))

    def _is_due(self, number: int) -> bool:
        """Whether encoders are fine-tuned before a round; with policy `paper`, the first round is one of them."""
        return (number > 1 or self.is_paper) and (number - 1) % self.every == 0

    def outputs(self) -> Outputs:
        """Logits `(n, K)` of the rows by the linear outputs of the encoders that self-training starts from.

        They are the models of round 0 with policy `paper`; otherwise there are none.

        Raises
        ------
        MissingFeatures
            They are not in the store.
        RunError
            The linear output is for other classes.
        """
        return self._outputs(self.project, self.made[0].identities)

    def _outputs(self, project: Project, identities: dict[str, Identity]) -> Outputs:
        names = self.names if self.is_paper else []
        return {name: encoder_logits(project, identities[name], self.rows).logits for name in names}

    def cost(self) -> EncoderCost:
        """Measure a few batches of each encoder, forward and backward; changes nothing."""
        overlay = self._overlay(0, np.zeros((len(self.free), len(self.project.manifest.classes)), np.float32))
        plans = plan_finetune(overlay, self.names)
        front_seconds, front_mb = (sum(getattr(plan, name) for plan in plans) for name in ("front_seconds", "front_mb"))
        seconds, mb = sum(plan.seconds for plan in plans) - front_seconds, sum(plan.checkpoint_mb for plan in plans)
        for name in self.names:
            identity = overlay.pretrained(name)
            keys = overlay.keys_of(identity)
            todo = distinct_rows(keys.keys, np.flatnonzero(keys.present))
            measured = measure_encoding(overlay, identity, todo)
            seconds, mb = seconds + measured.seconds, mb + measured.n_bytes / 1e6
        n_rows = len(overlay.manifest.rows("train"))
        return EncoderCost(
            names=self.names,
            times=self.times,
            n_rows=n_rows,
            seconds=seconds,
            mb=mb,
            front_seconds=front_seconds,
            front_mb=front_mb,
        )

    def __call__(self, number: int, targets: Targets) -> Refitted | None:
        """Arrays encoded by newly fine-tuned encoders; None if this round keeps the encoders of the previous round."""
        if not self._is_due(number):
            return None
        overlay = self._overlay(number, targets.labels)
        say(f"before round {number}: fine-tuning on {counted(len(overlay.manifest.rows('train')), 'row')}")
        finetune_encoders(overlay, self.names)
        start, new = self.made[0], extract(overlay, self.names).identities
        identities = {**start.identities, **new}
        table = self.project.table_of(
            {name: (identity.spec, identity.output_key) for name, identity in identities.items()},
            self.rows,
            {name: self.project.config.encoder[name].tokens for name in start.table.tokens},
        )
        self.made[number] = Encoded(identities, table)
        return Refitted(
            data=self.made[number].data(self.project.config, self.rows), outputs=self._outputs(overlay, new)
        )

    def of(self, number: int) -> Encoded:
        """The inputs of a round."""
        return self.made[self._last(number)]

    def settle(self, host: Project, number: int) -> dict[str, Identity]:
        """Put the encoders of a round in use in the project."""
        at = self._last(number)
        for name, identity in self.made[at].identities.items():
            if host.identity(name).spec.key == identity.spec.key:
                continue
            before = self.made[0].identities[name].checkpoint
            folder = self._folder(at) / "checkpoints" if at else host.checkpoints
            more = {CAME_AFTER: before} if at else {}
            copied = copy_checkpoint(read_checkpoint(folder / identity.checkpoint), name, host.checkpoints, more)
            replaced = f"; it replaces {before}" if at else ""
            say(f"{name}: {host.checkpoints.name}/{copied.name} is now in use{replaced}")
        return {name: host.identity(name) for name in self.made[at].identities}

    def _last(self, number: int) -> int:
        return max(at for at in self.made if at <= number)

    def _folder(self, number: int) -> Path:
        return self.folder / f"encoders-{number}"

    def _overlay(self, number: int, labels: np.ndarray) -> Project:
        """The project with pseudo-labels as labels, and a folder of its own for checkpoints."""
        project = self.project
        manifest, all_labels = project.manifest, project.manifest.labels.astype(np.float32)
        all_labels[self.rows[self.free]] = labels
        tables = {name: dataclasses.replace(project.config.encoder[name], checkpoint="latest") for name in self.names}
        return project.derived(
            folder=self._folder(number),
            config=dataclasses.replace(project.config, encoder=tables),
            manifest=dataclasses.replace(manifest, labels=all_labels),
        )
