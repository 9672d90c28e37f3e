"""Exports networks as ONNX files: encoders from bytes or tokens to embeddings, heads from embeddings to logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.common.errors import EncoderError, MmfeatError, RunError, one_line
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.onnx_graphs import NoGraph, first_cause, write_encoder_graph, write_graph
from mmfeat.encoders.portable import save_preparation
from mmfeat.runs.composition import Composition

HEADS = "heads.onnx"
NETWORK = "model.onnx"


def head_inputs(names: Sequence[str]) -> list[str]:
    """Input names of heads.onnx for some encoders, in order: embeddings `(B, D)`, then presence `(B,)`."""
    return [f"embeddings.{name}" for name in names] + [f"present.{name}" for name in names]


def head_outputs(names: Sequence[str]) -> list[str]:
    """Output names of heads.onnx: logits `(B, K)`, known `(B,)`, and each encoder's unimodal logits `(B, K)`."""
    return ["logits", "known"] + [f"opinion.{name}" for name in names]


class HeadsGraph(nn.Module):
    """A composition as a module of positional tensors, in the order of :func:`head_inputs`."""

    def __init__(self, composition: Composition, names: Sequence[str]) -> None:
        super().__init__()
        self.composition, self.names = composition, list(names)
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of :func:`head_outputs`."""
        n = len(self.names)
        inputs = dict(zip(self.names, tensors[:n], strict=True))
        present = dict(zip(self.names, tensors[n:], strict=True))
        logits, known = self.composition(inputs, present)
        # copies: a tensor cannot have the names of two outputs, or of an input and an output
        return (
            logits,
            known.clone(),
            *(self.composition.unimodal_prediction(name, inputs, present).clone() for name in self.names),
        )


def save_encoder_onnx(name: str, encoder: Encoder, folder: Path, *, dtype: str) -> dict[str, Any]:
    """Write network, preprocessing and tokenizer; returns the encoder's record as JSON values.

    Raises
    ------
    EncoderError
        The network cannot be written as ONNX, or a weight is too large for the dtype.
    """
    record = save_preparation(encoder, folder)
    try:
        write_encoder_graph(encoder, folder / NETWORK, dtype=dtype)
    except NoGraph as error:
        raise EncoderError(f"encoder.{name}: {error}. Use: --format torch") from None
    except MmfeatError:
        raise
    except Exception as error:  # the exporter raises various errors for networks that it cannot trace
        raise EncoderError(
            f"encoder.{name}: {encoder.architecture} cannot be written as ONNX: {one_line(first_cause(error))}. Use: --format torch"
        ) from None
    return {**record, "precision": "float32", "pooling": encoder.pooling, "key": encoder.spec().key}


def save_heads_onnx(composition: Composition, widths: dict[str, int], file: Path, *, dtype: str) -> None:
    """Write heads, linear probes and the tree that combines them, for encoders of the given widths D.

    Raises
    ------
    RunError
        The heads cannot be written as ONNX.
    EncoderError
        A weight is too large for the dtype.
    """
    example = [torch.zeros(2, width) for width in widths.values()] + [torch.ones(2, dtype=torch.bool) for _ in widths]
    axes = [{0: torch.export.Dim("batch")}] * len(example)
    try:
        graph = HeadsGraph(composition, list(widths))
        write_graph(
            graph,
            example,
            axes,
            inputs=head_inputs(list(widths)),
            outputs=head_outputs(list(widths)),
            file=file,
            dtype=dtype,
        )
    except MmfeatError:
        raise
    except Exception as error:
        raise RunError(
            f"the heads cannot be written as ONNX: {one_line(first_cause(error))}. Use: --format torch"
        ) from None
