"""`mmfeat extract`: encode what is missing in the store, and only that; give logits to every stored embedding."""

from mmfeat.project.encoding import ExtractResult, Options, extract

__all__ = ["ExtractResult", "Options", "extract"]
