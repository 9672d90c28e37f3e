"""Cached layers of an encoder: activations at a cut, computed once for some rows, and read as arrays afterwards."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from mmfeat.common.devices import provenance, torch_device
from mmfeat.common.errors import StoreError
from mmfeat.encoders.batches import UndecodableSample
from mmfeat.encoders.cut import ACTIVATIONS, MIRRORED
from mmfeat.encoders.front import BUCKET, FrontEncoder, bucket_of, lengths_of
from mmfeat.encoders.kinds import kind_of
from mmfeat.encoders.tail import FrontRow
from mmfeat.extraction import Session, distinct_rows, extract_encoder
from mmfeat.project.project import Project
from mmfeat.project.redecoding import rows_to_decode_again
from mmfeat.store import EncoderFeatures, UnstorableRow

_SAMPLED = 256  # captions whose mean length the size of all is estimated from


class CachedFront:
    """The front of an encoder before its last `trained` stages, in the store.

    Parameters
    ----------
    encoder : Encoder
        The built encoder, which is only encoded with.
    """

    def __init__(self, project: Project, name: str, encoder: Any, trained: int) -> None:
        self.project, self.name, self.cut = project, name, encoder.cut(trained)
        self.kind = kind_of(project.config.encoder[name])
        views, storage = self.kind.views(project.config, name), project.config.store.dtype
        self.fronts = [FrontEncoder(self.cut, view, storage) for view in views]
        self.both = bool(getattr(encoder, "flip", False))  # an embedding is the mean over both mirror images

    @functools.cached_property
    def specs(self) -> list[Any]:
        """The specification of each view's front; its key is the front key."""
        return [front.spec() for front in self.fronts]

    @property
    def keys(self) -> list[str]:
        """The front keys."""
        return [spec.key for spec in self.specs]

    def features(self, view: int) -> EncoderFeatures:
        """The stored activations of one view."""
        return self.project.store.encoder(self.specs[view])

    @property
    def problems(self) -> list[str]:
        """Damaged files, one line each; their rows count as missing."""
        return [problem for view in range(len(self.fronts)) for problem in self.features(view).problems]

    @functools.cached_property
    def _row_keys(self) -> Any:
        return self.project.row_keys(self.kind.modality, self.project.source_of(self.kind.modality, self.name))

    def rows_of(self, view: int, train: np.ndarray, val: np.ndarray) -> np.ndarray:
        """The rows that one view is needed for: val rows are not augmented."""
        return np.concatenate([train, val]) if not view or self.both else train

    def missing(self, view: int, rows: np.ndarray) -> np.ndarray:
        """The rows that are not stored, one for each distinct sample."""
        keys, present = self._row_keys.keys, self._row_keys.present
        rows = rows[present[rows]]
        return distinct_rows(keys, rows[self.features(view).lookup(keys[rows]).missing])

    def n_bytes(self, n_rows: int) -> int:
        """About how many bytes the activations of some rows take, in one view."""
        front = self.fronts[0]
        if not front.texts:
            return n_rows * front.row_bytes()
        present = np.flatnonzero(self._row_keys.present)
        some = present[np.linspace(0, len(present) - 1, min(_SAMPLED, len(present)), dtype=int)]
        read = self.project.reader(self.name)
        lengths = lengths_of(front, [read(int(row)) for row in some])
        return int(n_rows * np.mean([front.row_bytes(int(length)) for length in lengths]))

    def session(self, view: int) -> Session:
        """One view's front on the project's device, ready to encode."""
        config = self.project.config
        device = torch_device(config.device)
        meta = provenance(device) | self.kind.recorded(config)
        front = self.fronts[view].to(device).eval()
        return Session(front, device, self.kind.usual_batch_size(device.type), meta)

    def cache(self, train: np.ndarray, val: np.ndarray) -> None:
        """Compute what the store lacks. An interrupted call keeps what it has computed.

        Raises
        ------
        StoreError
            The store cannot be written, or a value does not fit into its dtype.
        """
        for view, front in enumerate(self.fronts):
            self.project.refer(self.specs[view].key)
            rows = self.rows_of(view, train, val)
            as_encoder = dataclasses.replace(self.project.pretrained(self.name), spec=self.specs[view])
            again = rows_to_decode_again(self.project, as_encoder)
            try:
                for present, tokens in self._groups(view, rows):
                    extract_encoder(
                        self.features(view),
                        functools.partial(self.session, view),
                        self._row_keys.keys,
                        present=present,
                        read=self.project.reader(self.name),
                        name=f"{self.name}, layers to cache ({front.view.name})",
                        tokens=tokens,
                        again=again,
                    )
            except UnstorableRow as error:
                row = str(self.project.manifest.ids[error.row])
                raise StoreError(f"encoder {self.name!r}, row {row!r}: {error}") from None

    def _groups(self, view: int, rows: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Masks of rows that are stored alike, `(N,)` bool, with their number of tokens: 0 for images."""
        rows = rows[self._row_keys.present[rows]]
        if not self.fronts[view].texts:
            return [(self._mask(rows), 0)]
        buckets = np.array([bucket_of(int(length)) for length in self._lengths(view, rows)], dtype=np.int64)
        return [(self._mask(rows[buckets == bucket]), int(bucket)) for bucket in np.unique(buckets)]

    def _mask(self, rows: np.ndarray) -> np.ndarray:
        mask = np.zeros(self.project.manifest.n_samples, dtype=bool)
        mask[rows] = True
        return mask

    def _lengths(self, view: int, rows: np.ndarray) -> np.ndarray:
        """The number of tokens of captions: as stored, otherwise counted."""
        features, keys = self.features(view), self._row_keys.keys
        found, lengths = features.lookup(keys[rows]), np.zeros(len(rows), np.int64)
        lengths[found.good] = features.embeddings(found).with_width(1)[found.good][:, 0]
        todo, read = np.flatnonzero(~found.good), self.project.reader(self.name)
        for some in np.array_split(todo, -(-len(todo) // 512)) if len(todo) else ():
            lengths[some] = lengths_of(self.fronts[view], [read(int(rows[at])) for at in some])
        return lengths

    def reader(self) -> StoredFront:
        """The stored activations, as arrays by row."""
        return StoredFront(self)


class StoredFront:
    """Reads activations row by row from mapped files; thread-safe.

    Attributes
    ----------
    good : np.ndarray
        Rows with all activations that their embedding needs, `(N,)` bool.
    """

    def __init__(self, front: CachedFront) -> None:
        self._both, keys = front.both, front._row_keys.keys
        self._views = [_StoredView(front.features(view), keys, one.texts) for view, one in enumerate(front.fronts)]
        self.good = np.logical_and.reduce([view.good for view in self._views[: 1 + self._both]])

    def load(self, row: int, number: int | None, _size: int = 0) -> FrontRow:
        """One row's activations; `number` draws one of the views, without it those of encoding.

        Raises
        ------
        UndecodableSample
            They are not stored, because the sample could not be read or decoded.
        """
        view = 0 if number is None else number % len(self._views)
        values = {ACTIVATIONS: self._views[view].read(row)}
        if number is None and self._both:
            values[MIRRORED] = self._views[1].read(row)
        return FrontRow(values, bool(self._views[0].flat[row]))


class _StoredView:
    """The activations of one view."""

    def __init__(self, features: EncoderFeatures, keys: np.ndarray, texts: bool) -> None:
        found = features.lookup(keys)
        self.good, self.flat = found.good, features.flat(found)
        self.values, self.lengths, self.tokens = features.embeddings(found), None, {}
        if texts:
            self.lengths = np.zeros(len(keys), np.int64)
            self.lengths[self.good] = self.values[self.good][:, 0]
            for bucket in np.unique([bucket_of(int(length)) for length in self.lengths[self.good]]):
                places = features.lookup_tokens(int(bucket), keys)
                self.tokens[int(bucket)] = features.tokens(int(bucket), places)[0]
                here = (self.lengths > bucket - BUCKET) & (self.lengths <= bucket)
                self.good &= ~here | places.good

    def read(self, row: int) -> np.ndarray:
        if not self.good[row]:
            raise UndecodableSample(ValueError("its layers are not cached"))
        if self.lengths is None:
            return self.values[row]
        length = int(self.lengths[row])
        return self.tokens[bucket_of(length)][row][:length]
