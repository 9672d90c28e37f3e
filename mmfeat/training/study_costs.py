"""What the steps of `mmfeat reproduce` would cost, from the estimates of `--dry-run`. The project is opened with `dry=True`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmfeat.common.errors import MmfeatError, one_line
from mmfeat.common.text import counted, shown
from mmfeat.project.project import Project
from mmfeat.training.dry_run import plan_extract, plan_finetune
from mmfeat.training.encoder_comparison import EncoderComparison
from mmfeat.training.grid import encoder_grid
from mmfeat.training.sweep_encoders import EncoderTrainer


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a step.

    Attributes
    ----------
    seconds : float or None
        None if it is not known before; 0 if all of it is made.
    what : str
        What is left to do, or why it is not known.
    """

    seconds: float | None
    what: str


def comparison_cost(project: Project, names: Sequence[str]) -> Cost:
    """The cost of `mmfeat compare encoders NAMES`."""
    work = EncoderComparison(project, freeze=False, n_seeds=1)
    missing, seconds, failed = work.missing(list(names)), 0.0, dict(work.failed)
    for fits in missing:
        try:
            seconds += fits.seconds()
        except MmfeatError as error:
            failed[fits.proposal.label] = one_line(error)
    if not missing and not failed:
        return Cost(seconds=0.0, what="made")
    why = "".join(f"; not {shown(label)}: {shown(text, 200)}" for label, text in failed.items())
    return Cost(seconds=seconds, what=f"{len(missing):,} of {counted(len(names), 'encoder')} to fine-tune{why}")


def sweep_cost(project: Project, name: str, cells: Sequence[dict[str, str]]) -> Cost:
    """The cost of `mmfeat sweep finetune NAME --cell ...`: that of the project's own settings, for each missing cell."""
    trainer = EncoderTrainer(encoder_grid(project.root, name, {}, cells, dry=True), 1)
    n_missing = sum(one.fingerprint not in trainer.kept for one in trainer.planned)
    if not n_missing:
        return Cost(seconds=0.0, what="made")
    try:
        seconds = n_missing * _fit_seconds(project, name)
    except MmfeatError as error:
        return Cost(seconds=None, what=one_line(error))
    return Cost(seconds=seconds, what=f"{n_missing:,} of {counted(len(trainer.planned), 'fine-tuning')} to make")


def encoding_cost(project: Project) -> Cost:
    """The cost of `mmfeat finetune` and `mmfeat extract`."""
    try:
        tuned, encoded = plan_finetune(project), plan_extract(project)
    except MmfeatError as error:
        return Cost(seconds=None, what=one_line(error))
    seconds = sum(plan.seconds for plan in (*tuned, *encoded))
    n_fits, n_rows = sum(not plan.made for plan in tuned), sum(plan.to_encode for plan in encoded)
    if not n_fits and not n_rows:
        return Cost(seconds=0.0, what="made")
    return Cost(
        seconds=seconds, what=f"{counted(n_fits, 'encoder')} to fine-tune, {counted(n_rows, 'sample')} to encode"
    )


def rounds_cost(project: Project) -> Cost:
    """The cost of `mmfeat selftrain` before there are features: fine-tuning on labelled and unlabelled rows in every round."""
    manifest, selftrain = project.manifest, project.config.selftrain
    n_train, n_free = (len(manifest.rows(which)) for which in ("train", "unlabelled"))
    if not selftrain.encoder_every or not n_train:
        return Cost(seconds=None, what=f"up to {counted(selftrain.rounds, 'round')} on cached features")
    try:
        once = sum(_fit_seconds(project, name) for name in project.config.encoder)
    except MmfeatError as error:
        return Cost(seconds=None, what=one_line(error))
    times = -(-selftrain.rounds // selftrain.encoder_every)
    what = f"up to {counted(times, 'round')} of fine-tuning on {counted(n_train + n_free, 'row')}"
    return Cost(seconds=times * once * (n_train + n_free) / n_train, what=what)


def _fit_seconds(project: Project, name: str) -> float:
    """Estimate of one fine-tuning, made or not: in a folder without checkpoints nothing is made."""
    return sum(
        plan.seconds for plan in plan_finetune(project.derived(folder=project.root / "sweeps" / "finetune"), [name])
    )
