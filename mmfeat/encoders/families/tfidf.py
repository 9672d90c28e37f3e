"""TF-IDF: a text encoder of weighted term counts, with a vocabulary fitted by scikit-learn.

The embedding of a caption is `(1 + ln count) * idf` of the most frequent terms, scaled to length 1 (Salton & Buckley, 1988).
Vocabulary and idf are fitted only on the training captions, and saved in a checkpoint as JSON and a tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfeat.common.errors import EncoderError
from mmfeat.common.files import digest_json
from mmfeat.common.text import counted
from mmfeat.config.encoder_tables import TFIDF
from mmfeat.encoders.encoder import Encoder

_WORDS = {
    "lowercase": True,
    "token_pattern": r"(?u)\b\w\w+\b",
}  # scikit-learn's defaults, stated explicitly because keys depend on them
_SEEN_IN = 2  # lowest number of training captions that contain a term


class TfidfPreparation:
    """Counts a caption's terms. Thread-safe.

    Parameters
    ----------
    terms : sequence of str
        The vocabulary, in the order of the embedding's columns.
    ngrams : int
        Highest number of words of a term.
    """

    def __init__(self, terms: Sequence[str], ngrams: int) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        self.terms, self.ngrams = tuple(terms), ngrams
        self.most = len(self.terms)  # highest number of tokens of a caption, as for a text model
        self._numbers = {term: number for number, term in enumerate(self.terms)}
        self._analyse = CountVectorizer(**_WORDS, ngram_range=(1, ngrams)).build_analyzer()

    @property
    def examples(self) -> tuple[str, str]:
        """Two captions with different numbers of terms."""
        return " ".join(self.terms[:8]), self.terms[0]

    def prepare(self, sample: str) -> dict[int, int]:
        """Count the vocabulary's terms in a caption: column number to count."""
        numbers = (self._numbers.get(term) for term in self._analyse(sample))
        return dict(sorted(Counter(number for number in numbers if number is not None).items()))

    def collate(self, prepared: list[dict[int, int]]) -> dict[str, Tensor]:
        """Numbers of terms and their counts, `(B, L)` int64 each, under the names of all text encoders' inputs."""
        length = max(1, *map(len, prepared))
        numbers, counts = torch.zeros(2, len(prepared), length, dtype=torch.int64)
        for row, found in enumerate(prepared):
            numbers[row, : len(found)] = torch.tensor(list(found), dtype=torch.int64)
            counts[row, : len(found)] = torch.tensor(list(found.values()), dtype=torch.int64)
        return {"input_ids": numbers, "attention_mask": counts}

    def describe(self) -> dict[str, Any]:
        """Digest of the vocabulary, and the definition of a term, as JSON values."""
        return {"terms": digest_json(list(self.terms)), "n_terms": len(self.terms), "ngrams": self.ngrams, **_WORDS}


class TfidfEncoder(Encoder):
    """A vocabulary with a weight for each term. A caption without any of the terms has an embedding of zeros.

    Parameters
    ----------
    idf : Tensor
        `(D,)` float32.
    """

    kind, modality, architecture, precision, pooling = TFIDF, "text", TFIDF, "float32", "l2"

    def __init__(self, terms: Sequence[str], idf: Tensor, ngrams: int) -> None:
        super().__init__()
        self.preparation = TfidfPreparation(terms, ngrams)
        self.width = len(terms)
        self.register_buffer("idf", idf.float())

    @classmethod
    def fit(cls, captions: Sequence[str], width: int, ngrams: int) -> TfidfEncoder:
        """Fit the vocabulary (the most frequent terms) and the idf; the order of the captions does not matter.

        Raises
        ------
        EncoderError
            No term occurs in two captions.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(**_WORDS, ngram_range=(1, ngrams), min_df=_SEEN_IN, max_features=width)
        try:
            if len(captions) < _SEEN_IN:
                raise ValueError("too few")
            vectorizer.fit(captions)
        except ValueError:  # scikit-learn's, for a vocabulary that would be empty
            raise EncoderError(
                f"no word of two letters or more occurs in two of the {counted(len(captions), 'training caption')}, "
                f"so the vocabulary of {TFIDF} is empty"
            ) from None
        terms = vectorizer.get_feature_names_out().tolist()
        return cls(terms, torch.from_numpy(vectorizer.idf_.astype(np.float32)), ngrams).eval()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Embeddings `(B, D)`."""
        numbers, counts = batch["input_ids"], batch["attention_mask"].float()  # (B, L)
        weights = torch.where(counts > 0, 1 + counts.clamp(min=1).log(), 0) * self.idf[numbers]
        weights = weights / weights.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
        return weights.new_zeros(weights.shape[0], self.width).scatter_add(1, numbers, weights)

    def forward_tokens(self, batch: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Not supported: this kind has no setting `tokens`."""
        raise NotImplementedError

    def size_mb(self) -> float:
        """Megabytes (10^6 bytes) of weights and vocabulary."""
        return super().size_mb() + sum(len(term.encode()) for term in self.preparation.terms) / 1e6
