"""FeatureTable: a manifest's rows aligned with their cached features; the read API of the store for heads and metrics."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfeat.common.errors import MissingFeatures, StoreError
from mmfeat.common.files import digest_bytes
from mmfeat.common.labels import rows_of
from mmfeat.common.text import counted, shown
from mmfeat.store import EncoderSpec, FeatureStore, MappedRows
from mmfeat.store.cache_status import stale_rows
from mmfeat.store.features import EncoderFeatures

if TYPE_CHECKING:
    import torch

_BLOCK = 65536  # rows moved to a device, or digested, at a time


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Features of N samples for several encoders; values are read on access.

    Attributes
    ----------
    ids : np.ndarray
        `(N,)` object.
    embeddings : dict of str to MappedRows or np.ndarray
        `(N, D)` by encoder; missing rows read as zeros.
    logits : dict of str to MappedRows or np.ndarray
        `(N, K)` by encoder, for encoders whose output has the same `classes` (in any order) and is in the store.
    tokens : dict of str to MappedRows or np.ndarray
        `(N, T, d)` by encoder, for encoders whose tokens were requested.
    token_lengths : dict of str to np.ndarray
        `(N,)` by the same encoders: number of tokens of each row, up to T.
    present : dict of str to np.ndarray
        `(N,)` bool by encoder: the sample has the modality, is readable and is in the store.
    row_keys : dict of str to np.ndarray
        `(N, 32)` uint8 by encoder.
    labels : np.ndarray
        `(N, K)` int8.
    split : np.ndarray
        `(N,)` of `train`, `val`, `test`.
    classes : tuple of str
        The K names of the columns of labels and logits.

    Raises
    ------
    ValueError
        An array does not have N rows.
    """

    ids: np.ndarray
    embeddings: dict[str, MappedRows | np.ndarray]
    logits: dict[str, MappedRows | np.ndarray]
    tokens: dict[str, MappedRows | np.ndarray]
    token_lengths: dict[str, np.ndarray]
    present: dict[str, np.ndarray]
    row_keys: dict[str, np.ndarray]
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            for name, rows in value.items() if isinstance(value, dict) else [("", value)]:
                if f.name != "classes" and len(rows) != len(self.ids):
                    raise ValueError(f"{f.name} {name!r} has {len(rows)} rows, ids have {len(self.ids)}")

    @property
    def n_samples(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def widths(self) -> dict[str, int]:
        """D by encoder."""
        return {name: rows.shape[1] for name, rows in self.embeddings.items()}

    def rows(self, which: str) -> np.ndarray:
        """Row numbers of `train`, `val`, `test` (labelled rows), `unlabelled` or `all`."""
        return rows_of(self.labels, self.split, which)

    def take(self, rows: np.ndarray | slice) -> FeatureTable:
        """The table of some rows, in the given order; nothing is read."""
        return dataclasses.replace(
            self,
            ids=self.ids[rows],
            embeddings={name: _take(values, rows) for name, values in self.embeddings.items()},
            logits={name: _take(values, rows) for name, values in self.logits.items()},
            tokens={name: _take(values, rows) for name, values in self.tokens.items()},
            token_lengths={name: lengths[rows] for name, lengths in self.token_lengths.items()},
            present={name: present[rows] for name, present in self.present.items()},
            row_keys={name: keys[rows] for name, keys in self.row_keys.items()},
            labels=self.labels[rows],
            split=self.split[rows],
        )

    def batches(self, size: int) -> Iterator[FeatureTable]:
        """Tables of up to `size` consecutive rows."""
        for start in range(0, self.n_samples, size):
            yield self.take(slice(start, start + size))

    def to(
        self, device: torch.device | str, names: Sequence[str] | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Move embeddings to a device, and the tokens of the same encoders if the table has them.

        Returns
        -------
        tuple of dict
            Embeddings `(N, D)` float32 by encoder, zeros for missing rows, and presence `(N,)` bool by encoder. The keys
            `NAME/tokens` hold tokens `(N, T, d)` in the store's dtype, and their presence `(N, T)` bool.

        Raises
        ------
        StoreError
            A value is not finite; the message names the encoder and the rows.
        """
        import torch

        inputs, present = {}, {}
        for name in self.embeddings if names is None else names:
            present[name] = torch.from_numpy(np.array(self.present[name])).to(device)
            inputs[name] = _moved(self.embeddings[name], present[name], device, dtype=torch.float32)
            _check_finite(f"embeddings of encoder {name!r}", name, inputs[name], ids=self.ids)
            if name in self.tokens:
                tokens, lengths = self.tokens[name], self.token_lengths[name].astype(np.int64)
                there = torch.from_numpy(np.arange(tokens.shape[1]) < lengths[:, None]).to(device)
                present[f"{name}/tokens"] = there & present[name][:, None]
                kind = torch.float16 if tokens.dtype == np.float16 else torch.float32
                inputs[f"{name}/tokens"] = _moved(tokens, present[name], device, dtype=kind)
                _check_finite(f"tokens of encoder {name!r}", name, inputs[f"{name}/tokens"], ids=self.ids)
        return inputs, present

    def digest(self, rows: np.ndarray, names: Sequence[str]) -> str:
        """SHA-256 of the rows' ids, row keys of some encoders, and labels; independent of the rows' order."""
        columns = [np.where(self.present[n][rows, None], self.row_keys[n][rows], 0) for n in sorted(names)]
        return rows_digest(self.ids[rows], *columns, self.labels[rows])


def _moved(rows: MappedRows | np.ndarray, there: torch.Tensor, device: Any, *, dtype: torch.dtype) -> torch.Tensor:
    """Rows on a device, zeros for missing rows. They are moved in the store's dtype: float16 has half the bytes."""
    import torch

    values = torch.empty(rows.shape, dtype=dtype, device=device)
    step = max(1, _BLOCK // (rows.shape[1] if len(rows.shape) == 3 else 1))  # as many tokens as embeddings
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        values[block] = torch.from_numpy(np.require(rows[block], requirements=["C", "W"])).to(device).to(dtype)
    if not bool(there.all()):
        values.masked_fill_(~there.view(-1, *[1] * (values.dim() - 1)), 0)
    return values


def rows_digest(ids: np.ndarray, *columns: np.ndarray) -> str:
    """SHA-256 of the rows' ids and bytes, independent of the rows' order.

    Parameters
    ----------
    columns : np.ndarray
        `(N, n)` uint8 or int8 each: row keys, labels.
    """
    lines: list[bytes] = []
    for start in range(0, len(ids), _BLOCK):
        block = slice(start, start + _BLOCK)
        content = np.ascontiguousarray(np.concatenate([column[block].view(np.uint8) for column in columns], axis=1))
        lines += (
            hashlib.sha256(str(i).encode("utf-8", "surrogatepass") + b"\0" + line.tobytes()).digest()
            for i, line in zip(ids[block], content, strict=True)
        )
    return digest_bytes(b"".join(sorted(lines)))


def _check_finite(what: str, name: str, values: torch.Tensor, *, ids: np.ndarray) -> None:
    import torch

    sums = values.flatten(1).sum(1, dtype=torch.float32)
    doubtful = torch.nonzero(~torch.isfinite(sums)).flatten()  # a sum of large numbers may overflow too
    bad = doubtful[~torch.isfinite(values[doubtful]).flatten(1).all(1)]
    if len(bad):
        rows = ", ".join(repr(shown(str(ids[row]), 40)) for row in bad[:3].tolist())
        more = ", ..." if len(bad) > 3 else ""
        raise StoreError(
            f"{what} are not finite for {len(bad):,} of {counted(len(ids), 'row')} ({rows}{more}). "
            f"To see which files: mmfeat store verify; encode again with another precision under [encoder.{name}]"
        )


def _take(values: MappedRows | np.ndarray, rows: np.ndarray | slice) -> MappedRows | np.ndarray:
    return values.take(rows) if isinstance(values, MappedRows) else values[rows]


def open_table(
    store: FeatureStore,
    encoders: dict[str, tuple[EncoderSpec, str | None]],
    *,
    ids: np.ndarray,
    row_keys: dict[str, np.ndarray],
    present: dict[str, np.ndarray],
    labels: np.ndarray,
    split: np.ndarray,
    classes: tuple[str, ...],
    need: np.ndarray | None = None,
    tokens: dict[str, int] | None = None,
    widths: dict[str, int] | None = None,
) -> FeatureTable:
    """The FeatureTable of a manifest's rows.

    Parameters
    ----------
    encoders : dict of str to (EncoderSpec, output key or None)
        The encoders by name.
    need : np.ndarray, optional
        Rows whose embeddings must be in the store (default: all). Other rows without embeddings count as missing.
    tokens : dict of str to int, optional
        Encoders whose tokens are read too, with the setting `tokens`.
    widths : dict of str to int, optional
        D by encoder, for encoders that may have no embeddings at all.

    Raises
    ------
    MissingFeatures
        Embeddings of needed rows are not in the store.
    StoreError
        The store cannot be read.
    """
    need = np.arange(len(ids)) if need is None else need
    kinds = ("embeddings", "logits", "tokens", "token_lengths", "present", "row_keys")
    tables: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for name, (spec, output_key) in encoders.items():
        features = store.encoder(spec)
        found = features.lookup(row_keys[name]).only(present[name])
        lacking = np.zeros(len(ids), dtype=bool)
        lacking[need] = (present[name] & found.missing)[need]
        if lacking.any():
            why = stale_rows(store, spec, row_keys[name], lacking=lacking)[1]
            raise _no_embeddings(features, name, lacking, n_needed=len(need), why=why)
        embeddings = features.embeddings(found)
        tables["embeddings"][name] = embeddings.with_width(widths[name]) if widths else embeddings
        tables["present"][name] = found.good
        tables["row_keys"][name] = row_keys[name]
        logits = features.logits(output_key, found, need, classes=classes) if output_key else None
        if logits is not None:
            tables["logits"][name] = logits
        if number := (tokens or {}).get(name):
            held = features.lookup_tokens(number, row_keys[name]).only(found.good)
            if n := int((found.good & held.missing)[need].sum()):
                missing = f"{n:,} of {counted(len(need), 'row')}"
                raise MissingFeatures(f"{store.path.name}: no tokens of {name!r} for {missing}. Run: mmfeat extract")
            tables["tokens"][name], tables["token_lengths"][name] = features.tokens(number, held)
    return FeatureTable(ids=ids, labels=labels, split=split, classes=classes, **tables)


def _no_embeddings(
    features: EncoderFeatures, name: str, lacking: np.ndarray, *, n_needed: int, why: str
) -> MissingFeatures:
    if not why and features.problems:
        why = f"damaged files: {len(features.problems)}, see mmfeat status"
    missing = f"{lacking.sum():,} of {counted(n_needed, 'row')}{f' ({why})' if why else ''}"
    store = features.folder.parent.name
    return MissingFeatures(f"{store}: no embeddings of {name!r} for {missing}. Run: {features.spec.remedy}")
