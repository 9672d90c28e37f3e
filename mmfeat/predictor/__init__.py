"""A model that one can take away: its folder, the predictor that runs it, the server. Knows nothing of any project."""

from mmfeat.predictor.predictions import Prediction, Predictions
from mmfeat.predictor.predictor import Predictor

__all__ = ["Prediction", "Predictions", "Predictor"]
