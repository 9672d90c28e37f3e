"""FeatureTable: the rows of a manifest with their cached features, aligned; the only door through the wall."""

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

if TYPE_CHECKING:
    import torch

_BLOCK = 65536  # rows that are brought to a device, or digested, at a time


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Features of N samples for a list of encoders; nothing is read before it is asked for.

    Attributes
    ----------
    ids : np.ndarray
        `(N,)` object.
    embeddings : dict of str to MappedRows or np.ndarray
        `(N, D)` by encoder; rows that are not present read as zeros.
    logits : dict of str to MappedRows or np.ndarray
        `(N, K)` by encoder, for those that have an output for `classes`, in any order, whose logits are in the store.
    tokens : dict of str to MappedRows or np.ndarray
        `(N, T, d)` by encoder, for those whose tokens were asked for.
    token_lengths : dict of str to np.ndarray
        `(N,)` by the same encoders: how many of its T tokens a row has.
    present : dict of str to np.ndarray
        `(N,)` bool by encoder: the sample has the modality, could be decoded and is in the store.
    row_keys : dict of str to np.ndarray
        `(N, 32)` uint8 by encoder.
    labels : np.ndarray
        `(N, K)` int8.
    split : np.ndarray
        `(N,)` of `train`, `val`, `test`.
    classes : tuple of str
        The K names: what the columns of labels and logits are of.

    Raises
    ------
    ValueError
        Something has not N rows.
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
        """Some of the rows, in the given order, still unread."""
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
        """The table in pieces of up to `size` rows, in order."""
        for start in range(0, self.n_samples, size):
            yield self.take(slice(start, start + size))

    def to(
        self, device: torch.device | str, names: Sequence[str] | None = None
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Bring embeddings to a device, and the tokens that the table has of the same encoders.

        Returns
        -------
        tuple of dict
            Embeddings `(N, D)` float32 by encoder, zeros where not present, and presence `(N,)` bool by encoder. Tokens
            `(N, T, d)` stand under `NAME/tokens`, in the store's own type, and which of them are there, `(N, T)`, too.

        Raises
        ------
        StoreError
            A value is not finite; the message says of which encoder and which rows.
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
        """SHA-256 over rows' ids, row keys for some encoders, and labels; the rows' order does not matter."""
        columns = [np.where(self.present[n][rows, None], self.row_keys[n][rows], 0) for n in sorted(names)]
        return rows_digest(self.ids[rows], *columns, self.labels[rows])


def _moved(rows: MappedRows | np.ndarray, there: torch.Tensor, device: Any, *, dtype: torch.dtype) -> torch.Tensor:
    """Rows on a device, zeros where they are not there; moved in the store's own type, since float16 is half the bytes."""
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
    """SHA-256 over rows' ids and bytes, whatever the rows' order.

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
    doubtful = torch.nonzero(~torch.isfinite(sums)).flatten()  # a sum of large numbers may overflow as well
    bad = doubtful[~torch.isfinite(values[doubtful]).flatten(1).all(1)]
    if len(bad):
        rows = ", ".join(repr(shown(str(ids[row]), 40)) for row in bad[:3].tolist())
        more = ", ..." if len(bad) > 3 else ""
        raise StoreError(
            f"{what} are not finite for {len(bad):,} of {counted(len(ids), 'row')} ({rows}{more}). "
            f"To see which files: mmfeat store verify; encode anew with another precision under [encoder.{name}]"
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
    """Align the store's features with a manifest's rows.

    Parameters
    ----------
    encoders : dict of str to (EncoderSpec, output key or None)
        What to open.
    need : np.ndarray, optional
        Row numbers whose embeddings must be there; all, when None. Others that are not there read as not present.
    tokens : dict of str to int, optional
        Encoders whose tokens are read as well, and which of them.
    widths : dict of str to int, optional
        D of encoders whose embeddings may be in no row.

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
            damaged = f"damaged files: {len(features.problems)}, see mmfeat status" if features.problems else ""
            why = stale_rows(store, spec, row_keys[name], lacking=lacking)[1] or damaged
            raise MissingFeatures(
                f"{store.path.name}: no embeddings of {name!r} for {lacking.sum():,} of {counted(len(need), 'row')}"
                f"{f' ({why})' if why else ''}. Run: {spec.remedy}"
            )
        embeddings = features.embeddings(found)
        tables["embeddings"][name] = embeddings.with_width(widths[name]) if widths else embeddings
        tables["present"][name] = found.good
        tables["row_keys"][name] = row_keys[name]
        logits = features.logits(output_key, found, need, classes=classes) if output_key else None
        if logits is not None:
            tables["logits"][name] = logits
        if number := (tokens or {}).get(name):
            held = features.lookup_tokens(number, row_keys[name]).only(found.good)
            without = int((found.good & held.missing)[need].sum())
            if without:
                raise MissingFeatures(
                    f"{store.path.name}: no tokens of {name!r} for {without:,} of {counted(len(need), 'row')}. Run: mmfeat extract"
                )
            tables["tokens"][name], tables["token_lengths"][name] = features.tokens(number, held)
    return FeatureTable(ids=ids, labels=labels, split=split, classes=classes, **tables)
