"""Reads requests: bodies up to a limit, forms or JSON, images opened by their header.

A refused request is an HTTPException with a detail of one line.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, BinaryIO, NamedTuple

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
from mmfeat.serving.schemas import Detail, PredictForm, PredictJson

# Decoders for untrusted bytes; some others of Pillow start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
DRAIN_SECONDS = 5.0
MAX_RATIO = 100
_TAIL = 1024  # last bytes of a form, which must contain its final boundary
_JSON, _FORM = "application/json", "multipart/form-data"


class Asked(NamedTuple):
    """A requested item with its options. The image is bytes, an open file, or base64 text."""

    image: bytes | BinaryIO | str | None
    caption: str | None
    top_k: int | None
    threshold: float | None
    detail: Detail


class Body:
    """The incoming body of a request; more than the limit is refused, whatever its headers declare."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._receive: Callable[[], Awaitable[MutableMapping[str, Any]]] = request.receive
        self._limits = limits
        self._until = asyncio.get_running_loop().time() + limits.seconds
        self._size = 0
        self.finished = False
        self.tail = b""

    async def receive(self) -> MutableMapping[str, Any]:
        """The next ASGI message."""
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._next()
        except TimeoutError:
            raise HTTPException(408, f"the body took more than {self._limits.seconds:g} s to arrive") from None
        if self._size > self._limits.body:
            raise too_large(self._limits)
        self.tail = (self.tail + message.get("body", b"")[-_TAIL:])[-_TAIL:]
        return message

    async def drain(self) -> None:
        """Discard the rest for some seconds: a client that is still sending does not read the answer."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.finished:
                    await self._next()
        except TimeoutError:
            pass

    async def gone(self) -> None:
        """Wait until the client has closed its connection. Only valid when nothing else reads the body."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self.finished = not message.get("more_body", False)
        return message


def too_large(limits: Limits) -> HTTPException:
    """The refusal of a body over the limit."""
    return HTTPException(413, f"the body is larger than {limits.megabytes:g} MB")


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
        raise _invalid(error) from None
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
        raise _invalid(error) from None
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


def _invalid(error: ValidationError) -> HTTPException:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    known = ", ".join(PredictJson.model_fields)
    reason = f"no such field. There are: {known}" if first["type"] == "extra_forbidden" else first["msg"]
    status = 400 if first["type"] == "json_invalid" else 422
    return HTTPException(status, shown(f"{where}: {reason}" if where else reason, 200))
