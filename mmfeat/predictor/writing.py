"""Writes the folder of an exported model: encoders, heads, record and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmfeat.common.files import write_atomic
from mmfeat.common.seals import seal_folder
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.portable import save_encoder, save_tensors
from mmfeat.predictor.card import model_card
from mmfeat.predictor.folder import CARD, FORMAT, RECORD, encoder_folder, size_mb
from mmfeat.predictor.loaded_networks import HEADS
from mmfeat.predictor.onnx_files import HEADS as HEADS_ONNX
from mmfeat.predictor.onnx_files import save_encoder_onnx, save_heads_onnx
from mmfeat.runs.composition import Composition


def write_model(
    folder: Path,
    encoders: dict[str, Encoder],
    composition: Composition,
    *,
    record: dict[str, Any],
    dtype: str,
    heads_dtype: str = "",
    runtime: str = "torch",
) -> float:
    """Fill an empty folder; returns its size in MB.

    Parameters
    ----------
    encoders : dict of str to Encoder
        In eval mode on the CPU.
    record : dict
        The content of mmfeat.json without encoders and heads; `about` describes each encoder.
    dtype, heads_dtype : str
        Type of the encoders' weights, and of those of heads and linear probes: `float32` or `float16`. Empty: the same.
    runtime : str
        `torch` or `onnx`.

    Raises
    ------
    EncoderError
        A weight is too large for the dtype, or a network cannot be written for the runtime.
    """
    about, heads_dtype = record.pop("about"), heads_dtype or dtype
    folders = {name: encoder_folder(folder, name) for name in encoders}
    if runtime == "onnx":
        written = {name: save_encoder_onnx(name, one, folders[name], dtype=dtype) for name, one in encoders.items()}
        save_heads_onnx(
            composition, {name: one.width for name, one in encoders.items()}, folder / HEADS_ONNX, dtype=heads_dtype
        )
    else:
        written = {name: save_encoder(one, folders[name], dtype) for name, one in encoders.items()}
        save_tensors(composition.state_dict(), folder / HEADS, heads_dtype)
    record = {
        **record,
        "runtime": runtime,
        "dtype": dtype,
        "heads_dtype": heads_dtype,
        "encoders": {name: {**one, "about": about[name]} for name, one in written.items()},
        "model": composition.describe(),
    }
    write_atomic(folder / CARD, model_card(record, size_mb(folder)))
    seal_folder(folder, RECORD, {"format": FORMAT, **record})
    return size_mb(folder)
