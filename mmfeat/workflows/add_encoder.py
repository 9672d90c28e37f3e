"""`mmfeat encoders add`: check a model and its weights, and write its table into mmfeat.toml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfeat.common.errors import ConfigError
from mmfeat.common.exclusive import alone_in
from mmfeat.common.files import atomic_path
from mmfeat.common.text import shown
from mmfeat.common.urls import refuse_url
from mmfeat.config.encoder_tables import MODALITY_TABLES, encoder_table_class
from mmfeat.config.reader import load_config, wrong_name
from mmfeat.config.schema import FILE_NAME, MODALITIES, Config
from mmfeat.config.toml_edits import with_encoder
from mmfeat.encoders.description import Description
from mmfeat.encoders.kinds import recognised_modality
from mmfeat.project.chosen_encoders import OWN_WEIGHTS, check_encoder, is_folder
from mmfeat.project.project import Project
from mmfeat.project.template import in_table
from mmfeat.report.result import Result


@dataclass(frozen=True, kw_only=True, repr=False)
class AddedEncoder(Result):
    """An encoder that was added to mmfeat.toml.

    Attributes
    ----------
    description : Description
        Its width, size and weights.
    inputs : tuple of str
        The encoders that heads read.
    after : str
        The command to type next.
    """

    name: str
    description: Description
    inputs: tuple[str, ...]
    after: str

    @property
    def about(self) -> str:
        """The encoder and whether heads read it, in one line."""
        found = self.description
        facts = [f"{found.width}-d" if found.width else "", f"{found.size_mb:,.1f} MB" if found.size_mb else ""]
        facts += [f"weights {found.weights}" if found.weights else "", found.note]
        used = f"fuse.inputs = {', '.join(self.inputs)}"
        used = used if self.name in self.inputs else f"not among {used}"
        return f"{self.name}: {', '.join(filter(None, [found.model, *facts]))}; {used}"

    def _about(self) -> str:
        return f"Added [encoder.{self.name}] to {FILE_NAME}\n{self.about}"


def add_encoder(
    project: Project, name: str, model: str, *, modality: str | None = None, weights: str = "", as_input: bool = False
) -> AddedEncoder:
    """Write a further `[encoder.NAME]` into mmfeat.toml; comments stay. Nothing is downloaded.

    Parameters
    ----------
    model : str
        A model of timm or torchvision, a name or a folder of transformers, or `tfidf`.
    modality : str, optional
        `image` or `text`; if None, as the encoder's name or the model says.
    weights : str
        A file of weights, `auto` or `random`.
    as_input : bool
        Whether heads read it by default: it is appended to `fuse.inputs`.

    Raises
    ------
    ConfigError
        The name is taken or not valid, the modality is not known, or mmfeat.toml is not valid.
    EncoderError
        The model is unknown, or its weights do not fit.
    """
    refuse_url(model, weights)
    root = project.root
    with alone_in(root, "mmfeat encoders add"):
        config = load_config(root / FILE_NAME)
        _check_name(config, name)
        values = _values(config, name, model, modality=modality, weights=weights)
        inputs = (*config.fuse.inputs, name) if as_input else None
        text = (root / FILE_NAME).read_bytes().decode("utf-8")
        with atomic_path(root / FILE_NAME) as written:
            written.write_bytes(with_encoder(text, name, values, inputs=inputs).encode("utf-8"))
            found = load_config(written)
            description = check_encoder(found, name)
    fitted = found.encoder[name].fitted
    after = f"mmfeat finetune {name}" if fitted else f"mmfeat extract {name}"
    return AddedEncoder(name=name, description=description, inputs=found.fuse.inputs, after=after)


def _check_name(config: Config, name: str) -> None:
    if wrong := wrong_name(name):
        raise ConfigError(f"{wrong}. Choose another name")
    if name in config.encoder:
        raise ConfigError(f"encoder {name!r} is already in {FILE_NAME}. Choose another name, or edit its table")


def _values(config: Config, name: str, model: str, *, modality: str | None, weights: str) -> dict[str, Any]:
    """The keys of the table; paths are relative to the project's folder."""
    folder = model if model.startswith(("~", "/")) else str(Path(model).absolute())
    in_folder = is_folder(model)
    modality = modality or (name if name in MODALITIES else "text" if in_folder else _modality(model))
    if modality not in MODALITY_TABLES:
        raise ConfigError(f"no modality {modality!r}. Use one of: {', '.join(MODALITY_TABLES)}")
    table = encoder_table_class(modality, {"model": model})
    if table is None or table.made_elsewhere:
        raise ConfigError(f"embeddings of other programs are imported: mmfeat store import {name} FILE")
    values = {} if name == modality else {"modality": modality}
    values["model"] = in_table(folder, config.root) if in_folder else model
    if weights:
        path = weights if weights.startswith("~") else str(Path(weights).absolute())
        values["pretrained"] = weights if weights in OWN_WEIGHTS else in_table(path, config.root)
    return values | table.in_new_tables


def _modality(model: str) -> str:
    if modality := recognised_modality(model):
        return modality
    from mmfeat.encoders.model_names import nearest_models

    near = ", ".join(nearest_models(model)) or "none"
    raise ConfigError(f"{shown(model)}: no known model. Nearest: {near}; a text model of that name: --modality text")
