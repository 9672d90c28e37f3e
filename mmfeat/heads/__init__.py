"""Heads by name; one file for each family."""

from __future__ import annotations

from typing import Any

from mmfeat.config import FuseConfig
from mmfeat.errors import RunError
from mmfeat.heads.base import Head
from mmfeat.heads.crossattn import CrossAttentionHead
from mmfeat.heads.linear import LinearHead

HEADS: dict[str, type[Head]] = {"linear": LinearHead, "concat": LinearHead, "crossattn": CrossAttentionHead}


def head_config(name: str, fuse: FuseConfig) -> Any:
    """The settings of one head from `[fuse.NAME]`."""
    return getattr(fuse, name)


def head_settings(name: str, recorded: dict[str, Any]) -> Any:
    """The settings of one head as run.json and exported models keep them.

    Raises
    ------
    RunError
        No such head.
    TypeError
        They are not this head's.
    """
    if name not in HEADS:
        raise RunError(_no_head(name))
    return type(head_config(name, FuseConfig()))(**recorded)


def _no_head(name: str) -> str:
    return f"no head {name!r}. Use one of: {', '.join(HEADS)}"


def takes(name: str, n_inputs: int) -> bool:
    """Whether a head takes so many encoders: crossattn two, concat two or more, linear any."""
    return {"crossattn": n_inputs == 2, "concat": n_inputs >= 2}.get(name, True)


def head_for(n_inputs: int) -> str:
    """The head to begin with on so many encoders."""
    return next(name for name in ("crossattn", "concat", "linear") if takes(name, n_inputs))


def build_head(name: str, widths: dict[str, int], n_classes: int, config: Any) -> Head:
    """A head by name, with fresh weights from torch's random state.

    Raises
    ------
    RunError
        No such head, or one that does not take these inputs.
    """
    if name not in HEADS:
        raise RunError(_no_head(name))
    if name == "concat" and len(widths) < 2:
        raise RunError(f"concat joins two or more encoders, found {list(widths)}. Use: --head linear")
    return HEADS[name](widths, n_classes, config)
