"""Keys under which features are stored, and explanations of why two keys differ.

encoder key   digest of everything that an embedding depends on, except the sample
output key    digest of the tensors of a linear probe and its class list
front key     encoder key of the part of an encoder before a cut, for one view of the samples
row key       digest of the sample's bytes, or of its id for imported embeddings; rows are arrays (N, 32) uint8
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmfeat.common.files import digest_json
from mmfeat.config.encoder_tables import modality_table

KEY_VERSION = 1
FRONT = "front-"  # how the architecture of a front begins, whose "embeddings" are activations at a cut of an encoder


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that an embedding depends on, except the sample, as JSON values.

    Attributes
    ----------
    modality : str
        `image`, `text`, or `other` (imported embeddings).
    weights : str
        Digest of the tensors that the embedding depends on (see :func:`tensors_digest`), or of all imported ids and values.
    preprocessing : dict
        Size, crop, interpolation, mean, std; or tokenizer and max length.
    pooling : str
        Pooling of the network's output to one vector, including test-time augmentation.
    numerics : dict
        Precision of the forward pass.

    Raises
    ------
    TypeError, ValueError
        A value has a wrong type, or cannot be represented in JSON.
    """

    modality: str
    architecture: str
    weights: str
    preprocessing: dict[str, Any]
    pooling: str
    numerics: dict[str, Any]

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            # As read back from encoder.json (tuples become lists), so that equal specs compare equal.
            value = json.loads(json.dumps(getattr(self, f.name), allow_nan=False))
            wanted = str if f.type == "str" else dict
            if not isinstance(value, wanted):
                raise TypeError(f"{f.name} must be a {wanted.__name__}, found {type(value).__name__}")
            object.__setattr__(self, f.name, value)

    @property
    def key(self) -> str:
        """The encoder key, 64 hexadecimal digits."""
        return digest_json({"key_version": KEY_VERSION, **self.as_dict()})

    @property
    def remedy(self) -> str:
        """The command that restores missing features."""
        return "mmfeat finetune" if self.is_front else modality_table(self.modality).remedy(self.architecture)

    @property
    def is_front(self) -> bool:
        """Whether these are the cached layers of an encoder."""
        return self.architecture.startswith(FRONT)

    def as_dict(self) -> dict[str, Any]:
        """The specification as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderSpec:
        """Read the values of `as_dict`."""
        return cls(**values)


def tensors_digest(tensors: Iterable[tuple[str, str, Sequence[int], Any]]) -> str:
    """SHA-256 of named tensors; they are read one at a time.

    Parameters
    ----------
    tensors : iterable of (name, dtype, shape, bytes)
        The bytes (any contiguous buffer) are little-endian and in C order. The order of the tensors does not matter.
    """
    lines = sorted([name, dtype, list(shape), hashlib.sha256(data).hexdigest()] for name, dtype, shape, data in tensors)
    return digest_json(lines)


def output_key(tensors: str, classes: Sequence[str]) -> str:
    """The output key of a linear probe: digest of its tensors' digest and its class list."""
    return digest_json({"key_version": KEY_VERSION, "tensors": tensors, "classes": list(classes)})


def explain(old: EncoderSpec, new: EncoderSpec) -> str:
    """Why features of `old` are not valid for `new`, e.g. `preprocessing changed: size 224 -> 320`; empty if they are."""
    reasons = ["weights changed"] if old.weights != new.weights else []
    for field in ("preprocessing", "numerics"):
        before, after = getattr(old, field), getattr(new, field)
        changed = [
            f"{_short(name)} {_short(before.get(name, 'none'))} -> {_short(after.get(name, 'none'))}"
            for name in sorted({*before, *after})
            if name not in before or name not in after or before[name] != after[name]
        ]
        if changed:
            reasons.append(f"{field} changed: {', '.join(changed)}")
    for field in ("modality", "architecture", "pooling"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            reasons.append(f"{field} changed: {_short(before)} -> {_short(after)}")
    return "; ".join(reasons)


def _short(value: Any) -> str:
    """A value of a specification on one line, with long values shortened."""
    text = str(value)
    text = text if text.isprintable() else repr(text)
    if len(text) == 64:
        return text[:8] + "…"
    return text if len(text) <= 40 else text[:39] + "…"
