"""Sizes of encoders, without loading weights: counted on a network on torch's meta device, which stores only shapes."""

from __future__ import annotations

import dataclasses
import fnmatch
from pathlib import Path
from typing import Any

import torch

from mmfeat.common.errors import EncoderError, one_line
from mmfeat.config.encoder_tables import ImageEncoderConfig, TextEncoderConfig
from mmfeat.encoders.description import RANDOM, Description
from mmfeat.encoders.families.image_network import image_families
from mmfeat.encoders.families.sentence_folders import after_pooling
from mmfeat.encoders.families.text_names import TEXT_MODELS, nearest_text_models
from mmfeat.encoders.families.transformer_text import (
    check_reads_text,
    model_source,
    positions_of,
    quiet_transformers,
    stated_positions,
    without_unread,
)
from mmfeat.encoders.foreign import no_code
from mmfeat.encoders.model_names import image_family, image_models, nearest
from mmfeat.encoders.weights import hub_folder, read_tensors


def describe_image(table: ImageEncoderConfig, folder: Path) -> Description:
    """Describe a model of timm or torchvision.

    Raises
    ------
    EncoderError
        The model is unknown, or cannot be an encoder.
    """
    kind, model = image_family("image", table.model, table.pretrained, folder)
    try:
        with torch.device("meta"):
            network, _ = kind.make_network("image", model, own_weights=False)
    except (NotImplementedError, RuntimeError):  # the model's constructor reads values
        network, _ = kind.make_network("image", model, own_weights=False)
    stated = kind.data_config_of(network, model)["input_size"][1:] if table.size == "auto" else (table.size, table.size)
    places, fetched = _places(table.pretrained, folder, kind.weights_files(model) if kind.has_weights(model) else [])
    return Description(
        table.model,
        "image",
        parameters=_parameters(network),
        size_mb=_megabytes(network),
        width=kind.width_of(network),
        takes=" x ".join(map(str, dict.fromkeys(stated))) + " px",
        source=kind.source,
        places=places,
        fetched=fetched,
        note="" if model == table.model.removeprefix(kind.prefix) else f"is {kind.source}'s {model}",
    )


def describe_text(table: TextEncoderConfig, folder: Path) -> Description:
    """Describe a model of transformers, from its configuration on disk or from the list of known models.

    Raises
    ------
    EncoderError
        The folder contains no model, or a model of images.
    """
    quiet_transformers()
    from transformers import AutoModel

    source = model_source("text", table.model, folder)
    place = Path(source) if Path(source).is_absolute() else hub_folder(source)
    places, fetched = _places(table.pretrained, folder, [place], not Path(source).is_absolute())
    found = Description(
        table.model,
        "text",
        takes=f"{table.max_length} tokens",
        source="transformers",
        places=places,
        fetched=fetched,
    )
    config = _text_config(source, table)
    if config is None:
        return dataclasses.replace(found, note="its size is known after the download")
    check_reads_text("text", table.model, config)
    try:
        with torch.device("meta"), no_code("text", table.model, source):
            network = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=table.trust_remote_code)
            network = without_unread(network)
        width = network.config.hidden_size
    except EncoderError:
        raise
    except Exception as error:  # an unsupported configuration may raise anything
        raise EncoderError(f"encoder.text: {table.model!r} cannot be built: {one_line(error)}") from None
    positions = min(
        table.max_length, *filter(None, [stated_positions(config), positions_of(network)]), table.max_length
    )
    left_out = after_pooling(source) if place.is_dir() else []
    return dataclasses.replace(
        found,
        parameters=_parameters(network),
        size_mb=_megabytes(network),
        width=width,
        takes=f"{positions} tokens",
        note=f"without its {', '.join(left_out)}" if left_out else "",
    )


def matching(pattern: str) -> list[tuple[str, str]]:
    """Find known models by a pattern with `*`, or by a part of the name: (name, modality) of each.

    Raises
    ------
    EncoderError
        No model matches; the message has the nearest names.
    """
    wanted = pattern.lower() if any(c in pattern for c in "*?[") else f"*{pattern.lower()}*"
    families, bare = image_families(), {}  # name to its lower-case form without the family's prefix
    for number, family in enumerate(families):
        for name in family.names():
            taken = any(other.knows(name) for other in families[:number])
            bare[family.prefix + name if taken else name] = name.lower()
    names = dict.fromkeys(bare, "image") | dict.fromkeys(TEXT_MODELS, "text")
    bare |= {name: name.lower() for name in TEXT_MODELS}
    found = [name for name in names if fnmatch.fnmatch(bare[name], wanted)]
    found.sort(key=lambda name: (not bare[name].startswith(pattern.lower()), bare[name]))
    if not found:
        near = nearest(pattern, image_models()) + nearest_text_models(pattern)
        raise EncoderError(f"no model of timm or torchvision matches {pattern!r}. Nearest: {', '.join(near) or 'none'}")
    return [(name, names[name]) for name in found]


def _text_config(source: str, table: TextEncoderConfig) -> Any:
    from transformers import AutoConfig

    try:
        with no_code("text", table.model, source):
            return AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=table.trust_remote_code)
    except EncoderError:
        raise
    except Exception as error:  # not on disk; a damaged one may raise anything
        if Path(source).is_absolute():
            raise EncoderError(f"{source}: {one_line(error)}") from None
    known = dict(TEXT_MODELS.get(source, {}))
    return AutoConfig.for_model(known.pop("model_type"), **known) if known else None


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _megabytes(network: torch.nn.Module) -> float:
    return sum(t.numel() * t.element_size() for t in read_tensors(network).values()) / 1e6


def _places(pretrained: str, folder: Path, own: list[Path], fetched: bool = True) -> tuple[tuple[str, ...], bool]:
    """The places of an encoder's weights, and whether missing weights are downloaded."""
    if pretrained == RANDOM:
        return (RANDOM,), False
    if pretrained != "auto":
        return (str(folder / Path(pretrained).expanduser()),), False
    return tuple(map(str, own)), bool(own) and fetched
