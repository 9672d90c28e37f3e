"""Feature stores with known rows."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from mmfeat.store import EncoderSpec, FeatureStore
from mmfeat.store.keys import output_key

CLASSES = ("cat", "dog", "fish")

OUTPUT = output_key("ab" * 32, CLASSES)

MATRIX = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


def spec_of(**changes) -> EncoderSpec:
    spec = EncoderSpec("image", "lite0", "0a" * 32, {"size": 224, "mean": [0.5, 0.5]}, "mean", {"precision": "float32"})
    return dataclasses.replace(spec, **changes)


def rows_of(n: int, seed: int = 0, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Row keys, and embeddings that float16 holds exactly."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 32), dtype=np.uint8), rng.normal(size=(n, width)).astype(np.float16).astype(
        np.float32
    )


def filled(folder: Path, keys: np.ndarray, embeddings: np.ndarray, n_parts: int = 3, **more) -> FeatureStore:
    store = FeatureStore(folder, **more)
    for rows in np.array_split(np.arange(len(keys)), n_parts):
        store.encoder(spec_of()).append(keys[rows], embeddings[rows], [""] * len(rows), meta={"host": "here"})
    return FeatureStore(folder)


def logits_of(embeddings: np.ndarray) -> np.ndarray:
    return embeddings @ MATRIX


def read(store: FeatureStore, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are there, and what they hold."""
    features = store.encoder(spec_of())
    found = features.lookup(keys)
    return found.good, features.embeddings(found)[:]


def flip(file: Path, position: int = -1) -> None:
    """Change one byte, and the time too, as any write does."""
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(1, 1))


def files_of(folder: Path, pattern: str) -> list[Path]:
    return sorted(p for p in folder.rglob(pattern) if p.is_file())
