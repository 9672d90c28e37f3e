"""Plan an encoder's fine-tuning: a fingerprint of everything that it depends on, and the checkpoint if it exists. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmfeat.common.errors import ConfigError, DataError
from mmfeat.common.files import digest_json
from mmfeat.config.encoder_tables import EncoderTable
from mmfeat.data.row_keys import RowKeys
from mmfeat.encoders.checkpoint import Checkpoint, checkpoints_of
from mmfeat.encoders.kinds import kind_of
from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project
from mmfeat.project.staleness import has_other_classes
from mmfeat.store.feature_table import rows_digest
from mmfeat.training.cut_plan import CutPlan, plan_cut


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """A planned fine-tuning of one encoder, or a planned fit of its linear probe.

    Attributes
    ----------
    pretrained : Identity or None
        The encoder to start from, pretrained or fine-tuned; None if it is fitted from scratch, on captions.
    settings : dict
        Settings as the checkpoint records them.
    fingerprint : str
        Digest of everything that the checkpoint depends on.
    made : Checkpoint or None
        The existing checkpoint with this fingerprint.
    cut : CutPlan
        The layers that are trained.
    """

    name: str
    pretrained: Identity | None
    settings: dict[str, Any]
    fingerprint: str
    made: Checkpoint | None
    cut: CutPlan = CutPlan()

    def tuned_before(self, project: Project) -> Checkpoint | None:
        """The fine-tuned checkpoint that a probe is fitted on; None if it is fitted on the pretrained encoder."""
        checkpoint = project.checkpoint(self.pretrained) if self.pretrained and self.pretrained.checkpoint else None
        return checkpoint if checkpoint and not checkpoint.frozen else None


def check_fit_plans(project: Project, names: list[str], freeze: bool) -> None:
    """Refuse, before any work, encoders that cannot be fitted.

    Raises
    ------
    DataError
        There is no labelled row to train on, or no such row has the modality.
    ConfigError
        There is no such encoder, or it has no network to fine-tune.
    EncoderError
        An encoder cannot be built.
    """
    train = project.manifest.rows("train")
    if not len(train):
        raise DataError("manifest.parquet: no labelled row to train on. Give labels and run: mmfeat init")
    for name in names:
        table = project.encoder_table(name)
        others = [other for other in project.config.encoder if other != name]
        if not freeze and not _fits_whole(table):
            others = [other for other in others if _fits_whole(project.config.encoder[other])]
            first = f"mmfeat finetune {' '.join(others)}, and: " if others else ""
            raise ConfigError(f"{kind_of(table).untunable(name)} Run: {first}mmfeat finetune {name} --freeze")
        keys = project.keys_of(project.identity(name)) if table.made_elsewhere else _sample_keys(project, name)
        if not keys.present[train].any():
            what = table.present
            remedy = f"Use: mmfeat finetune {' '.join(others)}" if others else "Give some and run: mmfeat init"
            raise DataError(f"encoder.{name}: no labelled row to train on has {what}. {remedy}")


def _fits_whole(table: EncoderTable) -> bool:
    """Whether a fine-tuning without `--freeze` fits the encoder itself."""
    return table.tunable or table.fitted


def _sample_keys(project: Project, name: str) -> RowKeys:
    """Row keys of an encoder's samples; the encoder need not be fitted yet."""
    modality = project.config.encoder[name].modality
    return project.row_keys(modality, project.source_of(modality, name))


def fit_plan(project: Project, name: str, freeze: bool) -> FitPlan:
    """Plan the fit of an encoder, and find its checkpoint if it exists."""
    table = project.config.encoder[name]
    pretrained, cut = None if table.fitted else _start_encoder(project, name, freeze), CutPlan()
    if pretrained is None:
        kind = kind_of(table)
        settings = {**project.config.fuse.linear.of_training(), **kind.fit_settings(table)}
        fingerprint = _fingerprint(project, name, kind.name, settings)
    elif freeze:
        settings = project.config.fuse.linear.of_training()
        fingerprint = _fingerprint(project, name, pretrained.spec.key, {"freeze": settings})
    else:
        cut = plan_cut(project, name)
        settings = cut.settings(project.config.finetune_of(name))
        fingerprint = _fingerprint(
            project, name, pretrained.spec.key, {"finetune": settings, **_other_inputs(project, name)}
        )
    found = checkpoints_of(project.checkpoints, name)
    made = next(
        (c for c in found if c.record["fingerprint"] == fingerprint and c.complete and not c.record.get("stopped")),
        None,
    )
    return FitPlan(name=name, pretrained=pretrained, settings=settings, fingerprint=fingerprint, made=made, cut=cut)


def _start_encoder(project: Project, name: str, freeze: bool) -> Identity:
    """The pretrained encoder. For a probe: the fine-tuned encoder in use, if its own probe is for other classes.

    Its features remain valid. `refitted` in a checkpoint's record names the fine-tuned checkpoint.
    """
    if freeze and not project.encoder_table(name).made_elsewhere:
        identity = project.identity(name)
        used = project.checkpoint(identity)
        if used and not used.frozen and (used.record.get("refitted") or has_other_classes(project, used.classes)):
            return identity
    return project.pretrained(name)


def _other_inputs(project: Project, name: str) -> dict[str, Any]:
    """The settings and files outside `[finetune]` that a fine-tuning depends on."""
    others, config = {}, project.config
    if config.finetune_of(name).head_first:
        others["linear"] = config.fuse.linear.of_training()
    return others | kind_of(config.encoder[name]).read_besides(config)


def out_of_use(project: Project, made: Checkpoint, name: str) -> bool:
    """Whether the encoder uses a newer checkpoint than this one, because of `checkpoint = "latest"`."""
    latest = project.config.encoder[name].checkpoint == "latest"
    return latest and project.identity(name).checkpoint != made.name


def use_remedy(name: str, checkpoint: str) -> str:
    """The instruction that puts a checkpoint of an encoder in use."""
    line = f'checkpoint = "latest", or checkpoint = "checkpoints/{checkpoint}"'
    return f"In mmfeat.toml under [encoder.{name}] set: {line}"


def is_fitted_whole(project: Project, name: str) -> bool:
    """Whether an encoder is fitted whole, on its samples, such as TF-IDF: there is nothing to freeze."""
    return project.encoder_table(name).fitted


def _fingerprint(project: Project, name: str, spec_key: str, settings: dict[str, Any]) -> str:
    """Digest of everything that a checkpoint depends on."""
    manifest, config = project.manifest, project.config
    keys = _sample_keys(project, name).keys
    rows = {w: manifest.rows(w) for w in ("train", "val")}
    digests = {w: rows_digest(manifest.ids[r], keys[r], manifest.labels[r]) for w, r in rows.items()}
    parts = {"rows": digests, "classes": manifest.classes, "encoder": spec_key, "settings": settings}
    return digest_json({**parts, "metric": config.metric, "predict": config.predict.of_training(), "seed": config.seed})
