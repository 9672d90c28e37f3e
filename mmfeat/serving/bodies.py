"""From a request to what it asks: bodies read up to a limit, forms and JSON told apart, images opened by their header.

A refusal is an HTTPException whose detail is one line.
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
from mmfeat.serving.schemas import PredictForm, PredictJson

# Decoders that are tried on strangers' bytes; some others of Pillow's start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
DRAIN_SECONDS = 5.0
MAX_RATIO = 100
_TAIL = 1024  # bytes in which a form's last line must stand
_JSON, _FORM = "application/json", "multipart/form-data"


class Asked(NamedTuple):
    """One item, and how it is to be answered. The image is bytes, an open file, or base64 text."""

    image: bytes | BinaryIO | str | None
    caption: str | None
    top_k: int | None
    threshold: float | None


class Body:
    """A request's body on its way in; more than the limit is refused, whatever the headers say."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._receive: Callable[[], Awaitable[MutableMapping[str, Any]]] = request.receive
        self._limits = limits
        self._until = asyncio.get_running_loop().time() + limits.seconds
        self._size = 0
        self.finished = False
        self.tail = b""

    async def receive(self) -> MutableMapping[str, Any]:
        """The next message, as ASGI means it."""
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
        """Throw away what still comes, for some seconds: a client that is still sending reads no answer."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.finished:
                    await self._next()
        except TimeoutError:
            pass

    async def gone(self) -> None:
        """End when the client has closed its connection. Only where nothing else reads the body any more."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _next(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        self.finished = not message.get("more_body", False)
        return message


def too_large(limits: Limits) -> HTTPException:
    """A body over the limit."""
    return HTTPException(413, f"the body is larger than {limits.megabytes:g} MB")


@asynccontextmanager
async def reading(request: Request, body: Body, limits: Limits) -> AsyncIterator[Asked]:
    """What a request asks; its open file lives as long as the context.

    Raises
    ------
    HTTPException
        400, 408, 413, 415 or 422.
    """
    if request.query_params:
        raise HTTPException(422, "nothing is read from the query: send top_k and threshold in the body")
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
    except FormParserError:  # newer versions of starlette refuse it themselves
        raise HTTPException(400, "malformed form") from None


def opened(asked: Asked, limits: Limits) -> Image.Image | None:
    """The image that is asked about, of which only the header has been read. For threads: base64 takes its time.

    Raises
    ------
    HTTPException
        413: too many pixels. 422: no image.
    """
    if asked.image is None:
        return None
    try:
        image = open_image(_bytes(asked.image), FORMATS)
    except (HTTPException, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_many_pixels(limits) from None
    except Exception as error:  # decoders raise whatever they like
        raise HTTPException(422, f"image: {shown(one_line(error), 200)}") from None
    if image.width * image.height > limits.pixels:
        raise _too_many_pixels(limits)
    if max(image.size) > MAX_RATIO * min(image.size):  # scaled to the encoder's size it would be enormous
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
    return _checked(Asked(found.image or None, found.caption, found.top_k, found.threshold), limits)


def _from_form(form: FormData, limits: Limits) -> Asked:
    values = {}
    for name, value in form.multi_items():
        if name in values:
            raise HTTPException(422, f"{shown(name)}: given twice")
        if value == "":
            continue  # as browsers send what was left out
        if isinstance(value, UploadFile) != (name == "image"):
            wanted = "send a file, with a filename" if name == "image" else "send text, not a file"
            raise HTTPException(422, f"{shown(name)}: {wanted}")
        values[name] = value
    upload = values.pop("image", None)
    try:
        found = PredictForm.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from None
    chosen = upload is not None and (upload.size or upload.filename)  # a browser sends a file without a name for none
    return _checked(Asked(upload.file if chosen else None, found.caption, found.top_k, found.threshold), limits)


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
    reason = "no such field" if first["type"] == "extra_forbidden" else first["msg"]
    status = 400 if first["type"] == "json_invalid" else 422
    return HTTPException(status, shown(f"{where}: {reason}" if where else reason, 200))
