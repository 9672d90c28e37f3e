"""Merges small segments into larger ones, and removes duplicate rows.

A segment is merged as soon as the smaller ones together are as large as it. The number of segments, and of copies of a row,
therefore grows with the logarithm of the number of rows. The merged segment is committed before the old ones are removed; a
process that has the old ones open can still read them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfeat.store import commits as naming
from mmfeat.store.commits import EMBEDDINGS, LOGITS, UnwritableStore
from mmfeat.store.segments import StoredFile, attributes_of, origins_of, write_merged

if TYPE_CHECKING:
    from mmfeat.store.features import EncoderFeatures

_SPARE = 1.1  # required free space, as a multiple of the written bytes


def merge_segments(features: EncoderFeatures) -> int:
    """Merge an encoder's small segments of embeddings and tokens; returns the number of saved files.

    If the disk is full, the segments stay unchanged.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    before = len(_load_all(features))
    try:
        outputs = _outputs(features)
        for kind, groups in _groups(features, outputs):
            for group in groups:
                _merge_group(features, kind, group, outputs=outputs)
        features.forget()
        _load_all(features)
        _remove_copies(features)
    except UnwritableStore:
        pass
    features.forget()
    return before - len(_load_all(features))


def merge_plan(sizes: Sequence[int]) -> list[int]:
    """Segments to merge, as indices: the largest one that the smaller ones together match in size, and all smaller ones.

    Afterwards every segment is larger than all smaller ones together.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    below = sum(sizes)
    for at, i in enumerate(order):
        below -= sizes[i]
        if sizes[i] <= below:
            return order[at:]
    return []


def _load_all(features: EncoderFeatures) -> list[str]:
    """Load every kind of segment; returns the names of the committed files."""
    features.refresh()
    numbers = {int(commit.kind.rpartition("-")[2]) for commit in features.commits if commit.kind.startswith("tokens-")}
    for number in numbers:
        features.lookup_tokens(number, np.zeros((0, 32), np.uint8))
    return [file.name for series in features.series.values() for file in series.current_files]


def _groups(features: EncoderFeatures, outputs: dict[str, dict[str, StoredFile]]) -> list[tuple[str, list[Any]]]:
    """For each kind, groups of mergeable files: same dtype and decoder, with logits of the same outputs."""
    found = []
    for kind, series in features.series.items():
        groups: dict[Any, list[StoredFile]] = {}
        for file in series.current_files:
            shape = (file.values.dtype.str, file.values.shape[1:], frozenset(outputs.get(file.name, ())))
            shape += (file.decoder, file.decoding)
            groups.setdefault(shape, []).append(file)
        found.append((kind, list(groups.values())))
    return found


def _outputs(features: EncoderFeatures) -> dict[str, dict[str, StoredFile]]:
    """Files of logits of each segment, by output key."""
    keys = {commit.kind for commit in features.commits if naming.layout_of(commit.kind) is LOGITS}
    segments, found = features.series[EMBEDDINGS].files, {}
    for key in keys:
        for segment, file in zip(segments, features.logits_files(key), strict=True):
            if file is not None:
                found.setdefault(segment.name, {})[key] = file
    return found


def _merge_group(
    features: EncoderFeatures, kind: str, group: list[StoredFile], *, outputs: dict[str, dict[str, StoredFile]]
) -> None:
    """Merge a group's small segments and their logits, if there is enough free space."""
    to_merge = [group[i] for i in merge_plan([len(file.row_key) * file.values.row_bytes for file in group])]
    size = sum(file.values.stamp[0] for file in to_merge)
    if not to_merge or shutil.disk_usage(features.folder).free < size * _SPARE:
        return
    rows = _distinct(to_merge)
    name = naming.new_segment_name(kind)
    attributes = {"encoder_key": features.spec.key}
    # logits first, so that readers always find them
    for output in outputs.get(to_merge[0].name, ()) if kind == EMBEDDINGS else ():
        files = [outputs[file.name][output] for file in to_merge]
        classes = attributes_of(features.folder / files[0].name)["classes"]
        write_merged(
            features.folder,
            naming.new_logits_name(output, name),
            output,
            sources=list(zip(files, rows, strict=True)),
            attributes={**attributes, "output_key": output, "classes": classes},
        )
    if to_merge[0].decoding:
        attributes |= {"decoder": to_merge[0].decoder, "decoding": to_merge[0].decoding}
    origins = _joined([origin for file in to_merge for origin in origins_of(features.folder / file.name)])
    write_merged(
        features.folder,
        name,
        kind,
        sources=list(zip(to_merge, rows, strict=True)),
        attributes={**attributes, "origins": origins},
    )


