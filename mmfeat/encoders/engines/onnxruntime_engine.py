"""The engine `onnxruntime`: the exported graph in ONNX Runtime, in float32 on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfeat.common.extras import require
from mmfeat.common.machine import usable_cores
from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.engines.engine import Choice, register_engine
from mmfeat.encoders.engines.graphs import GraphEngine


@register_engine
class OnnxRuntimeEngine(GraphEngine):
    """ONNX Runtime fuses convolutions, normalisation and activations, and lays out their memory for the processor."""

    name = package = "onnxruntime"
    modules = ("onnxruntime", "onnx", "onnxscript")
    extra = "onnx"

    def __init__(self, encoder: Encoder, device: torch.device, choice: Choice, **more: Any) -> None:
        super().__init__(encoder, device, choice, **more)
        self._session = session(self.graph(), ["CPUExecutionProvider"])

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """The graph's outputs."""
        return Encoded(*self._session.run(None, self.inputs(batch)))


def session(file: Path, providers: list[Any]) -> Any:
    """A session of onnxruntime on all usable cores."""
    onnxruntime = require("onnxruntime", OnnxRuntimeEngine.extra)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway
    options.intra_op_num_threads = usable_cores()
    # leaves cores to the preparation of samples
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=providers)
