"""`mmfeat init`: read and check a source, split it once, write mmfeat.toml and the manifest."""

from mmfeat.project.initialisation import InitResult, init

__all__ = ["InitResult", "init"]
