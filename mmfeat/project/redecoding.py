"""Find the images to encode again because an older decoder, or the decoder under other settings, read them.

A segment of the store records its decoder, and the settings that refuse images. A segment of mmfeat 0.1.0 records none
and counts as decoder 1. Two kinds of rows are encoded again, and no others:

- rows that were recorded as undecodable: once for each decoder and settings;
- rows that decoder 1 encoded and whose pixels differ now. Only images of more than 8 bits a channel may differ. These are
  recognised by their first bytes when a file's key is computed, which is remembered with the key. Each of them is decoded
  both ways once, and the result is remembered by row key.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmfeat.common.progress import progress
from mmfeat.common.remembered_rows import RememberedRows, Rows
from mmfeat.encoders.batches import UnreadSample
from mmfeat.encoders.decoding import DECODER, Decoding
from mmfeat.encoders.kinds import modality_kind
from mmfeat.encoders.resolve import Identity
from mmfeat.project.project import Project

_BLOCK = 64


def rows_to_decode_again(project: Project, identity: Identity, look: bool = True) -> np.ndarray:
    """Rows of the store to encode again, `(N,)` bool.

    Parameters
    ----------
    look : bool
        Whether to compare the pixels of images that were not compared before; otherwise these count as unchanged.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    if not modality_kind(identity.spec.modality).decoded:
        return np.zeros(project.manifest.n_samples, dtype=bool)
    row_keys, features = project.row_keys(identity.spec.modality), project.store.encoder(identity.spec)
    found, decoding = features.lookup(row_keys.keys), Decoding.of(project.config)
    untried = row_keys.present & features.untried(row_keys.keys, decoding.record)
    old = row_keys.present & found.good & (features.decoders(found) < DECODER)
    if look and (old & row_keys.lacks_facts).any():
        row_keys = project.samples.image_facts()
    suspect = np.flatnonzero(old & row_keys.deep)
    return untried | _with_other_pixels(project, row_keys.keys, suspect, decoding=decoding, look=look)


def _with_other_pixels(
    project: Project, keys: np.ndarray, suspect: np.ndarray, *, decoding: Decoding, look: bool
) -> np.ndarray:
    """The rows of `suspect` whose pixels differ from those of decoder 1, `(N,)` bool."""
    differ = np.zeros(len(keys), dtype=bool)
    if not len(suspect):
        return differ
    memory = RememberedRows(project.memory / f"pixels-{DECODER}.parquet", ("1",), {"key": 32, "differs": 1})
    rows = memory.read()
    known = {} if rows is None else _by_key(rows)
    unknown = [row for row in suspect.tolist() if keys[row].tobytes() not in known]
    if unknown and look:
        for row, other in zip(unknown, _compared(unknown, project.samples.image_reader(), decoding), strict=True):
            if other is not None:
                known[keys[row].tobytes()] = other
        kept = np.frombuffer(b"".join(key + bytes([other]) for key, other in known.items()), np.uint8).reshape(-1, 33)
        memory.write({"key": kept[:, :32], "differs": kept[:, 32:]})
    differ[suspect] = [known.get(keys[row].tobytes(), False) for row in suspect.tolist()]
    return differ


def _compared(rows: list[int], read: Callable[[int], bytes], decoding: Decoding) -> list[bool | None]:
    """Whether the pixels of each row differ; None where its file cannot be read."""
    from mmfeat.encoders.decoder_0_1 import has_other_pixels

    def compare(row: int) -> bool | None:
        try:
            return has_other_pixels(read(row), decoding)
        except UnreadSample:
            return None

    found: list[bool | None] = []
    with progress("comparing pixels with the older decoder", len(rows), "images") as bar, ThreadPoolExecutor() as pool:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            found += pool.map(compare, block)
            bar.advance(len(block))
    return found


def _by_key(rows: Rows) -> dict[bytes, bool]:
    """Row key to whether its pixels differ."""
    differs = rows.columns["differs"].astype(bool).ravel().tolist()
    return dict(zip((key.tobytes() for key in rows.columns["key"]), differs, strict=True))
