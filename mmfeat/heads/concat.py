"""The concat head (paper, P10, eq. 29-30): the linear head on two or more encoders."""

from __future__ import annotations

from mmfeat.heads.linear import LinearHead
from mmfeat.heads.registry import register_head


@register_head("concat")
class ConcatHead(LinearHead):
    """`logits = W [F_T; F_I] + b`."""

    minimum = 2
