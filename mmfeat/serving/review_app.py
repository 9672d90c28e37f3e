"""The web application of `mmfeat review --serve`: a page, the rows that it shows, and the answers that it saves.

Every request needs the token that was made when the server started: the page itself in its address, all others in a header,
which pages of other sites cannot send. Only the files of the page are public; they hold no data.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from importlib import resources
from typing import Any, Protocol
from urllib.parse import parse_qs

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from mmfeat.common.errors import MmfeatError, one_line
from mmfeat.common.text import shown
from mmfeat.serving.callers import Callers, CheckedCallers
from mmfeat.serving.limits import Limits
from mmfeat.serving.request_body import invalid, receiving

TOKEN_HEADER = "x-mmfeat-token"
LIMITS = Limits(megabytes=2.0, seconds=20.0)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
_MOST_ROWS = 50  # in one answer
_ASK = "open the address that mmfeat review --serve has printed: it holds the token of this server"

Message = MutableMapping[str, Any]


class Desk(Protocol):
    """What the page shows and saves: :class:`mmfeat.inference.review_desk.ReviewDesk`."""

    def overview(self) -> dict[str, Any]:
        """All rows in short, and the answers."""

    def details(self, first: int, n: int) -> list[dict[str, Any]]:
        """Rows in full."""

    def changes(self, since: int) -> dict[str, Any]:
        """The answers after a revision."""

    def answer(
        self, sample: str, labels: Sequence[str] | None, *, seen: int, undo: bool
    ) -> tuple[bool, dict[str, Any]]:
        """Save an answer: whether it is saved, and the answer that the row has now."""

    def similar(self, at: int) -> list[dict[str, Any]]:
        """The most similar rows."""

    def thumbnail(self, row: int) -> bytes | None:
        """A small JPEG."""

    def picture(self, row: int) -> bytes | None:
        """A large JPEG."""

    def apply(self) -> dict[str, Any]:
        """Apply all answers."""


class AnswerForm(BaseModel):
    """An answer of a row, or that it is taken back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    labels: list[str] | None
    seen: int = Field(ge=0)
    undo: bool = False


class Entrance:
    """Who may enter: the token, and a code that opens the page once.

    The code is for the command line of a browser, which other users of the machine can read.
    """

    def __init__(self) -> None:
        self.token, self.code = secrets.token_urlsafe(32), secrets.token_urlsafe(32)

    def admits(self, token: str) -> bool:
        """Whether a token is the right one."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def opens(self, code: str) -> bool:
        """Whether a code is the right one, for the first time."""
        right = bool(self.code) and hmac.compare_digest(code.encode("utf-8", "replace"), self.code.encode())
        self.code = "" if right else self.code
        return right


class _Guarded:
    """ASGI middleware: the token is checked, and all answers get the headers of safety."""

    def __init__(self, app: Any, entrance: Entrance, public: frozenset[str]) -> None:
        self.app, self._entrance, self._public = app, entrance, public

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Handle an ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                more = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items() if k.lower().encode() not in own]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        if scope["path"] in self._public or self._entrance.admits(_token_of(scope)):
            await self.app(scope, receive, with_headers)
        else:
            refusal = JSONResponse({"detail": _ASK}, 403, headers={"Connection": "close"})
            await refusal(scope, receive, with_headers)


def _token_of(scope: MutableMapping[str, Any]) -> str:
    """The token of a request: in its header or, for the page, in its address."""
    if scope["path"] == "/":
        return parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == TOKEN_HEADER.encode()), "")


def page_files() -> dict[str, bytes]:
    """The files of the page by name, without the stylesheet that it shares with reports, `style.css`."""
    folder = resources.files("mmfeat.serving") / "review_page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(tuple(_KINDS))}


def build_review_app(desk: Desk, entrance: Entrance, files: Mapping[str, bytes]) -> FastAPI:
    """The application of a desk.

    Parameters
    ----------
    files : mapping of str to bytes
        The files of the page by name; `review.html` is the page.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_page(app, entrance, files)
    _add_rows(app, desk)
    _add_answers(app, desk)

    @app.exception_handler(MmfeatError)
    async def refused(_: Request, error: MmfeatError) -> JSONResponse:
        return JSONResponse({"detail": one_line(error)}, 507 if isinstance(error, OSError) else 422)

    public = frozenset({"/open", *(f"/{name}" for name in files if not name.endswith(".html"))})
    app.add_middleware(_Guarded, entrance=entrance, public=public)
    app.add_middleware(CheckedCallers, callers=Callers(command=""))  # the outermost layer
    return app


def _add_page(app: FastAPI, entrance: Entrance, files: Mapping[str, bytes]) -> None:
    """The page, its files, and the way in by a code."""

    @app.get("/")
    async def page() -> Response:
        return _file("review.html", files)

    @app.get("/open")
    async def open_page(code: str = "") -> Response:
        if not entrance.opens(code):
            raise HTTPException(403, _ASK)
        return RedirectResponse(f"/?token={entrance.token}", 303)

    @app.get("/{name}")
    async def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return _file(name, files)


def _file(name: str, files: Mapping[str, bytes]) -> Response:
    return Response(files[name], media_type=_KINDS[name[name.rindex(".") :]])


def _add_rows(app: FastAPI, desk: Desk) -> None:
    """What the page shows. Plain functions run in threads."""

    @app.get("/api/overview")
    def overview() -> JSONResponse:
        return JSONResponse(desk.overview())

    @app.get("/api/details")
    def details(first: int, n: int = 1) -> JSONResponse:
        if first < 0 or not 1 <= n <= _MOST_ROWS:
            raise HTTPException(422, f"first: 0 or more; n: 1 to {_MOST_ROWS}")
        return JSONResponse(desk.details(first, n))

    @app.get("/api/similar")
    def similar(at: int) -> JSONResponse:
        try:
            return JSONResponse(desk.similar(at) if at >= 0 else [])
        except IndexError:
            raise HTTPException(404, "no such row") from None

    @app.get("/api/changes")
    def changes(since: int) -> JSONResponse:
        return JSONResponse(desk.changes(since))

    @app.get("/api/thumbnail/{row}")
    def thumbnail(row: int) -> Response:
        return _jpeg(desk.thumbnail, row)

    @app.get("/api/picture/{row}")
    def picture(row: int) -> Response:
        return _jpeg(desk.picture, row)


def _jpeg(read: Callable[[int], bytes | None], row: int) -> Response:
    try:
        data = read(row) if row >= 0 else None
    except IndexError:
        data = None
    if data is None:
        raise HTTPException(404, "no readable picture")
    return Response(data, media_type="image/jpeg")


def _add_answers(app: FastAPI, desk: Desk) -> None:
    """What the page saves."""

    @app.post("/api/answer")
    async def answer(request: Request) -> JSONResponse:
        try:
            async with receiving(request, LIMITS) as body:
                data = await Request(request.scope, body.receive).body()
                form = AnswerForm.model_validate_json(data)
        except ValidationError as error:
            raise invalid(error, AnswerForm) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client has gone") from None
        try:
            saved, now = await asyncio.to_thread(desk.answer, form.id, form.labels, seen=form.seen, undo=form.undo)
        except KeyError as error:
            raise HTTPException(422, f"no row or class {shown(repr(error.args[0]))}") from None
        return JSONResponse(now, 200 if saved else 409)

    @app.post("/api/apply")
    def apply() -> JSONResponse:
        return JSONResponse(desk.apply())
