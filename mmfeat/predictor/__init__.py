"""Exported models: the folder of a model, and the predictor that runs it. Independent of projects."""

from mmfeat.predictor.predictions import Prediction, Predictions
from mmfeat.predictor.predictor import Predictor

__all__ = ["Prediction", "Predictions", "Predictor"]
