"""Cached layers of an encoder: activations at a cut, computed once for some rows, and read as arrays afterwards."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from mmfeat.common.devices import torch_device
from mmfeat.common.errors import StoreError
from mmfeat.data.row_keys import RowKeys
from mmfeat.encoders.batches import UndecodableSample
from mmfeat.encoders.cut import ACTIVATIONS, MIRRORED
from mmfeat.encoders.engines.selection import TORCH, EngineSelection, Selected
from mmfeat.encoders.front import FrontEncoder, bucket_of, lengths_of
from mmfeat.encoders.kinds import kind_of
from mmfeat.encoders.tail import FrontRow, TailEncoder
from mmfeat.extraction import Session, distinct_rows, extract_encoder
from mmfeat.project.encoding import earlier_engines, selected_for, session_of
from mmfeat.project.project import Project
from mmfeat.project.redecoding import rows_to_decode_again
from mmfeat.store import EncoderFeatures, MappedRows, UnstorableRow

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
        self._selected: Selected | None = None  # the engine, for all views

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
    def row_keys(self) -> RowKeys:
        """The row keys of the samples."""
        return self.project.row_keys(self.kind.modality, self.project.source_of(self.kind.modality, self.name))

    def rows_of(self, view: int, train: np.ndarray, val: np.ndarray) -> np.ndarray:
        """The rows that one view is needed for: val rows are not augmented."""
        return np.concatenate([train, val]) if not view or self.cut.both else train

    def missing(self, view: int, rows: np.ndarray) -> np.ndarray:
        """The rows that are not stored, one for each distinct sample."""
        rows = rows[self.row_keys.present[rows]]
        return distinct_rows(self.row_keys.keys, rows[self.stored(view).missing[rows]])

    def stored(self, view: int) -> StoredView:
        """The stored activations of one view, as arrays by row."""
        return StoredView(self.features(view), self.row_keys.keys, self.fronts[view].texts)

    def n_bytes(self, n_rows: int) -> int:
        """About how many bytes the activations of some rows take, in one view."""
        front = self.fronts[0]
        if not front.texts:
            return n_rows * front.row_bytes()
        present = np.flatnonzero(self.row_keys.present)
        some = present[np.linspace(0, len(present) - 1, min(_SAMPLED, len(present)), dtype=int)]
        read = self.project.reader(self.name)
        lengths = lengths_of(front, [read(int(row)) for row in some])
        return int(n_rows * np.mean([front.row_bytes(int(length)) for length in lengths]))

    def session(self, view: int, rows: np.ndarray | None = None) -> Session:
        """One view's front on the project's device, ready to encode; engines may be measured on `rows`."""
        config, front = self.project.config, self.fronts[view]
        device, prepared = torch_device(config.device), {}
        front = front.to(device).eval()
        if self._selected is None:
            selection = EngineSelection(front, device, config.engine, tokens=int(front.texts), spec=self.specs[view])
            read, earlier = self.project.reader(self.name), earlier_engines(self.features(view))
            self._selected, prepared = selected_for(rows, read, selection, earlier=earlier)
        session = session_of(self.project, self.kind, front, self._selected)
        return dataclasses.replace(session, prepared=prepared)

    def tail_session(self, tokens: int = 0) -> Session:
        """The stages after the front, on the project's device, by torch; `tokens` as in the encoder's settings."""
        device = torch_device(self.project.config.device)
        tail = TailEncoder(self.cut).to(device).eval()
        return session_of(self.project, self.kind, tail, EngineSelection(tail, device, TORCH, tokens=tokens).usual())

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
                        self.row_keys.keys,
                        present=present,
                        read=self.project.reader(self.name),
                        name=f"{self.name}, layers to cache ({front.view.name})",
                        tokens=tokens,
                        again=again,
                    )
            except UnstorableRow as error:
                row = str(self.project.manifest.ids[error.row])
                raise StoreError(f"encoder {self.name!r}, row {row!r}: {error}") from None
            finally:
                self.project.samples.kept_bytes.clear()

    def _groups(self, view: int, rows: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Masks of rows that are stored alike, `(N,)` bool, with their number of tokens: 0 for images."""
        rows = rows[self.row_keys.present[rows]]
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
        features, keys = self.features(view), self.row_keys.keys
        found, lengths = features.lookup(keys[rows]), np.zeros(len(rows), np.int64)
        lengths[found.good] = features.embeddings(found).with_width(1)[found.good][:, 0]
        todo, read = np.flatnonzero(~found.good), self.project.reader(self.name)
        for some in np.array_split(todo, -(-len(todo) // 512)) if len(todo) else ():
            lengths[some] = lengths_of(self.fronts[view], [read(int(rows[at])) for at in some])
        return lengths

    def reader(self, drawn: bool = True) -> StoredFront:
        """The stored activations of all views, or only of those that embeddings are computed from."""
        n_views = len(self.fronts) if drawn else 1 + self.cut.both
        return StoredFront([self.stored(view) for view in range(n_views)], self.cut.both)


class StoredFront:
    """Reads activations row by row from mapped files; thread-safe.

    Attributes
    ----------
    good : np.ndarray
        Rows with all activations that their embedding needs, `(N,)` bool.
    """

    def __init__(self, views: list[StoredView], both: bool) -> None:
        self._views, self._both = views, both
        self.good = np.logical_and.reduce([view.good for view in views[: 1 + both]])

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


class StoredView:
    """The activations of one view, by row.

    Attributes
    ----------
    good, missing : np.ndarray
        Rows that are stored, and rows that are not, `(N,)` bool; others are recorded as undecodable.
    flat : np.ndarray
        Rows whose image has nearly one colour, `(N,)` bool.
    """

    def __init__(self, features: EncoderFeatures, keys: np.ndarray, texts: bool) -> None:
        found = features.lookup(keys)
        self.good, self.missing, self.flat = found.good, found.missing, features.flat(found)
        self._values = features.embeddings(found)
        self._lengths = np.zeros(len(keys), np.int64) if texts else None
        self._tokens: dict[int, MappedRows] = {}
        if texts:
            self._open_tokens(features, keys)

    def _open_tokens(self, features: EncoderFeatures, keys: np.ndarray) -> None:
        """Open the states of captions, which are stored by length."""
        buckets = np.zeros(len(keys), np.int64)
        self._lengths[self.good] = self._values.with_width(1)[self.good][:, 0]
        buckets[self.good] = [bucket_of(int(length)) for length in self._lengths[self.good]]
        for bucket in np.unique(buckets[self.good]).tolist():
            places = features.lookup_tokens(bucket, keys)
            self._tokens[bucket] = features.tokens(bucket, places)[0]
            lacking = (buckets == bucket) & ~places.good
            self.good, self.missing = self.good & ~lacking, self.missing | lacking

    def read(self, row: int) -> np.ndarray:
        """One row's activations: `(D,)` of an image, `(L, d)` of a caption."""
        if not self.good[row]:
            raise UndecodableSample(ValueError("its layers are not cached"))
        if self._lengths is None:
            return self._values[row]
        length = int(self._lengths[row])
        return self._tokens[bucket_of(length)][row][:length]
