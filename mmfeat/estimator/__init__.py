"""FusionClassifier: the heads as a scikit-learn estimator, on arrays, without a project or a store."""

from mmfeat.estimator.classifier import FusionClassifier

__all__ = ["FusionClassifier"]
