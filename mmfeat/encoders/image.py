"""Image encoders: any model of timm, with the preprocessing that its own configuration states."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmfeat.config import ImageEncoderConfig
from mmfeat.encoders.base import Encoder
from mmfeat.encoders.preparation import ImagePreparation
from mmfeat.encoders.torchvision_remedy import make_torchvision_importable
from mmfeat.encoders.weights import hub, load_strictly, read_state
from mmfeat.errors import EncoderError, one_line


class ImageEncoder(Encoder):
    """A timm model without its classifier; a sample is an image file's bytes."""

    modality = "image"

    def __init__(
        self,
        network: torch.nn.Module,
        architecture: str,
        data_config: dict[str, Any],
        precision: str,
        flip: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.precision = precision
        self.flip = flip
        self.preparation = ImagePreparation(data_config)
        for name in ("mean", "std"):
            values = torch.tensor(data_config[name], dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        size = data_config["input_size"]
        network.eval()
        with torch.inference_mode():
            features = network(torch.zeros(1, *size))
        if features.ndim != 2:
            raise EncoderError(
                f"{architecture}: gives no pooled features but {tuple(features.shape)}. Use another model"
            )
        self.width = features.shape[1]
        self.set_speed()

    def collate(self, prepared: list[Tensor]) -> dict[str, Tensor]:
        """`pixels (B, 3, H, W)` uint8."""
        batch = self.preparation.collate(prepared)
        return {"pixels": batch["pixels"].pin_memory()} if self.mean.is_cuda else batch

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Pooled features `(B, D)`; at inference their mean over the image and its mirror image, where `flip` says so."""
        pixels = self._normalised(batch["pixels"])
        features = self._run(pixels)
        return (features + self._run(pixels.flip(-1))) / 2 if self.flip and not self.training else features

    def forward_tokens(self, batch: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled features `(B, D)`, a grid of `number x number` spatial ones row by row, `(B, number^2, C)`, and its size."""
        pixels = self._normalised(batch["pixels"])
        features = self.network.forward_features(pixels)
        embeddings = self.network.forward_head(features)
        if self.flip:
            embeddings = (embeddings + self._run(pixels.flip(-1))) / 2
        grid = functional.adaptive_avg_pool2d(self._grid(features).float(), number)  # (B, C, number, number)
        tokens = grid.flatten(2).transpose(1, 2)
        return embeddings, tokens, torch.full((len(tokens),), tokens.shape[1])

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Bytes to float32 as torchvision's ToTensor and Normalize do it."""
        return ((pixels / 255) - self.mean).div_(self.std).contiguous(memory_format=self._memory_format)

    def _grid(self, features: Tensor) -> Tensor:
        """Unpooled features as `(B, C, h, w)`, whichever way a family of networks lays them out."""
        width = self.network.num_features
        if features.ndim == 3:  # tokens, some of them before those of the image
            tokens = features[:, getattr(self.network, "num_prefix_tokens", 0) :]
            side = math.isqrt(tokens.shape[1])
            if side * side == tokens.shape[1]:
                return tokens.transpose(1, 2).unflatten(-1, (side, side))
        elif features.ndim == 4 and width in (features.shape[1], features.shape[3]):
            return features if features.shape[1] == width else features.permute(0, 3, 1, 2)
        raise EncoderError(f"{self.architecture}: has no grid of spatial features. In mmfeat.toml set: tokens = 0")

    def layers(self) -> dict[str, int]:
        """Each parameter's depth, as the family of networks states it."""
        from timm.models import group_parameters

        depths = group_parameters(self.network, self.network.group_matcher(coarse=False), reverse=True)
        return {f"network.{name}": depth for name, depth in depths.items()}

    def speed_settings(self) -> list[dict[str, Any]]:
        """The order of the pixels in memory, and on a GPU compiled code."""
        layouts = [{"channels_last": True}, {"channels_last": False}]
        on_gpu = next(self.network.parameters()).is_cuda
        return layouts + [{**layout, "compiled": True} for layout in layouts if on_gpu]

    def set_speed(self, channels_last: bool = True, compiled: bool = False) -> None:
        """Apply one of `speed_settings`."""
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self._memory_format)
        run = torch.compile(self.network) if compiled else self.network
        object.__setattr__(self, "_run", run)  # no module of its own: the network's tensors are there already

    @property
    def pooling(self) -> str:
        """The network's own pooling, and the mean with the mirror image where there is one."""
        own = str(getattr(self.network, "global_pool", "") or "model").split("(")[0]
        return f"{own}, mean with the mirror image" if self.flip else own


def build_image_encoder(
    name: str, config: ImageEncoderConfig, folder: Path, seed: int, data_config: dict[str, Any] | None = None
) -> ImageEncoder:
    """Build an encoder from its `[encoder.NAME]` table, with pretrained, given or seeded random weights.

    Parameters
    ----------
    folder : Path
        Where relative paths of the table start.
    data_config : dict, optional
        The preprocessing; timm's own for the model, when None.

    Raises
    ------
    EncoderError
        No such model, weights out of reach, weights that do not fit.
    """
    make_torchvision_importable()
    import timm
    from timm.data import resolve_model_data_config

    base, _, _ = config.model.partition(".")
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=3, cutoff=0.4)
        raise EncoderError(f"encoder.{name}: timm has no model {config.model!r}. Nearest: {', '.join(near) or 'none'}")
    auto = config.pretrained == "auto"
    with hub(name, config.model, "image", needed=auto), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(config.model, pretrained=auto, num_classes=0)
    if config.pretrained not in ("auto", "random"):
        source = folder / Path(config.pretrained).expanduser()
        heads = network.pretrained_cfg.get("classifier") or ()
        load_strictly(network, read_state(source), source, unused=(heads,) if isinstance(heads, str) else tuple(heads))
    data_config = data_config or resolve_model_data_config(network)
    if config.size != "auto":
        data_config["input_size"] = (3, config.size, config.size)
    try:
        return ImageEncoder(network, base, data_config, config.precision, config.flip)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = data_config["input_size"]
        raise EncoderError(f"encoder.{name}: {config.model!r} takes no images of {size}: {one_line(error)}") from None


def network_name(network: torch.nn.Module) -> str:
    """The name by which timm makes the same network again."""
    stated = network.pretrained_cfg
    return ".".join(filter(None, [stated["architecture"], stated.get("tag")]))
