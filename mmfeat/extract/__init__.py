"""From samples to the store."""

from mmfeat.extract.extract import Extraction, Session, extract_encoder, in_shard, missing_rows

__all__ = ["Extraction", "Session", "extract_encoder", "in_shard", "missing_rows"]
