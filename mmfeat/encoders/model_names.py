"""Names of models: which family has one, what people call it, and what is nearest to one that nobody has."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmfeat.common.errors import EncoderError
from mmfeat.common.text import shown
from mmfeat.encoders.families.image_network import ImageEncoder
from mmfeat.encoders.families.text_names import TEXT_MODELS, TOWERS, hub_name, local_folder, two_towers
from mmfeat.encoders.families.timm_models import TimmEncoder
from mmfeat.encoders.families.torchvision_models import PREFIX, TorchvisionEncoder
from mmfeat.encoders.weights import hub_folder

# timm has this architecture, but weights of it only in the form that was ported from TensorFlow
WITH_WEIGHTS = {"efficientnetv2_s": "tf_efficientnetv2_s"}


def image_family(name: str, model: str, pretrained: str, folder: Path) -> tuple[type[ImageEncoder], str]:
    """The family that makes a model, and the model's name there.

    Parameters
    ----------
    name : str
        Of the encoder, for messages.
    pretrained : str
        Of its table.
    folder : Path
        Where relative paths of the table start.

    Raises
    ------
    EncoderError
        Neither family has it; the three nearest names are said.
    """
    if model.startswith(PREFIX):
        if TorchvisionEncoder.knows(rest := model.removeprefix(PREFIX)):
            return TorchvisionEncoder, rest
        near = [PREFIX + one for one in nearest(rest, TorchvisionEncoder.names())]
        raise EncoderError(f"encoder.{name}: torchvision has no model {rest!r}. Nearest: {', '.join(near) or 'none'}")
    if TimmEncoder.knows(model):
        return TimmEncoder, WITH_WEIGHTS.get(model, model) if pretrained == "auto" else model
    if TorchvisionEncoder.knows(model):
        return TorchvisionEncoder, model
    if kind := _transformers_model(model, folder):
        raise EncoderError(f"encoder.{name}: {model!r} {kind}")
    near = ", ".join(nearest(model, image_models())) or "none"
    raise EncoderError(f"encoder.{name}: neither timm nor torchvision has a model {model!r}. Nearest: {near}")


def image_models() -> list[str]:
    """All image models: timm's, and torchvision's that timm has not."""
    return TimmEncoder.names() + [name for name in TorchvisionEncoder.names() if not TimmEncoder.knows(name)]


def is_image_model(model: str) -> bool:
    """Whether a name is that of an image model, perhaps as the hub has it."""
    bare = model.removeprefix(PREFIX).removeprefix("timm/")
    return TimmEncoder.knows(bare) or TorchvisionEncoder.knows(bare)


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """The three names that are most like one."""
    return difflib.get_close_matches(name.rpartition("/")[2].partition(".")[0], names, n=3, cutoff=0.4)


def _transformers_model(model: str, folder: Path) -> str:
    """What is wrong with a model of transformers for images; empty where it is none, as far as can be seen."""
    path = local_folder(model, folder)
    stated = _stated(path or hub_folder(hub_name(model)))
    if stated is None and path:
        return 'is no name of a model. Weights of a file are: pretrained = "FILE"'
    family = str((stated or {}).get("model_type", ""))
    text = 'is a text model of transformers. With it write: modality = "text"'
    if stated and (family.endswith(TOWERS) or {"text_config", "vision_config"} <= set(stated)):
        return text if family == "clip_text_model" else two_towers(shown(family))
    if stated:
        images = "is a folder of transformers. For images take a model of timm or torchvision: mmfeat encoders PATTERN"
        return text if "vocab_size" in stated else images
    if hub_name(model) in TEXT_MODELS:
        return text
    if is_image_model(model) or not ("/" in model or hub_folder(model).is_dir()):
        return ""
    if any(word in model.lower() for word in ("clip", "siglip")):
        return two_towers(shown(model.rpartition("/")[2]))
    return (
        "is no name of timm or torchvision. For images take one of theirs: mmfeat encoders PATTERN; if it is a text model "
        'of transformers, write with it: modality = "text"'
    )


def _stated(place: Path) -> dict[str, Any] | None:
    """The config.json of a folder, or of the newest snapshot that the hub's client has of a model."""
    files = [place / "config.json", *place.glob("snapshots/*/config.json")]
    for file in sorted((file for file in files if file.is_file()), key=lambda file: file.stat().st_mtime, reverse=True):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            stated = json.loads(file.read_text(encoding="utf-8"))
            return stated if isinstance(stated, dict) else None
    return None
