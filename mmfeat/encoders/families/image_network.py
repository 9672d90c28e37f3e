"""The base class of image encoders of all families: from pixels to pooled features and spatial tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmfeat.common.errors import EncoderError, one_line
from mmfeat.config.encoder_tables import ImageEncoderConfig
from mmfeat.encoders.encoder import Encoder
from mmfeat.encoders.families.image_cut import ImageCut, cut_image
from mmfeat.encoders.preparation import ImagePreparation
from mmfeat.encoders.weights import hub, load_strictly, read_state


class ImageEncoder(Encoder):
    """A network without its classifier; a sample is an image file's bytes.

    Attributes
    ----------
    model : str
        The name that builds the same network again by :func:`build_image_encoder`.
    source : str
        The package that builds the network.
    prefix : str
        Prefix of a model's name that selects this family; empty for the default family.
    on_hub : bool
        Whether its weights come from the Hugging Face hub.
    own_pooling : str
        The network's pooling of its features.
    resized : bool
        Whether position embeddings or windows were changed for the size of the images.
    """

    kind = modality = "image"
    source: str
    prefix = ""
    on_hub = False
    own_pooling: str
    resized = False

    def __init__(
        self, network: nn.Module, model: str, data_config: dict[str, Any], *, precision: str, flip: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.model, self.architecture = self.named(model)
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
                f"{self.architecture}: returns features of shape {tuple(features.shape)}, not pooled ones. Use another model"
            )
        self.width = features.shape[1]
        self.set_speed()

    @staticmethod
    def knows(model: str) -> bool:
        """Whether the family has a model of this name, with or without weights."""
        raise NotImplementedError

    @staticmethod
    def names() -> list[str]:
        """All models that the family has."""
        raise NotImplementedError

    @staticmethod
    def meant(model: str, own_weights: bool) -> str:
        """The family's own name for a model that users name differently."""
        return model

    @staticmethod
    def named(model: str) -> tuple[str, str]:
        """The full name that builds the same network again, and the architecture for encoder keys and store folders."""

    @staticmethod
    def make_network(name: str, model: str, own_weights: bool) -> tuple[nn.Module, tuple[str, ...]]:
        """Build a network that ends with pooled features, and list prefixes of tensors that files may contain in addition.

        Parameters
        ----------
        name : str
            The encoder's name, for messages.
        own_weights : bool
            Whether to load the model's own weights; otherwise they are random.

        Raises
        ------
        EncoderError
            The model has no such weights or no pooled features, or the weights cannot be downloaded.
        """
        raise NotImplementedError

    @staticmethod
    def for_size(network: nn.Module, size: int) -> bool:
        """Change a network of a fixed image size to another size; returns whether that was possible.

        Raises
        ------
        ValueError
            The network would not read the whole image at this size.
        """
        return False

    @staticmethod
    def data_config_of(network: nn.Module, model: str) -> dict[str, Any]:
        """The model's own preprocessing, in timm's form."""
        raise NotImplementedError

    @staticmethod
    def width_of(network: nn.Module) -> int:
        """D of a network's pooled features, without a forward pass."""
        raise NotImplementedError

    @staticmethod
    def weights_files(model: str) -> list[Path]:
        """Files or folders of the model's own weights, which need not exist yet."""
        raise NotImplementedError

    @staticmethod
    def has_weights(model: str) -> bool:
        """Whether the family offers weights of a model, on disk or for download."""
        return True

    @staticmethod
    def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename a file's tensors to the family's current names."""
        return state

    def own_files(self) -> list[Path]:
        """Files or folders of the model's own weights."""
        return self.weights_files(self.model)

    def is_flat(self, prepared: Tensor) -> bool:
        """Whether a prepared image `(3, H, W)` uint8 has nearly one colour."""
        return self.preparation.is_flat(prepared)

    def collate(self, prepared: list[Tensor]) -> dict[str, Tensor]:
        """`pixels (B, 3, H, W)` uint8."""
        batch = self.preparation.collate(prepared)
        return {"pixels": batch["pixels"].pin_memory()} if self.mean.is_cuda else batch

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Pooled features `(B, D)`; with `flip`, at inference, their mean over the image and its mirror image."""
        pixels = self._normalised(batch["pixels"])
        features = self.network(pixels)
        return (features + self.network(pixels.flip(-1))) / 2 if self.flip and not self.training else features

    def forward_tokens(self, batch: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled features `(B, D)`, spatial tokens `(B, number^2, C)` on a grid, row by row, and their number `(B,)`."""
        pixels = self._normalised(batch["pixels"])
        embeddings, grid = self.forward_grid(pixels)
        if self.flip:
            embeddings = (embeddings + self.network(pixels.flip(-1))) / 2
        return embeddings, *self.grid_tokens(grid, number)

    def grid_tokens(self, grid: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Tokens `(B, number^2, C)` of spatial features `(B, C, h, w)`, row by row, and their number `(B,)`."""
        grid = functional.adaptive_avg_pool2d(grid.float(), number)  # (B, C, number, number)
        tokens = grid.flatten(2).transpose(1, 2)
        return tokens, torch.full((tokens.shape[0],), tokens.shape[1])

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Convert bytes to normalised float32, like torchvision's ToTensor and Normalize."""
        return ((pixels / 255) - self.mean).div_(self.std).contiguous(memory_format=self._memory_format)

    def forward_grid(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features `(B, D)` and spatial features `(B, C, h, w)` of normalised pixels.

        Raises
        ------
        EncoderError
            The network has no grid of spatial features.
        """
        raise NotImplementedError

    def square(self, tokens: Tensor) -> Tensor:
        """Tokens `(B, L, C)` of a square image, row by row, as a grid `(B, C, h, w)`."""
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise self.without_grid()
        return tokens.transpose(1, 2).unflatten(-1, (side, side))

    def without_grid(self) -> EncoderError:
        """The error of a network without spatial features."""
        return EncoderError(f"{self.architecture}: has no grid of spatial features. In mmfeat.toml set: tokens = 0")

    def cut(self, trained: int) -> ImageCut:
        """Between two stages."""
        return cut_image(self, trained)

    def speed_settings(self) -> list[dict[str, Any]]:
        """Memory layouts."""
        return [{"channels_last": True}, {"channels_last": False}]

    def set_speed(self, channels_last: bool = True) -> None:
        """Apply one of `speed_settings`."""
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self._memory_format)

    @property
    def pooling(self) -> str:
        """The network's own pooling, and the mean with the mirror image if `flip`."""
        return f"{self.own_pooling}, mean with the mirror image" if self.flip else self.own_pooling


_FAMILIES: list[type[ImageEncoder]] = []


def register_image_family(cls: type[ImageEncoder]) -> type[ImageEncoder]:
    """Class decorator: register a family, whose models `[encoder.NAME]` can then use. Earlier families take precedence."""
    _FAMILIES.append(cls)
    return cls


def image_families() -> list[type[ImageEncoder]]:
    """All families, in the order in which they are asked for a model's name."""
    from mmfeat.encoders.families import timm_models, torchvision_models  # noqa: F401 - they register themselves

    return sorted(_FAMILIES, key=lambda family: bool(family.prefix))


def build_image_encoder(
    name: str,
    config: ImageEncoderConfig,
    folder: Path,
    seed: int,
    *,
    data_config: dict[str, Any] | None = None,
    resized: bool = False,
) -> ImageEncoder:
    """Build an encoder from its `[encoder.NAME]` table, with pretrained weights, weights of a file, or random ones.

    Parameters
    ----------
    folder : Path
        The folder that relative paths of the table start from.
    seed : int
        Determines random weights.
    data_config : dict, optional
        The preprocessing; by default the model's own.
    resized : bool
        Whether the weights belong to a network that was changed for the size in `data_config`.

    Raises
    ------
    EncoderError
        The model is unknown, or its weights cannot be downloaded or do not fit.
    """
    from mmfeat.encoders.model_names import image_family  # imports the families, which build on the class above

    kind, model = image_family(name, config.model, config.pretrained, folder)
    own = config.pretrained == "auto"
    with hub(name, config.model, "image", needed=own and kind.on_hub), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, unused = kind.make_network(name, model, own)
    if resized and data_config:
        kind.for_size(network, data_config["input_size"][1])
    if config.pretrained not in ("auto", "random"):
        file = folder / Path(config.pretrained).expanduser()
        load_strictly(network, kind.renamed(read_state(file)), file, unused)
    data_config = data_config or kind.data_config_of(network, model)
    if config.size != "auto":
        data_config["input_size"] = (3, config.size, config.size)
    if config.crop == "none":
        data_config |= {"crop_pct": 1.0, "crop_mode": "squash"}  # timm's name
    size = data_config["input_size"]
    try:
        try:
            encoder = kind(network, model, data_config, precision=config.precision, flip=config.flip)
        except (RuntimeError, AssertionError, ValueError):
            if config.size == "auto" or not kind.for_size(network, size[1]):
                raise
            encoder, resized = kind(network, model, data_config, precision=config.precision, flip=config.flip), True
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise EncoderError(
            f"encoder.{name}: {config.model!r} does not accept images of {size}: {one_line(error)}"
        ) from None
    encoder.resized, encoder.preparation.reduced = resized, config.reduced_decoding
    return encoder
