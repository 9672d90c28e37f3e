"""Decodes all images, to upright RGB with 8 bits per channel and transparency over white. Thread-safe.

A file with broken metadata is still decoded: if Pillow refuses it, it is opened again without its metadata.

A file with more than 8 bits per channel rarely states how many bits are used. The largest value of the image then decides:

- floating-point values of at most 1 are scaled from the range 0 to 1;
- other values are taken as 8-bit if they fit, otherwise as 12-bit, 16-bit, or as wide as the largest value needs; the upper
  8 bits are kept.

A larger maximum that the file states takes precedence (TIFF's SMaxSampleValue, MaxSampleValue, or a BitsPerSample below 16;
formats that Pillow scales to 16 bits itself). Values below 0 and NaN become black, infinite values white. For 16-bit RGB,
the three colours follow the rule together, the alpha channel separately.

A large JPEG can be decoded at 1/2, 1/4 or 1/8 of its size: libjpeg then computes fewer pixels.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mmfeat.data.images.image_bytes import ended_jpeg, without_metadata
from mmfeat.data.images.image_kinds import HEAD, decodes_heif_now, lacking_decoder
from mmfeat.encoders.batches import UnreadSample
from mmfeat.encoders.decoding import USUAL, Decoding

# Pillow warns about odd files (broken EXIF, many pixels). mmfeat decodes such a file, or records the reason why not.
warnings.filterwarnings("ignore", module=r"PIL\.")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED_LEFT = (Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE)  # their columns become rows from the last
_TURNED_RIGHT = (Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE)  # their rows become columns from the last
_JPEG = ("JPEG", "MPO")
_REDUCED = "mmfeat reduced"  # in an image's `info`
_SCALED_TO_16 = ("PPM", "JPEG2000")  # by Pillow, by the file's header
_BITS_PER_SAMPLE, _MAX_SAMPLE, _SAMPLE_FORMAT, _SMAX_SAMPLE = 258, 281, 339, 341
_OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B"}  # raw mode to that of the other byte of a 16-bit colour


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Of a JPEG that was decoded at a reduced size.

    Attributes
    ----------
    size : (int, int)
        Width and height of the whole image.
    box : tuple of float
        Left, top, right and bottom of the whole image in reduced pixels; the last column and row may be partly outside.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def turned(self, turn: Image.Transpose, size: tuple[int, int]) -> Reduced:
        """The same after a reduced image of `size` was turned."""
        (w, h), (left, top, right, bottom) = size, self.box
        if turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, *_TURNED_LEFT):
            left, right = w - right, w - left
        if turn in (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180, *_TURNED_RIGHT):
            top, bottom = h - bottom, h - top
        if turn in (Image.Transpose.TRANSPOSE, *_TURNED_LEFT, *_TURNED_RIGHT):
            return Reduced(size=self.size[::-1], box=(top, left, bottom, right))
        return Reduced(size=self.size, box=(left, top, right, bottom))


def reduction_of(image: Image.Image) -> Reduced | None:
    """How much smaller a JPEG was decoded; None if it has its own size."""
    return image.info.get(_REDUCED)


def decode_image(data: bytes, decoding: Decoding = USUAL, least: int = 0) -> Image.Image:
    """Decode an image file's bytes to RGB; see :func:`upright_rgb`.

    Raises
    ------
    OSError, ValueError, Image.DecompressionBombError
        The bytes are not a complete image, or the image has too many pixels.
    """
    return upright_rgb(open_image(data, decoding=decoding), decoding, least)


def open_image(data: bytes, formats: Sequence[str] | None = None, decoding: Decoding = USUAL) -> Image.Image:
    """Open an image and read only its header; `formats` are Pillow's names of the formats to try.

    Raises
    ------
    OSError, ValueError, Image.DecompressionBombError
        The bytes are not an image, or the image has too many pixels.
    UnreadSample
        The decoder of its format is not installed.
    """
    try:
        return _opened(data, formats, decoding)
    except (Image.DecompressionBombError, MemoryError):
        raise
    except Exception as error:
        bare = without_metadata(data)
        with contextlib.suppress(Exception):
            if bare is not None:
                return _opened(bare, formats, decoding)
        if not isinstance(error, UnidentifiedImageError):
            raise
        if formats is None and decodes_heif_now(data[:HEAD]):
            return open_image(data, decoding=decoding)
        if formats is None and (lacking := lacking_decoder(data[:HEAD])):
            raise UnreadSample(lacking) from None  # not a property of the bytes, so it is not recorded
        known = f"none of {', '.join(formats)}" if formats else "no image that Pillow knows"
        # Pillow's message has a memory address, which differs each time
        raise UnidentifiedImageError(known if data else "an empty file") from None


def _opened(data: bytes, formats: Sequence[str] | None, decoding: Decoding) -> Image.Image:
    if Image.MAX_IMAGE_PIXELS is not None and decoding.max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = math.ceil(decoding.max_pixels / 2)  # Pillow refuses twice as many
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        pixels = image.width * image.height
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", f"{error} 0")[0])  # the message has their number
        raise _too_many(pixels, decoding) from None
    if pixels > decoding.max_pixels:
        raise _too_many(pixels, decoding)
    return image


def _too_many(pixels: int, decoding: Decoding) -> Image.DecompressionBombError:
    limit = f"{decoding.max_megapixels:.12g}"
    return Image.DecompressionBombError(f"{pixels / 1e6:,.1f} megapixels, and [data] max_megapixels is {limit}")


def upright_rgb(image: Image.Image, decoding: Decoding = USUAL, least: int = 0) -> Image.Image:
    """Convert an image to upright RGB with 8 bits per channel and transparency over white.

    Parameters
    ----------
    least : int
        Decode a JPEG at 1/2, 1/4 or 1/8 of its size, as long as both sides keep this many pixels; 0: at its size.

    Raises
    ------
    OSError, ValueError
        The pixels cannot be read.
    """
    image = loaded(image, decoding, least)
    turn = _TURNS.get(_orientation(image))
    if is_grey_and_deep(image):
        image = _in_8_bits(image)
    if turn is not None:
        reduced, size = reduction_of(image), image.size
        image = image.transpose(turn)
        if reduced is not None:
            image.info[_REDUCED] = reduced.turned(turn, size)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def loaded(image: Image.Image, decoding: Decoding = USUAL, least: int = 0) -> Image.Image:
    """Load an image's pixels; if Pillow refuses its metadata, return a new image without them.

    `least` reduces a JPEG as in :func:`upright_rgb`.

    16-bit colours that use at most 12 bits are scaled to 8 bits here, because Pillow keeps only the upper 8.

    Raises
    ------
    OSError, ValueError
        The pixels cannot be read.
    """
    file = getattr(image, "fp", None)  # Pillow drops or closes it after loading
    data = _bytes_of(file) if is_deep_colour(image) else None
    _reduce(image, least)
    try:
        image.load()
    except (Image.DecompressionBombError, MemoryError):
        raise
    except Exception as error:
        for other in _rescued(image.format, _bytes_of(file), decoding, least=least):
            return other
        if "truncated" in str(error) and image.format in _JPEG and decoding.truncated == "refuse":
            raise OSError(f'{error}. To decode it anyway, set: [data] truncated = "accept"') from None
        raise
    return image if data is None else _deep_colours(image, data, decoding)


def _reduce(image: Image.Image, least: int) -> None:
    """Let libjpeg decode a JPEG that is not loaded yet at a reduced size."""
    size = image.size
    drafted = image.draft(None, (least, least)) if least and image.format in _JPEG else None
    if drafted is not None and image.size != size:
        image.info[_REDUCED] = Reduced(size=size, box=drafted[1])


def _rescued(kind: str | None, data: bytes, decoding: Decoding, *, least: int) -> Iterator[Image.Image]:
    """The same image without metadata or, if the setting allows it, with the end marker that it lacks."""
    bare = without_metadata(data)
    ended = ended_jpeg(bare or data) if decoding.truncated == "accept" else None
    formats = ["JPEG"] if kind == "MPO" else [kind or ""]
    for candidate in (bare, ended):
        with contextlib.suppress(Exception):
            if candidate is not None:
                again = _opened(candidate, formats, decoding)
                _reduce(again, least)
                again.load()
                yield again


def unread_jpeg(image: Image.Image, decoding: Decoding = USUAL) -> bytes:
    """The bytes of the file of a JPEG that is opened and not loaded yet; empty for any other image."""
    untouched = image.format in _JPEG and getattr(image, "tile", None) and image.tell() == 0
    if not untouched or getattr(image, "decoderconfig", None) or image.width * image.height > decoding.max_pixels:
        return b""
    return _bytes_of(getattr(image, "fp", None))


def _bytes_of(file: Any) -> bytes:
    """All bytes of an open file, without moving its position; empty if it is closed or not a file."""
    try:
        position = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(position)
        return data
    except (AttributeError, OSError, ValueError):
        return b""


def _orientation(image: Image.Image) -> Any:
    """The orientation in the image's metadata; 1 if the metadata are broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # Pillow's metadata readers raise arbitrary exceptions
        return 1