def _distinct(files: list[StoredFile]) -> list[np.ndarray]:
    """For each file, the rows that go into the merged one: of copies, the first without an error, otherwise the first."""
    keys = np.concatenate([file.row_key for file in files])
    bad = np.concatenate([file.is_error for file in files])
    order = np.lexsort((np.arange(len(keys)), bad, keys.view("S32").ravel()))
    kept = np.ones(len(keys), dtype=bool)
    kept[order[1:]] = (keys[order[1:]] != keys[order[:-1]]).any(1)
    ends = np.cumsum([len(file.row_key) for file in files])
    return [np.flatnonzero(rows) for rows in np.split(kept, ends[:-1])]


def _joined(origins: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Joins origins that differ only in time, with the latest time and the sum of rows."""
    joined: dict[str, dict[str, Any]] = {}
    for origin in origins:
        place = json.dumps([origin.get(name) for name in ("host", "device", "engine", "versions")], sort_keys=True)
        one = joined.setdefault(place, {**origin, "rows": 0})
        one["rows"] += origin["rows"]
        one["created"] = max(one.get("created", ""), origin.get("created", ""))
    return list(joined.values())


def _remove_copies(features: EncoderFeatures) -> None:
    """Remove every segment whose rows are all in segments before it.

    All processes use the same order of segments, and the first segment with a row is never removed because of that row, so
    several processes can do this at once.
    """
    if not any(series.index.n_copies for series in features.series.values()):
        return
    for kind, groups in _groups(features, _outputs(features)):
        for group in groups if features.series[kind].index.n_copies else ():
            ordered = sorted(group, key=_precedence)
            for file, held in zip(ordered, _held_before(ordered), strict=True):
                if held:
                    _remove(features, file)


def _precedence(file: StoredFile) -> tuple[int, int, str]:
    """More embeddings first, then more rows, then the name."""
    return len(file.errors) - len(file.row_key), -len(file.row_key), file.name


def _held_before(files: list[StoredFile]) -> list[bool]:
    """For each file, whether the files before it have all its rows (rows with an embedding: with an embedding)."""
    if len(files) < 2:
        return [False] * len(files)
    keys = np.concatenate([file.row_key for file in files])
    bad = np.concatenate([file.is_error for file in files])
    rank = np.repeat(np.arange(len(files)), [len(file.row_key) for file in files])
    _, key = np.unique(keys.view("S32").ravel(), return_inverse=True)
    first_good = np.full(key.max(initial=-1) + 1, len(files))
    first_any = first_good.copy()
    np.minimum.at(first_good, key[~bad], rank[~bad])
    np.minimum.at(first_any, key, rank)
    held = np.where(bad, first_any[key], first_good[key]) < rank

    return [bool(rows.all()) for rows in np.split(held, np.cumsum([len(file.row_key) for file in files])[:-1])]


def _remove(features: EncoderFeatures, file: StoredFile) -> None:
    """Remove a segment and its logits, commits first, so that no partly removed file counts."""
    names = [file.name]
    if "/" not in file.name:
        prefix = naming.logits_prefix("", file.name).partition("/")[2]
        names += [c.file for c in features.commits if c.file.rpartition("/")[2].startswith(prefix)]
    gone, folder = [commit for commit in features.commits if commit.file in names], features.folder
    naming.remove([*(folder / "commits" / commit.name for commit in gone), *(folder / commit.file for commit in gone)])
