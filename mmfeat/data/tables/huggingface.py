"""Class names in the metadata that Hugging Face datasets write into Parquet files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_LISTS = ("Sequence", "List", "LargeList")  # features that are lists of another feature


def features_of(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The features in the metadata of a Parquet schema, by column; empty without metadata."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def class_names(features: dict[str, Any], steps: Sequence[str]) -> tuple[str, ...]:
    """The class names of a column of labels; empty for other columns.

    Parameters
    ----------
    steps : sequence of str
        The column and the fields within it: `("objects", "category")`.
    """
    feature: Any = features
    for at, step in enumerate(steps):
        feature = _element(feature) if at else feature
        feature = feature.get(step) if isinstance(feature, dict) else None
    feature = _element(feature)
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return ()
    names = feature.get("names")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _element(feature: Any) -> Any:
    """The element of a list feature, or the feature itself."""
    while True:
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        elif isinstance(feature, dict) and feature.get("_type") in _LISTS and "feature" in feature:
            feature = feature["feature"]
        else:
            return feature
