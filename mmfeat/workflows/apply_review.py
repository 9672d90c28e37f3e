"""`mmfeat review --apply` and `--undo`: labels that a person gave are added to corrections.csv and the manifest."""

from mmfeat.project.applied_reviews import AppliedReview, apply_review, undo_review

__all__ = ["AppliedReview", "apply_review", "undo_review"]
