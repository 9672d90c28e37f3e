"""Exports networks as ONNX files: encoders from bytes or tokens to embeddings, heads from embeddings to logits."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfeat.common.errors import EncoderError, MmfeatError, RunError, one_line
from mmfeat.common.extras import require
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.portable import save_preparation
from mmfeat.runs.composition import Composition

EXTRA = "onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
HEADS = "heads.onnx"
NETWORK = "model.onnx"
INPUTS = {"image": ("pixels",), "text": ("input_ids", "attention_mask")}
_WEIGHT = 1024  # smaller tensors stay float32: biases, and constants that float16 may not represent


def head_inputs(names: Sequence[str]) -> list[str]:
    """Input names of heads.onnx for some encoders, in order: embeddings `(B, D)`, then presence `(B,)`."""
    return [f"embeddings.{name}" for name in names] + [f"present.{name}" for name in names]


def head_outputs(names: Sequence[str]) -> list[str]:
    """Output names of heads.onnx: logits `(B, K)`, known `(B,)`, and each encoder's unimodal logits `(B, K)`."""
    return ["logits", "known"] + [f"opinion.{name}" for name in names]


class EncoderGraph(nn.Module):
    """An encoder as a module of positional tensors, in the order of its modality's `INPUTS`; always in float32."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Embeddings `(B, D)`."""
        return self.encoder(dict(zip(INPUTS[self.encoder.modality], inputs, strict=True)))


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
    batch = torch.export.Dim("batch")
    if encoder.modality == "image":
        size = encoder.preparation.data_config["input_size"]
        example = {"pixels": torch.zeros(2, *size, dtype=torch.uint8)}
        axes: dict[int, Any] = {0: batch}
    else:
        example = encoder.collate([encoder.prepare(caption) for caption in encoder.preparation.examples])
        axes = {0: batch, 1: torch.export.Dim("length", min=1, max=encoder.preparation.most)}
    names = INPUTS[encoder.modality]
    try:
        _export_graph(
            EncoderGraph(encoder),
            [example[n] for n in names],
            [axes] * len(names),
            inputs=names,
            outputs=["embeddings"],
            file=folder / NETWORK,
            dtype=dtype,
        )
    except MmfeatError:
        raise
    except Exception as error:  # the exporter raises various errors for networks that it cannot trace
        raise EncoderError(
            f"encoder.{name}: {encoder.architecture} cannot be written as ONNX: {one_line(_cause(error))}. Use: --format torch"
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
        _export_graph(
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
        raise RunError(f"the heads cannot be written as ONNX: {one_line(_cause(error))}. Use: --format torch") from None


def _export_graph(
    graph: nn.Module,
    example: list[Tensor],
    axes: list[Any],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    file: Path,
    dtype: str,
) -> None:
    onnx = require("onnx", EXTRA)
    require("onnxscript", EXTRA)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            tuple(example),
            dynamo=True,
            dynamic_shapes=(tuple(axes),),
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
        model = program.model_proto
    if dtype == "float16":
        keep_as_float16(onnx, model.graph)
    _strip(model.graph)
    onnx.save(model, str(file))


def _strip(graph: Any) -> None:
    """Remove the Python source locations of nodes."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


def keep_as_float16(onnx: Any, graph: Any) -> None:
    """Halve the file: weights are stored as float16; the runtime casts them back once, when it loads the graph."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _WEIGHT:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            kept = values.astype(np.float16)
        if not np.isfinite(kept[np.isfinite(values)]).all():
            raise EncoderError(f"float16 cannot hold {name}: its largest value is {np.abs(values).max():.4g}")
        tensor.CopyFrom(onnx.numpy_helper.from_array(kept, f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's output; whether its result agrees is checked separately."""
    before = logging.root.manager.disable
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _cause(error: BaseException) -> BaseException:
    """The original error, without the exporter's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
