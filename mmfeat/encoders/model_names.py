"""Names of image models: lookup of a model's family, and the nearest names to an unknown one."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.errors import EncoderError
from mmfeat.common.text import shown
from mmfeat.encoders.families.image_network import ImageEncoder, image_families
from mmfeat.encoders.families.text_names import (
    TEXT_MODELS,
    TOWERS,
    hub_name,
    local_folder,
    nearest_text_models,
    two_towers,
)
from mmfeat.encoders.weights import hub_folder


def image_family(name: str, model: str, pretrained: str, folder: Path) -> tuple[type[ImageEncoder], str]:
    """Find the family of a model, and the model's name in that family.

    Parameters
    ----------
    name : str
        The encoder's name, for messages.
    pretrained : str
        The setting `pretrained` of the encoder's table.
    folder : Path
        The folder that relative paths of the table start from.

    Raises
    ------
    EncoderError
        No family has the model; the message has the nearest names.
    """
    families = image_families()
    for family in families:
        if family.prefix and model.startswith(family.prefix):
            if family.knows(rest := model.removeprefix(family.prefix)):
                return family, rest
            near = ", ".join(family.prefix + one for one in nearest(rest, family.names())) or "none"
            raise EncoderError(f"encoder.{name}: {family.source} has no model {rest!r}. Nearest: {near}")
    for family in families:
        if family.knows(model):
            return family, family.meant(model, pretrained == "auto")
    if kind := _transformers_model(model, folder):
        raise EncoderError(f"encoder.{name}: {model!r} {kind}")
    near = ", ".join(nearest(model, image_models())) or "none"
    raise EncoderError(f"encoder.{name}: neither timm nor torchvision has a model {model!r}. Nearest: {near}")


def image_models() -> list[str]:
    """All image models: those of timm, and those of other families that no earlier family has."""
    found: list[str] = []
    families = image_families()
    for number, family in enumerate(families):
        before = families[:number]
        found += [name for name in family.names() if not any(other.knows(name) for other in before)]
    return found


def is_image_model(model: str) -> bool:
    """Whether a name is that of an image model; `timm/NAME`, as on the hub, counts too."""
    families, bare = image_families(), model.removeprefix("timm/")
    for family in families:
        bare = bare.removeprefix(family.prefix)
    return any(family.knows(bare) for family in families)


def has_family_prefix(model: str) -> bool:
    """Whether a name begins with a family's prefix."""
    return any(family.prefix and model.startswith(family.prefix) for family in image_families())


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """The three most similar names."""
    return difflib.get_close_matches(name.rpartition("/")[2].partition(".")[0], names, n=3, cutoff=0.4)


def nearest_models(model: str, others: Sequence[str] = ()) -> list[str]:
    """The most similar names of models for images and texts, and among `others`."""
    return [*nearest(model, [*others, *image_models()]), *nearest_text_models(model)]


def _transformers_model(model: str, folder: Path) -> str:
    """The error about a model of transformers in an image encoder's table; empty if it does not look like one."""
    path = local_folder(model, folder)
    stated = _stated(path or hub_folder(hub_name(model)))
    if stated is None and path:
        return 'is not a model\'s name. To load weights of a file, set: pretrained = "FILE"'
    family = str((stated or {}).get("model_type", ""))
    text = 'is a text model of transformers. For a text encoder, set: modality = "text"'
    if stated and (family.endswith(TOWERS) or {"text_config", "vision_config"} <= set(stated)):
        return text if family == "clip_text_model" else two_towers(shown(family))
    if stated:
        images = "is a folder of transformers. For images use a model of timm or torchvision: mmfeat encoders PATTERN"
        return text if "vocab_size" in stated else images
    if hub_name(model) in TEXT_MODELS:
        return text
    if is_image_model(model) or not ("/" in model or hub_folder(model).is_dir()):
        return ""
    if any(word in model.lower() for word in ("clip", "siglip")):
        return two_towers(shown(model.rpartition("/")[2]))
    return (
        "is not a model of timm or torchvision. To find one for images: mmfeat encoders PATTERN; if it is a text model "
        'of transformers, set: modality = "text"'
    )


def _stated(place: Path) -> dict[str, Any] | None:
    """The config.json of a folder, or of a model's newest snapshot in the hub's cache."""
    files = [place / "config.json", *place.glob("snapshots/*/config.json")]
    for file in sorted((file for file in files if file.is_file()), key=lambda file: file.stat().st_mtime, reverse=True):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            stated = json.loads(file.read_text(encoding="utf-8"))
            return stated if isinstance(stated, dict) else None
    return None
