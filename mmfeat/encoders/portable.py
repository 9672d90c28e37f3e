"""Encoders as folders of their own: weights, preprocessing and tokenizer, with nothing of the project that made them.

What a folder holds is for the encoder's kind to say.
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
    """Write what :func:`load_preparation` reads, and give its record as JSON values.

    Raises
    ------
    EncoderError
        The encoder runs code that came with its model: an exported model runs none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return encoder_kind(encoder.kind).save_preparation(encoder, folder)


def load_preparation(record: dict[str, Any], folder: Path) -> Any:
    """All that happens to a sample before the network."""
    return kind_of_record(record).load_preparation(record, folder)


def save_encoder(encoder: Encoder, folder: Path, dtype: str = "float32") -> dict[str, Any]:
    """Write weights, tokenizer and configuration; what :func:`load_encoder` needs besides is returned as JSON values.

    Raises
    ------
    EncoderError
        The dtype cannot hold a weight.
    """
    record = save_preparation(encoder, folder)
    record |= {"precision": encoder.precision, "pooling": encoder.pooling, "key": encoder.spec().key}
    tensors, more = encoder_kind(encoder.kind).save_network(encoder, folder)
    save_tensors(tensors, folder / WEIGHTS, dtype)
    return record | more


def load_encoder(name: str, record: dict[str, Any], folder: Path) -> Encoder:
    """The encoder that :func:`save_encoder` wrote, in eval mode on the CPU, its weights in float32.

    Raises
    ------
    EncoderError
        The files are not those of the record, or this version of timm or transformers has no such network.
    """
    return kind_of_record(record).load_encoder(name, record, folder)


def save_tensors(tensors: dict[str, Tensor], file: Path, dtype: str) -> None:
    """Write tensors as safetensors, floating ones in the given dtype.

    Raises
    ------
    EncoderError
        The dtype cannot hold a value.
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
