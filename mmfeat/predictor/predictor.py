"""Predictor: labels and probabilities of images and captions by an exported model, without the project that made it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.text import counted, shown
from mmfeat.config.encoder_tables import MODALITY_TABLES, ImageEncoderConfig
from mmfeat.encoders.batches import (
    Batch,
    UndecodableSample,
    UnreadSample,
    groups_of,
    prepared_batches,
)
from mmfeat.encoders.given_images import ImageLike
from mmfeat.encoders.kinds import EncoderKind, kind_of_record, modality_kind
from mmfeat.heads.head import tokens_of
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor.engines import OnnxEngine, TorchEngine
from mmfeat.predictor.folder import read_folder
from mmfeat.predictor.predictions import Prediction, Predictions

_FLOAT16_MAX = 65504.0


class Predictor:
    """A model in memory; any number of threads may call `predict` at once.

    Parameters
    ----------
    engine : TorchEngine or OnnxEngine
        What runs the networks.
    record : dict
        What the folder's mmfeat.json holds.

    Attributes
    ----------
    classes : tuple of str
        The K class names.
    modalities : dict of str to str
        Encoder to `image` or `text`.
    decision : DecisionRule
        The temperature, the threshold or thresholds, and the rule for empty rows that the run was exported with.
    """

    def __init__(self, engine: Any, record: dict[str, Any]) -> None:
        self.engine, self.record = engine, record
        self.classes, self.decision = tuple(record["classes"]), DecisionRule.of(record["predict"])
        self.modalities = {name: encoder["modality"] for name, encoder in record["encoders"].items()}
        self.kinds = {name: kind_of_record(encoder) for name, encoder in record["encoders"].items()}

    @classmethod
    def load(cls, folder: Path | str, device: str = "auto") -> Predictor:
        """Load what `mmfeat export` wrote.

        Parameters
        ----------
        device : str
            `auto`, `cpu`, `cuda`, `cuda:1`.

        Raises
        ------
        RunError
            The folder is incomplete, changed, of a newer format, or cannot be built by this version.
        ConfigError
            There is no such device, or onnxruntime is needed and not installed.
        """
        folder = Path(folder).expanduser().absolute()
        record = read_folder(folder)
        engine = OnnxEngine if record["runtime"] == "onnx" else TorchEngine
        return cls(engine.load(folder, record, device), record)

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike | None] | None = None,
        captions: str | Sequence[str | None] | None = None,
        *,
        others: dict[str, Sequence[Any]] | None = None,
        batch_size: int | None = None,
        threshold: float | np.ndarray | None = None,
        on_error: str = "raise",
    ) -> Predictions | Prediction:
        """Labels, probabilities and each encoder's own opinion of one item or of many.

        Parameters
        ----------
        images, captions
            One or a list of each: an image is a path, a file's bytes, a PIL image or an array `(H, W, 3)` or `(H, W)` of
            uint8 (RGB, RGBA or grey: of any other mode give the PIL image); a caption is a str. None, and a blank caption, are a modality that is missing.
        others : dict of str to sequence, optional
            Samples of modalities that installed packages bring, by modality: as many as images or captions, None where
            one is missing.
        batch_size : int, optional
            Items encoded at a time.
        threshold : float or (K,) array, optional
            A label needs a probability above it; the model's own, when None.
        on_error : str
            Where an image cannot be read: `raise`, or `record` the reason and go by the caption.

        Returns
        -------
        Prediction or Predictions
            One :class:`Prediction` for one item, else :class:`Predictions` in the order of the items.

        Raises
        ------
        DataError
            Not as many captions as images, something that is neither, or an image that cannot be read.
        """
        if on_error not in ("raise", "record"):
            raise DataError(f"on_error = {on_error!r}. Use one of: raise, record")
        if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
            raise DataError(f"batch_size = {batch_size!r}: give a whole number from 1, or None")
        self._check_threshold(threshold)
        n_others = {len(samples) for samples in (others or {}).values()}
        if images is None and captions is None and n_others:
            images = [None] * max(n_others)
        images, captions, single = _as_lists(images, captions)
        samples = {"image": images, "text": captions, **(others or {})}
        self._check(samples)
        embeddings, present, errors = {}, {}, {}
        for name, modality in self.modalities.items():
            before = set(errors)
            self._encode(name, samples.get(modality, [None] * len(images)), batch_size, embeddings, present, errors)
            if on_error == "raise" and (odd := min(set(errors) - before, default=None)) is not None:
                what = f"{self.kinds[name].settings.sample} {odd}{_named(samples[modality][odd])}"
                raise DataError(f"{what}: {errors[odd]}. To go by the {_rest(modality)}: on_error='record'")
        found = self.decided(embeddings, present, threshold, errors)
        return found[0] if single else found

    def prepare(self, image: ImageLike | None = None, caption: str | None = None) -> dict[str, Any]:
        """All of one item's work before the networks, which any thread may do: what `predict_prepared` takes.

        Raises
        ------
        DataError
            It is no such item, or its image cannot be read.
        """
        images, captions, _ = _as_lists([image], [caption])
        given = {"image": images, "text": captions}
        self._check(given)
        samples = {
            name: given[modality][0] if modality in given else None for name, modality in self.modalities.items()
        }
        try:
            return {name: None if sample is None else self._prepared(name, sample) for name, sample in samples.items()}
        except (UndecodableSample, UnreadSample) as error:
            raise DataError(f"image{_named(image)}: {error}") from None

    def predict_prepared(
        self, items: Sequence[dict[str, Any]], thresholds: Sequence[float | None] | None = None
    ) -> Predictions:
        """Predict what `prepare` made, by each item's threshold or, where that is None, the model's own."""
        own = np.broadcast_to(self.decision.threshold, len(self.classes))
        rules = [own if one is None else np.full_like(own, one, float) for one in thresholds or [None] * len(items)]
        embeddings, present = {}, {}
        for name in self.modalities:
            samples, collate = [item[name] for item in items], self.engine.preparations[name].collate
            groups = _groups(self.kinds[name], samples, self._full_batch(name))
            batches = (Batch(rows, collate([samples[row] for row in rows]), {}, {}) for rows in groups)
            self._embed(name, len(items), batches, embeddings, present, {})
        return self.decided(embeddings, present, np.stack(rules))

    def decided(
        self,
        embeddings: dict[str, np.ndarray],
        present: dict[str, np.ndarray],
        threshold: float | np.ndarray | None = None,
        errors: dict[int, str] | None = None,
    ) -> Predictions:
        """From embeddings `(N, D)` float32 and presence `(N,)` bool by encoder to predictions.

        Tokens `(N, T, d)` of encoders whose tokens the model reads, and which are there, stand under `NAME/tokens`.
        """
        decision = self.decision if threshold is None else dataclasses.replace(self.decision, threshold=threshold)
        return Predictions.of(self.classes, self.engine.compose(embeddings, present), present, decision, errors)

    def _encode(
        self,
        name: str,
        samples: Sequence[Any],
        batch_size: int | None,
        embeddings: dict[str, np.ndarray],
        present: dict[str, np.ndarray],
        errors: dict[int, str],
    ) -> None:
        """Samples are prepared in threads while others are encoded; as :meth:`_embed`."""
        collate = self.engine.preparations[name].collate
        groups = _groups(self.kinds[name], samples, batch_size or self._batch_size(name, len(samples)))
        batches = prepared_batches(groups, lambda row: self._prepared(name, samples[row]), collate)
        self._embed(name, len(samples), batches, embeddings, present, errors)

    def _prepared(self, name: str, sample: Any) -> Any:
        return self.engine.preparations[name].prepare(self.kinds[name].given(sample))

    def _embed(
        self,
        name: str,
        n: int,
        batches: Iterable[Batch],
        embeddings: dict[str, np.ndarray],
        present: dict[str, np.ndarray],
        errors: dict[int, str],
    ) -> None:
        """Add what :meth:`decided` takes of one encoder, zeros where not present, and the errors."""
        shapes = {name: (n, self.record["encoders"][name]["width"])}
        if read := self.engine.tokens.get(name):
            shapes[tokens_of(name)] = (n, *read.shape)
        for key, shape in shapes.items():
            embeddings[key], present[key] = np.zeros(shape, np.float32), np.zeros(shape[:-1], dtype=bool)
        for batch in batches:
            errors |= batch.undecodable | batch.unread
            if batch.inputs is not None:
                encoded = self.engine.encode(name, batch.inputs)
                embeddings[name][batch.rows] = self.rounded(encoded.embeddings)
                present[name][batch.rows] = True
                if read:
                    embeddings[tokens_of(name)][batch.rows] = self.rounded(encoded.tokens)
                    there = np.arange(read.shape[0]) < np.asarray(encoded.lengths)[:, None]
                    present[tokens_of(name)][batch.rows] = there

    def rounded(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings as a feature store keeps them, which heads were fitted on: rounded to its dtype, as float32."""
        if self.record["embeddings"] == "float16":
            return embeddings.clip(-_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16).astype(np.float32)
        return embeddings

    @property
    def batch_size(self) -> int:
        """Items that are best predicted together."""
        return min(map(self._full_batch, self.modalities))

    def _batch_size(self, name: str, n: int) -> int:
        if self.engine.device.type != "cpu":
            return self._full_batch(name)
        # few items: batches small enough that some are prepared while others are encoded
        return min(self._full_batch(name), max(4, n // 8))

    def _full_batch(self, name: str) -> int:
        return self.kinds[name].usual_batch_size(self.engine.device.type)

    def _check_threshold(self, threshold: Any) -> None:
        values = None if threshold is None or isinstance(threshold, str) else np.asarray(threshold)
        plain = values is not None and values.dtype.kind in "iuf" and values.shape in ((), (len(self.classes),))
        if threshold is not None and not (plain and ((values >= 0) & (values <= 1)).all()):
            raise DataError(f"threshold = {shown(threshold)}: give a number from 0 to 1, or one for each class")

    def _check(self, samples: dict[str, Sequence[Any]]) -> None:
        """Refuse samples of a modality that no encoder reads, and lists of another length than the images'."""
        n, known = len(samples["image"]), ", ".join(self.modalities)
        for modality, given in samples.items():
            if modality not in self.modalities.values() and any(sample is not None for sample in given):
                what = modality_kind(modality).reads if modality in MODALITY_TABLES else f"samples of {modality!r}"
                raise DataError(f"this model reads no {what}: its encoders are {known}")
            if len(given) != n:
                raise DataError(
                    f"{counted(len(given), 'sample')} of {modality!r} for {counted(n, 'item')}. Give as many"
                )


def _rest(modality: str) -> str:
    return "captions" if modality == ImageEncoderConfig.modality else "other modalities"


def _groups(kind: EncoderKind, samples: Sequence[Any], size: int) -> list[np.ndarray]:
    """Rows of the samples that are there, cut into batches."""
    rows = np.array([i for i, sample in enumerate(samples) if sample is not None], dtype=np.int64)
    if kind.by_length and len(rows):  # saves padding
        rows = rows[np.argsort([kind.length(samples[row]) for row in rows], kind="stable")]
    return groups_of(rows, size)


def _as_lists(images: Any, captions: Any) -> tuple[list[Any], list[Any], bool]:
    """Both as lists of one length, blank captions as None, and whether one item was given rather than a list."""
    if isinstance(images, np.ndarray) and (images.ndim == 4 or images.dtype.kind in "OU"):  # of images, of paths
        images = list(images)
    single = (images is None or isinstance(images, ImageLike)) and (captions is None or isinstance(captions, str))
    images = _listed(images, ImageLike, "images")
    captions = _listed(captions, str, "captions")
    n = max(len(given) for given in (images, captions, [None] if single else []) if given is not None)
    images, captions = ([None] * n if given is None else given for given in (images, captions))
    if len(images) != len(captions):
        found = f"{counted(len(images), 'image')} and {counted(len(captions), 'caption')}"
        raise DataError(f"{found}: give as many of both, None where one is missing")
    for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
        if not (caption is None or isinstance(caption, str)):
            raise DataError(f"caption {row} is a {type(caption).__name__}, not a str or None")
        if not (image is None or isinstance(image, ImageLike)):
            wanted = "a path, bytes, a PIL image, an array or None"
            raise DataError(f"image {row} is a {type(image).__name__}, not {wanted}")
    return images, [caption if caption is not None and caption.strip() else None for caption in captions], single


def _listed(given: Any, one: Any, what: str) -> list[Any] | None:
    """A list of what was given, one or many; None where nothing was."""
    if given is None or isinstance(given, one):
        return None if given is None else [given]
    try:
        return list(given)
    except TypeError:
        raise DataError(f"{what} are a {type(given).__name__}: give one, a list, or None") from None


def _named(image: Any) -> str:
    return f" ({shown(image, 200)})" if isinstance(image, str | Path) else ""
