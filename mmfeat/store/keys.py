"""Keys: what a cached feature is filed under, and in words why two of them differ.

encoder key   digest of all that an embedding depends on but the sample itself
output key    digest of a linear output's tensors and its class list
row key       digest of the sample's own bytes, or of its id where embeddings were imported: (N, 32) uint8 wherever rows
              are handled
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


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that an embedding depends on besides the sample, as plain JSON values.

    Attributes
    ----------
    modality : str
        `image`, `text`, or `other`: embeddings that were made elsewhere and imported.
    weights : str
        Digest of the tensors that the embedding reads, from :func:`tensors_digest`; of all ids and values, where they
        were imported.
    preprocessing : dict
        Size, crop, interpolation, mean, std; or tokenizer and max length.
    pooling : str
        How the network's output becomes one vector, test-time augmentation included.
    numerics : dict
        Precision of the forward pass.

    Raises
    ------
    TypeError, ValueError
        A value is of another type, or is nothing that JSON can hold.
    """

    modality: str
    architecture: str
    weights: str
    preprocessing: dict[str, Any]
    pooling: str
    numerics: dict[str, Any]

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            # As they come back from encoder.json (a tuple as a list), so that equal specs compare equal.
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
        """The command that brings back what is missing."""
        return modality_table(self.modality).remedy(self.architecture)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderSpec:
        """From what `as_dict` gave."""
        return cls(**values)


def tensors_digest(tensors: Iterable[tuple[str, str, Sequence[int], Any]]) -> str:
    """SHA-256 of named tensors, which are read one at a time.

    Parameters
    ----------
    tensors : iterable of (name, dtype, shape, bytes)
        The bytes (any contiguous buffer) are little-endian and in C order. The order of the tensors does not matter.
    """
    lines = sorted([name, dtype, list(shape), hashlib.sha256(data).hexdigest()] for name, dtype, shape, data in tensors)
    return digest_json(lines)


def output_key(tensors: str, classes: Sequence[str]) -> str:
    """What the logits of a linear output are filed under: digest of its tensors' digest and its class list."""
    return digest_json({"key_version": KEY_VERSION, "tensors": tensors, "classes": list(classes)})


def explain(old: EncoderSpec, new: EncoderSpec) -> str:
    """Why features of `old` are not of `new`, as in `preprocessing changed: size 224 -> 320`; empty where they are."""
    reasons = ["weights changed"] if old.weights != new.weights else []
    for part in ("preprocessing", "numerics"):
        before, after = getattr(old, part), getattr(new, part)
        changed = [
            f"{_short(name)} {_short(before.get(name, 'none'))} -> {_short(after.get(name, 'none'))}"
            for name in sorted({*before, *after})
            if name not in before or name not in after or before[name] != after[name]
        ]
        if changed:
            reasons.append(f"{part} changed: {', '.join(changed)}")
    for part in ("modality", "architecture", "pooling"):
        before, after = getattr(old, part), getattr(new, part)
        if before != after:
            reasons.append(f"{part} changed: {_short(before)} -> {_short(after)}")
    return "; ".join(reasons)


def _short(value: Any) -> str:
    """A value of a spec for a message: on one line, digests and long values cut."""
    text = str(value)
    text = text if text.isprintable() else repr(text)
    if len(text) == 64:
        return text[:8] + "…"
    return text if len(text) <= 40 else text[:39] + "…"
