"""EncoderFeatures: lookup, reading and writing of the features of one encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmfeat.common.errors import StoreError
from mmfeat.common.labels import class_positions
from mmfeat.store import commits as naming
from mmfeat.store.commits import EMBEDDINGS
from mmfeat.store.encoder_folder import EncoderFolder
from mmfeat.store.rows import Found, MappedRows, check_keys
from mmfeat.store.segments import origins_of, write_file
from mmfeat.store.series import SegmentSeries
from mmfeat.store.storable import storable


class EncoderFeatures(EncoderFolder):
    """The features of one encoder; parameters, attributes and errors are those of :class:`EncoderFolder`."""

    @property
    def n_rows(self) -> int:
        """Number of distinct rows, including rows with an error."""
        self.refresh()
        return len(self.series[EMBEDDINGS].index.keys)

    def lookup(self, keys: np.ndarray) -> Found:
        """Find the rows of row keys `(N, 32)` uint8."""
        self.refresh()
        return self.series[EMBEDDINGS].index.find(keys)

    def errors_of(self, keys: np.ndarray) -> dict[int, str]:
        """Reasons by row number, for rows whose sample could not be decoded."""
        found, files = self.lookup(keys), self.series[EMBEDDINGS].files
        return {int(r): files[found.segment[r]].errors[int(found.row[r])] for r in np.flatnonzero(found.error)}

    def decoders(self, found: Found) -> np.ndarray:
        """Version of the decoder of each found row's image, `(N,)` int64; 0 for missing rows."""
        versions = np.array([*(file.decoder for file in self.series[EMBEDDINGS].files), 0], dtype=np.int64)
        return versions[found.segment]

    def untried(self, keys: np.ndarray, record: dict[str, Any]) -> np.ndarray:
        """Rows recorded as unreadable by another decoder or other settings than those of `record`, `(N,)` bool."""
        untried = self.lookup(keys).error.copy()
        if untried.any():
            tried = {
                file.row_key[row].tobytes()
                for file in self.series[EMBEDDINGS].current_files
                if (file.decoder, file.decoding) == (record["decoder"], record["decoding"])
                for row in file.errors
            }
            rows = np.flatnonzero(untried)
            untried[rows] = [keys[row].tobytes() not in tried for row in rows]
        return untried

    def origins(self) -> list[dict[str, Any]]:
        """Where the stored embeddings were computed: host, device, engine, versions, created, rows; one entry per origin."""
        self.refresh()
        files = self.series[EMBEDDINGS].files
        return [origin for file in files for origin in origins_of(self.folder / file.name)]

    def flat(self, found: Found) -> np.ndarray:
        """Found rows whose image has a single colour, or nearly so, `(N,)` bool."""
        flat = np.zeros(len(found.segment), dtype=bool)
        for number, file in enumerate(self.series[EMBEDDINGS].files):
            if file.is_flat.any():
                here = np.flatnonzero((found.segment == number) & ~found.error)
                flat[here] = file.is_flat[found.row[here]]
        return flat

    def embeddings(self, found: Found) -> MappedRows:
        """Mapped embeddings `(N, D)` of found rows."""
        return self.series[EMBEDDINGS].mapped(found)

    def lookup_tokens(self, number: int, keys: np.ndarray) -> Found:
        """Find the tokens (of the setting `tokens = number`) of row keys `(N, 32)` uint8."""
        kind = naming.tokens_kind(number)
        if kind not in self.series:
            self.series[kind] = SegmentSeries(kind)
            self.forget()
        self.refresh()
        return self.series[kind].index.find(keys)

    def tokens(self, number: int, found: Found) -> tuple[MappedRows, np.ndarray]:
        """Mapped tokens `(N, T, d)` of found rows, and the number of tokens of each row, `(N,)` uint16."""
        series = self.series[naming.tokens_kind(number)]
        return series.mapped(found), series.lengths(found)

    def logits(
        self, output_key: str, found: Found, need: np.ndarray | None = None, *, classes: Sequence[str] | None = None
    ) -> MappedRows | None:
        """Mapped logits `(N, K)` of found rows.

        Parameters
        ----------
        need : np.ndarray, optional
            Rows that must have logits (default: all rows with an embedding).
        classes : sequence of str, optional
            The K names in the wanted order of columns (default: the output's order).

        Returns
        -------
        MappedRows or None
            None if a needed row lacks logits, or if the logits have other classes.
        """
        files = self.logits_files(output_key)
        good = found.good if need is None else found.good[need]
        numbers = np.unique((found.segment if need is None else found.segment[need])[good])
        if not len(numbers) or any(files[number] is None for number in numbers):
            return None
        own = files[numbers[0]].classes  # part of the output key, so all files have the same classes
        columns = class_positions(own, own if classes is None else classes)
        return None if columns is None else MappedRows([f.values if f else None for f in files], found, columns=columns)

    def append(
        self,
        keys: np.ndarray,
        embeddings: np.ndarray,
        errors: Sequence[str],
        *,
        meta: dict[str, Any],
        flat: np.ndarray | None = None,
    ) -> None:
        """Write rows as one segment and commit it.

        Parameters
        ----------
        keys : np.ndarray
            `(n, 32)` uint8.
        embeddings : np.ndarray
            `(n, D)` float; values of rows with an error are ignored.
        errors : sequence of str
            Why a sample could not be decoded; empty if it could.
        meta : dict
            Recorded with the segment: host, device, versions.
        flat : np.ndarray, optional
            `(n,)` bool: images with a single colour, or nearly so.

        Raises
        ------
        UnstorableRow
            A value is not finite, or is too large for the store's dtype.
        StoreError
            The folder cannot be written.
        """
        if embeddings.ndim != 2 or not len(check_keys(keys)) == len(embeddings) == len(errors):
            raise ValueError(f"keys {keys.shape}, embeddings {embeddings.shape} and {len(errors)} errors do not fit")
        if not len(keys):
            return
        stored = storable(
            keys, embeddings, self.dtype, architecture=self.spec.architecture, bad=np.array([bool(e) for e in errors])
        )
        self.prepare(stored.shape[1])
        arrays = {"row_key": keys, "embeddings": stored}
        if flat is not None and flat.any():
            arrays["flat"] = np.asarray(flat, dtype=bool)
        attributes = {**meta, "encoder_key": self.spec.key}
        write_file(
            self.folder, naming.new_segment_name(), EMBEDDINGS, arrays=arrays, errors=errors, attributes=attributes
        )
        self.forget()

    def append_tokens(
        self, number: int, keys: np.ndarray, tokens: np.ndarray, *, lengths: np.ndarray, meta: dict[str, Any]
    ) -> None:
        """Write tokens of rows as one segment and commit it; embeddings are written separately.

        Parameters
        ----------
        keys : np.ndarray
            `(n, 32)` uint8.
        tokens : np.ndarray
            `(n, T, d)` float; values beyond a row's length are ignored.
        lengths : np.ndarray
            `(n,)`: number of tokens of each row.

        Raises
        ------
        UnstorableRow, StoreError
            As for `append`.
        """
        if tokens.ndim != 3 or not len(check_keys(keys)) == len(tokens) == len(lengths):
            raise ValueError(f"keys {keys.shape}, tokens {tokens.shape} and {len(lengths)} lengths do not fit")
        if not len(keys):
            return
        beyond = np.arange(tokens.shape[1]) >= np.asarray(lengths)[:, None]  # (n, T)
        flat = np.where(beyond[:, :, None], 0, tokens).reshape(len(tokens), -1)
        stored = storable(keys, flat, self.dtype, architecture=self.spec.architecture).reshape(tokens.shape)
        self.prepare(self._width)
        kind = naming.tokens_kind(number)
        arrays = {"row_key": keys, "tokens": stored, "lengths": np.asarray(lengths, "<u2")}
        write_file(
            self.folder,
            naming.new_segment_name(kind),
            kind,
            arrays=arrays,
            errors=(),
            attributes={**meta, "encoder_key": self.spec.key},
        )
        self.forget()

    def complete_logits(
        self, output_key: str, classes: Sequence[str], logits_of: Callable[[np.ndarray], np.ndarray]
    ) -> int:
        """Compute missing logits from the stored embeddings.

        Parameters
        ----------
        logits_of : callable
            From embeddings `(n, D)` float32 to logits `(n, K)`.

        Returns
        -------
        int
            Number of rows that got logits.

        Raises
        ------
        StoreError
            Logits are not finite or have a wrong shape, or the folder cannot be written.
        """
        n_rows = 0
        attributes = {"encoder_key": self.spec.key, "output_key": output_key, "classes": list(classes)}
        files = self.logits_files(output_key)
        for number in self.series[EMBEDDINGS].current:
            segment, file = self.series[EMBEDDINGS].files[number], files[number]
            if file is not None:
                continue
            logits, shape = logits_of(segment.values[:].astype(np.float32)), (len(segment.row_key), len(classes))
            if logits.shape != shape:
                raise StoreError(f"{self.folder / segment.name}: its logits have shape {logits.shape}, not {shape}")
            logits = np.where(segment.is_error[:, None], 0, logits).astype("<f4")
            if not np.isfinite(logits).all():
                raise StoreError(f"{self.folder / segment.name}: its logits are not finite. Run: mmfeat finetune")
            self.prepare(self._width)
            name = naming.new_logits_name(output_key, segment.name)
            write_file(
                self.folder,
                name,
                output_key,
                arrays={"row_key": segment.row_key, "logits": logits},
                errors=(),
                attributes=attributes,
            )
            n_rows += len(segment.row_key) - len(segment.errors)
            self.forget()
        return n_rows

    def lacking_logits(self, output_key: str) -> int:
        """Number of rows for which `complete_logits` would compute logits."""
        files, series = self.logits_files(output_key), self.series[EMBEDDINGS]
        segments = [series.files[number] for number in series.current if files[number] is None]
        return sum(len(segment.row_key) - len(segment.errors) for segment in segments)
