"""Makes torchvision importable if its compiled operators do not fit the installed torch.

With a CPU build of torch and a CUDA build of torchvision, importing torchvision fails with `operator torchvision::nms does
not exist`, and timm and transformers import it. mmfeat does not use these operators, so declaring their schemas is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_LIBRARIES: list[torch.library.Library] = []  # a declaration lasts as long as its object


def make_torchvision_importable() -> None:
    """Declare the schemas of torchvision's operators if, and only if, the compiled ones cannot be loaded."""
    if _LIBRARIES or hasattr(torch.ops.torchvision, "nms"):
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        if hasattr(torch.ops.torchvision, "nms"):
            return
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
