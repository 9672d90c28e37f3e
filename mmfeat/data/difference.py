"""Differences between two manifests: rows, their contents, and classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mmfeat.common.errors import DataError
from mmfeat.common.labels import has_label, label_names
from mmfeat.common.spelling import Spellings, normal_name
from mmfeat.data.manifest import Manifest

Labels = list[str] | None  # None: unlabelled
_Changed = dict[str, tuple[Labels, Labels]]
_BLOCK = 1 << 24  # labels compared together


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Differences between an older and a newer manifest; rows are named by their ids, in the order of their manifest.

    Attributes
    ----------
    new, gone : list of str
        Rows that only the newer, or only the older manifest has.
    images, captions : dict of str to (str, str)
        Rows whose image name or caption changed: (before, after).
    labels : dict of str to (list of str or None, list of str or None)
        Rows whose labels changed: (before, after); None is unlabelled. A negative of a class that the other manifest does
        not have is no change.
    new_classes, gone_classes : list of str
        Classes that only the newer, or only the older manifest has.
    reordered : bool
        Whether the same classes have another order.
    """

    new: list[str]
    gone: list[str]
    images: dict[str, tuple[str, str]]
    captions: dict[str, tuple[str, str]]
    labels: dict[str, tuple[Labels, Labels]]
    new_classes: list[str]
    gone_classes: list[str]
    reordered: bool

    @property
    def classes(self) -> bool:
        """Whether the set of classes changed. Order does not matter: outputs and runs find classes by name."""
        return bool(self.new_classes or self.gone_classes)

    @property
    def unencoded(self) -> int:
        """Rows whose image or caption may be missing in the store."""
        return len(self.new) + len(self.images.keys() | self.captions.keys())

    def lines(self) -> list[str]:
        """One line for each changed row and class; empty if nothing changed."""
        lines = [f"class {name!r}: new" for name in self.new_classes]
        lines += [f"class {name!r}: gone" for name in self.gone_classes]
        lines += ["classes: in another order"] if self.reordered else []
        lines += [f"row {sample!r}: new" for sample in self.new]
        lines += [f"row {sample!r}: gone" for sample in self.gone]
        for what, changed in (("image", self.images), ("caption", self.captions)):
            lines += [f"{what} of {sample!r}: {a!r}, now {b!r}" for sample, (a, b) in changed.items()]
        return lines + [f"labels of {s!r}: {_text_of(a)}, now {_text_of(b)}" for s, (a, b) in self.labels.items()]


def difference(before: Manifest, after: Manifest) -> Difference:
    """Differences of `after` to `before`. Rows are matched by id, classes by name; splits are not compared.

    Ids and names that look the same match even if their bytes differ (Unicode forms), unless that is ambiguous.
    """
    old = same_rows(before.ids, after.ids)
    now = set(old.tolist())
    fresh = after.ids[old < 0].tolist()
    kept = np.flatnonzero(old >= 0)
    ids, old = after.ids[kept].tolist(), old[kept]

    def changed(name: str) -> dict[str, tuple[str, str]]:
        a, b = getattr(before, name)[old], getattr(after, name)[kept]
        return {ids[i]: (a[i], b[i]) for i in np.flatnonzero(a != b).tolist()}

    names = _spelled_as(before.classes, after.classes)
    was, is_now = set(names), set(after.classes)
    return Difference(
        new=fresh,
        gone=[sample for row, sample in enumerate(before.ids.tolist()) if row not in now],
        images=changed("images"),
        captions=changed("captions"),
        labels=_labels(ids, before, old, after=after, kept=kept, names=names),
        new_classes=[name for name in after.classes if name not in was],
        gone_classes=[name for name in names if name not in is_now],
        reordered=names != after.classes and was == is_now,
    )


def same_rows(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """For each id of `after` its row in `before`, `(N,)` int64; -1 if it has none."""
    at = {sample: row for row, sample in enumerate(before.tolist())}
    rows = np.array([at.get(sample, -1) for sample in after.tolist()], dtype=np.int64)
    taken = set(rows.tolist())
    left = [sample for sample, row in at.items() if row not in taken]
    once = Counter(map(normal_name, left))
    alike = {normal_name(sample): at[sample] for sample in left if once[normal_name(sample)] == 1}
    new = np.flatnonzero(rows < 0).tolist()
    several = Counter(normal_name(after[row]) for row in new)
    for row in new:
        name = normal_name(after[row])
        rows[row] = alike.get(name, -1) if several[name] == 1 else -1
    return rows


def _spelled_as(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    """The old names, in the spelling of the new names that look the same."""
    known = Spellings(new)
    names = []
    for name in old:
        try:
            names.append(known.find(name) or name)
        except DataError:
            names.append(name)
    return tuple(names) if len(set(names)) == len(names) else old


def _labels(
    ids: list[str], before: Manifest, old: np.ndarray, *, after: Manifest, kept: np.ndarray, names: tuple[str, ...]
) -> _Changed:
    """Rows whose labels differ; compared in blocks, to avoid a copy of all labels.

    `names` are the old classes, spelled as the new ones.
    """
    was, now = ({name: k for k, name in enumerate(classes)} for classes in (names, after.classes))
    both = [name for name in was if name in now]
    a, b = np.array([was[name] for name in both], np.int64), np.array([now[name] for name in both], np.int64)
    gone = np.array([k for name, k in was.items() if name not in now], np.int64)
    new = np.array([k for name, k in now.items() if name not in was], np.int64)
    changed: _Changed = {}
    step = max(1, _BLOCK // max(1, len(was), len(now)))
    for start in range(0, len(ids), step):
        some = slice(start, start + step)
        x, y = before.labels[old[some]], after.labels[kept[some]]
        other = (x[:, a] != y[:, b]).any(1) | (has_label(x) != has_label(y))
        other |= (x[:, gone] == 1).any(1) | (y[:, new] == 1).any(1)
        rows = np.flatnonzero(other)
        pairs = zip(_names(x[rows], names), _names(y[rows], after.classes), strict=True)
        changed |= {ids[start + row]: pair for row, pair in zip(rows.tolist(), pairs, strict=True)}
    return changed


def _names(labels: np.ndarray, classes: tuple[str, ...]) -> list[Labels]:
    known = has_label(labels)
    return [names if k else None for names, k in zip(label_names(labels, classes), known, strict=True)]


def _text_of(labels: Labels) -> str:
    return "unlabelled" if labels is None else ", ".join(map(repr, labels)) or "nothing"
