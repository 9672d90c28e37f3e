"""Thresholds of near-duplicates, calibrated on the project's own data and remembered for each encoder key.

A few hundred pictures are re-encoded, resized, cropped and mirrored, and encoded again. A threshold is set so that almost all
of these copies pass; that of pixels lies between the copies and unrelated pictures. Captions are altered in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from mmfeat.audit.copy_search import PIXELS, SIMILAR
from mmfeat.audit.miniatures import turn_invariant
from mmfeat.audit.neighbours import neighbours
from mmfeat.audit.registration import pixel_similarity
from mmfeat.common.errors import MmfeatError
from mmfeat.common.randomness import id_numbers
from mmfeat.common.remembered import Remembered
from mmfeat.encoders.decoding import Decoding
from mmfeat.encoders.kinds import modality_kind
from mmfeat.encoders.resolve import Identity
from mmfeat.project.encoding import ExtractionOptions, open_session
from mmfeat.project.project import Project
from mmfeat.project.thumbnails import picture_statistics

VERSION = 2  # of the copies and the thresholds
SAMPLE = 250  # pictures or captions
_FEWEST = 20  # from which on a threshold is calibrated
_MISSED = 0.01  # share of the copies below an encoder's threshold
_UNRELATED = 0.995  # share of unrelated neighbours below the threshold of pixels, if the copies are far enough above
_TOWARDS_COPIES = (
    0.6  # where between the two the threshold of pixels lies: unrelated pairs are many more than the sample has
)
_BOUNDS = 0.55, 0.8  # of the threshold of pixels


class DuplicateThresholds:
    """Calibrates thresholds where they are not remembered. Copies are made once for all encoders.

    Parameters
    ----------
    project : Project
        Its pictures and captions are sampled by their ids.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self._memory = Remembered(project.memory / "duplicates.json")

    def of(self, names: Sequence[str], notes: list[str]) -> dict[str, float]:
        """Thresholds by encoder, and that of `pixels`; those that cannot be calibrated are left out.

        Parameters
        ----------
        notes : list of str
            The reasons are added, a line each.
        """
        found = {}
        for name in names:
            try:
                found[name] = self._of_encoder(name)
            except MmfeatError as error:
                notes.append(f"near-duplicates are not calibrated for encoder {name}: {error}")
        try:
            found[PIXELS] = self._memory.recall(PIXELS, VERSION) or self._remember(PIXELS, self._of_pixels())
        except MmfeatError as error:
            notes.append(f"near-duplicates are not calibrated for pixels: {error}")
        self._memory.save()
        return {name: value for name, value in found.items() if value is not None}

    def _remember(self, name: str, value: float | None) -> float | None:
        if value is not None:
            self._memory.remember(name, value, VERSION)
        return value

    def _of_encoder(self, name: str) -> float | None:
        identity = self.project.identity(name)
        kind = modality_kind(identity.spec.modality)
        if kind.settings.made_elsewhere:
            return None
        key = identity.spec.key
        return self._memory.recall(key, VERSION) or self._remember(key, self._calibrated(identity, kind.decoded))

    def _calibrated(self, identity: Identity, decoded: bool) -> float | None:
        """The cosine that all but 1 % of the copies have with their original."""
        from mmfeat.extraction.sample_copies import caption_variants, embeddings_of

        if decoded:
            samples = [(row, copy) for row, copies in self._copies.items() for copy in copies]
        else:
            captions = self.project.manifest.captions
            samples = [(r, text) for r in self._sampled("text") for text in caption_variants(captions[r]) if text]
        table = self.project.feature_table([identity.name], np.zeros(0, np.int64))
        present = table.present[identity.name]
        samples = [(row, sample) for row, sample in samples if present[row]]
        if len(samples) < _FEWEST:
            return None
        session = open_session(self.project, identity, self.project.reader(identity.name), ExtractionOptions())
        copies = embeddings_of(session, [sample for _, sample in samples], identity.name)
        originals = np.asarray(table.embeddings[identity.name][np.array([row for row, _ in samples])], np.float32)
        lengths = np.linalg.norm(copies, axis=1) * np.linalg.norm(originals, axis=1)
        cosines = (copies * originals).sum(1)[lengths > 0] / lengths[lengths > 0]
        return float(np.quantile(cosines, _MISSED)) if len(cosines) else None

    def _of_pixels(self) -> float | None:
        """A value between the similarities of unrelated neighbours and of copies, within bounds."""
        from mmfeat.extraction.thumbnail_making import thumbnail_of

        if len(self._copies) < _FEWEST:
            return None
        decoding, rows = Decoding.of(self.project.config), np.array(sorted(self._copies))
        originals = picture_statistics(self.project, rows).miniature[:]
        copies = [thumbnail_of(copy, decoding).miniature for row in rows.tolist() for copy in self._copies[row]]
        miniatures, n = np.concatenate([originals, copies]), len(rows)
        first = np.repeat(np.arange(n), len(copies) // n)
        alike = pixel_similarity(miniatures, first, n + np.arange(len(copies)))
        nearest = neighbours(turn_invariant(miniatures[:n]), min(6, n - 1)).rows
        unlike = pixel_similarity(miniatures, np.repeat(np.arange(n), nearest.shape[1]), nearest.ravel())
        low, high = float(np.quantile(unlike, _UNRELATED)), float(np.quantile(alike, _MISSED))
        return float(np.clip(low + _TOWARDS_COPIES * (high - low), *_BOUNDS)) if high > low else SIMILAR

    @functools.cached_property
    def _copies(self) -> dict[int, list[bytes]]:
        """Copies of the sampled pictures, by row."""
        from mmfeat.extraction.sample_copies import picture_copies

        rows = self._sampled("image")
        return picture_copies(rows, self.project.samples.image_reader(), Decoding.of(self.project.config))

    def _sampled(self, modality: str) -> np.ndarray:
        """Rows of distinct samples, drawn by their ids."""
        from mmfeat.extraction.encode import distinct_rows

        if modality == "image" and not self.project.manifest.images.any():
            return np.zeros(0, np.int64)
        found = self.project.row_keys(modality)
        rows = distinct_rows(found.keys, np.flatnonzero(found.present))
        return rows[np.argsort(id_numbers(self.project.manifest.ids[rows]), kind="stable")[:SAMPLE]]
