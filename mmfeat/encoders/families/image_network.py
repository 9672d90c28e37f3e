"""Image encoders, shared by all families: from bytes on the device to pooled features and spatial tokens."""

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
        What may stand before a model's name so that this family is meant; empty for the usual one.
    on_hub : bool
        Whether its weights come from the Hugging Face hub.
    own_pooling : str
        How the network pools its features.
    resized : bool
        Whether the network was changed for the size of its images: position embeddings, or windows.
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
                f"{self.architecture}: gives no pooled features but {tuple(features.shape)}. Use another model"
            )
        self.width = features.shape[1]
        self.set_speed()

    @staticmethod
    def knows(model: str) -> bool:
        """Whether the family has a model of this name, whatever its weights."""
        raise NotImplementedError

    @staticmethod
    def names() -> list[str]:
        """All models that the family has."""
        raise NotImplementedError

    @staticmethod
    def meant(model: str, own_weights: bool) -> str:
        """The model that a name means, where people call it otherwise than the family does."""
        return model

    @staticmethod
    def named(model: str) -> tuple[str, str]:
        """The name that builds the network again, and the architecture in encoder keys and folders of the store."""

    @staticmethod
    def make_network(name: str, model: str, own_weights: bool) -> tuple[nn.Module, tuple[str, ...]]:
        """A network that ends with the pooled features, and the prefixes of tensors that files may have beside it.

        Parameters
        ----------
        name : str
            Of the encoder, for messages.
        own_weights : bool
            Whether to load the model's own weights; otherwise they are random.

        Raises
        ------
        EncoderError
            It has no such weights or no pooled features, or the weights are out of reach.
        """
        raise NotImplementedError

    @staticmethod
    def for_size(network: nn.Module, size: int) -> bool:
        """Change a network of a fixed image size to another size; returns whether that was possible.

        Raises
        ------
        ValueError
            It would not read the whole image.
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
        """Files or folders of the model's own weights, once they are on disk."""
        raise NotImplementedError

    @staticmethod
    def has_weights(model: str) -> bool:
        """Whether the family has weights of a model, on disk or not."""
        return True

    @staticmethod
    def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file under the family's current names."""
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
        features = self._run(pixels)
        return (features + self._run(pixels.flip(-1))) / 2 if self.flip and not self.training else features

    def forward_tokens(self, batch: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled features `(B, D)`, spatial ones on a grid of `number x number`, row by row, `(B, number^2, C)`, and its size."""
        pixels = self._normalised(batch["pixels"])
        embeddings, grid = self.forward_grid(pixels)
        if self.flip:
            embeddings = (embeddings + self._run(pixels.flip(-1))) / 2
        grid = functional.adaptive_avg_pool2d(grid.float(), number)  # (B, C, number, number)
        tokens = grid.flatten(2).transpose(1, 2)
        return embeddings, tokens, torch.full((len(tokens),), tokens.shape[1])

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Bytes to float32, as by torchvision's ToTensor and Normalize."""
        return ((pixels / 255) - self.mean).div_(self.std).contiguous(memory_format=self._memory_format)

    def forward_grid(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features `(B, D)` and unpooled ones `(B, C, h, w)` of normalised pixels.

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
        object.__setattr__(self, "_run", run)  # not a submodule: its tensors are the network's

    @property
    def pooling(self) -> str:
        """The network's own pooling, and the mean with the mirror image if `flip`."""
        return f"{self.own_pooling}, mean with the mirror image" if self.flip else self.own_pooling


_FAMILIES: list[type[ImageEncoder]] = []


def register_image_family(cls: type[ImageEncoder]) -> type[ImageEncoder]:
    """Class decorator: models of this family can be named in `[encoder.NAME]`, after those of families before it."""
    _FAMILIES.append(cls)
    return cls


def image_families() -> list[type[ImageEncoder]]:
    """All families, in the order in which a model's name is looked up."""
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
    """Build an encoder from its `[encoder.NAME]` table, with pretrained weights, a file's, or seeded random ones.

    Parameters
    ----------
    folder : Path
        Relative paths of the table start here.
    data_config : dict, optional
        The preprocessing; the model's own, when None.
    resized : bool
        Whether the weights are of a network that was changed for the size of `data_config`.

    Raises
    ------
    EncoderError
        No such model, weights out of reach, weights that do not fit.
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
    size = data_config["input_size"]
    try:
        try:
            encoder = kind(network, model, data_config, precision=config.precision, flip=config.flip)
        except (RuntimeError, AssertionError, ValueError):
            if config.size == "auto" or not kind.for_size(network, size[1]):
                raise
            encoder, resized = kind(network, model, data_config, precision=config.precision, flip=config.flip), True
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise EncoderError(f"encoder.{name}: {config.model!r} takes no images of {size}: {one_line(error)}") from None
    encoder.resized = resized
    return encoder
