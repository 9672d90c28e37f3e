"""Multi-label classification of images with captions.

Encoders process every image and caption once; the features are kept in a store. Fusion heads, ensembles and
self-training train on the cached features in seconds.

`init` makes a project, a :class:`Project` has the commands as methods, and `predict` uses an exported model. Each command
is also a function of :mod:`mmfeat.workflows`. The names below are imported at first use, so `import mmfeat` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmfeat.api.demo import demo
    from mmfeat.api.exported_model import predict
    from mmfeat.api.reproduce import reproduce
    from mmfeat.api.verbs import Project, init
    from mmfeat.common.errors import MmfeatError
    from mmfeat.data.manifest import Manifest
    from mmfeat.encoders.finetuning.fit_encoder import fit_encoder
    from mmfeat.estimator import FusionClassifier, SelfTrainingFusionClassifier
    from mmfeat.heads.training.fit_heads import fit_head
    from mmfeat.predictor import Predictor
    from mmfeat.runs.run import Run
    from mmfeat.store import FeatureStore
    from mmfeat.store.feature_table import FeatureTable

__version__ = "0.2.0"

_PUBLIC = {
    "FeatureStore": "mmfeat.store",
    "FeatureTable": "mmfeat.store.feature_table",
    "FusionClassifier": "mmfeat.estimator",
    "Manifest": "mmfeat.data.manifest",
    "MmfeatError": "mmfeat.common.errors",
    "Predictor": "mmfeat.predictor",
    "Project": "mmfeat.api.verbs",
    "Run": "mmfeat.runs.run",
    "SelfTrainingFusionClassifier": "mmfeat.estimator",
    "demo": "mmfeat.api.demo",
    "fit_encoder": "mmfeat.encoders.finetuning.fit_encoder",
    "fit_head": "mmfeat.heads.training.fit_heads",
    "init": "mmfeat.api.verbs",
    "predict": "mmfeat.api.exported_model",
    "reproduce": "mmfeat.api.reproduce",
}
__all__ = [
    "FeatureStore",
    "FeatureTable",
    "FusionClassifier",
    "Manifest",
    "MmfeatError",
    "Predictor",
    "Project",
    "Run",
    "SelfTrainingFusionClassifier",
    "__version__",
    "demo",
    "fit_encoder",
    "fit_head",
    "init",
    "predict",
    "reproduce",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mmfeat' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
