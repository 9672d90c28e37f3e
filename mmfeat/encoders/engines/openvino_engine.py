"""The engine `openvino`: the exported graph in OpenVINO, in float32 or bfloat16 on the CPU."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from mmfeat.common.extras import require
from mmfeat.common.machine import usable_cores
from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.engines.engine import Choice, register_engine
from mmfeat.encoders.engines.graphs import GraphEngine

_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_STREAMS = 4  # at most: each one has activations of its own


@register_engine
class OpenVinoEngine(GraphEngine):
    """OpenVINO has the fastest bfloat16 arithmetic on processors that have instructions for it.

    Parameters
    ----------
    at_once : int
        Streams, which share the cores. The threads of a stream wait for one another after each layer, so several streams
        are faster together, above all where other work delays a thread. A single batch is faster in one stream.
    """

    name = package = "openvino"
    modules = ("openvino", "onnx", "onnxscript")
    extra = "openvino"

    @classmethod
    def fast(cls) -> list[str]:
        """Bfloat16, if the processor has it."""
        return ["bfloat16"] if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else []

    def __init__(
        self, encoder: Encoder, device: torch.device, choice: Choice, *, at_once: int = 1, **more: Any
    ) -> None:
        super().__init__(encoder, device, choice, **more)
        self.at_once = at_once
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[choice.arithmetic],
            "INFERENCE_NUM_THREADS": usable_cores(),
            "PERFORMANCE_HINT": "LATENCY" if at_once == 1 else "THROUGHPUT",
            "NUM_STREAMS": at_once,
        }
        self._model = _core().compile_model(str(self.graph()), "CPU", options)
        self._requests = threading.local()

    def for_many(self) -> OpenVinoEngine:
        """With a stream for each core, up to four."""
        streams = min(usable_cores(), _STREAMS)
        if streams == self.at_once:
            return self
        more = {"tokens": self.tokens, "spec": self.spec}
        return OpenVinoEngine(self.encoder, self.device, self.choice, at_once=streams, **more)

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """The graph's outputs."""
        found = self._request().infer(self.inputs(batch))
        return Encoded(*(found[output].copy() for output in self._model.outputs))

    def _request(self) -> Any:
        """The inference request of this thread: a request serves one thread at a time."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._model.create_infer_request()
        return self._requests.own


def _core() -> Any:
    return require("openvino", OpenVinoEngine.extra).Core()
