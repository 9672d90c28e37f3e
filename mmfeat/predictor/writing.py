"""Writing an exported model's folder: encoders, heads, record and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfeat.encoders.base import Encoder
from mmfeat.encoders.portable import save_encoder, save_tensors
from mmfeat.files import write_atomic
from mmfeat.models.composition import Composition
from mmfeat.predictor.card import model_card
from mmfeat.predictor.engines import HEADS
from mmfeat.predictor.folder import CARD, encoder_folder, seal_folder, size_mb


def write_model(
    folder: Path, encoders: dict[str, Encoder], composition: Composition, record: dict[str, Any], dtype: str
) -> float:
    """Fill an empty folder; gives its size in MB.

    Parameters
    ----------
    encoders : dict of str to Encoder
        In eval mode on the CPU.
    record : dict
        What mmfeat.json is to hold besides encoders and heads; `about` has a few words on each encoder.
    dtype : str
        Of the weights: `float32` or `float16`.

    Raises
    ------
    EncoderError
        The dtype cannot hold a weight.
    """
    about = record.pop("about")
    written = {name: save_encoder(encoder, encoder_folder(folder, name), dtype) for name, encoder in encoders.items()}
    save_tensors(composition.state_dict(), folder / HEADS, dtype)
    record = {
        **record,
        "runtime": "torch",
        "dtype": dtype,
        "encoders": {name: {**one, "about": about[name]} for name, one in written.items()},
        "model": composition.describe(),
    }
    write_atomic(folder / CARD, model_card(record, size_mb(folder)))
    seal_folder(folder, record)
    return size_mb(folder)
