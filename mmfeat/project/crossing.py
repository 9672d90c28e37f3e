"""Identical images: which rows share one, and images and groups that are in two splits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmfeat.common.text import counted
from mmfeat.data.groups import SPLITS
from mmfeat.data.images.copies import copies_across_splits
from mmfeat.data.manifest import Manifest
from mmfeat.data.row_keys import RowKeys


def about_crossing(manifest: Manifest, row_keys: RowKeys) -> tuple[list[str], list[str]]:
    """A line about images and groups in two splits, if there are any, and a line of init.log for each of them."""
    pairs = copies_across_splits(row_keys, manifest.split)
    torn = _groups_in_two_splits([] if manifest.groups is None else manifest.groups.tolist(), manifest.split)
    notes = [f"group {name!r}: has rows in {' and '.join(splits)}" for name, splits in torn.items()]
    notes += [
        "the same image data: "
        + " and ".join(f"image of {str(manifest.ids[row])!r} ({manifest.split[row]})" for row in pair)
        for pair in pairs
    ]
    what = [counted(len(found), noun) for found, noun in ((pairs, "image"), (torn, "group")) if found]
    if not what:
        return [], notes
    return [
        f"  {' and '.join(what)} in two splits (listed in init.log). Rows keep their split, so metrics on val or test may "
        f"be too high"
    ], notes


def identical_images(manifest: Manifest, row_keys: RowKeys) -> list[str]:
    """A line of init.log for each image that several rows have: the same file, or the same image with other metadata."""
    rows = np.flatnonzero(row_keys.present)
    _, picture = np.unique(_void(row_keys.pixels[rows]), return_inverse=True)
    _, file = np.unique(_void(row_keys.keys[rows]), return_inverse=True)
    order = np.argsort(picture, kind="stable")
    starts = np.flatnonzero(np.diff(picture[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    lines = []
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        at = order[start : start + size]
        what = "the same file" if len(np.unique(file[at])) == 1 else "the same image"
        lines.append(f"{what}: {', '.join(f'image of {str(sample)!r}' for sample in manifest.ids[rows[at]])}")
    return lines


def _void(digests: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(digests).view(f"V{digests.shape[1]}").ravel()


def _groups_in_two_splits(names: Sequence[str], split: np.ndarray) -> dict[str, list[str]]:
    """Groups of the source whose rows are in several splits, with these splits in order."""
    found: dict[str, set[str]] = {}
    for name, one in zip(names, split.tolist(), strict=bool(names)):
        if name:
            found.setdefault(name, set()).add(one)
    return {name: [one for one in SPLITS if one in splits] for name, splits in found.items() if len(splits) > 1}
