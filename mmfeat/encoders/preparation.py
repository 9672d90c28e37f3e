"""All that happens to a sample before a network: images decoded and cut, captions cut into tokens. Safe in threads."""

from __future__ import annotations

import io
import json
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mmfeat.batches import UndecodableSample, UnreadSample
from mmfeat.data.imagekinds import HEAD, decodes_heif_now, lacking_decoder
from mmfeat.encoders.torchvision_remedy import make_torchvision_importable
from mmfeat.files import digest_bytes, digest_json

# Pillow prints what it finds odd in a file (broken EXIF, many pixels); here a file is decoded, or recorded with its reason.
warnings.filterwarnings("ignore", module=r"PIL\.")


MAX_RATIO = 1000  # of an image's sides


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file's bytes to RGB, as :func:`upright_rgb` makes it.

    Raises
    ------
    OSError, ValueError, Image.DecompressionBombError
        The bytes are no whole image.
    """
    return upright_rgb(open_image(data))


def open_image(data: bytes, formats: Sequence[str] | None = None) -> Image.Image:
    """An image of which only the header has been read; `formats` are Pillow's names of those that may be tried.

    Raises
    ------
    OSError, ValueError, Image.DecompressionBombError
        The bytes are no image.
    UnreadSample
        They are one, and its decoder is not installed.
    """
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:  # Pillow's message has an address, other each time
        if formats is None and decodes_heif_now(data[:HEAD]):
            return open_image(data)
        if formats is None and (lacking := lacking_decoder(data[:HEAD])):
            raise UnreadSample(lacking) from None  # it says nothing about the bytes, so it is not recorded
        known = f"none of {', '.join(formats)}" if formats else "no image that Pillow knows"
        raise UnidentifiedImageError(known if data else "an empty file") from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB, upright (EXIF), 16 bits scaled to 8, transparency over white."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


class ImagePreparation:
    """Resizes and crops as timm's data configuration says; a sample is an image file's bytes, or an image.

    Parameters
    ----------
    data_config : dict
        `input_size (3, H, W)`, `interpolation`, `mean`, `std`, `crop_pct`, `crop_mode`.
    """

    def __init__(self, data_config: dict[str, Any]) -> None:
        make_torchvision_importable()
        from timm.data import create_transform

        self.data_config = data_config
        # ends with bytes (3, H, W): what is left to do is done for a whole batch, on the device
        self.transform = create_transform(**data_config, is_training=False, use_prefetcher=True)

    def prepare(self, sample: bytes | Image.Image) -> Tensor:
        """Decode, resize and crop one image: `(3, H, W)` uint8."""
        return torch.as_tensor(self.transform(self.decode(sample)))

    @staticmethod
    def decode(sample: bytes | Image.Image) -> Image.Image:
        """One image as RGB, upright.

        Raises
        ------
        UndecodableSample
            The bytes are no image, or one that is too long for its width.
        """
        try:
            image = decode_image(sample) if isinstance(sample, bytes) else upright_rgb(sample)
            if max(image.size) > MAX_RATIO * min(image.size):  # scaled to the network's size it would fill the memory
                raise ValueError(f"a strip of {image.width} x {image.height} pixels")
        except (MemoryError, UnreadSample):  # they say nothing about the image
            raise
        except Exception as error:  # decoders raise whatever they like for bytes that are no image
            raise UndecodableSample(error) from None
        return image

    def collate(self, prepared: list[Tensor]) -> dict[str, Tensor]:
        """`pixels (B, 3, H, W)` uint8."""
        return {"pixels": torch.stack(prepared)}

    def describe(self) -> dict[str, Any]:
        """Timm's data configuration, and what comes before it, as JSON values."""
        config = {name: list(v) if isinstance(v, tuple) else v for name, v in self.data_config.items()}
        return {**config, "orientation": "exif", "transparency": "white"}


class TextPreparation:
    """Cuts captions into tokens; a sample is a caption.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Of transformers.
    max_length : int
        Tokens that are kept of a caption, special ones included.
    """

    examples = ("one caption of some words", "two")  # of different lengths

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self._digest = _tokenizer_digest(tokenizer)
        self._lock = threading.Lock()  # a tokenizer keeps the padding of a call as its own state

    def prepare(self, sample: str) -> str:
        """A caption needs nothing of its own; lone surrogates of badly decoded text become question marks."""
        return sample.encode("utf-8", "replace").decode("utf-8")

    def collate(self, prepared: list[str]) -> dict[str, Tensor]:
        """Token ids and attention mask `(B, L)`, padded to the longest of the batch."""
        with self._lock:
            tokens = self.tokenizer(
                prepared, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def describe(self) -> dict[str, Any]:
        """The tokenizer's content and where captions are cut, as JSON values."""
        return {"tokenizer": self._digest, "max_length": self.max_length}


def _tokenizer_digest(tokenizer: Any) -> str:
    """Digest of the tokenizer's rules and vocabulary, without the padding that a call leaves in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return digest_json({"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()})
    rules = json.loads(backend.to_str())
    rules["padding"] = rules["truncation"] = None
    return digest_bytes(json.dumps(rules, sort_keys=True).encode("utf-8"))
