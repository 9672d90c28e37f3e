"""Encoders that a user chooses: checked by the code that reads them, without network, before mmfeat.toml names them."""

from __future__ import annotations

from pathlib import Path

from mmfeat.common.errors import ConfigError, EncoderError
from mmfeat.config.encoder_tables import EncoderTable, is_path
from mmfeat.config.schema import Config
from mmfeat.encoders.description import Description
from mmfeat.encoders.kinds import kind_of

OWN_WEIGHTS = ("auto", "random")  # values of `pretrained` that name no file


def check_chosen_encoders(config: Config, there: dict[str, bool]) -> None:
    """Check the encoders that options of `mmfeat init` name.

    Parameters
    ----------
    there : dict of str to bool
        Modality to whether the data have it.

    Raises
    ------
    ConfigError
        The data lack the modality.
    EncoderError
        The model is unknown, or its weights do not fit.
    """
    for modality, is_there in there.items():
        keys = [key for key in ("model", "pretrained") if f"encoder.{modality}.{key}" in config.origins]
        if keys and not is_there:
            option = f"--{modality}-{'encoder' if keys[0] == 'model' else 'weights'}"
            raise ConfigError(f"{option}: the data have no {modality}s. Leave it out")
        if keys:
            check_encoder(config, modality)


def check_encoder(config: Config, name: str) -> Description:
    """Describe an encoder, and build it if its weights are on disk.

    Raises
    ------
    EncoderError
        The model is unknown, or its weights do not fit.
    """
    table = config.encoder[name]
    try:
        found = kind_of(table).describe(table, config.root)
    except EncoderError as error:  # says "encoder.image" or "encoder.text"
        raise EncoderError(_named(str(error), name)) from None
    if found.weights == "missing":
        raise EncoderError(
            f"encoder.{name}: no weights at {', '.join(found.places)}. Give a .safetensors or .pth file, auto or random"
        )
    if found.weights == "on disk" and _names_a_file(table):
        _build(config, name)
    return found


def is_folder(model: str) -> bool:
    """Whether a model is a folder: named by its path, or there."""
    return is_path(model) or Path(model).is_dir()


def _named(message: str, name: str) -> str:
    place, colon, rest = message.partition(": ")
    return f"encoder.{name}: {rest}" if colon and place.startswith("encoder.") else f"encoder.{name}: {message}"


def _names_a_file(table: EncoderTable) -> bool:
    return table.pretrained not in OWN_WEIGHTS or is_path(table.model)


def _build(config: Config, name: str) -> None:
    from mmfeat.encoders.weights import ModelUnavailable, offline, read_state

    table = config.encoder[name]
    try:
        with offline():
            kind_of(table).build(config, name)
    except ModelUnavailable:
        if table.pretrained in OWN_WEIGHTS:
            raise
        read_state(config.root / Path(table.pretrained).expanduser())  # the model's own files are fetched later
