"""The networks of an exported model, loaded for torch or as ONNX files, on a CPU or a GPU. Thread-safe."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import ConfigError, RunError, one_line
from mmfeat.common.extras import require
from mmfeat.common.text import counted
from mmfeat.config.schema import ENGINE_CHOICES
from mmfeat.encoders import onnx_graphs
from mmfeat.encoders.batches import Encoded
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.engines.onnxruntime_engine import session
from mmfeat.encoders.engines.selection import AUTO, LONG, TORCH, EngineSelection, Selected
from mmfeat.encoders.portable import load_encoder, load_preparation
from mmfeat.encoders.weights import read_state
from mmfeat.predictor import onnx_files
from mmfeat.predictor.folder import encoder_folder
from mmfeat.predictor.predictions import HeadOutputs
from mmfeat.runs.composition import Composition, ReadTokens, build_composition

HEADS = "heads.safetensors"
ONNXRUNTIME = "onnxruntime"


@torch.inference_mode()
def head_outputs(
    composition: Composition, inputs: dict[str, torch.Tensor], present: dict[str, torch.Tensor]
) -> HeadOutputs:
    """Outputs of a composition, moved to the CPU; the inputs are those of `Composition.forward`."""
    logits, known = composition(inputs, present)
    unimodal = {
        name: composition.unimodal_prediction(name, inputs, present).cpu().numpy() for name in composition.widths
    }
    return HeadOutputs(logits.cpu().numpy(), known.cpu().numpy(), unimodal)


class TorchNetworks:
    """Encoders, each executed by an engine (:mod:`mmfeat.encoders.engines`), and heads as a torch module on one device.

    Parameters
    ----------
    engine : str
        The engine of every encoder, or `auto`: the fastest if it is known or the work is long, otherwise torch.
    """

    def __init__(
        self, encoders: dict[str, Encoder], composition: Composition, device: torch.device, engine: str = TORCH
    ) -> None:
        self.encoders = {name: encoder.to(device).eval() for name, encoder in encoders.items()}
        self.composition = composition.to(device).eval()
        self.device, self.engine = device, engine
        self.preparations = {name: encoder.preparation for name, encoder in encoders.items()}
        self._selections: dict[str, EngineSelection] = {}
        self._selected: dict[str, Selected] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, record: dict[str, Any], device: str, engine: str = AUTO) -> TorchNetworks:
        """Load a verified exported folder on `auto`, `cpu`, `cuda` or `cuda:1`.

        Raises
        ------
        RunError
            This version of mmfeat, timm or transformers cannot build the folder's networks.
        ConfigError
            The device does not exist, or the engine is not installed or cannot execute an encoder.
        """
        on = torch_device(device)
        check_engine(engine)
        try:
            composition = build_composition(record["model"])
            state = {name: tensor.float() for name, tensor in read_state(folder / HEADS).items()}
            composition.load_state_dict(state)
            encoders = {
                name: load_encoder(name, one, encoder_folder(folder, name)) for name, one in record["encoders"].items()
            }
            found = {name: encoder.width for name, encoder in encoders.items()}
            _check_widths({name: one["width"] for name, one in record["encoders"].items()}, found)
            _check_widths({name: found.get(name) for name in composition.widths}, composition.widths)
            if composition.n_classes != len(record["classes"]):
                raise ValueError(
                    f"{counted(len(record['classes']), 'class', 'classes')}, its heads have {composition.n_classes}"
                )
        except Exception as error:  # settings of another version can fail anywhere
            raise RunError(f"{folder}: cannot be built by this version: {one_line(error)}") from None
        networks = cls(encoders, composition, on, engine)
        for name in encoders if engine != AUTO else ():
            networks.selection(name)
        return networks

    @property
    def tokens(self) -> dict[str, ReadTokens]:
        """The tokens that heads read in addition to embeddings, by encoder."""
        return self.composition.tokens

    def selection(self, name: str) -> EngineSelection:
        """The selection of an encoder's engine."""
        with self._lock:
            if name not in self._selections:
                read = self.tokens.get(name)
                self._selections[name] = EngineSelection(
                    self.encoders[name], self.device, self.engine, tokens=read.number if read else 0
                )
            return self._selections[name]

    def select(
        self, name: str, n: int, prepared: Callable[[], list[Any]], long: float = LONG, *, generated: bool = False
    ) -> None:
        """Select an encoder's engine for `n` samples, once the engine is known or the work is long.

        Parameters
        ----------
        prepared : callable
            Some prepared samples.
        long : float
            Seconds of work with torch from which on engines are measured.
        generated : bool
            Whether the samples are made up: torch answers until the engine has agreed with it on real ones.
        """
        selection = self.selection(name)
        with self._lock:
            known = self._selected.get(name)
            if known is None or (self.engine == AUTO and known.is_usual and selection.may_measure(n, long)):
                self._selected[name] = selection.select(n, prepared, long=long, generated=generated)

    @property
    def engines(self) -> dict[str, str]:
        """Engine and arithmetic of each encoder whose engine is selected."""
        return {name: selected.engine.choice.record for name, selected in self._selected.items()}

    def encode(self, name: str, inputs: dict[str, torch.Tensor]) -> Encoded:
        """Embeddings of one batch, and the tokens that heads read."""
        if name not in self._selected:
            self.select(name, 0, list)
        return self._selected[name].engine.encode(inputs)

    def compose(self, embeddings: dict[str, np.ndarray], present: dict[str, np.ndarray]) -> HeadOutputs:
        """Logits of embeddings `(B, D)` float32 and presence `(B,)` bool by encoder, and of tokens under `NAME/tokens`."""
        inputs = {name: torch.from_numpy(values).to(self.device) for name, values in embeddings.items()}
        there = {name: torch.from_numpy(values).to(self.device) for name, values in present.items()}
        return head_outputs(self.composition, inputs, there)


