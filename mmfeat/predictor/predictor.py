"""Predictor: predicts labels of images and captions with an exported model, without its project."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
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
    some_prepared,
)
from mmfeat.encoders.given_images import ImageLike
from mmfeat.encoders.kinds import EncoderKind, kind_of_record, modality_kind
from mmfeat.heads.head import tokens_of
from mmfeat.metrics.decision_rule import DecisionRule
from mmfeat.predictor.folder import read_folder
from mmfeat.predictor.loaded_networks import OnnxNetworks, TorchNetworks
from mmfeat.predictor.predictions import Prediction, Predictions

_FLOAT16_MAX = 65504.0
LONG = 5.0  # seconds of a call's work with torch from which on engines are measured
_MANY = 10**6


class Predictor:
    """A loaded model; several threads may call `predict` at the same time.

    Parameters
    ----------
    networks : TorchNetworks or OnnxNetworks
        Encoders and heads.
    record : dict
        The content of the folder's mmfeat.json.

    Attributes
    ----------
    classes : tuple of str
        The K class names.
    modalities : dict of str to str
        The modality of each encoder: `image` or `text`.
    decision : DecisionRule
        The exported decision rule: temperature, threshold or thresholds, and the rule for empty rows.
    """

    def __init__(self, networks: Any, record: dict[str, Any] | None = None) -> None:
        if record is None:
            raise TypeError(f"Predictor({str(networks)!r}): an exported folder is opened by Predictor.load(FOLDER)")
        self.networks, self.record = networks, record
        self.classes, self.decision = tuple(record["classes"]), DecisionRule.of(record["predict"])
        self.modalities = {name: encoder["modality"] for name, encoder in record["encoders"].items()}
        self.kinds = {name: kind_of_record(encoder) for name, encoder in record["encoders"].items()}

    @classmethod
    def load(cls, folder: Path | str, device: str = "auto", *, engine: str = "auto") -> Predictor:
        """Load a folder that `mmfeat export` wrote.

        Parameters
        ----------
        device : str
            `auto`, `cpu`, `cuda`, `cuda:1`.
        engine : str
            Executes the encoders: `torch`, `compile`, `onnxruntime`, `openvino`; `auto`: the fastest, if it is known on this
            machine or a call is long enough to measure it, otherwise torch.

        Raises
        ------
        RunError
            The folder is incomplete, changed or of a newer format, or this version cannot build its networks.
        ConfigError
            The device or the engine does not exist, or is not installed.
        """
        folder = Path(folder).expanduser().absolute()
        record = read_folder(folder)
        networks = OnnxNetworks if record["runtime"] == "onnx" else TorchNetworks
        return cls(networks.load(folder, record, device, engine), record)

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
        """Predict labels, probabilities and unimodal probabilities of one or several items.

        Parameters
        ----------
        images, captions
            One item or a list. An image is a path, a file's bytes, a PIL image, or an array `(H, W, 3)`, `(H, W, 4)` or
            `(H, W)` of uint8 (RGB, RGBA or grey; pass other modes as PIL images). A caption is a str. None and a blank
            caption are a missing modality.
        others : dict of str to sequence, optional
            Samples of modalities that installed packages bring, by modality: as many as images or captions, None where
            one is missing.
        batch_size : int, optional
            Items encoded at a time.
        threshold : float or (K,) array, optional
            Labels with a higher probability are predicted (default: the model's own thresholds).
        on_error : str
            If an image cannot be read: `raise`, or `record` the reason and predict from the caption.

        Returns
        -------
        Prediction or Predictions
            :class:`Prediction` for one item, :class:`Predictions` for a list, in the order of the items.

        Raises
        ------
        DataError
            The numbers of captions and images differ, a value has a wrong type, or an image cannot be read.
        """
        _check_options(batch_size, on_error)
        self._check_threshold(threshold)
        n_others = {len(samples) for samples in (others or {}).values()}
        if images is None and captions is None and n_others:
            images = [None] * max(n_others)
        images, captions, single = _as_lists(images, captions)
        samples = {"image": images, "text": captions, **(others or {})}
        self._check(samples)
        embeddings: dict[str, np.ndarray] = {}
        present: dict[str, np.ndarray] = {}
        errors: dict[int, str] = {}
        for name, modality in self.modalities.items():
            before = set(errors)
            own = samples.get(modality, [None] * len(images))
            self._encode(name, own, batch_size, embeddings=embeddings, present=present, errors=errors)
            if on_error == "raise" and (odd := min(set(errors) - before, default=None)) is not None:
                what = f"{self.kinds[name].settings.sample} {odd}{_named(own[odd])}"
                raise DataError(f"{what}: {errors[odd]}. To predict from the {_rest(modality)}: on_error='record'")
        found = self.predict_embeddings(embeddings, present, threshold, errors=errors)
        return found[0] if single else found

    def prepare(self, image: ImageLike | None = None, caption: str | None = None) -> dict[str, Any]:
        """Prepare one item for `predict_prepared`: all work before the networks; thread-safe.

        Raises
        ------
        DataError
            The item has a wrong type, or its image cannot be read.
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
        """Predict prepared items, with each item's threshold or, if it is None, the model's own."""
        own = np.broadcast_to(self.decision.threshold, len(self.classes))
        rules = [own if one is None else np.full_like(own, one, float) for one in thresholds or [None] * len(items)]
        embeddings: dict[str, np.ndarray] = {}
        present: dict[str, np.ndarray] = {}
        for name in self.modalities:
            samples, collate = [item[name] for item in items], self.networks.preparations[name].collate
            groups = _groups(self.kinds[name], samples, self._full_batch(name))
            batches = (Batch(rows, collate([samples[row] for row in rows]), {}, unread={}) for rows in groups)
            self._embed(name, len(items), batches, embeddings=embeddings, present=present, errors={})
        return self.predict_embeddings(embeddings, present, np.stack(rules))

    def predict_embeddings(
        self,
        embeddings: dict[str, np.ndarray],
        present: dict[str, np.ndarray],
        threshold: float | np.ndarray | None = None,
        *,
        errors: dict[int, str] | None = None,
    ) -> Predictions:
        """Predict from embeddings `(N, D)` float32 and presence `(N,)` bool by encoder.

        If the model reads an encoder's tokens, the keys `NAME/tokens` hold tokens `(N, T, d)` and their presence.
        """
        decision = self.decision if threshold is None else dataclasses.replace(self.decision, threshold=threshold)
        return Predictions.of(
            self.classes, self.networks.compose(embeddings, present), present, decision=decision, errors=errors
        )

    def _encode(
        self,
        name: str,
        samples: Sequence[Any],
        batch_size: int | None,
        *,
        embeddings: dict[str, np.ndarray],
        present: dict[str, np.ndarray],
        errors: dict[int, str],
    ) -> None:
        """Encode samples with one encoder; samples are prepared in threads meanwhile. Output as in :meth:`_embed`."""
        collate = self.networks.preparations[name].collate

        def load(row: int) -> Any:
            return self._prepared(name, samples[row])

        there = np.array([row for row, sample in enumerate(samples) if sample is not None], dtype=np.int64)
        self.networks.select(name, len(there), lambda: list(some_prepared(there, load).values()), LONG)
        groups = _groups(self.kinds[name], samples, batch_size or self._batch_size(name, len(samples)))
        batches = prepared_batches(groups, load, collate)
        self._embed(name, len(samples), batches, embeddings=embeddings, present=present, errors=errors)

    def select_engines(self) -> dict[str, str]:
        """Measure the engines of each encoder on generated samples if the fastest is not known; for a server that starts.

        An engine that was measured so answers once it has agreed with torch on the first real samples; torch answers before.

        Returns
        -------
        dict of str to str
            Engine and arithmetic by encoder.
        """
        for name, kind in self.kinds.items():
            preparation = self.networks.preparations[name]
            samples = functools.partial(kind.generated, preparation)
            self.networks.select(name, _MANY, samples, generated=True)
        return self.networks.engines

    def _prepared(self, name: str, sample: Any) -> Any:
        return self.networks.preparations[name].prepare(self.kinds[name].given(sample))

    def _embed(
        self,
        name: str,
        n: int,
        batches: Iterable[Batch],
        *,
        embeddings: dict[str, np.ndarray],
        present: dict[str, np.ndarray],
        errors: dict[int, str],
    ) -> None:
        """Add one encoder's embeddings (zeros for missing rows), presence and errors to the dicts."""
        shapes = {name: (n, self.record["encoders"][name]["width"])}
        if read := self.networks.tokens.get(name):
            shapes[tokens_of(name)] = (n, *read.shape)
        for key, shape in shapes.items():
            embeddings[key], present[key] = np.zeros(shape, np.float32), np.zeros(shape[:-1], dtype=bool)
        for batch in batches:
            errors |= batch.undecodable | batch.unread
            if batch.inputs is not None:
                encoded = self.networks.encode(name, batch.inputs)
                embeddings[name][batch.rows] = self.rounded(encoded.embeddings)
                present[name][batch.rows] = True
                if read:
                    embeddings[tokens_of(name)][batch.rows] = self.rounded(encoded.tokens)
                    there = np.arange(read.shape[0]) < np.asarray(encoded.lengths)[:, None]
                    present[tokens_of(name)][batch.rows] = there

    def rounded(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings rounded to the feature store's dtype, as heads were fitted on them; float32."""
        if self.record["embeddings"] == "float16":
            return embeddings.clip(-_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16).astype(np.float32)
        return embeddings

    @property
    def batch_size(self) -> int:
        """A good number of items to predict together."""
        return min(map(self._full_batch, self.modalities))

    def _batch_size(self, name: str, n: int) -> int:
        if self.networks.device.type != "cpu":
            return self._full_batch(name)
        # for few items, smaller batches: some are prepared while others are encoded
        return min(self._full_batch(name), max(4, n // 8))

    def _full_batch(self, name: str) -> int:
        return self.kinds[name].usual_batch_size(self.networks.device.type)

    def _check_threshold(self, threshold: Any) -> None:
        values = np.asarray(np.nan if threshold is None or isinstance(threshold, str) else threshold)
        plain = values.dtype.kind in "iuf" and values.shape in ((), (len(self.classes),))
        if threshold is not None and not (plain and bool(((values >= 0) & (values <= 1)).all())):
            raise DataError(f"threshold = {shown(threshold)}: give a number from 0 to 1, or one for each class")

    def _check(self, samples: Mapping[str, Sequence[Any]]) -> None:
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


def _check_options(batch_size: int | None, on_error: str) -> None:
    if on_error not in ("raise", "record"):
        raise DataError(f"on_error = {on_error!r}. Use one of: raise, record")
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
        raise DataError(f"batch_size = {batch_size!r}: give a whole number from 1, or None")


def _rest(modality: str) -> str:
    return "captions" if modality == ImageEncoderConfig.modality else "other modalities"


def _groups(kind: EncoderKind, samples: Sequence[Any], size: int) -> list[np.ndarray]:
    """Rows of the present samples, in batches."""
    rows = np.array([i for i, sample in enumerate(samples) if sample is not None], dtype=np.int64)
    if kind.by_length and len(rows):  # less padding
        rows = rows[np.argsort([kind.length(samples[row]) for row in rows], kind="stable")]
    return groups_of(rows, size)


def _as_lists(images: Any, captions: Any) -> tuple[list[Any], list[Any], bool]:
    """Both as lists of equal length, blank captions as None, and whether a single item was given."""
    if isinstance(images, np.ndarray) and (images.ndim == 4 or images.dtype.kind in "OU"):  # of images, of paths
        images = list(images)
    single = (images is None or isinstance(images, ImageLike)) and (captions is None or isinstance(captions, str))
    images = _listed(images, ImageLike, "images")
    captions = _listed(captions, str, "captions")
    n = max(len(given) for given in (images, captions, [None] if single else []) if given is not None)
    images, captions = ([None] * n if given is None else given for given in (images, captions))
    if len(images) != len(captions):
        found = f"{counted(len(images), 'image')} and {counted(len(captions), 'caption')}"
        raise DataError(f"{found}: give equally many, with None for a missing one")
    for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
        if not (caption is None or isinstance(caption, str)):
            raise DataError(f"caption {row} is a {type(caption).__name__}, not a str or None")
        if not (image is None or isinstance(image, ImageLike)):
            wanted = "a path, bytes, a PIL image, an array or None"
            raise DataError(f"image {row} is a {type(image).__name__}, not {wanted}")
    return images, [caption if caption is not None and caption.strip() else None for caption in captions], single


def _listed(given: Any, one: Any, what: str) -> list[Any] | None:
    """The given item or items as a list; None without any."""
    if given is None or isinstance(given, one):
        return None if given is None else [given]
    try:
        return list(given)
    except TypeError:
        raise DataError(f"{what} are a {type(given).__name__}: give one, a list, or None") from None


def _named(image: Any) -> str:
    return f" ({shown(image, 200)})" if isinstance(image, str | Path) else ""
