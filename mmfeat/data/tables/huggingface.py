"""What Hugging Face datasets write beside a table: the class names of its labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_LISTS = ("Sequence", "List", "LargeList")  # features that hold several values of another


def features_of(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The features that a Parquet schema's metadata describe, by column; none where they say nothing."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def class_names(features: dict[str, Any], steps: Sequence[str]) -> tuple[str, ...]:
    """The names of a column's labels; none where it holds something else.

    Parameters
    ----------
    steps : sequence of str
        The column, and what lies in it: `("objects", "category")`.
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
    """What a list holds, or the feature itself."""
    while True:
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        elif isinstance(feature, dict) and feature.get("_type") in _LISTS and "feature" in feature:
            feature = feature["feature"]
        else:
            return feature