def is_grey_and_deep(image: Image.Image) -> bool:
    """Whether an image has one channel of more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image has 16-bit colours; only for an image that is not loaded yet."""
    tiles = getattr(image, "tile", None)
    raw = _raw_mode(tiles[0]) if tiles else ""
    return image.mode in ("RGB", "RGBA") and raw[:4] in ("RGB;", "RGBX", "RGBA") and raw[-4:] in _OTHER_BYTE


def _raw_mode(tile: Any) -> str:
    arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return arguments[0] if arguments and isinstance(arguments[0], str) else ""


def _in_8_bits(image: Image.Image) -> Image.Image:
    """One channel of more than 8 bits as mode L."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", None) or {}
    if image.mode == "I" and _number(tags.get(_BITS_PER_SAMPLE)) == 32 and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)  # Pillow has no mode for unsigned 32 bits
    grey = Image.fromarray(_scaled(values, _stated(image, tags)))
    grey.info = image.info
    return grey


def _stated(image: Image.Image, tags: Any) -> float:
    """The largest value that the file states; 0 if it states none."""
    if image.format in _SCALED_TO_16 and image.mode != "F":
        return 65535.0
    bits = _number(tags.get(_BITS_PER_SAMPLE))
    stated = [_number(tags.get(_SMAX_SAMPLE)), _number(tags.get(_MAX_SAMPLE)), 2.0**bits - 1 if 8 < bits < 16 else 0.0]
    return max(stated)


def _number(value: Any) -> float:
    """A tag's first number; 0 if it is not finite."""
    try:
        found = float(value[0] if isinstance(value, tuple) else value)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError):
        return 0.0
    return found if math.isfinite(found) else 0.0


