"""Heads and self-training as scikit-learn estimators on arrays, without a project or a store."""

from mmfeat.estimator.classifier import FusionClassifier
from mmfeat.estimator.self_training_classifier import SelfTrainingFusionClassifier

__all__ = ["FusionClassifier", "SelfTrainingFusionClassifier"]
