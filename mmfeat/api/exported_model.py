"""Predictions by an exported model, without a project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmfeat.api.open_project import texts
from mmfeat.common.progress import quiet

if TYPE_CHECKING:
    from mmfeat.workflows.predict import NewPredictions

Paths = str | Path | Sequence[str | Path]


def predict(
    model: str | Path,
    *samples: str | Path,
    caption: str = "",
    captions: str | Path = "",
    images: Paths = (),
    column: dict[str, str] | None = None,
    threshold: float | str | None = None,
    engine: str | None = None,
    device: str | None = None,
    top_k: int | None = None,
    format: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> NewPredictions:
    """Predict samples with a model that `export` wrote, without a project.

    Parameters
    ----------
    model : Path
        The folder of the exported model.
    samples : Path
        A table; a picture; a folder, an archive or a pattern of pictures, or several of these. May be empty with `caption`.
    caption : str
        One caption, with one picture or alone.
    captions, images, column
        Captions of several pictures (a table); images of a table; columns by role, such as `{"caption": "Title"}`.
    threshold : float, optional
        Overrides the model's own threshold. `engine` and `device` are those of :meth:`mmfeat.Predictor.load`.
    out : Path, optional
        The file to write; no file, if None.
    progress : bool
        Whether to show progress and notes on stderr.

    Raises
    ------
    RunError
        The folder is not an exported model that this version can read.
    DataError
        The samples cannot be read.
    """
    from mmfeat.workflows.predict import predict_new

    with quiet(not progress):
        return predict_new(
            [str(sample) for sample in samples],
            caption=caption,
            captions=str(captions),
            images=texts(images),
            columns=column,
            model=str(model),
            threshold=threshold,
            engine=engine,
            device=device,
            top_k=top_k,
            format=format,
            out=out,
            overwrite=overwrite,
        )
