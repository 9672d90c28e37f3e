"""Processing of samples before the network: images are decoded and cropped, captions are tokenised. Thread-safe."""

from __future__ import annotations

import json
import math
import re
import threading
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmfeat.common.errors import EncoderError
from mmfeat.common.files import digest_bytes, digest_json
from mmfeat.common.text import shown
from mmfeat.encoders.batches import UndecodableSample, UnreadSample
from mmfeat.encoders.decoding import USUAL, Decoding
from mmfeat.encoders.image_decoding import decode_image, reduction_of, upright_rgb
from mmfeat.encoders.torchvision_remedy import make_torchvision_importable

MAX_RATIO = 1000  # largest ratio of an image's sides
FLAT = 1.0  # standard deviation, on a scale to 255, below which an image counts as flat
REDUCED = 2  # a JPEG that is decoded at a reduced size keeps this many times the pixels that it is resized to
CHARACTERS = 100  # characters of a caption that are first tokenised for each kept token; words need about 4
_WORD_END = re.compile(r"\S(?=\s)")


class ImagePreparation:
    """Resizes and crops by timm's data configuration; a sample is an image file's bytes, or an image.

    Parameters
    ----------
    data_config : dict
        `input_size (3, H, W)`, `interpolation`, `mean`, `std`, `crop_pct`, `crop_mode`.
    decoding : Decoding
        Limits of decoding. They are not part of the encoder key, because they change no pixel of a decoded image.
    reduced : bool
        Whether JPEGs of more than :data:`REDUCED` times the size are decoded at 1/2, 1/4 or 1/8 of their size.
    """

    def __init__(self, data_config: dict[str, Any], decoding: Decoding = USUAL, *, reduced: bool = False) -> None:
        make_torchvision_importable()
        from timm.data import create_transform

        self.data_config, self.decoding, self.reduced = data_config, decoding, reduced
        # the result is uint8 (3, H, W): the encoder normalises whole batches on the device
        self.transform = create_transform(**data_config, is_training=False, use_prefetcher=True)

    def prepare(self, sample: bytes | Image.Image) -> Tensor:
        """Decode, resize and crop one image: `(3, H, W)` uint8."""
        return torch.as_tensor(self.transform(self._resized(self.decode(sample))))

    def decode(self, sample: bytes | Image.Image, part: float = 1.0) -> Image.Image:
        """Decode one image to upright RGB.

        Parameters
        ----------
        part : float
            The smallest share of the image's shorter side that is resized to the network's size.

        Raises
        ------
        UndecodableSample
            The bytes are not an image, or one side is more than 1,000 times as long as the other.
        """
        try:
            decode = decode_image if isinstance(sample, bytes) else upright_rgb
            image = decode(sample, self.decoding, self._least(part))
            if max(image.size) > MAX_RATIO * min(image.size):  # resizing it would fill the memory
                raise ValueError(f"a strip of {image.width} x {image.height} pixels")
        except (MemoryError, UnreadSample):  # not caused by the image
            raise
        except Exception as error:  # decoders raise arbitrary exceptions for invalid bytes
            raise UndecodableSample(error) from None
        return image

    def _least(self, part: float) -> int:
        """Pixels that both sides of a JPEG keep; 0 if it is decoded at its size."""
        return math.ceil(REDUCED * max(self._scaled()) / part) if self.reduced else 0

    def _scaled(self) -> tuple[int, int]:
        """Height and width that timm's transform resizes to before it crops."""
        from timm.data.constants import DEFAULT_CROP_PCT

        height, width = (
            math.floor(side / (self.data_config.get("crop_pct") or DEFAULT_CROP_PCT))
            for side in self.data_config["input_size"][1:]
        )
        return height, width

    def _resized(self, image: Image.Image) -> Image.Image:
        """A reduced image, resized to the size that the transform gives the whole image, without a fraction of a pixel lost.

        Other images are returned as they are, and so is an image for one of timm's rarer crop modes.
        """
        from timm.data.transforms import str_to_pil_interp

        reduced, (height, width) = reduction_of(image), self._scaled()
        mode = self.data_config.get("crop_mode") or "center"
        if reduced is None or mode == "border" or (mode == "center" and height != width):
            return image
        if mode == "center":
            width, height = (int(height * side / min(reduced.size)) for side in reduced.size)
        return image.resize((width, height), str_to_pil_interp(self.data_config["interpolation"]), box=reduced.box)

    @staticmethod
    def is_flat(prepared: Tensor) -> bool:
        """Whether a prepared image `(3, H, W)` has nearly one colour: no channel's standard deviation reaches 1 of 255."""
        pixels = prepared.numpy()  # torch takes three times as long for so few numbers
        thinned = pixels[:, ::8, ::8]  # enough for nearly all images, in a fraction of the time
        return all(bool((p.reshape(len(p), -1).std(1) < FLAT).all()) for p in (thinned, pixels))

    def collate(self, prepared: list[Tensor]) -> dict[str, Tensor]:
        """`pixels (B, 3, H, W)` uint8."""
        return {"pixels": torch.stack(prepared)}

    def describe(self) -> dict[str, Any]:
        """Timm's data configuration, and the steps before it, as JSON values."""
        config = {name: list(v) if isinstance(v, tuple) else v for name, v in self.data_config.items()}
        # without it there is no entry, as in older keys
        reduced = {"reduced_decoding": f"at least {REDUCED} x"} if self.reduced else {}
        return {**config, "orientation": "exif", "transparency": "white", **reduced}


