"""Words of `mmfeat compare encoders` as encoders: one of mmfeat.toml, or a model with or without a file of weights."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from mmfeat.common.errors import ConfigError
from mmfeat.common.text import shown, toml_value
from mmfeat.config.schema import (
    MODALITIES,
    OTHER,
    TFIDF,
    EncoderConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
    TfidfEncoderConfig,
)
from mmfeat.project.project import Project

_PATH = (".", "~", "/")


@dataclass(frozen=True, kw_only=True)
class ProposedEncoder:
    """An encoder to compare.

    Attributes
    ----------
    typed : str
        As the user typed it.
    name : str
        The encoder of mmfeat.toml that it is, or that it would replace; the fine-tuning settings are those of that name.
    table : EncoderConfig
        Its table for mmfeat.toml.
    own : bool
        Whether it is that table of mmfeat.toml.
    """

    typed: str
    name: str
    table: EncoderConfig
    own: bool

    @property
    def label(self) -> str:
        """Its name in tables."""
        model = Path(self.table.model).name
        if self.own:
            return f"{model[:12] if self.table.modality == OTHER else model} ({self.name})"
        weights = Path(self.table.pretrained).stem
        return model if weights in ("auto", model) else f"{model}={weights}"

    @property
    def folder(self) -> str:
        """The name of its folder: one for each label."""
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
                text = toml_value(value) if isinstance(value, str) else str(value).lower()
                lines.append(f"{field.name} = {text}")
        return lines


def proposed_encoder(project: Project, typed: str, known: dict[str, str]) -> ProposedEncoder:
    """The encoder that a word means: `NAME`, `MODEL`, `MODEL=WEIGHTS`, `image:MODEL` or `text:MODEL`.

    Relative paths start at the current folder.

    Parameters
    ----------
    known : dict of str to str
        Modality by words that were typed before.

    Raises
    ------
    ConfigError
        It is neither an encoder nor a model, or its file of weights does not exist.
    """
    encoders = project.config.encoder
    if typed in encoders:
        return _own(typed, typed, encoders[typed])
    forced, colon, rest = typed.partition(":")
    if not colon or forced not in MODALITIES:
        forced, rest = "", typed
    model, equals, weights = rest.partition("=")
    if not model or (equals and not weights):
        raise ConfigError(f"{shown(typed)}: write an encoder of mmfeat.toml, MODEL, or MODEL=FILE of weights")
    is_path = model.startswith(_PATH) or (Path(model) / "config.json").is_file()
    model = _absolute(model) if is_path else model
    if weights and not Path(weights).expanduser().is_file():
        raise ConfigError(f"{shown(typed)}: no file of weights {shown(weights)}")
    pretrained = _absolute(weights) if weights else ""
    modality = forced or ("text" if is_path else "") or known.get(typed) or _modality(typed, model, list(encoders))
    for name, table in encoders.items():
        same = table.modality == modality and _same(project, table.model, model)
        if same and (not pretrained or _same(project, table.pretrained, pretrained)):
            return _own(typed, name, table)
    name = next(
        (name for name, table in encoders.items() if table.modality == modality and table.model != TFIDF), modality
    )
    if model == TFIDF and modality == "text":
        return ProposedEncoder(typed=typed, name=name, table=TfidfEncoderConfig(), own=False)
    cls = ImageEncoderConfig if modality == "image" else TextEncoderConfig
    table = cls(model=model, pretrained=pretrained or "auto", modality=modality)
    return ProposedEncoder(typed=typed, name=name, table=table, own=False)


def _own(typed: str, name: str, table: EncoderConfig) -> ProposedEncoder:
    return ProposedEncoder(typed=typed, name=name, table=dataclasses.replace(table, checkpoint="latest"), own=True)


def _absolute(path: str) -> str:
    """As typed, if it means the same from every folder."""
    return path if path.startswith(("~", "/")) else str(Path(path).absolute())


def _same(project: Project, a: str, b: str) -> bool:
    """Whether two values of mmfeat.toml name the same model or path."""
    return a == b or (a.startswith(_PATH) and b.startswith(_PATH) and project.config.path(a) == project.config.path(b))


def _modality(typed: str, model: str, encoders: list[str]) -> str:
    """The modality of a model that is not a path: those of timm and torchvision take images."""
    if model == TFIDF:
        return "text"
    from mmfeat.encoders.families.text_names import nearest_text_models
    from mmfeat.encoders.model_names import PREFIX, image_models, is_image_model, nearest

    if model.startswith(PREFIX) or is_image_model(model):
        return "image"
    if "/" in model or "-" in model:  # as names of transformers are written, and none of an image model
        return "text"
    near = ", ".join([*nearest(model, [*encoders, *image_models()]), *nearest_text_models(model)]) or "none"
    raise ConfigError(
        f"{shown(typed)}: neither an encoder of mmfeat.toml nor an image model. Nearest: {near}; "
        f"a text model of that name: text:{shown(model)}"
    )
