"""The image decoder of mmfeat 0.1.0, which identifies stored features of images that the present decoder changes."""

from __future__ import annotations

from PIL import Image, ImageOps

from mmfeat.encoders.decoding import USUAL, Decoding
from mmfeat.encoders.image_decoding import is_deep_colour, is_grey_and_deep, open_image, upright_rgb


def has_other_pixels(data: bytes, decoding: Decoding = USUAL) -> bool:
    """Whether the present decoder gives an image other pixels than decoder 1; False if it cannot be decoded now.

    Only images of more than 8 bits per channel can differ, so of all others only the header is read.
    """
    try:
        image = open_image(data, decoding=decoding)
        if not (is_grey_and_deep(image) or is_deep_colour(image)):
            return False
        now = upright_rgb(image, decoding)
    except MemoryError:
        raise
    except Exception:  # decoders raise arbitrary exceptions for invalid bytes
        return False
    try:
        before = _decoded_before(open_image(data, decoding=decoding))
    except MemoryError:
        raise
    except Exception:
        return True
    return before.size != now.size or before.tobytes() != now.tobytes()


def _decoded_before(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
