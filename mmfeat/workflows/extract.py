"""`mmfeat extract`: encode what is missing in the store, and only that; give logits to every stored embedding."""

from mmfeat.project.encoding import ExtractionOptions, ExtractResult, extract
from mmfeat.training.dry_run import PlannedExtraction, plan_extract

__all__ = ["ExtractResult", "ExtractionOptions", "PlannedExtraction", "extract", "plan_extract"]
