"""`--use`: make a checkpoint of a comparison or a sweep the project's own."""

from __future__ import annotations

from dataclasses import dataclass

from mmfeat.common.text import toml_value
from mmfeat.encoders.checkpoint import Checkpoint, checkpoints_of, copy_checkpoint
from mmfeat.project.project import Project
from mmfeat.training.finetune_plan import out_of_use, use_remedy
from mmfeat.training.proposed_encoders import ProposedEncoder


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """The result of `--use`.

    Attributes
    ----------
    made : str
        A short description.
    lines : list of str
        Instructions with the lines that mmfeat.toml still needs; empty if the checkpoint is in use.
    """

    made: str
    lines: list[str]

    @property
    def in_use(self) -> bool:
        """Whether the checkpoint is in use without further changes."""
        return not self.lines


def is_in_use(project: Project, proposal: ProposedEncoder, checkpoint: Checkpoint) -> bool:
    """Whether the project uses a copy of a checkpoint of a comparison or a sweep already."""
    if not proposal.own or project.config.encoder[proposal.name].checkpoint != "latest":
        return False
    made = _copy_of(project, proposal, checkpoint)
    return made is not None and not out_of_use(project, made, proposal.name)


def _copy_of(project: Project, proposal: ProposedEncoder, checkpoint: Checkpoint) -> Checkpoint | None:
    fingerprint = checkpoint.record["fingerprint"]
    copies = checkpoints_of(project.checkpoints, proposal.name)
    return next((one for one in copies if one.record["fingerprint"] == fingerprint and one.complete), None)


def promote_checkpoint(project: Project, proposal: ProposedEncoder, checkpoint: Checkpoint) -> Promotion:
    """Make a checkpoint the latest of its encoder; if mmfeat.toml has another model, return the lines that it needs."""
    name = proposal.name
    if not proposal.own:
        path = checkpoint.folder.relative_to(project.root).as_posix()
        where = f"in place of [encoder.{name}]" if name in project.config.encoder else "as a further table"
        lines = [*proposal.lines(), f"checkpoint = {toml_value(path)}"]
        return Promotion(
            made=f"mmfeat.toml has another model under [encoder.{name}]",
            lines=[f"Write into mmfeat.toml {where}:", "", *lines, ""],
        )
    made = _copy_of(project, proposal, checkpoint)
    if made is not None and not out_of_use(project, made, name):
        text = f"Already made: checkpoints/{made.name}"
    else:
        made = copy_checkpoint(made or checkpoint, name, project.checkpoints)
        text = f"Made checkpoints/{made.name}"
    if project.config.encoder[name].checkpoint == "latest":
        return Promotion(made=text, lines=[])
    return Promotion(made=text, lines=[f"checkpoints/{made.name} is not in use. {use_remedy(name, made.name)}"])
