"""Image encoders of timm, with each model's own preprocessing."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmfeat.common.errors import EncoderError
from mmfeat.encoders.families.image_network import ImageEncoder, register_image_family
from mmfeat.encoders.torchvision_remedy import make_torchvision_importable
from mmfeat.encoders.weights import hub_folder, torch_hub_file

make_torchvision_importable()
import timm  # noqa: E402
from timm.data import resolve_model_data_config  # noqa: E402
from timm.models import group_parameters  # noqa: E402

# timm has this architecture, but pretrained weights only for the variant ported from TensorFlow
WITH_WEIGHTS = {"efficientnetv2_s": "tf_efficientnetv2_s"}


@register_image_family
class TimmEncoder(ImageEncoder):
    """Any model of timm: `NAME`, or `NAME.TAG` for other weights than the default ones."""

    source = "timm"
    on_hub = True

    @staticmethod
    def knows(model: str) -> bool:
        """Whether timm has a model of this name, whatever its tag."""
        return timm.is_model(model.partition(".")[0])

    @staticmethod
    def names() -> list[str]:
        """All models that timm has."""
        return timm.list_models()

    @staticmethod
    def meant(model: str, own_weights: bool) -> str:
        """The variant of an architecture for which timm has weights."""
        return WITH_WEIGHTS.get(model, model) if own_weights else model

    @staticmethod
    def named(model: str) -> tuple[str, str]:
        """The name with its tag, and the name alone."""
        stated = timm.get_pretrained_cfg(model)
        base = model.partition(".")[0]
        return ".".join(filter(None, [base, stated.tag if stated else ""])), base

    @staticmethod
    def make_network(name: str, model: str, own_weights: bool) -> tuple[nn.Module, tuple[str, ...]]:
        """A network without its classifier, and the classifier's prefixes."""
        base, _, tag = model.partition(".")
        tags = _tags(base)
        if tag and tag not in tags and timm.get_pretrained_cfg(base).tag != tag:  # the only one may be `untrained`
            raise EncoderError(
                f"encoder.{name}: timm has no weights {tag!r} of {base}. It has: {', '.join(tags) or 'none'}"
            )
        if own_weights and not tags:
            near = difflib.get_close_matches(base, timm.list_models(pretrained=True), n=3, cutoff=0.4)
            raise EncoderError(
                f"encoder.{name}: timm has no weights of {base}. Nearest with weights: {', '.join(near)}"
            )
        network = timm.create_model(model, pretrained=own_weights, num_classes=0)
        heads = network.pretrained_cfg.get("classifier") or ()
        return network, (heads,) if isinstance(heads, str) else tuple(heads)

    @staticmethod
    def for_size(network: nn.Module, size: int) -> bool:
        """By timm's own `set_input_size` (ViT, Swin), which interpolates position embeddings."""
        if not hasattr(network, "set_input_size"):
            return False
        patch = getattr(getattr(network, "patch_embed", None), "patch_size", None) or (1, 1)
        if size % patch[0] or size % patch[1]:  # timm would ignore pixels beyond the last whole patch
            raise ValueError(f"{size} pixels are not a multiple of its patch size {patch[0]}")
        network.set_input_size(img_size=(size, size))
        return True

    @staticmethod
    def data_config_of(network: nn.Module, model: str) -> dict[str, Any]:
        """Timm's own data configuration."""
        return resolve_model_data_config(network)

    @staticmethod
    def has_weights(model: str) -> bool:
        """Whether timm has weights of a model, on disk or not."""
        return bool(_tags(model.partition(".")[0]))

    @staticmethod
    def width_of(network: nn.Module) -> int:
        """From the network's attributes."""
        return getattr(network, "head_hidden_size", None) or network.num_features

    @staticmethod
    def weights_files(model: str) -> list[Path]:
        """The folder in the hub's cache, or the file in torch's cache for older models."""
        stated = timm.get_pretrained_cfg(model)
        found = [hub_folder(stated.hf_hub_id)] if stated and stated.hf_hub_id else []
        return [*found, torch_hub_file(stated.url)] if stated and stated.url else found

    @property
    def own_pooling(self) -> str:
        """The network's own name of its pooling."""
        return str(getattr(self.network, "global_pool", "") or "model").split("(")[0]

    def layers(self) -> dict[str, int]:
        """Each parameter's depth, by timm's group matcher of the network."""
        depths = group_parameters(self.network, self.network.group_matcher(coarse=False), reverse=True)
        return {f"network.{name}": depth for name, depth in depths.items()}

    def forward_grid(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features `(B, D)` and spatial features `(B, C, h, w)`, for all layouts of networks."""
        features = self.network.forward_features(pixels)
        embeddings = self.network.forward_head(features)
        width = self.network.num_features
        if features.ndim == 3:  # tokens, with class tokens before those of the image
            return embeddings, self.square(features[:, getattr(self.network, "num_prefix_tokens", 0) :])
        if features.ndim != 4 or width not in (features.shape[1], features.shape[3]):
            raise self.without_grid()
        return embeddings, features if features.shape[1] == width else features.permute(0, 3, 1, 2)


def _tags(base: str) -> list[str]:
    """The tags of the weights that timm has of an architecture."""
    return [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*") if name.partition(".")[0] == base]
