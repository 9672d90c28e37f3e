"""The commands that encode and train, as methods of a project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmfeat.api.open_project import OpenProject, Settings, verb
from mmfeat.common.errors import ConfigError, MmfeatError
from mmfeat.config.read_keys import finetune_keys, fuse_keys, selftrain_keys, started_fuse_keys

if TYPE_CHECKING:
    from mmfeat.workflows.ensemble import EnsembleResult
    from mmfeat.workflows.extract import ExtractDryRun, ExtractResult
    from mmfeat.workflows.finetune import FinetuneDryRun, FinetuneResult
    from mmfeat.workflows.fuse import FuseResult
    from mmfeat.workflows.selftrain import SelftrainResult

Names = str | Sequence[str]


class TrainingVerbs(OpenProject):
    """Commands that encode and train."""

    @verb
    def finetune(
        self,
        *names: str,
        freeze: bool = False,
        dry_run: bool = False,
        devices: str | None = None,
        recipe: str | None = None,
        synonyms: str | Path | None = None,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        settings: Settings | None = None,
    ) -> FinetuneResult | FinetuneDryRun:
        """Fine-tune encoders, each with a linear classifier on its own modality.

        Parameters
        ----------
        names : str
            Encoders; all, if empty.
        freeze : bool
            Keep the pretrained encoder and fit only its linear probe, on cached features.
        dry_run : bool
            Write nothing. Return what would be done, about how long and how many megabytes.
        devices : str, optional
            Divide each batch among several processes: GPUs such as `0,1`; `all` GPUs or, without one, CPU sockets; or `cpu:N`.
        recipe, synonyms : str, Path
            `finetune.recipe` and `finetune.synonyms` of mmfeat.toml: `wordnet`, `mmfeat` or a file.
        """
        from mmfeat.workflows.finetune import finetune, plan_finetune

        options = {
            "finetune.recipe": recipe,
            "finetune.synonyms": None if synonyms is None else str(synonyms),
            "metric": metric,
            "seed": seed,
            "device": device,
        }
        project = self._snapshot(settings, options, lambda config: finetune_keys(config, names, freeze), dry=dry_run)
        if dry_run:
            return plan_finetune(project, names, freeze=freeze)
        return finetune(project, names, freeze=freeze, devices=devices)

    @verb
    def extract(
        self,
        *names: str,
        shard: tuple[int, int] | None = None,
        on_error: str = "record",
        tune: bool = False,
        dry_run: bool = False,
        rehash: bool = False,
        devices: str | None = None,
        engine: str | None = None,
        device: str | None = None,
    ) -> ExtractResult | ExtractDryRun:
        """Encode only the samples that the store lacks.

        Parameters
        ----------
        names : str
            Encoders; all, if empty.
        shard : (int, int), optional
            `(k, n)`: only the k-th of n parts of the rows, counted from 1.
        on_error : str
            If a sample cannot be read: `record` the reason and continue, or `stop`.
        tune : bool
            First measure the fastest engine, settings and batch size here, and remember them.
        dry_run : bool
            Write nothing. Return what would be done, about how long and how many megabytes.
        rehash : bool
            Read every image again instead of trusting its size, time and inode.
        devices : str, optional
            Encode in several processes: GPUs such as `0,1`; `all` GPUs or, without one, CPU sockets; or `cpu:N`.
        """
        from mmfeat.workflows.extract import extract, plan_extract

        if on_error not in ("record", "stop"):
            raise ConfigError(f"on_error = {on_error!r}. Use one of: record, stop")
        project = self._snapshot(None, {"engine": engine, "device": device}, dry=dry_run)
        if dry_run:
            return plan_extract(project, names, shard=shard, rehash=rehash)
        return extract(project, names, shard=shard, on_error=on_error, tune=tune, rehash=rehash, devices=devices)

    @verb
    def fuse(
        self,
        *,
        head: str | None = None,
        inputs: Names | None = None,
        seeds: int | None = None,
        folds: int | None = None,
        from_run: str | None = None,
        threshold: float | str | None = None,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        name: str = "",
        note: str = "",
        settings: Settings | None = None,
    ) -> FuseResult:
        """Train a head on the cached embeddings of one or more encoders.

        Parameters
        ----------
        head : str, optional
            `crossattn`, `concat` or another head of docs/heads.md.
        inputs : sequence of str, optional
            Encoders.
        seeds : int, optional
            Number of seeds. Predictions use the mean of their logits.
        folds : int, optional
            5: each head is trained without one fifth of the labelled rows, and scores that fifth. 0: off.
        from_run : str, optional
            A run whose weights the heads start from. It determines head and inputs; a quarter of the epochs is enough to
            learn new or corrected labels.
        name, note : str
            The run's name (if empty, the head's with a number), and a text to keep with it.
        threshold : float or str, optional
            A number, or fitted on val: `auto`, `tuned` or `tuned-per-class`; as `predict.threshold` of mmfeat.toml.
        """
        from mmfeat.runs.run_names import Naming
        from mmfeat.workflows.fuse import fuse

        options = {"fuse.head": head, "fuse.inputs": inputs, "fuse.seeds": seeds, "fuse.folds": folds}
        more = {"predict.threshold": threshold, "metric": metric, "seed": seed, "device": device}
        reads = fuse_keys if from_run is None else started_fuse_keys
        project = self._snapshot(settings, options | more, reads)
        return fuse(project, from_run=from_run, naming=Naming(name=name, note=note))

    @verb
    def ensemble(
        self,
        *members: str,
        method: str = "mean",
        threshold: float | str | None = None,
        metric: str | None = None,
        device: str | None = None,
        name: str = "",
        note: str = "",
        settings: Settings | None = None,
    ) -> EnsembleResult:
        """Combine the logits of encoders and runs.

        Parameters
        ----------
        members : str
            A recipe (`fm1`, `fm2` or `fm3`), or names of encoders and runs. May be empty with `greedy`.
        method : str
            `mean`; or `weighted`, `per-class`, `stacked` or `greedy`, which are fitted and cross-fitted on val.
        name, note : str
            As in :meth:`fuse`.
        threshold : float or str, optional
            A number, or fitted on val: `auto`, `tuned` or `tuned-per-class`; as `predict.threshold` of mmfeat.toml.
        """
        from mmfeat.config.schema import RECIPES
        from mmfeat.runs.run_names import Naming
        from mmfeat.workflows.ensemble import ensemble

        recipe = ("fuse.inputs",) if len(members) == 1 and members[0] in RECIPES else ()
        project = self._snapshot(
            settings,
            {"predict.threshold": threshold, "metric": metric, "device": device},
            (*recipe, "predict", "metric", "device"),
        )
        return ensemble(project, list(members), method, naming=Naming(name=name, note=note))

    @verb
    def selftrain(
        self,
        *,
        rounds: int | None = None,
        encoder_every: int | None = None,
        policy: str | None = None,
        teacher: str | None = None,
        head: str | None = None,
        inputs: Names | None = None,
        seeds: int | None = None,
        threshold: float | str | None = None,
        metric: str | None = None,
        seed: int | None = None,
        device: str | None = None,
        yes: bool = False,
        name: str = "",
        note: str = "",
        settings: Settings | None = None,
    ) -> SelftrainResult:
        """Give the unlabelled rows pseudo-labels and train on them, in rounds, while the metric on val rises.

        Parameters
        ----------
        rounds : int, optional
            Maximum number of rounds.
        encoder_every : int, optional
            Fine-tune the encoders on pseudo-labels too, each time after this many rounds. Requires `yes=True`.
        policy : str, optional
            How unlabelled rows get pseudo-labels: `soft`, `confident` or another policy of docs/commands.md.
        teacher : str, optional
            With policy `paper`: the fusion that gives pseudo-labels and is judged on val, `fm1` or `fm3`.
        head, inputs, seeds, name, note
            As in :meth:`fuse`.
        yes : bool
            Accept the cost of fine-tuning encoders. Without it, an error reports the cost.
        threshold : float or str, optional
            A number, or fitted on val: `auto`, `tuned` or `tuned-per-class`; as `predict.threshold` of mmfeat.toml.
        """
        from mmfeat.runs.run_names import Naming
        from mmfeat.workflows.selftrain import about_cost, plan_selftrain, selftrain

        options = {
            "selftrain.rounds": rounds,
            "selftrain.encoder_every": encoder_every,
            "selftrain.policy": policy,
            "selftrain.teacher": teacher,
            "fuse.head": head,
            "fuse.inputs": inputs,
            "fuse.seeds": seeds,
            "predict.threshold": threshold,
            "metric": metric,
            "seed": seed,
            "device": device,
        }
        project = self._snapshot(settings, options, selftrain_keys)
        plan = plan_selftrain(project, Naming(name=name, note=note))
        if not yes and (cost := plan.cost()) is not None:
            raise MmfeatError(f"{about_cost(cost)} Nothing was done. To continue: yes=True")
        return selftrain(project, plan)
