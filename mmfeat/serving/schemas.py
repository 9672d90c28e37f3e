"""What is asked and answered, as JSON and as a form; the OpenAPI description is made of these."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mmfeat.predictor import Prediction


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    caption: Annotated[str | None, Field(description="Words that go with the image; a blank one is none.")] = None
    top_k: Annotated[int | None, Field(ge=1, description="Give the K most probable classes as `top` too.")] = None
    threshold: Annotated[
        float | None,
        Field(ge=0, le=1, allow_inf_nan=False, description="A label needs a probability above it; the model's own."),
    ] = None


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
    """Labels, probabilities and each encoder's opinion, in the order of the classes."""

    labels: list[str]
    probabilities: dict[str, float]
    opinions: Annotated[
        dict[str, dict[str, float]],
        Field(description="By encoder: its probabilities alone, where it had its modality."),
    ]
    top: Annotated[list[Ranked] | None, Field(description="Where `top_k` was given: the most probable first.")] = None


class Problem(BaseModel):
    """Why a request was refused, on one line."""

    detail: str


class Health(BaseModel):
    """What is served."""

    status: str
    model: str
    classes: list[str]
    encoders: Annotated[dict[str, str], Field(description="Name to modality: image or text.")]
    device: str
    format: Annotated[int, Field(description="Of the exported folder.")]
    runtime: str
    waiting: Annotated[int, Field(description="Requests under way.")]


def answer_of(prediction: Prediction, top_k: int | None) -> dict:
    """An :class:`Answer` as JSON values.

    Raises
    ------
    ValueError
        A probability is no number.
    """
    if not all(map(math.isfinite, prediction.probabilities.values())):
        raise ValueError("the model gives no finite probabilities")
    answer = {
        "labels": prediction.labels,
        "probabilities": prediction.probabilities,
        "opinions": prediction.opinions,
    }
    if top_k is not None:
        answer["top"] = [{"label": name, "probability": value} for name, value in prediction.top(top_k)]
    return answer
