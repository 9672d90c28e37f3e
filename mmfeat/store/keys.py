"""Keys: what a cached feature is filed under, and in words why two of them differ.

    encoder key   digest of all that an embedding depends on but the sample itself
    output key    digest of a linear output's tensors and its class list
    row key       digest of the sample's own bytes: (N, 32) uint8 wherever rows are handled
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmfeat.files import digest_json

KEY_VERSION = 1


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that an embedding depends on besides the sample, as plain JSON values.

    Attributes
    ----------
    weights : str
        Digest of the tensors that the embedding reads, from :func:`tensors_digest`.
    preprocessing : dict
        Size, crop, interpolation, mean, std; or tokenizer and max length.
    numerics : dict
        Precision of the forward pass.
    """

    modality: str
    architecture: str
    weights: str
    preprocessing: dict[str, Any]
    pooling: str
    numerics: dict[str, Any]

    @property
    def key(self) -> str:
        """The encoder key, 64 hexadecimal digits."""
        return digest_json({"key_version": KEY_VERSION, **self.as_dict()})

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderSpec:
        """From what `as_dict` gave."""
        return cls(**values)


def tensors_digest(tensors: Iterable[tuple[str, str, Sequence[int], bytes]]) -> str:
    """SHA-256 of named tensors.

    Parameters
    ----------
    tensors : iterable of (name, dtype, shape, bytes)
        The bytes are little-endian and in C order. The order of the tensors does not matter.
    """
    digest = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda item: item[0]):
        head = json.dumps([name, dtype, list(shape), len(data)]).encode("ascii")
        digest.update(len(head).to_bytes(8, "little") + head)  # the length first, so that no two lists read alike
        digest.update(data)
    return digest.hexdigest()


def output_key(tensors: str, classes: Sequence[str]) -> str:
    """What the logits of a linear output are filed under: digest of its tensors' digest and its class list."""
    return digest_json({"key_version": KEY_VERSION, "tensors": tensors, "classes": list(classes)})


def explain(old: EncoderSpec, new: EncoderSpec) -> str:
    """Why features of `old` are not those of `new`, as in `preprocessing changed: size 224 -> 320`."""
    reasons = []
    if old.weights != new.weights:
        reasons.append("weights changed")
    for part in ("preprocessing", "numerics"):
        before, after = getattr(old, part), getattr(new, part)
        changed = [
            f"{name} {_short(before.get(name))} -> {_short(after.get(name))}"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        ]
        if changed:
            reasons.append(f"{part} changed: {', '.join(changed)}")
    if old.pooling != new.pooling:
        reasons.append(f"pooling changed: {old.pooling} -> {new.pooling}")
    return "; ".join(reasons)


def _short(value: Any) -> str:
    text = str(value)
    return text[:8] + "…" if len(text) == 64 else text
