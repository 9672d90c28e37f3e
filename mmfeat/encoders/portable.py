"""Exported encoders: self-contained folders with weights, preprocessing and tokenizer, independent of any project.

The encoder's kind determines the files of the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfeat.common.errors import EncoderError
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.kinds import WEIGHTS, encoder_kind, kind_of_record


def save_preparation(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Write the files for :func:`load_preparation`, and return the record as JSON values.

    Raises
    ------
    EncoderError
        The encoder runs custom code, which an exported model must not do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return encoder_kind(encoder.kind).save_preparation(encoder, folder)


def load_preparation(record: dict[str, Any], folder: Path) -> Any:
    """Load the preparation of samples, the processing before the network."""
    return kind_of_record(record).load_preparation(record, folder)


def save_encoder(encoder: Encoder, folder: Path, dtype: str = "float32") -> dict[str, Any]:
    """Write weights, tokenizer and configuration, and return the record for :func:`load_encoder` as JSON values.

    Raises
    ------
    EncoderError
        A weight is out of the dtype's range.
    """
    record = save_preparation(encoder, folder)
    record |= {"precision": encoder.precision, "pooling": encoder.pooling, "key": encoder.spec().key}
    tensors, more = encoder_kind(encoder.kind).save_network(encoder, folder)
    save_tensors(tensors, folder / WEIGHTS, dtype)
    return record | more


def load_encoder(name: str, record: dict[str, Any], folder: Path) -> Encoder:
    """Load the encoder that :func:`save_encoder` wrote, in eval mode on the CPU, with float32 weights.

    Raises
    ------
    EncoderError
        The files do not match the record, or the installed timm or transformers has no such network.
    """
    return kind_of_record(record).load_encoder(name, record, folder)


def save_tensors(tensors: dict[str, Tensor], file: Path, dtype: str) -> None:
    """Write tensors as safetensors; floating-point tensors are converted to the dtype.

    Raises
    ------
    EncoderError
        A value is out of the dtype's range.
    """
    from safetensors.torch import save_file

    kept = {}
    for name, tensor in tensors.items():
        kept[name] = tensor.detach().cpu().contiguous().clone()
        if tensor.is_floating_point():
            kept[name] = kept[name].to(getattr(torch, dtype))
            if not torch.isfinite(kept[name]).all():
                raise EncoderError(f"{dtype} cannot hold {name}: its largest value is {tensor.abs().max():.4g}")
    save_file(kept, file)
