"""Extraction: encodes samples and adds their features to the store."""

from mmfeat.extraction.counts import Extraction
from mmfeat.extraction.encode import distinct_rows, extract_encoder, in_shard, joined_shards, missing_rows
from mmfeat.extraction.encoding_loop import Session

__all__ = [
    "Extraction",
    "Session",
    "distinct_rows",
    "extract_encoder",
    "in_shard",
    "joined_shards",
    "missing_rows",
]
