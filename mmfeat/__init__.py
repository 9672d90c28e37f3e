"""Tags for pictures that come with words.

Encoders look at every image and caption once; what they saw is kept in a feature store; fusion heads, ensembles of
logits and self-training rounds train on the cached arrays in seconds. `docs/architecture.md` shows how the rooms of the
package hang together; each command of the command line is a function of :mod:`mmfeat.workflows`.

The names below are imported when they are first used, so that `import mmfeat` is light.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "FeatureStore": "mmfeat.store",
    "FeatureTable": "mmfeat.store.feature_table",
    "FusionClassifier": "mmfeat.estimator",
    "Manifest": "mmfeat.data.manifest",
    "MmfeatError": "mmfeat.common.errors",
    "Predictor": "mmfeat.predictor",
    "Project": "mmfeat.project.project",
    "Run": "mmfeat.runs.run",
    "SelfTrainingFusionClassifier": "mmfeat.estimator",
    "fit_encoder": "mmfeat.encoders.finetuning.fit_encoder",
    "fit_head": "mmfeat.heads.training.fit_heads",
}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    """Import a public name from its room."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mmfeat' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
