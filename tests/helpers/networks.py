"""Parts of networks on embeddings, and what they take."""

from __future__ import annotations

import torch

from mmfeat.runs.composition import HeadPart, ProbePart

WIDTHS, K = {"image": 6, "text": 4}, 3


def parts() -> dict:
    torch.manual_seed(0)
    made = {name: ProbePart(name, width, K) for name, width in WIDTHS.items()}
    for part in made.values():
        part.prior.normal_()
    made["concat-1"] = HeadPart("concat", {}, WIDTHS, n_classes=K, n_seeds=2)
    for seed in made["concat-1"].seeds:
        torch.nn.init.normal_(seed.output.weight)
    return {name: part.eval() for name, part in made.items()}


def items(n: int = 5, seed: int = 0) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(n, width, generator=generator) for name, width in WIDTHS.items()}
    present = {name: torch.rand(n, generator=generator) > 0.4 for name in WIDTHS}
    return {name: x * present[name][:, None] for name, x in inputs.items()}, present
