"""From samples to the store."""

from mmfeat.extract.extract import Extraction, extract_encoder, missing_rows

__all__ = ["Extraction", "extract_encoder", "missing_rows"]
