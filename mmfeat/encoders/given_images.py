"""Images that are passed to `Predictor`: paths, bytes, PIL images and arrays."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from mmfeat.common.errors import one_line
from mmfeat.data.images.archives import check_size
from mmfeat.encoders.batches import UndecodableSample, UnreadSample
from mmfeat.encoders.image_decoding import loaded, unread_jpeg

_LOADING = threading.Lock()

ImageLike = str | Path | bytes | Image.Image | np.ndarray


def read_given_image(image: ImageLike) -> bytes | Image.Image:
    """Convert an image to the input of `ImagePreparation`: a file's bytes, or a PIL image.

    Raises
    ------
    UnreadSample
        The file cannot be read.
    UndecodableSample
        The array has a wrong shape or dtype, or the PIL image cannot be loaded.
    """
    if isinstance(image, np.ndarray):
        plain = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if image.dtype != np.uint8 or not plain or not image.size:
            raise UndecodableSample(ValueError(f"an array {image.shape} of {image.dtype}, not (H, W, 3) of uint8"))
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return _loaded(image)
    if isinstance(image, bytes):
        return image
    try:
        status = Path(image).stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            raise UnreadSample("not a plain file")
        check_size(status.st_size)
        return Path(image).read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadSample(getattr(error, "strerror", None) or one_line(error)) from None


def _loaded(image: Image.Image) -> bytes | Image.Image:
    """The image with its pixels in memory. Pillow reads pixels at first use, which is not thread-safe.

    Of a JPEG that is not loaded yet, the file's bytes: the encoder may decode it at a reduced size.
    """
    try:
        with _LOADING:
            return unread_jpeg(image) or loaded(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise arbitrary exceptions
        raise UndecodableSample(error) from None
