"""Writes networks as ONNX files, which onnxruntime and OpenVINO execute."""

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

from mmfeat.common.errors import EncoderError
from mmfeat.common.extras import require
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.kinds import encoder_kind

EXTRA = "onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
_WEIGHT = 1024  # smaller tensors stay float32: biases, and constants that float16 may not represent


class NoGraph(EncoderError):
    """Encoders of a kind cannot be written as ONNX."""


class EncoderGraph(nn.Module):
    """An encoder as a module of positional tensors, in the order of their names; always in float32.

    Parameters
    ----------
    tokens : int
        The setting `tokens` of the encoder; 0 for embeddings alone.
    """

    def __init__(self, encoder: Encoder, names: Sequence[str], tokens: int = 0) -> None:
        super().__init__()
        self.encoder, self.names, self.tokens = encoder, list(names), tokens
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Embeddings `(B, D)`; with tokens, the three outputs of `Encoder.forward_tokens`."""
        batch = dict(zip(self.names, inputs, strict=True))
        return self.encoder.forward_tokens(batch, self.tokens) if self.tokens else self.encoder(batch)


def write_encoder_graph(encoder: Encoder, file: Path, *, tokens: int = 0, dtype: str = "float32") -> None:
    """Write an encoder's network from the inputs of `forward` to embeddings, and to tokens if `tokens` is not 0.

    Raises
    ------
    NoGraph
        The encoder's kind has no example inputs.
    Exception
        The exporter cannot trace the network; it raises various errors.
    """
    try:
        example, axes = encoder_kind(encoder.kind).onnx_example(encoder)
    except NotImplementedError:
        raise NoGraph(f"encoders of kind {encoder.kind} are not written as ONNX") from None
    write_graph(
        EncoderGraph(encoder, list(example), tokens),
        list(example.values()),
        [axes] * len(example),
        inputs=list(example),
        outputs=["embeddings", "tokens", "lengths"] if tokens else ["embeddings"],
        file=file,
        dtype=dtype,
    )


def write_graph(
    graph: nn.Module,
    example: list[Tensor],
    axes: list[Any],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    file: Path,
    dtype: str,
) -> None:
    """Trace a module with example tensors, and write it; `axes` names the dynamic axes of each input."""
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


def first_cause(error: BaseException) -> BaseException:
    """The original error, without the exporter's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
