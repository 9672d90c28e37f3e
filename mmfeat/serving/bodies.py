"""Reads requests: bodies up to a limit, forms or JSON, images opened by their header.

A refused request is an HTTPException with a detail of one line.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO, NamedTuple

from fastapi import HTTPException, Request
from PIL import Image
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile

from mmfeat.common.errors import one_line
from mmfeat.common.text import shown
from mmfeat.encoders.image_decoding import open_image
from mmfeat.serving.limits import Limits
from mmfeat.serving.request_body import Body, invalid, too_large
from mmfeat.serving.schemas import Detail, PredictForm, PredictJson

# Decoders for untrusted bytes; some others of Pillow start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_RATIO = 100
_JSON, _FORM = "application/json", "multipart/form-data"


class Asked(NamedTuple):
    """A requested item with its options. The image is bytes, an open file, or base64 text."""

    image: bytes | BinaryIO | str | None
    caption: str | None
    top_k: int | None
    threshold: float | None
    detail: Detail


@asynccontextmanager
async def reading(request: Request, body: Body, limits: Limits) -> AsyncIterator[Asked]:
    """The requested item; its open file is closed with the context.

    Raises
    ------
    HTTPException
        400, 408, 413, 415 or 422.
    """
    if request.query_params:
        raise HTTPException(422, "the query string is not read: send top_k, threshold and detail in the body")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "send the body without a content-encoding")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.body:
        raise too_large(limits)
    request = Request(request.scope, body.receive)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind == _JSON.encode():
        yield _from_json(await request.body(), limits)
    elif kind == _FORM.encode():
        form = await _parsed(request, limits)
        try:
            if b"--" + options.get(b"boundary", b"") + b"--" not in body.tail:
                raise HTTPException(400, "the form ends before its last boundary")
            yield _from_form(form, limits)
        finally:
            await form.close()
    else:
        raise HTTPException(415, f"send {_FORM} or {_JSON}")


async def _parsed(request: Request, limits: Limits) -> FormData:
    try:
        return await request.form(max_files=1, max_fields=8, max_part_size=limits.body)
    except FormParserError:  # newer versions of starlette raise an HTTPException themselves
        raise HTTPException(400, "malformed form") from None


def opened(asked: Asked, limits: Limits) -> Image.Image | None:
    """Open the image of a request; only its header is read. Call it in a thread: base64 is slow.

    Raises
    ------
    HTTPException
        413: too many pixels. 422: not an image.
    """
    if asked.image is None:
        return None
    try:
        image = open_image(_bytes(asked.image), FORMATS)
    except (HTTPException, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits) from None
    except Exception as error:  # decoders raise various errors
        raise HTTPException(422, f"image: {shown(one_line(error), 200)}") from None
    if image.width * image.height > limits.pixels:
        raise _too_many_pixels(limits)
    if max(image.size) > MAX_RATIO * min(image.size):  # resized for the encoder, it would be enormous
        raise HTTPException(413, f"one side of the image is more than {MAX_RATIO} times the other")
    return image


def _too_many_pixels(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the image has more than {limits.megapixels:g} megapixels")


def _bytes(image: bytes | BinaryIO | str) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str):
        return image.read()
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(422, f"image: not base64: {shown(one_line(error))}") from None


def _from_json(body: bytes, limits: Limits) -> Asked:
    try:
        found = PredictJson.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid(error, PredictJson) from None
    return _checked(_asked(found.image or None, found), limits)


def _from_form(form: FormData, limits: Limits) -> Asked:
    values = {}
    for name, value in form.multi_items():
        if name in values:
            raise HTTPException(422, f"{shown(name)}: given twice")
        if value == "":
            continue  # browsers send empty fields like this
        if isinstance(value, UploadFile) != (name == "image"):
            wanted = "send a file, with a filename" if name == "image" else "send text, not a file"
            raise HTTPException(422, f"{shown(name)}: {wanted}")
        values[name] = value
    upload = values.pop("image", None)
    try:
        found = PredictForm.model_validate(values)
    except ValidationError as error:
        raise invalid(error, PredictJson) from None
    chosen = upload is not None and (upload.size or upload.filename)  # browsers send a nameless empty file for no file
    return _checked(_asked(upload.file if chosen else None, found), limits)


def _asked(image: BinaryIO | str | None, found: PredictForm | PredictJson) -> Asked:
    return Asked(image, found.caption, top_k=found.top_k, threshold=found.threshold, detail=found.detail)


def _checked(asked: Asked, limits: Limits) -> Asked:
    if asked.caption and len(asked.caption) > limits.caption:
        raise HTTPException(
            413, f"the caption has {len(asked.caption):,} characters, at most {limits.caption:,} are read"
        )
    if asked.image is None and not (asked.caption or "").strip():
        raise HTTPException(422, "neither an image nor a caption")
    return asked
