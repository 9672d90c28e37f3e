"""Recognises image files by their first bytes."""

from __future__ import annotations

import re

HEAD = 32  # bytes needed
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff"  # JPEG
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"  # with the size of its second header
    rb"|RIFF....WEBP"
    rb"|II\*\0|MM\0\*|II\+\0|MM\0\+"  # TIFF, BigTIFF
    rb"|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"  # JPEG 2000
    rb"|P[1-6]\s"  # PBM, PGM, PPM
    rb"|....ftyp(?:avi[fs]|hei[cfmsx]|hev[cx]|mif1|msf1)",
    re.DOTALL,
)
_AVIF = re.compile(rb"....ftypavi[fs]", re.DOTALL)
_HEIF = re.compile(rb"....ftyp(?:hei[cfmsx]|hev[cx]|mif1|msf1)", re.DOTALL)


def begins_as_image(head: bytes) -> bool:
    """Whether the first `HEAD` bytes of a file are those of an image format."""
    return _BEGINNINGS.match(head) is not None


def lacking_decoder(head: bytes) -> str:
    """What to install for a file whose format Pillow cannot decode; empty if it can."""
    from PIL import Image, features

    if _HEIF.match(head) and "HEIF" not in Image.OPEN:
        return "a HEIC image, which Pillow does not decode without a plugin. Install: pip install 'mmfeat[heic]' (pillow-heif)"
    if _AVIF.match(head) and not features.check("avif"):
        return "an AVIF image, which this Pillow does not decode. Install: pip install --upgrade pillow"
    return ""


def decodes_heif_now(head: bytes) -> bool:
    """Register pillow-heif if the file is a HEIC image and pillow-heif is installed; returns whether it did."""
    from PIL import Image

    if not _HEIF.match(head) or "HEIF" in Image.OPEN:
        return False
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return "HEIF" in Image.OPEN
