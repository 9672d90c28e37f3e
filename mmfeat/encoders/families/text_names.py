"""Names of text models: known sizes, renamed models, and local folders."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from mmfeat.config.encoder_tables import is_path
from mmfeat.encoders.weights import hub_folder

# From config.json of huggingface.co/NAME, so that sizes can be listed before the download.
TEXT_MODELS: dict[str, dict[str, Any]] = {
    "google/bert_uncased_L-2_H-128_A-2": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 512,
        "max_position_embeddings": 512,
    },
    "albert/albert-base-v2": {
        "model_type": "albert",
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
    },
    "sentence-transformers/all-MiniLM-L6-v2": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
    },
}
TOWERS = ("_text_model", "_vision_model")  # name endings in transformers of the two halves of an image-text model
_RENAMED = {"albert-base-v2": "albert/albert-base-v2"}  # old to current names of the hub


def hub_name(model: str) -> str:
    """The hub's current name of a model, or the old name if only that is on disk."""
    current = _RENAMED.get(model, model)
    return model if hub_folder(model).is_dir() and not hub_folder(current).is_dir() else current


def nearest_text_models(model: str) -> list[str]:
    """Up to three most similar names, among the known ones and those in the hub's cache on disk."""
    folders = hub_folder("x").parent.glob("models--*")
    on_disk = [path.name.removeprefix("models--").replace("--", "/", 1) for path in folders]
    known = sorted({*TEXT_MODELS, *_RENAMED, *(name for name in on_disk if not name.startswith("timm/"))} - {model})
    short = {name: name.rpartition("/")[2] for name in known}

    def likeness(name: str) -> float:
        pairs = ((name, model), (short[name], model.rpartition("/")[2]))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return sorted((name for name in known if likeness(name) >= 0.5), key=likeness, reverse=True)[:3]


def local_folder(model: str, folder: Path) -> Path | None:
    """The folder of a model that is named by its path (`./`, `~` or `/`); None for a name of the hub."""
    return folder / Path(model).expanduser() if is_path(model) else None


def two_towers(family: str) -> str:
    """The end of the error about an image-text model, or half of one: it lists the alternatives."""
    return (
        f"is an image-text model ({family}), which mmfeat does not read from a folder of transformers. For images use timm's "
        f"version: mmfeat encoders clip (or siglip); for texts use a text model; or import embeddings of another program: "
        f"mmfeat store import NAME FILE"
    )
