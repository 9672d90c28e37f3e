"""`mmfeat compare encoders`: several encoders, frozen or fine-tuned, on the same split (P16: Tables 1 and 6 to 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmfeat.common.errors import ConfigError, RunError
from mmfeat.common.text import counted, shown
from mmfeat.config.encoder_tables import MODALITY_TABLES
from mmfeat.encoders.checkpoint import Checkpoint
from mmfeat.inference.fitted_rules import crossfitted_rule, fitted_rule, metrics_on_val, required_val
from mmfeat.metrics import most_frequent_baseline
from mmfeat.metrics.metric_rows import MetricRow
from mmfeat.project.project import Project
from mmfeat.report.comparison_layouts import encoder_layout
from mmfeat.report.text_tables import MOST_FREQUENT
from mmfeat.runs.comparison import ScoredModel, Scoring, best_of_groups, score_groups
from mmfeat.training.comparison_result import ComparisonResult, write_comparison
from mmfeat.training.encoder_comparison import EncoderComparison
from mmfeat.training.encoder_fits import EncoderFits
from mmfeat.training.in_sample import train_sample
from mmfeat.training.promotion import Promotion, is_in_use, promote_checkpoint
from mmfeat.training.proposed_encoders import ProposedEncoder

WITH_INTERVALS = ("micro_f1", "macro_f1", "loss")  # in addition to samples F1 and mAP


@dataclass(frozen=True, kw_only=True, repr=False)
class EncodersResult(ComparisonResult):
    """Encoders on the same val rows; `models` are grouped by modality, the best of each group first.

    Attributes
    ----------
    proposals : dict of str to ProposedEncoder
        By label.
    frozen : bool
        Whether only linear probes were fitted.
    """

    proposals: dict[str, ProposedEncoder]
    frozen: bool


def compare_encoders(
    project: Project,
    names: Sequence[str] | None = None,
    *,
    freeze: bool = False,
    seeds: int = 1,
    overwrite: bool = False,
) -> EncodersResult:
    """Train encoders on the project's split, or only linear probes on cached features, and score them on its val rows.

    The project's checkpoints, digests and runs do not change: the comparison is written to `comparisons/`, and embeddings
    to the store. Encoders that were compared before are not trained again; they are also shown if they are not named.

    Parameters
    ----------
    names : sequence of str, optional
        See :func:`mmfeat.training.proposed_encoders.proposed_encoder`; all encoders of mmfeat.toml if empty or None.
    freeze : bool
        Whether to freeze the encoders and fit only linear probes.
    seeds : int
        Fits of each encoder. Metrics are those of the first seed; the others show their spread.
    overwrite : bool
        Whether tables and plots that were changed since they were written may be replaced.

    Raises
    ------
    DataError
        There are no val rows, or no labelled row to train on.
    RunError
        None of the named encoders can be compared; the message gives the reasons.
    """
    manifest, metric = project.manifest, project.config.metric
    val = required_val(project, "rows to compare on")
    work = EncoderComparison(project, freeze=freeze, n_seeds=seeds)
    candidates = work.candidates(list(names or ()) or list(project.config.encoder))
    scoring = Scoring(
        labels=manifest.labels[val],
        numbers=work.folder.numbers,
        metric=metric,
        rule_of=lambda logits: crossfitted_rule(project, val, logits),
        train_labels=manifest.labels[train_sample(project)],
        shipped_rule_of=lambda logits: fitted_rule(project, val, logits),
        mean_of_seeds=False,
        intervals=WITH_INTERVALS,
    )
    models, title = score_groups(candidates, scoring, tuple(MODALITY_TABLES)), counted(len(val), "val row")
    most_frequent = most_frequent_baseline(manifest.labels[manifest.rows("train")], len(val))
    baselines = [MetricRow.of(MOST_FREQUENT, metrics_on_val(project, most_frequent))]
    fields = write_comparison(
        project,
        work.folder,
        models,
        title=title,
        baselines=baselines,
        layout=encoder_layout(title, models, baselines, metric),
        failed=work.failed,
        overwrite=overwrite,
    )
    return EncodersResult(**fields, proposals=work.proposals, frozen=freeze)


def use_encoders(project: Project, result: EncodersResult, which: str) -> list[Promotion]:
    """Use compared encoders in the project: the one with this name, or with `best` the best of each modality.

    Raises
    ------
    ConfigError
        No encoder of the table, or more than one, has this name.
    RunError
        The checkpoint is gone.
    """
    chosen = list(best_of_groups(result.models).values())
    if which != "best":
        chosen = [model for model in result.models if result.proposals[model.label].answers(which)]
    if not chosen:
        known = ", ".join(shown(model.label) for model in result.models)
        raise ConfigError(f"--use {shown(which)}: no encoder of the table. Use best, or one of: {known}")
    if len(chosen) > 1 and which != "best":
        raise ConfigError(
            f"--use {shown(which)}: names {' and '.join(shown(model.label) for model in chosen)}. Name one"
        )
    used = []
    for model in chosen:
        proposal, checkpoint = _compared(project, result, model)
        if checkpoint is None:
            folder = result.folder / proposal.folder
            raise RunError(f"{folder}: its checkpoint is gone. Remove the folder and type the command again")
        used.append(promote_checkpoint(project, proposal, checkpoint))
    return used


def advises_best(project: Project, result: EncodersResult) -> bool:
    """Whether to propose `--use best`: it changes the project, and replaces no fine-tuned encoder by a frozen one."""
    best = [_compared(project, result, model) for model in best_of_groups(result.models).values()]
    others = [(one, made) for one, made in best if made is None or not is_in_use(project, one, made)]
    return bool(others) and not (result.frozen and any(_is_fine_tuned(project, one.name) for one, _ in others))


def _is_fine_tuned(project: Project, name: str) -> bool:
    checkpoint = project.checkpoint(project.identity(name)) if name in project.config.encoder else None
    return checkpoint is not None and not checkpoint.frozen


def _compared(
    project: Project, result: EncodersResult, model: ScoredModel
) -> tuple[ProposedEncoder, Checkpoint | None]:
    """A compared encoder, and its checkpoint in the comparison's folder."""
    proposal = result.proposals[model.label]
    folder, seeds = result.folder / proposal.folder, [project.config.seed]
    return proposal, EncoderFits(project, folder, proposal, seeds=seeds, freeze=result.frozen).checkpoint()
