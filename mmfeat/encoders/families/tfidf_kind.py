"""The encoder kind `tfidf`: weighted term counts of captions, with a vocabulary fitted on the training captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.common.errors import EncoderError
from mmfeat.common.files import write_json
from mmfeat.common.json_shapes import Number
from mmfeat.common.text import counted
from mmfeat.config.encoder_tables import TFIDF, TfidfEncoderConfig
from mmfeat.encoders.checkpoint import Checkpoint
from mmfeat.encoders.description import Description
from mmfeat.encoders.families.text_kind import CaptionKind
from mmfeat.encoders.kinds import WEIGHTS, register_encoder_kind

if TYPE_CHECKING:
    from mmfeat.encoders.families.tfidf import TfidfEncoder, TfidfPreparation

TERMS = "terms.json"


@register_encoder_kind
class TfidfKind(CaptionKind):
    """Encoders by TF-IDF: a vocabulary with a weight for each term."""

    settings = TfidfEncoderConfig
    recognition_order = 10
    fits = "vocabulary"
    record_shape = {"ngrams": Number(int, low=1, high=3)}

    def recognises(self, model: str) -> bool:
        """The model `tfidf`."""
        return model == TFIDF

    def describe(self, table: TfidfEncoderConfig, folder: Path) -> Description:
        """The configured width; an unfitted vocabulary has no weights."""
        note = "fewer if the captions have fewer terms"
        return Description(TFIDF, self.modality, width=table.width, source="scikit-learn", note=note)

    def fit(self, table: TfidfEncoderConfig, samples: list[str]) -> TfidfEncoder:
        """The most frequent terms of the captions, with their idf."""
        from mmfeat.encoders.families.tfidf import TfidfEncoder

        return TfidfEncoder.fit(samples, table.width, table.ngrams)

    def restore(self, checkpoint: Checkpoint, table: TfidfEncoderConfig) -> TfidfEncoder:
        """The vocabulary and the weights of a checkpoint.

        Raises
        ------
        EncoderError
            The checkpoint's files are damaged.
        """
        from mmfeat.encoders.families.tfidf import TfidfEncoder

        tensors, terms = checkpoint.tensors(), checkpoint.record.get("terms")
        if not isinstance(terms, list) or list(tensors) != ["idf"] or tensors["idf"].shape != (len(terms),):
            raise EncoderError(
                f"{checkpoint.folder}: damaged: its weights do not match its terms. Remove the folder and run: mmfeat finetune"
            )
        return TfidfEncoder(terms, tensors["idf"], table.ngrams).eval()

    def fit_settings(self, table: TfidfEncoderConfig) -> dict[str, Any]:
        """The number of terms, and of words of a term."""
        return {"width": table.width, "ngrams": table.ngrams}

    def fit_record(self, encoder: TfidfEncoder) -> dict[str, Any]:
        """The vocabulary."""
        return {"terms": encoder.preparation.terms}

    def fitted_what(self, encoder: TfidfEncoder) -> str:
        """The number of terms."""
        return counted(encoder.width, "term")

    def save_preparation(self, encoder: TfidfEncoder, folder: Path) -> dict[str, Any]:
        """The vocabulary."""
        write_json(folder / TERMS, list(encoder.preparation.terms))
        ngrams = encoder.preparation.ngrams
        return {"modality": self.modality, "model": TFIDF, "width": encoder.width, "ngrams": ngrams}

    def load_preparation(self, record: dict[str, Any], folder: Path) -> TfidfPreparation:
        """The term counter with the folder's vocabulary."""
        from mmfeat.encoders.families.tfidf import TfidfPreparation

        return TfidfPreparation(json.loads((folder / TERMS).read_text(encoding="utf-8")), record["ngrams"])

    def load_encoder(self, name: str, record: dict[str, Any], folder: Path) -> TfidfEncoder:
        """The vocabulary and its weights."""
        from mmfeat.encoders.families.tfidf import TfidfEncoder
        from mmfeat.encoders.weights import read_state

        terms, idf = self.load_preparation(record, folder).terms, read_state(folder / WEIGHTS)["idf"]
        if idf.shape != (len(terms),):
            raise EncoderError(f"{folder}: {counted(len(terms), 'term')}, {counted(len(idf), 'weight')}")
        return TfidfEncoder(terms, idf, record["ngrams"]).eval()
