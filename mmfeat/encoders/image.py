"""Image encoders: any model of timm, with the preprocessing that its own configuration states."""

from __future__ import annotations

import difflib
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mmfeat.config import ImageEncoderConfig
from mmfeat.encoders.base import Encoder
from mmfeat.encoders.torchvision_remedy import make_torchvision_importable
from mmfeat.encoders.weights import hub, load_strictly, one_line, read_state
from mmfeat.errors import EncoderError

# Pillow prints what it finds odd in a file (broken EXIF, many pixels); here a file is decoded, or recorded with its reason.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file's bytes to RGB, upright (EXIF), 16 bits scaled to 8, transparency over white.

    Raises
    ------
    OSError, ValueError, Image.DecompressionBombError
        The bytes are no whole image.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:  # Pillow's message has an address, other each time
        raise UnidentifiedImageError("no image that Pillow knows" if data else "an empty file") from None
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


class ImageEncoder(Encoder):
    """A timm model without its classifier; a sample is an image file's bytes."""

    modality = "image"

    def __init__(
        self, network: torch.nn.Module, architecture: str, data_config: dict[str, Any], precision: str
    ) -> None:
        super().__init__()
        from timm.data import create_transform

        self.network = network
        self.architecture = architecture
        self.precision = precision
        self.data_config = data_config
        self.transform = create_transform(**data_config, is_training=False)
        size = data_config["input_size"]
        network.eval()
        with torch.inference_mode():
            features = network(torch.zeros(1, *size))
        if features.ndim != 2:
            raise EncoderError(
                f"{architecture}: gives no pooled features but {tuple(features.shape)}. Use another model"
            )
        self.width = features.shape[1]

    def prepare(self, sample: bytes) -> Tensor:
        """Decode, resize, crop and normalise one image file's bytes: `(3, H, W)` float32."""
        return self.transform(decode_image(sample))

    def collate(self, prepared: list[Tensor]) -> dict[str, Tensor]:
        """`pixels (B, 3, H, W)`."""
        return {"pixels": torch.stack(prepared).contiguous(memory_format=torch.channels_last)}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Pooled features `(B, D)`."""
        return self.network(batch["pixels"])

    def preprocessing(self) -> dict[str, Any]:
        """Timm's data configuration, and what comes before it."""
        config = {name: list(v) if isinstance(v, tuple) else v for name, v in self.data_config.items()}
        return {**config, "orientation": "exif", "transparency": "white"}

    @property
    def pooling(self) -> str:
        """The network's own pooling."""
        return str(getattr(self.network, "global_pool", "") or "model").split("(")[0]


def build_image_encoder(name: str, config: ImageEncoderConfig, folder: Path, seed: int) -> ImageEncoder:
    """Build an encoder from its `[encoder.NAME]` table, with pretrained, given or seeded random weights.

    Parameters
    ----------
    folder : Path
        Where relative paths of the table start.

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
    with hub(name, config.model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(config.model, pretrained=auto, num_classes=0)
    if config.pretrained not in ("auto", "random"):
        source = folder / Path(config.pretrained).expanduser()
        heads = network.pretrained_cfg.get("classifier") or ()
        load_strictly(network, read_state(source), source, unused=(heads,) if isinstance(heads, str) else tuple(heads))
    network = network.to(memory_format=torch.channels_last)
    data_config = resolve_model_data_config(network)
    if config.size != "auto":
        data_config["input_size"] = (3, config.size, config.size)
    try:
        return ImageEncoder(network, base, data_config, config.precision)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = data_config["input_size"]
        raise EncoderError(f"encoder.{name}: {config.model!r} takes no images of {size}: {one_line(error)}") from None
