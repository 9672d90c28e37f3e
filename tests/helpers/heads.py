"""Settings of heads with few epochs, and data that they learn from."""

from __future__ import annotations

import numpy as np
import torch

from mmfeat.common.randomness import id_numbers
from mmfeat.config.schema import (
    CrossAttentionConfig,
    GatedConfig,
    LabelQueryConfig,
    LinearConfig,
    MlpConfig,
    WeightedConfig,
)
from mmfeat.heads.training.fit_heads import FitData

WIDTHS = {"image": 40, "text": 12}

CONFIGS = {
    "linear": LinearConfig(epochs=4),
    "mlp": MlpConfig(epochs=4, hidden=24),
    "concat": LinearConfig(epochs=4),
    "crossattn": CrossAttentionConfig(epochs=4, token_width=16, hidden=24, query="text"),
    "gated": GatedConfig(epochs=4, hidden=24),
    "weighted": WeightedConfig(epochs=4, hidden=24),
    "labelquery": LabelQueryConfig(epochs=4, width=16, token_width=16),
}


def made(n=120, k=4, seed=0) -> FitData:
    """Two modalities that each tell some classes."""
    rng = np.random.default_rng(seed)
    inputs = {name: torch.from_numpy(rng.normal(size=(n, d)).astype(np.float32)) for name, d in WIDTHS.items()}
    labels = torch.stack([(inputs["image" if c % 2 else "text"][:, c] > 0).to(torch.int8) for c in range(k)], 1)
    present = {name: torch.ones(n, dtype=torch.bool) for name in WIDTHS}
    rows = np.arange(n)
    return FitData(
        inputs, present, labels, id_numbers([f"id{i}" for i in rows]), rows[: n * 3 // 4], rows[n * 3 // 4 :]
    )


def permuted(data: FitData, order: np.ndarray) -> FitData:
    place = np.argsort(order)
    o = torch.from_numpy(order)
    return FitData(
        {n: x[o] for n, x in data.inputs.items()},
        {n: p[o] for n, p in data.present.items()},
        data.labels[o],
        data.numbers[order],
        np.sort(place[data.train]),
        np.sort(place[data.val]),
    )
