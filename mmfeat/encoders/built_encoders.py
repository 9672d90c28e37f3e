"""A cache of built encoders, so that one command builds each encoder once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfeat.common.files import digest_json
from mmfeat.encoders import resolve
from mmfeat.encoders.decoding import Decoding

if TYPE_CHECKING:
    from mmfeat.config.schema import Config
    from mmfeat.encoders.checkpoint import Checkpoint

_FEWEST = 2  # encoders kept at least; otherwise as many as the project has, since each may need hundreds of megabytes


class BuiltEncoders:
    """Cache of the most recently built encoders.

    Callers share an encoder, so they must only encode with it. To train an encoder, build another one.
    """

    def __init__(self) -> None:
        # (digest of the settings, encoder key of the loaded checkpoint) to encoder
        self._kept: dict[tuple[str, str], Any] = {}

    def build(
        self, config: Config, name: str, checkpoints: Path, *, pretrained_only: bool = False
    ) -> tuple[Any, Checkpoint | None]:
        """An encoder and its checkpoint, as :func:`mmfeat.encoders.resolve.build_encoder` returns them."""
        settings = _digest(config, name)
        pretrained = self._kept.pop((settings, ""), None)  # a checkpoint's tensors may be loaded into it
        encoder, checkpoint = resolve.build_encoder(
            config,
            name,
            checkpoints,
            pretrained_only=pretrained_only,
            pretrained=None if pretrained is None else pretrained.cpu(),
        )
        self._kept[settings, _loaded(checkpoint)] = encoder
        for oldest in list(self._kept)[: -max(_FEWEST, len(config.encoder))]:
            del self._kept[oldest]
        return encoder, checkpoint

    def of(self, config: Config, identity: resolve.Identity, checkpoints: Path) -> Any:
        """The encoder of an identity, on the CPU."""
        checkpoint = resolve.checkpoint_of(config, identity, checkpoints)
        kept = self._kept.get((_digest(config, identity.name), _loaded(checkpoint)))
        if kept is None:
            bare = identity.checkpoint is None  # `finetune --freeze` ignores existing checkpoints
            kept, _ = self.build(config, identity.name, checkpoints, pretrained_only=bare)
        return kept.cpu().eval()


def _loaded(checkpoint: Checkpoint | None) -> str:
    """The encoder key of a checkpoint with fine-tuned tensors; empty for the pretrained encoder."""
    return checkpoint.encoder_key if checkpoint is not None and not checkpoint.frozen else ""


def _digest(config: Config, name: str) -> str:
    """Digest of the settings that determine an encoder without a checkpoint."""
    table = {key: value for key, value in dataclasses.asdict(config.encoder[name]).items() if key != "checkpoint"}
    return digest_json([table, str(config.root), config.file_seed, Decoding.of(config).record])
