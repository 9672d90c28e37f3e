"""Extraction: encodes samples and adds their features to the store."""

from mmfeat.extraction.encode import (
    Extraction,
    Session,
    distinct_rows,
    extract_encoder,
    in_shard,
    joined_shards,
    missing_rows,
)

__all__ = [
    "Extraction",
    "Session",
    "distinct_rows",
    "extract_encoder",
    "in_shard",
    "joined_shards",
    "missing_rows",
]
