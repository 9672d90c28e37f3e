"""The optimizers of encoders and heads, by their names in mmfeat.toml."""

from __future__ import annotations

import torch

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
