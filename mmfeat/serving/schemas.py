"""Schemas of requests and answers, as JSON and as forms; the OpenAPI description is generated from them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmfeat.predictor import Prediction

DIGITS = 6  # significant digits of an answer; float32 has 7
Detail = Literal["labels", "probabilities", "all"]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    caption: Annotated[str | None, Field(description="Text of the image; blank text is no caption.")] = None
    top_k: Annotated[int | None, Field(ge=1, description="Also return the K most probable classes as `top`.")] = None
    threshold: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Labels with a higher probability are predicted. Default: the model's own.",
        ),
    ] = None
    detail: Annotated[
        Detail,
        Field(
            description="How much to answer: `all`, `probabilities` (without `opinions`), or `labels` (without both)."
        ),
    ] = "all"


class PredictJson(_Asked):
    """An image, a caption, or both."""

    image: Annotated[
        str | None, Field(description="An image file in base64.", json_schema_extra={"contentEncoding": "base64"})
    ] = None


class PredictForm(_Asked):
    """An image, a caption, or both."""

    image: Annotated[bytes | None, Field(description="An image file.", json_schema_extra={"format": "binary"})] = None


class Ranked(BaseModel):
    """One class of `top`."""

    label: str
    probability: float


class Answer(BaseModel):
    """Labels, probabilities and unimodal probabilities, in class order. Probabilities have 6 significant digits."""

    labels: list[str]
    probabilities: Annotated[
        dict[str, float] | None, Field(description="By class. Left out with `detail` = `labels`.")
    ] = None
    opinions: Annotated[
        dict[str, dict[str, float]] | None,
        Field(
            description="Unimodal probabilities by encoder, for encoders whose modality was given. "
            "Only with `detail` = `all`."
        ),
    ] = None
    top: Annotated[list[Ranked] | None, Field(description="With `top_k`: the most probable classes first.")] = None


class Problem(BaseModel):
    """Why a request was refused, on one line."""

    detail: str


class Health(BaseModel):
    """The served model and the server's state."""

    status: str
    model: str
    classes: list[str]
    encoders: Annotated[dict[str, str], Field(description="Modality of each encoder: image or text.")]
    device: str
    format: Annotated[int, Field(description="Format of the exported folder.")]
    runtime: str
    waiting: Annotated[int, Field(description="Requests in progress.")]


def answer_of(prediction: Prediction, top_k: int | None, detail: Detail = "all") -> dict[str, Any]:
    """An :class:`Answer` as JSON values. Labels and the order of `top` are those of the unrounded probabilities.

    Raises
    ------
    ValueError
        A probability is not finite.
    """
    if not all(map(math.isfinite, prediction.probabilities.values())):
        raise ValueError("the model gives no finite probabilities")
    answer: dict[str, Any] = {"labels": prediction.labels}
    if detail != "labels":
        answer["probabilities"] = _rounded(prediction.probabilities)
    if detail == "all":
        answer["opinions"] = {name: _rounded(probs) for name, probs in prediction.unimodal.items()}
    if top_k is not None:
        top = dict(prediction.top(top_k))
        answer["top"] = [{"label": name, "probability": value} for name, value in _rounded(top).items()]
    return answer


def _rounded(probabilities: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.{DIGITS}g}") for name, value in probabilities.items()}
