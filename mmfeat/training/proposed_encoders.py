"""The arguments of `mmfeat compare encoders`: encoders of mmfeat.toml, or models with or without a file of weights."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import shown, toml_value
from mmfeat.config.encoder_tables import EncoderTable, encoder_table_class, is_path
from mmfeat.config.schema import MODALITIES
from mmfeat.encoders.kinds import recognised_modality
from mmfeat.project.project import Project

RANDOM = "random"  # in place of a file of weights


@dataclass(frozen=True, kw_only=True)
class ProposedEncoder:
    """An encoder to compare.

    Attributes
    ----------
    typed : str
        The argument that the user typed.
    name : str
        The encoder of mmfeat.toml that it is, or that it would replace. Its fine-tuning settings are used.
    table : EncoderTable
        Its table for mmfeat.toml.
    own : bool
        Whether the table is in mmfeat.toml.
    root : Path
        The folder that relative paths of the table start from.
    """

    typed: str
    name: str
    table: EncoderTable
    own: bool
    root: Path

    @property
    def label(self) -> str:
        """Its name in tables."""
        model = self.table.title(self.root)
        if self.own:
            return f"{model} ({self.name})"
        weights = Path(self.table.pretrained).stem
        return model if weights in ("auto", model) else f"{model}={weights}"

    @property
    def folder(self) -> str:
        """The name of its folder, unique for each label."""
        return re.sub(r"[^\w.=-]+", "-", self.name if self.own else self.label).strip(".-") or "encoder"

    def answers(self, text: str) -> bool:
        """Whether a text names it."""
        model = self.table.model
        return text in (self.typed, self.label, self.folder, model, Path(model).name) or (
            self.own and text == self.name
        )

    def lines(self) -> list[str]:
        """Its table in mmfeat.toml, without defaults."""
        default, head = type(self.table)(), f"[encoder.{self.name}]"
        lines = [head] if self.name in MODALITIES else [head, f'modality = "{self.table.modality}"']
        for field in dataclasses.fields(self.table):
            value = getattr(self.table, field.name)
            if field.name == "model" or (
                field.name not in ("modality", "checkpoint") and value != getattr(default, field.name)
            ):
                lines.append(f"{field.name} = {toml_value(value)}")
        return lines


def proposed_encoder(project: Project, typed: str, known: dict[str, str]) -> ProposedEncoder:
    """The encoder of an argument: `NAME`, `MODEL`, `MODEL=WEIGHTS` (a file, or `random`), `image:MODEL` or `text:MODEL`.

    Relative paths start at the current folder.

    Parameters
    ----------
    known : dict of str to str
        Modality by arguments that were typed before.

    Raises
    ------
    ConfigError
        It is neither an encoder nor a model, or its file of weights does not exist.
    """
    encoders = project.config.encoder
    if typed in encoders:
        return _own(typed, typed, encoders[typed], root=project.root)
    forced, colon, rest = typed.partition(":")
    if not colon or forced not in MODALITIES:
        forced, rest = "", typed
    model, equals, weights = rest.partition("=")
    if not model or (equals and not weights):
        raise ConfigError(f"{shown(typed)}: write an encoder of mmfeat.toml, MODEL, or MODEL=FILE of weights")
    in_folder = is_path(model) or (Path(model) / "config.json").is_file()
    model = _absolute(model) if in_folder else model
    if weights not in ("", RANDOM) and not Path(weights).expanduser().is_file():
        raise ConfigError(f"{shown(typed)}: no file of weights {shown(weights)}")
    pretrained = weights if weights in ("", RANDOM) else _absolute(weights)
    modality = forced or ("text" if in_folder else "") or known.get(typed) or _modality(typed, model, list(encoders))
    for name, table in encoders.items():
        same = table.modality == modality and _same(project, table.model, model)
        if same and (not pretrained or _same(project, table.pretrained, pretrained)):
            return _own(typed, name, table, root=project.root)
    same_modality = (name for name, table in encoders.items() if table.modality == modality and table.tunable)
    cls = encoder_table_class(modality, {"model": model})
    weights_of_it = {"pretrained": pretrained or "auto"} if "pretrained" in cls.__dataclass_fields__ else {}
    name = next(same_modality, modality)
    own = encoders.get(name)
    alike = {key: getattr(own, key, new) for key, new in cls.in_new_tables.items()}  # as in the project's own table
    table = cls(model=model, **weights_of_it, **alike)
    return ProposedEncoder(typed=typed, name=name, table=table, own=False, root=project.root)


def _own(typed: str, name: str, table: EncoderTable, *, root: Path) -> ProposedEncoder:
    table = dataclasses.replace(table, checkpoint="latest")
    return ProposedEncoder(typed=typed, name=name, table=table, own=True, root=root)


def _absolute(path: str) -> str:
    """An absolute path; a path from the home folder stays as typed."""
    return path if path.startswith(("~", "/")) else str(Path(path).absolute())


def _same(project: Project, a: str, b: str) -> bool:
    """Whether two values of mmfeat.toml name the same model or path."""
    return a == b or (is_path(a) and is_path(b) and project.config.path(a) == project.config.path(b))


def _modality(typed: str, model: str, encoders: list[str]) -> str:
    """The modality of a model that is not a path; models of timm and torchvision take images."""
    if modality := recognised_modality(model):
        return modality
    from mmfeat.encoders.model_names import nearest_models

    near = ", ".join(nearest_models(model, encoders)) or "none"
    raise ConfigError(
        f"{shown(typed)}: neither an encoder of mmfeat.toml nor an image model. Nearest: {near}; "
        f"a text model of that name: text:{shown(model)}"
    )
