"""Records of runs, and logits."""

from __future__ import annotations

import numpy as np

from mmfeat.runs.run import RunLogits

METRIC_NAMES = {
    "samples_f1": 0.5,
    "micro_f1": 0.5,
    "macro_f1": None,
    "map": None,
    "loss": 0.7,
    "samples_f1_interval": [0.4, 0.6],
    "n_classes_left_out": 2,
}

TEXT = {"key": "k", "output_key": None, "modality": "text", "width": 3, "size_mb": 2.5}

RECORD = {
    "kind": "ensemble",
    "encoders": {"text": TEXT},
    "classes": ["a", "b"],
    "fingerprint": "f",
    "head_mb": 0.5,
    "heads": {},
    "members": [{"name": "text", "weight": 1.0, "fingerprint": None}],
    "created": "2026-01-01T00:00:00Z",
    "seconds": 1.0,
    "figures": {"val": METRIC_NAMES, "val_seeds": []},
    "metric": "samples-f1",
    "prior": [0.0, 0.0],
    "decision": {"temperature": 1.0, "threshold": 0.5, "empty": "none"},
    "config": {"predict": {}, "split": {"val": 0.2, "test": 0}},
}

OF_HEADS = {
    "kind": "head",
    "members": [],
    "head": "linear",
    "head_config": {},
    "inputs": ["text"],
    "seeds": [0],
    "best_epochs": [1],
    "seed_seconds": [1.0],
}


def logits() -> RunLogits:
    ids = np.array(["1.jpg", "é\n"], dtype=object)
    return RunLogits(
        ids=ids,
        input_keys=np.arange(64, dtype=np.uint8).reshape(2, 32),
        known=np.array([True, False]),
        logits=np.float32([[1, 2], [3, 4]]),
        roles=np.uint8([1, 2]),
    )
