"""The web application: POST /predict, GET /health, and their documentation."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

import mmfeat
from mmfeat.common.errors import DataError, one_line
from mmfeat.common.text import shown
from mmfeat.predictor import Prediction, Predictor
from mmfeat.serving.bodies import Asked, opened, reading
from mmfeat.serving.callers import ANY, Callers, CheckedCallers
from mmfeat.serving.docs_page import HEADERS, docs_page
from mmfeat.serving.gathering import Gatherer
from mmfeat.serving.limits import Limits
from mmfeat.serving.request_body import receiving
from mmfeat.serving.schemas import Answer, Health, PredictForm, PredictJson, Problem, answer_of

logger = logging.getLogger("mmfeat.serving")

_HELP = """\
{name}: labels of an image and/or a caption.

  curl -F image=@photo.jpg -F caption='two dogs on a beach' {url}predict

GET /health describes the server and its model; /docs and /openapi.json describe the requests.
"""
_REFUSALS = {
    400: "Malformed JSON or form.",
    403: "Sent by a page of another origin.",
    408: "The body did not arrive in time.",
    413: "Body, image or caption too large.",
    415: "Neither JSON nor a form.",
    421: "The Host header names another server.",
    422: "A field is invalid, the image cannot be decoded, or the model does not read it.",
    503: "Too many requests in progress; try again.",
}


class Service:
    """A predictor that answers requests in batches.

    Attributes
    ----------
    waiting : int
        Number of requests in progress.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor, self.limits = predictor, limits
        self.waiting = 0
        self.answered = 0
        self._gatherer = Gatherer(self._prepare, self._run, max_batch=predictor.batch_size)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count a request as in progress; 503 if there are too many."""
        if self.waiting >= self.limits.waiting:
            raise _busy("too many requests are in progress")
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def predict(self, asked: Asked, gone: Awaitable[None]) -> dict[str, Any]:
        """The answer as JSON values.

        Parameters
        ----------
        gone : awaitable
            Ends when the client is gone; the answer is then not computed.

        Raises
        ------
        HTTPException
            The item is refused, or the model fails.
        ClientDisconnect
            The client is gone.
        """
        try:
            prediction = await _unless(gone, asyncio.wrap_future(self._gatherer.submit(asked)))
            answer = answer_of(prediction, asked.top_k, asked.detail)
        except (HTTPException, ClientDisconnect):
            raise
        except DataError as error:
            raise HTTPException(422, shown(one_line(error), 200)) from None
        except MemoryError:
            raise _busy("not enough memory now") from None
        except Exception as error:
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("The model failed on an item: %s\n%s", shown(one_line(error), 200), frames)
            raise HTTPException(500, "the model failed on this item") from None
        self.answered += 1
        return answer

    def health(self) -> Health:
        """The state of the server: it is always ready."""
        record = self.predictor.record
        return Health(
            status="ready",
            model=record["run"]["name"],
            classes=list(self.predictor.classes),
            encoders=self.predictor.modalities,
            device=str(self.predictor.networks.device),
            format=record["format"],
            runtime=record["runtime"],
            waiting=self.waiting,
        )

    def close(self) -> None:
        """Answer the requests in progress, then end the threads."""
        self._gatherer.close()

    def _prepare(self, asked: Asked) -> tuple[dict[str, Any], float | None]:
        return self.predictor.prepare(opened(asked, self.limits), asked.caption), asked.threshold

    def _run(self, items: list[tuple[dict[str, Any], float | None]]) -> list[Prediction]:
        prepared, thresholds = zip(*items, strict=True)
        return self.predictor.predict_prepared(prepared, thresholds)[:]


def build_app(service: Service, callers: Callers | None = None) -> FastAPI:
    """The application of a service, which is closed with it. It answers to `callers` (default: this machine)."""
    callers = callers or Callers()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    name = shown(service.predictor.record["run"]["name"])
    app = FastAPI(
        title=f"mmfeat: {name}",
        version=mmfeat.__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages of FastAPI load scripts from other hosts
        redoc_url=None,
        description="Labels and probabilities of an image, a caption, or both.",
    )
    _add_pages(app, name)

    @app.get("/health")
    async def health() -> Health:
        """The served model, once the server is ready."""
        return service.health()

    @app.post(
        "/predict",
        response_model=Answer,
        responses={status: {"model": Problem, "description": text} for status, text in _REFUSALS.items()},
        openapi_extra={"requestBody": _request_body()},
    )
    async def predict(request: Request) -> JSONResponse:
        """Labels, probabilities and unimodal probabilities of an image, a caption, or both."""
        try:
            async with receiving(request, service.limits) as body:
                with service.place():
                    async with reading(request, body, service.limits) as asked:
                        return JSONResponse(await service.predict(asked, body.gone()))
        except ClientDisconnect:
            raise HTTPException(400, "the client has gone") from None  # the client is gone
        except OSError as error:  # no file handle or disk space for an upload
            logger.error("A request could not be received: %s", shown(one_line(error), 200))
            raise _busy("no space for the upload now") from None

    if callers.origins:
        allowed = [ANY] if ANY in callers.origins else list(callers.origins)
        app.add_middleware(
            CORSMiddleware, allow_origins=allowed, allow_methods=["GET", "POST"], allow_headers=["Content-Type"]
        )
    app.add_middleware(CheckedCallers, callers=callers)  # the outermost layer
    return app


def _add_pages(app: FastAPI, name: str) -> None:
    """What people read: `/` and `/docs`."""

    @app.get("/", response_class=PlainTextResponse, include_in_schema=False)
    async def about(request: Request) -> str:
        return _HELP.format(name=name, url=request.base_url)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()), headers=HEADERS)


async def _unless(gone: Awaitable[None], answer: asyncio.Future[Any]) -> Any:
    """An answer, unless the client disconnects first."""
    watching = asyncio.ensure_future(gone)
    try:
        await asyncio.wait({answer, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        watching.cancel()


def _busy(reason: str) -> HTTPException:
    return HTTPException(503, reason, headers={"Retry-After": "1"})


def _request_body() -> dict[str, Any]:
    kinds = {"multipart/form-data": PredictForm, "application/json": PredictJson}
    return {"required": True, "content": {kind: {"schema": one.model_json_schema()} for kind, one in kinds.items()}}