class TextPreparation:
    """Tokenises captions; a sample is a caption.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A tokenizer of transformers.
    max_length : int
        Highest number of tokens of a caption, including special tokens; part of the encoder key.
    positions : int, optional
        Highest number of tokens that the network's position embeddings allow, if it is lower.
    embeddings : int, optional
        Size of the network's token embedding table.

    Attributes
    ----------
    most : int
        Number of tokens that are kept of a caption.
    """

    examples = ("one caption of some words", "two")  # of different lengths

    def __init__(
        self, tokenizer: Any, max_length: int, *, positions: int | None = None, embeddings: int | None = None
    ) -> None:
        self.tokenizer, self.max_length, self.embeddings = tokenizer, max_length, embeddings
        self.most = min(max_length, positions or max_length)
        self._digest = _tokenizer_digest(tokenizer)
        self._lock = threading.Lock()  # a call changes the tokenizer's padding state

    def prepare(self, sample: str) -> str:
        """The caption; lone surrogates of badly decoded text become question marks."""
        return sample.encode("utf-8", "replace").decode("utf-8")

    def collate(self, prepared: list[str]) -> dict[str, Tensor]:
        """Token ids and attention mask `(B, L)`, padded to the longest of the batch.

        Only the beginning of a long caption is tokenised: :data:`CHARACTERS` characters for each kept token, up to the end
        of a word, and more if these yield too few tokens. The tokens equal those of the whole caption, except within a
        single word of more than nine times as many characters.

        Raises
        ------
        EncoderError
            The tokenizer has a token that the network has no embedding for.
        """
        characters = CHARACTERS * self.most
        while True:
            texts = [self._beginning(text, characters) for text in prepared]
            tokens = self._tokens(texts)
            full = (tokens["attention_mask"].sum(1) >= self.most).tolist()
            if all(enough or len(a) == len(b) for enough, a, b in zip(full, texts, prepared, strict=True)):
                self._check(tokens["input_ids"])
                return tokens
            characters *= 4

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        with self._lock:
            tokens = self.tokenizer(
                texts,
                padding=True,
                truncation=True,
                max_length=self.most,
                return_tensors="pt",
                return_attention_mask=True,  # not the default of all tokenizers
            )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _check(self, ids: Tensor) -> None:
        largest = int(ids.max()) if ids.numel() else 0
        if self.embeddings is not None and largest >= self.embeddings:
            word = shown(repr(self.tokenizer.convert_ids_to_tokens(largest)))
            raise EncoderError(
                f"the tokenizer returns token {largest:,} ({word}), but the network has only {self.embeddings:,} token "
                f"embeddings. Use tokenizer and weights of the same model"
            )

    def _beginning(self, text: str, characters: int) -> str:
        """A text up to the first end of a word after `characters`; the whole text if the tokenizer keeps its end."""
        if len(text) <= characters or self.tokenizer.truncation_side != "right":
            return text
        end = _WORD_END.search(text, characters - 1, 10 * characters)
        return text[: end.end() if end else 10 * characters]

    def describe(self) -> dict[str, Any]:
        """Digest of the tokenizer, and the number of tokens that are kept, as JSON values."""
        return {"tokenizer": self._digest, "max_length": self.max_length}


def _tokenizer_digest(tokenizer: Any) -> str:
    """Digest of the tokenizer's rules and vocabulary, without the padding state that a call leaves."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return digest_json({"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()})
    rules = json.loads(backend.to_str())
    rules["padding"] = rules["truncation"] = None
    return digest_bytes(json.dumps(rules, sort_keys=True).encode("utf-8"))
