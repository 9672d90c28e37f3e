"""Image encoders of torchvision, with the preprocessing of each model's weights."""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfeat.common.errors import EncoderError, one_line
from mmfeat.encoders.families.image_network import ImageEncoder, register_image_family
from mmfeat.encoders.torchvision_remedy import make_torchvision_importable
from mmfeat.encoders.weights import INSTEAD, load_strictly, read_state, torch_hub_file, within_reach

make_torchvision_importable()
from torchvision import models  # noqa: E402
from torchvision.models.regnet import AnyStage  # noqa: E402
from torchvision.models.vision_transformer import Encoder as VitEncoder  # noqa: E402

PREFIX = "torchvision:"
_CLASSIFIERS = ("fc", "classifier", "head", "heads")
# Arguments that some of torchvision's functions set only together with their weights.
_BUILT_WITH = {
    "vit": lambda meta: {"image_size": meta["min_size"][0]},
    "inception": lambda meta: {"transform_input": True, "aux_logits": False, "init_weights": False},
    "googlenet": lambda meta: {"transform_input": True, "aux_logits": False, "init_weights": False},
}
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # classifiers that only training from scratch uses
_LISTS = (nn.Sequential, nn.ModuleList, AnyStage, VitEncoder)  # of blocks; blocks have a depth
_WATCHING = threading.Lock()  # hooks belong to the network, whichever thread runs it


@register_image_family
class TorchvisionEncoder(ImageEncoder):
    """Any classification model of torchvision: `NAME`, or `NAME.WEIGHTS` for other than the default weights.

    The embedding is the input of the classifier's last layer.
    """

    source = "torchvision"
    prefix = PREFIX
    own_pooling = "input of the classifier's last layer"

    @staticmethod
    def knows(model: str) -> bool:
        """Whether torchvision has a model of this name, whatever its weights."""
        return model.partition(".")[0] in TorchvisionEncoder.names()

    @staticmethod
    def names() -> list[str]:
        """All classification models that torchvision has."""
        return models.list_models(module=models)

    @staticmethod
    def named(model: str) -> tuple[str, str]:
        """The name with its weights, and an architecture name that no model of timm has."""
        base = model.partition(".")[0]
        return f"{PREFIX}{base}.{_weights(model).name}", f"torchvision-{base}"

    @staticmethod
    def make_network(name: str, model: str, own_weights: bool) -> tuple[nn.Module, tuple[str, ...]]:
        """A network without its last layer, and the prefixes of that layer and of auxiliary classifiers."""
        base, _, tag = model.partition(".")
        known = list(models.get_model_weights(base).__members__)
        if tag and tag not in known:
            raise EncoderError(
                f"encoder.{name}: torchvision has no weights {tag!r} of {base}. It has: {', '.join(known)}"
            )
        weights = _weights(model)
        options = next((make for start, make in _BUILT_WITH.items() if base.startswith(start)), lambda meta: {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about initialisations that may change
            network = models.get_model(base, weights=None, **options(weights.meta))
        last = _strip(network)
        if not last:
            raise EncoderError(f"encoder.{name}: {PREFIX}{base} has no pooled features. Use another model")
        unused = (f"{last}.", *_AUXILIARY)
        if own_weights:
            file = _own_weights(name, model)
            load_strictly(network, TorchvisionEncoder.renamed(read_state(file)), file, unused)
        return network, unused

    @staticmethod
    def data_config_of(network: nn.Module, model: str) -> dict[str, Any]:
        """The transforms of the model's weights."""
        stated = _weights(model).transforms()
        (crop,), (resize,) = stated.crop_size, stated.resize_size
        share = crop / resize
        while int(crop / share) < resize:  # timm resizes to the crop by this share, without its fraction
            share = math.nextafter(share, 0)
        return {
            "input_size": (3, crop, crop),
            "interpolation": stated.interpolation.value,
            "mean": tuple(stated.mean),
            "std": tuple(stated.std),
            "crop_pct": share,
            "crop_mode": "center",
        }

    @staticmethod
    def width_of(network: nn.Module) -> int:
        """The width of the last layer's input."""
        return network.num_features

    @staticmethod
    def weights_files(model: str) -> list[Path]:
        """The file in the folder of torch's hub."""
        return [torch_hub_file(_weights(model).url)]

    @staticmethod
    def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Remove the dots within module names that old files of DenseNet have."""
        return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): t for name, t in state.items()}

    def layers(self) -> dict[str, int]:
        """Each parameter's depth: blocks in the order of the forward pass, norms with the block before them."""
        depths: dict[str, int] = {}
        depth = -1
        for name, block in _blocks(self.network, "network."):
            inside = dict(block.named_parameters(prefix=name))
            depth += depth < 0 or any(parameter.ndim > 1 for parameter in inside.values())
            depths |= dict.fromkeys(inside, depth)
        return {name: depths.get(name, 0) for name, _ in self.named_parameters()}  # a class token is of no block

    def forward_grid(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features `(B, D)`, and the last features before pooling as `(B, C, h, w)`."""
        outputs: list[Tensor] = []

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs.append(output)

        with _WATCHING:
            hooks = [part.register_forward_hook(note) for part in _parts(self.network)]
            try:
                embeddings = self.network(pixels)
            finally:
                for hook in hooks:
                    hook.remove()
        features = outputs[-1]
        if features.ndim == 3:  # the class token is before those of the image
            return embeddings, self.square(features[:, 1:])
        if features.ndim != 4:
            raise self.without_grid()
        return embeddings, features


def _weights(model: str) -> Any:
    """The entry of a model's weights in torchvision (URL, transforms, settings); the default weights for a name without a tag."""
    base, _, tag = model.removeprefix(PREFIX).partition(".")
    found = models.get_model_weights(base)
    return found[tag] if tag in found.__members__ else found.DEFAULT


def _strip(network: nn.Module) -> str:
    """Remove the classifier's last layer and return its name; empty if no linear layer is found."""
    linear = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and n.split(".")[0] in _CLASSIFIERS]
    if not linear:
        return ""
    network.num_features = network.get_submodule(linear[-1]).in_features  # as timm calls it
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return linear[-1]


def _parts(network: nn.Module) -> list[nn.Module]:
    """The modules of a network before pooling."""
    parts: list[nn.Module] = []
    for name, child in network.named_children():
        if name not in _CLASSIFIERS and not isinstance(child, nn.AdaptiveAvgPool2d | nn.Dropout | nn.Flatten):
            parts += child if isinstance(child, nn.ModuleList) else [child]
    return parts


def _blocks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The blocks of a network with their names; lists of blocks are unfolded."""
    for name, child in module.named_children():
        if type(child) in _LISTS:
            yield from _blocks(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _own_weights(name: str, model: str) -> Path:
    """The file of the model's own weights, downloaded by torch's hub if it is not on disk."""
    url = _weights(model).url
    file = torch_hub_file(url)
    if file.is_file():
        return file
    if not within_reach(url):
        raise EncoderError(
            f"encoder.{name}: the weights of {PREFIX}{model} are not on disk and {url} is out of reach. Put them at {file}, "
            f"or in mmfeat.toml under [encoder.{name}] set: {INSTEAD['image']}"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        checksum = file.stem.rpartition("-")[2]  # its first digits
        torch.hub.download_url_to_file(url, str(file), checksum, progress=False)
    except (OSError, RuntimeError) as error:
        raise EncoderError(f"encoder.{name}: {url} cannot be fetched: {one_line(error)}. Try again") from None
    return file
