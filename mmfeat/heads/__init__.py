"""Heads by name; one file for each family."""

from mmfeat.heads import concat, crossattn, gated, labelquery, linear, mlp, weighted  # noqa: F401 - they register themselves
from mmfeat.heads.registry import (
    HEADS,
    build_head,
    head_class,
    head_config,
    head_for,
    head_settings,
    register_head,
    takes,
)

__all__ = [
    "HEADS",
    "build_head",
    "head_class",
    "head_config",
    "head_for",
    "head_settings",
    "register_head",
    "takes",
]