def _scaled(values: np.ndarray, stated: float = 0.0) -> np.ndarray:
    """Values as uint8 of the same shape, by the module's rule."""
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        top = max(float(values.max(where=finite, initial=0)), stated)
        unit = 255 / 1 if top <= 1 else 1 / 2.0 ** (_bits(top) - 8)
        values = np.nan_to_num(values, nan=0.0, posinf=top, neginf=0.0).clip(0, top)
        exact = np.rint(values * unit) if top <= 1 else np.floor(values * unit)
        return exact.clip(0, 255).astype(np.uint8)
    top = max(int(values.max(initial=0)), int(stated))
    return (values.clip(0) >> (_bits(top) - 8)).astype(np.uint8)


def _bits(top: float) -> int:
    return next((bits for bits in (8, 12, 16) if top < 1 << bits), int(top).bit_length())


def _deep_colours(image: Image.Image, data: bytes, decoding: Decoding) -> Image.Image:
    """An image with 16-bit colours, of which Pillow read the upper bytes. If it uses at most 12 bits, both bytes are read."""
    upper = np.asarray(image)
    channels = [slice(0, 3), slice(3, 4)][: upper.shape[2] - 2]
    if all(upper[..., some].max(initial=0) >= 16 for some in channels):
        return image
    lower = _lower_bytes(image, data, decoding)
    if lower is None:
        return image
    values = upper.astype(np.uint16) << 8 | lower
    scaled = np.concatenate([_scaled(values[..., some]) for some in channels], axis=-1)
    image.paste(Image.fromarray(scaled))
    return image


def _lower_bytes(image: Image.Image, data: bytes, decoding: Decoding) -> np.ndarray | None:
    """The lower bytes of 16-bit colours, `(H, W, C)` uint8; None if Pillow does not give them."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        again = _opened(data, [image.format or ""], decoding)
        again.tile = [_other_half(tile) for tile in again.tile]
        again.load()
        found = np.asarray(again)
        return found if found.shape == (image.height, image.width, len(image.mode)) else None
    return None


def _other_half(tile: Any) -> Any:
    raw = _raw_mode(tile)
    other = raw[:-4] + _OTHER_BYTE[raw[-4:]]
    return tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
