"""What runs an exported model's networks: torch, on a CPU or a GPU. Safe in threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mmfeat.encoders.base import Encoder
from mmfeat.encoders.portable import load_encoder
from mmfeat.encoders.weights import read_state
from mmfeat.errors import MmfeatError, RunError, one_line
from mmfeat.models.composition import Composition, build_composition
from mmfeat.predictor.folder import encoder_folder

HEADS = "heads.safetensors"


class Composed(NamedTuple):
    """What heads make of B items.

    Attributes
    ----------
    logits : np.ndarray
        `(B, K)` float32.
    known : np.ndarray
        `(B,)` bool: the item has one of the modalities.
    opinions : dict of str to np.ndarray
        Encoder to its logits alone, `(B, K)` float32, whether an item has the modality or not.
    """

    logits: np.ndarray
    known: np.ndarray
    opinions: dict[str, np.ndarray]


class TorchEngine:
    """Encoders and heads as torch modules on one device."""

    def __init__(self, encoders: dict[str, Encoder], composition: Composition, device: torch.device) -> None:
        self.encoders = {name: encoder.to(device).eval() for name, encoder in encoders.items()}
        self.composition = composition.to(device).eval()
        self.device = device
        self.preparations = {name: encoder.preparation for name, encoder in encoders.items()}

    @classmethod
    def load(cls, folder: Path, record: dict[str, Any], device: torch.device) -> TorchEngine:
        """From an exported folder that has been checked.

        Raises
        ------
        RunError
            This version of mmfeat, timm or transformers does not build what the folder holds.
        """
        try:
            composition = build_composition(record["model"])
            state = {name: tensor.float() for name, tensor in read_state(folder / HEADS).items()}
            composition.load_state_dict(state)
            encoders = {
                name: load_encoder(name, one, encoder_folder(folder, name)) for name, one in record["encoders"].items()
            }
        except (MmfeatError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{folder}: cannot be built by this version: {one_line(error)}") from None
        return cls(encoders, composition, device)

    def encode(self, name: str, inputs: dict[str, torch.Tensor]) -> np.ndarray:
        """Embeddings `(B, D)` float32 of one batch."""
        return self.encoders[name].encode(inputs, self.device).embeddings

    @torch.inference_mode()
    def compose(self, embeddings: dict[str, np.ndarray], present: dict[str, np.ndarray]) -> Composed:
        """Logits of embeddings `(B, D)` float32 and presence `(B,)` bool by encoder."""
        inputs = {name: torch.from_numpy(values).to(self.device) for name, values in embeddings.items()}
        there = {name: torch.from_numpy(values).to(self.device) for name, values in present.items()}
        logits, known = self.composition(inputs, there)
        opinions = {name: self.composition.opinion(name, inputs, there).cpu().numpy() for name in inputs}
        return Composed(logits.cpu().numpy(), known.cpu().numpy(), opinions)