class OnnxNetworks:
    """Encoders and heads as sessions of onnxruntime; torch only holds the prepared inputs."""

    def __init__(
        self, encoders: dict[str, Any], *, heads: Any, preparations: dict[str, Any], device: torch.device
    ) -> None:
        self.encoders, self.heads, self.device = encoders, heads, device
        self.preparations = preparations

    @classmethod
    def load(cls, folder: Path, record: dict[str, Any], device: str, engine: str = AUTO) -> OnnxNetworks:
        """Load a verified exported folder; `auto` is a GPU if onnxruntime has CUDA.

        Raises
        ------
        RunError
            This version of onnxruntime or transformers cannot load the folder's networks.
        ConfigError
            onnxruntime is not installed, or does not have the device; the engine is another one.
        """
        if check_engine(engine) not in (AUTO, ONNXRUNTIME):
            raise ConfigError(
                f"{folder}: was exported for {ONNXRUNTIME}, and engine {engine!r} executes models for torch"
            )
        runtime = require("onnxruntime", onnx_graphs.EXTRA)
        on = _onnx_device(device, runtime.get_available_providers())
        providers = [("CUDAExecutionProvider", {"device_id": on.index or 0})] if on.type == "cuda" else []
        providers.append("CPUExecutionProvider")
        try:
            folders = {name: encoder_folder(folder, name) for name in record["encoders"]}
            encoders = {name: session(path / onnx_files.NETWORK, providers) for name, path in folders.items()}
            preparations = {name: load_preparation(record["encoders"][name], path) for name, path in folders.items()}
            heads = session(folder / onnx_files.HEADS, providers)
            _check_onnx(encoders, heads, record)
        except Exception as error:  # onnxruntime has many exceptions of its own
            raise RunError(f"{folder}: cannot be loaded by this version: {one_line(error)}") from None
        return cls(encoders, heads=heads, preparations=preparations, device=on)

    @property
    def tokens(self) -> dict[str, ReadTokens]:
        """None: heads that read tokens are not exported to ONNX."""
        return {}

    def select(
        self, name: str, n: int, prepared: Callable[[], list[Any]], long: float = 0.0, *, generated: bool = False
    ) -> None:
        """Nothing: onnxruntime is the only engine."""

    @property
    def engines(self) -> dict[str, str]:
        """Engine and arithmetic of each encoder."""
        return dict.fromkeys(self.encoders, f"{ONNXRUNTIME} float32")

    def encode(self, name: str, inputs: dict[str, torch.Tensor]) -> Encoded:
        """Embeddings of one batch."""
        return Encoded(self.encoders[name].run(None, {key: tensor.numpy() for key, tensor in inputs.items()})[0])

    def compose(self, embeddings: dict[str, np.ndarray], present: dict[str, np.ndarray]) -> HeadOutputs:
        """Logits of embeddings `(B, D)` float32 and presence `(B,)` bool by encoder."""
        arrays = [*embeddings.values(), *(present[name] for name in embeddings)]
        inputs = dict(zip(onnx_files.head_inputs(list(embeddings)), arrays, strict=True))
        logits, known, *unimodal = self.heads.run(onnx_files.head_outputs(list(embeddings)), inputs)
        return HeadOutputs(logits, known, dict(zip(embeddings, unimodal, strict=True)))


def check_engine(name: str) -> str:
    """The name of an engine, or `auto`.

    Raises
    ------
    ConfigError
        There is no such engine.
    """
    if name not in ENGINE_CHOICES:
        raise ConfigError(f"engine = {name[:60]!r}. Use one of: {', '.join(ENGINE_CHOICES)}")
    return name


def _check_onnx(encoders: dict[str, Any], heads: Any, record: dict[str, Any]) -> None:
    """Raise ValueError if the networks do not match the record."""
    found = {name: encoder.get_outputs()[0].shape[1] for name, encoder in encoders.items()}
    _check_widths({name: one["width"] for name, one in record["encoders"].items()}, found)
    inputs = {one.name for one in heads.get_inputs()}
    if not set(onnx_files.head_inputs(list(encoders))) >= inputs:
        raise ValueError(f"its heads read {', '.join(sorted(inputs))}")
    n_classes = heads.get_outputs()[0].shape[1]
    if n_classes != len(record["classes"]):
        raise ValueError(f"{counted(len(record['classes']), 'class', 'classes')}, its heads have {n_classes}")


def _check_widths(recorded: dict[str, int | None], found: dict[str, int]) -> None:
    for name, width in recorded.items():
        if width != found[name]:
            raise ValueError(f"encoder {name!r} has embeddings of {found[name]} numbers, not {width}")


def _onnx_device(name: str, providers: list[str]) -> torch.device:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", name):
        raise ConfigError(f"device = {name[:60]!r}. Use one of: auto, cpu, cuda, cuda:1")
    cuda = "CUDAExecutionProvider" in providers
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if name != "cpu" and not cuda:
        raise ConfigError(f"device = {name!r}: this onnxruntime has no CUDA. Use: cpu, or pip install onnxruntime-gpu")
    return torch.device(name)
