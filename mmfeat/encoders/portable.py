"""Encoders as folders of their own: weights, preprocessing and tokenizer, with nothing of the project that made them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfeat.common.errors import EncoderError
from mmfeat.common.files import write_json
from mmfeat.common.text import counted
from mmfeat.config.schema import TFIDF, ImageEncoderConfig, TextEncoderConfig
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.families.image_network import build_image_encoder
from mmfeat.encoders.families.tfidf import TfidfEncoder, TfidfPreparation
from mmfeat.encoders.families.transformer_text import TextEncoder, build_text_encoder, load_tokenizer
from mmfeat.encoders.foreign import NeedsCode, brings_code
from mmfeat.encoders.preparation import ImagePreparation, TextPreparation
from mmfeat.encoders.weights import read_state, read_tensors

WEIGHTS = "weights.safetensors"
TERMS = "terms.json"


def save_preparation(encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Write what :func:`load_preparation` reads, and give its record as JSON values.

    Raises
    ------
    EncoderError
        The encoder runs code that came with its model: an exported model runs none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(encoder, TfidfEncoder):
        write_json(folder / TERMS, list(encoder.preparation.terms))
        return {"modality": "text", "model": TFIDF, "width": encoder.width, "ngrams": encoder.preparation.ngrams}
    if isinstance(encoder, TextEncoder):
        if brings_code(encoder.network, encoder.model_config, encoder.preparation.tokenizer):
            raise EncoderError(
                f"encoder.{folder.name}: runs code that came with {encoder.source} (trust_remote_code), and an exported model "
                f"runs none. Export a run without this encoder"
            )
        encoder.preparation.tokenizer.save_pretrained(folder)
        record = {"modality": "text", "width": encoder.width, "max_length": encoder.preparation.max_length}
        if encoder.preparation.most < encoder.preparation.max_length:
            record["positions"] = encoder.preparation.most
        return record
    config = {key: list(v) if isinstance(v, tuple) else v for key, v in encoder.preparation.data_config.items()}
    return {"modality": "image", "width": encoder.width, "data_config": config}


def load_preparation(record: dict[str, Any], folder: Path) -> ImagePreparation | TextPreparation | TfidfPreparation:
    """All that happens to a sample before the network."""
    if _counts_words(record):
        return TfidfPreparation(json.loads((folder / TERMS).read_text(encoding="utf-8")), record["ngrams"])
    if record["modality"] == "text":
        with _without_code(folder):
            tokenizer = load_tokenizer(folder)
        return TextPreparation(tokenizer, record["max_length"], positions=record.get("positions"))
    return ImagePreparation(_data_config(record))


def save_encoder(encoder: Encoder, folder: Path, dtype: str = "float32") -> dict[str, Any]:
    """Write weights, tokenizer and configuration; what :func:`load_encoder` needs besides is returned as JSON values.

    Raises
    ------
    EncoderError
        The dtype cannot hold a weight.
    """
    record = save_preparation(encoder, folder)
    record |= {"precision": encoder.precision, "pooling": encoder.pooling, "key": encoder.spec().key}
    if isinstance(encoder, TfidfEncoder):
        tensors = read_tensors(encoder)
    elif isinstance(encoder, TextEncoder):
        encoder.model_config.save_pretrained(folder)
        tensors = read_tensors(encoder.network)
    else:
        record |= {"model": encoder.model, "flip": encoder.flip, **({"resized": True} if encoder.resized else {})}
        tensors = encoder.network.state_dict()
    save_tensors(tensors, folder / WEIGHTS, dtype)
    return record


def load_encoder(name: str, record: dict[str, Any], folder: Path) -> Encoder:
    """The encoder that :func:`save_encoder` wrote, in eval mode on the CPU, its weights in float32.

    Raises
    ------
    EncoderError
        The files are not those of the record, or this version of timm or transformers has no such network.
    """
    weights = str(folder / WEIGHTS)
    if _counts_words(record):
        terms, idf = load_preparation(record, folder).terms, read_state(folder / WEIGHTS)["idf"]
        if idf.shape != (len(terms),):
            raise EncoderError(f"{folder}: {counted(len(terms), 'term')}, {counted(len(idf), 'weight')}")
        return TfidfEncoder(terms, idf, record["ngrams"]).eval()
    if record["modality"] == "text":
        table = TextEncoderConfig(
            model=str(folder),
            pretrained=weights,
            max_length=record["max_length"],
            pooling=record["pooling"],
            precision=record["precision"],
        )
        with _without_code(folder):
            return build_text_encoder(name, table, folder, 0)
    table = ImageEncoderConfig(
        model=record["model"], pretrained=weights, precision=record["precision"], flip=record["flip"]
    )
    resized = record.get("resized") is True
    return build_image_encoder(name, table, folder, 0, data_config=_data_config(record), resized=resized).eval()


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


@contextlib.contextmanager
def _without_code(folder: Path) -> Iterator[None]:
    """No setting lets an exported model run code: it must not have any."""
    try:
        yield
    except NeedsCode:
        raise EncoderError(
            f"{folder}: asks for code that comes with it, which is not run. Export the model again"
        ) from None


def _counts_words(record: dict[str, Any]) -> bool:
    return record["modality"] == "text" and record.get("model") == TFIDF


def _data_config(record: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in record["data_config"].items()}
