"""The content of run.json: its shape, consistency checks, and reordering of values by class."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmfeat.common.json_shapes import ANYTHING, Choice, Number, Several, Shape, misfit
from mmfeat.config.schema import HEADS
from mmfeat.metrics.decision_rule import DECISION

_COUNT = Number(int, low=0)
_MEGABYTES = Number(float, low=0)
_FIGURE = (float, None)
METRIC_NAMES: Shape = {
    **dict.fromkeys(("samples_f1", "micro_f1", "macro_f1", "map", "loss"), _FIGURE),
    "samples_f1_interval": Several(2, float),
    "n_classes_left_out": _COUNT,
    "?map_interval": Several(2, _FIGURE),
    "?at_half": dict.fromkeys(("samples_f1", "micro_f1", "macro_f1"), float),
    "?never_predicted": _COUNT,
}
BASELINE: Shape = {"settings": {str: ANYTHING}, "val": METRIC_NAMES, "seconds": float, "?note": str, "?encoder": str}
_ENCODER: Shape = {
    "key": str,
    "output_key": (str, None),
    "modality": str,
    "width": Number(int, low=1),
    "size_mb": (_MEGABYTES, None),
    "?tokens": _COUNT,
    "?token_shape": Several(2, Number(int, low=1)),
}
RUN: dict[str, Shape] = {
    "kind": Choice(("head", "ensemble", "selftrain")),
    "encoders": {str: _ENCODER},
    "classes": [str],
    "created": str,
    "fingerprint": str,
    "members": [{"name": str, "weight": (float, [float]), "fingerprint": (str, None)}],
    "heads": {str: _MEGABYTES},
    "head_mb": _MEGABYTES,
    "seconds": float,
    "figures": {"val": (METRIC_NAMES, None), "val_seeds": [METRIC_NAMES]},
    "decision": (DECISION, None),
    "metric": str,
    "config": {"predict": {str: ANYTHING}, "split": {"val": float, "test": float}},
    "?baselines": {str: BASELINE},
    "?note": str,
    "?former_names": [str],
    "?recipe": str,
    "?transductive": bool,
    "?folded": bool,
    "?taught": bool,
    "?folds": _COUNT,
    "?from": {"name": str, "fingerprint": str},
    "?fitted": {"method": str, "candidates": [str], "given": bool},
}
_OF_HEADS: dict[str, Shape] = {
    "head": Choice(HEADS),
    "head_config": {str: ANYTHING},
    "inputs": [str],
    "seeds": [int],
    "best_epochs": [_COUNT],
    "seed_seconds": [float],
}
_ROUND: Shape = {
    "number": _COUNT,
    "n_pseudo": _COUNT,
    "n_unknown": _COUNT,
    "n_yes": [_COUNT],
    "figures": METRIC_NAMES,
    "difference": (Several(3, float), None),
    "accepted": bool,
    "?changed": (_COUNT, None),
    "?agreement": _FIGURE,
    "?truth": _FIGURE,
    "?refitted": bool,
}
_BY_KIND: dict[str, dict[str, Shape]] = {
    "head": _OF_HEADS,
    "selftrain": {**_OF_HEADS, "rounds": [_ROUND], "best_round": _COUNT},
    "ensemble": {"prior": [float], "?bias": [float]},
}

_BY_CLASS = {  # names in run.json, at any depth, that have a value for each class
    "classes",
    "prior",
    "bias",
    "weight",
    "threshold",
    "n_positives",
    "class_f1",
    "class_precision",
    "class_recall",
    "class_ap",
    "class_accuracy",
    "n_yes",
}


def run_misfit(record: dict[str, Any]) -> str:
    """Describe the first invalid value of a run.json; empty if all are valid."""
    return misfit(record, RUN) or misfit(record, _BY_KIND[record["kind"]]) or _disagreement(record)


def _disagreement(record: dict[str, Any]) -> str:
    """Describe a value that does not match the number of classes or names an unlisted encoder; empty if there is none."""
    n, by_class = len(record["classes"]), {}
    if n == 0 or len(set(record["classes"])) < n:
        return "there are no classes, or a class is listed twice"
    for number, member in enumerate(record["members"]):
        by_class[f"members.{number}.weight"] = member["weight"]
    by_class |= {name: record[name] for name in ("prior", "bias") if name in record}
    by_class["decision.threshold"] = (record["decision"] or {}).get("threshold")
    for name, value in by_class.items():
        if isinstance(value, list) and len(value) != n:
            return f"{name} has {len(value)} values for {n} classes"
    if record["kind"] == "ensemble":
        return "" if record["members"] else "there are no members"
    if not record["inputs"] or not record["seeds"] or not set(record["inputs"]) <= set(record["encoders"]):
        return "there are no inputs or no seeds, or an input is not an encoder"
    return ""


def in_order(record: Any, at: np.ndarray) -> Any:
    """A record with its values by class in another order: position k gets the value of class `at[k]`."""

    def ordered(name: str, value: Any) -> Any:
        by_class = name in _BY_CLASS and isinstance(value, list) and len(value) == len(at)
        return [value[k] for k in at.tolist()] if by_class else in_order(value, at)

    if isinstance(record, dict):
        return {name: ordered(name, value) for name, value in record.items()}
    return [in_order(value, at) for value in record] if isinstance(record, list) else record
